"""Answer sets: the threshold of LAC by its formula, coverage over many draws, size on the orbit, what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest

import sua


def drawn(n, seed, prefix="", c=4, noise=0.0):
    """Labels drawn from p; with noise the model's answers at x and its variants scatter around p."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(c, 0.5), n)
    labels = (rng.random((n, 1)) > p.cumsum(-1)).sum(-1).clip(max=c - 1)
    orbit = np.repeat(p[:, None], 7, axis=1)
    if noise:
        orbit = orbit * rng.gamma(1 / noise**2, size=orbit.shape)
        orbit /= orbit.sum(-1, keepdims=True)
    return sua.Predictions(orbit[:, 0], orbit[:, 1:], labels=labels, ids=[f"{prefix}{i}" for i in range(n)])


def test_lac_is_a_threshold_at_the_conformal_quantile():
    held, tested = drawn(150, 0, "c"), drawn(300, 1)
    for coverage in (0.8, 0.9, 0.95):
        of_label = np.sort(1 - held.probs[np.arange(150), held.labels])
        threshold = of_label[math.ceil(151 * coverage) - 1]
        assert (sua.answer_sets(tested, held, coverage) == (1 - tested.probs <= threshold + 1e-12)).all()


@pytest.mark.parametrize("method", ["lac", "aps"])
@pytest.mark.parametrize("on", ["p", "orbit"])
def test_coverage_is_as_promised_over_many_draws(method, on):
    n, share, hit = 39, 0.8, []
    for seed in range(200):
        p = drawn(n + 60, seed, noise=0.6)
        sets = sua.answer_sets(p.subset(slice(n, None)), p.subset(slice(n)), share, method, on, seed)
        hit.append(sets[np.arange(60), p.labels[n:]].mean())
    # exactly ceil((n + 1) share) / (n + 1) = .8 where nothing is tied
    assert np.mean(hit) == pytest.approx(0.8, abs=4 * np.std(hit) / math.sqrt(200))
    assert np.std(hit) / math.sqrt(200) < 0.01


def test_the_orbits_mean_makes_sets_smaller_where_single_answers_scatter():
    held, tested = drawn(1000, 2, "c", noise=1.0), drawn(2000, 3, noise=1.0)
    size = {on: sua.answer_sets(tested, held, on=on).sum(1).mean() for on in ("p", "orbit")}
    assert size["orbit"] < size["p"] - 0.1
    still, new = drawn(300, 4, "c"), drawn(300, 5)
    assert (sua.answer_sets(new, still, on="orbit") == sua.answer_sets(new, still)).all()  # nothing scatters


def test_an_absent_option_is_in_no_set():
    held, tested = drawn(100, 6, "c"), drawn(5, 7)
    probs = np.pad(tested.probs[:, :3] / tested.probs[:, :3].sum(1, keepdims=True), ((0, 0), (0, 1)))
    few = replace(tested, probs=probs, perturbed=None, labels=None, n_classes=[3] * 5)
    held = replace(held, probs=np.where(np.arange(4) == held.labels[:, None], 0, 1 / 3), perturbed=None)  # always wrong
    assert sua.answer_sets(few, held).tolist() == [[True] * 3 + [False]] * 5


def test_two_classes_have_sets_of_lac_alone():
    held, tested = drawn(400, 8, "c", c=2), drawn(4000, 9, c=2)
    sets = sua.answer_sets(tested, held, 0.8)
    assert sets[np.arange(4000), tested.labels].mean() == pytest.approx(0.8, abs=0.06)
    with pytest.raises(ValueError, match="calibration labels are of 2 kinds: take 'lac'"):
        sua.answer_sets(tested, held, 0.8, "aps")


@pytest.mark.parametrize("change, said", [
    ({"method": "raps"}, "method = 'raps': choose one of lac, aps"),
    ({"on": "q"}, "on = 'q': choose 'p'"),
    ({"coverage": 1}, "coverage = 1: give a number strictly between"),
    ({"coverage": 0.99}, "50 calibration items: coverage 0.99 needs more than 10"),
    ({"calibration": replace(drawn(50, 0, "c"), labels=None)}, "hold no `labels`"),
    ({"calibration": drawn(50, 0, "c", c=3)}, "calibration has 3 classes, predictions have 4"),
    ({"calibration": drawn(50, 0)}, "share 9 ids"),
    ({"seed": -1}, "seed = -1"),
])
def test_what_is_wrong_is_named(change, said):
    with pytest.raises(ValueError, match=said):
        sua.answer_sets(**{"predictions": drawn(9, 1), "calibration": drawn(50, 0, "c"), **change})
