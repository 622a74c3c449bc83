"""What can be said about a model without a label, with confidence 1 - delta: tools of the repaired theory.

The bounds on errors read x and its K variants as K + 1 exchangeable members of one orbit: a pair is two different
members in random order. Its law is symmetric whatever the kernel, which is all that Theorems 7 and 8 ask for. The
errors they speak of are therefore those on the pooled orbits (weight 1 / (K + 1) on x), not on x alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta

from ..divergences import DIVERGENCES, divergence_named, entropy
from ..inputs import expect
from ..predictions import Predictions
from ..scores import margin
from ..theory.numbers import LAMBDA_JS, LAMBDA_TV, LN2, js_cost, unseen_share
from .miscalibration import BINS, CELL_KINDS, PARTS, held_out_gaps

ITEMS = "items are drawn independently, one orbit each"
MEANING = "x and its variants share one label law (meaning is preserved)"
POOLED = "the statement is about the pooled orbits: x and its K variants with equal weight"
FORMULATIONS = "the statement is about each formulation by itself, averaged: x and its K variants with equal weight"
ALONE = ("Without a label the inputs alone have no floor above 0, as the variants may make all the mistakes; this "
         "floor holds for them too if they are answered no better than their variants")


@dataclass(frozen=True)
class ErrorFloor:
    """At least `bound` of the answers to x and its variants, pooled, are wrong. Nothing follows for x alone.

    flips of n pairs disagree; `plain` = flips / (2 n), without delta.
    """

    bound: float
    plain: float
    flips: int
    n: int
    k: int
    delta: float
    assumptions: tuple[str, ...]

    def __str__(self):
        return (f"If these variants keep the meaning, at least {self.bound:.2%} of the answers to the inputs and their "
                f"variants, pooled, are wrong (confidence {1 - self.delta:.6g}); no label was used.\n{self.flips} of "
                f"{self.n} pairs disagree (half of that: {self.plain:.2%}); K = {self.k}. {ALONE}.\n"
                + listed(self.assumptions))


def error_floor(predictions: Predictions, delta: float = 0.05, seed: int = 0) -> ErrorFloor:
    """Label-free lower bound on the error rate: half of the Clopper-Pearson lower limit of the flip rate.

    One pair per item, drawn with `seed`; if its two answers differ, one of them is wrong for any label (Theorem 7).
    Holds with probability >= 1 - delta, exactly, if the variants keep the meaning (`sua.perturb.audit` asks a judge).
    It speaks of x and its variants pooled. No such bound exists for x alone: whatever the model answers to x may be
    the label, and then no answer to x is wrong. ValueError for a delta outside (0, 1) or without variants.
    """
    check_delta(delta)
    first, second = _pairs(predictions, seed)
    flips, n = int((first.argmax(-1) != second.argmax(-1)).sum()), len(predictions)
    low = float(beta.ppf(delta, flips, n - flips + 1)) if flips else 0.0
    return ErrorFloor(low / 2, flips / (2 * n), flips, n, predictions.perturbed.shape[1], delta,
                      (ITEMS, MEANING, POOLED))


@dataclass(frozen=True)
class Misalignment:
    """The canonical calibration error E TV(p, E[p*|p]) is at least `bound` (0: the certificate is silent).

    plain : the estimate behind it, without delta (may be negative). sensitivity, entropy : pooled means of S and H
    (nats). sua : their mean S - lam H at the sharp lam. groups : {group: (items, plain, bound)}, if groups were given.
    """

    bound: float
    plain: float
    sensitivity: float
    entropy: float
    sua: float
    lam: float
    divergence: str
    n: int
    k: int
    delta: float
    groups: dict
    assumptions: tuple[str, ...]

    def __str__(self):
        verdict = (f"this model is miscalibrated by at least {self.bound:.4f}" if self.bound > 0 else
                   "nothing can be said against its calibration")
        table = "".join(f"  group {name}: n = {n}, estimate {plain:.4f}, at least {low:.4f}\n"
                        for name, (n, plain, low) in self.groups.items())
        return (f"With confidence {1 - self.delta:.6g}, {verdict}; no label was used.\nEstimate of the lower bound: "
                f"{self.plain:.4f} from {self.n} items, K = {self.k}; mean S_{self.divergence} = "
                f"{self.sensitivity:.4f}, mean H = {self.entropy:.4f} nats, mean SUA at lambda = {self.lam:.4f}: "
                f"{self.sua:.4f}.\n"
                f"{table}{listed(self.assumptions)}")


@dataclass(frozen=True)
class Miscalibration:
    """The calibration error over cells, `orbit_calibration_error`, is at least `bound` (0: the certificate is silent).

    plain : the estimate behind it, without delta (may be negative). kind, within, bins : which cells. n : items that
    the bound was read from. fitted : further items, on which the weights of the cells were chosen. k : variants per
    item. groups : {group: (items, plain, bound)}, if groups were given.
    """

    bound: float
    plain: float
    kind: str
    within: tuple[str, ...]
    bins: int
    n: int
    fitted: int
    k: int
    delta: float
    groups: dict
    assumptions: tuple[str, ...]

    def __str__(self):
        what = {"top_label": "confidence misses accuracy", "class_wise": "class probabilities miss class frequencies"}
        verdict = (f"this model is miscalibrated: its {what[self.kind]} by at least {self.bound:.4f} on average"
                   if self.bound > 0 else "nothing can be said against its calibration")
        cell = ", ".join([f"{self.bins} equal bins of the probability", *(f"each {part}" for part in self.within)])
        table = "".join(f"  group {name}: n = {n}, estimate {plain:.4f}, at least {low:.4f}\n"
                        for name, (n, plain, low) in self.groups.items())
        return (f"With confidence {1 - self.delta:.6g}, {verdict}; no label was used.\nCells: {cell}. Estimate of the "
                f"lower bound: {self.plain:.4f} from {self.n} items, after {self.fitted} others had chosen the cells "
                f"to look at; K = {self.k}.\n{table}{listed(self.assumptions)}")


def misalignment_test(predictions: Predictions, delta: float = 0.05, kind: str = "tv",
                      groups: ArrayLike | None = None, seed: int = 0, within: Sequence[str] = PARTS,
                      bins: int = BINS) -> Misalignment | Miscalibration:
    """Label-free lower bound on the calibration error: a calibrated model cannot move more than its entropy allows.

    kind : which calibration error.
        "tv" and "js", canonical, from sensitivity and entropy (Theorem 8; both constants are sharp). "tv":
        >= (E S_TV - 2 E G) / 2, G = 1 - sum p^2, which is at least (E S_TV - E H_bits) / 2. "js":
        >= (E S_JS - E sum p w(p)) / (2 ln 2), w as in `sua.theory.js_cost`, at least (E S_JS - 0.6226 E H) / (2 ln 2).
        "top_label" and "class_wise", over cells of outputs (`orbit_calibration_error`): for every weighting w of the
        cells >= E min_y mean_m w(cell) (p - 1[class = y]), with the best w the largest bound that exists (Theorem 17).
        With w = 1 on confidences it is E max p - E(plurality share of the orbit). A third of the items choose w, the
        bound is read from the others.
    groups : (N,) group of each item, fixed without these items' pairs, e.g. on a separate split. The bound is then
        sum_g (n_g / N) bound_g on the mean calibration error within groups, all groups at once (delta / #groups each).
        A mean over all items can hide a miscalibrated group behind the entropy of the others; groups find it.
    seed : order of the items: which of them choose the weights, and in which order the betting bound reads the rest.
    within, bins : cells of the last two kinds: `bins` equal bins of the probability, by formulation and by class.
        within=() asks for less, calibration of the pooled confidence alone; its bound is on the ECE of `bins` bins and
        so of every refinement (5 bins: also of 10 or 15).

    Finite sample: the statistic of an item is bounded, so the lower limit is that of a betting martingale
    (`mean_lower_bound`), valid at every n.
    ValueError for a delta outside (0, 1), an unknown kind or part, or groups of another length.
    """
    check_delta(delta)
    expect(kind in ("tv", "js", *CELL_KINDS), f"kind = {kind!r}: choose one of tv, js, {', '.join(CELL_KINDS)}; "
           "no constant exists for KL")
    orbit, by_cells = predictions.orbit, kind in CELL_KINDS
    n, members, classes = orbit.shape

    def gaps(rows):
        return held_out_gaps(orbit[rows], kind, within, bins) if by_cells else _excess(orbit[rows], kind)

    ends = (-1, 1 - 1 / classes) if by_cells else (1 / classes - 1, 0.5)
    table, used = _group_bounds(gaps, n, groups, delta, seed, ends)
    bound, plain = (sum(row[0] * row[i] for row in table.values()) / n for i in (2, 1))
    assumptions = (ITEMS, MEANING, FORMULATIONS if by_cells and "formulation" in within else POOLED)
    if len(table) > 1:
        assumptions += ("groups were fixed without these items' pairs; the bound is on the calibration error within "
                        "groups, weighted by their shares here",)
    shown = table if len(table) > 1 else {}
    if by_cells:
        return Miscalibration(bound, plain, kind, tuple(within), bins, used, n - used, members - 1, delta, shown,
                              assumptions)
    s, h = float(_moved(orbit, kind).mean()), float(entropy(orbit).mean())
    lam = float(LAMBDA_TV if kind == "tv" else LAMBDA_JS)
    return Misalignment(bound, plain, s, h, s - lam * h, lam, kind, n, members - 1, delta, shown, assumptions)


def _group_bounds(gaps, n, groups, delta, seed, ends):
    """{group: (items, mean gap, lower limit)}, all limits at once, and the number of items that they were read from."""
    groups = np.zeros(n, dtype=int) if groups is None else np.asarray(groups)
    expect(groups.shape == (n,), f"groups has shape {groups.shape}, expected ({n},): give one group per item")
    names, index = np.unique(groups, return_inverse=True)
    order, table, used = np.random.default_rng(seed).permutation(n), {}, 0
    for g, name in enumerate(names):
        mine = order[index[order] == g]
        values = gaps(mine)
        low = max(0.0, float(mean_lower_bound(values, delta / len(names), *ends)))
        table[name.item()] = (len(mine), float(values.mean()), low)
        used += len(values)
    return table, used


def _moved(orbit, divergence):
    """(N,) mean divergence over the pairs of different members."""
    members = orbit.shape[1]
    pairs = sum(DIVERGENCES[divergence](orbit, orbit[:, [j]]).sum(-1) for j in range(members))
    return pairs / (members * (members - 1))


def _excess(orbit, divergence):
    """(N,) the statistic of Theorem 8, between 1/C - 1 and 1/2."""
    if divergence == "tv":
        return _moved(orbit, "tv") / 2 - (1 - (orbit**2).sum(-1)).mean(-1)
    return (_moved(orbit, "js") - js_cost(orbit).mean(-1)) / (2 * LN2)


def mean_lower_bound(values, delta: float, low: float, high: float) -> np.ndarray:
    """(...) lower confidence limit of the mean of independent values (..., n) in [low, high]; P(limit > mean) <= delta.

    A gambler bets that the mean exceeds m, with stakes that depend on the past alone; if the mean is m, the capital is
    a martingale and exceeds 1 / delta with probability <= delta (Ville). The limit is the smallest m not so refuted.
    Stakes as in Waudby-Smith & Ramdas, JRSSB 2024: they adapt to the variance, which Hoeffding's bound cannot.
    """
    x = (np.asarray(values, dtype=np.float64) - low) / (high - low)
    n, steps = x.shape[-1], np.arange(1, x.shape[-1] + 1)
    center = (0.5 + x.cumsum(-1)) / (steps + 1)
    variance = (0.25 + ((x - center) ** 2).cumsum(-1)) / (steps + 1)
    variance = np.concatenate([np.full((*x.shape[:-1], 1), 0.25), variance[..., :-1]], -1)  # of the past
    stake = np.sqrt(2 * math.log(1 / delta) / (n * variance))
    refuted, kept = np.zeros(x.shape[:-1]), np.ones(x.shape[:-1])
    for _ in range(30):  # the capital falls as m rises: bisection
        m = (refuted + kept)[..., None] / 2
        capital = np.log1p(np.minimum(stake, 0.75 / m) * (x - m)).cumsum(-1).max(-1)
        wins = capital >= math.log(1 / delta)
        refuted, kept = np.where(wins, m[..., 0], refuted), np.where(wins, kept, m[..., 0])
    return low + (high - low) * refuted


@dataclass(frozen=True)
class StabilityCertificate:
    """Which answers cannot have flipped on the variants seen, and what that says about those not seen.

    stable : (N,) bool, worst TV seen < m / 2. radius : (N,) m / 2, no variant nearer than this flips the answer.
    moved : (N,) worst TV seen. bound : share of Pi that may still flip a stable answer, 1 - delta^(1/K). needed : the K
    that brings it to 5 %. certified : share of stable items.
    """

    bound: float
    certified: float
    stable: np.ndarray
    radius: np.ndarray
    moved: np.ndarray
    k: int
    needed: int
    delta: float
    assumptions: tuple[str, ...]

    def __str__(self):
        return (f"{self.stable.sum()} of {len(self.stable)} answers ({self.certified:.1%}) cannot have flipped: their "
                f"output moved by less than half of its margin on all K = {self.k} variants seen.\nUnseen variants: "
                f"up to {self.bound:.1%} of the kernel may still flip such an answer (confidence "
                f"{1 - self.delta:.6g} per item); K = {self.needed} would bring this to 5 %.\n"
                + listed(self.assumptions))


def stability_certificate(predictions: Predictions, delta: float = 0.05) -> StabilityCertificate:
    """Answers whose output stays within half of its margin: a flip needs TV >= (m + m') / 2 (Theorem 5).

    Among the variants seen this is certain. For those not seen: with probability 1 - delta over the K draws of an item,
    at most `bound` of the kernel lies beyond the worst TV seen (Theorem 3d). So of all items at most a share delta is
    expected to be called stable wrongly. It says that the answer does not move, not that it is right.
    """
    check_delta(delta)
    perturbed = predictions.require("perturbed")
    moved = divergence_named("tv")(predictions.probs[:, None], perturbed).max(-1)
    radius = -margin(predictions) / 2
    stable = moved < radius
    k = perturbed.shape[1]
    return StabilityCertificate(
        bound=float(unseen_share(k, delta)),
        certified=float(stable.mean()),
        stable=stable,
        radius=radius,
        moved=moved,
        k=k,
        needed=math.ceil(math.log(delta) / math.log(0.95)),
        delta=delta,
        assumptions=("variants of an item are drawn independently from the kernel",
                     "the tolerance holds for each item separately, before looking at which are stable"),
    )


def _pairs(predictions, seed):
    """Two different members of each orbit in random order: (N, C), (N, C)."""
    orbit, rng = predictions.orbit, np.random.default_rng(seed)
    n, members = orbit.shape[:2]
    first = rng.integers(members, size=n)
    second = (first + rng.integers(1, members, size=n)) % members
    return orbit[np.arange(n), first], orbit[np.arange(n), second]


def check_delta(delta):
    expect(0 < delta < 1, f"delta = {delta}: give a number strictly between 0 and 1, e.g. 0.05")


def listed(assumptions):
    return "Assumes: " + "; ".join(assumptions) + "."
