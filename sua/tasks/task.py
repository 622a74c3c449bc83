"""Task: named splits of labelled inputs in one schema, with the kernels that keep their meaning."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Callable, Mapping, Sequence

import numpy as np
from datasets import Dataset, DatasetDict

from ..inputs import Input, expect
from ..perturb import KERNELS, OPTION_ORDER, Perturbation, mixture, on_first

SPLITS = ("train", "validation", "calibration", "test")


@dataclass(frozen=True)
class Task:
    """Named splits of labelled inputs, the kernels that keep their meaning, and where the rows came from.

    ValueError where a label of a split is not the place of one of `label_names`.
    """

    name: str
    splits: DatasetDict
    label_names: tuple[str, ...]
    kernels: Mapping[str, Perturbation] = field(default_factory=dict)
    source: Mapping[str, object] = field(default_factory=dict)
    p_star: Callable[[Sequence[Input]], np.ndarray] | None = None

    def __post_init__(self):
        expect(not isinstance(self.label_names, str), lambda: f"label_names = {self.label_names!r}: give a tuple of "
               "names")
        for split, rows in self.splits.items():
            labels = np.unique(rows["label"][:]) if "label" in rows.column_names else np.array([0])
            wrong = labels[(labels < 0) | (labels >= self.n_classes)]
            expect(not wrong.size, lambda: f"split {split!r} of task {self.name!r} has the label {wrong[0]}, but there "
                   f"are {self.n_classes} label_names, for 0..{self.n_classes - 1}: {', '.join(self.label_names)}")

    @property
    def n_classes(self) -> int:
        return len(self.label_names)

    def __getitem__(self, split: str) -> Dataset:
        if split not in self.splits:
            raise ValueError(f"task {self.name!r} has no split {split!r}; it has {', '.join(self.splits)}: "
                             f"write task[{next(iter(self.splits))!r}]")
        return self.splits[split]

    def perturbation(self, names: str | Sequence[str]) -> Perturbation:
        """The kernel of that name (the task's own first, then sua.perturb.KERNELS), or the mixture of several."""
        if not isinstance(names, str):
            kernels = [self.perturbation(name) for name in names]
            return kernels[0] if len(kernels) == 1 else mixture(*kernels)
        known = {**KERNELS, **self.kernels}
        if self.is_multiple_choice:
            known = {name: on_first(kernel) for name, kernel in known.items()} | {OPTION_ORDER.name: OPTION_ORDER}
        if names not in known:
            raise ValueError(f"task {self.name!r} has no perturbation {names!r}; known: {', '.join(known)}")
        return known[names]

    @property
    def is_multiple_choice(self) -> bool:
        """Whether the classes are the options that each input brings along."""
        return "options" in next(iter(self.splits.values())).column_names

    @property
    def digest(self) -> str:
        """Hash of every row: equal digests mean equal data."""
        rows = hashlib.sha256()
        for name, split in sorted(self.splits.items()):
            rows.update(name.encode())
            rows.update(json.dumps(split.to_dict(), sort_keys=True).encode())
        return rows.hexdigest()[:16]
