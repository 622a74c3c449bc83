"""Scores of one pass over x: the shape of p, its logits, answers sampled at x."""

from __future__ import annotations

import numpy as np

from ..predictions import Predictions


def msp(predictions: Predictions) -> np.ndarray:
    """1 - max p, the complement of the maximum softmax probability."""
    return 1 - predictions.probs.max(-1)


def margin(predictions: Predictions) -> np.ndarray:
    """p_(2) - p_(1): minus the gap between the two most probable classes."""
    top = np.partition(predictions.probs, -2, axis=-1)
    return top[:, -2] - top[:, -1]


def energy(predictions: Predictions) -> np.ndarray:
    """-logsumexp(logits) at temperature 1: reads their absolute level, which softmax throws away."""
    return -np.logaddexp.reduce(predictions.require("logits"), axis=-1)


def self_consistency(predictions: Predictions) -> np.ndarray:
    """1 - max_y freq(y) over the M answers sampled at the same x. Fill `samples` with Predictions.sample(m)."""
    samples = predictions.require("samples")
    counts = (samples[:, :, None] == np.arange(predictions.probs.shape[1])).sum(1)
    return 1 - counts.max(-1) / samples.shape[1]
