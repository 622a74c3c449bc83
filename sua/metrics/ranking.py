"""Metrics of a score: how well it ranks wrong answers above right ones."""

from __future__ import annotations

from numbers import Real

import numpy as np
from numpy.typing import ArrayLike

from ..inputs import expect, numbers
from .resamples import resampled


class SingleClassError(ValueError):
    """A ranking metric was asked for where every item is an error, or none is: it is n/a, not a number."""


def two_classes(is_error: ArrayLike) -> np.ndarray:
    """`is_error` as (N,) bool; SingleClassError unless it holds both errors and right answers."""
    wrong = np.asarray(is_error, dtype=bool)
    if wrong.all() or not wrong.any():
        raise SingleClassError(f"is_error is {int(wrong[0])} for all {len(wrong)} items: ranking compares errors with "
                               "right answers and needs both; report accuracy, or evaluate on more items")
    return wrong


@resampled
def auroc(is_error: ArrayLike, score: ArrayLike, counts: ArrayLike | None = None) -> float | np.ndarray:
    """Probability that a random error scores above a random right answer, ties counting half.

    Raises SingleClassError if `is_error` holds one class only, ValueError if shapes differ or a score is NaN.
    """
    errors, right, inversions = _pairs(is_error, score, counts)
    two_classes(is_error)
    with np.errstate(invalid="ignore"):
        return 1 - inversions / (errors * right)


@resampled
def aurc(is_error: ArrayLike, score: ArrayLike, counts: ArrayLike | None = None) -> float | np.ndarray:
    """Area under the risk-coverage curve: mean over k = 1..N of the error rate among the k lowest scores."""
    return _aurc(*_blocks(is_error, score, counts))


@resampled
def e_aurc(is_error: ArrayLike, score: ArrayLike, counts: ArrayLike | None = None) -> float | np.ndarray:
    """Excess AURC: AURC minus that of the oracle that ranks all errors last (Geifman, Uziel & El-Yaniv, ICLR 2019).

    The oracle of the finite sample, not its limit e + (1 - e) ln(1 - e): a perfect score has exactly 0.
    """
    size, bad = _blocks(is_error, score, counts)
    return _aurc(size, bad) - _oracle_aurc(size, bad)


@resampled
def augrc(is_error: ArrayLike, score: ArrayLike, counts: ArrayLike | None = None) -> float | np.ndarray:
    """Area under the generalised risk-coverage curve, P(wrong and answered) against coverage, linear between items.

    Traub et al., NeurIPS 2024. Equals (1 - AUROC) e (1 - e) + e^2 / 2 with error rate e; 0 without errors.
    """
    errors, right, inversions = _pairs(is_error, score, counts)
    return (inversions + errors ** 2 / 2) / (errors + right) ** 2


@resampled
def prr(is_error: ArrayLike, score: ArrayLike, counts: ArrayLike | None = None) -> float | np.ndarray:
    """Prediction rejection ratio (e - AURC) / (e - AURC of the oracle): 1 for a perfect score, 0 for a random one.

    The areas of lm-polygraph (Fadeeva et al., EMNLP 2023), which average the risk of what is kept, with the exact
    expectation e of a random order. Malinin & Gales (ICLR 2021) count what is rejected as right; for 0/1 errors
    that ratio is 2 AUROC - 1. Raises SingleClassError if `is_error` holds one class only.
    """
    size, bad = _blocks(is_error, score, counts)
    two_classes(is_error)
    rate = bad.sum(1) / size.sum(1)
    with np.errstate(invalid="ignore"):
        return (rate - _aurc(size, bad)) / (rate - _oracle_aurc(size, bad))


@resampled
def selective_accuracy(is_error: ArrayLike, score: ArrayLike, coverage: float = 0.8,
                       counts: ArrayLike | None = None) -> float | np.ndarray:
    """Accuracy on the ceil(coverage * N) items of lowest score. ValueError unless 0 < coverage <= 1."""
    expect(isinstance(coverage, Real) and 0 < coverage <= 1, lambda: f"coverage = {coverage!r}: give a share in (0, 1]")
    size, bad = _blocks(is_error, score, counts)
    kept = np.ceil(coverage * size.sum(1) - 1e-9)
    end = size.cumsum(1)
    last = (np.arange(len(end)), (end >= kept[:, None]).argmax(1))  # the block in which each resample reaches `kept`
    beyond = (end[last] - kept) * bad[last] / size[last]
    return 1 - (bad.cumsum(1)[last] - beyond) / kept


def selective_risk(is_error: ArrayLike, score: ArrayLike) -> np.ndarray:
    """(N,) expected error rate among the k items of lowest score, k = 1..N: the risk-coverage curve."""
    is_error, score = _checked(is_error, score)
    _, block, size = np.unique(score, return_inverse=True, return_counts=True)
    # within a block of equal scores every item counts as the block's error rate: the mean over all orders
    rate = np.bincount(block, weights=is_error) / size
    return np.repeat(rate, size).cumsum() / np.arange(1, len(score) + 1)


def _checked(is_error, score):
    is_error, score = np.asarray(is_error), numbers("score", score, "give one number per item")
    if is_error.shape != score.shape or score.ndim != 1 or not len(score):
        raise ValueError(f"is_error has shape {is_error.shape}, score {score.shape}: give two vectors of one length")
    unknown = (is_error != 0) & (is_error != 1)
    if unknown.any():
        raise ValueError(f"is_error holds {is_error[unknown][0]!r}: give 1 for a wrong answer, else 0")
    if np.isnan(score).any():
        raise ValueError(f"score[{int(np.argmax(np.isnan(score)))}] is NaN: a score must order every item")
    return is_error.astype(bool), comparable(score)


def comparable(score: np.ndarray) -> np.ndarray:
    """Scores to 13 decimals and 30 binary digits, about nine decimal ones: what differs in rounding alone is tied."""
    mantissa, exponent = np.frexp(np.where(np.abs(score) < 1, np.round(np.clip(score, -1, 1), 13), score))
    return np.ldexp(np.round(np.ldexp(mantissa, 30)), exponent - 30)


def _blocks(is_error, score, counts):
    """(B, G) items and errors in each of the G blocks of equal scores, in rising order, in each of B resamples."""
    is_error, score = _checked(is_error, score)
    order = np.argsort(score, kind="stable")
    start = np.flatnonzero(np.append(True, score[order][1:] != score[order][:-1]))
    ordered, exact = counts[:, order], np.result_type(counts, int)
    return (np.add.reduceat(ordered, start, axis=1, dtype=exact),
            np.add.reduceat(ordered * is_error[order], start, axis=1, dtype=exact))


def _pairs(is_error, score, counts):
    """(B,) errors, right answers, and pairs of them in which the right answer scores above, ties counting half."""
    is_error, score = _checked(is_error, score)
    wrong, right = np.flatnonzero(is_error), np.flatnonzero(~is_error)
    right = right[np.argsort(-score[right])]
    first, last = (np.searchsorted(-score[right], -score[wrong], side) for side in ("left", "right"))
    bad = counts.take(wrong, axis=1)
    good = counts.take(right, axis=1)
    errors, exact = bad.sum(1), np.result_type(counts, int)
    # integers cumulate fastest, and those of 32 bits, where they hold every product, twice as fast
    narrow = counts.dtype == np.int32 and 2 * int(bad.max(initial=0)) * int(good.sum(1).max(initial=0)) < 1 << 31
    above = np.zeros((len(counts), len(right) + 1), dtype=np.int32 if narrow else exact)
    good.cumsum(1, out=above[:, 1:], dtype=above.dtype)
    twice = (bad * (above.take(first, axis=1) + above.take(last, axis=1))).sum(1, dtype=exact)
    return errors, above[:, -1].astype(exact), twice / 2


def _aurc(size, bad):
    # the j-th item of a block adds (errors before + j * rate) / (items before + j): in closed form over the block
    before, rate = size.cumsum(1) - size, np.divide(bad, size, out=np.zeros(bad.shape), where=size > 0)
    errors_before = bad.cumsum(1) - bad
    return (bad + (errors_before - rate * before) * _harmonic(before, before + size)).sum(1) / size.sum(1)


def _oracle_aurc(size, bad):
    n, errors = size.sum(1), bad.sum(1)
    return (errors - (n - errors) * _harmonic(n - errors, n)) / n


def _harmonic(low, high):
    """sum of 1/k over low < k <= high."""
    table = np.append(0, np.cumsum(1 / np.arange(1, high.max() + 1)))
    return table[high.astype(int)] - table[low.astype(int)]
