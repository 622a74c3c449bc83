"""Scores of x and its Z clarifications; equal weights where none are given."""

from __future__ import annotations

from numbers import Real

import numpy as np

from ..divergences import DIVERGENCES, FLOOR, entropy
from ..inputs import expect
from ..predictions import Predictions


def weights_of(predictions: Predictions) -> np.ndarray:
    """(N, Z) weights of the clarifications."""
    clarified = predictions.require("clarified")
    return np.full(clarified.shape[:2], 1 / clarified.shape[1]) if predictions.weights is None else predictions.weights


def mixed(predictions: Predictions) -> np.ndarray:
    """(N, C) pbar, the clarifications' mixture by their weights."""
    return (weights_of(predictions)[..., None] * predictions.clarified).sum(1)


def clarification_sua(predictions: Predictions) -> np.ndarray:
    """sum_z w_z KL(p_z || p) - H(p): SUA with clarifications for a kernel. Positive proves incoherence, p != pbar.

    The first term is I(Y; Z) + KL(pbar || p): legitimate ambiguity and the collapse index (Theorem 11).
    """
    shift = DIVERGENCES["kl"](predictions.require("clarified"), predictions.probs[:, None])
    return (weights_of(predictions) * shift).sum(-1) - entropy(predictions.probs)


def collapse_index(predictions: Predictions, w_min: float | None = None) -> np.ndarray:
    """KL(pbar || p): 0 where the model answers x as it answers the clarifications, mixed by their weights.

    w_min : the weights are not known, only that each is >= w_min. The result is then the least index over all such
    weights, a lower bound on the true one (Theorem 11d). It is the dual bound of a search: never above that minimum,
    and at most 1e-12 nats below it, rounding aside. ValueError unless 0 <= w_min <= 1/Z.
    """
    if w_min is None:
        return DIVERGENCES["kl"](mixed(predictions), predictions.probs)
    z = predictions.require("clarified").shape[1]
    expect(isinstance(w_min, Real) and 0 <= w_min <= 1 / z, lambda: f"w_min = {w_min!r}: the least of {z} "
           f"weights is in [0, 1/{z}]; give a number there")
    # weights >= w_min on the p_z are free weights on these mixtures
    mixtures = w_min * predictions.clarified.sum(1, keepdims=True) + max(1 - z * w_min, 0) * predictions.clarified
    return _least_kl(mixtures, predictions.probs)


def _least_kl(p, q, tolerance=1e-12, steps=100):
    """(N,) min over weights v on the simplex of KL(sum_z v_z p_z || q), from below; p (N, Z, C), q (N, C).

    Primal-dual interior point on every row at once (Wright, Primal-Dual Interior-Point Methods, SIAM 1997). By
    convexity min_z sum_y p_z ln(mix / q), with mix = sum_z v_z p_z, is a lower bound at every v.
    """
    n, z, _ = p.shape
    log_q = np.log(np.maximum(q, FLOOR))  # (N, C)
    rows, bound = np.arange(n), np.zeros(n)  # rows : those not yet finished; all arrays but `bound` shrink with it
    v, slack = np.full((n, z), 1 / z), np.ones((n, z))  # weights, and the multipliers of v >= 0

    for _ in range(steps):
        mix = np.maximum((v[..., None] * p).sum(1), np.finfo(float).tiny)  # (N, C)
        gradient = (p * (np.log(mix) - log_q)[:, None]).sum(-1)  # (N, Z), but for a constant that cancels

        # a row is finished where KL at v is within the tolerance of the bound
        bound[rows] = np.maximum(bound[rows], gradient.min(1))
        unfinished = (v * gradient).sum(1) - gradient.min(1) > tolerance
        if not unfinished.any():
            break
        rows, p, log_q, v, slack, mix, gradient = (
            a[unfinished] for a in (rows, p, log_q, v, slack, mix, gradient))

        # Newton's system for: gradient - slack constant over z, v * slack a tenth of its present mean
        pull = slack / v  # (N, Z)
        target = (v * slack).mean(1, keepdims=True) / 10 / v  # (N, Z)
        # components that agree leave the Hessian singular where none of them is at the border: hence the last term
        hessian = (p / mix[:, None]) @ p.swapaxes(1, 2) + (pull[..., None] + 1e-10) * np.eye(z)  # (N, Z, Z)
        free, level = np.moveaxis(
            np.linalg.solve(hessian, np.stack([target - gradient, np.ones_like(v)], -1)), -1, 0)

        # the step keeps the sum of the weights at 1
        move = free - level * (free.sum(1) / level.sum(1))[:, None]  # (N, Z)
        v = _inside(v, move)
        v /= v.sum(1, keepdims=True)
        slack = _inside(slack, target - slack - pull * move)
    return bound


def _inside(x, move):
    """x + move, shortened per row so that no entry of x loses more than 95 % of itself."""
    return x + move / np.maximum((-move / x).max(1, keepdims=True) / 0.95, 1)
