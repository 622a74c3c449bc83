"""What a kernel is, how its variants are drawn, and kernels made of others."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Callable, Mapping, Sequence

import numpy as np

from ..inputs import Input, as_inputs, expect_seed, whole

RETRIES = 8  # draws until a variant differs from x; some texts offer a kernel nothing to change


@dataclass(frozen=True)
class Perturbation:
    """A kernel: `rewrite(input, rng)` draws one variant of a whole input.

    Build from a rewriter of plain texts with `of_text`, which leaves the other texts of a tuple as they are.

    others : input -> the exact number of variants that differ from it, where it is known. Then no variant is drawn
    twice before all of them have been, and after that they repeat in turn.
    """

    name: str
    rewrite: Callable[[Input, np.random.Generator], Input]
    others: Callable[[Input], int] | None = None

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
        whole("K", k, 1, "draw at least one variant per input")
        if self.others is None:
            return [self._changed(example, rng) for _ in range(k)]
        drawn = self._distinct(example, min(k, self.others(example)), rng) or [example]
        return [drawn[i % len(drawn)] for i in range(k)]

    def _changed(self, example, rng):
        for _ in range(RETRIES):
            variant = self.rewrite(example, rng)
            if variant != example:
                break
        return variant

    def _distinct(self, example, count, rng):
        drawn = []
        while len(drawn) < count:
            variant = self.rewrite(example, rng)
            if variant != example and variant not in drawn:
                drawn.append(variant)
        return drawn


def variants(inputs: Sequence[Input], perturbation: Perturbation, k: int, seed: int = 0) -> list[list[Input]]:
    """k variants of each input; equal inputs get equal variants, whatever the order of the inputs.

    Inputs are read as by sua.predict. ValueError unless k >= 1 and seed >= 0 are whole numbers, and for an input that
    is empty or not text, naming its position.
    """
    whole("K", k, 1, "draw at least one variant per input")
    expect_seed(seed)
    return [list(row) for row in _variants(tuple(as_inputs(inputs)), perturbation, k, seed)]


@lru_cache(maxsize=8)  # many models are asked about the same inputs
def _variants(inputs, perturbation, k, seed):
    return [perturbation.sample(x, k, np.random.default_rng([seed, zlib.crc32(repr(x).encode())])) for x in inputs]


def repeats(inputs: Sequence[Input], drawn: Sequence[Sequence[Input]]) -> tuple[int, int]:
    """How many variants equal their input, and how many an earlier variant of it: neither says anything new."""
    copies = sum(row.count(x) for x, row in zip(inputs, drawn))
    return copies, sum(map(len, drawn)) - copies - sum(len({*row} - {x}) for x, row in zip(inputs, drawn))


def mixture(*perturbations: Perturbation) -> Perturbation:
    """For each variant one of the kernels, drawn uniformly. ValueError if there is none."""
    if not perturbations:
        raise ValueError("a mixture needs at least one kernel; known by name: sua.perturb.KERNELS")
    return Perturbation("+".join(p.name for p in perturbations),
                        lambda example, rng: perturbations[rng.integers(len(perturbations))].rewrite(example, rng))


def on_first(perturbation: Perturbation) -> Perturbation:
    """The kernel on the first text of a tuple alone: the question of a multiple-choice input, not its options."""
    rewrite, others = perturbation.rewrite, perturbation.others
    return Perturbation(perturbation.name, lambda example, rng: (rewrite(example[0], rng), *example[1:]),
                        others and (lambda example: others(example[0])))


def given(groups: Mapping[Input, Sequence[Input]], name: str = "given") -> Perturbation:
    """Variants that a data set itself supplies: one of the other members of x's group, drawn uniformly.

    ValueError for an input that has no group.
    """

    def members(example):
        if not groups.get(example):
            raise ValueError(f"the data set gives no variants of {example!r}: perturb only the inputs it lists")
        return groups[example]

    def rewrite(example, rng):
        return members(example)[rng.integers(len(members(example)))]

    def others(example):
        return len({*members(example)} - {example})

    return Perturbation(name, rewrite, others)
