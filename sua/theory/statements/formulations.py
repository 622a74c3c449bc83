"""Theorems 15 to 17: the risk that averaging removes, distilling the mean, a floor of the ECE without a label.

An orbit is a question in M formulations, q_m the answer to one of them (m drawn as P draws it), qbar the mean of the
q_m, y the label that they share, e_y its vertex.
"""

from __future__ import annotations

import numpy as np

from ...divergences import EXACT as DIVERGENCES
from ..numbers import real
from ..world import log, one_hot
from .chain import statement
from .repaired import REPAIRED


def _orbit_mean(w, values):
    """(..., N, C) mean of values (..., N, C), which may be infinite, over the orbit of each input."""
    weight = np.where(w.same(w.orbits), w.mass[..., None, :], 0)[..., None]
    weight = weight / weight.sum(-2, keepdims=True)
    return (weight * np.where(weight > 0, values[..., None, :, :], 0)).sum(-2)


def _orbit_max(w, values):
    """(..., N, C) maximum of values (..., N, C) >= 0 over the orbit of each input."""
    return np.where(w.same(w.orbits)[..., None], values[..., None, :, :], 0).max(-2)


def _to_labels(p):
    """(..., N, C) the Brier loss |p - e_y|^2 for every label y; as a square it keeps small values exact."""
    return DIVERGENCES["square"](p[..., None, :], np.eye(p.shape[-1], dtype=int))


def _to_mean(w, p):
    """(..., N, 1) S_2 = mean_m |p_m - pbar|^2 of the orbit."""
    return _orbit_mean(w, DIVERGENCES["square"](p, _orbit_mean(w, p))[..., None])


def _root(world_mean):
    return np.sqrt(real(world_mean))


@statement(REPAIRED, "preserving")
def removable_brier(w):
    """Theorem 15a: mean_m |q_m - e_y|^2 = |qbar - e_y|^2 + S_2 for every y, S_2 = mean_m |q_m - qbar|^2.

    The parallel-axis theorem: the products (q_m - qbar)(qbar - e_y) sum to 0.
    """
    each = _orbit_mean(w, _to_labels(w.p))
    return each, _to_labels(_orbit_mean(w, w.p)) + _to_mean(w, w.p), each


@statement(REPAIRED, "preserving")
def removable_log(w):
    """Theorem 15b: mean_m -ln q_m(y) = -ln g(y) + mean_m KL(g || q_m) for every y, g the normalised geometric mean.

    ln g and mean_m ln q_m differ by a constant. Where every label is excluded by some q_m, both sides are infinite.
    """
    q = real(w.p)
    each = real(_orbit_mean(w, -log(q)))
    product = np.exp(-each)
    total = product.sum(-1, keepdims=True)
    g = np.where(total > 0, product / np.where(total > 0, total, 1), real(_orbit_mean(w, q)))
    return each, -log(g) + real(_orbit_mean(w, DIVERGENCES["kl"](g, q)[..., None])), each


@statement(REPAIRED, "preserving")
def worst_formulation(w):
    """Theorem 15e: sqrt(E max_m |q_m - e_y|^2) <= sqrt(Brier of qbar) + sqrt(E max_m |q_m - qbar|^2) <= the same with
    E S_2 / (least share of a formulation) in the second root: M E S_2 if all M are alike.

    |q_m - e_y| <= |qbar - e_y| + |q_m - qbar|, then Minkowski; a maximum is at most the sum.
    """
    mean = _orbit_mean(w, w.p)
    worst, of_mean = (w.mean((w.truth * loss).sum(-1)) for loss in (_orbit_max(w, _to_labels(w.p)), _to_labels(mean)))
    apart = _orbit_max(w, DIVERGENCES["square"](w.p, mean)[..., None])[..., 0]
    same = w.same(w.orbits)
    share = w.mass[..., None, :] / np.where(same, w.mass[..., None, :], 0).sum(-1, keepdims=True)
    summed = _to_mean(w, w.p)[..., 0] / np.where(same, share, 1).min(-1)
    return _root(worst), *(_root(of_mean) + _root(w.mean(moved)) for moved in (apart, summed))


def _student(w, fidelity):
    """Answers r_m of another model: part the orbit's mean qbar, part what the teacher answers to another input."""
    return fidelity * _orbit_mean(w, w.p) + (1 - fidelity) * np.roll(w.p, 1, axis=-2)


@statement(REPAIRED, "preserving")
def distilled(w, fidelity=0.5):
    """Theorem 16a: |sqrt(Brier of r) - sqrt(Brier of qbar)| <= sqrt(eps), eps = E mean_m |r_m - qbar|^2, any student r.

    Minkowski: r - e_y = (r - qbar) + (qbar - e_y). eps needs no label, and Brier of qbar = Brier of q - E S_2.
    """
    mean, student = _orbit_mean(w, w.p), _student(w, fidelity)
    reached, aim = (_root(w.mean((w.truth * _to_labels(p)).sum(-1))) for p in (student, mean))
    return np.abs(reached - aim), _root(w.mean(DIVERGENCES["square"](student, mean)))


@statement(REPAIRED, "preserving")
def distilled_parts(w, fidelity=0.5):
    """Theorem 16b: eps = E |rbar - qbar|^2 + E S_2(r), fidelity to the mean and consistency in one. Parallel axis."""
    mean, student = _orbit_mean(w, w.p), _student(w, fidelity)
    eps = w.mean(DIVERGENCES["square"](student, mean))
    fit = w.mean(DIVERGENCES["square"](_orbit_mean(w, student), mean))
    return eps, fit + w.mean(_to_mean(w, student)[..., 0]), eps


@statement(REPAIRED, "preserving")
def label_free_ece(w, turns=0, cells=None):
    """Theorem 17: E min_y mean_m v(c_m) (max p_m - 1[f_m = y]) <= ECE over cells c, for every v in [-1, 1]^cells.

    |gap of a cell| = max_v v gap, and the label is no kinder than the kindest one. The best v attains the least ECE of
    any label law: the gaps are linear in v and in the law, so maximum and minimum may be exchanged. Here v(c) =
    cos(turns c); v = 1 gives E max p - E(share of the most frequent answer in the orbit).
    """
    cells = w.p.max(-1) if cells is None else np.asarray(cells)
    v = np.cos(turns * real(cells))[..., None] if turns else np.ones((*cells.shape, 1), dtype=int)
    claimed = _orbit_mean(w, v * w.p.max(-1, keepdims=True))[..., 0]
    granted = _orbit_mean(w, v * one_hot(w.p)).max(-1)
    return w.mean(claimed - granted), w.ece(cells)
