"""How often each item occurs in resamples of N items, and metrics that take such counts."""

from __future__ import annotations

import functools
from typing import Callable, Iterator

import numpy as np

LARGEST = 1 << 24  # entries of the resamples that are held at a time, 64 MB


def resampled(metric: Callable) -> Callable:
    """Lets a metric that is written for counts (B, N) be called without them."""
    @functools.wraps(metric)
    def call(first, *others, counts=None, **parameters):
        if counts is None:
            return float(metric(first, *others, counts=np.ones((1, len(first)), dtype=int), **parameters)[0])
        return metric(first, *others, counts=np.asarray(counts), **parameters)
    return call


def draw_counts(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks (B, n) of how often each item occurs: once, then in every resample."""
    rows = max(LARGEST // n - 1, 1)
    return iter([_all_counts(n, resamples, seed)]) if rows >= resamples else _drawn(n, resamples, seed, rows)


@functools.lru_cache(maxsize=1)  # many intervals are over as many items
def _all_counts(n, resamples, seed):
    return np.concatenate(list(_drawn(n, resamples, seed, resamples)))


def _drawn(n, resamples, seed, rows):
    rng = np.random.default_rng(seed)
    yield np.ones((1, n), dtype=np.int32)
    for first in range(0, resamples, rows):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(rows, resamples - first)).astype(np.int32)
