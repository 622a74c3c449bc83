"""How a model fills `Predictions`: inputs, their variants and their clarifications, in one batched pass."""

from __future__ import annotations

import numpy as np

from .inputs import as_inputs, clarifications, expect, in_first_order, inputs as inputs_of, option_counts
from .perturb import variants
from .predictions import Predictions


def predict(model, data, perturbation=None, k: int = 8, *, labels=None, samples: int = 0, internals: bool = False,
            dropout: int = 0, seed: int = 0, meta: dict | None = None) -> Predictions:
    """Run a model on every input, on K variants of each and on its clarifications, in one batched pass.

    Parameters
    ----------
    model : anything with predict_proba(inputs) -> (N, C).
    data : a split of a Task, or a list of texts, pairs of texts, and questions with options: (question, option_1,
        option_2, ...), or {"question": ..., "choices": [...]}. From a split come ids, labels and label_dist, and, where
        it has them, clarifications with their weights: `clarified` is the model's answer to each.
    perturbation : a sua.perturb.Perturbation; None leaves `perturbed` out.
        A variant with x's options in another order gives its probabilities in x's order.
    k : number of variants per input, drawn with `seed`.
    labels : (N,) class indices; for a plain list, or in the place of the split's own.
    samples : how many answers per input to draw from p(.|x), for self-consistency.
    internals : also keep the logits and features of x, of a model that has outputs(inputs) (an EncoderClassifier).
    dropout : T stochastic passes over x with dropout on, by the model's dropout_proba(inputs, T, seed).
    seed : of variants, samples and dropout.
    meta : further facts to keep.

    Raises ValueError for data that is one text or a table, a model or perturbation without the method named here, more
    options than classes, dropout with a model that has none, or a number Z of clarifications that varies.
    """
    expect(hasattr(model, "predict_proba"), lambda: f"model = {model!r} has no predict_proba(inputs): wrap a function "
           "as sua.CallableModel(function)")
    expect(perturbation is None or hasattr(perturbation, "sample"), lambda: f"perturbation = {perturbation!r} is no "
           "kernel: give one, such as sua.perturb.KERNELS['typos']")
    expect(dropout == 0 or hasattr(model, "dropout_proba"), lambda: f"dropout = {dropout}, but "
           f"{type(model).__name__} has no dropout_proba(inputs, passes, seed): set dropout=0 or give an encoder")
    given, inputs, readings = {}, data, None
    if columns := getattr(data, "column_names", None):
        inputs = inputs_of(data)
        readings = clarifications(data) if "clarified" in columns else None
        given = {ours: data[theirs][:] for ours, theirs in
                 (("labels", "label"), ("label_dist", "label_dist"), ("weights", "weights"), ("ids", "id"))
                 if theirs in columns}
    if labels is not None:
        given["labels"] = labels
    inputs = as_inputs(inputs)
    drawn = variants(inputs, perturbation, k, seed) if perturbation else [()] * len(inputs)
    readings = readings or [()] * len(inputs)
    for i, row in enumerate(readings):
        expect(len(row) == len(readings[0]), lambda: f"row {i} has {len(row)} clarifications, row 0 has "
               f"{len(readings[0])}: give every row the same number, repeating one with weight 0")
    orbits = [(x, *row, *spelled) for x, row, spelled in zip(inputs, drawn, readings)]
    run = model.outputs if internals and hasattr(model, "outputs") else lambda x: {"probs": model.predict_proba(x)}
    found = {name: np.reshape(rows, (len(inputs), len(orbits[0]), -1))
             for name, rows in run([x for orbit in orbits for x in orbit]).items()}
    given["n_classes"] = option_counts(inputs, found["probs"].shape[-1])
    found["probs"] = in_first_order(found["probs"], orbits)
    given |= {name: rows[:, 0] for name, rows in found.items()}
    after = 1 + len(drawn[0])
    given |= {"perturbed": found["probs"][:, 1:after]} if perturbation else {}
    given |= {"clarified": found["probs"][:, after:]} if readings[0] else {}
    given |= {"dropout": model.dropout_proba(inputs, dropout, seed)} if dropout else {}
    facts = {"model": getattr(model, "name", type(model).__name__), "seed": seed,
             **({"dtype": model.dtype} if hasattr(model, "dtype") else {}),
             **({"perturbation": perturbation.name, "k": k} if perturbation else {}), **(meta or {})}
    result = Predictions(meta=facts, **given)
    return result.sample(samples, seed) if samples else result
