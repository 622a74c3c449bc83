"""A trained model over the formulations of its inputs, x and its K variants: what averaging them takes off the risk,
and what a model that was taught the average does in one pass. Notebook 03 tells it; everything works on `Predictions`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Mapping, Sequence

import numpy as np
import pandas as pd

from .. import metrics
from ..decide.removable import removable
from ..divergences import entropy
from ..inputs import expect
from ..predictions import Predictions
from ..scores import score

ORBIT_SCORES = ("sensitivity", "sua", "orbit_entropy", "orbit_msp")  # K + 1 passes each
ORBIT_MEAN = "orbit mean"
ONE_PASS = ("H before", "best orbit score before", "which", "H after", "within .01")  # what `one_pass` tells


def squared(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(...) |q - e_y|^2 of distributions (N, ..., C) and labels (N,), the Brier score of each."""
    one_hot = np.eye(rows.shape[-1])[labels]
    return ((rows - one_hot.reshape(len(rows), *[1] * (rows.ndim - 2), -1)) ** 2).sum(-1)


def orbit_mean(predictions: Predictions) -> Predictions:
    """What `sua.OrbitModel` answers to x, from an orbit that was saved: no variants, K + 1 passes."""
    keep = ("labels", "label_dist", "n_classes", "ids", "meta")
    return Predictions(probs=predictions.orbit.mean(1), **{name: getattr(predictions, name) for name in keep})


def over_formulations(p: Predictions) -> dict[str, float]:
    """Means over x and its K variants, each a formulation that may be the one that is asked.

    accuracy, brier : of a single formulation. all right : share of items answered right under all K + 1. of the mean :
    Brier score of the orbit's mean. removable : S_2, so that brier = of the mean + removable (Theorem 15a). worst :
    root mean square over items of the largest |q_m - e_y|; limit : of Theorem 15(e), from the mean and the largest
    |q_m - qbar|. SUA > 0 : share of items. auroc : of the entropy at x for wrong answers there, nan without both kinds.
    """
    orbit, labels = p.orbit, p.require("labels")
    each, mean = squared(orbit, labels), orbit.mean(1)
    apart = ((orbit - mean[:, None]) ** 2).sum(-1)
    of_mean = squared(mean, labels).mean()
    return {"accuracy": float((orbit.argmax(-1) == labels[:, None]).mean()), "all right": metrics.robust_accuracy(p),
            "brier": float(each.mean()), "of the mean": float(of_mean), "removable": float(removable(orbit).mean()),
            "worst": float(np.sqrt(each.max(1).mean())),
            "limit": float(np.sqrt(of_mean) + np.sqrt(apart.max(1).mean())),
            "SUA > 0": float((score(p, "sua") > 0).mean()), "auroc": _auroc(p.is_error, entropy(p.probs))}


def fidelity(student: Predictions, teacher: Predictions) -> dict[str, float]:
    """eps = E mean_m |r_m - qbar|^2 of a student to the teacher's orbit, which reads no label, and what Theorem 16
    concludes: "limit" for the student's Brier score over the formulations, from the teacher's and eps.

    ValueError unless both were asked the same items with as many variants.
    """
    expect(list(student.ids) == list(teacher.ids) and student.orbit.shape == teacher.orbit.shape, lambda: "student has "
           f"{student.orbit.shape} answers and teacher {teacher.orbit.shape}, or other items: predict the same split "
           "with the same kernel, k and seed for both")
    mean = teacher.orbit.mean(1)
    eps = float(((student.orbit - mean[:, None]) ** 2).sum(-1).mean())
    left = squared(mean, teacher.require("labels")).mean()
    return {"eps": eps, "limit of Theorem 16": float((np.sqrt(left) + np.sqrt(eps)) ** 2)}


def one_pass(student: Predictions, start: Predictions) -> dict[str, object]:
    """AUROC for wrong answers at x: of H before (1 pass), of the best of ORBIT_SCORES before, picked in hindsight
    (K + 1 passes), and of H after (1 pass), each for the model's own errors."""
    before = {name: _auroc(start.is_error, score(start, name)) for name in ORBIT_SCORES}
    best = max(before, key=lambda name: np.nan_to_num(before[name], nan=-1.0))
    after = _auroc(student.is_error, entropy(student.probs))
    return {"H before": _auroc(start.is_error, entropy(start.probs)), "best orbit score before": before[best],
            "which": best, "H after": after, "within .01": bool(after >= before[best] - 0.01)}


def _auroc(wrong, values):
    try:
        return metrics.auroc(wrong, values)
    except metrics.SingleClassError:
        return np.nan


def formulation_table(test: Mapping[tuple, Predictions], attacked: Mapping[tuple, Predictions], starts: Sequence[str],
                      start: str) -> pd.DataFrame:
    """A row per trained model (experiment, method, seed), and one for answering by the mean of each method in `starts`.

    Columns of `over_formulations`, the same of the kinds of variants that no training drew ("unseen accuracy", "unseen
    all right"), `fidelity` to the method `start` of the same seed, and passes per input.
    """
    rows, order = [], [*dict.fromkeys(experiment for experiment, *_ in test)]
    for (experiment, method, seed), p in sorted(test.items(), key=lambda item: order.index(item[0][0])):
        names, unseen = {"task": experiment, "training": method, "seed": seed}, attacked.get((experiment, method, seed))
        unseen = None if unseen is None or unseen.perturbed is None else unseen
        found = over_formulations(p)
        if unseen is not None:
            found |= {f"unseen {name}": over_formulations(unseen)[name] for name in ("accuracy", "all right")}
        if (experiment, start, seed) in test:
            found |= fidelity(p, test[experiment, start, seed])
        rows.append({**names, "passes": 1, **found})
        if method in starts:
            rows.append({**names, "training": f"{method}, {ORBIT_MEAN}", "passes": p.orbit.shape[1],
                         **_of_the_mean(p), **({f"unseen {name}": value for name, value in _of_the_mean(unseen).items()
                                                if name in ("accuracy", "all right")} if unseen is not None else {})})
    return pd.DataFrame(rows)


def _of_the_mean(p):
    """`over_formulations` of the answer by the orbit's mean: one answer for all K + 1."""
    mean = orbit_mean(p)
    return over_formulations(replace(mean, perturbed=mean.probs[:, None]))


def one_pass_table(test: Mapping[tuple, Predictions], start: str, students: Sequence[str]) -> pd.DataFrame:
    """`one_pass` of each student that was trained beside the method `start`, a row per (experiment, method, seed)."""
    return pd.DataFrame([
        {"task": experiment, "training": method, "seed": seed, **one_pass(p, test[experiment, start, seed])}
        for (experiment, method, seed), p in test.items()
        if method in students and (experiment, start, seed) in test], columns=["task", "training", "seed", *ONE_PASS])


def means(table: pd.DataFrame, columns: Sequence[str], by: Sequence[str] = ("task", "training")) -> pd.DataFrame:
    """Means over seeds of those columns that are there."""
    return table.groupby(list(by), sort=False)[[name for name in columns if name in table]].mean()


def plot_removable(axes, table: pd.DataFrame, title: str) -> None:
    """A bar per training, mean over seeds: the Brier score over formulations, stacked from that of the mean, which no
    averaging removes, and the sensitivity S_2, which it does."""
    shown = means(table, ["of the mean", "removable"], ["training"]).iloc[::-1]
    places = np.arange(len(shown))
    axes.barh(places, shown["of the mean"], label="Brier score of the mean", color="C0")
    axes.barh(places, shown["removable"], left=shown["of the mean"], label="sensitivity S_2, removable", color="C1",
              hatch="///", edgecolor="white", linewidth=0)
    axes.set(yticks=places, yticklabels=shown.index, xlabel="Brier score over formulations", title=title)
