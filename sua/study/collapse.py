"""Ambiguity collapse: its models, and the matched comparison of scores that detect it."""

from __future__ import annotations

import difflib
from typing import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from .. import metrics
from ..predictions import Predictions
from ..scores import fits
from ..training.objectives import OBJECTIVES
from .experiment import Run
from .report import Stage, plot_auroc

UNCOMPARED = -1  # the group of items that take no part in a comparison


def label_runs(worlds: Mapping[str, Mapping], rules: Mapping[str, str], seeds: Iterable[int], k: int) -> dict:
    """{(world, rule, seed): Run}: every world's model under every label rule.

    rules : {name: objective}. The rule "sampled" draws the training labels from p*, any other takes the likeliest;
    soft labels are a matter of the objective.
    """
    runs = {}
    for world, setting in worlds.items():
        for rule, objective in rules.items():
            task = {**setting["task"], "label_rule": "sampled" if rule == "sampled" else "majority"}
            for seed in seeds:
                runs[world, rule, seed] = Run(world, {**setting, "task": task}, rule, OBJECTIVES[objective], seed, k,
                                              samples=10, probe=True, splits=("test",))
    return runs


def fifths(p: Predictions, threshold: float) -> np.ndarray:
    """(N,) the fifth of confidence, 0 to 4, of answers of at least `threshold`; UNCOMPARED for the others."""
    confidence = p.probs.max(-1)
    confident = confidence >= threshold
    if not confident.any():
        return np.full(len(p), UNCOMPARED)
    return np.where(confident, np.digitize(confidence, np.quantile(confidence[confident], [0.2, 0.4, 0.6, 0.8])),
                    UNCOMPARED)


def ambiguity_probe(features, target, groups=None, folds: int = 5) -> np.ndarray:
    """(N,) P(ambiguous) of each input, read from the model's features (N, D) by a linear probe (`scores.fits.probe`)
    that was fitted on other inputs: the rival of clarifications, which needs labels of ambiguity instead of rewrites.

    target : (N,) bool, which inputs are ambiguous. groups : (N,) names of what must not be parted, such as the question
    of which inputs are rewrites; None: every input alone. The groups are dealt out to `folds` parts in sorted
    order, the ones with ambiguous inputs first. SingleClassError where the inputs outside of a part are all
    ambiguous, or none is.
    """
    features, target = np.asarray(features, dtype=float), np.asarray(target, dtype=bool)
    group = np.unique(np.arange(len(target)) if groups is None else groups, return_inverse=True)[1]
    has = np.bincount(group, target) > 0
    dealt = np.empty(len(has), dtype=int)
    dealt[np.argsort(~has, kind="stable")] = np.arange(len(has)) % folds
    found = np.empty(len(target))
    for part in range(folds):
        inside = dealt[group] == part
        if inside.any():
            found[inside] = fits.probe(features[~inside], target[~inside])(features[inside])
    return found


def matched_auroc(target, score, group, counts=None) -> np.ndarray:
    """(R,) share of pairs (one of the target, one not, in the same group) that a score orders rightly; ties half.

    target (N,) bool, score (N,), group (N,) integers, UNCOMPARED left out. counts (R, N): how often each item is in
    each resample; None: once, R = 1. nan where no group has both kinds.
    """
    counts = np.ones((1, len(target))) if counts is None else counts
    won = pairs = np.zeros(len(counts))
    for members in (group == g for g in np.unique(group[group != UNCOMPARED])):
        if 0 < target[members].sum() < members.sum():
            size, hit = counts[:, members], target[members]
            of_group = size[:, hit].sum(1) * size[:, ~hit].sum(1)
            won = won + of_group * np.nan_to_num(metrics.auroc(hit, score[members], counts=size))
            pairs = pairs + of_group
    with np.errstate(invalid="ignore"):
        return won / pairs


def detect(cells: Sequence[Mapping], scores: Sequence[str], metric: str, seeds: Iterable[int], resamples: int,
           **names) -> tuple[list[dict], list[dict]]:
    """Matched AUROC of every score: rows with intervals over the items, and rows of single seeds for metrics.csv.

    cells : one {score: (target, score, group)} per seed, on the same items. names : further columns of every row. All
    values are nan where some seed has nothing to compare.
    """
    both = [all(0 < target[group != UNCOMPARED].sum() < (group != UNCOMPARED).sum()
                for target, _, group in cell.values()) for cell in cells]
    if all(both):
        found = metrics.intervals(cells, matched_auroc, references=(scores[0],), resamples=resamples)
    else:
        found = [{"name": score, "value": np.nan, "low": np.nan, "high": np.nan} for score in scores]
    rows = [{**names, "metric": metric, "score": row["name"], "auroc": row["value"], "low": row["low"],
             "high": row["high"]} for row in found]
    of_seeds = [{**names, "metric": metric, "score": score, "seed": seed,
                 "value": float(matched_auroc(*cell[score])[0]) if two else np.nan}
                for seed, cell, two in zip(seeds, cells, both) for score in scores]
    return rows, of_seeds


def plot_detection(stage: Stage, rows: pd.DataFrame, panels: str, name: str, caption: str,
                   marked: Sequence[str]) -> None:
    """One panel of AUROCs with intervals per value of the column `panels`; `marked` scores as diamonds. Saved."""
    import matplotlib.pyplot as plt

    titles = list(dict.fromkeys(rows[panels]))
    columns = len(titles) if len(titles) < 4 else 2
    lines = -(-len(titles) // columns)
    size = 2 + 2.1 * columns, (0.8 + 0.22 * rows["score"].nunique()) * lines
    figure, axes = plt.subplots(lines, columns, figsize=size, sharex=True, sharey=True, squeeze=False,
                                layout="constrained")
    for axis, title in zip(axes.flat, titles):
        plot_auroc(axis, rows[rows[panels] == title], title, marked=marked)
    axes[0, 0].invert_yaxis()
    stage.save_figure(figure, name, caption)


def edit_size(x, readings: Sequence, weights: Sequence[float]) -> float:
    """Weighted mean share of characters that the clarifications of x change; texts, or tuples of texts."""
    def text(example):
        return example if isinstance(example, str) else " ".join(example)

    return sum(weight * (1 - difflib.SequenceMatcher(None, text(x), text(reading), autojunk=False).ratio())
               for reading, weight in zip(readings, weights) if weight)
