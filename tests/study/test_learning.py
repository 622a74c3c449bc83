"""A learning curve: which runs it takes, that its models answer the comparison's items, and what its table says."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from sua import OBJECTIVES, Predictions, metrics
from sua.scores import SCORES, score
from sua.study.comparison import Comparison
from sua.study.experiment import execute_all, saved, task_of
from sua.study.learning import PANELS, SHOWN, curve_runs, curve_table, plot_curve, told_curve, with_all_rows

SIZES = {"train": 24, "validation": 8, "calibration": 12, "test": 16}
SETTING = {"task": {"name": "topic", "sizes": SIZES}, "model": "tiny", "perturbation": ["synonyms"],
           "training": {"epochs": 1, "batch_size": 8, "learning_rate": 0.002}}
COMPARISON = Comparison({"a": SETTING}, {"erm": [{}], "augment": [{"k": 1}], "sua_tr": [{}]}, [3, 4], 2,
                        attacks={"a": ["rare"]})
CURVE = {"experiments": ["a"], "methods": ["erm", "augment"], "rows": [[6, 4], [12, 2]], "test": 10}
CHOSEN = {pair: COMPARISON.methods[pair[1]][0] for pair in COMPARISON.pairs()}


def test_every_method_and_seed_runs_with_every_number_of_rows():
    runs = curve_runs(COMPARISON, CHOSEN, CURVE)
    assert list(runs) == [(("a", rows, method), seed) for rows in (6, 12) for method in CURVE["methods"]
                          for seed in (3, 4)]
    run = runs[("a", 12, "augment"), 4]
    assert run.experiment == "a 12 rows" and run.objective == replace(OBJECTIVES["augment"], k=1)
    assert run.setting == {**SETTING, "task": {"name": "topic", "sizes": {**SIZES, "train": 12, "test": 10}},
                           "training": {**SETTING["training"], "epochs": 2}}
    assert (run.seed, run.k, run.attacks, run.splits) == (4, 2, (), ("calibration", "test"))


@pytest.mark.parametrize("change, message", [
    ({"methods": ["erm", "sua_tr"]}, r"curve asks for \[\('a', 'sua_tr'\)\]"),
    ({"rows": [[24, 1]]}, "curve asks for 24 training rows and 10 test items"), ({"test": 17}, "17 test items")])
def test_a_curve_asks_for_what_the_comparison_has(change, message):
    with pytest.raises(ValueError, match=message):
        curve_runs(COMPARISON, {("a", "erm"): {}, ("a", "augment"): {"k": 1}}, {**CURVE, **change})


def test_real_training_rows_and_test_items_are_among_those_of_the_comparison(mirror):
    for name in ("sst2", "chaosnli"):
        setting = {**SETTING, "task": {"name": name, "sizes": SIZES}}
        curve = {"experiments": [name], "methods": ["erm"], "rows": [[6, 1]], "test": 10}
        (run,) = curve_runs(Comparison({name: setting}, {"erm": [{}]}, [0], 2), {(name, "erm"): {}}, curve).values()
        few, full = task_of(run.setting), task_of(setting)
        assert set(few["train"]["text"]) <= set(full["train"]["text"]) and len(few["train"]) == 6
        assert few["test"].to_dict() == full["test"].select(range(10)).to_dict()
        assert few["calibration"].to_dict() == full["calibration"].to_dict()


def test_the_models_of_all_rows_stand_beside_them_on_the_same_items(tmp_path):
    comparison, curve = replace(COMPARISON, methods={"erm": [{}]}), {**CURVE, "methods": ["erm"], "rows": [[12, 1]]}
    fewer, full = curve_runs(comparison, {("a", "erm"): {}}, curve), comparison.runs({("a", "erm"): {}})
    execute_all([*fewer.values(), *full.values()], tmp_path, tmp_path / "models")
    cells = with_all_rows(saved(fewer, tmp_path, "test"), saved(full, tmp_path, "test"), comparison, curve)
    assert list(cells) == [("a", 12, "erm"), ("a", 24, "erm")]
    assert all(len(p) == 10 and len(runs) == 2 for runs in cells.values() for p in runs)
    whole = Predictions.load(full["a", "erm", 4].file(tmp_path, "test"))
    np.testing.assert_array_equal(cells["a", 24, "erm"][1].probs, whole.probs[:10])


def simulated(name, seed, sharpness, n=200):
    """Three classes whose logits know the label the better the larger `sharpness`, under four random moves."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n)
    logits = rng.normal(size=(n, 1, 3)) + sharpness * np.eye(3)[labels][:, None] + rng.normal(size=(n, 5, 3)) / 2
    orbit = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return Predictions(probs=orbit[:, 0], perturbed=orbit[:, 1:], labels=labels, ids=[f"{name}-{i}" for i in range(n)])


TESTED = {("a", rows, "erm"): [simulated("test", seed, np.log10(rows)) for seed in (0, 1)] for rows in (10, 100)}
HELD = {cell: [simulated("held", seed + 7, np.log10(cell[1])) for seed in (0, 1)] for cell in TESTED}


def test_the_table_holds_means_over_seeds_of_what_it_names():
    table = curve_table(TESTED, HELD, 50)
    assert table[["task", "rows", "training"]].values.tolist() == [["a", 10, "erm"], ["a", 100, "erm"]]
    for row, runs, held in zip(table.to_dict("records"), TESTED.values(), HELD.values()):
        assert row["accuracy"] == pytest.approx(np.mean([(p.probs.argmax(-1) == p.labels).mean() for p in runs]))
        assert row["robust_accuracy"] == pytest.approx(np.mean([metrics.robust_accuracy(p) for p in runs]))
        positive = [(score(p, "sensitivity") > score(p, "entropy")).mean() for p in runs]
        assert row["SUA > 0"] == pytest.approx(np.mean(positive))
        for name in SHOWN:
            needs = "calibration" in SCORES[name].needs
            assert row[name] == pytest.approx(np.mean([roc_auc_score(p.is_error, score(
                p, name, **({"calibration": c} if needs else {}))) for p, c in zip(runs, held)]), abs=1e-9)
        assert row["sua less entropy"] == pytest.approx(row["sua"] - row["entropy"], abs=1e-12)
        assert row["low"] < row["sua less entropy"] < row["high"]


def test_without_errors_nothing_is_ranked():
    perfect = Predictions(probs=[[0.9, 0.1]] * 3, perturbed=[[[0.8, 0.2]]] * 3, labels=[0, 0, 0])
    table = curve_table({("a", 10, "erm"): [perfect]}, {("a", 10, "erm"): [perfect]}, 20)
    assert table.loc[0, "accuracy"] == 1 and table.loc[0, [*SHOWN, "sua less entropy"]].isna().all()


def test_the_sentence_and_the_figure_say_what_is_in_the_table():
    columns = ["task", "rows", "training", "robust_accuracy", "SUA > 0", "low", "high"]
    table = pd.DataFrame([["a", 10, "erm", 0.4, 0.2, 0.1, 0.2],
                          ["a", 10, "sua_tr", 0.3, 0.4, -0.1, 0.2],
                          ["a", 2000, "erm", 0.6, 0.0, -0.3, -0.2],
                          ["a", 2000, "sua_tr", 0.7, 0.1, -0.1, 0.1]], columns=columns)
    assert told_curve(table) == (
        "a: with 10 rows erm is the most robust (0.400), with 2,000 sua_tr (0.700); the share of inputs with a "
        "positive SUA goes from 30.0% to 5.0%, and SUA ranks errors better than the entropy in 1 and worse in 1 of 4 "
        "cells.")
    table = table.assign(accuracy=0.5, **{"sua less entropy": 0.0})
    figure, axes = plt.subplots(1, len(PANELS))
    plot_curve(axes, table, "a")
    lines = {line.get_label(): line.get_xydata() for line in axes[1].lines}
    np.testing.assert_array_equal(lines["sua_tr"], [[10, 0.3], [2000, 0.7]])
    plt.close(figure)
