"""How far from calibrated a model must be, seen from its outputs on formulations of one question and from no label.

A cell gathers statements "class k has probability p" whose p are alike, so that the share of them that come true can be
held against p. No share of answers is known without labels; but one label settles all formulations of an item, and that
rules out more than it seems.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array, hstack

from ..inputs import expect
from ..predictions import Predictions

CELL_KINDS = ("top_label", "class_wise")
PARTS = ("formulation", "class")
BINS = 5
LARGEST_FIT = 300_000  # statements; a linear programme of this size takes seconds


def statements(orbit, kind: str, within=PARTS, bins: int = BINS):
    """(item, class, cell, probability), each (T,): what the outputs (N, M, C) assert.

    kind "top_label": one statement per output, on its answer. "class_wise": one per output and class. A cell is a bin
    (lo, hi] of the probability, of `bins` equal ones, split by the parts named in `within`.
    """
    expect(kind in CELL_KINDS, f"kind = {kind!r}: choose one of {', '.join(CELL_KINDS)}")
    strange = [part for part in within if part not in PARTS]
    expect(not isinstance(within, str) and not strange, f"within = {within!r}: give a tuple of {', '.join(PARTS)}")
    expect(bins >= 1, f"bins = {bins}: give at least one bin")
    _, members, classes = orbit.shape
    answered = orbit.argmax(-1)[..., None] == np.arange(classes)
    item, member, label = np.nonzero(answered | (kind == "class_wise"))
    p = orbit[item, member, label]
    cell = np.searchsorted(np.arange(1, bins) / bins, p, side="left")
    for part, value, size in (("formulation", member, members), ("class", label, classes)):
        cell = cell * size + value if part in within else cell
    return item, label, cell, p


def certain_gap(orbit, weight, kind: str, within=PARTS, bins: int = BINS) -> np.ndarray:
    """(N,) by how much the statements of an item exceed what can come true of them, whatever its label is.

    min over y of mean over its M outputs of sum of weight[cell] (p - 1[class = y]); its mean is at most the
    calibration error for every `weight` (cells,) in [-1, 1] (top label) or [0, 1] (class-wise).
    """
    item, label, cell, p = statements(orbit, kind, within, bins)
    n, members, classes = orbit.shape
    claimed = np.bincount(item, weight[cell] * p, minlength=n)
    granted = np.bincount(item * classes + label, weight[cell], minlength=n * classes).reshape(n, classes)
    return (claimed - granted.max(-1)) / members


def best_weights(orbit, kind: str, within=PARTS, bins: int = BINS) -> np.ndarray:
    """(cells,) the weights of highest mean `certain_gap` on these outputs: a linear programme. 0 for cells not seen."""
    item, label, cell, p = statements(orbit, kind, within, bins)
    n, members, classes = orbit.shape
    cells = bins * (members if "formulation" in within else 1) * (classes if "class" in within else 1)
    if n == 0:
        return np.ones(cells)
    # variables: the weights, then for each item what the label kindest to the model grants; all times M
    granted = coo_array((np.ones(len(cell)), (item * classes + label, cell)), shape=(n * classes, cells))
    kindest = coo_array((np.ones(n * classes), (np.arange(n * classes), np.arange(n).repeat(classes))))
    low = -1 if kind == "top_label" else 0
    found = linprog(np.append(-np.bincount(cell, p, minlength=cells), np.ones(n)),
                    A_ub=hstack([granted, -kindest], format="csr"), b_ub=np.zeros(n * classes),
                    bounds=[(low, 1)] * cells + [(None, None)] * n, method="highs")
    expect(found.success, lambda: f"no weights were found ({found.message}): give fewer bins or parts")
    return np.where(np.bincount(cell, minlength=cells) > 0, found.x[:cells], 0)


def held_out_gaps(orbit, kind: str, within=PARTS, bins: int = BINS) -> np.ndarray:
    """(N - fitted,) `certain_gap` of the later items, with the weights that the first third of them chose."""
    _, members, classes = orbit.shape
    largest = LARGEST_FIT // (members * (classes if kind == "class_wise" else 1))
    fitted = min(len(orbit) // 3, max(largest, 1))
    weight = best_weights(orbit[:fitted], kind, within, bins)
    return certain_gap(orbit[fitted:], weight, kind, within, bins)


def orbit_calibration_error(predictions: Predictions, kind: str = "top_label", within: Sequence[str] = PARTS,
                            bins: int = BINS) -> float:
    """What `misalignment_test(kind=...)` bounds without labels, measured with them: mean over x and its K variants.

    "top_label": sum over cells of |sum of (confidence - 1[right])| / (N M). With within=() this is the ECE of the
    pooled orbits; with "class" a model is also held to its accuracy on each answer it gives (Gupta & Ramdas, ICLR
    2022); with "formulation" to that on each formulation. "class_wise": half of sum over cells of
    |sum of (p_k - 1[label = k])| / (N M), between 0 and 1. More bins or parts never lower it. Biased upward on few
    items, like every plug-in. ValueError without labels or variants.
    """
    orbit, labels = predictions.orbit, predictions.require("labels")
    item, label, cell, p = statements(orbit, kind, within, bins)
    gap = np.bincount(cell, p - (label == labels[item]))
    return float(np.abs(gap).sum() / (1 if kind == "top_label" else 2) / orbit[..., 0].size)
