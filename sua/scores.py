"""Scores: pure functions of Predictions that rank items for failure prediction.

Orientation everywhere: **higher = more likely wrong** (abstain first). Entropies and divergences in nats.
Notation: p = p(.|x), q_k = p(.|x'_k) for the K variants x'_k of x, H = entropy.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Callable

import numpy as np

from .predict import Predictions

FLOOR = 1e-12  # probabilities below it count as FLOOR inside a logarithm: keeps KL finite where q = 0 < p


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
        raise ValueError(_unknown("divergence", name, DIVERGENCES))
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
    from .metrics import auroc

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


def orbit_entropy(predictions: Predictions) -> np.ndarray:
    """H of the mean of p and the q_k. Equals mean entropy plus generalised JS sensitivity: lambda = -1 exactly."""
    return entropy(predictions.orbit.mean(1))


def disagreement(predictions: Predictions) -> np.ndarray:
    """Share of the K variants whose answer differs from the answer to x (flip rate)."""
    return (predictions.perturbed_answers != predictions.answers[:, None]).mean(-1)


def self_consistency(predictions: Predictions) -> np.ndarray:
    """1 - max_y freq(y) over the M answers sampled at the same x. Fill `samples` with Predictions.sample(m)."""
    samples = predictions.require("samples")
    counts = (samples[:, :, None] == np.arange(predictions.probs.shape[1])).sum(1)
    return 1 - counts.max(-1) / samples.shape[1]


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
_SUA = "S - lambda H"
_PAPER = "arXiv 2604.20903, section 3"

SCORES: dict[str, Score] = {
    "msp": Score(msp, "1 - max p", "Hendrycks & Gimpel, ICLR 2017", "[0, 1 - 1/C]"),
    "margin": Score(margin, "p_(2) - p_(1)", "Scheffer et al., IDA 2001", "[-1, 0]"),
    "entropy": Score(lambda predictions: entropy(predictions.probs), "H = -sum p ln p", "Shannon 1948", "[0, ln C]"),
    "sensitivity": Score(sensitivity, "S = mean_k KL(p, q_k)", _PAPER, "[0, inf)", "K + 1", _ORBIT),
    "sensitivity_reverse_kl": Score(sensitivity, "mean_k KL(q_k, p)", _PAPER, "[0, inf)", "K + 1", _ORBIT,
                                    (("divergence", "reverse_kl"),)),
    "sensitivity_js": Score(sensitivity, "mean_k JS(p, q_k)", _PAPER, "[0, ln 2]", "K + 1", _ORBIT,
                            (("divergence", "js"),)),
    "sensitivity_tv": Score(sensitivity, "mean_k TV(p, q_k)", _PAPER, "[0, 1]", "K + 1", _ORBIT,
                            (("divergence", "tv"),)),
    "sua": Score(sua, f"{_SUA}, lambda = 1", _PAPER, "[-ln C, inf)", "K + 1", _ORBIT),
    "sua_positive": Score(sua_positive, f"max({_SUA}, 0), lambda = 1", _PAPER, "[0, inf)", "K + 1", _ORBIT),
    "sua_calibrated": Score(sua_calibrated, f"{_SUA}, lambda >= 0 from calibration", _PAPER, "(-inf, inf)", "K + 1",
                            (*_ORBIT, "calibration")),
    "sua_signed": Score(sua_signed, f"{_SUA}, lambda of either sign from calibration", "this companion",
                        "(-inf, inf)", "K + 1", (*_ORBIT, "calibration")),
    "orbit_entropy": Score(orbit_entropy, "H(mean of p and q_k)", "after Ayhan & Berens, MIDL 2018", "[0, ln C]",
                           "K + 1", _ORBIT),
    "disagreement": Score(disagreement, "mean_k 1[argmax q_k != argmax p]", "this companion (flip rate)", "[0, 1]",
                          "K + 1", _ORBIT),
    "self_consistency": Score(self_consistency, "1 - max_y freq(y) over M samples at x", "Wang et al., ICLR 2023",
                              "[0, 1 - 1/M]", "1 (M samples)", ("probs", "samples")),
}


def score(predictions: Predictions, name: str, **parameters) -> np.ndarray:
    """The score `name` of every item, (N,), higher = more likely wrong.

    `sua.SCORES` lists names, formulas and what each needs. Parameters go to the score's function (lam=,
    divergence=); a score whose `needs` lists "calibration" takes calibration=Predictions with labels, on items
    other than those scored.

    Raises ValueError for an unknown name (suggests the nearest), an unknown parameter, a missing field, or
    calibration items that are themselves scored.
    """
    if name not in SCORES:
        raise ValueError(_unknown("score", name, SCORES))
    entry = SCORES[name]
    calibration = parameters.get("calibration")
    if "calibration" in entry.needs:
        if calibration is None:
            raise ValueError(f"score {name!r} is fitted: give calibration=Predictions of other items, with labels")
        shared = np.intersect1d(calibration.ids, predictions.ids)
        if len(shared):
            raise ValueError(f"calibration and scored items share {len(shared)} ids ({shared[0]!r}, ...): choose "
                             "parameters on one split and score another, and give ids that tell the items apart")
    try:
        return entry.function(predictions, **{**dict(entry.defaults), **parameters})
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ValueError(f"score {name!r}: {error}; see help(sua.scores.{entry.function.__name__})") from None


def _unknown(what, name, known):
    near = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {name!r}: {hint}Known: {', '.join(known)}"
