"""Recorded sets against the sources' own bytes, and against rows that scripts outside of the project made of them."""

import collections
import io
import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset
from scipy.special import softmax
from scipy.stats import entropy

from mirrors import in_hub_layout, raw_rows
from sua import meaning_clusters, paths, score
from sua.generation import Generations
from sua.tasks import HUB_SETS, clarifications, hub_rows, inputs, upstream
from sua.tasks.recorded import (MOST_READINGS, OPEN_QUESTIONS, SameAnswer, advglue, ambient, ambignq,
                                ambiguous_questions, chaosnli, checklist_groups, llms, own_questions,
                                prompt_sensitivity, prompted_llama, recorded_chaosnli, triviaqa)


def test_checklist_groups_hold_every_invariance_variant(mirror):
    groups, expected = checklist_groups(), {}
    for group in raw_rows(mirror, "checklist_sentiment", "test"):  # some of the groups, with eight variants at most
        if group["kind"] == "INV":
            original, *rest = group["texts"]
            expected.setdefault(original, set()).update(rest)
    assert len(expected) > 1000 and all(variants <= {*groups[original]} for original, variants in expected.items())
    tests = upstream.checklist_tests()
    kept = [data for kind, capability, data in tests.values() if kind == "INV" and capability != "Fairness"]
    assert set(groups) == {group[0] for data in kept for group in data if len(group) > 1}
    assert sum(map(len, groups.values())) == sum(len(group) - 1 for data in kept for group in data)
    first = list(groups)[:60]  # of every test
    assert all({group[0] for group in data} & {*first} for data in kept) and len(kept) == 9
    hostile = {group[0] for kind, capability, data in tests.values() if capability == "Fairness" for group in data}
    assert hostile and not hostile & {*groups}


def test_a_suite_is_read_without_running_what_it_names(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    saved = pickle.dumps({"texts": [Hostile(), "kept", collections.OrderedDict(a=1)]})
    _, *rest = upstream.PlainUnpickler(io.BytesIO(saved)).load()["texts"]
    assert rest == ["kept", {"a": 1}] and not (tmp_path / "ran").exists()
    pickle.loads(saved)
    assert (tmp_path / "ran").exists()  # it would have


def test_only_arrays_are_read_from_a_file_of_arrays():
    rows = [{"id": 0, "logits_options": np.arange(6, dtype="<f4")}]
    for protocol in (3, 4):  # 2 has bytes encoded by a function
        read, = upstream.ArrayUnpickler(io.BytesIO(pickle.dumps(rows, protocol))).load()
        assert np.array_equal(read["logits_options"], np.arange(6))
    for other in (print, pickle.loads, collections.OrderedDict, np.load):
        with pytest.raises(pickle.UnpicklingError, match="in a file of arrays"):
            upstream.ArrayUnpickler(io.BytesIO(pickle.dumps(other))).load()


@pytest.mark.parametrize("file, read", [
    ("marcotcr/checklist/.*/release_suites/sentiment_suite.tar.gz", checklist_groups),
    ("jsbaan/.*/chaosNLI_snli.jsonl", chaosnli), ("alisawuffles/ambient/.*/AmbiEnt/dev.jsonl", ambient),
    ("AI-secure/adversarial-glue/.*/dev.json", lambda: advglue("sst2")),
    ("UKPLab/.*/evaluation_scores.csv", prompt_sensitivity), ("bhaweshiitk/.*/llm_probs_gpt.zip", prompted_llama)])
def test_a_missing_source_is_named_with_its_address(tmp_path, monkeypatch, file, read):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUA_MIRROR", str(tmp_path))
    monkeypatch.setenv("SUA_GITHUB", "http://127.0.0.1:9")  # nobody answers there
    with pytest.raises(paths.NotAvailableError, match=f"github/{file}[\\s\\S]*http://127.0.0.1:9/{file}"
                                                      "[\\s\\S]*make download"):
        read()


def test_recorded_chaosnli_outputs_are_the_files(mirror):
    rows = {row["id"]: row for row in raw_rows(mirror, "chaosnli", "train", "validation", "test")}
    for name, p in recorded_chaosnli().items():
        k = p.orbit.shape[1]
        outputs = {i: [model for model in row["model_logits"] if model.startswith(name)] for i, row in rows.items()}
        assert set(p.ids) == {i for i, models in outputs.items() if len(models) == k} and k >= 2
        for i in range(0, len(p), 97):
            row = rows[p.ids[i]]
            orbit = [softmax(logits) for model, logits in sorted(row["model_logits"].items()) if model.startswith(name)]
            np.testing.assert_allclose(p.orbit[i], orbit, atol=1e-4)  # four digits there
            votes = np.array(row["label_count"])
            np.testing.assert_allclose(p.label_dist[i], votes / votes.sum(), atol=1e-12)
            assert p.labels[i] == row["label"]


def test_llms_are_the_committed_slice():
    with np.load(paths.root() / "data" / "llm_mcq.npz") as saved:
        logits, ids, gold = saved["logits"].astype(float), saved["ids"], saved["gold"]
        settings = list(zip(saved["models"], saved["templates"]))
    found, other = llms(), llms("task")
    assert len(found) == 34 and len({p.meta["model"] for p in found.values()}) == 25 and logits.shape[2] == 2000
    assert sum(p.meta["template"] == "base" for p in found.values()) == 16
    for i, (name, p) in enumerate(found.items()):
        assert (p.meta["model"], p.meta["template"]) == settings[i]
        np.testing.assert_allclose(p.orbit, softmax(logits[i], axis=-1).swapaxes(0, 1), atol=1e-12)
        np.testing.assert_array_equal(other[name].orbit, p.orbit[:, [2, 0, 1]])
        assert (p.labels == gold).all() and (p.ids.astype(int) == ids).all() and p.labels.max() == 3
    assert found["Yi-34B"].meta["prompts"] == ["base", "shared", "task"]
    few = found["Yi-34B-Chat, template 1"].subset(slice(0, 1000))
    assert {few.meta["subject"][i] for i in few.ids} > {"anatomy", "astronomy"}
    with pytest.raises(ValueError, match="prompt = 'other': known are base, shared, task"):
        llms("other")


@pytest.mark.parametrize("model, published", [("Llama-2-70b-hf", 0.68), ("Qwen-72B", 0.74), ("Yi-34B", 0.74)])
def test_llms_are_as_accurate_as_published(model, published):
    assert abs(1 - llms()[model].is_error.mean() - published) < 0.02


AT_HAND = [("Mistral-7B-v0.1", "base"), ("Yi-34B-Chat", "chat_v1")]


def test_gold_answers_of_the_llms(mirror):
    """Against a join made outside of the project, and against the key of MMLU itself."""
    gold, subjects = upstream.llm_gold()
    with np.load(mirror / "raw/llm_mcq_mmlu/logits.npz") as saved:
        assert (gold == saved["gold"]).all() and (gold >= 0).sum() == 9967
        differ = np.flatnonzero(subjects != np.append(saved["subjects"], "")[saved["subject"]])
    rows = hub_rows(HUB_SETS["mmlu"], "test", ["question"])[0].to_list()
    items = json.loads(next(mirror.glob("github/*/*/*/*/data/mmlu_10k_answers.json")).read_text(encoding="utf-8"))
    for i in differ:  # there, another subject's question that is nearly the same was taken
        assert {subjects[i]} == {row["subject"] for row in rows if row["question"] == items[i]["question"]}
    assert len(differ) == 4
    of_text = {}
    for row in rows:
        of_text.setdefault(row["question"], []).append((row["subject"], row["answer"], row["choices"][row["answer"]]))
    checked = [(subjects[i], gold[i], item["answer"]) in of_text[item["question"]] for i, item in enumerate(items)
               if gold[i] >= 0 and item["question"] in of_text]
    assert len(checked) > 9900 and np.mean(checked) > 0.98  # the rest: the same but for blanks and signs


def test_logits_of_the_llms_are_the_pickles(mirror):
    with np.load(mirror / "raw/llm_mcq_mmlu/logits.npz") as saved:
        names, logits = list(zip(saved["models"], saved["template"])), saved["logits"]
        for setting in AT_HAND:
            np.testing.assert_array_equal(upstream.half(upstream.llm_logits(*setting)), logits[names.index(setting)])
        assert upstream.llm_settings() == names


def test_the_committed_slice_is_made_again_where_its_sources_are_at_hand(mirror, monkeypatch):
    monkeypatch.setattr(upstream, "llm_settings", lambda: AT_HAND)
    again = upstream.llm_slice()
    with np.load(paths.root() / "data" / "llm_mcq.npz") as saved:
        rows = [list(zip(saved["models"], saved["templates"])).index(setting) for setting in AT_HAND]
        for name in saved.files:
            expected = saved[name][rows] if name in ("logits", "models", "templates") else saved[name]
            np.testing.assert_array_equal(again[name], expected, err_msg=name)
    assert (paths.root() / "data" / "llm_mcq.npz").stat().st_size < 3e6
    full = llms(in_full=True)
    assert list(full) == ["Mistral-7B-v0.1", "Yi-34B-Chat, template 1"]
    p, some = full["Yi-34B-Chat, template 1"], llms()["Yi-34B-Chat, template 1"]
    assert len(p) == 9967 and len(some) == 2000
    same = p.subset(np.isin(p.ids, some.ids))
    np.testing.assert_allclose(same.orbit, some.orbit, atol=3e-3)  # half precision
    assert (same.labels == some.labels).all() and (score(p, "sua") > 0).mean() == pytest.approx(0.928, abs=0.005)


def test_prompted_llama_is_the_archive(mirror):
    p = prompted_llama()
    assert p.perturbed.shape == (2886, 9, 4) and len({*p.meta["subject"].values()}) == 16
    with zipfile.ZipFile(next(mirror.glob("github/bhaweshiitk/*/*/llm_probs_gpt.zip"))) as archive:
        scores, targets = (np.load(io.BytesIO(archive.read(f"llm_probs_gpt/marketing_{name}.npy")))
                           for name in ("scores", "targets"))
    marketing = p.subset([p.meta["subject"][i] == "marketing" for i in p.ids])
    np.testing.assert_allclose(marketing.orbit, scores.swapaxes(0, 1), atol=1e-12)
    assert (marketing.labels == targets).all() and marketing.ids[0] == "marketing-0"
    assert 0.35 < 1 - p.is_error.mean() < 0.55  # LLaMA-13B; chance is .25


def test_chaosnli_labels_are_the_votes(mirror):
    by_id, split = {row["id"]: row for row in raw_rows(mirror, "chaosnli", "train", "validation", "test")}, chaosnli()
    rows = [by_id.pop(i) for i in split["id"]]
    assert not by_id and list(split["label"]) == [row["label"] for row in rows]
    np.testing.assert_allclose(split["label_dist"], [row["label_dist"] for row in rows], atol=1e-4)
    assert inputs(split)[7] == (rows[7]["premise"], rows[7]["hypothesis"])


def test_ambient_clarifications_are_the_linguists_rewrites_and_neutral_for_the_rest(mirror):
    rows, split = raw_rows(mirror, "ambient", "validation", "test"), ambient()
    assert list(split["id"]) == [row["id"] for row in rows]
    assert list(split["ambiguous"]) == [row["ambiguous"] for row in rows]
    for row, x, readings, weights in zip(rows, inputs(split), clarifications(split), split["weights"]):
        assert x == (row["premise"], row["hypothesis"]) and abs(sum(weights) - 1) < 1e-12
        used = [reading for reading, weight in zip(readings, weights) if weight]
        if row["ambiguous"]:
            assert used == [(r["premise"], r["hypothesis"]) for r in row["disambiguations"]] and len(set(weights)) <= 2
        else:  # a frame around one of the two sentences, which stays whole inside it
            assert len(used) == 2 and all(x != reading for reading in used)
            assert all(own in given for reading in used for own, given in zip(x, reading))


def test_advglue_holds_both_mnli_parts_and_refuses_other_tasks(mirror):
    every = raw_rows(mirror, "advglue", "validation")
    rows, split = [row for row in every if row["task"].startswith("mnli")], advglue("chaosnli")
    assert list(split["id"]) == [row["id"] for row in rows]
    assert inputs(split) == [(row["premise"], row["hypothesis"]) for row in rows]
    assert list(split["label"]) == [row["label"] for row in rows]
    sentiment = [(row["id"], row["sentence"], row["label"]) for row in every if row["task"] == "sst2"]
    assert [(row["id"], row["text"], row["label"]) for row in advglue("sst2")] == sentiment and len(sentiment) == 148
    with pytest.raises(ValueError, match="'qqp'"):
        advglue("qqp")


def test_sensitivity_is_higher_on_wrong_answers_in_four_runs_of_five(mirror):
    runs = prompt_sensitivity()
    higher = runs["sensitivity_incorrect"] > runs["sensitivity_correct"]
    expected = mirror / "raw/prompt_sensitivity_scores/evaluation_scores.csv"
    assert upstream.prompt_sensitivity_file().read_bytes() == expected.read_bytes()
    assert len(runs) == 759 and abs(higher.mean() - 0.81) < 0.01


def test_the_projects_own_questions_are_read():
    rows = ambiguous_questions()
    assert len(rows) >= 200 and {row["ambiguous"] for row in rows} == {True, False}


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


def test_ambignq_takes_the_first_readings_and_every_accepted_answer(mirror, hub_sets):
    rows, data = raw_rows(mirror, "ambignq", "validation"), ambignq()
    for row, x in zip(rows, data, strict=True):
        assert abs(sum(x["weights"]) - 1) < 1e-12 and x["ambiguous"] == ("multipleQAs" in row["annotator_types"])
        used = [reading for reading, weight in zip(x["clarified"], x["weights"]) if weight]
        if x["ambiguous"]:
            assert used == [pair["question"] for pair in row["interpretations"][0]][:MOST_READINGS]
        else:
            assert len(used) == 2 and all(x["text"] in reading for reading in used) and len(x["answers"]) == 1
        given = [*row["single_answers"], *(pair["answer"] for pairs in row["interpretations"] for pair in pairs)]
        assert {form for forms in x["answers"] for form in forms} == {form for forms in given for form in forms}


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
