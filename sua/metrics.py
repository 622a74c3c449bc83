"""Metrics of predictors and of scores. `is_error` is True for a wrong answer; a higher score is more likely wrong.

Tied scores are handled in expectation over random tie-breaking, so no result depends on the order of the rows.
"""

from __future__ import annotations

import math
from typing import Callable, Sequence

import numpy as np

from .predict import Predictions


class SingleClassError(ValueError):
    """A ranking metric was asked for where every item is an error, or none is: it is n/a, not a number."""


def accuracy(predictions: Predictions) -> float:
    """Share of right answers."""
    return float(1 - predictions.is_error.mean())


def robust_accuracy(predictions: Predictions) -> float:
    """Share of items answered right on x and on all K variants. Falls with K: report K beside it."""
    right = predictions.perturbed_answers == predictions.require("labels")[:, None]
    return float((right.all(1) & ~predictions.is_error).mean())


def ece(predictions: Predictions, bins: int = 15) -> float:
    """Expected calibration error of the top label: `bins` equal-width bins (lo, hi], sum of (n_b/n) |acc - conf|.

    Guo et al., ICML 2017. The plug-in estimate is biased upward, by about sqrt(bins / n) at worst.
    """
    if bins < 1:
        raise ValueError(f"bins = {bins}: give at least one bin")
    confidence, correct = predictions.probs.max(-1), ~predictions.is_error
    index = np.clip(np.searchsorted(np.arange(bins + 1) / bins, confidence, side="left") - 1, 0, bins - 1)
    gap = np.bincount(index, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(predictions))


def auroc(is_error, score) -> float:
    """Probability that a random error scores above a random right answer, ties counting half.

    Raises SingleClassError if `is_error` holds one class only, ValueError if shapes differ or a score is NaN.
    """
    is_error, score = _checked(is_error, score)
    return float(bootstrap_auroc(is_error, score[None], np.ones((1, len(score))))[0, 0])


def aurc(is_error, score) -> float:
    """Area under the risk-coverage curve: mean over k = 1..N of the error rate among the k lowest scores."""
    return float(selective_risk(is_error, score).mean())


def selective_accuracy(is_error, score, coverage: float = 0.8) -> float:
    """Accuracy on the ceil(coverage * N) items of lowest score. ValueError unless 0 < coverage <= 1."""
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage = {coverage}: give a share in (0, 1]")
    risk = selective_risk(is_error, score)
    return float(1 - risk[math.ceil(coverage * len(risk) - 1e-9) - 1])


def selective_risk(is_error, score) -> np.ndarray:
    """(N,) expected error rate among the k items of lowest score, k = 1..N: the risk-coverage curve."""
    is_error, score = _checked(is_error, score)
    _, block, size = np.unique(score, return_inverse=True, return_counts=True)
    # within a block of equal scores every item counts as the block's error rate: the mean over all orders
    rate = np.bincount(block, weights=is_error) / size
    return np.repeat(rate, size).cumsum() / np.arange(1, len(score) + 1)


def _checked(is_error, score):
    is_error, score = np.asarray(is_error), np.asarray(score, dtype=np.float64)
    if is_error.shape != score.shape or score.ndim != 1 or not len(score):
        raise ValueError(f"is_error has shape {is_error.shape}, score {score.shape}: give two vectors of one length")
    values = np.unique(is_error)
    if not np.isin(values, (0, 1)).all():
        raise ValueError(f"is_error holds {values[~np.isin(values, (0, 1))][0]!r}: give 1 for a wrong answer, else 0")
    if np.isnan(score).any():
        raise ValueError(f"score[{int(np.argmax(np.isnan(score)))}] is NaN: a score must order every item")
    return is_error.astype(bool), score


def bootstrap_auroc(is_error, scores, counts) -> np.ndarray:
    """(S, B) AUROC of S scores (S, N) on B resamples, given as counts (B, N) of each item; NaN where one class.

    One sort per score serves all resamples. Raises SingleClassError if `is_error` itself holds one class.
    """
    wrong = np.asarray(is_error, dtype=bool)
    if wrong.all() or not wrong.any():
        raise SingleClassError(f"is_error is {int(wrong[0])} for all {len(wrong)} items: AUROC compares errors with "
                               "right answers and needs both; report accuracy, or evaluate on more items")
    result = np.empty((len(scores), len(counts)))
    for row, score in enumerate(scores):
        order = np.argsort(score, kind="stable")
        start = np.flatnonzero(np.append(True, score[order][1:] != score[order][:-1]))
        ordered, e = counts[:, order], wrong[order]
        bad = np.add.reduceat(ordered * e, start, axis=1)
        good = np.add.reduceat(ordered * ~e, start, axis=1)
        below = good.cumsum(1) - good / 2
        with np.errstate(invalid="ignore"):
            result[row] = (bad * below).sum(1) / (bad.sum(1) * good.sum(1))
    return result


def auroc_intervals(runs: Sequence[tuple[np.ndarray, dict[str, np.ndarray]]], references: Sequence[str] = ("entropy",),
                    resamples: int = 1000, seed: int = 0, level: float = 0.95) -> list[dict]:
    """Mean AUROC over seeds of every score and its gain over reference scores, with paired-bootstrap intervals.

    runs : one (is_error (N,), {name: score (N,)}) per seed, all on the same N items in the same order. A resample of
    the items serves all scores and seeds, so that differences are paired and seeds stay clustered. A resample whose
    items are all errors, or all right, is left out.
    Returns one row {score, auroc, low, high, reference, gain, gain_low, gain_high} per score and reference.
    """
    n = len(runs[0][0])
    resampled = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    counts = np.vstack([np.ones((1, n), dtype=resampled.dtype), resampled])
    names = list(runs[0][1])
    per_run = [bootstrap_auroc(is_error, np.stack([_checked(is_error, scores[name])[1] for name in names]), counts)
               for is_error, scores in runs]
    values = dict(zip(names, np.mean(per_run, axis=0)))
    interval = lambda v: np.nanpercentile(v[1:], 100 * np.array([(1 - level) / 2, (1 + level) / 2]))
    rows = []
    for name, value in values.items():
        low, high = interval(value)
        for reference in references:
            gain = value - values[reference]
            gain_low, gain_high = interval(gain)
            rows.append(dict(score=name, auroc=value[0], low=low, high=high, reference=reference, gain=gain[0],
                             gain_low=gain_low, gain_high=gain_high))
    return rows


MODEL_METRICS: dict[str, Callable[[Predictions], float]] = {
    "accuracy": accuracy, "robust_accuracy": robust_accuracy, "ece": ece,
}
SCORE_METRICS: dict[str, Callable[..., float]] = {
    "auroc": auroc, "aurc": aurc, "selective_accuracy_80": selective_accuracy,
}
