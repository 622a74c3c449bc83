"""Predictions from what others wrote: pipelines' dicts, and real logs of lm-evaluation-harness in fixtures/lm_eval.

The logs are of SmolLM2-135M-Instruct on 24 of our own questions: two prompts that score the options' texts, and one
that scores letters, with the options in the reverse order. The tasks' files lie beside them.
"""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

import sua

LOGS = Path(__file__).parent / "fixtures/lm_eval"
RUNS = [LOGS / name for name in ("plain", "instruct", "letters")]
PRINTED = {"plain": 0.7083, "instruct": 0.7083, "letters": 0.1667}  # acc in the harness's own tables of these runs


def lines(folder):
    (file,) = folder.rglob("samples_*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def written(folder, samples, name="samples_t_2026-01-01T00-00-00.0.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(sample) + "\n" for sample in samples), encoding="utf-8")
    return folder


def test_logs_of_the_harness_become_predictions_with_its_own_accuracies():
    p = sua.from_lm_eval(RUNS)
    assert p.probs.shape == (24, 3) and p.perturbed.shape == (24, 2, 3) and p.n_classes.tolist() == [2, 3] * 12
    answers = [p.answers, *p.perturbed_answers.T]
    for folder, answer in zip(RUNS, answers):
        assert (answer == p.labels).mean() == pytest.approx(PRINTED[folder.name], abs=5e-5)


def test_options_are_matched_by_their_text_and_not_by_their_place():
    p, number = sua.from_lm_eval(RUNS), 1
    first, letters = lines(RUNS[0])[number], lines(RUNS[2])[number]
    assert first["doc"]["choices"] == letters["doc"]["choices"][::-1] != letters["doc"]["choices"]
    loglik = [float(reply[0][0]) for reply in letters["resps"]]
    masses = [math.exp(value) / sum(map(math.exp, loglik)) for value in loglik]
    assert p.perturbed[number, 1] == pytest.approx(masses[::-1])
    assert first["doc"]["choices"][p.labels[number]] == letters["doc"]["choices"][int(letters["target"])]


def test_logs_to_report_in_three_lines(tmp_path):
    predictions = sua.from_lm_eval(RUNS)
    file = sua.report_html(predictions, tmp_path / "report.html")
    assert "error_floor" in file.read_text(encoding="utf-8")


def test_likelihoods_by_length_of_the_option():
    plain, halved = (sua.from_lm_eval([RUNS[0]], options=lambda doc: doc["choices"]) for _ in range(2))
    np.testing.assert_array_equal(plain.probs, halved.probs)
    p = sua.from_lm_eval([RUNS[0]], per_character=True)
    sample = lines(RUNS[0])[0]
    per = [float(reply[0][0]) / len(text) for reply, text in zip(sample["resps"], sample["doc"]["choices"])]
    assert p.probs[0, 0] == pytest.approx(1 / (1 + math.exp(per[1] - per[0])))
    assert p.perturbed is None


def older(sample):
    """As the harness wrote samples until 0.4.2: lists and numbers, the target as a number."""
    return {**sample, "target": int(sample["target"]),
            "arguments": [[each["arg_0"], each["arg_1"]] for each in sample["arguments"].values()],
            "resps": [[[float(value), flag == "True"]] for ((value, flag),) in sample["resps"]]}


def text_target(sample):
    return {**sample, "target": sample["doc"]["choices"][int(sample["target"])]}


def mutual(sample):
    """acc_mutual_info asks each option once more, without its question."""
    alone = {f"more_{name}": {**each, "arg_0": ""} for name, each in sample["arguments"].items()}
    return {**sample, "arguments": {**sample["arguments"], **alone}, "resps": sample["resps"] + [[["-1", "False"]]] *
            len(alone)}


@pytest.mark.parametrize("form", [older, text_target, mutual])
def test_other_forms_of_the_same_log_say_the_same(form, tmp_path):
    folder = written(tmp_path / "run", [form(sample) for sample in lines(RUNS[0])])
    p, q = sua.from_lm_eval([folder]), sua.from_lm_eval([RUNS[0]])
    np.testing.assert_array_equal(p.probs, q.probs)
    np.testing.assert_array_equal(p.labels, q.labels)


def test_options_that_stand_in_the_context(tmp_path):
    asked = {"a": {"arg_0": "Ann", "arg_1": " won"}, "b": {"arg_0": "Bo", "arg_1": " won"}}
    ask = lambda i, target: {"doc_id": i, "doc": {"id": i}, "target": str(target), "acc": float(target == 1),
                             "arguments": asked, "resps": [[["-2", "False"]], [["-1", "False"]]]}
    p = sua.from_lm_eval([written(tmp_path / "run", [ask(0, 1), ask(1, 0)])])
    assert p.is_error.tolist() == [False, True] and p.probs[0, 1] == pytest.approx(1 / (1 + math.exp(-1)))


def changed(number, **more):
    samples = lines(RUNS[0])
    samples[number] = {**samples[number], **more}
    return samples


REFUSED = {
    "is in one of": lambda: lines(RUNS[0])[:-1],
    "by its log-likelihoods": lambda: changed(0, acc=0.0),
    "only questions with one right option": lambda: changed(0, target="[0, 1]"),
    "ask different questions": lambda: changed(0, target="1", acc=0.0),
    "options=": lambda: changed(0, doc={"choices": ["Harold", "William"]}),
    "only output_type multiple_choice": lambda: changed(0, resps=[["an answer"]], arguments={"a": {"arg_0": "q"}}),
    "a doc_id twice": lambda: lines(RUNS[0]) + lines(RUNS[0])[:1],
    "has no doc_id": lambda: [{"answer": 1}]}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_refused(said, tmp_path):
    folder = written(tmp_path / "run", REFUSED[said]())
    with pytest.raises(ValueError, match=said.replace("[", r"\[")):
        sua.from_lm_eval([RUNS[0], folder])


def test_a_folder_holds_one_log_of_one_task(tmp_path):
    with pytest.raises(ValueError, match="holds 0 logs"):
        sua.from_lm_eval([tmp_path])
    with pytest.raises(ValueError, match="is not there"):
        sua.from_lm_eval([tmp_path / "none"])
    with pytest.raises(ValueError, match="holds 3 logs"):
        sua.from_lm_eval([LOGS])
    assert sua.from_lm_eval([LOGS], task="plain").probs.shape == (24, 3)
    with pytest.raises(ValueError, match="give a list of folders"):
        sua.from_lm_eval(LOGS)
    with pytest.raises(ValueError, match="folders is empty"):
        sua.from_lm_eval([])


def dicts(row, names, order):
    return [{"label": names[i], "score": row[i]} for i in order]


def test_dicts_of_a_pipeline_in_any_order():
    rng, names = np.random.default_rng(0), ["POSITIVE", "NEGATIVE", "NEUTRAL"]
    probs, perturbed = rng.dirichlet(np.ones(3), 6), rng.dirichlet(np.ones(3), (6, 2))
    orders = list(itertools.permutations(range(3)))
    outputs = [dicts(row, names, order) for row, order in zip(probs, orders)]
    variants = [[dicts(row, names, orders[-i]) for row in rows] for i, rows in enumerate(perturbed)]
    p = sua.from_outputs(outputs, variants, labels=["POSITIVE", "NEUTRAL"] * 3, label_names=names)
    np.testing.assert_allclose(p.probs, probs)
    np.testing.assert_allclose(p.perturbed, perturbed)
    assert p.labels.tolist() == [0, 2] * 3 and p.meta["label_names"] == names
    q = sua.from_outputs(outputs, ids=list("abcdef"), meta={"task": "t"})
    np.testing.assert_allclose(q.probs, probs[:, [1, 2, 0]])  # by name
    assert q.labels is None and q.ids.tolist() == list("abcdef") and q.meta["task"] == "t"


def test_dicts_of_a_real_pipeline():
    import transformers

    from sua.models.tiny import tiny_encoder

    texts = ["a clever film", "dull and long"]
    encoder = tiny_encoder(texts, 2)
    pipe = transformers.pipeline("text-classification", model=encoder.model, tokenizer=encoder.tokenizer, device="cpu")
    p = sua.from_outputs(pipe(texts, top_k=None))
    np.testing.assert_allclose(p.probs, encoder.predict_proba(texts), atol=1e-6)


def test_dicts_that_do_not_fit():
    good = [{"label": "a", "score": 0.7}, {"label": "b", "score": 0.3}]
    for said, arguments in {
            "outputs is empty": ([],), "top_k=None": ([good[0]],), "scores of a, expected a, b": ([good, good[:1]],),
            "scores a label twice": ([good + good[:1]],), "give one list of outputs per input": ([good], []),
            "the same number K": ([good, good], [[good], [good, good]])}.items():
        with pytest.raises(ValueError, match=said):
            sua.from_outputs(*arguments)
    with pytest.raises(ValueError, match=r"labels\[0\] = 'c' is none of a, b"):
        sua.from_outputs([good], labels=["c"])
    with pytest.raises(ValueError, match="give each name once"):
        sua.from_outputs([good], label_names=["a", "a"])
