"""Named worlds in exact fractions, most of them against a printed bound."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from .world import World


def rational(text: str) -> np.ndarray:
    """Rows of Fractions from text: "3/4 1/4 | 1 0" is a (2, 2) array, "1/2 1/2" a vector."""
    rows = [[Fraction(number) for number in row.split()] for row in text.split("|")]
    return np.array(rows if len(rows) > 1 else rows[0], dtype=object)


def _world(mass, kernel, p, truth):
    fields = [rational(text) for text in (mass, kernel, p, truth)]
    return World(fields[0], *(np.atleast_2d(value) for value in fields[1:]))


_SWAP = "0 1 | 1 0"
_SWAPS = "0 1 0 0 | 1 0 0 0 | 0 0 0 1 | 0 0 1 0"
_SURE = "1 0 | 1 0"


def calibrated_pairs(delta: str | Fraction = 0) -> World:
    """Two orbits of one confident and one undecided input; calibrated in every sense, S_TV = 1/2 - delta everywhere."""
    d = Fraction(delta)
    sure, other, half = f"{1 - d} {d}", f"{d} {1 - d}", "1/2 1/2"
    return _world("1/4 1/4 1/4 1/4", _SWAPS, f"{sure} | {half} | {other} | {half}",
                  f"{sure} | {sure} | {other} | {other}")


def _five_pairs():
    """Confidences 1 and 3/5 without a tie: the five unsure inputs say label 1, which is right for three of them."""
    kernel = np.kron(np.eye(5, dtype=int), np.array([[0, 1], [1, 0]])) * Fraction(1)
    truth = np.repeat(rational("1 0 | 1 0 | 1 0 | 0 1 | 0 1"), 2, axis=0)
    p = truth.copy()
    p[1::2] = rational("3/5 2/5")
    return World(np.full(10, Fraction(1, 10)), kernel, p, truth)


def _pairs_of_labels():
    """p uniform on the label and one of the two others: calibrated, S_TV = 1/2, at one bit of entropy."""
    half = "1/2 1/2 0 | 1/2 0 1/2 | 1/2 1/2 0 | 0 1/2 1/2 | 1/2 0 1/2 | 0 1/2 1/2"
    truth = "1 0 0 | 1 0 0 | 0 1 0 | 0 1 0 | 0 0 1 | 0 0 1"
    kernel = np.kron(np.eye(3, dtype=int), np.array([[0, 1], [1, 0]])) * Fraction(1)
    return World(np.full(6, Fraction(1, 6)), kernel, rational(half), rational(truth))


COUNTEREXAMPLES: dict[str, World] = {
    # against Eq 10, Eq 11 and the abstract
    "perfect coin": _world("1", "1", "1/2 1/2", "1/2 1/2"),
    "rare jump": _world("1 0", "9/10 1/10 | 0 1", "1 0 | 0 1", _SURE),
    "rare tilt": _world("1 0", "9/10 1/10 | 0 1", "3/4 1/4 | 1/4 3/4", _SURE),
    "swap": _world("1/2 1/2", _SWAP, "3/4 1/4 | 1/4 3/4", "3/4 1/4 | 3/4 1/4"),
    "swap at a point": _world("1 0", _SWAP, "3/4 1/4 | 1/4 3/4", _SURE),
    "swap of a sure thing": _world("1/2 1/2", _SWAP, "3/4 1/4 | 1/4 3/4", _SURE),
    "changed meaning": _world("1 0", _SWAP, _SURE, "1 0 | 0 1"),
    # against Thm 4.5
    "unseen neighbour": _world("1 0", _SWAP, "1 0 | 0 1", _SURE),
    "unseen tilt": _world("1 0", _SWAP, "1 0 | 1/4 3/4", _SURE),
    "opposites": _world("1/2 1/2", _SWAP, "1 0 | 0 1", _SURE),
    "near opposites": _world("1/2 1/2", _SWAP, "9/10 1/10 | 1/10 9/10", _SURE),
    "calibrated pairs": calibrated_pairs(),
    "calibrated pairs, KL": calibrated_pairs("1/100"),
    "five pairs": _five_pairs(),
    "three inputs": _world("1/4 1/4 1/2", "0 1 0 | 1 0 0 | 0 0 1", "3/4 1/4 | 1/4 3/4 | 3/4 1/4", "1 0 | 1 0 | 1 0"),
    "small bin": _world("1/20 1/20 9/10", "0 1 0 | 1 0 0 | 0 0 1", "1 0 | 0 1 | 3/5 2/5", "1 0 | 1 0 | 3/5 2/5"),
    "pairs of labels": _pairs_of_labels(),
    "top label only": _world("1/4 1/4 1/4 1/4", _SWAPS, "1 0 0 | 1/2 1/2 0 | 0 0 1 | 1/2 1/2 0",
                             "1 0 0 | 1 0 0 | 0 0 1 | 0 0 1"),
    # against Prop 4.8
    "coin and jump": _world("1/2 1/2 0", "1 0 0 | 0 0 1 | 0 1 0", "1/2 1/2 | 1 0 | 0 1", "1/2 1/2 | 1 0 | 1 0"),
    "coin and tilt": _world("1/2 1/2 0", "1 0 0 | 0 0 1 | 0 1 0", "1/2 1/2 | 1 0 | 1/4 3/4", "1/2 1/2 | 1 0 | 1 0"),
    "coin and orbit": _world("1/2 1/6 1/6 1/6", "1 0 0 0 | 0 0 1/2 1/2 | 0 1/2 0 1/2 | 0 1/2 1/2 0",
                             "1/2 1/2 | 9/10 1/10 | 9/10 1/10 | 1/10 9/10", "1/2 1/2 | 1 0 | 1 0 | 1 0"),
    # a one-sided alarm, sharpness of the two-sided one, one model under two truths, and one question asked three times
    "one-sided alarm": _world("1/2 1/2", _SWAP, "1 0 | 51/100 49/100", _SURE),
    "alarm edge": _world("1/2 1/2", _SWAP, "1 0 | 501/1000 499/1000", _SURE),
    "one meaning": _world("1/2 1/2", _SWAP, "99/100 1/100 | 99/100 1/100", "99/100 1/100 | 99/100 1/100"),
    "two meanings": _world("1/2 1/2", _SWAP, "99/100 1/100 | 99/100 1/100", "1/2 1/2 | 1/2 1/2"),
    "three formulations": _world("1/3 1/3 1/3", "1/3 1/3 1/3 | 1/3 1/3 1/3 | 1/3 1/3 1/3",
                                 "9/10 1/10 | 9/10 1/10 | 1/10 9/10", "1 0 | 1 0 | 1 0"),
}
