"""Checks of assignment 1: entropy, divergences, SUA (see `score`) and failure AUROC by hand."""

from __future__ import annotations

from typing import Callable

import numpy as np

from .. import metrics, scores
from .shared import LN2, compare, distributions, draw, inside


def softmax(function: Callable) -> None:
    """Checks function(logits (..., C)) -> probabilities."""
    def reference(z):
        return np.exp(z - np.logaddexp.reduce(z, axis=-1, keepdims=True))

    logits = np.random.default_rng().normal(size=(2, 4, 3))
    distributions(function(logits.copy()), function.__name__)
    large = np.round(1000 * logits)  # whole numbers are the same in float32
    compare(function, reference, [(logits[0],), (logits,), (large,)])


def entropy(function: Callable) -> None:
    """Checks function(p (..., C)) -> entropy in nats."""
    compare(function, scores.entropy, [(draw(2, 4),), (draw(3, 5, 2),), (np.array([1.0, 0, 0]),)], {
        "your entropy is in bits: use the natural logarithm": lambda p: scores.entropy(p) / LN2,
        "your entropy is negative: check the sign": lambda p: -scores.entropy(p),
        "you divide by ln C: entropy in nats is not scaled": lambda p: scores.entropy(p) / np.log(p.shape[-1]),
    })


def divergence(function: Callable, name: str) -> None:
    """Checks function(p, q) -> the divergence `name` ("kl", "js", "tv") over the last axis, nats; q > 0 for "kl"."""
    ours, kl = scores.divergence_named(name), scores.divergence_named("kl")
    mistakes = {"kl": {
        "this is KL(q, p) instead of KL(p, q)": lambda p, q: kl(q, p),
        "your divergence is in bits: use the natural logarithm": lambda p, q: kl(p, q) / LN2,
        "check the sign: KL is never negative": lambda p, q: -kl(p, q),
        "this is the cross-entropy, which is not 0 at p = q": lambda p, q: kl(p, q) + scores.entropy(p),
    }, "js": {
        "your divergence is in bits: use the natural logarithm": lambda p, q: ours(p, q) / LN2,
        "this is twice the divergence: the two halves are averaged, not added": lambda p, q: 2 * ours(p, q),
        "this is the Jensen-Shannon distance, the square root of the divergence": lambda p, q: np.sqrt(ours(p, q)),
        "this is the mean of KL(p, q) and KL(q, p): compare each with their midpoint": lambda p, q: (
            kl(p, q) + kl(q, p)) / 2,
        "you compare the midpoint with p and q: exchange the arguments of KL": lambda p, q: (
            kl((p + q) / 2, p) + kl((p + q) / 2, q)) / 2,
    }, "tv": {
        "this is the sum of absolute differences, which can reach 2: a factor is missing": lambda p, q: 2 * ours(p, q),
        "you average over the classes: the largest value must be 1 whatever C is": lambda p, q: np.abs(p - q).mean(-1),
        "this is the largest difference at one class, not over all events": lambda p, q: np.abs(p - q).max(-1),
        "positive and negative differences cancel": lambda p, q: np.zeros(np.broadcast(p, q).shape[:-1]),
    }}
    compare(function, ours, [(draw(2, 3), inside(2, 3)), (draw(4, 1, 5), inside(4, 2, 5)),
                             (np.array([1.0, 0]), np.array([0.5, 0.5]))], mistakes[name])


def auroc(function: Callable) -> None:
    """Checks function(is_error (N,), score (N,)) -> AUROC, ties counting half."""
    rng = np.random.default_rng()

    def case(score):
        return np.append(rng.random(len(score) - 2) < 0.4, [True, False]), score

    def nudge(is_error, score, towards):
        return metrics.auroc(is_error, score + 1e-6 * towards * is_error)

    is_error, score = case(rng.normal(size=9))
    both_ways = [(is_error, score), (is_error, -score)]  # one of the two lies below 1/2
    compare(function, metrics.auroc, [*both_ways, case(rng.integers(4, size=40).astype(float))], {
        "this is 1 - AUROC: check the orientation, an error should score higher": lambda *case: (
            1 - metrics.auroc(*case)),
        "this never falls below 1/2: a score that ranks errors low must be seen to do so": lambda *case: (
            max(metrics.auroc(*case), 1 - metrics.auroc(*case))),
        "ties count for nothing: a tie is half a win": lambda *case: nudge(*case, -1),
        "ties count as a full win: a tie is half a win": lambda *case: nudge(*case, 1),
        "you count pairs, their share is asked for": lambda is_error, score: (
            metrics.auroc(is_error, score) * is_error.sum() * (~is_error).sum()),
        "divide by the number of (error, right answer) pairs, not of all pairs": lambda is_error, score: (
            metrics.auroc(is_error, score) * is_error.mean() * (~is_error).mean()),
    })
