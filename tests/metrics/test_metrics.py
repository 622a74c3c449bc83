"""Metrics against sklearn, torchmetrics, MAPIE and scipy, and ties against the mean over every order of the rows."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mapie.metrics.uncertainty import auarc
from scipy.stats import bootstrap, norm
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.functional.classification.calibration_error import _ce_compute

from sua import Predictions, metrics
from sua.metrics import (MODEL_METRICS, SCORE_METRICS, SingleClassError, augrc, aurc, auroc, auroc_intervals, e_aurc,
                         ece, holm, intervals, prr, selective_accuracy, selective_risk)
from sua.metrics import resamples


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
    for metric in (auroc, aurc, e_aurc, augrc, prr, selective_accuracy):
        assert metric(error[order], u[order]) == pytest.approx(metric(error, u), abs=1e-12)
    confidence = 0.5 + 0.05 * np.searchsorted(np.unique(u), u)
    p = binary(confidence, ~error)
    for metric in (ece, metrics.equal_mass_ece, metrics.debiased_ece, metrics.brier, metrics.nll):
        assert metric(p.subset(order)) == pytest.approx(metric(p), abs=1e-12)


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
        # the oracle's own risks, errors last; the joint curve runs through (k / 6, k risk_k / 6) from the origin
        errors = sum(error)
        oracle = sum(Fraction(max(k - 6 + errors, 0), k) for k in range(1, 7)) / 6
        assert e_aurc(error, u) == pytest.approx(float(sum(exact) / 6 - oracle), abs=1e-12)
        joint = [0, *(k * risk / 6 for k, risk in enumerate(exact, 1))]
        assert augrc(error, u) == pytest.approx(float(sum(a + b for a, b in itertools.pairwise(joint)) / 12), abs=1e-12)
        if 0 < errors < 6:
            ratio = (Fraction(errors, 6) - sum(exact) / 6) / (Fraction(errors, 6) - oracle)
            assert prr(error, u) == pytest.approx(float(ratio), abs=1e-12)
        for coverage in (0.01, 1 / 3, 0.5, 0.8, 1.0):
            kept = math.ceil(Fraction(coverage).limit_denominator(1000) * 6)
            assert selective_accuracy(error, u, coverage) == pytest.approx(float(1 - exact[kept - 1]), abs=1e-12)


@given(ranked(both=True))
def test_augrc_is_its_auroc_identity(case):
    error, u = case
    e = error.mean()
    assert augrc(error, u) == pytest.approx((1 - auroc(error, u)) * e * (1 - e) + e ** 2 / 2, abs=1e-12)


def test_normalised_areas_of_perfect_random_and_worst_scores():
    error = np.arange(50) >= 40
    assert e_aurc(error, np.arange(50)) == pytest.approx(0, abs=1e-15) and prr(error, np.arange(50)) == 1
    assert prr(error, np.zeros(50)) == pytest.approx(0, abs=1e-12) and prr(error, -np.arange(50)) < -1
    # the large-sample oracle (Geifman et al., 2019): e + (1 - e) ln(1 - e)
    wrong = np.arange(100_000) >= 70_000
    assert aurc(wrong, np.zeros(100_000)) - e_aurc(wrong, np.zeros(100_000)) == pytest.approx(
        0.3 + 0.7 * np.log(0.7), abs=1e-5)


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
    assert aurc([value] * n, np.arange(n)) == value and e_aurc([value] * n, np.arange(n)) == pytest.approx(0, abs=1e-15)
    assert augrc([value] * n, np.arange(n)) == value / 2
    with pytest.raises(SingleClassError, match=f"is_error is {value} for all"):
        prr([value] * n, np.arange(n))


@pytest.mark.parametrize("metric", [auroc, aurc, e_aurc, augrc, prr, selective_accuracy, selective_risk])
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


def test_worst_and_mean_of_k_by_hand():
    right, wrong = [0.9, 0.1], [0.2, 0.8]
    p = Predictions(probs=[wrong, right, right, right], labels=[0, 0, 0, 0],
                    perturbed=[[right, right], [right, wrong], [right, right], [wrong, wrong]])
    assert metrics.worst_of_k(p) == 0.5 and metrics.robust_accuracy(p) == 0.25 and metrics.mean_of_k(p) == 5 / 8


@pytest.mark.parametrize("c", [2, 5])
def test_brier_and_nll_are_sklearns(c):
    rng = np.random.default_rng(c)
    p = Predictions(probs=rng.dirichlet(np.ones(c), 300), labels=rng.integers(c, size=300))
    assert metrics.brier(p) == pytest.approx(
        brier_score_loss(p.labels, p.probs, scale_by_half=False, labels=np.arange(c)), abs=1e-12)
    assert metrics.nll(p) == pytest.approx(log_loss(p.labels, p.probs, labels=np.arange(c)), abs=1e-12)


def test_a_certain_mistake_costs_the_floor():
    p = Predictions(probs=[[1.0, 0.0], [0.5, 0.5]], labels=[1, 0])
    assert metrics.nll(p) == pytest.approx((-np.log(metrics.FLOOR) + np.log(2)) / 2) and metrics.brier(p) == 1.25


@pytest.mark.parametrize("n, digits", [(300, 12), (57, 12), (400, 1)])
def test_equal_mass_ece_bins_as_pandas_qcut(n, digits):
    rng = np.random.default_rng(n)
    p = binary(0.5 + np.round(rng.random(n) / 2, digits), rng.random(n) < 0.7)
    gap, confidence = ~p.is_error - p.probs.max(-1), p.probs.max(-1)
    bins = pd.qcut(confidence, 15, labels=False, duplicates="drop")
    assert metrics.equal_mass_ece(p) == pytest.approx(pd.Series(gap).groupby(bins).sum().abs().sum() / n, abs=1e-12)


def test_equal_confidences_share_a_bin():
    # two values, 15 quantiles: |acc - conf| is 0.25 among the six at 0.75 and 0.5 among the four at 1
    p = binary([0.75] * 6 + [1.0] * 4, [1, 1, 1, 1, 1, 1, 1, 0, 1, 0])
    assert metrics.equal_mass_ece(p) == pytest.approx(0.6 * 0.25 + 0.4 * 0.5, abs=1e-12)


def test_debiased_ece_is_the_mean_over_pairs_and_kumars_formula():
    rng = np.random.default_rng(0)
    p = binary(0.5 + rng.random(60) / 2, rng.random(60) < 0.4)
    gap, bins = ~p.is_error - p.probs.max(-1), pd.qcut(p.probs.max(-1), 5, labels=False)
    pairs = [np.mean([a * b for a, b in itertools.permutations(gap[bins == b], 2)]) for b in range(5)]
    assert metrics.debiased_ece(p, bins=5) == pytest.approx(math.sqrt(max(np.mean(pairs), 0)), abs=1e-12)
    # one confidence per bin: (conf - acc)^2 - acc (1 - acc) / (n - 1), here 3 of 8 at 0.75 and 5 of 5 at 1
    q = binary([0.75] * 8 + [1.0] * 5, [1] * 3 + [0] * 5 + [1] * 5)
    exact = 8 / 13 * ((0.75 - 3 / 8) ** 2 - 3 / 8 * 5 / 8 / 7)
    assert metrics.debiased_ece(q, bins=2) == pytest.approx(math.sqrt(exact), abs=1e-12)


def test_the_debiased_square_is_unbiased():
    # confidence 1, right with probability 0.6: the estimate of 0.4^2 is never negative, so its root loses nothing
    n, theta = 5, 0.6
    mean = sum(math.comb(n, k) * theta ** k * (1 - theta) ** (n - k)
               * metrics.debiased_ece(binary([1.0] * n, [1] * k + [0] * (n - k)), bins=3) ** 2 for k in range(n + 1))
    assert mean == pytest.approx((1 - theta) ** 2, abs=1e-12)
    # where calibration is perfect the plug-in is biased upward and the debiased estimate mostly 0
    plain, debiased = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        confidence = 0.5 + rng.random(200) / 2
        p = binary(confidence, rng.random(200) < confidence)
        plain.append(metrics.equal_mass_ece(p))
        debiased.append(metrics.debiased_ece(p))
    assert np.mean(plain) > 0.06 and np.mean(debiased) < np.mean(plain) / 2 and np.median(debiased) < 0.02


# --- resamples ---

def labelled(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return Predictions(probs=rng.dirichlet(np.ones(3), n), perturbed=rng.dirichlet(np.ones(3), (n, 2)),
                       labels=rng.integers(3, size=n))


@pytest.mark.parametrize("name", [*MODEL_METRICS, "worst_of_k", "mean_of_k"])
def test_a_model_metric_on_counts_is_that_of_the_repeated_items(name):
    metric, p = getattr(metrics, name), labelled()
    rows = np.random.default_rng(1).integers(60, size=(20, 60))
    counts = np.array([np.bincount(row, minlength=60) for row in rows])
    np.testing.assert_allclose(metric(p, counts=counts), [metric(p.subset(row)) for row in rows], atol=1e-12)
    assert metric(p) == metric(p, counts=np.ones((1, 60)))[0] and isinstance(metric(p), float)


def test_resampled_equal_mass_ece_keeps_its_bins():
    p = labelled()
    counts = np.full((1, 60), 3)
    assert metrics.equal_mass_ece(p, counts=counts)[0] == pytest.approx(metrics.equal_mass_ece(p), abs=1e-12)


@pytest.mark.parametrize("metric", [*SCORE_METRICS.values(), augrc, prr])
@given(case=ranked(both=True), seed=st.integers(0, 99))
def test_a_score_metric_on_counts_is_that_of_the_repeated_items(metric, case, seed):
    error, u = case
    rows = np.random.default_rng(seed).integers(len(u), size=(5, len(u)))
    counts = np.array([np.bincount(row, minlength=len(u)) for row in rows])

    def value(row):
        try:
            return metric(error[row], u[row])
        except SingleClassError:
            return np.nan

    np.testing.assert_allclose(metric(error, u, counts=counts), [value(row) for row in rows], atol=1e-12)


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


def test_intervals_are_scipys_percentile_bootstrap_where_resampling_has_no_bias():
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


def test_model_metrics_have_paired_intervals():
    p, q = labelled(seed=1), labelled(seed=2)
    rows = intervals([{"erm": p, "sua_tr": q}] * 2, metrics.accuracy, ("erm",), resamples=400)
    assert [row["name"] for row in rows] == ["erm", "sua_tr"] and rows[1]["value"] == metrics.accuracy(q)
    assert rows[1]["gain"] == pytest.approx(metrics.accuracy(q) - metrics.accuracy(p), abs=1e-12)
    # the standard error of a paired difference, about which a normal interval is known
    difference = (~q.is_error).astype(float) - ~p.is_error
    half = 1.96 * difference.std() / math.sqrt(60)
    assert [rows[1]["gain_low"], rows[1]["gain_high"]] == pytest.approx(
        [rows[1]["gain"] - half, rows[1]["gain"] + half], abs=0.35 * half)


@pytest.mark.parametrize("metric", [aurc, selective_accuracy, e_aurc])
def test_every_score_metric_has_intervals_by_the_same_resamples(metric):
    ((error, u),) = runs(seeds=1)
    rows = intervals([{name: (error, values) for name, values in u.items()}], metric, ("entropy",), resamples=50)
    assert [row["value"] for row in rows] == [metric(error, u["entropy"]), metric(error, u["noise"])]
    counts = np.random.default_rng(0).multinomial(200, np.full(200, 1 / 200), size=50)
    each = np.array([metric(np.repeat(error, row), np.repeat(u["noise"], row)) for row in counts])
    centred = each - each.mean() + rows[1]["value"]
    assert [rows[1]["low"], rows[1]["high"]] == pytest.approx(list(np.percentile(centred, [2.5, 97.5])), abs=1e-12)


@pytest.mark.parametrize("shift", [0, 0.02, 0.05])
def test_the_interval_of_an_ece_holds_it_and_covers_what_samples_of_this_size_have_on_average(shift):
    rng, rows = np.random.default_rng(0), []
    for _ in range(150):
        confidence = 0.5 + 0.5 * rng.beta(6, 2, 300)
        right = rng.random(300) < confidence - shift
        p = Predictions(probs=np.stack([confidence, 1 - confidence], 1), labels=(~right).astype(int))
        rows += intervals([{"erm": p}], metrics.ece, ("erm",), resamples=200)
    value, low, high = (np.array([row[key] for row in rows]) for key in ("value", "low", "high"))
    assert ((low < value) & (value < high)).all()
    covered = ((low <= value.mean()) & (value.mean() <= high)).mean()
    assert covered > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 150)


def test_intervals_refuse_runs_that_cannot_be_paired():
    with pytest.raises(ValueError, match=r"runs have \[50, 60\] items.*same items"):
        intervals([{"erm": labelled(60), "other": labelled(50)}], metrics.accuracy, ("erm",))
    with pytest.raises(ValueError, match=r"reference \['entropy'\] is not among the names \['erm'\]"):
        intervals([{"erm": labelled()}], metrics.accuracy)


@pytest.mark.parametrize("given, said", [
    ({"runs": (np.array([0, 1]), {"entropy": [0.0, 1.0]})}, "no list of pairs: give .*is_error, {name: score}"),
    ({"runs": np.array([0, 1]), "references": {"entropy": [0.0, 1.0]}}, "no list of pairs"),
    ({"runs": [{"entropy": [0.0, 1.0]}]}, "no list of pairs"),
    ({"runs": []}, "runs"),
    ({"runs": runs()[:1] + [(runs()[0][0], {"noise": runs()[0][0]})]}, r"runs\[1\] has the names"),
    ({"references": "entropy"}, "references = 'entropy': give a list"), ({"resamples": 0}, "resamples = 0"),
    ({"resamples": 2.5}, "resamples = 2.5"), ({"level": np.nan}, "level = nan"), ({"level": "x"}, "level = 'x'"),
])
def test_intervals_say_which_argument_is_wrong(given, said):
    with pytest.raises(ValueError, match=said):
        auroc_intervals(**{"runs": runs(), **given})


def test_intervals_of_one_dict_ask_for_a_list():
    with pytest.raises(ValueError, match="runs is no list of dicts but a dict"):
        intervals({"entropy": ([0, 1], [0, 1])})


@pytest.mark.parametrize("rows", [1, 7, 99])
def test_resamples_in_blocks_are_those_in_one_piece(rows, monkeypatch):
    monkeypatch.setattr(resamples, "LARGEST", 1 << 24)
    whole = auroc_intervals(runs(), resamples=100)
    blocks = list(resamples.draw_counts(200, 100, 3))
    monkeypatch.setattr(resamples, "LARGEST", 200 * (rows + 1))
    assert auroc_intervals(runs(), resamples=100) == whole
    drawn = list(resamples.draw_counts(200, 100, 3))
    assert len(blocks) == 1 and len(drawn) == 1 + -(-100 // rows) and max(map(len, drawn)) == rows
    assert (np.concatenate(drawn) == blocks[0]).all()
    old = np.random.default_rng(3).multinomial(200, np.full(200, 1 / 200), size=100)
    assert (blocks[0] == np.vstack([np.ones((1, 200), int), old])).all()


@pytest.mark.parametrize("metric", SCORE_METRICS.values(), ids=SCORE_METRICS)
@pytest.mark.parametrize("times", [1, 60_000, 100_000_000])
def test_counts_of_32_bits_are_as_exact_as_wider_ones(metric, times):
    """Each item so often: as once each, where products and sums of 32 bits would overflow too."""
    wrong, score = np.array([1, 0, 1, 0, 0, 1]), np.array([0.1, 0.2, 0.3, 0.3, 0.4, 0.9])
    counts = np.full((2, 6), times) * [[1], [2]]
    if metric in (aurc, e_aurc) and times > 60_000:
        pytest.skip("the harmonic numbers up to so many items are held in memory")
    narrow, wide = metric(wrong, score, counts=counts.astype(np.int32)), metric(wrong, score, counts=counts)
    np.testing.assert_array_equal(narrow, wide)
    if metric is auroc:
        np.testing.assert_allclose(narrow, auroc(wrong, score), rtol=1e-12)


def test_numbers_that_are_none_are_named():
    for call, said in ((lambda: auroc([0, 1], ["a", "b"]), "score is not a rectangular array of numbers"),
                       (lambda: holm([0.1, "x"]), "p_values is not a rectangular array of numbers"),
                       (lambda: holm([0.1, 1.5]), "p_values.1. = 1.5"),
                       (lambda: holm([[0.1]]), "p_values has shape"),
                       (lambda: selective_accuracy([0, 1], [0, 1], None), "coverage = None"),
                       (lambda: ece(binary([0.5], [1]), bins=1.5), "bins = 1.5")):
        with pytest.raises(ValueError, match=said):
            call()


def test_p_values_agree_with_the_intervals_and_are_uniform_without_a_gain():
    p_values = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        error = rng.random(120) < 0.4
        data = [(error, {"entropy": rng.normal(size=120), "other": rng.normal(size=120)})]
        itself, row = auroc_intervals(data, resamples=199)
        assert itself["p"] == 1 and 0 <= row["p"] <= 1
        if abs(row["p"] - 0.05) > 0.035:  # percentiles and the normal law differ a little
            assert (row["p"] < 0.05) == (not row["gain_low"] <= 0 <= row["gain_high"])
        p_values.append(row["p"])
    # binomial spread of 200 worlds, four standard deviations, around the levels
    for level in (0.05, 0.2, 0.5):
        assert abs(np.mean(np.array(p_values) <= level) - level) < 4 * math.sqrt(level * (1 - level) / 200)


def test_a_p_value_is_that_of_the_normal_law_and_can_survive_a_large_table():
    error = np.arange(40) < 20
    data = [(error, {"entropy": np.arange(40.0), "perfect": -np.arange(40.0)})]
    assert auroc_intervals(data, resamples=99)[1]["p"] == 0  # 1 against 0 in every resample
    rng = np.random.default_rng(1)
    noisy = {"entropy": rng.normal(size=400), "other": rng.normal(size=400) + 0.5 * (np.arange(400) < 200)}
    row = auroc_intervals([(np.arange(400) < 200, noisy)], resamples=2000)[1]
    deviation = (row["gain_high"] - row["gain_low"]) / (2 * norm.ppf(0.975))
    assert row["p"] == pytest.approx(2 * norm.sf(abs(row["gain"]) / deviation), rel=0.5) and row["p"] < 0.01


def test_holm_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04 -> running maximum
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.6]), [1, 1])
    np.testing.assert_allclose(holm([0.02, np.nan, 0.01]), [0.02, np.nan, 0.02])
    assert holm([0.3]) == [0.3] and holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_as_the_step_down_procedure(p_values, alpha):
    rejected, remaining = set(), dict(enumerate(p_values))
    while remaining and min(remaining.values()) * len(remaining) <= alpha:
        smallest = min(remaining, key=remaining.get)
        rejected.add(smallest)
        del remaining[smallest]
    assert {i for i, p in enumerate(holm(p_values)) if p <= alpha} == rejected
