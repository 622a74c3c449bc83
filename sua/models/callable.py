"""A model from any function."""

from __future__ import annotations

from typing import Callable, Sequence

import numpy as np

from ..inputs import Input, distinct, expect, whole
from ..predictions import distributions, model_rows
from .common import progress


class CallableModel:
    """A model from a function: inputs (list of texts or tuples) -> (N, C) probabilities.

    batch_size : how many inputs one call gets. Equal inputs are sent once. The function's output is checked:
    ValueError if it does not return one finite, normalised row per input, and for batch_size < 1.
    """

    def __init__(self, function: Callable[[list[Input]], Sequence], batch_size: int = 64, name: str = "callable"):
        self.function, self.name = function, name
        self.batch_size = whole("batch_size", batch_size, 1, "give at least 1")

    def predict_proba(self, inputs: Sequence[Input]) -> np.ndarray:
        unique, where = distinct(inputs)
        return self._rows(unique)[where]

    def _rows(self, unique):
        batches = [unique[i:i + self.batch_size] for i in range(0, len(unique), self.batch_size)]
        rows = []
        for batch in progress(batches, self.name):
            values = model_rows(self.name, self.function(list(batch)), len(batch))
            values = distributions(f"output of model {self.name!r}", values, ndim=2)
            width = (rows or [values])[0].shape[1]
            expect(values.shape[1] == width, lambda: f"model {self.name!r} returned {values.shape[1]} classes, and "
                   f"{width} before: return the same classes for every input")
            rows.append(values)
        return np.concatenate(rows)
