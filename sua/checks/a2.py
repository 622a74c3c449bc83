"""Checks of assignment 2: both sides of a printed bound, worlds that break it, and bounds that hold."""

from __future__ import annotations

from typing import Callable

import numpy as np

from ..theory import TOLERANCE, World, random_worlds
from ..theory.statements import PRINTED, slack
from .shared import compare, named, numbers

ROUNDING = 1e-6  # a bound computed in float32 misses its value by less


class _Tables:
    """The four tables of a World and nothing else."""

    def __init__(self, world):
        self.mass, self.kernel, self.p, self.truth = world.mass, world.kernel, world.p, world.truth

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)  # what `copy` asks for
        raise AssertionError(f"you use world.{name}: in this exercise compute it from the four tables alone, mass, "
                             "kernel, p and truth")


def of_world(function: Callable, name: str, **parameters: object) -> None:
    """Checks function(world, **parameters) -> (N,) on random worlds: "robust_risk", or "eq11", R + S_TV - lam H.

    The function sees the four tables of a world alone.
    """
    reference, mistakes = {
        "robust_risk": (World.robust_risk, {
            "you forget that x belongs to its own neighbourhood": lambda w: np.where(w.kernel > 0, w.risk(), 0).max(-1),
            "you take the mean over rewordings: look for the worst": World.mean_risk,
            "you take the worst of all inputs: only neighbours count": lambda w: np.full(len(w.p), w.risk().max()),
            "this is the risk at x itself": World.risk,
            "you count the most probable label: the answer is drawn from p": lambda w: w.robust_risk("zero_one"),
        }),
        "eq11": (lambda w, lam=1.0: w.risk() + w.sua(lam), {
            "you add lam H: the printed bound subtracts it": lambda w, lam=1.0: w.risk() + w.sua(-lam),
            "you ignore lam": lambda w, lam=1.0: w.risk() + w.sua(),
            "you take the largest total variation: S is the mean": lambda w, lam=1.0: (
                w.risk() + w.sup(w.divergence()) - lam * w.entropy),
            "half of the total variation is missing or it is there twice": lambda w, lam=1.0: (
                w.risk() + 2 * w.sensitivity() - lam * w.entropy),
            "R(x) is missing": lambda w, lam=1.0: w.sua(lam),
        }),
    }[name]

    def fixed(call):
        return lambda world: call(world, **parameters)

    compare(named(lambda world: function(_Tables(world), **parameters), function), fixed(reference),
            [(world,) for world in _worlds(20)], {message: fixed(call) for message, call in mistakes.items()})


def counterexample(world: World, statement: str, **reading: object) -> None:
    """Checks that `world` keeps the meaning and violates the printed statement (a name in sua.statements.PRINTED).

    reading : parameters of the statement (L=, lam=, loss=, name=).
    """
    assert isinstance(world, World), f"return a World(mass, kernel, p, truth), not {type(world).__name__}"
    drift = float(np.max(world.drift))
    assert drift <= TOLERANCE, (f"truth changes by {drift:.3g} (total variation) between an input and its neighbour: "
                                "the bound is only claimed for perturbations that keep the meaning")
    if slack(PRINTED[statement], world, **reading) < -TOLERANCE:
        return
    left, right = np.broadcast_arrays(*(np.asarray(side, float) for side in PRINTED[statement](world, **reading)))
    at = np.unravel_index((right - left).argmin(), left.shape)  # an input, or a pair of inputs
    raise AssertionError(
        f"the bound holds on your world: left side {left[at]:.4g}, right side {right[at]:.4g}"
        + (f" at input {' and '.join(map(str, at))}, where they are closest" if left.size > 1 else "")
        + "".join(f", {key} = {value:.4g}" for key, value in reading.items() if not isinstance(value, str)))


def rare_rewording(function: Callable) -> None:
    """Checks function(L) -> World in which R_rob <= R + L S fails, whatever L >= 1 is."""
    for L in (1, 2.5, 10, 10000, 1e6):
        world = function(L)
        counterexample(world, "eq11", L=L, lam=0.0)
    moved = world.sensitivity()
    L = 10 / moved[moved > 0].min()
    assert slack(PRINTED["eq11"], function(L), L=L, lam=0.0) < -TOLERANCE, (
        f"at L = 1e+06 your world has S = {10 / L:.3g}, and at L = {L:.3g} the bound holds: let S shrink as L grows")


def excused_move(function: Callable) -> None:
    """Checks function(lam) -> World of two inputs that swap, where R_rob <= R + L (S - lam H)_+ fails for every L."""
    def fails(lam):
        world = function(lam)
        counterexample(world, "eq11_positive", L=1, lam=lam)
        assert np.array_equal(world.kernel, [[0, 1], [1, 0]]), "use the kernel [[0, 1], [1, 0]]"
        assert world.p.shape == (2, 2), f"p has shape {world.p.shape}: use two inputs and two labels"
        counterexample(world, "eq11_positive", L=1e6, lam=lam)
        return world

    for lam in (1, 0.5, 3, 0.05):
        world = fails(lam)
    fails(float((world.sensitivity() / world.entropy.max()).min()) / 2)  # a lam too small to excuse this move


def bound(function: Callable, of: str) -> None:
    """Checks that function(world) -> (N,) bounds "mean_risk" or "robust_risk" from above on 300 random worlds.

    It may not exceed R + (SUA)_+ + H for the mean risk, R + sup TV for the worst case (Theorems 4 and 1).
    """
    at_most = {"mean_risk": lambda w: w.risk() + np.maximum(w.sua(), 0) + w.entropy,
               "robust_risk": lambda w: w.risk() + w.sup(w.divergence())}[of]
    name, worlds = function.__name__, _worlds(300)
    values = [numbers(name, function(world)) for world in worlds]
    for world, value in zip(worlds, values):
        assert value.shape == world.mass.shape, f"{name} returns shape {value.shape}, expected {world.mass.shape}"
    below = np.array([(getattr(world, of)() - value).max() for world, value in zip(worlds, values)])
    above = max((value - at_most(world)).max() for world, value in zip(worlds, values))
    assert below.max() <= ROUNDING, (
        f"{name} is no upper bound: it lies below the risk in {(below > ROUNDING).mean():.0%} of random worlds, by up "
        f"to {below.max():.3g}. Which of its terms make it too small?")
    assert above <= ROUNDING, f"{name} may be true but is loose, by {above:.3g} somewhere: which term can shrink?"


def _worlds(count):
    """Random worlds, one by one, in which a perturbation keeps the meaning; half of them are one-way."""
    rng = np.random.default_rng()
    batches = [random_worlds((count + 1) // 2, rng, kernel=kernel) for kernel in ("orbit", "any")]
    fields = ("mass", "kernel", "p", "truth")
    return [World(*(getattr(batch, field)[i] for field in fields)) for i in range(count // 2) for batch in batches]
