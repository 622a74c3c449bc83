"""How a model fills `Predictions`: inputs, their variants and their clarifications, in one batched pass."""

from __future__ import annotations

import hashlib
import warnings
from typing import NamedTuple, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .inputs import (Input, as_inputs, clarifications, expect, expect_seed, in_first_order, inputs as inputs_of,
                     option_counts, whole)
from .perturb import Perturbation, repeats, variants
from .predictions import Model, Predictions, model_rows
from .scores import score

MANY_COPIES = 0.5  # share of variants that equal their input from which on predict warns


def predict(model: Model, data: "Sequence[Input | dict] | datasets.Dataset", perturbation: Perturbation | None = None,
            k: int = 8, *, labels: ArrayLike | None = None, ids: Sequence | None = None, samples: int = 0,
            internals: bool = False, dropout: int = 0, seed: int = 0, meta: dict | None = None) -> Predictions:
    """Run a model on every input, on K variants of each and on its clarifications, in one batched pass.

    Parameters
    ----------
    model : anything with predict_proba(inputs) -> (N, C).
    data : a split of a Task, or a list of texts, pairs of texts, and questions with options: (question, option_1,
        option_2, ...), or {"question": ..., "choices": [...]}. From a split come ids, labels and label_dist, and, where
        it has them, clarifications with their weights: `clarified` is the model's answer to each.
    perturbation : a sua.perturb.Perturbation; None leaves `perturbed` out.
        A variant with x's options in another order gives its probabilities in x's order.
    k : number K of variants per input, drawn with `seed`. Where the kernel knows that no input has so many different
        ones (OPTION_ORDER: n! - 1 of n options), K is the most that any has, and a warning says so; copies would weaken
        whatever is concluded from the orbit.
    labels : (N,) class indices; for a plain list, or in the place of the split's own.
    ids : N strings or numbers, in the place of the split's own. Without either an id is a digest of the input, so that
        equal inputs have equal ids, and no others do.
    samples : how many answers per input to draw from p(.|x), for self-consistency.
    internals : also keep the logits and features of x, of a model that has outputs(inputs) (an EncoderClassifier).
    dropout : T stochastic passes over x with dropout on, by the model's dropout_proba(inputs, T, seed).
    seed : of variants, samples and dropout.
    meta : further facts to keep.

    Of the N K variants, meta counts those that equal their input ("copies") and those that equal an earlier variant of
    it ("repeats"), and says what K was. A warning says so where half or more are copies, and where a kernel that draws
    no variant twice (OPTION_ORDER) has fewer than K for some input.

    Raises ValueError for data that is one text, a table or a whole task, a model or perturbation without the method
    named here, a model that does not return one row per input, more options than classes, dropout with a model that
    has none, a number Z of clarifications that varies, or a negative count or seed.
    """
    expect(hasattr(model, "predict_proba"), lambda: f"model = {model!r} has no predict_proba(inputs): wrap a function "
           "as sua.CallableModel(function)")
    expect(perturbation is None or hasattr(perturbation, "sample"), lambda: f"perturbation = {perturbation!r} is no "
           "kernel: give one, such as sua.perturb.KERNELS['typos']")
    for name, count in (("samples", samples), ("dropout", dropout)):
        whole(name, count, 0, "give a whole number, 0 for none")
    expect_seed(seed)
    expect(dropout == 0 or hasattr(model, "dropout_proba"), lambda: f"dropout = {dropout}, but "
           f"{type(model).__name__} has no dropout_proba(inputs, passes, seed): set dropout=0 or give an encoder")
    given, inputs, readings = {}, data, None
    if isinstance(columns := getattr(data, "column_names", None), list):
        inputs = inputs_of(data)
        readings = clarifications(data) if "clarified" in columns else None
        given = {ours: data[theirs][:] for ours, theirs in
                 (("labels", "label"), ("label_dist", "label_dist"), ("weights", "weights"), ("ids", "id"))
                 if theirs in columns}
    given |= {name: value for name, value in (("labels", labels), ("ids", ids)) if value is not None}
    inputs = as_inputs(inputs)
    expect(inputs, "inputs is empty: give at least one text")
    given.setdefault("ids", [_digest(x) for x in inputs])
    k = _at_most(k, inputs, perturbation)
    drawn = variants(inputs, perturbation, k, seed) if perturbation else [()] * len(inputs)
    readings = readings or [()] * len(inputs)
    for i, row in enumerate(readings):
        expect(len(row) == len(readings[0]), lambda: f"row {i} has {len(row)} clarifications, row 0 has "
               f"{len(readings[0])}: give every row the same number, repeating one with weight 0")
    orbits = [(x, *row, *spelled) for x, row, spelled in zip(inputs, drawn, readings)]
    run = model.outputs if internals and hasattr(model, "outputs") else lambda x: {"probs": model.predict_proba(x)}
    asked, label = [x for orbit in orbits for x in orbit], getattr(model, "name", type(model).__name__)
    found = {name: model_rows(label, rows, len(asked)).reshape(len(inputs), len(orbits[0]), -1)
             for name, rows in run(asked).items()}
    given["n_classes"] = option_counts(inputs, found["probs"].shape[-1])
    found["probs"] = in_first_order(found["probs"], orbits)
    given |= {name: rows[:, 0] for name, rows in found.items()}
    after = 1 + len(drawn[0])
    given |= {"perturbed": found["probs"][:, 1:after]} if perturbation else {}
    given |= {"clarified": found["probs"][:, after:]} if readings[0] else {}
    if dropout:
        given["dropout"] = passes = np.asarray(model.dropout_proba(inputs, dropout, seed))
        expect(passes.shape[:2] == (len(inputs), dropout), f"dropout_proba of model {label!r} returned shape "
               f"{passes.shape} for {len(inputs)} inputs and {dropout} passes: return (inputs, passes, classes)")
    facts = {"model": label, "seed": seed}
    facts |= {name: value for name in ("dtype", "origin") if (value := getattr(model, name, None)) is not None}
    if perturbation:
        facts |= {"perturbation": perturbation.name, "k": k, **_count_repeats(inputs, drawn, perturbation, k)}
    result = Predictions(meta=facts | (meta or {}), **given)
    return result.sample(samples, seed) if samples else result


class Floor(NamedTuple):
    """How far a model's arithmetic moves its own answers: what no kernel caused.

    mean, largest : of |dp| over inputs, classes and repeats. sensitivity : mean S, in nats.
    """

    mean: float
    largest: float
    sensitivity: float

    def __str__(self):
        if self.largest < 1e-9:  # float64: these digits are the processor's
            return "the same input in other batches: |dp| below 1e-9"
        return (f"the same input in other batches: |dp| {self.mean:.2g} on average, {self.largest:.2g} at most; "
                f"S {self.sensitivity:.2g}")


def numerical_floor(model: Model, inputs: Sequence[Input], repeats: int = 3, seed: int = 0) -> Floor:
    """What is left of S when nothing is perturbed: the same inputs, computed in other batches.

    A model that computes in 16 bits rounds otherwise in a batch of another shape. Here the inputs are split into two
    parts at random, `repeats` times, each part is asked by itself, and the answers are compared with those to all at
    once. An S of about this size says nothing about the model. ValueError for fewer than two distinct inputs.
    """
    inputs = list(dict.fromkeys(as_inputs(inputs)))
    expect(len(inputs) > 1, lambda: f"{len(inputs)} distinct inputs: give at least two, so that batches can differ")
    whole("repeats", repeats, 1, "give at least 1")
    probs, rng, again = model.predict_proba(inputs), np.random.default_rng(expect_seed(seed)), []
    for _ in range(repeats):
        order, rows = rng.permutation(len(inputs)), np.empty_like(probs)
        for part in np.array_split(order, 2):
            rows[part] = model.predict_proba([inputs[i] for i in part])
        again.append(rows)
    found = Predictions(probs=probs, perturbed=np.stack(again, 1))
    moved = np.abs(found.perturbed - found.probs[:, None])
    return Floor(float(moved.mean()), float(moved.max()), float(score(found, "sensitivity").mean()))


def _digest(x):
    return hashlib.blake2b(repr(x).encode(), digest_size=8).hexdigest()


def _at_most(k, inputs, perturbation):
    """k, or the most different variants of any input, where the kernel knows that they are fewer."""
    if getattr(perturbation, "others", None) is None:
        return k
    k, most = whole("K", k, 1, "draw at least one variant per input"), max(map(perturbation.others, inputs))
    if most >= k or most < 1:
        return k
    warnings.warn(f"kernel {perturbation.name!r}: no input has more than {most} different variants, so K is {most}, "
                  f"not {k}: give k={most} here and to a rule that is fitted on these scores", stacklevel=3)
    return most


def _count_repeats(inputs, drawn, perturbation, k):
    """{"copies", "repeats"} of the variants, and a warning where they are many or could not be avoided."""
    copies, repeated = repeats(inputs, drawn)
    few = perturbation.others is not None and copies + repeated > 0
    if few or copies >= MANY_COPIES * len(inputs) * k:
        most = max(len({*row} - {x}) for x, row in zip(inputs, drawn))
        remedy = ("it changes none of these inputs: give another kernel" if not most else
                  f"no input has more than {most} different ones: give k={most}" if most < k else
                  "give a smaller k, or another kernel")
        warnings.warn(f"kernel {perturbation.name!r}: of {len(inputs) * k} variants {copies} equal their input and "
                      f"{repeated} an earlier variant of it. They say nothing new and weaken what is concluded from "
                      f"the orbit; {remedy}", stacklevel=3)
    return {"copies": copies, "repeats": repeated}
