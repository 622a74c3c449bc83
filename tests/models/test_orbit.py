"""The orbit as a model: its mean by hand, what it asks, options in another order, and stopping early."""

from fractions import Fraction

import numpy as np
import pytest

from sua import CallableModel, OrbitModel, Predictions, predict
from sua.divergences import entropy, geometric_mean
from sua.perturb import OPTION_ORDER, Perturbation
from sua.predictions import Model

TABLE = {"a": [Fraction(1, 2), Fraction(1, 2)], "b": [Fraction(9, 10), Fraction(1, 10)],
         "c": [Fraction(1, 5), Fraction(4, 5)]}


def ring(name="ring"):
    """a -> b -> c -> a ...: the k variants are the next k letters of "abc", so that they repeat."""
    letters = "abc"
    count = {}

    def rewrite(x, rng):
        count[x] = count.get(x, 0) + 1
        return letters[(letters.index(x) + 1 + count[x] % 2) % 3]

    return Perturbation(name, rewrite)


class Recorder:
    """The model of TABLE, which keeps what it was asked."""

    name = "table"

    def __init__(self):
        self.asked = []

    def predict_proba(self, inputs):
        self.asked.append(list(inputs))
        return [[float(p) for p in TABLE[x]] for x in inputs]


def test_the_mean_in_exact_fractions():
    """x = a with the variants b and c: (1/2 + 9/10 + 1/5) / 3 = 8/15, and the cube root of 9/100 to that of 4/100."""
    inputs = ["a", "a"]
    kernel = Perturbation("both", lambda x, rng: "bc"[rng.integers(2)], others=lambda x: 2)
    assert TABLE["a"][0] + TABLE["b"][0] + TABLE["c"][0] == 3 * Fraction(8, 15)
    found = OrbitModel(Recorder(), kernel, 2).predict_proba(inputs)
    assert found == pytest.approx(np.array([[8 / 15, 7 / 15]] * 2), abs=1e-15)
    one, other = 0.09 ** (1 / 3), 0.04 ** (1 / 3)
    geometric = OrbitModel(Recorder(), kernel, 2, mean="geometric").predict_proba(inputs)
    assert geometric == pytest.approx(np.array([[one, other]] * 2) / (one + other), abs=1e-15)


def test_equal_rows_are_asked_once_and_count_as_often_as_drawn():
    model = Recorder()
    orbit = OrbitModel(model, Perturbation("always c", lambda x, rng: "c"), 4)
    found = orbit.predict_proba(["a", "c", "a"])
    assert model.asked == [["a", "c"]]
    assert found[0] == pytest.approx([(0.5 + 4 * 0.2) / 5, (0.5 + 4 * 0.8) / 5], abs=1e-15)
    assert found[1] == pytest.approx([0.2, 0.8], abs=1e-15) and np.array_equal(found[0], found[2])
    assert orbit.passes == 5 and orbit.passes_used == 5.0


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_it_is_the_mean_of_what_predict_finds(mean):
    """Theorem 15: Brier and log-loss of the mean, and its entropy, from the members' own."""
    rng = np.random.default_rng(0)
    answers = {}
    model = CallableModel(lambda batch: [answers.setdefault(x, rng.dirichlet(np.ones(3))) for x in batch])
    kernel = Perturbation("digits", lambda x, rng: f"{x} {rng.integers(30)}")
    texts, labels = [f"text {i}" for i in range(40)], rng.integers(3, size=40)
    members = predict(model, texts, kernel, 6, seed=3, labels=labels)
    p = predict(OrbitModel(model, kernel, 6, mean, seed=3), texts, labels=labels)
    means = {"arithmetic": members.orbit.mean(1), "geometric": geometric_mean(members.orbit)}
    assert p.probs == pytest.approx(means[mean], abs=1e-14)
    assert p.meta["model"] == f"{mean} orbit mean of callable"
    if mean == "arithmetic":
        brier = lambda q, y: ((q - np.eye(3)[y]) ** 2).sum(-1)
        spread = ((members.orbit - p.probs[:, None]) ** 2).sum(-1).mean(1)
        each = brier(members.orbit, labels[:, None])
        assert each.mean(1) == pytest.approx(brier(p.probs, labels) + spread, abs=1e-12)
        assert (entropy(p.probs) >= entropy(members.orbit).mean(1)).all()
    else:
        loss = -np.log(np.take_along_axis(members.orbit, labels[:, None, None], -1))[..., 0].mean(1)
        s_g = -np.log((np.prod(members.orbit, axis=1) ** (1 / 7)).sum(-1))
        assert loss == pytest.approx(-np.log(p.probs[range(40), labels]) + s_g, abs=1e-12)


def test_options_in_another_order_are_put_back():
    """A model that loves one option, wherever it stands, loves it in the mean; one that loves a place is levelled."""
    loves = CallableModel(lambda batch: [[0.9 if option == "granite" else 0.1 / 3 for option in x[1:]] for x in batch])
    place = CallableModel(lambda batch: [[0.7, 0.1, 0.1, 0.1]] * len(batch))
    question = ("What sinks?", "cork", "granite", "foam", "wood")
    assert OrbitModel(loves, OPTION_ORDER, 5).predict_proba([question])[0] == pytest.approx(
        [0.1 / 3, 0.9, 0.1 / 3, 0.1 / 3], abs=1e-15)
    every_order = OrbitModel(place, OPTION_ORDER, 23).predict_proba([question])[0]
    assert every_order == pytest.approx(np.full(4, 0.25), abs=1e-15)
    early = OrbitModel(loves, OPTION_ORDER, 5, early_stop=True)
    assert early.predict_proba([question])[0] == pytest.approx([0.1 / 3, 0.9, 0.1 / 3, 0.1 / 3], abs=1e-15)
    assert early.passes_used == 4.0  # 4 of 6: the leader is ahead by 4 * .867 > 2, and after 4 asked at once


def test_questions_of_several_sizes():
    """An answer has as many columns as the longest question that was asked with it; absent options have 0."""
    def function(batch):
        most = max(map(len, batch)) - 1
        return [[1 / (len(x) - 1) if i < len(x) - 1 else 0 for i in range(most)] for x in batch]

    model = type("Model", (), {"predict_proba": lambda self, inputs: function(inputs)})()
    questions = [("Which?", "a", "b", "c"), ("Or?", "a", "b")]
    for early in (False, True):
        found = OrbitModel(model, OPTION_ORDER, 4, early_stop=early).predict_proba(questions)
        assert found == pytest.approx(np.array([[1 / 3] * 3, [1 / 2, 1 / 2, 0]]), abs=1e-15)


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 20.0])
def test_stopping_early_changes_no_answer_and_asks_less(sharpness):
    rng = np.random.default_rng(1)
    answers, rows = {}, []

    def function(batch):
        rows.extend(batch)
        assert len(set(batch)) == len(batch)
        return [answers.setdefault(x, rng.dirichlet(np.ones(3) / sharpness)) for x in batch]

    kernel = Perturbation("digits", lambda x, rng: f"{x} {rng.integers(1000)}")
    texts = [f"text {i}" for i in range(60)]
    model = CallableModel(function)
    whole = OrbitModel(model, kernel, 8).predict_proba(texts)
    rows.clear()
    early = OrbitModel(model, kernel, 8, early_stop=True)
    found = early.predict_proba(texts)
    assert (found.argmax(-1) == whole.argmax(-1)).all() and found.sum(-1) == pytest.approx(np.ones(60))
    assert 5 <= early.passes_used <= 9 and len(rows) == len(set(rows))
    used = {text: sum(row == text or row.startswith(f"{text} ") for row in rows) for text in texts}
    assert np.mean([*used.values()]) == pytest.approx(early.passes_used, abs=0.1)  # but for variants that repeat
    assert sharpness < 20 or early.passes_used < 8.5
    undecided = whole[np.array([used[text] == 9 for text in texts])]
    assert len(undecided) == 0 or np.abs(undecided.sum(-1) - 1).max() < 1e-12


@pytest.mark.parametrize("answers, asked", [
    ([[0.5, 0.5]] * 9, 9),  # undecided to the end
    ([[1, 0]] * 5 + [[0, 1]] * 4, 5),  # five of nine cannot be outvoted
    ([[0.5, 0.5]] * 5 + [[0, 1]] * 4, 8),  # after seven a lead of 2 could still be levelled by two
    ([[1, 0]] * 4 + [[0, 1]] + [[0, 1]] * 3, 8)])  # of eight, a lead of 3 after five is levelled by three
def test_when_it_stops(answers, asked):
    order = iter(answers)
    kernel = Perturbation("count", lambda x, rng: f"{x}{rng.integers(10**9)}")
    model = CallableModel(lambda batch: [next(order) for _ in batch])
    early = OrbitModel(model, kernel, len(answers) - 1, early_stop=True)
    found = early.predict_proba(["x"])[0]
    assert early.passes_used == asked and found == pytest.approx(np.mean(answers[:asked], axis=0), abs=1e-15)


def test_it_is_a_model_like_any_other():
    orbit = OrbitModel(OrbitModel(Recorder(), ring(), 2), ring(), 2)
    assert isinstance(orbit, Model) and orbit.predict_proba(["a"]).shape == (1, 2)
    p = predict(orbit, ["a", "b"], ring(), 2)
    assert isinstance(p, Predictions) and p.perturbed.shape == (2, 2, 2)


@pytest.mark.parametrize("wrong, said", [
    (dict(model="nothing"), "has no predict_proba"), (dict(mean="median"), "'arithmetic' or 'geometric'"),
    (dict(k=0), "at least one variant"), (dict(seed=-1), "seed = -1"),
    (dict(mean="geometric", early_stop=True), "take mean='arithmetic'")])
def test_orbit_model_refuses(wrong, said):
    given = {"model": Recorder(), "perturbation": ring(), "k": 2, **wrong}
    with pytest.raises(ValueError, match=said):
        OrbitModel(**given)


def test_rows_that_do_not_fit_name_the_model():
    bad = type("Bad", (), {"predict_proba": lambda self, inputs: [[0.5, 0.5]]})()
    with pytest.raises(ValueError, match="model 'Bad' returned shape"):
        OrbitModel(bad, ring(), 2).predict_proba(["a"])
    with pytest.raises(ValueError, match="empty"):
        OrbitModel(Recorder(), ring(), 2).predict_proba([])
