"""Debiasing at inference time, which divides out what a model prefers before it has read anything. Each class wraps a
model and is one: rivals of training that need no label and no change of the weights.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

from ..divergences import FLOOR
from ..inputs import Input, as_inputs, expect, has_options
from ..predictions import Model, distributions, model_rows

CONTENT_FREE = ("N/A", "[MASK]")


class ContextualCalibration:
    """The model, divided by its answers to inputs without content (Zhao et al., ICML 2021).

    p'(y|x) ~ p(y|x) / p(y|nothing), renormalised; p(y|nothing) is the mean over the texts of `content_free` in the
    place of x: of a text, of both texts of a pair, or of the question, whose options stay. An answer that the model
    never gives to nothing counts as one of probability 1e-12 there.

    Cost: one pass per input, and for each text of `content_free` one, or one for every different list of options.
    """

    def __init__(self, model: Model, content_free: Sequence[str] = CONTENT_FREE):
        expect(not isinstance(content_free, str) and len(content_free), lambda: f"content_free = {content_free!r}: "
               "give one text or more in a list, such as ['N/A']")
        self.model, self.content_free = model, as_inputs(content_free)
        self.name = f"{getattr(model, 'name', type(model).__name__)}, contextual calibration"

    def predict_proba(self, inputs: Sequence[Input]) -> np.ndarray:
        """(N, C) probabilities; the empty context is asked together with the inputs."""
        inputs = as_inputs(inputs)
        bare = [self._bare(x, text) for x in inputs for text in self.content_free]
        answers = _answers(self.model, [*inputs, *bare])
        prior = answers[len(inputs):].reshape(len(inputs), len(self.content_free), -1).mean(1)
        return _divided(answers[:len(inputs)], prior)

    def _bare(self, example, text):
        if isinstance(example, str):
            return text
        return (text, *example[1:]) if has_options(example) else (text,) * len(example)


class PriDe:
    """The model, divided by its preference for places among the options (Zheng et al., ICLR 2024).

    Of every question of `questions`, C options are shown in all C rotations, so that each option stands once in each
    place: softmax of the mean over rotations of ln p(place) is the preference at that question, and the mean of these
    the `prior` of questions with C options. Then p'(option | x) ~ p(place | x) / prior(place), renormalised. Exact
    where the model multiplies a preference for places with an opinion on options.

    Cost: C passes for each of `questions` once, then one per input. ValueError for inputs without options, or with a
    number of them that no question of `questions` has.

    prior : {C: (C,) probabilities of the places}.
    """

    def __init__(self, model: Model, questions: Sequence[Input]):
        self.model = model
        self.name = f"{getattr(model, 'name', type(model).__name__)}, PriDe"
        questions = _with_options(questions, "questions")
        turned = [(x[0], *x[1 + j:], *x[1:1 + j]) for x in questions for j in range(len(x) - 1)]
        answers = iter(np.log(np.maximum(_answers(model, turned), FLOOR)))
        found: dict[int, list] = {}
        for x in questions:
            c = len(x) - 1
            preference = np.exp(np.mean([next(answers)[:c] for _ in range(c)], axis=0))
            found.setdefault(c, []).append(preference / preference.sum())
        self.prior = {c: np.mean(preferences, axis=0) for c, preferences in sorted(found.items())}

    def predict_proba(self, inputs: Sequence[Input]) -> np.ndarray:
        """(N, C) probabilities, C the largest number of options; absent ones get 0."""
        inputs = _with_options(inputs, "inputs")
        for i, x in enumerate(inputs):
            expect(len(x) - 1 in self.prior, lambda: f"inputs[{i}] has {len(x) - 1} options, the questions of the "
                   f"prior have {', '.join(map(str, self.prior))}: give PriDe some questions with as many")
        answers = _answers(self.model, inputs)
        prior = np.zeros_like(answers)
        for row, x in zip(prior, inputs):
            row[:len(x) - 1] = self.prior[len(x) - 1]
        return _divided(answers, prior)


def _answers(model, inputs):
    """(n, C) probabilities of the model, checked."""
    rows = model_rows(getattr(model, "name", "model"), model.predict_proba(inputs), len(inputs))
    return distributions("output of the model", rows, ndim=2)


def _divided(p, prior):
    found = np.where(p > 0, p / np.maximum(prior, FLOOR), 0)
    return found / found.sum(-1, keepdims=True)


def _with_options(inputs, name):
    inputs = as_inputs(inputs)
    expect(inputs, f"{name} is empty: give at least one question")
    for i, x in enumerate(inputs):
        expect(has_options(x), lambda: f"{name}[{i}] = {x!r} is no question with options: give a tuple (question, "
               "option_1, option_2, ...)")
    return inputs
