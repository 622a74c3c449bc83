"""Entropies, means and divergences of distributions over the last axis, in nats; leading axes broadcast.

Two forms of KL: that of the scores takes probabilities below FLOOR as FLOOR, so that no score is infinite; that of the
theory is exact. `sua.training.objectives` has the same on log-probabilities of torch, through which gradients flow.
"""

from __future__ import annotations

from typing import Callable

import numpy as np
from scipy.special import rel_entr

from .inputs import unknown_name

FLOOR = 1e-12  # probabilities below it count as FLOOR inside a logarithm: one certain mistake must not cost infinity


def entropy(p) -> np.ndarray:
    """Shannon entropy -sum p ln p over the last axis, nats, in [0, ln C]; 0 ln 0 = 0."""
    p = np.asarray(p, dtype=np.float64)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1)


def mutual_information(distributions, weights=None) -> np.ndarray:
    """H(mean) - mean H over axis -2 of (..., M, C), nats, in [0, ln min(M, C)]; `weights` (..., M) sum to 1.

    What the choice among the M distributions tells about the answer: BALD of an ensemble, I(Y; Z) of clarifications.
    """
    weights = np.full(distributions.shape[-2], 1 / distributions.shape[-2]) if weights is None else weights
    mean = (weights[..., None] * distributions).sum(-2)
    return np.maximum(entropy(mean) - (weights * entropy(distributions)).sum(-1), 0)


def geometric_mean(orbit) -> np.ndarray:
    """(..., C) normalised geometric mean of distributions (..., M, C).

    A class that one of them excludes has mean 0. Where every class is excluded by one of them there is no such mean and
    the arithmetic one is given: whatever the label, one of the M log-losses is infinite, so the identity of Theorem 15
    (b) reads inf = inf for any answer.
    """
    log = mean_log(orbit)
    top = log.max(-1, keepdims=True)
    exists = np.isfinite(top)
    share = np.exp(np.where(exists, log - np.where(exists, top, 0), 0))
    return np.where(exists, share / share.sum(-1, keepdims=True), np.mean(orbit, axis=-2))


def mean_log(orbit) -> np.ndarray:
    """(..., C) mean over M of ln q for distributions (..., M, C), nats; -inf for a class that one of them excludes."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(orbit, dtype=np.float64)).mean(-2)


def _kl(p, q):
    return np.maximum((p * (np.log(np.maximum(p, FLOOR)) - np.log(np.maximum(q, FLOOR)))).sum(-1), 0)


def _reverse_kl(p, q):
    return _kl(q, p)


def _exact_kl(p, q):
    """Infinite where q = 0 < p."""
    return rel_entr(np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)).sum(-1)


def _js(p, q):
    return np.maximum(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2, 0)


def _tv(p, q):
    return np.abs(p - q).sum(-1) / 2


def _square(p, q):
    return ((p - q) ** 2).sum(-1)


def _bhattacharyya(p, q):
    with np.errstate(divide="ignore"):
        return -np.log(np.sqrt(np.asarray(p * q, dtype=np.float64)).sum(-1).clip(max=1))


DIVERGENCES: dict[str, Callable] = {"kl": _kl, "reverse_kl": _reverse_kl, "js": _js, "tv": _tv}
EXACT: dict[str, Callable] = {"tv": _tv, "square": _square, "kl": _exact_kl, "js": _js, "bhattacharyya": _bhattacharyya}


def divergence_named(name: str) -> Callable:
    """The function D(p, q) -> divergence over the last axis (leading axes broadcast) of that name.

    "kl" = KL(p||q), "reverse_kl" = KL(q||p), "js" = Jensen-Shannon (nats, <= ln 2), "tv" = total variation (<= 1).
    ValueError for any other name.
    """
    if not isinstance(name, str) or name not in DIVERGENCES:
        raise ValueError(unknown_name("divergence", name, DIVERGENCES))
    return DIVERGENCES[name]
