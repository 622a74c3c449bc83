"""Checks of assignment 3: mixtures, collapse, detectors and clarifications (mutual information: see `score`)."""

from __future__ import annotations

from typing import Callable

import numpy as np

from .. import metrics, scores
from ..predictions import Predictions
from .shared import compare, draw, inside


def mixture(function: Callable) -> None:
    """Checks function(readings (..., Z, C), weights (..., Z)) -> (..., C), the mean over the readings."""
    def ours(readings, weights):
        return np.einsum("...zc,...z->...c", readings, weights)

    cases = [(draw(5, 3, 4), draw(5, 3)), (draw(2, 4), draw(2)), (draw(2, 3, 2, 4), draw(2, 3, 2))]
    compare(function, ours, cases, {
        "every reading counts the same: use the weights": lambda readings, weights: readings.mean(-2),
        "you add up the readings: weigh them": lambda readings, weights: readings.sum(-2),
    })


def collapse(function: Callable) -> None:
    """Checks function(p_star, p), both (..., C), -> (KL(p_star, p), H(p_star) - H(p)) in nats."""
    kl = scores.divergence_named("kl")

    def gap(p_star, p):
        return scores.entropy(p_star) - scores.entropy(p)

    def ours(p_star, p):
        return kl(p_star, p), gap(p_star, p)

    p = inside(6, 3)
    compare(function, ours, [(draw(6, 3), p), (p[0], p[1]), (p[1], p[0])], {
        "your index is KL(p, p*): the world draws from p*": lambda p_star, p: (kl(p, p_star), gap(p_star, p)),
        "check the sign of the gap, H(p*) - H(p)": lambda p_star, p: (kl(p_star, p), gap(p, p_star)),
        "return the index first, then the gap": lambda p_star, p: ours(p_star, p)[::-1],
    })


def sister_world(function: Callable) -> None:
    """Checks function(p_star (N, C)) -> (N, C), all mass on the first of the likeliest answers."""
    def ours(p_star):
        return np.arange(p_star.shape[1]) == p_star.argmax(-1)[:, None]

    compare(function, ours, [(draw(9, 4),), (np.array([[0.2, 0.4, 0.4], [1, 0, 0], [0.5, 0.5, 0]]),)], {
        "where answers tie you keep them all: keep the first": lambda p_star: p_star == p_star.max(-1, keepdims=True),
        "you leave the likeliest answer its old probability: now it is the only one": lambda p_star: (
            ours(p_star) * p_star),
    })


def error_rates(function: Callable) -> None:
    """Checks function(detector, outputs_one, outputs_two), outputs (N, K+1, C), -> (false alarm rate, miss rate)."""
    def rate(detector, outputs):
        return np.mean(detector(outputs))

    detectors = (lambda outputs: outputs[:, 0, 0] > 0.4, lambda outputs: outputs[:, 0, 0])
    compare(function, lambda detector, one, two: (rate(detector, one), 1 - rate(detector, two)),
            [(detector, draw(12, 3, 2), draw(20, 3, 2)) for detector in detectors], {
        "the second is the share of alarms; a miss is a silence": lambda detector, one, two: (
            rate(detector, one), rate(detector, two)),
        "the first is the share of silences; of one reading, every alarm is false": lambda detector, one, two: (
            1 - rate(detector, one), 1 - rate(detector, two)),
        "misses come first, return the false alarms before them": lambda detector, one, two: (
            1 - rate(detector, two), rate(detector, one)),
        "the worlds are exchanged: outputs_one deserve their certainty": lambda detector, one, two: (
            rate(detector, two), 1 - rate(detector, one)),
        "these are counts, shares are asked for": lambda detector, one, two: (
            rate(detector, one) * len(one), (1 - rate(detector, two)) * len(two)),
    })


def decomposition(function: Callable) -> None:
    """Checks function(p (N, C), clarified (N, Z, C), weights (N, Z)) -> (S_clar, I(Y; Z), KL(pbar, p)), each (N,)."""
    kl = scores.divergence_named("kl")

    def terms(p, clarified, weights, swap_shift=False, swap_index=False):
        mean = np.einsum("nzc,nz->nc", clarified, weights)
        shift = kl(p[:, None], clarified) if swap_shift else kl(clarified, p[:, None])
        return ((weights * shift).sum(1), scores.mutual_information(clarified, weights),
                kl(p, mean) if swap_index else kl(mean, p))

    cases = [(inside(8, 3), inside(8, 2, 3), draw(8, 2)), (inside(4, 4), inside(4, 3, 4), draw(4, 3))]
    compare(function, terms, cases, {
        "your S_clar is KL(p, p_z): the answer to the clarified input comes first": lambda *case: terms(
            *case, swap_shift=True),
        "your index is KL(p, pbar): pbar comes first": lambda *case: terms(*case, swap_index=True),
        "both divergences are the wrong way round: p comes second": lambda *case: terms(*case, True, True),
        "every reading counts the same: use the weights": lambda p, clarified, weights: terms(
            p, clarified, np.full_like(weights, 1 / weights.shape[1])),
    })


def detection(function: Callable) -> None:
    """Checks function(predictions, flags (N,), names, threshold) -> AUROC of each score on max p >= threshold."""
    def keep(predictions, threshold):
        return predictions.probs.max(-1) >= threshold

    def rank(predictions, flags, names, kept):
        return [metrics.auroc(flags[kept], scores.score(predictions, name)[kept]) for name in names]

    def ours(predictions, flags, names, threshold):
        return rank(predictions, flags, names, keep(predictions, threshold))

    drawn = Predictions(draw(90, 3), clarified=draw(90, 2, 3), weights=draw(90, 2))
    exactly = np.sort(drawn.probs.max(-1))[45]  # one input lies on this threshold
    names = ["clarification_mi", "entropy", "collapse_index"]
    compare(function, ours, [(drawn, np.arange(90) % 2 == 0, names, least) for least in (0.6, 0.7, exactly)], {
        "you rank all inputs: keep those of max p >= threshold": lambda predictions, flags, names, threshold: rank(
            predictions, flags, names, np.ones(90, dtype=bool)),
        "you kept the inputs below the threshold": lambda predictions, flags, names, threshold: rank(
            predictions, flags, names, ~keep(predictions, threshold)),
        "an answer of exactly the threshold is confident enough: >=": lambda predictions, flags, names, threshold: rank(
            predictions, flags, names, predictions.probs.max(-1) > threshold),
        "this is 1 - AUROC: what is to be found is the ambiguous input": lambda *case: 1 - np.array(ours(*case)),
    })


def verdict(function: Callable) -> None:
    """Checks function(p (C,), clarified (Z, C), weights (Z,)) -> "collapsed", "open" or "clear", tolerance 0.1."""
    sure, weights = np.array([[0.97, 0.02, 0.01], [0.01, 0.97, 0.02]]), np.array([0.75, 0.25])
    surer, rare = np.array([[0.999, 0.001], [0.001, 0.999]]), np.array([0.92, 0.08])
    for p, clarified, weights, right, what in (
            (weights @ sure, sure, weights, "open", "the readings differ and p is their mixture"),
            (sure[0], sure, weights, "collapsed", "the readings differ and p knows one of them alone"),
            (sure[0], sure[[0, 0]], weights, "clear", "both readings have the answer of p"),
            (sure[1], sure[[0, 0]], weights, "collapsed", "both readings have an answer, p has another"),
            (sure.mean(0), sure, weights, "collapsed", "p mixes the readings evenly, their weights are 3/4 and 1/4"),
            (surer[0], surer, rare, "collapsed", "KL(pbar, p) is 0.28; the reverse, KL(p, pbar), is 0.08"),
            (rare @ surer, surer[[0, 0]], rare, "clear", "KL(pbar, p) is 0.08; the reverse, KL(p, pbar), is 0.28"),
            (0.8 * sure[0] + 0.2 * sure[1], sure, weights, "open", "the index is 0.007 and I(Y; Z) is 0.48 nats")):
        found = function(p.copy(), clarified.copy(), weights.copy())
        assert isinstance(found, str) and found == right, (
            f"{function.__name__} returns {found if isinstance(found, str) else type(found).__name__!r}, expected "
            f"{right!r}: {what}")
