"""A model that answers or abstains by a rule: what is deployed, with as few forward passes as the decision takes."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple, Sequence

import numpy as np

from ..inputs import Input, as_inputs, expect, in_first_order, option_counts
from ..perturb import Perturbation, variants
from ..predictions import Model, Predictions
from ..scores import SCORES, score as score_of
from .abstention import AbstentionRule, Drift

RECENT = 10_000  # incoming scores kept for the next drift check
ABSTAIN = "ABSTAIN"


class Answer(NamedTuple):
    """answer : class index or ABSTAIN. score : exact if answered, else possibly a lower bound above the threshold, or
    NaN where the rule abstains on everything and the model was not asked."""

    answer: int | str
    score: float
    reason: str


# For these, counting the variants not yet seen as x itself gives a lower bound on the final score. Only abstention
# exits early: the score of an answered input is complete, so that drift can be tested on it.
LOWER_BOUNDED = {"disagreement", "sua", "sua_positive", "sensitivity", "sensitivity_reverse_kl", "sensitivity_js",
                 "sensitivity_tv"}


class SelectiveModel:
    """A model that answers or abstains by a rule: `SelectiveModel(model, perturbation, "sua", rule).answer(inputs)`.

    model : anything with predict_proba(inputs) -> (N, C). perturbation : anything with sample(input, k, rng) -> k
    inputs; unused (None will do) for scores of x alone. score, k : must be those of the rule; k defaults to the rule's.
    Inputs, and options that a variant has in another order, are read as by sua.predict.
    The variants of an input depend on `seed` and the input only: alone or in a batch it gets the same decision.

    Cost: 1 forward pass per input for scores of x alone, else at most K + 1, and none under a rule that abstains on
    everything. With early_exit an input on which the first variants already force abstention costs no more passes;
    decisions are the same. Counted in `passes`.
    """

    def __init__(self, model: Model, perturbation: Perturbation | None, score: str, rule: AbstentionRule,
                 k: int | None = None, seed: int = 0, early_exit: bool = True):
        rule.accept([], score_name=score, k=k)
        expect(score in SCORES and set(SCORES[score].needs) <= {"probs", "perturbed"},
               f"score {score!r} cannot be computed from a model and variants alone; for a chosen lambda use "
               "score_name='sua', parameters={'lam': ...}")
        self.k = (rule.k or 0) if "perturbed" in SCORES[score].needs else 0
        expect(self.k or "perturbed" not in SCORES[score].needs,
               f"score {score!r} needs variants, but the rule holds k = {rule.k}: fit it with k=K")
        self.model, self.perturbation, self.score, self.rule, self.seed = model, perturbation, score, rule, seed
        self.early_exit = early_exit and score in LOWER_BOUNDED
        self.inputs = self.passes = 0
        self.void: str | None = None
        self._recent = deque(maxlen=RECENT)

    def __repr__(self):
        return (f"SelectiveModel({self.score}): {self.inputs} inputs, {self.passes} forward passes "
               f"(at most {self.k + 1} per input){'; ' + self.void if self.void else ''}\n{self.rule}")

    def answer(self, inputs: Input | Sequence[Input] | np.ndarray) -> list[Answer] | Answer:
        """One (answer or ABSTAIN, score, reason) per input of a list or array; one Answer for any other object."""
        inputs = inputs.tolist() if hasattr(inputs, "tolist") else inputs
        if not isinstance(inputs, list):
            return self.answer([inputs])[0]
        if not len(inputs):
            return []
        if self.rule.threshold is None:
            self.inputs += len(inputs)
            return [Answer(ABSTAIN, math.nan, self._reason(math.nan, False, 0))] * len(inputs)
        inputs = as_inputs(inputs)
        probs = self._predict([(x,) for x in inputs])
        counts = option_counts(inputs, probs.shape[1])
        perturbed = np.repeat(probs[:, None], max(self.k, 1), axis=1)
        drawn = variants(inputs, self.perturbation, self.k, self.seed) if self.k else []
        scores, seen = self._scores(probs, perturbed, counts), np.zeros(len(probs), dtype=int)
        for j in range(self.k):
            rows = np.flatnonzero(self.rule.accept(scores)) if self.early_exit else np.arange(len(probs))
            if not len(rows):
                break
            found = self._predict([(inputs[row], drawn[row][j]) for row in rows])
            perturbed[rows, j] = np.pad(found, ((0, 0), (0, probs.shape[1] - found.shape[1])))  # fewer options here
            scores[rows] = self._scores(probs[rows], perturbed[rows], counts and [counts[row] for row in rows])
            seen[rows] += 1
        self.inputs += len(probs)
        self._recent.extend(scores.tolist())
        accepted = self.rule.accept(scores)
        return [Answer(int(p.argmax()) if yes else ABSTAIN, float(s), self._reason(s, yes, m))
               for p, s, yes, m in zip(probs, scores, accepted, seen)]

    def check_drift(self, false_alarm: float = 0.01) -> Drift:
        """Compare the scores since the last check with calibration; after an alarm every reason says so.

        Each check tests inputs of its own, so the false-alarm rate holds for each one.
        """
        expect(self.rule.threshold is not None, "this rule abstains on everything, so no input was scored: fit a rule "
               "that answers before checking for drift")
        drift = self.rule.drift(list(self._recent), false_alarm)
        self._recent.clear()
        if drift.void:
            self.void = drift.message
        return drift

    def _predict(self, orbits):
        """(N, C) for the last member of each orbit, its options in the order of the first member."""
        self.passes += len(orbits)
        probs = Predictions(probs=self.model.predict_proba([orbit[-1] for orbit in orbits])).probs
        expect(len(probs) == len(orbits), f"the model returned {len(probs)} rows for {len(orbits)} inputs: return one "
               "row of class probabilities per input, in their order")
        members = np.repeat(probs[:, None], len(orbits[0]), axis=1)
        return in_first_order(members, orbits)[:, -1]

    def _scores(self, probs, perturbed, counts):
        return score_of(Predictions(probs=probs, perturbed=perturbed, n_classes=counts), self.score,
                        **self.rule.parameters)

    def _reason(self, score, accepted, seen):
        if self.rule.threshold is None:
            reason = f"abstains on everything: {self.rule.why}"
        else:
            reason = f"{self.score} {score:.4g} {'<=' if accepted else '>'} {self.rule.threshold:.4g}"
            reason += f" after {seen} of {self.k} variants" if seen < self.k else ""
        return f"{self.void}. {reason}" if self.void else reason
