"""Metrics of a model: how often it is right, on x and on variants, and how well its probabilities fit."""

from __future__ import annotations

import math
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike

from ..divergences import FLOOR
from ..inputs import expect
from ..predictions import Predictions
from .resamples import resampled


@resampled
def accuracy(predictions: Predictions, counts: ArrayLike | None = None) -> float | np.ndarray:
    """Share of right answers."""
    return _mean(~predictions.is_error, counts)


@resampled
def robust_accuracy(predictions: Predictions, counts: ArrayLike | None = None) -> float | np.ndarray:
    """Share of items answered right on x and on all K variants. Falls with K: report K beside it."""
    return _mean(_variants_right(predictions).all(1) & ~predictions.is_error, counts)


@resampled
def worst_of_k(predictions: Predictions, counts: ArrayLike | None = None) -> float | np.ndarray:
    """Share of items answered right on all K variants, whatever the answer to x. Falls with K: report K beside it."""
    return _mean(_variants_right(predictions).all(1), counts)


@resampled
def mean_of_k(predictions: Predictions, counts: ArrayLike | None = None) -> float | np.ndarray:
    """Accuracy on the variants, mean over items and the K variants of each."""
    return _mean(_variants_right(predictions).mean(1), counts)


@resampled
def brier(predictions: Predictions, counts: ArrayLike | None = None) -> float | np.ndarray:
    """Brier score, sum over classes: mean of sum_y (p_y - 1[y = label])^2, in [0, 2]."""
    p, labels = predictions.probs, predictions.require("labels")
    return _mean(((p - np.eye(p.shape[1])[labels]) ** 2).sum(-1), counts)


@resampled
def nll(predictions: Predictions, counts: ArrayLike | None = None) -> float | np.ndarray:
    """Negative log-likelihood of the labels, mean of -ln max(p_label, 1e-12), nats."""
    p, labels = predictions.probs, predictions.require("labels")
    return _mean(-np.log(np.maximum(p[np.arange(len(p)), labels], FLOOR)), counts)


@resampled
def ece(predictions: Predictions, bins: int = 15, counts: ArrayLike | None = None) -> float | np.ndarray:
    """Expected calibration error of the top label: `bins` equal-width bins (lo, hi], sum of (n_b/n) |acc - conf|.

    Guo et al., ICML 2017. The plug-in estimate is biased upward, by about sqrt(bins / n) at worst: compare models on as
    many items.
    """
    edges = np.arange(1, _at_least_one(bins)) / bins
    return _calibration_gap(predictions, edges, counts)


@resampled
def equal_mass_ece(predictions: Predictions, bins: int = 15, counts: ArrayLike | None = None) -> float | np.ndarray:
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
