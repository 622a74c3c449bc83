"""Where does a method help? A comparison repeated with fewer training rows, and what becomes of the scores on the way.

A profile asks for it as {experiments: names, methods: names, rows: pairs of training rows and epochs, test: items}; all
rows are those of the comparison itself, whose models are not trained again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter

from .. import metrics
from ..inputs import expect
from ..predictions import Predictions
from ..scores import score
from .comparison import STYLES, Comparison
from .experiment import Run, task_of
from .report import score_all

SHOWN = ("entropy", "sensitivity", "sua", "sua_repaired")  # scores that are followed
Cell = tuple[str, int, str]  # experiment, training rows, training


def curve_runs(comparison: Comparison, chosen: Mapping[tuple[str, str], Mapping], curve: Mapping
               ) -> dict[tuple[Cell, int], Run]:
    """A run for every experiment, number of rows, method and seed of the curve: {((experiment, rows, method), seed)}.

    Strengths are those that were chosen with all rows. The training rows are among those of the comparison, and the
    test items are its first. ValueError for a method that the comparison does not train in one of the experiments.
    """
    found = {}
    for rows, epochs in curve["rows"]:
        settings = {name: _fewer(comparison.experiments[name], rows, epochs, curve["test"])
                    for name in curve["experiments"]}
        part = replace(comparison, experiments=settings, only={}, attacks={}, beside={},
                       methods={name: comparison.methods[name] for name in curve["methods"]})
        absent = [pair for pair in part.pairs() if pair not in chosen]
        expect(not absent, lambda: f"curve asks for {absent}, which the comparison does not train: name others")
        for (experiment, method, seed), run in part.runs(chosen).items():
            found[(experiment, rows, method), seed] = replace(run, experiment=f"{experiment} {rows} rows")
    return found


def _fewer(setting, rows, epochs, test):
    task, training = setting["task"], setting["training"]
    expect(rows < task["sizes"]["train"] and test <= task["sizes"]["test"], lambda: f"curve asks for {rows} training "
           f"rows and {test} test items, and the experiment has {task['sizes']}: give fewer of either")
    return {**setting, "task": {**task, "sizes": {**task["sizes"], "train": rows, "test": test}},
            "training": {**training, "epochs": epochs}}


def with_all_rows(cells: Mapping[tuple[Cell, int], Predictions], full: Mapping[tuple[str, str, int], Predictions],
                  comparison: Comparison, curve: Mapping) -> dict[Cell, list[Predictions]]:
    """{cell: its predictions by seed}, the comparison's own models among them, on the items that all were asked."""
    found: dict[Cell, list[Predictions]] = {}
    for (cell, _), p in cells.items():
        found.setdefault(cell, []).append(p)
    for experiment in curve["experiments"]:
        rows = len(task_of(comparison.experiments[experiment])["train"])
        for method in curve["methods"]:
            few = found[experiment, curve["rows"][0][0], method]
            found[experiment, rows, method] = [full[experiment, method, seed].subset(slice(len(few[0])))
                                               for seed in comparison.seeds]
            assert all(np.array_equal(p.ids, few[0].ids) for p in found[experiment, rows, method])
    return found


def curve_table(tested: Mapping[Cell, Sequence[Predictions]], held: Mapping[Cell, Sequence[Predictions]], resamples: int
                ) -> pd.DataFrame:
    """A row per cell, means over its seeds: task, rows, training, accuracy, robust_accuracy, SUA > 0 (share of items),
    AUROC of SHOWN, and that of SUA less that of the entropy with its 95 % interval over items (nan where a run has no
    errors, or none but errors, or where the calibration items have, for sua_repaired)."""
    rows = []
    for (task, number, training), runs in sorted(tested.items(), key=lambda item: item[0][:2]):
        rows.append({"task": task, "rows": number, "training": training,
                     **{name: float(np.mean([metric(p) for p in runs])) for name, metric in (
                         ("accuracy", metrics.accuracy), ("robust_accuracy", metrics.robust_accuracy),
                         ("SUA > 0", lambda p: (score(p, "sua") > 0).mean()))},
                     **_aurocs(runs, held[task, number, training], resamples)})
    return pd.DataFrame(rows)


def _aurocs(runs, held, resamples):
    values = [(p.is_error, score_all(p, calibration, SHOWN)) for p, calibration in zip(runs, held)]
    common = set.intersection(*(set(of_run) for _, of_run in values))
    nothing = dict.fromkeys([*SHOWN, "sua less entropy", "low", "high"], np.nan)
    try:
        found = {row["score"]: row for row in metrics.auroc_intervals(
            [(wrong, {name: of_run[name] for name in SHOWN if name in common}) for wrong, of_run in values],
            ("entropy",), resamples)}
    except metrics.SingleClassError:
        return nothing
    gain = found["sua"]
    return {**nothing, **{name: row["auroc"] for name, row in found.items()}, "sua less entropy": gain["gain"],
            "low": gain["gain_low"], "high": gain["gain_high"]}


def told_curve(table: pd.DataFrame) -> str:
    """The curve in a sentence for each task, from its table."""
    said = []
    for task, cell in table.groupby("task", sort=False):
        least, most = cell["rows"].min(), cell["rows"].max()
        few, many = (cell[cell["rows"] == rows].set_index("training") for rows in (least, most))
        best = [part["robust_accuracy"].idxmax() for part in (few, many)]
        better, worse = (cell["low"] > 0).sum(), (cell["high"] < 0).sum()
        said.append(
            f"{task}: with {least:,} rows {best[0]} is the most robust ({few['robust_accuracy'].max():.3f}), with "
            f"{most:,} {best[1]} ({many['robust_accuracy'].max():.3f}); the share of inputs with a positive SUA goes "
            f"from {few['SUA > 0'].mean():.1%} to {many['SUA > 0'].mean():.1%}, and SUA ranks errors better than the "
            f"entropy in {better} and worse in {worse} of {len(cell)} cells")
    return ". ".join(said) + "."


PANELS = {"accuracy": "accuracy", "robust_accuracy": "robust accuracy", "SUA > 0": "share of items with SUA > 0",
          "sua less entropy": "AUROC of SUA less that of H"}


def plot_curve(axes, table: pd.DataFrame, task: str) -> None:
    """The measures of PANELS against the number of training rows, one axes for each and a line for each training."""
    of_task = table[table["task"] == task]
    for axis, (name, label) in zip(axes, PANELS.items()):
        for i, (training, cell) in enumerate(of_task.groupby("training", sort=False)):
            style = {"linestyle": STYLES[i % len(STYLES)], "marker": ".", "label": training}
            axis.plot(cell["rows"], cell[name], **style)
        if name == "sua less entropy":
            axis.axhline(0, color="black", linewidth=0.8)
        axis.set(xscale="log", title=task, ylabel=label, xlabel="training rows (log scale)")
        rows = sorted(set(of_task["rows"]))
        axis.set_xticks(rows, [f"{number:,}" for number in rows])
        axis.xaxis.set_minor_formatter(NullFormatter())
