"""Scores of x and its K variants: how far the output moves, how unsure it is, and both."""

from __future__ import annotations

from numbers import Real

import numpy as np

from ..divergences import DIVERGENCES, divergence_named, entropy
from ..inputs import expect
from ..predictions import Predictions
from .rows import blockwise


@blockwise
def sensitivity(predictions: Predictions, divergence: str = "kl") -> np.ndarray:
    """S(x) = mean_k D(p, q_k): how far the output moves under perturbation (paper, section 3)."""
    return divergence_named(divergence)(predictions.probs[:, None], predictions.require("perturbed")).mean(-1)


def sua(predictions: Predictions, lam: float = 1.0, divergence: str = "kl") -> np.ndarray:
    """SUA = S - lam * H (paper, section 3). lam < 0 adds the entropy instead of subtracting it.

    ValueError unless lam is one finite number.
    """
    expect(isinstance(lam, Real) and np.isfinite(lam), lambda: f"lam = {lam!r}: give one finite number")
    return sensitivity(predictions, divergence) - lam * entropy(predictions.probs)


def sua_positive(predictions: Predictions, lam: float = 1.0, divergence: str = "kl") -> np.ndarray:
    """max(S - lam * H, 0): the quantity that SUA-TR minimises on average."""
    return np.maximum(sua(predictions, lam, divergence), 0)


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
