"""The four regimes of the sensitivity-entropy plane, and the follow-up's synthetic benchmark of them.

A: low S, low H (stable, confident); B: high S, high H (hedged); C: low S, high H (needlessly unsure); D: high S,
low H (confident although unstable, the failure mode). S = mean_k KL(p, q_k) and H in nats, unless stated otherwise.
"high" means strictly above the threshold, so the four regimes partition the items.
"""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import Mapping, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from ..extras import need
from ..inputs import expect
from ..metrics import SingleClassError, auroc
from ..predictions import Predictions
from ..scores import entropy, sensitivity, sua

REGIMES = ("A", "B", "C", "D")
LABEL_RULES = ("sensitivity", "model", "orbit")
SAMPLES = 10  # answers per item for self-consistency
STEEPNESS = {"A": 3.0, "B": 3.5, "C": 3.0, "D": 10.0}
MEAN_ERROR = {"A": 0.10, "B": 0.30, "C": 0.10, "D": 0.55}


class Thresholds(NamedTuple):
    """Values of S and H (nats) above which they count as high."""

    sensitivity: float
    entropy: float


def regime_thresholds(predictions: Predictions, sensitivity_quantile: float = 0.5,
                      entropy_quantile: float = 0.5) -> Thresholds:
    """Quantiles of S and H over these items; the medians are the paper's. Take calibration items to score others.

    ValueError for a quantile outside [0, 1], or predictions without variants.
    """
    for name, q in (("sensitivity_quantile", sensitivity_quantile), ("entropy_quantile", entropy_quantile)):
        expect(isinstance(q, Real) and 0 <= q <= 1, lambda: f"{name} = {q!r}: give a share in [0, 1]")
    return Thresholds(float(np.quantile(sensitivity(predictions), sensitivity_quantile)),
                      float(np.quantile(entropy(predictions.probs), entropy_quantile)))


def regime(predictions: Predictions, thresholds: Thresholds | None = None) -> np.ndarray:
    """(N,) regime "A".."D" of every item, by thresholds on S and H (default: the medians of these very items).

    With medians half of the items are of low H whatever the model, and the share of D equals that of C (ties and
    odd N aside): it is (1 - r) / 4, r = the quadrant correlation of S and H, so it tells how they are associated and
    not how large either is. To compare models use one pair of thresholds for all, or `absolute_d`.
    ValueError unless the thresholds are two finite numbers.
    """
    thresholds = regime_thresholds(predictions) if thresholds is None else thresholds
    expect(np.shape(thresholds) == (2,) and all(isinstance(value, Real) and np.isfinite(value) for value in thresholds),
           f"thresholds = {thresholds}: give two finite numbers, of S and of H in nats, as regime_thresholds does")
    high_s, high_h = sensitivity(predictions) > thresholds[0], entropy(predictions.probs) > thresholds[1]
    return np.where(high_s, np.where(high_h, "B", "D"), np.where(high_h, "C", "A"))


def strict_d(predictions: Predictions) -> np.ndarray:
    """(N,) bool: S above its 75th and H below its 25th percentile over these items (the paper's strict D).

    At most a quarter of the items (rounded up) and, like medians, blind to how large S is: to compare models use
    `absolute_d`.
    """
    s_high, h_low = regime_thresholds(predictions, 0.75, 0.25)
    return (sensitivity(predictions) > s_high) & (entropy(predictions.probs) < h_low)


def absolute_d(predictions: Predictions) -> np.ndarray:
    """(N,) bool: S_TV > 1/2 and S_TV > H / ln 2, the definition of D whose share can be compared between models.

    S_TV = mean_k TV(p, q_k). High S: more than half of the probability mass moves. Low H: fewer bits than the mass
    that moves (so never one bit or more), the line on which a calibrated model under meaning-preserving, exchangeable
    variants must stay on average, E S_TV <= E H / ln 2 (alignment theorem, `theory.py`); a single item may cross it,
    so the share describes a model and does not convict it. No quantile enters: membership depends on the item alone,
    hence the share is 0 for a stable model and up to 1 for an unstable one, and as a mean over variants S_TV does not
    grow with K.
    """
    s = sensitivity(predictions, "tv")
    return (s > 0.5) & (s > entropy(predictions.probs) / np.log(2))


def regime_table(predictions: Predictions, regimes: ArrayLike | None = None,
                 scores: Mapping[str, np.ndarray] | None = None) -> "pandas.DataFrame":
    """What happens within each regime: one row for each of A-D and one for all items.

    regimes : (N,) of "A".."D"; default regime(predictions).
    scores : {name: (N,) values, higher = more likely wrong}; default H, S and SUA (lambda = 1).
    Columns: n, share, error_rate, mean_sensitivity, mean_entropy (nats), auroc_<score> within the regime, note. Where
    a number does not exist (no items, no error, nothing but errors) it is NaN and `note` says why.
    ValueError for predictions without labels or variants, and for regimes or scores of another length.
    """
    pandas = need("pandas")
    s, h, wrong = sensitivity(predictions), entropy(predictions.probs), predictions.is_error
    regimes = regime(predictions) if regimes is None else np.asarray(regimes)
    scores = {"entropy": h, "sensitivity": s, "sua": sua(predictions)} if scores is None else scores
    for name, values in {"regimes": regimes, **scores}.items():
        expect(np.shape(values) == (len(predictions),), f"{name} has shape {np.shape(values)}, expected "
               f"({len(predictions)},): one entry per item")
    for name, values in scores.items():
        expect(not np.isnan(values).any(), f"{name} holds NaN: a score must order every item")
    unknown = np.setdiff1d(regimes, REGIMES)
    expect(not len(unknown), lambda: f"regimes holds {str(unknown[0])!r}: use {', '.join(REGIMES)}")
    rows = {}
    for name in (*REGIMES, "all"):
        inside = (regimes == name) | (name == "all")
        n, errors = int(inside.sum()), int(wrong[inside].sum())
        rows[name] = {"n": n, "share": n / len(predictions)}
        if n:
            rows[name] |= {"error_rate": errors / n, "mean_sensitivity": s[inside].mean(),
                           "mean_entropy": h[inside].mean()}
        try:
            rows[name] |= {f"auroc_{score}": auroc(wrong[inside], np.asarray(values)[inside]) if n else np.nan
                           for score, values in scores.items()}
            rows[name]["note"] = "" if n else "no items"
        except SingleClassError:
            rows[name]["note"] = f"AUROC n/a: {errors or 'no'} of {n} items are errors"
    columns = ["n", "share", "error_rate", "mean_sensitivity", "mean_entropy", *(f"auroc_{x}" for x in scores), "note"]
    return pandas.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("regime")


def validity(predictions: Predictions) -> dict[str, float | str]:
    """The follow-up's filter: it distrusts perturbations where mean(S/H) > 1. Three ways to take that mean.

    "mean_ratio" = mean(S/H), theirs; "ratio_of_means" = mean S / mean H; "median_ratio" = median(S/H); "note" says
    how far mean_ratio rests on the items of least entropy. S/H grows without bound as H -> 0, however small S is, so
    that mean_ratio rises with the model's confidence and is inf if H = 0 < S for a single item; the other two do not.
    None of them shows that meaning is kept: only labels of the variants do. Where S = H = 0 the ratio counts as 0.
    """
    s, h = sensitivity(predictions), np.abs(entropy(predictions.probs))  # abs: the -0.0 of a certain p has a sign
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(s > 0, s / h, 0.0)
        of_means = float(s.mean() / h.mean()) if s.any() else 0.0
    few = -(-len(h) // 100)  # one in a hundred, at least one
    least = np.argsort(h, kind="stable")[:few]
    note = "mean(S/H) explodes as H -> 0"
    if np.isfinite(ratio).all() and s.any():
        note += f": the {few} of {len(h)} items of least entropy make {ratio[least].sum() / ratio.sum():.0%} of it"
    elif s.any():
        note += f": H = 0 < S for {int(np.isinf(ratio).sum())} of {len(h)} items"
    return {"mean_ratio": float(ratio.mean()), "ratio_of_means": of_means, "median_ratio": float(np.median(ratio)),
            "note": note}


def synthetic_benchmark(n: int = 2400, k: int = 8, seed: int = 0, labels: str = "sensitivity"
                        ) -> tuple[Predictions, np.ndarray]:
    """The follow-up's four synthetic regimes (C = 3), with labels by its rule or by one in which p means something.

    Returns Predictions (with `label_dist`, the probabilities the labels are drawn from, and 10 `samples` from p) and
    the (n,) regime "A".."D" that made each item: A, B, C, D, A, ... Same seed, same p and q_k for every rule.

    p : A and D peaked, top mass U(.82, .96); B and C Dirichlet(3).
    q_k : A and C Dirichlet(50 p + .5); B Dirichlet(.4), whatever p is; in D another class gets U(.75, .95).
    labels : "sensitivity", the follow-up's: the answer is wrong with probability min(1, c sigmoid(t (S~ - .5))), S~ = S
        scaled to [0, 1] within the regime, steepness t = 3, 3.5, 3, 10 and c such that its mean is .10, .30, .10, .55
        before the minimum is taken (which leaves about .53 in D). Errors depend on S alone.
        "model": drawn from p. "orbit": drawn from the mean of p and its q_k.
    Not documented, so chosen here among natural ways for coming near the printed AUROCs: the rest of a peaked p
    is split uniformly, that of a q_k evenly; D draws the other class anew for every variant; S~ is scaled per regime; c
    sigmoid is cut at 1. A wrong answer's label is uniform over the other classes.
    The "self-consistency" printed for that benchmark is .500 in A and D, as only a constant score gives: it behaves as
    the score `disagreement` of the variants. Self-consistency proper needs samples at x and follows p.

    ValueError unless n is a positive multiple of 4, at least 8, and k >= 1; for an unknown rule.
    """
    expect(isinstance(n, Integral) and n >= 8 and n % 4 == 0, f"n = {n}: give a multiple of 4, at least 8, for regimes "
           "of equal size")
    expect(isinstance(k, Integral) and k >= 1, f"k = {k}: draw at least one variant per item")
    expect(labels in LABEL_RULES, f"unknown label rule {labels!r}: use one of {', '.join(LABEL_RULES)}")
    rng = np.random.default_rng(seed)
    regimes = np.resize(REGIMES, n)
    top = rng.integers(3, size=n)
    peaked = _peaked(top, rng.uniform(0.82, 0.96, n), rng.random(n))
    p = np.where(np.isin(regimes, ["A", "D"])[:, None], peaked, rng.dirichlet([3, 3, 3], n))

    near = rng.standard_gamma(np.repeat(50 * p[:, None] + 0.5, k, axis=1))  # normalised: Dirichlet(50 p + .5)
    other = (top[:, None] + rng.integers(1, 3, (n, k))) % 3
    q = np.select([(regimes == "B")[:, None, None], (regimes == "D")[:, None, None]],
                  [rng.dirichlet([0.4, 0.4, 0.4], (n, k)), _peaked(other, rng.uniform(0.75, 0.95, (n, k)), 0.5)],
                  near / near.sum(-1, keepdims=True))

    sample_seed, label_seed = (int(s) for s in rng.integers(2**32, size=2))  # the same for every rule
    facts = {"task": "synthetic regimes", "labels": labels, "k": k, "seed": seed}
    made = Predictions(probs=p, perturbed=q, meta=facts).sample(SAMPLES, sample_seed)
    if labels == "sensitivity":
        error = _error_probability(sensitivity(made), regimes)[:, None]
        chances = np.where(np.arange(3) == made.answers[:, None], 1 - error, error / 2)
    else:
        chances = p if labels == "model" else made.orbit.mean(1)
    drawn = Predictions(probs=chances).sample(1, label_seed).samples[:, 0]
    return replace(made, labels=drawn, label_dist=chances), regimes


def _peaked(top, mass, split):
    """Distributions (..., 3) with `mass` on class `top`, the rest shared between the next two as split : 1 - split."""
    rolled = np.stack([mass, (1 - mass) * split, (1 - mass) * (1 - split)], axis=-1)
    return np.take_along_axis(rolled, (np.arange(3) - top[..., None]) % 3, axis=-1)


def _error_probability(s, regimes):
    error = np.empty(len(s))
    for name in REGIMES:
        inside = regimes == name
        scaled = (s[inside] - s[inside].min()) / np.ptp(s[inside])
        rate = expit(STEEPNESS[name] * (scaled - 0.5))
        error[inside] = np.minimum(rate * MEAN_ERROR[name] / rate.mean(), 1)
    return error
