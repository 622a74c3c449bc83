"""Many worlds at once: random ones of all kinds, and every one of a grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .world import World


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
