"""Metrics of predictors and of scores. `is_error` is True for a wrong answer; a higher score is more likely wrong.

Tied scores are handled in expectation over random tie-breaking, so no result depends on the order of the rows. Scores
that agree to nine digits are tied: further ones are rounding, and would rank otherwise on another processor.
Metrics that take `counts` (B, N), how often each item occurs in each of B resamples, return (B,) values for them, NaN
where a resample has none; without `counts` they return one float. A score is sorted once for all resamples.
"""

from __future__ import annotations

import functools
import math
from numbers import Integral, Real
from typing import Callable, Iterator, Mapping, Sequence

import numpy as np
from scipy.special import ndtr

from .divergences import FLOOR
from .inputs import expect, numbers
from .predictions import Predictions

LARGEST = 1 << 24  # entries of the resamples that are held at a time, 64 MB


class SingleClassError(ValueError):
    """A ranking metric was asked for where every item is an error, or none is: it is n/a, not a number."""


def two_classes(is_error) -> np.ndarray:
    """`is_error` as (N,) bool; SingleClassError unless it holds both errors and right answers."""
    wrong = np.asarray(is_error, dtype=bool)
    if wrong.all() or not wrong.any():
        raise SingleClassError(f"is_error is {int(wrong[0])} for all {len(wrong)} items: ranking compares errors with "
                               "right answers and needs both; report accuracy, or evaluate on more items")
    return wrong


def _resampled(metric):
    """Lets a metric that is written for counts (B, N) be called without them."""
    @functools.wraps(metric)
    def call(first, *others, counts=None, **parameters):
        if counts is None:
            return float(metric(first, *others, counts=np.ones((1, len(first)), dtype=int), **parameters)[0])
        return metric(first, *others, counts=np.asarray(counts), **parameters)
    return call


# --- of a model ---

@_resampled
def accuracy(predictions: Predictions, counts=None) -> float:
    """Share of right answers."""
    return _mean(~predictions.is_error, counts)


@_resampled
def robust_accuracy(predictions: Predictions, counts=None) -> float:
    """Share of items answered right on x and on all K variants. Falls with K: report K beside it."""
    return _mean(_variants_right(predictions).all(1) & ~predictions.is_error, counts)


@_resampled
def worst_of_k(predictions: Predictions, counts=None) -> float:
    """Share of items answered right on all K variants, whatever the answer to x. Falls with K: report K beside it."""
    return _mean(_variants_right(predictions).all(1), counts)


@_resampled
def mean_of_k(predictions: Predictions, counts=None) -> float:
    """Accuracy on the variants, mean over items and the K variants of each."""
    return _mean(_variants_right(predictions).mean(1), counts)


@_resampled
def brier(predictions: Predictions, counts=None) -> float:
    """Brier score, sum over classes: mean of sum_y (p_y - 1[y = label])^2, in [0, 2]."""
    p, labels = predictions.probs, predictions.require("labels")
    return _mean(((p - np.eye(p.shape[1])[labels]) ** 2).sum(-1), counts)


@_resampled
def nll(predictions: Predictions, counts=None) -> float:
    """Negative log-likelihood of the labels, mean of -ln max(p_label, 1e-12), nats."""
    p, labels = predictions.probs, predictions.require("labels")
    return _mean(-np.log(np.maximum(p[np.arange(len(p)), labels], FLOOR)), counts)


@_resampled
def ece(predictions: Predictions, bins: int = 15, counts=None) -> float:
    """Expected calibration error of the top label: `bins` equal-width bins (lo, hi], sum of (n_b/n) |acc - conf|.

    Guo et al., ICML 2017. The plug-in estimate is biased upward, by about sqrt(bins / n) at worst: compare models on as
    many items.
    """
    edges = np.arange(1, _at_least_one(bins)) / bins
    return _calibration_gap(predictions, edges, counts)


@_resampled
def equal_mass_ece(predictions: Predictions, bins: int = 15, counts=None) -> float:
    """ECE over bins (lo, hi] between quantiles of the confidence; equal confidences share a bin.

    Nguyen & O'Connor, EMNLP 2015. Biased upward like `ece`. Resamples keep the bins of the sample.
    """
    return _calibration_gap(predictions, _quantile_edges(predictions, bins), counts)


def debiased_ece(predictions: Predictions, bins: int = 15) -> float:
    """Root of the positive part of an unbiased estimate of the squared calibration error over equal-mass bins.

    sum_b (n_b/n) mean over pairs i != j in b of g_i g_j, g = 1[correct] - confidence: leaving out i = j removes the
    sampling noise that biases the plug-in. Where confidence is constant within bins this is the debiased estimator of
    Kumar, Liang & Ma (NeurIPS 2019), (conf - acc)^2 - acc (1 - acc) / (n_b - 1). A root mean square over bins, so what
    it estimates is never below the ECE over the same bins.
    """
    gap, index = _gaps(predictions, _quantile_edges(predictions, bins))
    size, total, squares = (np.bincount(index, weights=w, minlength=bins) for w in (np.ones_like(gap), gap, gap ** 2))
    pairs = (total ** 2 - squares) / np.maximum(size - 1, 1)  # n_b times the mean over pairs; 0 in a bin of one item
    return math.sqrt(max(pairs[size > 1].sum() / len(gap), 0))


def _mean(values, counts):
    return counts @ np.asarray(values, dtype=np.float64) / counts.sum(1)


def _variants_right(predictions):
    return predictions.perturbed_answers == predictions.require("labels")[:, None]


def _at_least_one(bins):
    expect(isinstance(bins, Integral) and bins >= 1, lambda: f"bins = {bins!r}: give a whole number, at least one bin")
    return bins


def _quantile_edges(predictions, bins):
    return np.quantile(predictions.probs.max(-1), np.arange(1, _at_least_one(bins)) / bins)


def _gaps(predictions, edges):
    """(N,) 1[correct] - confidence, and the bin of each item between these inner edges."""
    confidence = predictions.probs.max(-1)
    # rounded, a confidence on an edge is in the bin below on every processor
    return ~predictions.is_error - confidence, np.searchsorted(np.round(edges, 9), confidence.round(9), side="left")


def _calibration_gap(predictions, edges, counts):
    gap, index = _gaps(predictions, edges)
    by_bin = np.zeros((len(gap), len(edges) + 1))
    by_bin[np.arange(len(gap)), index] = gap
    return np.abs(counts @ by_bin).sum(1) / counts.sum(1)


# --- of a score ---

@_resampled
def auroc(is_error, score, counts=None) -> float:
    """Probability that a random error scores above a random right answer, ties counting half.

    Raises SingleClassError if `is_error` holds one class only, ValueError if shapes differ or a score is NaN.
    """
    errors, right, inversions = _pairs(is_error, score, counts)
    two_classes(is_error)
    with np.errstate(invalid="ignore"):
        return 1 - inversions / (errors * right)


@_resampled
def aurc(is_error, score, counts=None) -> float:
    """Area under the risk-coverage curve: mean over k = 1..N of the error rate among the k lowest scores."""
    return _aurc(*_blocks(is_error, score, counts))


@_resampled
def e_aurc(is_error, score, counts=None) -> float:
    """Excess AURC: AURC minus that of the oracle that ranks all errors last (Geifman, Uziel & El-Yaniv, ICLR 2019).

    The oracle of the finite sample, not its limit e + (1 - e) ln(1 - e): a perfect score has exactly 0.
    """
    size, bad = _blocks(is_error, score, counts)
    return _aurc(size, bad) - _oracle_aurc(size, bad)


@_resampled
def augrc(is_error, score, counts=None) -> float:
    """Area under the generalised risk-coverage curve, P(wrong and answered) against coverage, linear between items.

    Traub et al., NeurIPS 2024. Equals (1 - AUROC) e (1 - e) + e^2 / 2 with error rate e; 0 without errors.
    """
    errors, right, inversions = _pairs(is_error, score, counts)
    return (inversions + errors ** 2 / 2) / (errors + right) ** 2


@_resampled
def prr(is_error, score, counts=None) -> float:
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


@_resampled
def selective_accuracy(is_error, score, coverage: float = 0.8, counts=None) -> float:
    """Accuracy on the ceil(coverage * N) items of lowest score. ValueError unless 0 < coverage <= 1."""
    expect(isinstance(coverage, Real) and 0 < coverage <= 1, lambda: f"coverage = {coverage!r}: give a share in (0, 1]")
    size, bad = _blocks(is_error, score, counts)
    kept = np.ceil(coverage * size.sum(1) - 1e-9)
    end = size.cumsum(1)
    last = (np.arange(len(end)), (end >= kept[:, None]).argmax(1))  # the block in which each resample reaches `kept`
    beyond = (end[last] - kept) * bad[last] / size[last]
    return 1 - (bad.cumsum(1)[last] - beyond) / kept


def selective_risk(is_error, score) -> np.ndarray:
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
    return is_error.astype(bool), _comparable(score)


def _comparable(score):
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


# --- intervals ---

def intervals(runs: Sequence[Mapping[str, object]], metric: Callable = auroc, references: Sequence[str] = ("entropy",),
              resamples: int = 1000, seed: int = 0, level: float = 0.95) -> list[dict]:
    """Mean of a metric over seeds for every name, and its gain over references, with paired-bootstrap intervals.

    runs : one {name: arguments of the metric} per seed, all on the same N items in the same order:
    {score name: (is_error, score)} or {training: Predictions}. metric : any of this module that takes `counts`.
    A resample of the items serves all names and seeds, so that differences are paired and seeds stay clustered; one
    for which the metric does not exist (all errors, or all right) is left out.

    Returns one row {name, value, low, high, reference, gain, gain_low, gain_high, p} per name and reference:
    percentile intervals at `level`, moved by the mean of the resamples less the value, and the two-sided p-value of
    "no gain", normal with the bootstrap's deviation. The move is next to nothing except for `ece`, which is higher on
    resamples: unmoved, its interval may lie above its value.

    Resamples are drawn and measured in blocks of 64 MB, whatever N. ValueError for runs of another form, with other
    names or sizes, an unknown reference, resamples < 2 or a level outside (0, 1).
    """
    _check_runs(runs, references, resamples, level)
    names = list(runs[0])

    def arguments(value):
        return value if isinstance(value, tuple) else (value,)

    sizes = {len(arguments(run[name])[0]) for run in runs for name in names}
    expect(len(sizes) == 1, f"the runs have {sorted(sizes)} items: give every name and seed the same items")
    (n,) = sizes
    parts = [[np.mean([metric(*arguments(run[name]), counts=counts) for run in runs], axis=0) for name in names]
             for counts in _resamples(n, resamples, seed)]
    values = dict(zip(names, np.concatenate(parts, axis=1)))
    percentages = 100 * np.array([(1 - level) / 2, (1 + level) / 2])

    def interval(v):
        return np.nanpercentile(v[1:], percentages) - (np.nanmean(v[1:]) - v[0])

    rows = []
    for name, value in values.items():
        low, high = interval(value)
        for reference in references:
            gain = value - values[reference]
            gain_low, gain_high = interval(gain)
            rows.append(dict(name=name, value=value[0], low=low, high=high, reference=reference, gain=gain[0],
                             gain_low=gain_low, gain_high=gain_high, p=_p_value(gain[0], gain[1:])))
    return rows


def _check_runs(runs, references, resamples, level):
    expect(isinstance(runs, Sequence) and len(runs) and all(isinstance(run, Mapping) for run in runs), lambda: "runs "
           f"is no list of dicts but a {type(runs).__name__}: give one {{name: arguments of the metric}} per seed")
    for i, run in enumerate(runs):
        expect(run and runs[0].keys() <= run.keys(), lambda: f"runs[{i}] has the names {list(run)}, runs[0] "
               f"{list(runs[0])}: give every seed the same names, at least one")
    expect(not isinstance(references, str), lambda: f"references = {references!r}: give a list of names")
    absent = [reference for reference in references if reference not in runs[0]]
    expect(not absent, lambda: f"reference {absent[:1]} is not among the names {list(runs[0])}")
    expect(isinstance(resamples, Integral) and resamples >= 2, lambda: f"resamples = {resamples!r}: give at least 2")
    expect(isinstance(level, Real) and 0 < level < 1, lambda: f"level = {level!r}: give a share between 0 and 1")


def _resamples(n, resamples, seed) -> Iterator[np.ndarray]:
    """Blocks (B, n) of how often each item occurs: once, then in every resample."""
    rows = max(LARGEST // n - 1, 1)
    return iter([_all_resamples(n, resamples, seed)]) if rows >= resamples else _drawn(n, resamples, seed, rows)


@functools.lru_cache(maxsize=1)  # many intervals are over as many items
def _all_resamples(n, resamples, seed):
    return np.concatenate(list(_drawn(n, resamples, seed, resamples)))


def _drawn(n, resamples, seed, rows):
    rng = np.random.default_rng(seed)
    yield np.ones((1, n), dtype=np.int32)
    for first in range(0, resamples, rows):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(rows, resamples - first)).astype(np.int32)


def auroc_intervals(runs: Sequence[tuple[np.ndarray, dict[str, np.ndarray]]], references: Sequence[str] = ("entropy",),
                    resamples: int = 1000, seed: int = 0, level: float = 0.95) -> list[dict]:
    """`intervals` of the AUROC of scores: one (is_error (N,), {name: score (N,)}) per seed.

    Returns one row {score, auroc, low, high, reference, gain, gain_low, gain_high, p} per score and reference.
    """
    pairs = isinstance(runs, Sequence) and all(
        isinstance(run, (tuple, list)) and len(run) == 2 and isinstance(run[1], Mapping) for run in runs)
    expect(pairs and not isinstance(references, Mapping), "runs is no list of pairs: give [(is_error, {name: score})], "
           "one pair per seed, not is_error and the scores apart")
    runs = [{name: (is_error, score) for name, score in scores.items()} for is_error, scores in runs]
    return [{"score": row.pop("name"), "auroc": row.pop("value"), **row}
            for row in intervals(runs, auroc, references, resamples, seed, level)]


def _p_value(gain, resampled):
    """Two-sided, of "no gain", by the normal law with the bootstrap's standard deviation: fine enough for `holm`."""
    deviation = np.nanstd(resampled)
    return float(2 * ndtr(-abs(gain) / deviation)) if deviation > 0 else float(gain == 0)


def holm(p_values) -> np.ndarray:
    """(m,) p-values adjusted for m tests (Holm 1979): those <= alpha make no false claim with probability >= 1 - alpha.

    Valid under any dependence between the tests. NaN stays NaN and counts as no test. ValueError outside [0, 1].
    """
    p = numbers("p_values", p_values, "give one number per test")
    expect(p.ndim == 1, f"p_values has shape {p.shape}: give a vector")
    outside = (p < 0) | (p > 1)
    expect(not outside.any(), lambda: f"p_values[{int(np.argmax(outside))}] = {p[outside][0]}: probabilities are in "
           "[0, 1]")
    order = np.argsort(p)  # NaN last
    factor = np.maximum((~np.isnan(p)).sum() - np.arange(len(p)), 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.fmax.accumulate(p[order] * factor), 1)
    return np.where(np.isnan(p), np.nan, adjusted)


MODEL_METRICS: dict[str, Callable[[Predictions], float]] = {
    "accuracy": accuracy, "robust_accuracy": robust_accuracy, "ece": ece, "brier": brier, "nll": nll,
}
SCORE_METRICS: dict[str, Callable[..., float]] = {
    "auroc": auroc, "aurc": aurc, "e_aurc": e_aurc, "selective_accuracy_80": selective_accuracy,
}
