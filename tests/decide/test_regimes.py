"""Regimes: partitions and thresholds in exact cases, the synthetic benchmark against its documented laws and AUROCs."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest, chi2, kstest, spearmanr, uniform
from sklearn.metrics import roc_auc_score

from sua import Predictions, score
from sua.decide.regimes import (LABEL_RULES, MEAN_ERROR, REGIMES, absolute_d, regime, regime_table,
                                regime_thresholds, strict_d, synthetic_benchmark, validity)
from sua.metrics import auroc
from sua.tasks.recorded import llms

LN2 = np.log(2)
SURE, OPEN, AWAY = [0.9, 0.1], [0.5, 0.5], [0.1, 0.9]
benchmark = functools.cache(synthetic_benchmark)


def of(*items, **fields):
    """Predictions of items (p, q_1, ..., q_K)."""
    orbits = np.array(items, float)
    return Predictions(probs=orbits[:, 0], perturbed=orbits[:, 1:], **fields)


# one item of each regime: KL(SURE || AWAY) = .8 ln 9, KL(OPEN || SURE) = -ln(.6), H = .325 and .693 nats
ABCD = of((SURE, SURE), (OPEN, SURE), (OPEN, OPEN), (SURE, AWAY), labels=[0, 1, 0, 1])


def random_predictions(n, seed, k=3, c=4):
    rng = np.random.default_rng(seed)
    return Predictions(probs=rng.dirichlet(np.ones(c), n), perturbed=rng.dirichlet(np.ones(c), (n, k)),
                       labels=rng.integers(c, size=n))


# --- regimes of any predictions ---

def test_one_item_of_each_regime():
    h = -0.9 * np.log(0.9) - 0.1 * np.log(0.1)
    assert regime_thresholds(ABCD) == pytest.approx((-np.log(0.6) / 2, (h + LN2) / 2), abs=1e-12)
    assert regime(ABCD).tolist() == list(REGIMES)


@pytest.mark.parametrize("thresholds, expected", [((0.6, 0.4), "ACCD"), ((9, 0.4), "ACCA"), ((0.1, 0.3), "CBCB"),
                                                  ((0.1, 0.7), "ADAD"), ((0, 0.4), "ABCD")])
def test_given_thresholds(thresholds, expected):
    assert "".join(regime(ABCD, thresholds)) == expected


def test_a_value_on_the_threshold_is_not_high():
    s, h = score(ABCD, "sensitivity")[3], score(ABCD, "entropy")[0]
    assert regime(ABCD, (s, h))[[0, 3]].tolist() == ["A", "A"]
    assert regime(ABCD, (np.nextafter(s, 0), np.nextafter(h, 0)))[3] == "B"


def test_thresholds_chosen_on_calibration_do_not_depend_on_the_scored_items():
    calibration, scored = random_predictions(200, 0), random_predictions(100, 1)
    thresholds = regime_thresholds(calibration)
    s, h = score(calibration, "sensitivity"), score(calibration, "entropy")
    assert thresholds == (np.sort(s)[99:101].mean(), np.sort(h)[99:101].mean())
    together = regime(scored, thresholds)
    assert [regime(scored.subset([i]), thresholds)[0] for i in range(100)] == together.tolist()
    assert regime_thresholds(calibration, 0, 1) == (s.min(), h.max())


def test_strict_d_by_hand():
    # eight items, S and H both all different: S rises with the shift of mass, H with the distance of p from certainty
    sure = np.array([0.99, 0.98, 0.9, 0.88, 0.8, 0.75, 0.7, 0.65])
    moved = np.array([0.02, 0.97, 0.89, 0.02, 0.79, 0.74, 0.69, 0.64])
    p = of(*[([a, 1 - a], [b, 1 - b]) for a, b in zip(sure, moved)])
    # S: items 0 and 3 stand out. H: items 0 and 1 are lowest
    assert strict_d(p).tolist() == [True] + [False] * 7
    assert regime(p)[[0, 3]].tolist() == ["D", "D"]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_regimes_partition_and_medians_fix_the_share_of_d(half, seed):
    p = random_predictions(2 * half, seed)
    names = regime(p)
    share = {name: (names == name).mean() for name in REGIMES}
    assert sum(share.values()) == pytest.approx(1)
    assert share["D"] == share["C"] and share["A"] + share["D"] == 0.5
    s, h = score(p, "sensitivity"), score(p, "entropy")
    quadrant = np.mean(np.sign(s - np.median(s)) * np.sign(h - np.median(h)))
    assert share["D"] == pytest.approx((1 - quadrant) / 4)
    assert strict_d(p).sum() <= np.ceil(half / 2)
    assert (names[strict_d(p)] == "D").all()


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 30), st.integers(0, 2**32 - 1))
def test_regimes_follow_rows_and_ignore_the_order_of_classes_and_variants(n, seed):
    p, rng = random_predictions(n, seed), np.random.default_rng(seed)
    rows, classes, variants = rng.permutation(n), rng.permutation(4), rng.permutation(3)
    renamed = Predictions(probs=p.probs[:, classes], perturbed=p.perturbed[:, variants][:, :, classes])
    for rule in (regime, strict_d, absolute_d):
        assert (rule(p.subset(rows)) == rule(p)[rows]).all()
    # fixed thresholds, well away from the rounding of a sum in another order
    assert (regime(renamed, (0.3, 0.7)) == regime(p, (0.3, 0.7))).all()
    assert (absolute_d(renamed) == absolute_d(p)).all()


def test_absolute_d_at_its_two_lines():
    certain = [1, 0, 0]
    assert absolute_d(of((certain, [0.5, 0.5, 0]), (certain, [0.49, 0.51, 0]))).tolist() == [False, True]  # S_TV = 1/2
    # H = one bit: S_TV = 1 does not exceed it; H(.9, .1) = .469 bits, S_TV = .8; H(.75, .25) = .811 bits, S_TV = .75
    items = of(([0.5, 0.5, 0], [0, 0, 1]), ([0.9, 0.1, 0], [0.1, 0.9, 0]), ([0.75, 0.25, 0], [0, 1, 0]))
    assert absolute_d(items).tolist() == [False, True, False]
    # a mean over variants: two of three move all the mass
    assert absolute_d(of((certain, certain, [0, 1, 0], [0, 0, 1]))).tolist() == [True]
    assert absolute_d(of((certain, certain, certain, [0, 1, 0]))).tolist() == [False]


def test_only_the_absolute_share_tells_a_stable_model_from_an_unstable_one():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([20, 1, 1], 400)
    noise = rng.dirichlet([1, 1, 1], (400, 8))
    stable = Predictions(probs=p, perturbed=0.99 * p[:, None] + 0.01 * noise)
    unstable = Predictions(probs=p, perturbed=0.05 * p[:, None] + 0.95 * np.roll(p, 1, axis=-1)[:, None])
    assert (regime(stable) == "D").mean() > 0.2 and strict_d(stable).any()  # by construction, though nothing moves
    assert absolute_d(stable).mean() == 0 and absolute_d(unstable).mean() > 0.6
    # membership is the item's own: company does not change it, as it does with medians
    few = unstable.subset(slice(0, 40))
    assert (absolute_d(few) == absolute_d(unstable)[:40]).all()
    assert (regime(few) != regime(unstable)[:40]).any()


def test_recorded_base_llms_have_a_fifth_of_d_by_medians_and_none_in_fact():
    base = [p for p in llms().values() if p.meta["template"] == "base"]
    assert np.mean([(regime(p) == "D").mean() for p in base]) > 0.2
    assert max(absolute_d(p).mean() for p in base) < 0.01
    p = base[0]
    s, h = score(p, "sensitivity"), score(p, "entropy")
    assert validity(p)["mean_ratio"] == pytest.approx(sum(a / b for a, b in zip(s, h)) / len(p), rel=1e-12)


# --- table within regimes ---

def test_table_within_regimes_against_sklearn():
    p = random_predictions(400, 3)
    table, names = regime_table(p), regime(p)
    assert table.index.tolist() == [*REGIMES, "all"] and (table["note"] == "").all()
    for name, row in table.iterrows():
        inside = p.subset(np.flatnonzero((names == name) | (name == "all")))
        assert row["n"] == len(inside) and row["share"] == len(inside) / 400
        assert row["error_rate"] == pytest.approx(inside.is_error.mean(), abs=1e-12)
        for column, chosen in (("sensitivity", "sensitivity"), ("entropy", "entropy"), ("sua", "sua")):
            values = score(inside, chosen)
            assert row[f"auroc_{column}"] == pytest.approx(roc_auc_score(inside.is_error, values), abs=1e-12)
            if column != "sua":
                assert row[f"mean_{column}"] == pytest.approx(values.mean(), rel=1e-12)
    assert (table.loc[list(REGIMES), "share"] @ table.loc[list(REGIMES), "error_rate"]
            == pytest.approx(table.loc["all", "error_rate"]))


def test_table_says_why_a_number_is_missing():
    # answers are class 0 (the first of equal ones); labels make B and D all errors, A and C none
    table = regime_table(ABCD)
    assert table["note"].tolist() == ["AUROC n/a: no of 1 items are errors", "AUROC n/a: 1 of 1 items are errors",
                                      "AUROC n/a: no of 1 items are errors", "AUROC n/a: 1 of 1 items are errors", ""]
    assert table.loc[list(REGIMES), ["auroc_entropy", "auroc_sensitivity", "auroc_sua"]].isna().all(axis=None)
    empty = regime_table(ABCD, regimes=["A", "A", "B", "B"], scores={"flip": score(ABCD, "disagreement")})
    assert empty.loc["D", ["n", "share", "note"]].tolist() == [0, 0, "no items"]
    assert empty.loc["D", ["error_rate", "mean_sensitivity", "mean_entropy", "auroc_flip"]].isna().all()
    assert empty["auroc_flip"].tolist()[:2] == [0.5, 1]  # A: no flip in either item; B: the wrong one flips


# --- the follow-up's filter ---

def test_validity_by_hand():
    p = of((SURE, AWAY), (OPEN, SURE), (OPEN, OPEN))
    s, h = [0.8 * np.log(9), -np.log(0.6), 0], [-0.9 * np.log(0.9) - 0.1 * np.log(0.1), LN2, LN2]
    ratios = [s[0] / h[0], s[1] / h[1], 0]
    found = validity(p)
    assert found["mean_ratio"] == pytest.approx(sum(ratios) / 3, rel=1e-12)
    assert found["ratio_of_means"] == pytest.approx(sum(s) / sum(h), rel=1e-12)
    assert found["median_ratio"] == pytest.approx(ratios[1], rel=1e-12)
    assert found["note"] == (f"mean(S/H) explodes as H -> 0: the 1 of 3 items of least entropy make "
                             f"{ratios[0] / sum(ratios):.0%} of it")


def test_mean_ratio_explodes_with_confidence_and_the_others_do_not():
    def one_confident(gap):
        return of(*[(OPEN, [0.45, 0.55])] * 99, ([1 - gap, gap], [1 - 10 * gap, 10 * gap]))

    # (p, q) = (1 - g, g), (1 - 10 g, 10 g): S ~ 9 g and H ~ g ln(1/g), both vanish
    mild, sharp = validity(one_confident(1e-2)), validity(one_confident(1e-6))
    assert sharp["ratio_of_means"] == pytest.approx(mild["ratio_of_means"], rel=0.15)
    assert sharp["median_ratio"] == mild["median_ratio"]
    certain = validity(of(*[(OPEN, [0.45, 0.55])] * 99, ([1, 0], [0.99, 0.01])))
    assert certain["mean_ratio"] == np.inf and certain["ratio_of_means"] < 0.01
    assert certain["note"] == "mean(S/H) explodes as H -> 0: H = 0 < S for 1 of 100 items"
    # the same small shift of a p ever more certain: S ~ .001, H -> 0
    rising = [validity(of((OPEN, [0.45, 0.55]), ([1 - g, g], [0.999, 0.001])))["mean_ratio"]
              for g in (1e-4, 1e-6, 1e-8, 1e-10)]
    assert rising == sorted(rising) and rising[-1] > 1e4


def test_validity_of_a_model_that_never_moves():
    still = validity(of(([1, 0], [1, 0]), (OPEN, OPEN)))
    assert (still["mean_ratio"], still["ratio_of_means"], still["median_ratio"]) == (0, 0, 0)
    assert still["note"] == "mean(S/H) explodes as H -> 0"


# --- the synthetic benchmark: its documented laws ---

def fits(values, law):
    """Kolmogorov-Smirnov; a true law fails once in 10,000."""
    return kstest(values, law.cdf).pvalue > 1e-4


def test_laws_of_the_base_distributions():
    p, regimes = benchmark(n=12000, seed=1)
    for name in "AD":
        top = p.probs[regimes == name].max(-1)
        assert fits(top, uniform(0.82, 0.14))
        assert abs(np.bincount(p.answers[regimes == name], minlength=3) / 3000 - 1 / 3).max() < 0.04  # 4.6 sd
    for name in "BC":
        for y in range(3):
            assert fits(p.probs[regimes == name][:, y], beta(3, 6))  # margins of Dirichlet(3, 3, 3)
    assert [(regimes == name).sum() for name in REGIMES] == [3000] * 4


def test_laws_of_the_variants():
    p, regimes = benchmark(n=12000, seed=1)
    q = {name: p.perturbed[regimes == name] for name in REGIMES}
    for name in "AC":  # Dirichlet(50 p + .5): the probability of a class is Beta(50 p + .5, rest)
        base = p.probs[regimes == name][:, None]
        a = 50 * base + 0.5
        for y in range(3):
            rank = beta.cdf(q[name][:, 0, y], a[:, 0, y], 51.5 - a[:, 0, y])
            assert fits(rank, uniform())
    for y in range(3):
        assert fits(q["B"][:, -1, y], beta(0.4, 0.8))
    answers, variants = p.answers[regimes == "D"], p.perturbed_answers[regimes == "D"]
    assert (variants != answers[:, None]).all()
    assert fits(q["D"][:, 0].max(-1), uniform(0.75, 0.2))
    shift = (variants - answers[:, None]) % 3
    assert binomtest(int((shift == 1).sum()), shift.size).pvalue > 1e-4  # either of the two others, equally often
    assert abs(np.corrcoef(shift[:, 0], shift[:, 1])[0, 1]) < 0.075  # anew for every variant


def test_samples_are_drawn_from_p_and_independent_of_labels():
    p, _ = benchmark(n=12000, seed=1, labels="model")
    assert p.samples.shape == (12000, 10)
    expected, variance = p.probs.sum(0), (p.probs * (1 - p.probs)).sum(0)
    for m in range(10):
        z = (np.bincount(p.samples[:, m], minlength=3) - expected) / np.sqrt(variance)
        assert abs(z).max() < 4.5
    # P(a sample equals the label) = sum_y p_y^2 if both are drawn independently from p
    agree = (p.probs**2).sum(-1)
    same = (p.samples == p.labels[:, None]).mean()
    assert same == pytest.approx(agree.mean(), abs=4.5 * np.sqrt((agree * (1 - agree)).sum()) / 12000)


def test_error_probability_of_the_follow_up():
    p, regimes = benchmark(labels="sensitivity")
    s = score(p, "sensitivity")
    error = 1 - p.label_dist[np.arange(len(p)), p.answers]
    for name, steepness in zip(REGIMES, (3, 3.5, 3, 10)):
        e, scaled = error[regimes == name], s[regimes == name]
        assert spearmanr(e, scaled).statistic > 0.999 or name == "D"  # S alone decides
        scaled = (scaled - scaled.min()) / (scaled.max() - scaled.min())
        free = e < 1
        # 1 / (c sigmoid(t (S~ - .5))) = (1 + exp(t/2) exp(-t S~)) / c: a line in exp(-t S~)
        slope, intercept = np.polyfit(np.exp(-steepness * scaled[free]), 1 / e[free], 1)
        assert slope / intercept == pytest.approx(np.exp(steepness / 2), rel=1e-6)
        mean = np.mean(1 / (intercept * (1 + np.exp(steepness / 2 - steepness * scaled))))
        assert mean == pytest.approx(MEAN_ERROR[name], rel=1e-6)
        assert (e[~free] == 1).all() and (name == "D" or free.all())
    assert 0.5 < error[regimes == "D"].mean() < 0.55
    other = np.delete(p.label_dist[0], p.answers[0])
    assert other[0] == other[1]


@pytest.mark.parametrize("rule", LABEL_RULES)
def test_labels_follow_their_probabilities(rule):
    p, regimes = benchmark(n=12000, seed=1, labels=rule)
    if rule == "model":
        np.testing.assert_array_equal(p.label_dist, p.probs)
    if rule == "orbit":
        np.testing.assert_allclose(p.label_dist, (p.probs + p.perturbed.sum(1)) / 9, atol=1e-15)
    statistic = 0
    for name in REGIMES:
        chances, labels = p.label_dist[regimes == name], p.labels[regimes == name]
        # two of three class counts, whose covariance is exact: a sum of chi-squares with 2 degrees of freedom each
        gap = (np.eye(3)[labels] - chances)[:, :2].sum(0)
        covariance = np.diag(chances.sum(0)[:2]) - chances[:, :2].T @ chances[:, :2]
        statistic += gap @ np.linalg.solve(covariance, gap)
        error = 1 - chances[np.arange(len(labels)), p.answers[regimes == name]]
        z = (p.is_error[regimes == name].sum() - error.sum()) / np.sqrt((error * (1 - error)).sum())
        assert abs(z) < 4.5
    assert chi2.sf(statistic, 8) > 1e-4


def test_rules_share_everything_but_the_labels():
    made = [benchmark(labels=rule) for rule in LABEL_RULES]
    for p, regimes in made[1:]:
        for name in ("probs", "perturbed", "samples"):
            np.testing.assert_array_equal(getattr(p, name), getattr(made[0][0], name))
        assert (regimes == made[0][1]).all() and (p.labels != made[0][0].labels).any()
    again, _ = synthetic_benchmark()
    np.testing.assert_array_equal(again.labels, made[0][0].labels)
    assert (synthetic_benchmark(seed=1)[0].probs != again.probs).any()


# --- the synthetic benchmark: its documented results ---

def scores_of(p):
    h, s = score(p, "entropy"), score(p, "sensitivity")
    return {"H": h, "S": s, "S-H": s - h, "S+H": s + h, "flips": score(p, "disagreement")}


@functools.cache
def tables(rule):
    made = (benchmark(seed=seed, labels=rule) for seed in range(20))
    return [regime_table(p, regimes, scores_of(p)) for p, regimes in made]


def mean_auroc(rule, which, name):
    return np.mean([table.loc[which, f"auroc_{name}"] for table in tables(rule)])


@pytest.mark.parametrize("rule, which, name, documented", [
    ("sensitivity", "D", "H", 0.214), ("sensitivity", "D", "S-H", 0.881), ("sensitivity", "D", "flips", 0.5),
    ("sensitivity", "A", "flips", 0.5), ("sensitivity", "C", "H", 0.491), ("sensitivity", "C", "S-H", 0.519),
    ("sensitivity", "B", "S-H", 0.628), ("sensitivity", "all", "H", 0.354), ("sensitivity", "all", "S", 0.791),
    ("sensitivity", "all", "S-H", 0.783), ("sensitivity", "all", "flips", 0.738),
    ("model", "all", "H", 0.772), ("model", "all", "S-H", 0.377),
    ("orbit", "all", "S+H", 0.785), ("orbit", "all", "S-H", 0.675),
])
def test_documented_auroc_comes_out(rule, which, name, documented):
    assert mean_auroc(rule, which, name) == pytest.approx(documented, abs=0.03)


@pytest.mark.parametrize("which, name, documented", [("A", "H", 0.556), ("A", "S-H", 0.449), ("B", "H", 0.427),
                                                     ("B", "flips", 0.595)])
def test_documented_auroc_within_the_spread_of_one_run(which, name, documented):
    # one run of 600 items has a standard deviation of .02 to .04 here
    values = [table.loc[which, f"auroc_{name}"] for table in tables("sensitivity")]
    assert abs(np.mean(values) - documented) < 3 * np.std(values)


def test_sensitivity_alone_beats_sua_in_every_seed_of_the_follow_ups_rule():
    assert all(table.loc["all", "auroc_S"] > table.loc["all", "auroc_S-H"] for table in tables("sensitivity"))


def test_the_blind_spot_of_entropy_in_d_is_a_sign():
    correlations, minus = [], []
    for seed in range(20):
        p, regimes = benchmark(seed=seed)
        d = p.subset(regimes == "D")
        correlations.append(np.corrcoef(score(d, "sensitivity"), score(d, "entropy"))[0, 1])
        minus.append(auroc(d.is_error, -score(d, "entropy")))
    assert np.mean(correlations) == pytest.approx(-0.72, abs=0.03)
    assert np.mean(minus) == pytest.approx(0.785, abs=0.03)


def test_medians_and_the_absolute_line_find_the_regime_that_was_planted():
    p, regimes = benchmark()
    assert (regime(p) == regimes).mean() > 0.98
    found = absolute_d(p)
    assert not found[regimes != "D"].any() and found[regimes == "D"].mean() > 0.85


# --- wrong input ---

@pytest.mark.parametrize("arguments, message", [
    ({"n": 2401}, r"n = 2401: give a multiple of 4"), ({"n": 4}, r"n = 4: .*at least 8"), ({"n": 0}, r"n = 0"),
    ({"k": 0}, r"k = 0: draw at least one"), ({"labels": "S"}, r"label rule 'S': use one of sensitivity, model, orbit"),
])
def test_wrong_benchmarks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic_benchmark(**arguments)


@pytest.mark.parametrize("call, message", [
    (lambda: regime_thresholds(ABCD, 1.5), r"sensitivity_quantile = 1.5: give a share in \[0, 1\]"),
    (lambda: regime(ABCD, (np.nan, 1)), r"thresholds = \(nan, 1\): give two finite numbers"),
    (lambda: regime(ABCD, (1, 2, 3)), r"thresholds = \(1, 2, 3\): give two finite"),
    (lambda: regime_table(ABCD, ["A", "B"]), r"regimes has shape \(2,\), expected \(4,\)"),
    (lambda: regime_table(ABCD, ["A", "B", "C", "d"]), r"regimes holds 'd': use A, B, C, D"),
    (lambda: regime_table(ABCD, scores={"mine": [1, 2]}), r"mine has shape \(2,\), expected \(4,\)"),
    (lambda: regime(Predictions(probs=[SURE])), "hold no `perturbed`"),
    (lambda: regime_table(of((SURE, SURE))), "hold no `labels`"),
])
def test_wrong_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("call, said", [
    (lambda p: regime(p, ("1", "2")), "thresholds = .*two finite numbers"),
    (lambda p: regime(p, (None, 1)), "thresholds = .*two finite numbers"),
    (lambda p: regime_thresholds(p, None), "sensitivity_quantile = None"),
    (lambda p: regime_thresholds(p, 0.5, [0.5, 0.6]), "entropy_quantile = "),
    (lambda p: regime_table(p, scores={"mine": np.full(len(p), np.nan)}), "mine holds NaN"),
    (lambda p: synthetic_benchmark("8"), "n = 8"),
    (lambda p: synthetic_benchmark(8.0), "n = 8.0"),
    (lambda p: synthetic_benchmark(8, 1.5), "k = 1.5"),
])
def test_what_is_no_number_is_named(call, said):
    p, _ = synthetic_benchmark(8, 2)
    with pytest.raises(ValueError, match=said):
        call(p)
