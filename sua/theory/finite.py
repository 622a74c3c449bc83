"""Finite worlds in which every quantity of the theory is an exact number: evaluation, counterexamples, random search.

Notation: P input law, Pi(x'|x) perturbation kernel, N(x) its support and x, p model, p* truth, f = argmax p. Entropies
and divergences in nats. The bounds themselves, printed and repaired, are in `sua.theory.statements`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Callable

import numpy as np

from ..divergences import EXACT as DIVERGENCES, entropy
from .numbers import real

LOSSES: dict[str, Callable] = {
    "gibbs": lambda p: 1 - p,
    "zero_one": lambda p: 1 - _one_hot(p),
    "brier": lambda p: 1 - 2 * p + (p**2).sum(-1, keepdims=True),
    "log": lambda p: -_log(real(p)),
}


@dataclass(frozen=True, eq=False)
class World:
    """Inputs, kernel, model and truth; or a batch of worlds along leading axes.

    mass (..., N) = P, kernel (..., N, N) = Pi(column | row), p (..., N, C), truth (..., N, C) = p*. Floats, or
    Fractions for exact arithmetic (`rational` reads them from text). ValueError names a field that is no distribution.
    """

    mass: np.ndarray
    kernel: np.ndarray
    p: np.ndarray
    truth: np.ndarray

    def __post_init__(self):
        for name in ("mass", "kernel", "p", "truth"):
            value = np.asarray(getattr(self, name))
            total = real(value.sum(-1))
            off = total[~np.isclose(total, 1, rtol=0, atol=1e-9)]
            if off.size or (value < 0).any():
                raise ValueError(f"{name} {f'sums to {off[0]:.6g}' if off.size else f'holds {value.min():.6g}'}: give "
                                 "probabilities that sum to 1 over the last axis")
            object.__setattr__(self, name, value)

    def mean(self, values):
        """(...) expectation over x ~ P of values (..., N)."""
        return (self.mass * values).sum(-1)

    def pair_mean(self, values):
        """(..., N) expectation over x' ~ Pi(.|x) of values (..., N, N)."""
        return (self.kernel * np.where(self.kernel > 0, values, 0)).sum(-1)

    def sup(self, values):
        """(..., N) maximum over x' in N(x) of values (..., N, N) >= 0."""
        return np.where(self.neighbours, values, 0).max(-1)

    @property
    def neighbours(self):
        return (self.kernel > 0) | np.eye(self.kernel.shape[-1], dtype=bool)

    def divergence(self, name="tv"):
        """(..., N, N) D(p(x), p(x')) of all pairs."""
        return DIVERGENCES[name](self.p[..., :, None, :], self.p[..., None, :, :])

    def sensitivity(self, name="tv"):
        return self.pair_mean(self.divergence(name))

    @property
    def entropy(self):
        return entropy(self.p)

    @property
    def gini(self):
        return 1 - (self.p**2).sum(-1)

    @property
    def doubt(self):
        """a(x) = 1 - max p."""
        return 1 - self.p.max(-1)

    @property
    def margin(self):
        top = np.sort(self.p, axis=-1)
        return top[..., -1] - top[..., -2]

    @property
    def flips(self):
        """(..., N, N) bool: the answers at x and x' differ (argmax, the first of equal ones)."""
        answer = self.p.argmax(-1)
        return answer[..., :, None] != answer[..., None, :]

    @property
    def flip_rate(self):
        return self.pair_mean(self.flips)

    def sua(self, lam=1.0, name="tv"):
        return self.sensitivity(name) - lam * self.entropy

    def risk(self, loss="gibbs"):
        """(..., N) expected loss at x under p*(x)."""
        return (self.truth * np.where(self.truth > 0, LOSSES[loss](self.p), 0)).sum(-1)

    def mean_risk(self, loss="gibbs"):
        """R_Pi."""
        return self.pair_mean(self.risk(loss)[..., None, :])

    def robust_risk(self, loss="gibbs"):
        """R_rob."""
        return self.sup(self.risk(loss)[..., None, :])

    def tail_risk(self, alpha, loss="gibbs"):
        """(..., N) mean risk in the worst alpha-fraction of Pi(.|x) (conditional value at risk)."""
        risk = np.broadcast_to(self.risk(loss)[..., None, :], self.kernel.shape)
        order = np.argsort(-risk, axis=-1)
        share = np.minimum(np.take_along_axis(self.kernel, order, -1).cumsum(-1), alpha)
        return (np.diff(share, axis=-1, prepend=0) * np.take_along_axis(risk, order, -1)).sum(-1) / alpha

    def calibrated(self, same):
        """(..., N, C) E[p* | cell], where same (..., N, N) says which inputs share a cell."""
        return _cell_mean(self, same, self.truth)

    def calibration_error(self):
        """E TV(p, E[p*|p]): canonical, the strongest notion."""
        same = (self.p[..., :, None, :] == self.p[..., None, :, :]).all(-1)
        return self.mean(DIVERGENCES["tv"](self.p, self.calibrated(same)))

    def classwise_error(self):
        """sum_k E p_k |p_k - P(Y = k | p_k)|."""
        same = np.moveaxis(self.p[..., :, None, :] == self.p[..., None, :, :], -1, 0)
        share = np.stack([self.calibrated(s)[..., k] for k, s in enumerate(same)], -1)
        return self.mean((self.p * np.abs(self.p - share)).sum(-1))

    def ece(self, cells=None):
        """E |confidence - accuracy| within cells (..., N); default: one cell per value of the confidence."""
        gap = self.risk("zero_one") - self.doubt
        return self.mean(np.abs(_cell_mean(self, self.same(cells), gap[..., None])[..., 0]))

    def same(self, cells=None):
        cells = self.p.max(-1) if cells is None else np.asarray(cells)
        return cells[..., :, None] == cells[..., None, :]

    @property
    def orbits(self):
        """(..., N) the first input that can be reached: names the Pi-invariant group of x."""
        reach = self.neighbours | np.swapaxes(self.neighbours, -1, -2)
        for _ in range(reach.shape[-1].bit_length()):
            reach = (reach.astype(float) @ reach.astype(float)) > 0
        return reach.argmax(-1)

    @property
    def drift(self):
        """(..., N) sup over N(x) of TV(p*(x), p*(x')); 0 iff the kernel is label-preserving."""
        return self.sup(DIVERGENCES["tv"](self.truth[..., :, None, :], self.truth[..., None, :, :]))

    @property
    def asymmetry(self):
        """Largest |P(x, x') - P(x', x)|; 0 iff the pair is exchangeable."""
        joint = self.mass[..., None] * self.kernel
        return np.abs(joint - np.swapaxes(joint, -1, -2)).max((-1, -2))

    def smoothed(self, t):
        """The world whose model is (1 - t) p + t / C; t (...)."""
        t = np.asarray(t)[..., None, None]
        return replace(self, p=(1 - t) * self.p + t / self.p.shape[-1])


def _log(values):
    with np.errstate(divide="ignore"):
        return np.log(values)


def _one_hot(p):
    return (p.argmax(-1)[..., None] == np.arange(p.shape[-1])).astype(int)


def _cell_mean(world, same, values):
    """(..., N, C) mean over P of values (..., N, C) within the cell of each input."""
    weight = np.where(same, world.mass[..., None, :], 0)
    total = weight.sum(-1)
    values = np.where(world.mass[..., None] > 0, values, 0)  # they may be infinite where nothing ever falls
    return weight @ values / np.where(total > 0, total, 1)[..., None]


# Named counterexample worlds, in exact fractions.


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


# Many worlds at once.


def random_worlds(count: int, rng: np.random.Generator, inputs: int = 4, classes: int = 3, kernel: str = "reversible",
                  preserving: bool = True, calibrated: bool = False, perfect: bool = False) -> World:
    """A batch of `count` random worlds.

    kernel : "reversible" (symmetric joint law within random orbits, so pairs are exchangeable), "orbit" (uniform draw
    from the orbit, exchangeable) or "any" (sparse, one-way, and P independent of it). preserving : one truth per orbit.
    calibrated : p = E[p*|cell] for random cells of inputs. perfect : p* of an orbit is p of its first input.
    A quarter of the outputs are vertices, a quarter are copies of another input's, so that ties and cells occur.
    """
    if kernel not in ("reversible", "orbit", "any"):
        raise ValueError(f"kernel = {kernel!r}: choose 'reversible', 'orbit' or 'any'")
    shape = (count, inputs)
    orbit = rng.integers((inputs + 1) // 2, size=shape)
    together = orbit[..., :, None] == orbit[..., None, :]
    first = together.argmax(-1)
    weight = together * rng.random((*shape, inputs)) * (rng.random((*shape, inputs)) < 0.7)
    if kernel == "orbit":
        weight = together * np.take_along_axis(rng.random(shape), first, 1)[..., None]
    elif kernel == "reversible":
        weight = weight + np.swapaxes(weight, -1, -2)
    weight += np.eye(inputs) * (weight.sum(-1) == 0)[..., None]  # an input without neighbours keeps to itself
    mass = _dirichlet(rng, count, 1, inputs)[:, 0] if kernel == "any" else weight.sum(-1)
    mass = mass / mass.sum(-1, keepdims=True)

    p, truth = _outputs(rng, count, inputs, classes), _outputs(rng, count, inputs, classes)

    def of_first(values):
        return np.take_along_axis(values, first[..., None], 1)

    if preserving:
        truth = of_first(p if perfect else truth)
    world = World(mass, weight / weight.sum(-1, keepdims=True), p, truth)
    if calibrated:
        cell = rng.integers(inputs, size=shape)
        same = world.same(cell)
        mean = world.calibrated(same)
        # one row per cell, copied, so that rounding cannot split a cell
        world = replace(world, p=np.take_along_axis(mean, same.argmax(-1)[..., None], 1))
    return world


def _dirichlet(rng, count, rows, classes):
    """(count, rows, classes) distributions, from nearly uniform to nearly certain; one concentration per world."""
    gamma = rng.gamma(10 ** rng.uniform(-1, 1, (count, 1, 1)), size=(count, rows, classes)) + 1e-9
    return gamma / gamma.sum(-1, keepdims=True)


def _outputs(rng, count, inputs, classes):
    values = _dirichlet(rng, count, inputs, classes)
    kind = rng.random((count, inputs, 1))
    values = np.where(kind < 0.25, np.eye(classes)[rng.integers(classes, size=(count, inputs))], values)
    source = rng.integers(inputs, size=(count, inputs, 1))
    return np.where(kind > 0.75, np.take_along_axis(values, source, 1), values)


def grid_worlds(levels: int = 8) -> World:
    """All worlds of two swapped pairs and two labels with p_1 in {0, 1/levels, ..., 1} and p*_1 in {0, 1/2, 1}."""
    grid, truths = np.arange(levels + 1) / levels, np.array([0, 0.5, 1])
    axes = np.meshgrid(grid, grid, grid, grid, truths, truths, indexing="ij")
    p, t = np.stack(axes[:4], -1).reshape(-1, 4), np.stack(axes[4:], -1).reshape(-1, 2).repeat(2, axis=1)

    def batch(values):
        return np.broadcast_to(values, (len(p), *values.shape))

    swaps = np.kron(np.eye(2), [[0, 1], [1, 0]])
    return World(batch(np.full(4, 0.25)), batch(swaps), np.stack([p, 1 - p], -1), np.stack([t, 1 - t], -1))
