"""P(error): the three fits against exact formulas and refits, what is saved, reliability against other libraries."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import binary_calibration_error

import sua
from sua.decide.probability import METHODS, ErrorProbability

ITEMS = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=3, max_size=25).filter(
    lambda items: len({wrong for _, wrong in items}) == 2)


def columns(items):
    scores, wrong = zip(*items)
    return np.array(scores, float), np.array(wrong)


@settings(max_examples=60)
@given(ITEMS)
def test_isotonic_is_the_min_max_formula(items):
    scores, wrong = columns(items)
    values = sorted(set(scores))
    groups = [[Fraction(int(w)) for s, w in zip(scores, wrong) if s == value] for value in values]
    mean = lambda a, b: sum(sum(groups[i]) for i in range(a, b + 1)) / sum(len(groups[i]) for i in range(a, b + 1))
    m = len(values)
    exact = [max(min(mean(a, b) for b in range(i, m)) for a in range(i + 1)) for i in range(m)]
    found = sua.calibrate(scores, wrong)
    np.testing.assert_allclose(found(values), [float(x) for x in exact], atol=1e-9)
    assert found([-99])[0] == found(values)[0] and found([99])[0] == found(values)[-1]
    for a, b in zip(values, values[1:]):
        assert found([(a + b) / 2])[0] == pytest.approx(found([a, b]).mean(), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(ITEMS, st.booleans())
def test_venn_abers_is_two_isotonic_fits_of_the_new_item(items, curved):
    scores, wrong = columns(items)
    new = np.unique([*scores, *(scores + 0.5), -9, 9])
    pair = [[IsotonicRegression().fit(np.append(scores, s), np.append(wrong, label)).predict([s])[0]
             for label in (0, 1)] for s in new]
    exact = [p1 / (1 - p0 + p1) for p0, p1 in pair]
    curve = (lambda s: np.exp(s / 3) - 7) if curved else (lambda s: s)  # only the order counts
    np.testing.assert_allclose(sua.calibrate(curve(scores), wrong, "venn_abers")(curve(new)), exact, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(ITEMS, st.sampled_from([1.0, 1e-6, 1e6]), st.sampled_from([0.0, 1e3]))
def test_platt_is_the_minimum_of_its_loss(items, unit, shift):
    scores, wrong = columns(items)
    target = np.where(wrong, (wrong.sum() + 1) / (wrong.sum() + 2), 1 / ((~wrong).sum() + 2))
    loss = lambda ab: (np.logaddexp(0, ab[0] * scores + ab[1]) - target * (ab[0] * scores + ab[1])).sum()
    a, b = minimize(loss, [0.1, 0.1], method="BFGS", options={"gtol": 1e-8}).x
    found = sua.calibrate(unit * (scores + shift), wrong, "platt")
    np.testing.assert_allclose(found(unit * (scores + shift)), expit(a * scores + b), atol=1e-5)


def noisy(n, seed=0, prefix=""):
    """Predictions whose error probability is 1 - max p exactly."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.5, 1, n)
    return sua.Predictions(probs=np.stack([p, 1 - p], -1), labels=(rng.random(n) > p).astype(int),
                           perturbed=rng.dirichlet([1, 1], (n, 3)), features=rng.normal(size=(n, 30)),
                           ids=[f"{prefix}{i}" for i in range(n)])


@pytest.mark.parametrize("method", METHODS)
def test_any_score_finds_the_true_probability(method):
    held, tested = noisy(4000, 0, "c"), noisy(40_000, 1)
    for name in ("msp", "entropy", "margin"):  # the same order, three scales
        found = sua.calibrate(name, held, method)(tested)
        wide = 0.06 if method == "platt" else 0.03  # a logistic curve in the entropy is not the truth
        assert np.abs(found - (1 - tested.probs[:, 0])).mean() < wide
    told = sua.reliability(tested.is_error, sua.calibrate("msp", held, method)(tested))
    # the least Brier score is E p (1 - p) = 1/6 for p uniform on [1/2, 1], the constant's 3/16
    assert told.brier == pytest.approx(1 / 6, abs=0.01) and told.reference == pytest.approx(3 / 16, abs=0.01)
    assert told.ece < 0.04


def test_a_fitted_score_is_calibrated_on_items_that_it_was_not_fitted_on():
    held, tested = noisy(200, 2, "c"), noisy(2000, 3)
    slopes, gaps = [], []
    for seed in range(10):  # the features say nothing: the best P(error) is 1/2 everywhere
        known = replace(held, labels=np.random.default_rng(seed).integers(2, size=200))
        honest = sua.calibrate("probe", known, "platt")
        own = sua.score(known, "probe", calibration=replace(known, ids=[f"other {i}" for i in range(200)]))
        naive = sua.calibrate(own, known.is_error, "platt")
        new = sua.score(tested, "probe", calibration=known)
        assert (honest(tested, calibration=known) == honest(new)).all()
        slopes.append([fit.values[0] for fit in (honest, naive)])
        gaps.append([np.abs(fit(new) - 0.5).mean() for fit in (honest, naive)])
    honest, naive = np.mean(slopes, 0)
    assert naive > 5 > 1 > honest
    assert np.mean(gaps, 0)[0] < np.mean(gaps, 0)[1] / 2


@pytest.mark.parametrize("method", METHODS)
def test_what_is_saved_says_the_same(method, tmp_path):
    held, tested = noisy(300, 5, "c"), noisy(50, 6)
    fit = sua.calibrate("sua", held, method, lam=0.5)
    again = ErrorProbability.from_json(fit.to_json())
    assert again == fit and (again(tested) == fit(tested)).all()
    assert (again.score_name, again.parameters, again.k, again.n) == ("sua", {"lam": 0.5}, 3, 300)
    assert again.error_rate == held.is_error.mean() and ((fit(tested) >= 0) & (fit(tested) <= 1)).all()
    content = json.loads(fit.to_json())
    for changed, said in (({"values": [0, *content["values"][1:]]}, "was changed after it was written"),
                          ({"schema": 99}, "schema 99.*update sua"), ({"schema": None}, "no schema")):
        with pytest.raises(ValueError, match=said):
            ErrorProbability.from_json(json.dumps(content | changed))
    with pytest.raises(ValueError, match="not the JSON text"):
        ErrorProbability.from_json("{")


@pytest.mark.parametrize("method", METHODS)
def test_where_nothing_is_wrong(method):
    scores, wrong = np.arange(20.0), np.zeros(20, bool)
    if method == "isotonic":
        with pytest.raises(ValueError, match="of 20 calibration items 0 are wrong.*method='platt' or 'venn_abers'"):
            sua.calibrate(scores, wrong, method)
    else:
        found = sua.calibrate(scores, wrong, method)(scores)
        assert (found > 0).all() and found.max() < 0.55


def test_rounding_makes_no_step():
    scores = 0.3 + 1e-16 * np.arange(20) % 3
    for method in METHODS:
        found = sua.calibrate(scores, np.arange(20) % 2, method)(scores)
        assert np.ptp(found) < 1e-12 and found[0] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("call, said", [
    (lambda p: sua.calibrate("msp", p, "beta"), "method = 'beta': choose one of isotonic, platt, venn_abers"),
    (lambda p: sua.calibrate("mps", p), "unknown score 'mps': did you mean 'msp'"),
    (lambda p: sua.calibrate("msp", p.is_error), "calibration is a ndarray: a score by its name needs labelled"),
    (lambda p: sua.calibrate("msp", replace(p, labels=None)), "hold no `labels`"),
    (lambda p: sua.calibrate([0.1, np.nan], [0, 1]), r"score\[1\] = nan"),
    (lambda p: sua.calibrate([0.1, 0.2], [0, 1, 1]), "one per score"),
    (lambda p: sua.calibrate([0.1, 0.2], [0, 2]), "1 for a wrong answer"),
    (lambda p: sua.calibrate([0.1, 0.2], [0, 1], lam=1), "lam: parameters are those of a named score"),
    (lambda p: sua.calibrate("probe", p.subset(slice(9))), "9 calibration items: give at least 10"),
    (lambda p: sua.calibrate("msp", p)([0.1, np.nan]), r"scores\[1\] is NaN"),
    (lambda p: sua.calibrate([0.1, 0.2], [0, 1])(p), "score of your own: give the scores"),
    (lambda p: sua.calibrate("msp", p)(p, calibration=p), "'msp' is not fitted: leave calibration out"),
    (lambda p: sua.calibrate("sua", p)(replace(p, perturbed=p.perturbed[:, :1])), "K = 3 variants, these.*have 1"),
    (lambda p: sua.reliability([0, 1], [0.2, 1.2]), r"outside \[0, 1\]"),
    (lambda p: sua.reliability([0, 1, 1], [0.2, 0.2]), "one per item"),
    (lambda p: sua.reliability([0, 1], [0.2, 0.2], bins=0), "bins = 0: give at least one bin"),
])
def test_what_is_wrong_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call(noisy(40, 7))


def test_reliability_is_that_of_other_libraries():
    rng = np.random.default_rng(8)
    chance = rng.beta(1, 3, 500)
    wrong = rng.random(500) < chance ** 1.3
    told = sua.reliability(wrong, chance)
    assert told.brier == pytest.approx(brier_score_loss(wrong, chance), abs=1e-12)
    theirs = np.abs(told.bins[:, 0] / 500 * (told.bins[:, 2] - told.bins[:, 1])).sum()
    assert told.ece == pytest.approx(theirs, abs=1e-12) and told.bins[:, 0].sum() == 500
    # torchmetrics bins P of class 1 only where it takes probabilities of one class: then confidence is P itself
    theirs = binary_calibration_error(torch.tensor(chance), torch.tensor(wrong.astype(int)), n_bins=15, norm="l1")
    assert told.ece == pytest.approx(float(theirs), abs=1e-6)
    # by hand: two bins, (0, .5] and (.5, 1]
    told = sua.reliability([0, 1, 1], [0.0, 0.5, 0.75], bins=2)
    assert told.ece == pytest.approx((abs(0.5 - 1) + abs(0.75 - 1)) / 3) and told.reference == pytest.approx(2 / 9)
    np.testing.assert_allclose(told.bins, [[2, 0.25, 0.5], [1, 0.75, 1]])
