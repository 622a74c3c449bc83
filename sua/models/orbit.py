"""A model that answers by the mean over an input and its variants: what Theorem 15 says of that mean, it does."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from ..divergences import geometric_mean
from ..inputs import Input, as_inputs, distinct, expect, expect_seed, in_first_order, whole
from ..perturb import Perturbation, variants
from ..predictions import Model, model_rows

MEANS = {"arithmetic": lambda orbit: orbit.mean(-2), "geometric": geometric_mean}
TIE = 1e-9  # answers as close as this count as equal


class OrbitModel:
    """A model whose answer to x is the mean of another model's answers to x and `k` variants of it.

    Its Brier score is lower than the mean over the K + 1 formulations by their sensitivity, whatever the labels are
    (arithmetic; geometric: its log-loss), and its entropy admits what they disagree about (Theorem 15). It costs K + 1
    passes per input; equal variants are asked once, and count as often as they were drawn.

    model : anything with predict_proba(inputs) -> (N, C). Where a variant has the options of a question in another
        order, its answer is put into the order of x. mean : "arithmetic" or "geometric". seed : of the variants, which
        are those that sua.predict draws with this seed.
    early_stop : ask an input's variants in rounds, and no more of them once those left cannot change which class has
        the largest mean. The answer is that of all K + 1, up to ties; its probabilities are the mean of what was asked.
        At least half of the K + 1 are asked always. `passes` is then at most, and `passes_used` how many were asked
        per distinct input in the last call.

    ValueError for a model without predict_proba, another mean, k < 1, and early_stop with the geometric mean, which
    one last formulation can always turn round.
    """

    def __init__(self, model: Model, perturbation: Perturbation, k: int, mean: str = "arithmetic", seed: int = 0,
                 early_stop: bool = False):
        expect(hasattr(model, "predict_proba"), lambda: f"model = {model!r} has no predict_proba(inputs): wrap a "
               "function as sua.CallableModel(function)")
        expect(mean in MEANS, f"mean = {mean!r}: choose {' or '.join(map(repr, MEANS))}")
        expect(not early_stop or mean == "arithmetic", "early_stop with the geometric mean: one formulation that "
               "excludes a class decides over it, so that all have to be asked; take mean='arithmetic'")
        self.model, self.perturbation, self.mean, self.early_stop = model, perturbation, mean, early_stop
        self.k, self.seed = whole("k", k, 1, "draw at least one variant per input"), expect_seed(seed)
        self.name = f"{mean} orbit mean of {getattr(model, 'name', type(model).__name__)}"
        if hasattr(model, "dtype"):
            self.dtype = model.dtype
        self.passes_used: float | None = None

    @property
    def passes(self) -> int:
        """Passes through the model that one input costs, at most."""
        return self.k + 1

    def predict_proba(self, inputs: Sequence[Input]) -> np.ndarray:
        """(N, C) float64 means. ValueError as sua.predict for inputs and rows that are no such."""
        unique, where = distinct(as_inputs(inputs))
        orbits = [(x, *row) for x, row in zip(unique, variants(unique, self.perturbation, self.k, self.seed))]
        known: dict = {}
        if not self.early_stop:
            self.passes_used = float(self.passes)
            return MEANS[self.mean](self._ask(orbits, range(self.passes), known))[where]
        total, asked = self._until_decided(orbits, known)
        self.passes_used = float(asked.mean())
        return (total / asked[:, None])[where]

    def _ask(self, orbits, members, known):
        """(n, L, C) answers to these members of each orbit, options in the order of its first; `known` is not asked."""
        chosen = [[orbit[m] for m in members] for orbit in orbits]
        if new := [x for x in dict.fromkeys(x for row in chosen for x in row) if x not in known]:
            name = getattr(self.model, "name", type(self.model).__name__)
            known |= zip(new, model_rows(name, self.model.predict_proba(new), len(new)))
        width = max(map(len, known.values()))  # where the number of options varies, an answer may have fewer columns
        probs = np.array([[np.pad(known[x], (0, width - len(known[x]))) for x in row] for row in chosen], np.float64)
        heads = np.zeros_like(probs[:, :1])  # only to say where the options of x stand
        in_order = in_first_order(np.concatenate([heads, probs], 1), [(o[0], *row) for o, row in zip(orbits, chosen)])
        return in_order[:, 1:]

    def _until_decided(self, orbits, known):
        """Sums of the answers (n, C) and how many were asked (n,)."""
        count = self.passes // 2 + 1  # before that the others can always outvote
        total = self._ask(orbits, range(count), known).sum(1)
        asked, open_ = np.full(len(orbits), count), np.arange(len(orbits))
        while count < self.passes:
            ordered = np.sort(total[open_], axis=-1)
            open_ = open_[ordered[:, -1] - ordered[:, -2] <= self.passes - count + TIE]
            if not len(open_):
                break
            total[open_] += self._ask([orbits[i] for i in open_], [count], known)[:, 0]
            count += 1
            asked[open_] = count
        return total, asked
