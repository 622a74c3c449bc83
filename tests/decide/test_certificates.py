import numpy as np
import pytest
from scipy.stats import binom, binomtest, hypergeom
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import sua
from sua import Predictions, theory
from sua.decide.certificates import (error_floor, lambda_diagnosis, mean_lower_bound, misalignment_test,
                                     stability_certificate)
from sua.metrics import SingleClassError
from sua.scores import entropy

LN2 = np.log(2)


def draw(world, n, k, rng):
    """n items of a world: x ~ P, k variants ~ Pi(.|x). Floats."""
    mass, kernel, p = (np.asarray(a, dtype=float) for a in (world.mass, world.kernel, world.p))
    x = rng.choice(len(mass), size=n, p=mass)
    near = (rng.random((n, k, 1)) > kernel.cumsum(-1)[x][:, None, :-1]).sum(-1)
    return Predictions(probs=p[x], perturbed=p[near])


def brittle(share):
    """Certain answers; on `share` of the items the two members of the orbit contradict each other, label 1 throughout.

    Every bound is attained: flip rate = share, error = calibration error = share / 2, no entropy.
    """
    mass = np.array([share / 2, share / 2, 1 - share])
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])
    return theory.World(mass, swap, np.array([[1, 0], [0, 1], [1, 0.0]]), np.array([[1, 0.0]] * 3))


def moderate():
    """Not tight: entropy everywhere, three members per orbit."""
    kernel = np.kron(np.eye(2), np.full((3, 3), 1 / 3))
    p = np.array([[0.97, 0.03], [0.05, 0.95], [0.9, 0.1], [0.02, 0.98], [0.96, 0.04], [0.1, 0.9]])
    return theory.World(np.full(6, 1 / 6), kernel, p, np.repeat([[0.95, 0.05], [0.1, 0.9]], 3, axis=0))


def at_most(delta, runs):
    """Failures of `runs` that a failure probability of delta allows, up to one chance in 10^4."""
    return binom.ppf(1 - 1e-4, runs, delta)


def test_tight_world_is_tight():
    w = brittle(0.3)
    assert w.mean(w.flip_rate) == pytest.approx(0.3) and w.mean(w.entropy) == 0
    assert w.mean(w.risk("zero_one")) == w.calibration_error() == pytest.approx(0.15)


# error floor


def test_error_floor_is_half_the_clopper_pearson_limit():
    w = draw(brittle(0.3), 200, 1, np.random.default_rng(0))
    flips = int((w.answers != w.perturbed_answers[:, 0]).sum())
    floor = error_floor(w, delta=0.1)
    # one-sided 90 % = lower end of the two-sided 80 % interval
    limit = binomtest(flips, 200).proportion_ci(0.8, method="exact").low
    assert floor.flips == flips > 0 and floor.bound == pytest.approx(limit / 2)
    assert floor.plain == flips / 400 and floor.k == 1


@pytest.mark.parametrize("delta", [0.05, 0.1])
def test_error_floor_coverage_by_enumeration(delta):
    n, k = 60, np.arange(61)
    orbit = np.tile([[1, 0.0]], (n, 1))
    bounds = []
    for flips in k:
        variants = orbit.copy()
        variants[:flips] = [0, 1.0]
        bounds.append(error_floor(Predictions(probs=orbit, perturbed=variants[:, None]), delta).bound)
    for share in np.linspace(0.01, 1, 100):
        failure = binom.pmf(k, n, share)[np.array(bounds) > share / 2 + 1e-12].sum()
        assert failure <= delta
    tightest = max(binom.pmf(k, n, s)[np.array(bounds) > s / 2].sum() for s in np.linspace(0.01, 1, 1000))
    assert tightest > 0.8 * delta  # and it spends what it is allowed


@pytest.mark.parametrize("delta", [0.05, 0.1])
@pytest.mark.parametrize("world, k", [(brittle(0.3), 1), (brittle(0.3), 3), (moderate(), 2)])
def test_error_floor_coverage_by_simulation(delta, world, k):
    rng, truth = np.random.default_rng(1), world.mean(world.risk("zero_one"))
    results = [error_floor(draw(world, 100, k, rng), delta, seed) for seed in range(2000)]
    assert sum(result.bound > truth for result in results) <= at_most(delta, 2000)
    if k == 1:  # the tight world: without delta the estimate would be too high about half of the time
        assert sum(result.plain > truth for result in results) > 600


def test_pairs_are_drawn_from_the_whole_orbit_without_repetition():
    one_off = Predictions(probs=np.tile([[1, 0.0]], (20_000, 1)),
                          perturbed=np.tile([[[1, 0.0], [1, 0.0], [0, 1.0]]], (20_000, 1, 1)))
    chance = hypergeom(4, 1, 2).pmf(1)  # one deviant among four, two drawn
    assert error_floor(one_off).flips / 20_000 == pytest.approx(chance, abs=0.015)
    assert error_floor(one_off, seed=1).flips != error_floor(one_off, seed=2).flips


# calibration error


def test_misalignment_estimates_are_those_of_the_theorem():
    rng = np.random.default_rng(2)
    orbit = rng.dirichlet([0.5] * 3, (50, 4))
    predictions = Predictions(probs=orbit[:, 0], perturbed=orbit[:, 1:])
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    gini, bits = 1 - (orbit**2).sum(-1).mean(), entropy(orbit).mean() / LN2
    tv = np.mean([np.abs(orbit[:, i] - orbit[:, j]).sum(-1).mean() / 2 for i, j in pairs])
    js = np.mean([entropy((orbit[:, i] + orbit[:, j]) / 2).mean() for i, j in pairs]) - entropy(orbit).mean()
    by_tv, by_js = misalignment_test(predictions), misalignment_test(predictions, divergence="js")
    assert by_tv.plain == pytest.approx((tv - 2 * gini) / 2) and by_tv.sensitivity == pytest.approx(tv)
    assert by_tv.sua == pytest.approx(tv - bits) and by_tv.sua / 2 <= by_tv.plain
    assert by_js.sensitivity == pytest.approx(js)
    assert by_js.sua == pytest.approx(js - 0.6225562 * bits * LN2, abs=1e-6) and by_js.sua / (2 * LN2) <= by_js.plain


@pytest.mark.parametrize("delta, divergence", [(0.05, "tv"), (0.1, "tv"), (0.1, "js")])
def test_misalignment_coverage_by_simulation(delta, divergence):
    world, rng = brittle(0.3), np.random.default_rng(3)
    results = [misalignment_test(draw(world, 60, 1, rng), delta, divergence, seed=seed) for seed in range(2000)]
    truth = world.calibration_error()
    assert sum(result.bound > truth + 1e-12 for result in results) <= at_most(delta, 2000)
    assert sum(result.plain > truth for result in results) > 600  # tight, so the correction is needed
    assert np.mean([result.bound > 0 for result in results]) > 0.9  # and useful


@pytest.mark.parametrize("delta", [0.05, 0.1])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_betting_bound_coverage(delta, share):
    rng = np.random.default_rng(4)
    for values, mean in ((rng.random((2000, 80)) < share, share),
                         (rng.beta(2 * share, 2 - 2 * share, (2000, 80)), share)):
        bound = mean_lower_bound(values - 0.5, delta, -0.5, 0.5)
        assert (bound > mean - 0.5 + 1e-12).sum() <= at_most(delta, 2000)


def test_betting_bound_is_close_to_exact_and_far_above_hoeffding():
    values = np.random.default_rng(5).random((100, 400)) < 0.1
    exact = np.array([binomtest(int(k), 400).proportion_ci(0.9, method="exact").low for k in values.sum(1)])
    bound = mean_lower_bound(values, 0.05, 0, 1)
    hoeffding = values.mean(1) - np.sqrt(np.log(20) / 800)
    assert abs(bound - exact).mean() < 0.01 and (bound - hoeffding).mean() > 0.02


def test_betting_bound_at_its_ends():
    assert mean_lower_bound(np.zeros(50), 0.05, 0, 1) == 0
    assert 0.9 < mean_lower_bound(np.ones(50), 0.05, 0, 1) < 1
    shifted = mean_lower_bound(3 + 2 * np.linspace(0, 1, 50), 0.05, 3, 5)
    assert shifted == pytest.approx(3 + 2 * mean_lower_bound(np.linspace(0, 1, 50), 0.05, 0, 1))


def test_misalignment_is_silent_on_a_calibrated_model():
    world, rng = theory.COUNTEREXAMPLES["calibrated pairs"], np.random.default_rng(6)
    fired = [misalignment_test(draw(world, 200, 1, rng), 0.05, seed=seed).bound > 0 for seed in range(500)]
    assert sum(fired) <= at_most(0.05, 500)


def test_groups_find_what_the_mean_hides():
    rng = np.random.default_rng(7)
    sharp, unsure = draw(brittle(0.6), 150, 1, rng), draw(theory.COUNTEREXAMPLES["perfect coin"], 450, 1, rng)
    mixed = Predictions(probs=np.vstack([sharp.probs, unsure.probs]),
                        perturbed=np.vstack([sharp.perturbed, unsure.perturbed]))
    groups = np.repeat(["sharp", "unsure"], [150, 450])
    together, apart = misalignment_test(mixed), misalignment_test(mixed, groups=groups)
    alone = misalignment_test(sharp, delta=0.025)
    assert together.bound == 0 < apart.bound and apart.groups["unsure"][2] == 0
    assert apart.groups["sharp"][2] == pytest.approx(alone.bound, abs=0.02)  # another betting order
    assert apart.bound == pytest.approx(0.25 * apart.groups["sharp"][2]) and "within groups" in str(apart)
    assert apart.bound <= 0.25 * 0.3  # the truth


# stability


def test_stability_certificate_by_hand():
    predictions = Predictions(probs=[[0.9, 0.1], [0.6, 0.4], [0.6, 0.4]],
                              perturbed=[[[0.55, 0.45], [0.8, 0.2]], [[0.52, 0.48], [0.6, 0.4]],
                                         [[0.45, 0.55], [0.6, 0.4]]])
    result = stability_certificate(predictions)
    assert result.radius == pytest.approx([0.4, 0.1, 0.1]) and result.moved == pytest.approx([0.35, 0.08, 0.15])
    assert result.stable.tolist() == [True, True, False] and result.certified == pytest.approx(2 / 3)
    assert result.bound == pytest.approx(1 - 0.05**0.5) and result.needed == 59
    assert stability_certificate(predictions, delta=0.5).bound == pytest.approx(1 - 0.5**0.5)


def test_certified_answers_never_flipped():
    orbit = np.random.default_rng(8).dirichlet([0.3] * 4, (20_000, 4))
    orbit[:, 1:] = 0.7 * orbit[:, :1] + 0.3 * orbit[:, 1:]
    predictions = Predictions(probs=orbit[:, 0], perturbed=orbit[:, 1:])
    stable = stability_certificate(predictions).stable
    flipped = (predictions.perturbed_answers != predictions.answers[:, None]).any(1)
    assert 0.2 < stable.mean() < 0.9 and flipped.any() and not (stable & flipped).any()


@pytest.mark.parametrize("share", [0.52, 0.54, 0.8])
def test_tolerance_is_kept_by_simulation(share):
    rng, n = np.random.default_rng(9), 20_000  # a share of the kernel flips the answer; K = 4 draws
    perturbed = np.where(rng.random((n, 4, 1)) < share, [0.0, 1.0], [1.0, 0.0])
    result = stability_certificate(Predictions(probs=np.tile([[1, 0.0]], (n, 1)), perturbed=perturbed))
    if share > result.bound:
        assert result.stable.sum() <= at_most(0.05, n)
    else:
        assert result.stable.mean() > 0.05


# lambda


def binormal(n, d_s, d_h, rho, seed=0):
    wrong = np.arange(n) < n // 2
    z = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, rho], [rho, 1]], n) + wrong[:, None] * [d_s, d_h]
    return 0.5 * z[:, 0] + 2, 2 * z[:, 1] + 5, wrong  # raw units: sd_S / sd_H = 1/4


@pytest.mark.parametrize("d_s, d_h, rho, helps", [(1, 0.8, 0.3, False), (1, 0.1, 0.6, True), (1, -0.5, 0.2, True)])
def test_lambda_diagnosis_recovers_the_binormal_truth(d_s, d_h, rho, helps):
    result = lambda_diagnosis(*binormal(20_000, d_s, d_h, rho), resamples=100)
    truth = theory.binormal_lambda(d_s, d_h, rho) / 4
    assert (result.d_s, result.d_h, result.rho) == pytest.approx((d_s, d_h, rho), abs=0.05)
    assert result.interval[0] < truth < result.interval[1] and result.helps is helps
    assert result.bound == pytest.approx(theory.binormal_auroc(d_s, d_h, rho, truth * 4), abs=0.01)
    assert ("No lambda > 0 can help" in str(result)) is not helps


def test_lambda_diagnosis_is_linear_discriminant_analysis():
    S, H, wrong = binormal(400, 1, 0.5, 0.4)
    weight = LinearDiscriminantAnalysis().fit(np.stack([S, H], -1), wrong).coef_[0]
    assert lambda_diagnosis(S, H, wrong, resamples=50).lam == pytest.approx(-weight[1] / weight[0])


def test_lambda_interval_covers():
    truth, hits = theory.binormal_lambda(1, 0.5, 0.3) / 4, 0
    for seed in range(200):
        low, high = lambda_diagnosis(*binormal(300, 1, 0.5, 0.3, seed), resamples=200).interval
        hits += low <= truth <= high
    assert hits >= binom.ppf(1e-3, 200, 0.92)  # a percentile interval on few items: nominally .95


def test_lambda_diagnosis_undecided_and_impossible():
    S, H, wrong = binormal(100, 0.6, 0.2, 0.3)
    result = lambda_diagnosis(S, H, wrong)
    assert result.helps is None and "Undecided" in str(result)
    no_use = lambda_diagnosis(*binormal(5000, 0.1, 1, 0.5))
    assert no_use.lam == -np.inf and no_use.bound == pytest.approx(theory.binormal_auroc(1, 0, 0, 0), abs=0.01)
    with pytest.raises(SingleClassError):
        lambda_diagnosis(S, H, np.zeros(100, dtype=bool))
    with pytest.raises(ValueError, match="two items"):
        lambda_diagnosis(S, H, np.arange(100) == 0)


# what all share


@pytest.mark.parametrize("tool", [error_floor, misalignment_test, stability_certificate])
def test_bad_input_is_named_with_a_remedy(tool):
    good = draw(brittle(0.5), 20, 2, np.random.default_rng(10))
    for delta in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            tool(good, delta=delta)
    with pytest.raises(ValueError, match="perturbed"):
        tool(Predictions(probs=good.probs))


def test_misalignment_refuses_kl_and_ragged_groups():
    good = draw(brittle(0.5), 20, 2, np.random.default_rng(11))
    with pytest.raises(ValueError, match="no constant exists for KL"):
        misalignment_test(good, divergence="kl")
    with pytest.raises(ValueError, match=r"\(20,\)"):
        misalignment_test(good, groups=[1, 2])


def test_labels_are_never_read():
    plain = draw(moderate(), 100, 3, np.random.default_rng(12))
    labels = np.random.default_rng(13).integers(2, size=100)
    labelled = Predictions(probs=plain.probs, perturbed=plain.perturbed, labels=labels)
    for tool in (sua.error_floor, sua.misalignment_test):
        assert tool(plain) == tool(labelled)
    assert str(sua.stability_certificate(plain)) == str(sua.stability_certificate(labelled))


@pytest.mark.parametrize("tool", [error_floor, misalignment_test, stability_certificate])
def test_result_says_what_it_assumes(tool):
    result = tool(draw(brittle(0.5), 50, 2, np.random.default_rng(14)))
    assert result.assumptions and all(words in str(result) for words in result.assumptions)
    assert 0 < result.bound < 1
