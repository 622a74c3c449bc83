"""Whether a kernel keeps the label."""

from __future__ import annotations

from typing import Callable, Sequence

import numpy as np

from ..inputs import Input, option_columns
from .kernel import Perturbation, variants


def audit(perturbation: Perturbation, inputs: Sequence[Input], label: Callable[[Sequence[Input]], np.ndarray],
          k: int = 4, seed: int = 0) -> float:
    """Label-preservation rate: the share of (x, x') whose most probable label is the same.

    label : inputs -> (N, C) distributions: a world's exact p*, or a judge model's predict_proba. A judge also flips
    by mistake: read its rate beside that on pairs known to keep their label. An option is known by its text.
    """
    orbits = [(x, *row) for x, row in zip(inputs, variants(inputs, perturbation, k, seed))]
    found = label([member for orbit in orbits for member in orbit]).reshape(len(orbits), 1 + k, -1)
    labels = np.take_along_axis(found, option_columns(orbits, found.shape[-1]), -1).argmax(-1)
    return float((labels[:, 1:] == labels[:, :1]).mean())
