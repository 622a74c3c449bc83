"""Language models asked zero-shot: each formulation in turn is x, options keep their order, files are found again."""

import numpy as np
import pytest

from sua import GENERATION_SCORES, GenerativeLM, Predictions, load_task, recorded
from sua.models import choice
from sua.paths import NotAvailableError
from sua.perturb import formulations
from sua.study import zero_shot
from sua.study.report import Stage
from sua.tasks import clarifications

TOPIC = {"kind": "topic", "sizes": {"calibration": 5, "test": 7}}


@pytest.fixture(autouse=True)
def one_model():
    zero_shot.load.cache_clear()
    zero_shot._weights.cache_clear()


def test_each_formulation_is_x_in_turn(tmp_path):
    found = zero_shot.zero_shot("topic", TOPIC, "tiny_llama", tmp_path)
    task = load_task("topic", {"train": 0, "validation": 0, **TOPIC["sizes"]})
    forms, lm = formulations("topic", task.label_names), zero_shot.load("tiny_llama")
    for split, runs in found.items():
        assert [p.meta["formulation"] for p in runs] == [prompt.id for prompt in forms.seen]
        for j, (p, prompt) in enumerate(zip(runs, forms.seen)):
            np.testing.assert_allclose(p.probs, lm.predict_proba(forms.ask(task[split]["text"], prompt.id)), rtol=1e-9)
            np.testing.assert_array_equal(p.perturbed, np.stack([q.probs for i, q in enumerate(runs) if i != j], 1))
            assert p.labels.tolist() == task[split]["label"] and (p.label_dist == task[split]["label_dist"]).all()
            assert p.samples.shape == (len(p), 10) and p.meta["truth"] == "exact" and p.meta["k"] == 8


def test_answers_are_kept(tmp_path, monkeypatch):
    first = zero_shot.zero_shot("topic", TOPIC, "tiny_llama", tmp_path)
    assert len(list(tmp_path.glob("answers-tiny_llama-float64-*/*.npz"))) == 9  # a file for each formulation
    monkeypatch.setattr(choice.ChoiceLM, "forward", None)
    again = zero_shot.zero_shot("topic", TOPIC, "tiny_llama", tmp_path)
    np.testing.assert_array_equal(first["test"][3].orbit, again["test"][3].orbit)


def test_two_processes_answer_alike(tmp_path):
    prompts = zero_shot.some_prompts(8)
    alone = zero_shot.ask("tiny_llama", [prompts[:4], prompts[4:]], tmp_path / "one")
    both = zero_shot.ask("tiny_llama", [prompts[:4], prompts[4:]], tmp_path / "two", workers=2)
    assert [(a == b).all() for a, b in zip(alone, both)] == [True, True]


def test_options_are_mapped_back(tmp_path, monkeypatch):
    """A model that knows each option by its text says the same under every order."""
    from datasets import Dataset, DatasetDict

    from sua import Task

    rows = Dataset.from_dict({"id": ["a", "b"], "text": ["Which?", "What?"], "label": [0, 2],
                              "options": [["iron", "cork", "gold", "granite"], ["red", "green", "blue", "grey"]]})
    task = Task("made", DatasetDict({"calibration": rows, "test": rows}), tuple("ABCD"))
    monkeypatch.setattr(zero_shot, "load_task", lambda *_: task)
    known = {option: p for options in rows["options"] for option, p in zip(options, (0.4, 0.3, 0.2, 0.1))}
    seen = []

    def ask(model, groups, cache, **_):
        seen.extend(x[1:] for group in groups for x in group)
        return [np.array([[known[option] for option in x[1:]] for x in group]) for group in groups]

    monkeypatch.setattr(zero_shot, "ask", ask)
    spec = {"kind": "choice_letter", "score": "letter", "reorder": True, "sizes": {}}
    found = zero_shot.zero_shot("made", spec, "tiny_llama", tmp_path)
    assert len(set(seen)) > 10
    for p in found["test"]:
        np.testing.assert_array_equal(p.orbit, np.broadcast_to([0.4, 0.3, 0.2, 0.1], p.orbit.shape))
        assert p.meta["perturbation"] == "formulations of choice_letter + option order"


def test_inputs_that_read_in_two_ways_are_left_out(tmp_path, monkeypatch):
    from datasets import Dataset, DatasetDict

    from sua import Task

    rows = Dataset.from_dict({"id": ["a", "b"], "text": ["it rains\nHypothesis: it pours", "it rains"],
                              "text_pair": ["it is wet", "it is wet"], "label": [0, 1]})
    task = Task("made", DatasetDict({"calibration": rows, "test": rows}), ("entailment", "neutral", "contradiction"))
    monkeypatch.setattr(zero_shot, "load_task", lambda *_: task)
    found = zero_shot.zero_shot("made", {"kind": "nli", "sizes": {}}, "tiny_llama", tmp_path)
    assert found["test"][0].ids == ("b",) and found["test"][0].meta["left_out"] == 1
    assert found["test"][0].labels.tolist() == [1]


def test_files_are_found_again(tmp_path, monkeypatch):
    found = {("zero-shot topic", "tiny_llama"): zero_shot.zero_shot("topic", TOPIC, "tiny_llama", tmp_path)}
    zero_shot.save(found, tmp_path)
    stage = Stage.__new__(Stage)
    monkeypatch.setattr(Stage, "upstream", lambda self, maker, file: tmp_path / file)
    again = zero_shot.saved(stage)
    assert again.keys() == found.keys()
    for split in ("calibration", "test"):
        for p, q in zip(found["zero-shot topic", "tiny_llama"][split], again["zero-shot topic", "tiny_llama"][split]):
            np.testing.assert_array_equal(p.orbit, q.orbit)
            assert p.meta == q.meta
    zero_shot.save({}, tmp_path)  # no model
    assert zero_shot.saved(stage) == {}


def test_without_a_model_the_run_goes_on(monkeypatch, capsys):
    def absent(*_, **__):
        raise NotAvailableError("no place has it")

    monkeypatch.setattr(zero_shot, "load_model", absent)
    assert zero_shot.load_or_say("lab/absent", "float32") is None
    said = capsys.readouterr().out
    assert said.count("n/a (no model): lab/absent") == 1 and "no place has it" in said


def test_own_questions_have_two_options_of_one_shape(tmp_path):
    found = zero_shot.own_questions("tiny_llama", tmp_path, 2, items=4)
    rows = {row["id"]: row for row in recorded.ambiguous_questions()}
    lm, forms = zero_shot.load("tiny_llama"), formulations("choice_likelihood")
    for i, id in enumerate(found.every.ids):
        row = rows[id]
        options = [reading["answer"] for reading in row["interpretations"]] + [row["distractor"]]
        texts = [row["question"], *row["paraphrases"][:2]]
        p = lm.predict_proba(forms.ask([(text, *options) for text in texts], "likelihood-plain"))
        np.testing.assert_allclose(found.every.orbit[i, :, :len(options)], p, rtol=1e-9)
        assert found.is_ambiguous[i] == row["ambiguous"] == (len(options) > 2)
        weights = [reading["weight"] for reading in row["interpretations"]]
        two = np.sort(np.argsort(-np.array(weights), kind="stable")[:2]) if row["ambiguous"] else [0, 1]
        np.testing.assert_allclose(found.two.probs[i], p[0, two] / p[0, two].sum(), rtol=1e-9)
    assert found.two.clarified.shape == (8, 2, 2) and found.edits.min() > 0


def test_rates_count_right():
    """Two ambiguous questions and two controls, every rate by hand."""
    one = lambda k, c=3: np.eye(c)[k]
    every = Predictions(probs=[one(2), one(0), one(0), one(1)], n_classes=[3, 3, 2, 2],
                        clarified=[[one(0), one(1)], [one(0), one(0)], [one(0), one(0)], [one(1), one(1)]],
                        weights=np.full((4, 2), 0.5))
    two = Predictions(probs=[[0.96, 0.04], [0.6, 0.4], [0.99, 0.01], [0.05, 0.95]])
    rates = zero_shot.OwnAnswers(every, two, np.array([True, True, False, False]), np.zeros(4)).rates(0.95)
    assert rates == {"controls right": 0.5, "distractor": 0.5, "clarified right": 0.75, "all readings right": 0.5,
                     "collapsed": 0.5, "clear and as sure": 1.0}


def test_the_table_of_formulations():
    """Three formulations of four items: what each says alone, and the mean of all."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(2), (4, 3))
    runs = [Predictions(probs=p[:, j], perturbed=np.delete(p, j, 1), labels=[0, 1, 0, 1], meta={"formulation": f"f{j}"})
            for j in range(3)]
    table = zero_shot.formulation_table(runs)
    assert list(table.index) == ["f0", "f1", "f2", "mean of the formulations", "answered by their mean"]
    right = p.argmax(-1) == np.array([0, 1, 0, 1])[:, None]
    assert table["accuracy"].tolist() == pytest.approx([*right.mean(0), right.mean(),
                                                        (p.mean(1).argmax(-1) == [0, 1, 0, 1]).mean()])
    h = -(p * np.log(p)).sum(-1)
    s = (p[:, :1] * np.log(p[:, :1] / p[:, 1:])).sum(-1).mean(1)
    assert table.loc["f0", "H"] == pytest.approx(h[:, 0].mean()) and table.loc["f0", "S"] == pytest.approx(s.mean())
    assert table.loc["f0", "SUA > 0"] == (s > h[:, 0]).mean()


def test_the_reading_of_one_question():
    moved = Predictions(probs=[[0.99, 0.01]], perturbed=[[[0.01, 0.99], [0.02, 0.98]]])
    said = zero_shot.tell(moved, ["yes", "no"])
    assert "answers 'yes' with probability 0.99, and the same under 1 of 3" in said
    assert "SUA > 0" in said and "The mean of all formulations answers 'no' instead." in said
    steady = Predictions(probs=[[0.6, 0.4]], perturbed=[[[0.6, 0.4], [0.6, 0.4]]])
    said = zero_shot.tell(steady, ["yes", "no"])
    assert "under 3 of 3" in said and "SUA <= 0" in said and "instead" not in said


OPEN = {"model": "tiny_llama", "template": "{question}", "perturbation": ["typos"], "k": 2, "samples": 4,
        "seeds": [0, 1], "max_new_tokens": 3, "batch_size": 64}


def test_open_answers_tell_rewordings_from_clarifications(tmp_path, monkeypatch):
    """Our own questions bring paraphrases along, whose first k are asked; then the readings, and nothing else."""
    generate, asked = GenerativeLM.generate, []

    def overheard(self, texts, kernel, *rest, **options):
        asked.append([kernel.sample(x, 1, None) for x in texts])
        return generate(self, texts, kernel, *rest, **options)

    monkeypatch.setattr(GenerativeLM, "generate", overheard)
    data = recorded.own_questions(3)
    found = zero_shot.open_questions({"own_questions": data}, OPEN, tmp_path)
    readings = clarifications(data)
    assert asked == 2 * [[[*row[:2], *clarified] for row, clarified in zip(data["paraphrases"], readings)]]
    for p, wrong, more in found["own_questions"]:
        meanings = p.probs.shape[1]
        assert p.perturbed.shape == (3, 2, meanings) and p.clarified.shape == (3, len(readings[0]), meanings)
        np.testing.assert_allclose(p.weights, data["weights"])
        assert p.meta["model"] == "tiny_llama" and p.meta["dtype"] == "float64"
        # an untrained model knows no answer
        assert wrong.all() and more.keys() == GENERATION_SCORES.keys()
        assert all(values.shape == (3,) and np.isfinite(values).all() for values in more.values())


def test_open_answers_are_kept_and_the_same_in_two_processes(tmp_path, monkeypatch):
    sets = {"own_questions": recorded.own_questions(3)}
    alone = zero_shot.open_questions(sets, OPEN, tmp_path / "one")
    both = zero_shot.open_questions(sets, OPEN, tmp_path / "two", workers=2)
    monkeypatch.setattr(GenerativeLM, "_generate", None)
    again = zero_shot.open_questions(sets, OPEN, tmp_path / "one")
    assert len(list((tmp_path / "one").glob("answers-tiny_llama-float64-*/*.parquet"))) == len(OPEN["seeds"])
    for (p, _, more), *others in zip(*(found["own_questions"] for found in (alone, both, again))):
        for q, _, theirs in others:
            np.testing.assert_array_equal(p.orbit, q.orbit)
            np.testing.assert_array_equal(p.clarified, q.clarified)
            assert all((more[name] == theirs[name]).all() for name in more)
