"""Scores: pure functions of Predictions that rank items for failure prediction.

Orientation everywhere: **higher = more likely wrong** (abstain first). Entropies and divergences in nats.
Notation: p = p(.|x), q_k = p(.|x'_k) for the K variants x'_k of x, H = entropy, answer = argmax p; p_z = p(.|x + z)
for the Z clarifications of x, of weight w_z, pbar = sum_z w_z p_z.
"""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass
from typing import Callable

import numpy as np

from . import fitted
from .metrics import FLOOR, auroc
from .predict import Predictions, expect
from .repaired import sua_repaired


def entropy(p) -> np.ndarray:
    """Shannon entropy -sum p ln p over the last axis, nats, in [0, ln C]; 0 ln 0 = 0."""
    p = np.asarray(p, dtype=np.float64)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1)


def _kl(p, q):
    return np.maximum((p * (np.log(np.maximum(p, FLOOR)) - np.log(np.maximum(q, FLOOR)))).sum(-1), 0)


DIVERGENCES: dict[str, Callable] = {
    "kl": _kl,
    "reverse_kl": lambda p, q: _kl(q, p),
    "js": lambda p, q: np.maximum(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2, 0),
    "tv": lambda p, q: np.abs(p - q).sum(-1) / 2,
}


def divergence_named(name: str) -> Callable:
    """The function D(p, q) -> divergence over the last axis (leading axes broadcast) of that name.

    "kl" = KL(p||q), "reverse_kl" = KL(q||p), "js" = Jensen-Shannon (nats, <= ln 2), "tv" = total variation (<= 1).
    ValueError for any other name.
    """
    if name not in DIVERGENCES:
        raise ValueError(unknown_name("divergence", name, DIVERGENCES))
    return DIVERGENCES[name]


def sensitivity(predictions: Predictions, divergence: str = "kl") -> np.ndarray:
    """S(x) = mean_k D(p, q_k): how far the output moves under perturbation (paper, section 3)."""
    return divergence_named(divergence)(predictions.probs[:, None], predictions.require("perturbed")).mean(-1)


def sua(predictions: Predictions, lam: float = 1.0, divergence: str = "kl") -> np.ndarray:
    """SUA = S - lam * H (paper, section 3). lam < 0 adds the entropy instead of subtracting it."""
    return sensitivity(predictions, divergence) - lam * entropy(predictions.probs)


def sua_positive(predictions: Predictions, lam: float = 1.0, divergence: str = "kl") -> np.ndarray:
    """max(S - lam * H, 0): the quantity that SUA-TR minimises on average."""
    return np.maximum(sua(predictions, lam, divergence), 0)


def sua_calibrated(predictions: Predictions, calibration: Predictions, divergence: str = "kl") -> np.ndarray:
    """SUA with the lam >= 0 of highest failure AUROC on labelled calibration predictions."""
    return sua(predictions, choose_lambda(calibration, LAMBDAS, divergence), divergence)


def sua_signed(predictions: Predictions, calibration: Predictions, divergence: str = "kl") -> np.ndarray:
    """SUA with the lam of either sign of highest failure AUROC on labelled calibration predictions."""
    return sua(predictions, choose_lambda(calibration, SIGNED_LAMBDAS, divergence), divergence)


LAMBDAS = np.concatenate([[0], np.geomspace(1 / 16, 16, 33)])
SIGNED_LAMBDAS = np.concatenate([-LAMBDAS[:0:-1], LAMBDAS])


def choose_lambda(calibration: Predictions, grid=LAMBDAS, divergence: str = "kl") -> float:
    """The value of `grid` for which S - lam * H has the highest failure AUROC on `calibration`.

    Of equally good values the one nearest to 0 wins. Raises SingleClassError if `calibration` has no error, or
    nothing but errors. Use data that will not be scored: chosen in-sample, lambda gains AUROC even on noise.
    """
    s, h = sensitivity(calibration, divergence), entropy(calibration.probs)
    order = sorted((float(lam) for lam in grid), key=abs)
    return max(order, key=lambda lam: auroc(calibration.is_error, s - lam * h))


def msp(predictions: Predictions) -> np.ndarray:
    """1 - max p, the complement of the maximum softmax probability."""
    return 1 - predictions.probs.max(-1)


def margin(predictions: Predictions) -> np.ndarray:
    """p_(2) - p_(1): minus the gap between the two most probable classes."""
    top = np.partition(predictions.probs, -2, axis=-1)
    return top[:, -2] - top[:, -1]


def energy(predictions: Predictions) -> np.ndarray:
    """-logsumexp(logits) at temperature 1: reads their absolute level, which softmax throws away."""
    return -np.logaddexp.reduce(predictions.require("logits"), axis=-1)


def msp_scaled(predictions: Predictions, calibration: Predictions) -> np.ndarray:
    """1 - max p at the temperature of lowest NLL on calibration. With two classes it ranks as `msp` does."""
    return msp(fitted.scaled(predictions, fitted.temperature(calibration)))


def entropy_scaled(predictions: Predictions, calibration: Predictions) -> np.ndarray:
    """H at the temperature of lowest NLL on calibration. With two classes it ranks as `entropy` does."""
    return entropy(fitted.scaled(predictions, fitted.temperature(calibration)).probs)


def fused(predictions: Predictions, calibration: Predictions, divergence: str = "kl") -> np.ndarray:
    """S + mu H with the mu of either sign that a linear discriminant of errors finds on calibration.

    Optimal among S - lambda H where (S, H) is binormal: mu = -lambda* of `lambda_diagnosis` (Theorem 14). Becomes
    -S + mu H where errors have lower S, given H, on calibration.
    """
    fit = fitted.discriminant(_plane(calibration, divergence), calibration.is_error)
    return fit(_plane(predictions, divergence))


def logistic(predictions: Predictions, calibration: Predictions, divergence: str = "kl") -> np.ndarray:
    """P(error | S, H) by logistic regression on calibration."""
    fit = fitted.logistic(_plane(calibration, divergence), calibration.is_error)
    return fit(_plane(predictions, divergence))


def _plane(predictions, divergence):
    return np.stack([sensitivity(predictions, divergence), entropy(predictions.probs)], axis=-1)


def mahalanobis(predictions: Predictions, calibration: Predictions) -> np.ndarray:
    """Squared distance of the features to the nearest class mean; class means, shared covariance from calibration."""
    fit = fitted.mahalanobis(calibration.require("features"), calibration.require("labels"))
    return fit(predictions.require("features"))


def relative_mahalanobis(predictions: Predictions, calibration: Predictions) -> np.ndarray:
    """`mahalanobis` minus the distance to one Gaussian that is fitted to all classes together.

    It looks for inputs unlike all others. Where the surest answers have the features furthest out, as with a head that
    is linear in them, it ranks failures worse than chance.
    """
    everything = fitted.mahalanobis(calibration.require("features"), np.zeros(len(calibration)))
    return mahalanobis(predictions, calibration) - everything(predictions.require("features"))


def alarm(predictions: Predictions) -> np.ndarray:
    """mean_k max(TV(p, q_k) - max(a, a_k), 0) with a = 1 - max p, a_k = 1 - max q_k.

    Positive only where an answer flips, and then x or that variant is answered wrong if they mean the same. Half of
    the mean over exchangeable pairs is a lower bound on the error rate (Theorem 6).
    """
    shift = DIVERGENCES["tv"](predictions.probs[:, None], predictions.require("perturbed"))
    doubt = np.maximum(1 - predictions.probs.max(-1, keepdims=True), 1 - predictions.perturbed.max(-1))
    return np.maximum(shift - doubt, 0).mean(-1)


def orbit_entropy(predictions: Predictions) -> np.ndarray:
    """H of the mean of p and the q_k. Equals mean entropy plus generalised JS sensitivity: lambda = -1 exactly."""
    return entropy(predictions.orbit.mean(1))


def orbit_msp(predictions: Predictions) -> np.ndarray:
    """1 - the mean over x and its variants of the probability of the answer to x."""
    return 1 - _of_answer(predictions, predictions.orbit).mean(-1)


def spuq(predictions: Predictions) -> np.ndarray:
    """1 - mean_k q_k(answer): SPUQ's inter-sample confidence for class distributions.

    SPUQ compares the answer to x with an answer sampled at each x'_k. Here two answers are similar (1) if they are the
    same class, else 0, the mean over sampling is exact, and every variant weighs the same (SPUQ may weigh them by
    their textual similarity to x). `orbit_msp` without x itself. With the most probable answer of each x'_k in the
    place of a sample it would be `disagreement`; with the similarity sum_y min(p, q_k), `sensitivity_tv`.
    """
    return 1 - _of_answer(predictions, predictions.require("perturbed")).mean(-1)


def _of_answer(predictions, distributions):
    return np.take_along_axis(distributions, predictions.answers[:, None, None], axis=-1)[..., 0]


def disagreement(predictions: Predictions) -> np.ndarray:
    """Share of the K variants whose answer differs from the answer to x (flip rate)."""
    return (predictions.perturbed_answers != predictions.answers[:, None]).mean(-1)


def mutual_information(distributions, weights=None) -> np.ndarray:
    """H(mean) - mean H over axis -2 of (..., M, C), nats, in [0, ln min(M, C)]; `weights` (..., M) sum to 1.

    What the choice among the M distributions tells about the answer: BALD of an ensemble, I(Y; Z) of clarifications.
    """
    weights = np.full(distributions.shape[-2], 1 / distributions.shape[-2]) if weights is None else weights
    mean = (weights[..., None] * distributions).sum(-2)
    return np.maximum(entropy(mean) - (weights * entropy(distributions)).sum(-1), 0)


def self_consistency(predictions: Predictions) -> np.ndarray:
    """1 - max_y freq(y) over the M answers sampled at the same x. Fill `samples` with Predictions.sample(m)."""
    samples = predictions.require("samples")
    counts = (samples[:, :, None] == np.arange(predictions.probs.shape[1])).sum(1)
    return 1 - counts.max(-1) / samples.shape[1]


def _ensemble(predictions):
    return np.concatenate([predictions.probs[:, None], predictions.require("members")], axis=1)


def _weights(predictions):
    clarified = predictions.require("clarified")
    return np.full(clarified.shape[:2], 1 / clarified.shape[1]) if predictions.weights is None else predictions.weights


def _pbar(predictions):
    return (_weights(predictions)[..., None] * predictions.clarified).sum(1)


def clarification_sua(predictions: Predictions) -> np.ndarray:
    """sum_z w_z KL(p_z || p) - H(p): SUA with clarifications for a kernel. Positive proves incoherence, p != pbar.

    The first term is I(Y; Z) + KL(pbar || p): legitimate ambiguity and the collapse index (Theorem 11).
    """
    shift = DIVERGENCES["kl"](predictions.require("clarified"), predictions.probs[:, None])
    return (_weights(predictions) * shift).sum(-1) - entropy(predictions.probs)


def collapse_index(predictions: Predictions, w_min: float | None = None) -> np.ndarray:
    """KL(pbar || p): 0 where the model answers x as it answers the clarifications, mixed by their weights.

    w_min : take no weights as given, only that each is >= w_min, and return the least index over all such weights, a
    lower bound on the true one (Theorem 11d). The search returns its dual bound, which never exceeds that minimum and
    falls short of it by 1e-12 nats at most, rounding aside. ValueError unless 0 <= w_min <= 1/Z.
    """
    if w_min is None:
        return _kl(_pbar(predictions), predictions.probs)
    z = predictions.require("clarified").shape[1]
    expect(0 <= w_min <= 1 / z, f"w_min = {w_min}: the least of {z} weights is in [0, 1/{z}]; give a number there")
    # weights >= w_min on the p_z are free weights on these mixtures
    mixtures = w_min * predictions.clarified.sum(1, keepdims=True) + max(1 - z * w_min, 0) * predictions.clarified
    return _least_kl(mixtures, predictions.probs)


def _least_kl(p, q, tolerance=1e-12, steps=100):
    """(N,) min over weights v on the simplex of KL(sum_z v_z p_z || q), from below; p (N, Z, C), q (N, C).

    Primal-dual interior point on every row at once (Wright, Primal-Dual Interior-Point Methods, SIAM 1997). By
    convexity min_z sum_y p_z ln(mix / q) is a lower bound at every v.
    """
    log_q = np.log(np.maximum(q, FLOOR))
    rows, bound = np.arange(len(p)), np.zeros(len(p))
    v, slack = np.full(p.shape[:2], 1 / p.shape[1]), np.ones(p.shape[:2])
    for _ in range(steps):
        mix = np.maximum((v[..., None] * p).sum(1), np.finfo(float).tiny)
        gradient = (p * (np.log(mix) - log_q)[:, None]).sum(-1)
        bound[rows] = np.maximum(bound[rows], gradient.min(1))
        unfinished = (v * gradient).sum(1) - gradient.min(1) > tolerance
        if not unfinished.any():
            break
        rows, p, log_q, v, slack, mix, gradient = (
            a[unfinished] for a in (rows, p, log_q, v, slack, mix, gradient))
        pull = slack / v
        target = (v * slack).mean(1, keepdims=True) / 10 / v
        # components that agree leave the Hessian singular where none of them is at the border: hence the last term
        hessian = (p / mix[:, None]) @ p.swapaxes(1, 2) + (pull[..., None] + 1e-10) * np.eye(v.shape[1])
        free, level = np.moveaxis(
            np.linalg.solve(hessian, np.stack([target - gradient, np.ones_like(v)], -1)), -1, 0)
        move = free - level * (free.sum(1) / level.sum(1))[:, None]
        v = _inside(v, move)
        v /= v.sum(1, keepdims=True)
        slack = _inside(slack, target - slack - pull * move)
    return bound


def _inside(x, move):
    """x + move, shortened per row so that no entry of x loses more than 95 % of itself."""
    return x + move / np.maximum((-move / x).max(1, keepdims=True) / 0.95, 1)


@dataclass(frozen=True)
class Score:
    """One entry of the registry. `passes`: forward passes per item; `needs`: the fields and arguments it reads."""

    function: Callable[..., np.ndarray]
    formula: str
    source: str
    range: str
    passes: str = "1"
    needs: tuple[str, ...] = ("probs",)
    defaults: tuple[tuple[str, object], ...] = ()


_ORBIT = ("probs", "perturbed")
_FIT = ("probs", "calibration")
_SUA = "S - lambda H"
_PAPER = "arXiv 2604.20903, section 3"
_OURS = "this companion"
_BALD = "Houlsby et al., 2011"
_REAL = "(-inf, inf)"

SCORES: dict[str, Score] = {
    # one pass over x
    "msp": Score(msp, "1 - max p", "Hendrycks & Gimpel, ICLR 2017", "[0, 1 - 1/C]"),
    "margin": Score(margin, "p_(2) - p_(1)", "Scheffer et al., IDA 2001", "[-1, 0]"),
    "entropy": Score(lambda predictions: entropy(predictions.probs), "H = -sum p ln p", "Shannon 1948", "[0, ln C]"),
    "neg_entropy": Score(lambda predictions: -entropy(predictions.probs), "-H", "ablation of SUA", "[-ln C, 0]"),
    "energy": Score(energy, "-ln sum exp(logits)", "Liu et al., NeurIPS 2020", _REAL, needs=("logits",)),
    "self_consistency": Score(self_consistency, "1 - max_y freq(y) over M samples at x", "Wang et al., ICLR 2023",
                              "[0, 1 - 1/M]", "1 (M samples)", ("probs", "samples")),
    # x and its K variants
    "sensitivity": Score(sensitivity, "S = mean_k KL(p, q_k)", _PAPER, "[0, inf)", "K + 1", _ORBIT),
    "sensitivity_reverse_kl": Score(sensitivity, "mean_k KL(q_k, p)", _PAPER, "[0, inf)", "K + 1", _ORBIT,
                                    (("divergence", "reverse_kl"),)),
    "sensitivity_js": Score(sensitivity, "mean_k JS(p, q_k)", _PAPER, "[0, ln 2]", "K + 1", _ORBIT,
                            (("divergence", "js"),)),
    "sensitivity_tv": Score(sensitivity, "mean_k TV(p, q_k)", _PAPER, "[0, 1]", "K + 1", _ORBIT,
                            (("divergence", "tv"),)),
    "sua": Score(sua, f"{_SUA}, lambda = 1", _PAPER, "[-ln C, inf)", "K + 1", _ORBIT),
    "sua_positive": Score(sua_positive, f"max({_SUA}, 0), lambda = 1", _PAPER, "[0, inf)", "K + 1", _ORBIT),
    "alarm": Score(alarm, "mean_k max(TV(p, q_k) - max(1 - max p, 1 - max q_k), 0)", f"{_OURS} (Theorem 6)", "[0, 1]",
                   "K + 1", _ORBIT),
    "orbit_entropy": Score(orbit_entropy, "H(mean of p and q_k)", "after Ayhan & Berens, MIDL 2018", "[0, ln C]",
                           "K + 1", _ORBIT),
    "orbit_msp": Score(orbit_msp, "1 - mean of p and q_k at argmax p", "after Ayhan & Berens, MIDL 2018", "[0, 1]",
                       "K + 1", _ORBIT),
    "perturbation_mi": Score(lambda predictions: mutual_information(predictions.require("perturbed")),
                             "H(mean q_k) - mean H(q_k)", _OURS, "[0, ln min(K, C)]", "K", ("perturbed",)),
    "disagreement": Score(disagreement, "mean_k 1[argmax q_k != argmax p]", f"{_OURS} (flip rate)", "[0, 1]",
                          "K + 1", _ORBIT),
    "spuq": Score(spuq, "1 - mean_k q_k(argmax p)", "after Gao et al., EACL 2024", "[0, 1]", "K + 1", _ORBIT),
    # several models
    "dropout_entropy": Score(lambda predictions: entropy(predictions.require("dropout").mean(1)), "H(mean_t p_t)",
                             "Gal & Ghahramani, ICML 2016", "[0, ln C]", "T", ("dropout",)),
    "dropout_bald": Score(lambda predictions: mutual_information(predictions.require("dropout")),
                          "H(mean_t p_t) - mean_t H(p_t)", _BALD, "[0, ln min(T, C)]", "T", ("dropout",)),
    "ensemble_entropy": Score(lambda predictions: entropy(_ensemble(predictions).mean(1)), "H(mean of p and members)",
                              "Lakshminarayanan et al., NIPS 2017", "[0, ln C]", "E + 1", ("probs", "members")),
    "ensemble_bald": Score(lambda predictions: mutual_information(_ensemble(predictions)),
                           "H(mean of p and members) - mean of their H", _BALD, "[0, ln min(E + 1, C)]", "E + 1",
                           ("probs", "members")),
    # x and its Z clarifications; uniform weights where none are given
    "clarification_entropy": Score(lambda predictions: entropy(_pbar(predictions)), "H(pbar), pbar = sum_z w_z p_z",
                                   "Hou et al., ICML 2024", "[0, ln C]", "Z", ("clarified",)),
    "clarification_mi": Score(lambda predictions: mutual_information(predictions.require("clarified"),
                                                                     _weights(predictions)),
                              "I(Y; Z) = H(pbar) - sum_z w_z H(p_z)", "Hou et al., ICML 2024", "[0, ln min(Z, C)]",
                              "Z", ("clarified",)),
    "clarification_sua": Score(clarification_sua, "sum_z w_z KL(p_z, p) - H", f"{_OURS} (Theorem 11)", "[-ln C, inf)",
                               "Z + 1", ("probs", "clarified")),
    "collapse_index": Score(collapse_index, "KL(pbar, p)", f"{_OURS} (Theorem 11)", "[0, inf)", "Z + 1",
                            ("probs", "clarified")),
    # fitted on calibration
    "msp_scaled": Score(msp_scaled, "1 - max p at temperature T from calibration", "Guo et al., ICML 2017",
                        "[0, 1 - 1/C]", needs=_FIT),
    "entropy_scaled": Score(entropy_scaled, "H at temperature T from calibration", "Guo et al., ICML 2017",
                            "[0, ln C]", needs=_FIT),
    "mahalanobis": Score(mahalanobis, "min_c (h - mu_c)' inv(Sigma) (h - mu_c), h = features",
                         "Lee et al., NeurIPS 2018", "[0, inf)", needs=("features", "calibration")),
    "relative_mahalanobis": Score(relative_mahalanobis, "mahalanobis - (h - mu)' inv(Sigma_0) (h - mu)",
                                  "Ren et al., 2021 (arXiv 2106.09022)", _REAL, needs=("features", "calibration")),
    "sua_calibrated": Score(sua_calibrated, f"{_SUA}, lambda >= 0 from calibration", _PAPER, _REAL, "K + 1",
                            (*_ORBIT, "calibration")),
    "sua_signed": Score(sua_signed, f"{_SUA}, lambda of either sign from calibration", _OURS, _REAL, "K + 1",
                        (*_ORBIT, "calibration")),
    "fused": Score(fused, "S + mu H, mu from a linear discriminant on calibration", f"{_OURS} (Theorem 14)", _REAL,
                   "K + 1", (*_ORBIT, "calibration")),
    "logistic": Score(logistic, "P(error | S, H), logistic regression on calibration", _OURS, "[0, 1]", "K + 1",
                      (*_ORBIT, "calibration")),
    "sua_repaired": Score(sua_repaired, "w_1 u + w_2 v + w_3 sqrt(S_TV) + b_answer, w >= 0 from calibration; u, v = log-odds "
                          "against the answer at x and its variants", _OURS, _REAL, "K + 1", (*_ORBIT, "calibration")),
}


def table() -> "pandas.DataFrame":
    """The registry as a frame: name, formula, range, passes (per item), needs, source."""
    import pandas as pd

    return pd.DataFrame([{"name": name, "formula": entry.formula, "range": entry.range, "passes": entry.passes,
                          "needs": ", ".join(entry.needs), "source": entry.source} for name, entry in SCORES.items()])


def available(predictions: Predictions, calibration: Predictions | None = None) -> list[str]:
    """Names of the scores for which `predictions` hold every field, and `calibration` too where it is needed."""
    def holds(p, fields):
        return p is not None and all(getattr(p, field) is not None for field in fields)

    fields = {name: set(entry.needs) - {"calibration"} for name, entry in SCORES.items()}
    return [name for name, entry in SCORES.items() if holds(predictions, fields[name])
            and ("calibration" not in entry.needs or holds(calibration, {"labels", *fields[name]}))]


def score(predictions: Predictions, name: str, **parameters) -> np.ndarray:
    """The score `name` of every item, (N,), higher = more likely wrong.

    `sua.SCORES` lists names, formulas and what each needs. Parameters go to the score's function (lam=,
    divergence=); a score whose `needs` lists "calibration" takes calibration=Predictions with labels, on items
    other than those scored.

    Raises ValueError for an unknown name (suggests the nearest), an unknown parameter, a missing field, or
    calibration items that are themselves scored.
    """
    if name not in SCORES:
        raise ValueError(unknown_name("score", name, SCORES))
    entry = SCORES[name]
    calibration = parameters.get("calibration")
    if "calibration" in entry.needs:
        if calibration is None:
            raise ValueError(f"score {name!r} is fitted: give calibration=Predictions of other items, with labels")
        shared = np.intersect1d(calibration.ids, predictions.ids)
        if len(shared):
            raise ValueError(f"calibration and scored items share {len(shared)} ids ({shared[0]!r}, ...): choose "
                             "parameters on one split and score another, and give ids that tell the items apart")
    known = list(inspect.signature(entry.function).parameters)[1:]
    unknown = sorted(set(parameters) - set(known))
    expect(not unknown, lambda: f"score {name!r} has no parameter {unknown[0]!r}; it takes "
           + (", ".join(known) or "none"))
    return entry.function(predictions, **{**dict(entry.defaults), **parameters})


def unknown_name(what, name, known):
    near = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {name!r}: {hint}Known: {', '.join(known)}"
