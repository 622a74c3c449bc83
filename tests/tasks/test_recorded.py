"""Recorded sets against their files in the mirror."""

import json
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset, Features, List, Sequence, Value
from scipy.special import softmax
from scipy.stats import entropy

from sua import meaning_clusters, paths, score
from sua.generation import Generations
from sua.tasks import HUB_SETS, clarifications, inputs
from sua.tasks.recorded import (MOST_READINGS, OPEN_QUESTIONS, SameAnswer, advglue, ambient, ambignq,
                                ambiguous_questions, chaosnli, checklist_groups, own_questions, prompt_sensitivity,
                                recorded_chaosnli, recorded_llms, triviaqa)


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


def in_hub_layout(name, rows, folder, features=None):
    """Write rows as the hub's parquet file of a set into a mirror."""
    source = HUB_SETS[name]
    file = folder / "datasets" / source.hub_id / source.config / f"{source.splits[0]}.parquet"
    file.parent.mkdir(parents=True)
    Dataset.from_list(rows, features=features).to_parquet(file)


def test_own_questions_are_clarified_by_their_interpretations():
    data, rows = own_questions(), ambiguous_questions()
    for x, row in zip(data, rows, strict=True):
        used = [(reading, weight) for reading, weight in zip(x["clarified"], x["weights"]) if weight]
        if row["ambiguous"]:
            assert used == [(reading["clarified"], reading["weight"]) for reading in row["interpretations"]]
        else:  # the restatement, and a neutral frame around the question
            assert used[0] == (row["interpretations"][0]["clarified"], 0.5) and len(used) == 2
            assert row["question"] in used[1][0] and used[1][0] != row["question"]
        assert x["answers"] == [[reading["answer"], *reading["aliases"]] for reading in row["interpretations"]]
        assert (x["id"], x["text"], x["paraphrases"]) == (row["id"], row["question"], row["paraphrases"])


def test_ambignq_takes_the_first_readings_and_every_accepted_answer(mirror):
    rows, data = lines(mirror, "ambignq", "validation"), ambignq()
    for row, x in zip(rows, data, strict=True):
        assert abs(sum(x["weights"]) - 1) < 1e-12 and x["ambiguous"] == ("multipleQAs" in row["annotator_types"])
        used = [reading for reading, weight in zip(x["clarified"], x["weights"]) if weight]
        if x["ambiguous"]:
            assert used == [pair["question"] for pair in row["interpretations"][0]][:MOST_READINGS]
        else:
            assert len(used) == 2 and all(x["text"] in reading for reading in used) and len(x["answers"]) == 1
        given = [*row["single_answers"], *(pair["answer"] for pairs in row["interpretations"] for pair in pairs)]
        assert {form for forms in x["answers"] for form in forms} == {form for forms in given for form in forms}


def test_ambignq_in_the_hubs_columns_is_the_same(mirror, tmp_path, monkeypatch):
    expected, hub = ambignq(), []
    for row in lines(mirror, "ambignq", "validation"):
        single, several = iter(row["single_answers"]), iter(row["interpretations"])
        annotations = {"type": row["annotator_types"], "answer": [], "qaPairs": []}
        for kind in row["annotator_types"]:
            pairs = next(several) if kind == "multipleQAs" else []
            annotations["answer"].append(next(single) if kind == "singleAnswer" else [])
            annotations["qaPairs"].append({name: [pair[name] for pair in pairs] for name in ("question", "answer")})
        hub.append({"id": row["id"], "question": row["question"], "annotations": annotations})
    text, texts = Value("string"), List(Value("string"))
    features = Features(id=text, question=text, annotations=Sequence(
        {"type": text, "answer": texts, "qaPairs": Sequence({"question": text, "answer": texts})}))
    in_hub_layout("ambignq", hub, tmp_path, features)
    monkeypatch.setenv("SUA_MIRROR", str(tmp_path))
    assert ambignq().to_list() == expected.to_list()


def test_triviaqa_keeps_each_question_once_and_all_its_aliases(tmp_path, monkeypatch):
    rows = [{"question_id": f"tc_{i // 2}", "question": f"What is number {i // 2}?", "question_source": "quiz",
             "answer": {"value": f"{i // 2}", "aliases": [f"{i // 2}", f"Nr. {i // 2}"], "type": "Numerical"}}
            for i in range(8)]
    in_hub_layout("triviaqa", rows, tmp_path)
    monkeypatch.setenv("SUA_MIRROR", str(tmp_path))
    data = triviaqa()
    assert list(data["text"]) == [f"What is number {i}?" for i in range(4)] and not any(data["ambiguous"])
    assert {*data["answers"][3][0]} == {"3", "Nr. 3"}
    assert all(len({*row}) == 2 for row in data["clarified"]) and data["weights"][0] == [0.5, 0.5]


def test_open_questions_are_drawn_by_seed():
    assert OPEN_QUESTIONS["own_questions"] is own_questions
    every, drawn, other = own_questions()["id"], own_questions(50)["id"], own_questions(50, seed=1)["id"]
    assert len({*drawn}) == 50 and {*drawn} < {*every} and {*drawn} != {*other}
    assert list(own_questions(50)["id"]) == list(drawn)
    with pytest.raises(ValueError, match="items = 0: the set has 239 questions"):
        own_questions(0)


QUESTIONS = Dataset.from_dict({"text": ["capital?", "how many?"], "answers": [
    [["Tbilisi", "Tiflis"], ["Atlanta"]], [["12", "a dozen"], ["12 pairs"]]]})


@pytest.mark.parametrize("question, a, b, equal", [
    ("capital?", "It is Tbilisi.", "tiflis", True), ("capital?", "Tbilisi", "Atlanta, of course", False),
    ("capital?", "Atlantas", "Atlanta", False), ("capital?", "The Rome", "rome!", True),
    ("capital?", "Rome", "Paris", False), ("how many?", "dozen", "about 12", True),
    ("how many?", "12", "12 pairs", False), ("how many?", "There are 12 pairs", "12 pairs", True),
    ("how many?", "Tbilisi", "Tiflis", False)])
def test_answers_mean_the_longest_accepted_form_they_contain(question, a, b, equal):
    assert SameAnswer(QUESTIONS)([(question, a, b), (question, b, a)]).tolist() == [equal, equal]


def test_answers_to_other_questions_are_refused():
    with pytest.raises(ValueError, match="no accepted answers to 'who.'"):
        SameAnswer(QUESTIONS)([("who?", "a", "b")])


def test_a_collapsed_model_is_seen_through_the_clarifications_of_our_questions():
    """It answers x and its paraphrases by the first reading alone, and each clarification by its own."""
    data = own_questions()
    meant = lambda x, i: x["answers"][i if x["ambiguous"] else 0][-1]
    width = len(data["clarified"][0])
    answers = [[meant(x, 0)] * 5 + [meant(x, i if x["weights"][i] else 0) for i in range(width)] for x in data]
    samples = [[[f"It is {answer}."] * 3 for answer in row] for row in answers]
    generations = Generations(
        data["text"], [row[0] for row in answers], np.full((len(data), 1), -0.1), np.zeros((len(data), 1)),
        [[*x["paraphrases"], *x["clarified"]] for x in data], samples, np.full(np.shape(samples), -0.1))
    gold = [[form for forms in x["answers"] for form in forms] for x in data]
    clusters = meaning_clusters(generations, SameAnswer(data), gold)
    p = generations.predictions(clusters)
    p = replace(p, perturbed=p.perturbed[:, :4], clarified=p.perturbed[:, 4:], weights=np.array(data["weights"]))
    assert not clusters.is_error.any() and score(p, "entropy").max() == score(p, "sensitivity").max() == 0
    h = entropy(data["weights"], axis=-1) * data["ambiguous"]
    np.testing.assert_allclose(score(p, "clarification_mi"), h, atol=1e-12)
