"""What a statement is: a chain of quantities that never decreases; its slack in a world, the search for violations."""

from __future__ import annotations

from typing import Callable, NamedTuple

import numpy as np

from ..numbers import TOLERANCE
from ..world import World


def statement(registry: dict[str, Callable], *needs: str) -> Callable:
    """Register a statement. needs: what its worlds must satisfy, "preserving", "exchangeable", "calibrated"."""
    def register(chain):
        chain.needs = needs
        registry[chain.__name__] = chain
        return chain
    return register


class Search(NamedTuple):
    """rate = share of worlds violated, worst = least slack found, index of that world, violated (...) bool."""

    rate: float
    worst: float
    index: int
    violated: np.ndarray


def slack(statement: Callable, worlds: World, **parameters: object) -> np.ndarray:
    """(...) smallest step of the statement's chain in each world, over inputs or pairs; negative = violated."""
    terms = [np.asarray(term, dtype=np.float64) for term in statement(worlds, **parameters)]
    shape = worlds.mass.shape[:-1]
    worst = np.full(shape, np.inf)
    for left, right in zip(terms, terms[1:]):
        left, right = np.broadcast_arrays(left, right)
        step = np.where(left == right, 0, right - np.where(left == right, 0, left))
        worst = np.minimum(worst, step.reshape(*shape, -1).min(-1) if step.ndim > len(shape) else step)
    return worst


def search(statement: Callable, worlds: World, **parameters: object) -> Search:
    """How often a batch of worlds violates the statement (by more than 1e-12), and where worst."""
    found = slack(statement, worlds, **parameters)
    return Search(float((found < -TOLERANCE).mean()), float(found.min()), int(found.argmin()), found < -TOLERANCE)


def positive(values) -> np.ndarray:
    """The positive part, of floats or Fractions."""
    return np.maximum(values, 0)
