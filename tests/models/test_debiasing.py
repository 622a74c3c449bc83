"""Debiasing on fake models whose preference is known: it is divided out exactly, and what cannot be is refused."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sua
from sua.models.debiasing import ContextualCalibration, PriDe
from sua.perturb import OPTION_ORDER
from sua.predictions import Model

LEAN = np.array([8.0, 1, 3, 0.5])  # what the fake models prefer, before they read


def opinion(*texts):
    """A number in (0.5, 1.5) that follows from the texts alone."""
    return 0.5 + zlib.crc32(" ".join(texts).encode()) / 2**32


def normal(rows):
    rows = np.array(rows)
    return rows / rows.sum(-1, keepdims=True)


class Placed:
    """p(place) ~ LEAN[place] * opinion(question, option there); with `strength` the lean depends on the question."""

    name = "placed"

    def __init__(self, strength=0):
        self.strength, self.asked = strength, 0

    def lean(self, question, c):
        return LEAN[:c] * [opinion(question, str(i)) ** self.strength for i in range(c)]

    def predict_proba(self, inputs):
        self.asked += len(inputs)
        rows = np.zeros((len(inputs), max(map(len, inputs)) - 1))
        for row, (question, *options) in zip(rows, inputs):
            c = len(options)
            row[:c] = normal(self.lean(question, c) * [opinion(question, option) for option in options])
        return rows


QUESTIONS = [(f"question {i}", *(f"option {i} {j}" for j in range(4))) for i in range(12)]


def test_pride_divides_a_lean_to_places_out_exactly():
    model = Placed()
    mended = PriDe(model, QUESTIONS[:3])
    assert model.asked == 12 and list(mended.prior) == [4]
    np.testing.assert_allclose(mended.prior[4], normal(LEAN), atol=1e-12)
    exact = normal([[opinion(q, option) for option in options] for q, *options in QUESTIONS])
    np.testing.assert_allclose(mended.predict_proba(QUESTIONS), exact, atol=1e-12)
    assert model.asked == 12 + 12 and isinstance(mended, Model)
    # the same answer in every order, where the model itself follows the order
    moved = [np.ptp(sua.predict(m, QUESTIONS, OPTION_ORDER, k=3).orbit, axis=1).max() for m in (mended, model)]
    assert moved[0] < 1e-12 and moved[1] > 0.1


@settings(max_examples=20)
@given(st.integers(1, 3))
def test_pride_means_the_preferences_of_its_questions(strength):
    model = Placed(strength)
    mended = PriDe(model, QUESTIONS[:5])
    np.testing.assert_allclose(mended.prior[4], np.mean([normal(model.lean(q, 4)) for q, *_ in QUESTIONS[:5]], 0))


def test_pride_keeps_numbers_of_options_apart():
    mixed = [QUESTIONS[0], QUESTIONS[1][:4], QUESTIONS[2]]
    mended = PriDe(Placed(), mixed)
    np.testing.assert_allclose(mended.prior[3], normal(LEAN[:3]))
    rows = mended.predict_proba(mixed)
    np.testing.assert_allclose(rows[1, :3], normal([opinion(mixed[1][0], option) for option in mixed[1][1:]]))
    assert rows[1, 3] == 0 and rows.shape == (3, 4)
    with pytest.raises(ValueError, match=r"inputs\[1\] has 2 options, the questions of the prior have 3, 4"):
        mended.predict_proba([mixed[0], ("q", "a", "b")])
    with pytest.raises(ValueError, match="no question with options"):
        PriDe(Placed(), ["a text"])
    with pytest.raises(ValueError, match="is empty"):
        PriDe(Placed(), [])


def leaning(bare):
    """p(y | x) ~ LEAN[y] * opinion(x, y); where x says nothing, LEAN alone."""
    def function(batch):
        rows = [[1.0 if set(np.atleast_1d(x)) & set(bare) else opinion(*np.atleast_1d(x), str(y)) for y in range(4)]
                for x in batch]
        return normal(LEAN * np.array(rows))
    return sua.CallableModel(function)


@pytest.mark.parametrize("inputs", [["a text", "another", "a text"], [("a", "pair"), ("of", "texts")]])
def test_contextual_calibration_divides_a_lean_to_answers_out_exactly(inputs):
    model = leaning(["N/A", "[MASK]"])
    exact = normal([[opinion(*np.atleast_1d(x), str(y)) for y in range(4)] for x in inputs])
    mended = ContextualCalibration(model)
    np.testing.assert_allclose(mended.predict_proba(inputs), exact, atol=1e-12)
    assert np.abs(model.predict_proba(inputs) - exact).max() > 0.1
    assert mended.predict_proba(["[MASK]"])[0] == pytest.approx([0.25] * 4)


def test_contextual_calibration_keeps_the_options_of_a_question():
    model = Placed()
    mended = ContextualCalibration(model, ["N/A"])
    ratio = normal([[opinion(q, option) / opinion("N/A", option) for option in options] for q, *options in QUESTIONS])
    np.testing.assert_allclose(mended.predict_proba(QUESTIONS), ratio, atol=1e-12)
    p = sua.predict(mended, QUESTIONS, OPTION_ORDER, k=2)
    assert np.ptp(p.orbit, axis=1).max() < 1e-12


def test_an_answer_that_nothing_never_gets_stays_a_probability():
    model = sua.CallableModel(lambda batch: [[1.0, 0.0] if x == "N/A" else [0.5, 0.5] for x in batch])
    assert ContextualCalibration(model, ["N/A"]).predict_proba(["x"])[0] == pytest.approx([0, 1], abs=1e-11)
    with pytest.raises(ValueError, match="content_free = 'N/A': give one text or more in a list"):
        ContextualCalibration(model, "N/A")
