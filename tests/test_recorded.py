"""Recorded sets against their files in the mirror."""

import json

import numpy as np
import pytest
from scipy.special import softmax

from sua import paths
from sua.recorded import (advglue, ambient, ambiguous_questions, chaosnli, checklist_groups, prompt_sensitivity,
                          recorded_chaosnli, recorded_llms)
from sua.tasks import clarifications, inputs


def lines(mirror, name, *splits):
    return [json.loads(line) for split in splits
            for line in (mirror / "raw" / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_checklist_groups_hold_every_invariance_variant(mirror):
    lines = (mirror / "raw/checklist_sentiment/test.jsonl").read_text(encoding="utf-8").splitlines()
    expected = {}
    for group in map(json.loads, lines):
        if group["kind"] == "INV":
            original, *rest = group["texts"]
            expected.setdefault(original, set()).update(rest)
    groups = checklist_groups()
    assert set(groups) == set(expected)
    assert all(set(variants) == expected[original] for original, variants in groups.items())


@pytest.mark.parametrize("name, read", [("checklist_sentiment", checklist_groups), ("llm_mcq_logits", recorded_llms),
                                        ("chaosnli", recorded_chaosnli), ("ambient", ambient)])
def test_raw_sets_are_only_in_a_mirror(tmp_path, monkeypatch, name, read):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUA_MIRROR", str(tmp_path))
    with pytest.raises(paths.NotAvailableError, match=f"raw/{name}[\\s\\S]*mirror only"):
        read()


def test_recorded_chaosnli_outputs_are_the_files(mirror):
    rows = {}
    for split in ("train", "validation", "test"):
        for line in (mirror / "raw/chaosnli" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows[row["id"]] = row
    for name, p in recorded_chaosnli().items():
        k = p.orbit.shape[1]
        outputs = {i: [model for model in row["model_logits"] if model.startswith(name)] for i, row in rows.items()}
        assert set(p.ids) == {i for i, models in outputs.items() if len(models) == k} and k >= 2
        for i in range(0, len(p), 97):
            row = rows[p.ids[i]]
            orbit = [softmax(logits) for model, logits in sorted(row["model_logits"].items()) if model.startswith(name)]
            np.testing.assert_allclose(p.orbit[i], orbit, atol=1e-12)
            votes = np.array(row["label_count"])
            np.testing.assert_allclose(p.label_dist[i], votes / votes.sum(), atol=1e-12)
            assert p.labels[i] == row["label"]


def test_recorded_llm_outputs_are_the_file(mirror):
    llms = recorded_llms()
    assert len(llms) == 16
    with np.load(mirror / "raw/llm_mcq_logits/logits.npz") as saved:
        sets = [saved[name].astype(float) for name in saved.files if name.endswith("_10k")]
        order = [str(model) for model in saved["models"]]
    for model, p in llms.items():
        # (model, prompt, item, option): the first prompt is x, the others its variants
        expected = np.concatenate([softmax(logits[order.index(model)], axis=-1) for logits in sets], axis=1)
        np.testing.assert_allclose(p.orbit, expected.swapaxes(0, 1), atol=1e-12)


def test_chaosnli_labels_are_the_votes(mirror):
    rows, split = lines(mirror, "chaosnli", "train", "validation", "test"), chaosnli()
    assert list(split["id"]) == [row["id"] for row in rows]
    np.testing.assert_allclose(split["label_dist"], [row["label_dist"] for row in rows], atol=1e-4)
    assert inputs(split)[7] == (rows[7]["premise"], rows[7]["hypothesis"])


def test_ambient_clarifications_are_the_linguists_rewrites_and_neutral_for_the_rest(mirror):
    rows, split = lines(mirror, "ambient", "validation", "test"), ambient()
    for row, x, readings, weights in zip(rows, inputs(split), clarifications(split), split["weights"]):
        assert x == (row["premise"], row["hypothesis"]) and abs(sum(weights) - 1) < 1e-12
        used = [reading for reading, weight in zip(readings, weights) if weight]
        if row["ambiguous"]:
            assert used == [(r["premise"], r["hypothesis"]) for r in row["disambiguations"]] and len(set(weights)) <= 2
        else:  # a frame around one of the two sentences, which stays whole inside it
            assert len(used) == 2 and all(x != reading for reading in used)
            assert all(own in given for reading in used for own, given in zip(x, reading))


def test_advglue_holds_both_mnli_parts_and_refuses_other_tasks(mirror):
    rows = [row for row in lines(mirror, "advglue", "validation") if row["task"].startswith("mnli")]
    split = advglue("chaosnli")
    assert inputs(split) == [(row["premise"], row["hypothesis"]) for row in rows]
    assert list(split["label"]) == [row["label"] for row in rows] and len(advglue("sst2")) == 148
    with pytest.raises(ValueError, match="'qqp'"):
        advglue("qqp")


def test_sensitivity_is_higher_on_wrong_answers_in_four_runs_of_five(mirror):
    runs = prompt_sensitivity()
    higher = runs["sensitivity_incorrect"] > runs["sensitivity_correct"]
    assert len(runs) == 759 and abs(higher.mean() - 0.81) < 0.01


def test_the_projects_own_questions_are_read():
    rows = ambiguous_questions()
    assert len(rows) >= 200 and {row["ambiguous"] for row in rows} == {True, False}
