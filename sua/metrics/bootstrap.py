"""Paired bootstrap intervals of any metric that takes `counts`, and p-values for many of them."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from ..inputs import expect, numbers
from .ranking import auroc
from .resamples import draw_counts


def intervals(runs: Sequence[Mapping[str, object]], metric: Callable = auroc, references: Sequence[str] = ("entropy",),
              resamples: int = 1000, seed: int = 0, level: float = 0.95) -> list[dict]:
    """Mean of a metric over seeds for every name, and its gain over references, with paired-bootstrap intervals.

    runs : one {name: arguments of the metric} per seed, all on the same N items in the same order:
    {score name: (is_error, score)} or {training: Predictions}. metric : any of `sua.metrics` that takes `counts`.
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
             for counts in draw_counts(n, resamples, seed)]
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


def holm(p_values: ArrayLike) -> np.ndarray:
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
