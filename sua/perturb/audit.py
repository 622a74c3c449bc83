"""Whether a kernel keeps the label."""

from __future__ import annotations

import math
from typing import Callable, Sequence

import numpy as np
from scipy.special import rel_entr

from ..inputs import Input, as_inputs, expect, option_columns
from ..predictions import model_rows, reals
from .kernel import Perturbation, repeats, variants

DELTA = 0.05  # chance that an audit's interval misses


class Audit(float):
    """What `audit` found: a number, the share of (x, x') with one label, and what it takes to read it.

    interval : (low, high), which holds the kernel's true share with probability 95 % for inputs drawn independently.
    judge_flips, judge_interval : share of pairs known to mean the same whose labels differ, and its 95 % interval.
    same : name of the kernel that made these pairs; None if each was x and a copy of it.
    copies, repeats : how many variants equal their input, which keep any label, or an earlier variant of it.
    n, k : numbers of inputs, and of variants of each.
    """

    def __new__(cls, kept: float, **found):
        self = super().__new__(cls, kept)
        vars(self).update(found)
        return self

    @property
    def reading(self) -> str:
        """What the numbers say, and what they do not, in a few sentences."""
        spread = "({:.1%} to {:.1%} with probability 95 %)".format
        said = [f"The judge gives x and its variant the same label in {self:.1%} of the pairs "
                f"{spread(*self.interval)}; {self.n} inputs, {self.k} variants each."]
        if self.copies or self.repeats:
            said += [f"Of {self.n * self.k} variants {self.copies} equal their input, which keeps any label, and "
                     f"{self.repeats} an earlier variant of it."]
        flips = f"{self.judge_flips:.1%} {spread(*self.judge_interval)}"
        if self.same is None:
            said += [f"Asked twice about the same x it contradicts itself in {flips}. Its mistakes on rewordings this "
                     "does not show: give a kernel known to keep the meaning as same=."]
        else:
            more = 1 - self.interval[1] > self.judge_interval[1]
            said += [f"Under {self.same}, which keeps the meaning, it flips in {flips}: "
                     + ("this kernel changes labels." if more else "its own mistakes may explain what changed here.")]
        return " ".join([*said, "A change that the judge does not see counts as kept."])


def audit(perturbation: Perturbation, inputs: Sequence[Input], label: Callable[[Sequence[Input]], np.ndarray],
          k: int = 4, seed: int = 0, same: Perturbation | None = None) -> Audit:
    """Label-preservation rate: the share of (x, x') whose most probable label is the same, with its interval.

    label : inputs -> (N, C) distributions: a world's exact p*, or a judge model's predict_proba. An option is known by
    its text. same : a kernel known to keep the meaning, on which a flip is the judge's mistake; by default copies of x,
    asked apart, which show only whether the judge answers one question in two ways.

    The interval is {m : N kl(kept, m) <= ln(2 / 0.05)} (Hoeffding, 1963), valid for any N and for variants of one
    input that flip together. ValueError for no inputs, or a judge that does not return one row per input.
    """
    inputs = as_inputs(inputs)
    expect(inputs, "inputs is empty: give at least one text")
    drawn = variants(inputs, perturbation, k, seed)
    known = variants(inputs, same, k, seed) if same else None
    kept = _kept(inputs, drawn, label)
    copies, repeated = repeats(inputs, drawn)
    flips = 1 - (_kept(inputs, known, label) if same else _answers_twice(inputs, label))
    return Audit(kept, interval=_interval(kept, len(inputs)), judge_flips=flips,
                 judge_interval=_interval(flips, len(inputs)), same=same.name if same else None, copies=copies,
                 repeats=repeated, n=len(inputs), k=k)


def _kept(inputs, drawn, label):
    orbits = [(x, *row) for x, row in zip(inputs, drawn)]
    found = _rows(label, [member for orbit in orbits for member in orbit]).reshape(len(orbits), len(orbits[0]), -1)
    labels = np.take_along_axis(found, option_columns(orbits, found.shape[-1]), -1).argmax(-1)
    return float((labels[:, 1:] == labels[:, :1]).mean())


def _answers_twice(inputs, label):
    first, second = (_rows(label, inputs).argmax(-1) for _ in range(2))
    return float((first == second).mean())


def _rows(label, inputs):
    rows = model_rows(getattr(label, "__qualname__", type(label).__name__), label(inputs), len(inputs))
    return reals("the judge's output", rows, ndim=2)


def _interval(mean, n):
    """The m that a mean of n independent numbers in [0, 1] does not refute, to within 1e-9."""
    def refuted(m):
        return n * (rel_entr(mean, m) + rel_entr(1 - mean, 1 - m)) > math.log(2 / DELTA)

    return _last(refuted, mean, 0.0), _last(refuted, mean, 1.0)


def _last(refuted, inside, outside):
    """The furthest number from `inside` towards `outside` that is not refuted, by bisection."""
    if not refuted(outside):
        return outside
    while abs(outside - inside) > 1e-9:
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if refuted(middle) else (middle, outside)
    return inside
