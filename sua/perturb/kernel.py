"""What a kernel is, how its variants are drawn, and kernels made of others."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Callable, Mapping, Sequence

import numpy as np

from ..inputs import Input

RETRIES = 8  # draws until a variant differs from x; some texts offer a kernel nothing to change


@dataclass(frozen=True)
class Perturbation:
    """A kernel: `rewrite(input, rng)` draws one variant of a whole input.

    Build from a rewriter of plain texts with `of_text`, which leaves the other texts of a tuple as they are.
    """

    name: str
    rewrite: Callable[[Input, np.random.Generator], Input]

    @classmethod
    def of_text(cls, name: str, rewrite: Callable[[str, np.random.Generator], str]) -> "Perturbation":
        """The kernel that rewrites the text, or one text of a tuple, drawn uniformly."""

        def rewrite_input(example, rng):
            if isinstance(example, str):
                return rewrite(example, rng)
            part = rng.integers(len(example))
            return tuple(rewrite(text, rng) if i == part else text for i, text in enumerate(example))

        return cls(name, rewrite_input)

    def sample(self, example: Input, k: int, rng: np.random.Generator) -> list[Input]:
        """k variants of one input, each different from it where the kernel finds something to change."""
        if k < 1:
            raise ValueError(f"K = {k}: draw at least one variant per input")
        return [self._changed(example, rng) for _ in range(k)]

    def _changed(self, example, rng):
        for _ in range(RETRIES):
            variant = self.rewrite(example, rng)
            if variant != example:
                break
        return variant


def variants(inputs: Sequence[Input], perturbation: Perturbation, k: int, seed: int = 0) -> list[list[Input]]:
    """k variants of each input; equal inputs get equal variants, whatever the order of the inputs."""
    return [list(row) for row in _variants(tuple(inputs), perturbation, k, seed)]


@lru_cache(maxsize=8)  # many models are asked about the same inputs
def _variants(inputs, perturbation, k, seed):
    return [perturbation.sample(x, k, np.random.default_rng([seed, zlib.crc32(repr(x).encode())])) for x in inputs]


def mixture(*perturbations: Perturbation) -> Perturbation:
    """For each variant one of the kernels, drawn uniformly. ValueError if there is none."""
    if not perturbations:
        raise ValueError("a mixture needs at least one kernel; known by name: sua.perturb.KERNELS")
    return Perturbation("+".join(p.name for p in perturbations),
                        lambda example, rng: perturbations[rng.integers(len(perturbations))].rewrite(example, rng))


def on_first(perturbation: Perturbation) -> Perturbation:
    """The kernel on the first text of a tuple alone: the question of a multiple-choice input, not its options."""
    rewrite = perturbation.rewrite
    return Perturbation(perturbation.name, lambda example, rng: (rewrite(example[0], rng), *example[1:]))


def given(groups: Mapping[Input, Sequence[Input]], name: str = "given") -> Perturbation:
    """Variants that a data set itself supplies: one of the other members of x's group, drawn uniformly."""

    def rewrite(example, rng):
        if example not in groups:
            raise ValueError(f"the data set gives no variants of {example!r}: perturb only the inputs it lists")
        return groups[example][rng.integers(len(groups[example]))]

    return Perturbation(name, rewrite)
