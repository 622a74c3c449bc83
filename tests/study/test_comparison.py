"""A comparison's runs and tables, the interval for a new training, and what notebook 03 tells its reader."""

import json
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy import stats

import sua
from sua import OBJECTIVES, Predictions, metrics
from sua.study import comparison as room
from sua.study.comparison import (Comparison, attack_accuracy, beside_measure, differences, for_new_training,
                                  interval_table, new_training_table, parts, plot_curves, preservation, selection_table,
                                  standings)
from sua.study.experiment import Run, execute, task_of

ROOT = Path(__file__).parents[2]
SIZES = {"train": 24, "validation": 8, "calibration": 8, "test": 12}
SETTING = {"task": {"name": "topic", "sizes": SIZES}, "model": "tiny", "perturbation": ["synonyms"],
           "training": {"epochs": 1, "batch_size": 8, "learning_rate": 0.002}}
OTHER = {**SETTING, "task": {"name": "nli", "sizes": SIZES}}
METHODS = {"erm": [{"learning_rate_scale": 1.0}, {"learning_rate_scale": 0.5}], "sua_tr": [{"k": 1}, {"k": 2}],
           "soft_labels": [{}, {"smoothing": 0.1}]}
COMPARISON = Comparison({"a": SETTING, "b": OTHER}, METHODS, [3, 4], 2, {"b": ["erm"]}, {"a": ["rare"]})


def with_rate(rate):
    return {**SETTING, "training": {**SETTING["training"], "learning_rate": rate}}


def test_candidates_are_runs_of_the_first_seed_on_validation():
    candidates = COMPARISON.candidates()
    assert list(candidates) == [("a", "erm"), ("a", "sua_tr"), ("a", "soft_labels"), ("b", "erm")]
    assert candidates["a", "erm"] == [
        Run("a", with_rate(0.002), "erm~0", OBJECTIVES["erm"], 3, 2, splits=("validation",)),
        Run("a", with_rate(0.001), "erm~1", OBJECTIVES["erm"], 3, 2, splits=("validation",))]


def test_a_candidate_on_trial_gets_its_share_of_the_steps_and_a_training_all_of_them():
    setting = {**SETTING, "training": {**SETTING["training"], "epochs": 3, "arguments": {"bf16": False}}}
    comparison = Comparison({"a": setting}, {"erm": [{}]}, [3], 2, trial=0.25)
    (candidate,) = comparison.candidates()["a", "erm"]  # of 3 epochs of 3 steps of 8 items
    assert candidate.setting["training"]["arguments"] == {"bf16": False, "max_steps": 3}
    (run,) = comparison.runs({("a", "erm"): {}}).values()
    assert run.setting == setting


def test_what_is_measured_beside_the_test_split():
    right = Predictions(probs=[[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], labels=[0, 0, 0])
    assert beside_measure("snli", right) == {"metric": "snli_accuracy", "value": pytest.approx(2 / 3)}
    kept = replace(right, labels=None, perturbed=[[[0.6, 0.4], [0.4, 0.6]], [[0.1, 0.9]] * 2, [[0.8, 0.2]] * 2])
    assert beside_measure("checklist", kept) == {"metric": "checklist_kept", "value": pytest.approx(5 / 6)}


def test_soft_labels_need_distributions(monkeypatch):
    monkeypatch.setattr(room, "task_of",
                        lambda setting: {"train": task_of(setting)["train"].remove_columns("label_dist")})
    assert COMPARISON.methods_of("a") == ["erm", "sua_tr"]


def test_runs_take_what_was_chosen():
    chosen = {pair: METHODS[pair[1]][1] for pair in COMPARISON.pairs()}
    runs = COMPARISON.runs(chosen, ["erm"], samples=5, dropout=2)
    assert len(runs) == 8 and all(run.samples == 5 and run.dropout == 2 for run in runs.values())
    assert runs["a", "sua_tr", 4] == Run("a", SETTING, "sua_tr", replace(OBJECTIVES["sua_tr"], k=2), 4, 2, 5,
                                         dropout=2, attacks=("rare",), splits=("calibration", "test"))
    assert runs["b", "erm", 3].full and not runs["a", "sua_tr", 3].full and runs["b", "erm", 3].attacks == ()
    changed = COMPARISON.ablations(chosen, {"sua_tr": {"lambda 4": {"lam": 4.0}}}, "a")
    assert list(changed) == [("a", "sua_tr: lambda 4", 3), ("a", "sua_tr: lambda 4", 4)]
    assert changed["a", "sua_tr: lambda 4", 3] == Run(
        "a", SETTING, "sua_tr: lambda 4", replace(OBJECTIVES["sua_tr"], k=2, lam=4.0), 3, 2, attacks=("rare",),
        splits=("calibration", "test"))
    with pytest.raises(ValueError, match=r"ablations of \['sua_tr'\] on 'b', where only \['erm'\] are trained"):
        COMPARISON.ablations(chosen, {"sua_tr": {}}, "b")


def test_what_teaches_is_the_plainly_trained_model_of_the_same_seed():
    slow = {"learning_rate_scale": 0.5}
    methods = {"distil": [slow], "distil_labels": [slow], "sua_tr_repaired": [{}], "erm": [{}]}
    comparison = Comparison({"a": SETTING}, methods,
                            [3], 2, starts={"a": {"learning_rate_scale": 2.0}})
    runs = comparison.runs({pair: comparison.methods[pair[1]][0] for pair in comparison.pairs()})
    for name in ("distil", "distil_labels"):
        assert runs["a", name, 3] == Run("a", with_rate(0.001), name, OBJECTIVES[name], 3, 2,
                                         start=Run("a", with_rate(0.004), "erm", OBJECTIVES["erm"], 3, 2),
                                         splits=runs["a", "erm", 3].splits)
    assert runs["a", "erm", 3].start is runs["a", "sua_tr_repaired", 3].start is None


def test_tables_of_objectives_and_of_the_selection():
    assert differences(OBJECTIVES["erm"]) == "" and differences(OBJECTIVES["augment"]) == "k = 4, augment = 0.8"
    table = selection_table(METHODS, {("a", "erm"): (1, [0.7, 0.6])})
    assert table.values.tolist() == [["a", "erm", "{'learning_rate_scale': 1.0}", 0.7, ""],
                                     ["a", "erm", "{'learning_rate_scale': 0.5}", 0.6, "yes"]]


def test_parts_of_a_world_are_its_clear_and_its_ambiguous_items():
    p = Predictions(probs=np.full((3, 2), 0.5), label_dist=[[1, 0], [0.6, 0.4], [0, 1]], labels=[0, 0, 1],
                    meta={"task": "a", "truth": "exact"})
    sizes = {title: len(p.subset(rows)) for title, rows in parts(p).items()}
    assert sizes == {"a": 3, "a (clear)": 2, "a (ambiguous)": 1}
    assert parts(replace(p, meta={"task": "a"})) == {"a": slice(None)}


def test_an_attack_counts_with_its_variants_if_it_has_any():
    p = Predictions(probs=[[0.9, 0.1], [0.9, 0.1]], labels=[0, 0])
    assert attack_accuracy(p) == 1
    assert attack_accuracy(replace(p, perturbed=[[[0.9, 0.1]], [[0.1, 0.9]]])) == 0.5


def test_preservation_is_1_in_a_world_and_what_the_judge_says_elsewhere(monkeypatch):
    task = task_of(SETTING)
    assert preservation("a", task, ["synonyms", "option_order"], task.p_star, 10) == {"a:synonyms": 1.0}
    sst2 = replace(task, name="sst2")
    groups = {"a good film": ["a bad film"], "good": ["good", "fine"]}
    monkeypatch.setattr(room, "checklist_groups", lambda: groups)

    def says_bad(texts):
        return np.array([[1.0, 0.0] if "bad" in text else [0.0, 1.0] for text in texts])

    kept = preservation("sst2", sst2, ["synonyms"], says_bad, 2)
    assert set(kept) == {"sst2:synonyms", "checklist:synonyms", "checklist:given"} and kept["checklist:given"] == 0.5


def simulated(seed, accuracy, n=400):
    rng = np.random.default_rng(seed)
    right = rng.random(n) < accuracy
    return Predictions(probs=np.where(right[:, None], [0.8, 0.2], [0.3, 0.7]), labels=np.zeros(n, int))


RUNS = {("a", method, seed): simulated(10 * seed + len(method), accuracy)
        for method, accuracy in (("erm", 0.6), ("sua_tr", 0.8)) for seed in (3, 4)}
PLAIN = Comparison({"a": SETTING}, {"erm": [{}], "sua_tr": [{}]}, [3, 4], 2)


def test_the_interval_table_is_that_of_metrics(capsys):
    never_wrong = (metrics.auroc, lambda key: (np.zeros(9, bool), np.arange(9.0)))
    measures = {"accuracy": (metrics.accuracy, RUNS.get), "auroc": never_wrong}
    table = interval_table(PLAIN, measures, ["sua_tr", "absent"], 40)
    cells = [{method: RUNS["a", method, seed] for method in ("erm", "sua_tr")} for seed in (3, 4)]
    expected = pd.DataFrame(metrics.intervals(cells, metrics.accuracy, ["sua_tr"], 40))
    expected = expected.rename(columns={"name": "training"})
    pd.testing.assert_frame_equal(table.drop(columns=["task", "metric"]), expected)
    assert capsys.readouterr().out.startswith("a, auroc: n/a, is_error is 0 for all 9 items")


def test_an_interval_for_a_new_training_is_that_of_student_where_items_add_nothing():
    values = np.array([0.7, 0.8, 0.84])
    expected = stats.t.interval(0.9, 2, values.mean(), values.std(ddof=1) * np.sqrt(4 / 3))
    assert for_new_training(values, values.mean(), values.mean(), 0.9) == pytest.approx(expected, abs=1e-12)
    assert for_new_training([0.8, 0.8], 0.7, 0.85) == pytest.approx((0.7, 0.85), abs=1e-12)  # trainings add nothing
    assert np.isnan(for_new_training([0.8], 0.7, 0.9)).all()


def test_an_interval_for_a_new_training_holds_it_and_one_over_items_does_not():
    rng, draws, n = np.random.default_rng(0), 1500, 500
    truth = rng.normal(0.8, 0.03, size=(draws, 4))  # accuracy of three trainings and of the next
    values = rng.binomial(n, truth[:, :3]) / n
    mean = values.mean(1)
    half = 1.96 * np.sqrt(mean * (1 - mean) / (3 * n))
    wide = np.array([for_new_training(v, m - h, m + h) for v, m, h in zip(values, mean, half)])
    assert 0.94 < ((wide[:, 0] <= truth[:, 3]) & (truth[:, 3] <= wide[:, 1])).mean() < 0.99
    assert (np.abs(truth[:, 3] - mean) <= half).mean() < 0.6


def test_the_table_for_new_trainings_has_both_intervals():
    measures = {"accuracy": (metrics.accuracy, RUNS.get)}
    intervals = interval_table(PLAIN, measures, ["sua_tr"], 200)
    table = new_training_table(intervals, measures, [3, 4])
    erm, reference = (np.array([metrics.accuracy(RUNS["a", method, seed]) for seed in (3, 4)])
                      for method in ("erm", "sua_tr"))
    row, narrow = table.iloc[0], intervals.iloc[0]
    assert row[["low", "high"]].tolist() == pytest.approx(
        np.clip(for_new_training(erm, narrow["low"], narrow["high"]), 0, 1))
    assert row[["gain_low", "gain_high"]].tolist() == pytest.approx(
        np.clip(for_new_training(erm - reference, narrow["gain_low"], narrow["gain_high"]), -1, 1))
    assert row["low"] < narrow["low"] and row["high"] > narrow["high"] and row["trainings"] == 2
    assert table.loc[1, ["gain_low", "gain_high"]].tolist() == [0, 0]  # the reference against itself
    assert new_training_table(intervals, measures, [3])[["low", "high"]].isna().all(axis=None)


def test_standings_tell_best_from_behind_and_leave_out_soft_labels():
    columns = ["task", "metric", "training", "value", "gain", "gain_low", "gain_high"]
    gains = pd.DataFrame([
        ["a", "accuracy", "sua_tr", 0.8, 0, 0, 0], ["a", "accuracy", "erm", 0.7, -0.1, -0.2, 0.0],
        ["a", "accuracy", "soft_labels", 0.9, 0.1, 0.05, 0.15],
        ["a", "ece_scaled", "sua_tr", 0.2, 0, 0, 0], ["a", "ece_scaled", "erm", 0.1, -0.1, -0.15, -0.05],
        ["b", "accuracy", "sua_tr", 0.8, 0, 0, 0], ["b", "accuracy", "erm", 0.82, 0.02, -0.01, 0.05]], columns=columns)
    assert standings(gains, "sua_tr").values.tolist() == [
        ["a", "accuracy", "erm", -0.1, "best"], ["a", "ece_scaled", "erm", 0.1, "behind"],
        ["b", "accuracy", "erm", 0.02, "within the interval"]]


def test_curves_are_means_over_seeds():
    curves = pd.DataFrame({"experiment": "a", "training": ["erm"] * 4, "epoch": [1, 2, 1, 2],
                           "task": [1.0, 0.5, 3.0, 1.5]})
    figure, axes = plt.subplots()
    plot_curves(axes, curves, "a", ["erm"], "task")
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[1, 2], [2, 1]])
    plt.close(figure)


# --- what notebook 03 tells its reader ---

def toy_cell(change=""):
    """Names of the cell of toy logits, run with a line in front of that of p."""
    notebook = json.loads((ROOT / "notebooks/03_sua_tr_training.ipynb").read_text(encoding="utf-8"))
    (source,) = ("".join(cell["source"]) for cell in notebook["cells"] if cell["id"] == "toy")
    space = {"np": np, "pd": pd, "torch": torch, "sua": sua}
    exec(source.replace("p = np.exp", f"{change}\np = np.exp", 1), space)  # noqa: S102 - the reader runs it too
    return space


def test_halved_logits_satisfy_the_alignment_term_and_change_no_answer():
    before, after = toy_cell(), toy_cell("logits, of_variants = 0.5 * logits, 0.5 * of_variants")
    assert before["alignment"] > 0 == after["alignment"] and after["task"] > before["task"]
    for name in "pq":
        np.testing.assert_array_equal(before[name].argmax(-1), after[name].argmax(-1))
    assert (after["q"].argmax(-1) != after["p"].argmax(-1)[:, None]).any(1).all()


def answers_at_smoke_size(tmp_path, method, changes=(), **setting):
    profile = yaml.safe_load((ROOT / "notebooks/profiles/smoke.yaml").read_text())
    experiments = profile["03_sua_tr_training"]["experiments"]
    comparison = Comparison({"topic": {**experiments["topic"], **setting}}, {method: [dict(changes)]}, [0], 2)
    (run,) = comparison.runs({("topic", method): dict(changes)}, splits=("test",)).values()
    execute(run, tmp_path, tmp_path / "models")
    return Predictions.load(run.file(tmp_path, "test"))


def test_a_large_consistency_makes_a_model_that_answers_always_alike(tmp_path):
    p = answers_at_smoke_size(tmp_path, "sua_tr", {"consistency": 100.0})
    assert len(set(p.orbit.argmax(-1).ravel())) == 1 and metrics.robust_accuracy(p) == metrics.accuracy(p)


def test_the_perturbation_changes_what_a_plain_model_is_asked_and_not_the_model(tmp_path):
    synonyms, wording = (answers_at_smoke_size(tmp_path, "erm", perturbation=[name])
                         for name in ("synonyms", "wording"))
    np.testing.assert_allclose(synonyms.probs, wording.probs, rtol=0, atol=1e-12)
    assert metrics.robust_accuracy(synonyms) != metrics.robust_accuracy(wording)


def first_numbers(table):
    """A table of "0.123 ± ..." or "0.123 [...]" cells as numbers."""
    return table.map(lambda cell: float(cell.split()[0]) if cell else np.nan)


@pytest.mark.parametrize("profile", ["cpu", "encoder"])
def test_the_finding_at_the_head_of_the_notebook_is_that_of_the_committed_tables(profile):
    read = [pd.read_csv(ROOT / f"figures/{profile}/{name}.csv", keep_default_na=False) for name in ("table2", "table3")]
    accuracy = first_numbers(read[0].set_index(["task", "training"])[["accuracy"]])["accuracy"].unstack("task")
    assert (accuracy.loc["sua_tr"] < accuracy.loc["augment"]).all()
