"""Metrics against sklearn, torchmetrics, MAPIE and scipy, and ties against the mean over every order of the rows."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mapie.metrics.uncertainty import auarc
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.functional.classification.calibration_error import _ce_compute

from sua import Predictions, metrics
from sua.metrics import SingleClassError, aurc, auroc, auroc_intervals, ece, selective_accuracy, selective_risk


def binary(confidence, correct):
    """Two-class predictions of class 0 with these confidences (>= 1/2)."""
    confidence = np.asarray(confidence, float)
    return Predictions(probs=np.stack([confidence, 1 - confidence], -1), labels=1 - np.asarray(correct, int))


@st.composite
def ranked(draw, least=2, most=40, both=False):
    """is_error and scores of few distinct values: many ties."""
    n = draw(st.integers(least, most))
    error = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    if both:
        error[:2] = [True, False]
    value = st.sampled_from([-2.5, -1.0, 0.0, 0.1, 0.3, 1.0, 7.0])
    return np.array(error), np.array(draw(st.lists(value, min_size=n, max_size=n)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("digits", [0, 1, 12])
def test_auroc_is_sklearns_with_and_without_ties(seed, digits):
    rng = np.random.default_rng(seed)
    error, u = rng.random(500) < 0.2, np.round(rng.normal(size=500) * 3, digits)
    assert auroc(error, u) == pytest.approx(roc_auc_score(error, u), abs=1e-12)


@given(ranked(both=True))
def test_auroc_is_the_share_of_pairs_ties_half(case):
    error, u = case
    pairs = [Fraction(int(a > b) * 2 + int(a == b), 2) for a in u[error] for b in u[~error]]
    assert auroc(error, u) == pytest.approx(float(sum(pairs) / len(pairs)), abs=1e-12)
    assert auroc(error, -u) == pytest.approx(1 - auroc(error, u), abs=1e-12)


@given(ranked(both=True), st.data())
def test_order_of_rows_does_not_matter(case, data):
    error, u = case
    order = data.draw(st.permutations(range(len(u))))
    for metric in (auroc, aurc, selective_accuracy):
        assert metric(error[order], u[order]) == pytest.approx(metric(error, u), abs=1e-12)
    confidence = 0.5 + 0.05 * np.searchsorted(np.unique(u), u)
    p = binary(confidence, ~error)
    assert ece(p.subset(order)) == pytest.approx(ece(p), abs=1e-12)


@pytest.mark.parametrize("n, c", [(300, 2), (1000, 3), (57, 10)])
def test_ece_is_torchmetrics(n, c):
    rng = np.random.default_rng(n)
    p = Predictions(probs=rng.dirichlet(np.full(c, 0.5), n), labels=rng.integers(c, size=n))
    theirs = multiclass_calibration_error(torch.tensor(p.probs), torch.tensor(p.labels), c, n_bins=15, norm="l1")
    assert ece(p) == pytest.approx(theirs.item(), abs=1e-6)  # it rounds to single precision
    double = _ce_compute(torch.tensor(p.probs.max(-1)), torch.tensor(~p.is_error), 15, norm="l1")
    assert double.dtype == torch.float64 and ece(p) == pytest.approx(double.item(), abs=1e-12)
    edges = [Fraction(i, 15) for i in range(16)]
    confidence, right = p.probs.max(-1), ~p.is_error
    member = [(confidence > float(lo)) & (confidence <= float(hi)) for lo, hi in itertools.pairwise(edges)]
    exact = sum(abs(math.fsum(right[m]) - math.fsum(confidence[m])) for m in member) / n
    assert ece(p) == pytest.approx(exact, abs=1e-12)


def test_ece_bins_are_open_on_the_left_and_closed_on_the_right():
    # 0.75 belongs to (1/2, 3/4] with 0.625: gap |1 + 0 - 0.75 - 0.625| / 4; 1.0 and 0.875 share the last bin
    p = binary([0.75, 0.625, 1.0, 0.875], [1, 0, 1, 1])
    assert ece(p, bins=4) == pytest.approx((0.375 + 0.125) / 4, abs=1e-15)
    assert ece(binary([0.5, 0.5], [1, 0]), bins=2) == 0
    assert ece(binary([1.0, 1.0], [1, 1])) == 0 and ece(binary([1.0, 1.0], [0, 0])) == 1
    with pytest.raises(ValueError, match="bins = 0.*at least one"):
        ece(p, bins=0)


def test_a_confidence_on_any_edge_falls_into_the_bin_below():
    wrong = []
    for bins, k in ((bins, k) for bins in range(2, 31) for k in range(bins // 2 + 1, bins + 1)):
        edge, inside = k / bins, (k - 0.5) / bins
        if inside >= 0.5:  # in one bin the two gaps cancel in part; in two bins they would add up
            one_bin = abs((1 - edge) + (0 - inside)) / 2
            if abs(ece(binary([edge, inside], [1, 0]), bins=bins) - one_bin) > 1e-9:
                wrong.append((bins, k))
    assert not wrong, f"(bins, k) whose edge k / bins falls into bin k + 1: {wrong}"


@pytest.mark.parametrize("seed", range(4))
def test_aurc_is_one_minus_mapies_auarc_without_ties(seed):
    rng = np.random.default_rng(seed)
    error, u = rng.random(300) < 0.3, rng.permutation(300) * 0.37
    assert aurc(error, u) == pytest.approx(1 - auarc(~error, -u), abs=1e-12)


def orders(u):
    """Every order of the rows that sorts u."""
    return [order for order in itertools.permutations(range(len(u))) if (np.diff(u[list(order)]) >= 0).all()]


@pytest.mark.parametrize("u", [[1, 1, 1, 1, 1, 1], [1, 2, 1, 2, 1, 2], [0, 3, 3, 3, 5, 5], [2, 1, 4, 4, 4, 0],
                               [1, 2, 3, 4, 5, 6]], ids=str)
def test_ties_count_as_the_mean_over_every_order(u):
    u = np.array(u, float)
    for error in ([1, 0, 0, 1, 0, 1], [0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]):
        risks = [[Fraction(sum(error[i] for i in order[:k]), k) for k in range(1, 7)] for order in orders(u)]
        exact = [sum(column) / len(risks) for column in zip(*risks)]
        np.testing.assert_allclose(selective_risk(error, u), [float(x) for x in exact], atol=1e-13)
        assert aurc(error, u) == pytest.approx(float(sum(exact) / 6), abs=1e-12)
        for coverage in (0.01, 1 / 3, 0.5, 0.8, 1.0):
            kept = math.ceil(Fraction(coverage).limit_denominator(1000) * 6)
            assert selective_accuracy(error, u, coverage) == pytest.approx(float(1 - exact[kept - 1]), abs=1e-12)


@pytest.mark.parametrize("n, kept", [(1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 5), (9, 8), (10, 8), (11, 9), (15, 12),
                                     (100, 80), (1000, 800), (2375, 1900)])
def test_coverage_80_keeps_the_ceiling_of_four_fifths(n, kept):
    assert kept == math.ceil(Fraction(4, 5) * n)
    # the first `kept` items of lowest score are right, all others wrong
    error = np.arange(n) >= kept
    assert selective_accuracy(error, np.arange(n)) == 1
    # with item `kept - 1` wrong as well, exactly one of the kept items is
    assert selective_accuracy(np.arange(n) >= kept - 1, np.arange(n)) == pytest.approx(1 - 1 / kept, abs=1e-12)


def test_selective_accuracy_of_a_constant_score_is_the_accuracy():
    error = np.random.default_rng(0).random(500) < 0.378
    assert selective_accuracy(error, np.zeros(500)) == pytest.approx(1 - error.mean(), abs=1e-12)
    assert aurc(error, np.zeros(500)) == pytest.approx(error.mean(), abs=1e-12)
    for coverage in (0, -0.1, 1.01):
        with pytest.raises(ValueError, match=f"coverage = {coverage}.*share in"):
            selective_accuracy(error, np.zeros(500), coverage)


@pytest.mark.parametrize("value, n", [(0, 5), (1, 3)])
def test_one_class_is_an_error_that_names_the_value(value, n):
    with pytest.raises(SingleClassError, match=f"is_error is {value} for all {n} items.*more items"):
        auroc([value] * n, np.arange(n))
    assert issubclass(SingleClassError, ValueError)
    assert aurc([value] * n, np.arange(n)) == value


@pytest.mark.parametrize("metric", [auroc, aurc, selective_accuracy, selective_risk])
@pytest.mark.parametrize("error, u, said", [
    ([0, 1, 0], [0.1, np.nan, 0.2], r"score\[1\] is NaN"), ([0, 1], [0.1], "shape"), ([], [], "shape"),
    ([[0, 1]], [[0.1, 0.2]], "two vectors"), ([0, 2], [0.1, 0.2], "is_error holds .*2.*1 for a wrong answer"),
    ([0, np.nan], [0.1, 0.2], "is_error holds .*nan")])
def test_bad_input(metric, error, u, said):
    with pytest.raises(ValueError, match=said):
        metric(error, u)


def test_infinite_scores_tie_with_each_other():
    error, u = np.array([1, 0, 1, 0, 0]), np.array([np.inf, np.inf, 1.0, -np.inf, -np.inf])
    # pairs (error, right): inf against inf, -inf, -inf -> 1/2, 1, 1; 1 against the same -> 0, 1, 1
    assert auroc(error, u) == pytest.approx(4.5 / 6, abs=1e-12)
    assert auroc(error[::-1], u[::-1]) == pytest.approx(4.5 / 6, abs=1e-12)
    assert aurc(error, u) == pytest.approx((0 + 0 + 1 / 3 + 1.5 / 4 + 2 / 5) / 5, abs=1e-12)


def test_accuracy_and_robust_accuracy_by_hand():
    right, wrong = [0.9, 0.1], [0.2, 0.8]
    p = Predictions(probs=[right, right, wrong, right], labels=[0, 0, 0, 0],
                    perturbed=[[right, right], [right, wrong], [right, right], [wrong, wrong]])
    assert metrics.accuracy(p) == 0.75 and metrics.robust_accuracy(p) == 0.25


def runs(n=200, seeds=2, seed=0, signal=1.0):
    """Errors and two scores of several models on the same items."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=n)
    draw = lambda: (rng.random(n) < 1 / (1 + np.exp(-signal * hard + 1)),
                    {"entropy": signal * hard + rng.normal(size=n), "noise": np.round(rng.normal(size=n), 1)})
    return [draw() for _ in range(seeds)]


def test_interval_points_are_sklearns_means_over_seeds():
    data = runs(seeds=3)
    rows = {row["score"]: row for row in auroc_intervals(data, resamples=50)}
    exact = {name: np.mean([roc_auc_score(error, u[name]) for error, u in data]) for name in rows}
    for name, row in rows.items():
        assert row["auroc"] == pytest.approx(exact[name], abs=1e-12)
        assert row["gain"] == pytest.approx(exact[name] - exact["entropy"], abs=1e-12)
        assert row["low"] <= row["auroc"] <= row["high"]
    assert [rows["entropy"][key] for key in ("gain", "gain_low", "gain_high")] == [0, 0, 0]
    assert auroc_intervals(data, resamples=50) == auroc_intervals(data, resamples=50)


def test_every_score_meets_every_reference():
    rows = auroc_intervals(runs(), references=("entropy", "noise"), resamples=20)
    assert [(row["score"], row["reference"]) for row in rows] == list(itertools.product(("entropy", "noise"), repeat=2))
    assert rows[1]["gain"] == -rows[2]["gain"]
    assert rows[1]["gain_low"] == pytest.approx(-rows[2]["gain_high"], abs=1e-12)


def test_intervals_are_scipys_percentile_bootstrap():
    ((error, u),) = runs(seeds=1, seed=5)
    size, batch = 2000, []
    row = auroc_intervals([(error, u)], references=("noise",), resamples=size, seed=1)[0]

    def statistics(rows):
        rows = rows.astype(int)
        return auroc(error[rows], u["entropy"][rows]), \
            auroc(error[rows], u["entropy"][rows]) - auroc(error[rows], u["noise"][rows])

    theirs = bootstrap((np.arange(len(error)),), lambda x: np.array(statistics(x)), n_resamples=size, vectorized=False,
                       method="percentile", rng=np.random.default_rng(0))
    # Monte Carlo error of a 2.5 % quantile at this size, from the binomial spread of the order statistic
    order = np.sort(theirs.bootstrap_distribution, -1)
    spread = np.sqrt(2) * 5 * math.sqrt(size * 0.025 * 0.975)
    around = lambda at: (order[:, max(int(at - spread), 0)], order[:, min(int(at + spread), size - 1)])
    for side, share in (("low", 0.025), ("high", 0.975)):
        low, high = around(share * size)
        for i, name in enumerate((side, f"gain_{side}")):
            assert low[i] <= row[name] <= high[i], name
    assert row["high"] - row["low"] == pytest.approx(
        theirs.confidence_interval.high[0] - theirs.confidence_interval.low[0], rel=0.1)


def test_gain_between_two_noise_scores_contains_zero():
    # 95 % intervals miss 0 in about 5 % of worlds: at most 8 of 40 (probability of more < 1e-3)
    missed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        error = rng.random(150) < 0.3
        data = [(error, {"entropy": rng.normal(size=150), "other": rng.normal(size=150)})]
        row = auroc_intervals(data, resamples=200)[1]
        missed += not row["gain_low"] <= 0 <= row["gain_high"]
    assert missed <= 8


def test_resampling_items_keeps_seeds_clustered():
    # equal models: clustering leaves the interval of one; independent resampling would shrink it by sqrt(4)
    ((error, u),) = runs(seeds=1)
    one, four = auroc_intervals([(error, u)], resamples=300), auroc_intervals([(error, u)] * 4, resamples=300)
    for single, several in zip(one, four):
        assert [single[key] for key in ("low", "high")] == pytest.approx([several[key] for key in ("low", "high")])


def test_resamples_of_one_class_are_left_out():
    error = np.zeros(12, bool)
    error[0] = True  # about 35 % of the resamples hold no error
    row = auroc_intervals([(error, {"entropy": np.arange(12.0)})], resamples=200)[0]
    assert row["auroc"] == 0 and np.isfinite([row["low"], row["high"]]).all()


def test_intervals_need_both_classes():
    with pytest.raises(SingleClassError, match="0 for all 4"):
        auroc_intervals([(np.zeros(4, bool), {"entropy": np.arange(4.0)})])
