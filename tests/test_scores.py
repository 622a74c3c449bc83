"""Scores against closed forms in mpmath, inequalities between divergences, symmetries, and the choice of lambda."""

import re
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sua import SCORES, Predictions, score, scores
from sua.metrics import SingleClassError, auroc

mpmath.mp.dps = 40
F = Fraction
# eighths: exact in binary, so that mpmath and numpy start from the same numbers; zeros, ties and flips included
P = [[F(1, 2), F(3, 8), F(1, 8)], [F(1), F(0), F(0)], [F(1, 4), F(1, 4), F(1, 2)]]
Q = [[[F(1, 8), F(3, 4), F(1, 8)], [F(5, 8), F(1, 4), F(1, 8)]],
     [[F(7, 8), F(1, 8), F(0)], [F(1, 2), F(1, 4), F(1, 4)]],
     [[F(1, 4), F(1, 4), F(1, 2)], [F(1, 2), F(1, 4), F(1, 4)]]]
SAMPLES = [[0, 0, 1, 2, 0], [0, 0, 0, 0, 0], [1, 2, 1, 2, 0]]
HAND = Predictions(probs=np.array(P, float), perturbed=np.array(Q, float), samples=SAMPLES)


def H(p):
    return -mpmath.fsum(mpmath.mpf(x.numerator) / x.denominator * mpmath.log(mpmath.mpf(x.numerator) / x.denominator)
                        for x in p if x)


def floored(x):
    return mpmath.mpf(scores.FLOOR) if x == 0 else mpmath.mpf(x.numerator) / x.denominator


def KL(p, q):
    return mpmath.fsum(floored(a) * mpmath.log(floored(a) / floored(b)) for a, b in zip(p, q) if a)


def JS(p, q):
    middle = [(a + b) / 2 for a, b in zip(p, q)]
    return (KL(p, middle) + KL(q, middle)) / 2


def TV(p, q):
    return max(sum(p[i] - q[i] for i in range(3) if bits >> i & 1) for bits in range(8))  # sup over events


def mean_over_variants(divergence):
    return [sum(divergence(p, q) for q in row) / len(row) for p, row in zip(P, Q)]


def top(p):
    return max(range(3), key=lambda y: p[y])


S = mean_over_variants(KL)
CLOSED_FORMS = {
    "msp": [1 - max(p) for p in P],
    "margin": [F(-1, 8), -1, F(-1, 4)],
    "entropy": [F(1, 2) * mpmath.log(2) + F(3, 8) * mpmath.log(mpmath.mpf(8) / 3) + F(1, 8) * mpmath.log(8)
                if i == 0 else H(p) for i, p in enumerate(P)],
    "sensitivity": S,
    "sensitivity_reverse_kl": mean_over_variants(lambda p, q: KL(q, p)),
    "sensitivity_js": mean_over_variants(JS),
    "sensitivity_tv": mean_over_variants(TV),
    "sua": [s - H(p) for s, p in zip(S, P)],
    "sua_positive": [max(s - H(p), 0) for s, p in zip(S, P)],
    "orbit_entropy": [H([sum(column) / 3 for column in zip(p, *row)]) for p, row in zip(P, Q)],
    "disagreement": [F(1, 2), 0, F(1, 2)],
    "self_consistency": [F(2, 5), 0, F(3, 5)],
}


def test_every_score_has_a_closed_form_here_or_is_tested_by_name():
    assert set(SCORES) == {*CLOSED_FORMS, "sua_calibrated", "sua_signed"}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_score_equals_its_closed_form(name):
    np.testing.assert_allclose(score(HAND, name), [float(x) for x in CLOSED_FORMS[name]], rtol=1e-12, atol=1e-15)


def test_disagreement_counts_the_first_of_equal_answers():
    assert [[top(q) != top(p) for q in row] for p, row in zip(P, Q)] == [[True, False], [False, False], [False, True]]
    assert score(HAND, "disagreement").tolist() == [0.5, 0, 0.5]


def simplex(*shape):
    """Distributions over the last axis; some coordinates exactly 0."""
    weights = arrays(float, shape, elements=st.floats(1e-3, 1) | st.just(0.0))
    return weights.map(lambda w: w + (w.sum(-1, keepdims=True) == 0)).map(lambda w: w / w.sum(-1, keepdims=True))


PAIRS = st.integers(2, 6).flatmap(lambda c: st.tuples(simplex(c), simplex(c)))


@given(PAIRS)
def test_divergences_obey_their_bounds(pair):
    p, q = pair
    kl, reverse, js, tv = (scores.divergence_named(name)(p, q) for name in ("kl", "reverse_kl", "js", "tv"))
    assert min(kl, reverse, js, tv) >= 0 and tv <= 1 + 1e-12
    assert tv <= np.sqrt(kl / 2) + 1e-9  # Pinsker
    assert tv**2 / 2 <= js + 1e-12  # Pinsker against the middle
    assert js <= np.log(2) * tv + 1e-12  # Lin 1991
    assert js <= (kl + reverse) / 4 + 1e-9  # Jeffreys' bound
    for name, value in (("js", js), ("tv", tv)):
        assert scores.divergence_named(name)(q, p) == pytest.approx(value, abs=1e-15)
    assert scores.divergence_named("kl")(q, p) == reverse
    assert all(scores.divergence_named(name)(p, p) <= 1e-12 for name in scores.DIVERGENCES)


@pytest.mark.parametrize("c", [2, 3, 10])
def test_extreme_values(c):
    uniform, sure, other = np.full(c, 1 / c), np.eye(c)[0], np.eye(c)[1]
    assert scores.entropy(uniform) == pytest.approx(np.log(c), abs=1e-14) and scores.entropy(sure) == 0
    divergence = {name: D(sure, other) for name, D in scores.DIVERGENCES.items()}
    assert divergence["tv"] == 1 and divergence["js"] == pytest.approx(np.log(2), abs=1e-14)
    assert divergence["kl"] == divergence["reverse_kl"] == pytest.approx(-np.log(scores.FLOOR), abs=1e-9)
    assert scores.DIVERGENCES["kl"](sure, uniform) == pytest.approx(np.log(c), abs=1e-14)


SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(2, 5))


@st.composite
def predictions(draw):
    n, k, c = draw(SHAPES)
    samples = draw(arrays(int, (n, 4), elements=st.integers(0, c - 1)))
    return Predictions(probs=draw(simplex(n, c)), perturbed=draw(simplex(n, k, c)), samples=samples)


@given(predictions())
def test_orbit_entropy_is_mean_entropy_plus_generalised_js(p):
    mean = p.orbit.mean(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        js = np.where(p.orbit > 0, p.orbit * np.log(p.orbit / mean), 0).sum(-1).mean(-1)  # mean KL to the mean
    np.testing.assert_allclose(score(p, "orbit_entropy"), scores.entropy(p.orbit).mean(-1) + js, atol=1e-12)


def reference(n_classes):
    """Labelled calibration predictions for the two fitted scores."""
    rng = np.random.default_rng(n_classes)
    draw = lambda *shape: rng.dirichlet(np.ones(n_classes), shape)
    return Predictions(probs=draw(40), perturbed=draw(40, 3), labels=rng.integers(0, n_classes, 40),
                       ids=[f"calibration {i}" for i in range(40)])


def evaluate(p, name):
    fitted = {"calibration": reference(p.probs.shape[1])} if "calibration" in SCORES[name].needs else {}
    return score(p, name, **fitted)


@pytest.mark.parametrize("name", SCORES)
@settings(max_examples=25)
@given(p=predictions(), data=st.data())
def test_items_permute_with_their_scores_and_classes_do_not_matter(name, p, data):
    values = evaluate(p, name)
    assert values.shape == (len(p),) and np.isfinite(values).all()
    items = data.draw(st.permutations(range(len(p))))
    np.testing.assert_allclose(evaluate(p.subset(items), name), values[items], atol=1e-12)
    classes = np.array(data.draw(st.permutations(range(p.probs.shape[1]))))
    # an exact tie between answers is broken by class order: leave those to the test above
    answers = np.sort(p.orbit, -1)
    if name != "disagreement" or (answers[..., -1] > answers[..., -2]).all():
        relabelled = Predictions(probs=p.probs[:, classes], perturbed=p.perturbed[:, :, classes],
                                 samples=np.argsort(classes)[p.samples])
        np.testing.assert_allclose(evaluate(relabelled, name), values, atol=1e-12)


@pytest.mark.parametrize("name", SCORES)
@settings(max_examples=25)
@given(p=predictions())
def test_scores_stay_in_their_stated_range(name, p):
    bounds = re.fullmatch(r"([\[(])(.+), (.+)([\])])", SCORES[name].range).groups()
    C, M = p.probs.shape[1], p.samples.shape[1]
    low, high = (eval(bound.replace("ln C", "log(C)").replace("ln 2", "log(2)").replace("inf", "(inf)"),
                      {"log": np.log, "inf": np.inf, "C": C, "M": M}) for bound in bounds[1:3])
    values = evaluate(p, name)
    assert (values >= low - 1e-12).all() and (values <= high + 1e-12).all()


@given(predictions(), st.floats(-3, 3))
def test_sua_is_affine_in_lambda(p, lam):
    s, h = score(p, "sensitivity"), score(p, "entropy")
    assert (score(p, "sua", lam=0) == s).all()
    np.testing.assert_allclose(score(p, "sua", lam=-1), s + h, atol=1e-13)
    np.testing.assert_allclose(score(p, "sua", lam=lam), s - lam * h, atol=1e-12)
    np.testing.assert_allclose(score(p, "sua_positive", lam=lam), np.maximum(s - lam * h, 0), atol=1e-12)
    np.testing.assert_allclose(score(p, "sua", lam=lam, divergence="tv"),
                               score(p, "sensitivity_tv") - lam * h, atol=1e-12)


@pytest.mark.parametrize("wrong, nearest", [("entorpy", "entropy"), ("SUA", "sua"), ("sensitivty_js", "sensitivity_js"),
                                            ("orbit-entropy", "orbit_entropy")])
def test_an_unknown_score_suggests_the_nearest(wrong, nearest):
    with pytest.raises(ValueError, match=f"unknown score '{wrong}': did you mean '{nearest}'.*Known: msp, margin"):
        score(HAND, wrong)


@pytest.mark.parametrize("name, parameters, said", [
    ("sua", {"lambda_": 2}, "score 'sua'.*lambda_.*help"),
    ("entropy", {"lam": 2}, "score 'entropy'.*lam"),
    ("sua", {"divergence": "j"}, "unknown divergence 'j'"),
    ("sua", {"divergence": "kullback"}, "Known: kl, reverse_kl, js, tv"),
])
def test_unknown_parameters_are_refused(name, parameters, said):
    with pytest.raises(ValueError, match=said):
        score(HAND, name, **parameters)


@pytest.mark.parametrize("name", SCORES)
def test_a_missing_field_is_named(name):
    for field in set(SCORES[name].needs) - {"probs", "calibration"}:
        with pytest.raises(ValueError, match=f"hold no `{field}`.*{field}="):
            evaluate(Predictions(probs=HAND.probs), name)


@pytest.mark.parametrize("name", ["sua_calibrated", "sua_signed"])
def test_calibration_items_are_never_scored(name):
    calibration = reference(3)
    with pytest.raises(ValueError, match="give calibration=Predictions"):
        score(HAND, name)
    with pytest.raises(ValueError, match="share 1 ids.*'calibration 7'.*one split"):
        overlapping = Predictions(probs=HAND.probs, perturbed=HAND.perturbed, ids=["a", "calibration 7", "b"])
        score(overlapping, name, calibration=calibration)
    with pytest.raises(ValueError, match="hold no `labels`"):
        score(HAND, name, calibration=Predictions(probs=calibration.probs, perturbed=calibration.perturbed,
                                                  ids=calibration.ids))


def coin(heads):
    heads = np.asarray(heads, float)
    return np.stack([heads, 1 - heads], -1)


def planted(lam, n=60, seed=0):
    """Binary predictions whose errors are the items with TV - lam * H above the median: TV and H vary freely."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(0.5, 1, n)
    s = rng.uniform(0, 0.5, n)
    p = Predictions(probs=coin(a), perturbed=coin(a - s)[:, None], ids=[f"{seed}/{i}" for i in range(n)])
    aligned = s - lam * scores.entropy(p.probs)
    wrong = aligned > np.median(aligned)
    return Predictions(probs=p.probs, perturbed=p.perturbed, labels=np.where(wrong, 1 - p.answers, p.answers),
                       ids=p.ids)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 4.0])
def test_choose_lambda_finds_the_planted_value(lam):
    calibration = planted(lam, n=2000)
    assert scores.choose_lambda(calibration, [0, 0.5, 1, 4], "tv") == lam
    assert scores.choose_lambda(planted(-lam, n=2000), [-4, -1, -0.5, 0, 0.5, 1, 4], "tv") == -lam


def test_fitted_scores_use_the_best_lambda_of_their_grid():
    calibration, test = planted(-1.0, n=2000, seed=1), planted(-1.0, n=50, seed=2)
    s, h = score(test, "sensitivity_tv"), score(test, "entropy")
    signed = score(test, "sua_signed", calibration=calibration, divergence="tv")
    np.testing.assert_allclose(signed, s + h, atol=1e-12)
    wrong, s_c, h_c = calibration.is_error, score(calibration, "sensitivity_tv"), score(calibration, "entropy")
    best = max(scores.LAMBDAS, key=lambda lam: auroc(wrong, s_c - lam * h_c))
    np.testing.assert_allclose(score(test, "sua_calibrated", calibration=calibration, divergence="tv"), s - best * h)
    assert 1.0 in scores.LAMBDAS and (np.sort(-scores.SIGNED_LAMBDAS) == scores.SIGNED_LAMBDAS).all()
    assert (scores.LAMBDAS >= 0).all() and len(scores.SIGNED_LAMBDAS) == 2 * len(scores.LAMBDAS) - 1


def test_of_equally_good_lambdas_the_one_nearest_to_zero_wins():
    # S separates errors perfectly and H is constant: every lambda has AUROC 1
    calm, moved = [[0.75, 0.25]], [[0.25, 0.75]]
    p = Predictions(probs=calm * 4, perturbed=[calm, calm, moved, moved], labels=[0, 0, 1, 1])
    assert scores.choose_lambda(p, scores.SIGNED_LAMBDAS) == 0
    assert scores.choose_lambda(p, [4, 2, 3]) == 2


def test_choose_lambda_needs_errors_and_right_answers():
    with pytest.raises(SingleClassError, match="0 for all 3 items"):
        scores.choose_lambda(Predictions(probs=HAND.probs, perturbed=HAND.perturbed, labels=HAND.answers))
