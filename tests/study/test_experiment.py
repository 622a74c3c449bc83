"""Experiments: what a run writes, that several processes make the same files as one, and a fair selection."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from sua import OBJECTIVES, Predictions, experiment
from sua.models.tiny import tiny_llama
from sua.perturb import variants
from sua.study.experiment import Run, execute_all, orbit_log_loss, saved, select, trained, varied
from sua.tasks import inputs
from sua.tasks.recorded import advglue, checklist_groups

SIZES = {"train": 48, "validation": 20, "calibration": 16, "test": 24}
SETTING = {"task": {"name": "topic", "sizes": SIZES}, "model": "tiny",
           "training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.002}, "perturbation": ["synonyms", "wording"]}
RUN = Run("world", SETTING, "augment", replace(OBJECTIVES["augment"], k=1), seed=0, k=2)


def test_a_run_saves_every_split_and_the_attack(tmp_path):
    run = replace(RUN, samples=3, full=True, dropout=2, attacks=("rare",), probe=True)
    logs = execute_all([run], tmp_path, tmp_path / "models")
    assert [entry["training"] for entry in logs] == ["augment"] * 2
    assert {"entropy_ambiguous", "entropy_clear"} <= set(logs[0])
    task = experiment.task_of(SETTING)
    for split, size in SIZES.items():
        if split == "train":
            assert not run.file(tmp_path, split).exists()
            continue
        p = Predictions.load(run.file(tmp_path, split))
        assert len(p) == size and p.perturbed.shape == (size, 2, 4) and p.samples.shape == (size, 3)
        assert (p.features is None) == (p.dropout is None) == (split == "validation")
        assert p.meta["split"] == split and p.meta["truth"] == "exact" and list(p.labels) == list(task[split]["label"])
        np.testing.assert_allclose(p.weights, task[split]["weights"])
    classifier, _ = trained(run, tmp_path / "models")
    attack = saved({"a run": run}, tmp_path, "attack")["a run"]
    drawn = variants(inputs(task["test"]), task.perturbation("rare"), 2)
    np.testing.assert_allclose(attack.perturbed.reshape(-1, 4),
                               classifier.predict_proba([x for row in drawn for x in row]), atol=1e-6)


def test_the_attacks_of_adversarial_glue_bring_their_own_inputs(mirror, tmp_path):
    setting = {**SETTING, "task": {"name": "sst2", "sizes": SIZES}, "perturbation": ["typos"]}
    run = replace(RUN, setting=setting, attacks=("advglue",), splits=("test",))
    execute_all([run], tmp_path, tmp_path / "models")
    attack, rows = Predictions.load(run.file(tmp_path, "attack")), advglue("sst2")
    assert attack.perturbed is None and list(attack.labels) == list(rows["label"])
    model = trained(run, tmp_path / "models")[0]
    np.testing.assert_allclose(attack.probs, model.predict_proba(inputs(rows)), atol=1e-6)


def test_sets_beside_the_task_bring_their_own_inputs_and_variants(mirror, tmp_path):
    setting = {**SETTING, "task": {"name": "sst2", "sizes": SIZES}, "perturbation": ["typos"]}
    run = replace(RUN, setting=setting, beside=("checklist",), splits=())
    execute_all([run], tmp_path, tmp_path / "models")
    beside, groups = Predictions.load(run.file(tmp_path, "checklist")), checklist_groups()
    texts = [text for text, others in groups.items() if {*others} != {text}][:len(beside)]
    assert len(beside) == 1000 and beside.labels is None and beside.perturbed.shape[1] == 1
    classifier, _ = trained(run, tmp_path / "models")
    np.testing.assert_allclose(beside.probs, classifier.predict_proba(texts), atol=1e-6)
    of_group = classifier.predict_proba(groups[texts[0]])
    assert np.abs(of_group - beside.perturbed[0]).max(-1).min() < 1e-6
    pairs = {**SETTING, "task": {"name": "chaosnli", "sizes": SIZES}, "perturbation": ["typos"]}
    run = replace(RUN, setting=pairs, objective=OBJECTIVES["erm"], beside=("snli",), splits=())
    execute_all([run], tmp_path, tmp_path / "models")
    snli = Predictions.load(run.file(tmp_path, "snli"))
    table = pq.read_table(mirror / "datasets/stanfordnlp/snli/plain_text/validation.parquet")
    assert snli.labels.tolist() == table["label"].to_pylist()
    rows = list(zip(table["premise"].to_pylist(), table["hypothesis"].to_pylist()))
    np.testing.assert_allclose(snli.probs, trained(run, tmp_path / "models")[0].predict_proba(rows), atol=1e-6)


def test_the_runner_is_told_how_many_rows_a_model_saw(tmp_path, monkeypatch):
    monkeypatch.setenv("SUA_STAGE_DIR", str(tmp_path))
    trained(RUN, tmp_path / "models")  # 48 rows, two epochs of three steps of 16 items
    (folder,) = (tmp_path / "models").iterdir()
    assert f"{folder.name}: 48 training rows, 6 steps of 16 items" in (tmp_path / ".notes").read_text().splitlines()


def test_two_processes_make_the_files_that_one_makes(tmp_path):
    runs = [replace(RUN, seed=seed, splits=("test",)) for seed in range(3)]
    alone = execute_all(runs, tmp_path / "one", tmp_path / "models one")
    together = execute_all(runs, tmp_path / "two", tmp_path / "models two", workers=2)
    assert [entry["seed"] for entry in together] == [0, 0, 1, 1, 2, 2]
    assert [entry["loss"] for entry in together] == pytest.approx([entry["loss"] for entry in alone], abs=1e-6)
    for run in runs:
        one, two = (Predictions.load(run.file(tmp_path / name, "test")).orbit for name in ("one", "two"))
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_a_failure_in_a_worker_is_told(tmp_path):
    broken = replace(RUN, setting={**SETTING, "task": {"name": "nowhere"}})
    with pytest.raises(ValueError, match="unknown task 'nowhere'"):
        execute_all([broken, RUN], tmp_path, tmp_path / "models", workers=2)


def test_changes_go_where_they_belong():
    changes = {"k": 2, "learning_rate": 0.1, "perturbation": ["wording"]}
    setting, objective = varied(SETTING, OBJECTIVES["sua_tr"], changes)
    assert objective == replace(OBJECTIVES["sua_tr"], k=2)
    assert setting["training"] == {**SETTING["training"], "learning_rate": 0.1}
    assert setting["perturbation"] == ["wording"]
    assert SETTING["training"]["learning_rate"] == 0.002
    assert varied(SETTING, RUN.objective, {"learning_rate_scale": 0.5})[0]["training"]["learning_rate"] == 0.001
    with pytest.raises(ValueError, match="unknown changes .'consistancy'"):
        varied(SETTING, OBJECTIVES["sua_tr"], {"consistancy": 1.0})


def test_the_selection_loss_is_the_log_loss_over_all_rows_of_the_orbit():
    rng = np.random.default_rng(0)
    orbit, labels = softmax(rng.normal(size=(30, 4, 3)), -1), rng.integers(3, size=30)
    p = Predictions(probs=orbit[:, 0], perturbed=orbit[:, 1:], labels=labels)
    assert orbit_log_loss(p) == pytest.approx(log_loss(np.repeat(labels, 4), orbit.reshape(-1, 3)), abs=1e-12)


def test_selection_takes_the_least_loss_and_wants_equal_budgets(tmp_path):
    larger = {**SETTING, "task": {"name": "topic", "sizes": {**SIZES, "train": 400}}}
    settings = [varied(larger, RUN.objective, {"learning_rate": rate})[0] for rate in (1e-6, 3e-3)]
    candidates = {"augment": [replace(RUN, training=f"augment~{i}", setting=setting, splits=("validation",))
                              for i, setting in enumerate(settings)]}
    chosen, losses = select(candidates, tmp_path, tmp_path / "models")["augment"]
    assert chosen == 1 == int(np.argmin(losses))
    assert losses[0] == pytest.approx(np.log(4), abs=0.2)  # nothing learnt yet
    with pytest.raises(ValueError, match="different numbers of candidates: .*'erm': 1"):
        select({**candidates, "erm": [RUN]}, tmp_path, tmp_path / "models")


def test_no_workers():
    with pytest.raises(ValueError, match="workers = 0"):
        execute_all([RUN], None, None, workers=0)


def test_a_language_model_with_adapters_is_an_experiment_like_any_other(mirror, tmp_path):
    setting = {"task": {"name": "arc_easy", "sizes": SIZES}, "perturbation": ["typos", "option_order"],
               "training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.01, "causal": True,
                            "lora": {"r": 4, "target_modules": "all-linear"}}}
    lm = tiny_llama([text for split in experiment.task_of(setting).splits.values() for text in inputs(split)])
    setting["model"] = str(lm.save(tmp_path / "lm"))
    run = Run("arc", setting, "sua_tr", replace(OBJECTIVES["sua_tr"], k=1), seed=0, k=4, full=True, splits=("test",))
    execute_all([run], tmp_path, tmp_path / "models")
    p = Predictions.load(run.file(tmp_path, "test"))
    assert p.perturbed.shape == (SIZES["test"], 4, 4)
    np.testing.assert_allclose(softmax(p.logits, -1), p.probs, atol=1e-6)
    before = lm.predict_proba(inputs(experiment.task_of(setting)["test"]))
    assert np.abs(before - p.probs).max() > 1e-3  # the merged adapters are in the model that was read back
