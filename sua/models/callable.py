"""What every score needs of a model, and a model from any function."""

from __future__ import annotations

from typing import Callable, Protocol, Sequence, runtime_checkable

import numpy as np

from ..inputs import Input, distinct, expect
from ..predictions import distributions
from .common import progress


@runtime_checkable
class Model(Protocol):
    """What every score needs of a model."""

    def predict_proba(self, inputs: Sequence[Input]) -> np.ndarray:
        """(N, C) probabilities, row i for inputs[i], columns in a fixed label order."""


class CallableModel:
    """A model from a function: inputs (list of texts or tuples) -> (N, C) probabilities.

    batch_size : how many inputs one call gets. Equal inputs are sent once. The function's output is checked:
    ValueError if it does not return one finite, normalised row per input.
    """

    def __init__(self, function: Callable[[list[Input]], Sequence], batch_size: int = 64, name: str = "callable"):
        expect(batch_size >= 1, f"batch_size = {batch_size}: give at least 1")
        self.function, self.batch_size, self.name = function, batch_size, name

    def predict_proba(self, inputs: Sequence[Input]) -> np.ndarray:
        unique, where = distinct(inputs)
        return self._rows(unique)[where]

    def _rows(self, unique):
        batches = [unique[i:i + self.batch_size] for i in range(0, len(unique), self.batch_size)]
        rows = []
        for batch in progress(batches, self.name):
            values = distributions(f"output of model {self.name!r}", self.function(list(batch)), ndim=2)
            if values.shape != (len(batch), width := (rows or [values])[0].shape[1]):
                raise ValueError(f"model {self.name!r} returned shape {values.shape} for {len(batch)} inputs and "
                                 f"{width} classes: return one row of class probabilities per input, in their order")
            rows.append(values)
        return np.concatenate(rows)
