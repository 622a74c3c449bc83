"""The repaired score against the oracle ranking of a known logistic law, the optimality conditions of its posterior
mode, an independent solver, its symmetries and its fallback."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression

from sua import Predictions, recorded
from sua.metrics import auroc
from sua.scores.repaired import PRECISION, PRIOR, evidence, fit, sua_repaired


def population(n, seed=0, c=3, k=4, law=None):
    """n items of random confidence and random brittleness; they are wrong with probability `law`(unlabelled items)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, c)) * rng.gamma(3, 1, size=(n, 1))
    moves = rng.normal(size=(n, k, c)) * rng.gamma(1, 2, size=(n, 1, 1))
    unlabelled = Predictions(probs=softmax(z, -1), perturbed=softmax(z[:, None] + moves, -1),
                             ids=[f"{seed}-{i}" for i in range(n)])
    wrong = rng.random(n) < (0.3 if law is None else law(unlabelled))
    return replace(unlabelled, labels=(unlabelled.answers + wrong * rng.integers(1, c, n)) % c)


def logistic(weights, effects, bias=-1.0):
    return lambda items: expit(bias + evidence(items) @ weights + np.asarray(effects)[items.answers])


def test_evidence_is_the_three_written_formulas():
    items = Predictions(probs=[[0.5, 0.375, 0.125]], perturbed=[[[0.125, 0.75, 0.125], [0.625, 0.25, 0.125]]])
    tv = (0.375 + 0.125) / 2
    assert evidence(items)[0] == pytest.approx([0.0, (np.log(7) + np.log(3 / 5)) / 2, np.sqrt(tv)], abs=1e-14)


def test_evidence_resolves_confidence_beyond_the_rounding_of_one():
    items = Predictions(probs=[[1.0, 1e-11], [1.0, 1e-10]], perturbed=[[[1.0, 0.0]], [[0.0, 1.0]]])
    u, v, s = evidence(items).T
    assert u == pytest.approx(np.log([1e-11, 1e-10]), rel=1e-9)
    assert np.isfinite(v).all() and v[0] == -v[1] == pytest.approx(np.log(1e-12))


@pytest.mark.parametrize("weights, effects", [
    ([0.0, 0.0, 4.0], [0, 0, 0]),       # brittle: errs where it moves
    ([1.0, 0.0, 0.0], [0, 0, 0]),       # robust: errs where it is unsure
    ([0.3, 0.3, 2.0], [-1, 0, 1]),      # both, and some answers are worse
])
def test_large_calibration_recovers_the_oracle_ranking(weights, effects):
    law = logistic(weights, effects)
    test = population(4000, seed=1, law=law)
    score = sua_repaired(test, population(40000, seed=2, law=law))
    best = auroc(test.is_error, law(test))  # Neyman-Pearson: no score has a higher expected AUROC
    assert abs(auroc(test.is_error, score) - best) < 0.002
    assert np.corrcoef(score, evidence(test) @ weights + np.asarray(effects)[test.answers])[0, 1] > 0.999


def test_few_labels_keep_near_the_oracle():
    law = logistic([0.3, 0.3, 2.0], [-0.5, 0, 0.5])
    test = population(4000, seed=1, law=law)
    found = [auroc(test.is_error, sua_repaired(test, population(100, seed=s, law=law))) for s in range(10, 30)]
    assert np.mean(found) > auroc(test.is_error, law(test)) - 0.02


def penalised_gradient(x, answers, wrong, weights, effects, intercept):
    residual = expit(intercept + x @ weights + effects[answers]) - wrong
    return (x.T @ residual + PRECISION * (weights - PRIOR),
            np.bincount(answers, residual, len(effects)) + PRECISION * effects, residual.sum())


@pytest.mark.parametrize("sign", [1, -1])
def test_fit_meets_the_optimality_conditions_of_a_bounded_posterior_mode(sign):
    rng = np.random.default_rng(3)
    x, answers = rng.normal(size=(400, 3)), rng.integers(4, size=400)
    wrong = rng.random(400) < expit(x @ [1.5, sign, sign] + answers / 2 - 1)  # with -1 the bound w >= 0 is active
    weights, effects = fit(x, answers, wrong, 4)
    intercept = -50.0
    for _ in range(200):  # the constant at which the residuals sum to 0, by bisection
        step = 50 / 2 ** _
        intercept += step if penalised_gradient(x, answers, wrong, weights, effects, intercept + step)[2] < 0 else 0
    of_weights, of_effects, _ = penalised_gradient(x, answers, wrong, weights, effects, intercept)
    assert of_effects == pytest.approx(np.zeros(4), abs=1e-3)
    assert (weights >= 0).all() and (of_weights > -1e-3).all()
    assert of_weights[weights > 0] == pytest.approx(np.zeros((weights > 0).sum()), abs=1e-3)
    assert (weights == 0).any() == (sign < 0)


def test_fit_agrees_with_scikit_learn_for_a_prior_around_zero(monkeypatch):
    monkeypatch.setattr("sua.scores.repaired.PRIOR", np.zeros(3))  # scikit-learn shrinks towards 0
    rng = np.random.default_rng(4)
    x, answers = rng.normal(size=(500, 3)), rng.integers(3, size=500)
    wrong = rng.random(500) < expit(x @ [1.0, 0.5, 0.8] + answers - 1)
    design = np.column_stack([x, np.eye(3)[answers]])
    theirs = LogisticRegression(C=1 / PRECISION, tol=1e-10, max_iter=10000).fit(design, wrong).coef_[0]
    assert np.concatenate(fit(x, answers, wrong, 3)) == pytest.approx(theirs, abs=1e-4)


def test_symmetries():
    law = logistic([0.3, 0.3, 2.0], [-1, 0, 1])
    calibration, test = population(200, seed=5, law=law), population(100, seed=6, law=law)
    score = sua_repaired(test, calibration)
    rng = np.random.default_rng(0)

    def reordered(items, rows=slice(None), classes=np.arange(3), variants=slice(None)):
        return Predictions(probs=items.probs[rows][:, classes], labels=np.argsort(classes)[items.labels[rows]],
                           perturbed=items.perturbed[rows][:, variants][..., classes])

    rows = rng.permutation(200)
    assert sua_repaired(test, reordered(calibration, rows=rows)) == pytest.approx(score, abs=1e-4)
    assert sua_repaired(reordered(test, rows=rows[rows < 100]), calibration) == pytest.approx(score[rows[rows < 100]])
    classes, variants = np.array([2, 0, 1]), [3, 1, 0, 2]
    moved = [reordered(items, classes=classes, variants=variants) for items in (test, calibration)]
    assert sua_repaired(*moved) == pytest.approx(score, abs=1e-4)
    one = Predictions(probs=test.probs[:1], perturbed=test.perturbed[:1])
    assert sua_repaired(one, calibration) == pytest.approx(score[:1])  # whatever else is scored, and without labels


@pytest.mark.parametrize("shift", [0, 1])
def test_one_class_of_calibration_falls_back_on_equal_odds(shift):
    calibration, test = population(50, seed=7), population(100, seed=8)
    calibration = replace(calibration, labels=(calibration.answers + shift) % 3)
    u, v, _ = ((evidence(test) - evidence(calibration).mean(0)) / evidence(calibration).std(0)).T
    assert sua_repaired(test, calibration) == pytest.approx(u + v)


def test_noise_labels_gain_nothing():
    found = []
    for seed in range(20):
        test = population(500, seed=1000 + seed)
        found.append(auroc(test.is_error, sua_repaired(test, population(200, seed=seed))))
    assert abs(np.mean(found) - 0.5) < 4 * np.std(found) / np.sqrt(20)


def test_a_kernel_that_changes_nothing_leaves_the_uncertainty():
    calibration, test = population(300, seed=9, c=2), population(200, seed=10, c=2)
    calibration, test = (replace(items, perturbed=np.repeat(items.probs[:, None], 3, 1))
                         for items in (calibration, test))
    calibration = replace(calibration, labels=calibration.answers ^ (calibration.probs.max(-1) < 0.7))
    score, uncertain = sua_repaired(test, calibration), 1 - test.probs.max(-1)
    for answer in (0, 1):  # within an answer the effects are constant
        chosen = test.answers == answer
        assert (np.argsort(score[chosen]) == np.argsort(uncertain[chosen])).all()


def test_errors_name_the_remedy():
    items, other = population(20), population(20, c=4)
    with pytest.raises(ValueError, match="calibration has 4 classes, predictions have 3: calibrate on the same"):
        sua_repaired(items, other)
    with pytest.raises(ValueError, match="labels"):
        sua_repaired(items, replace(items, labels=None))
    with pytest.raises(ValueError, match="perturbed"):
        sua_repaired(replace(items, perturbed=None), items)


def test_it_gains_on_msp_on_average_from_few_labels_and_falls_behind_by_little():
    settings, falls = recorded.llms(), {50: 0.02, 500: 0.01}
    gains = {}
    for size in falls:
        for i, (name, p) in enumerate(settings.items()):
            drawn = []
            for seed in range(3):
                order = np.random.default_rng([i, seed]).permutation(len(p))
                calibration, test = p.subset(order[:size]), p.subset(order[size:])
                drawn.append(auroc(test.is_error, sua_repaired(test, calibration))
                             - auroc(test.is_error, 1 - test.probs.max(-1)))
            gains.setdefault(size, []).append(np.mean(drawn))
        assert min(gains[size]) > -falls[size] and np.mean(gains[size]) > 0.01
    assert np.mean(gains[500]) > np.mean(gains[50])
    behind = {size: (np.array(of_settings) < -0.005).sum() for size, of_settings in gains.items()}
    assert behind[50] > 10 and behind[500] < 4  # never worse it is at neither size
