import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.optimize import linprog
from scipy.special import rel_entr
from scipy.stats import binom, binomtest, hypergeom
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import sua
from sua import Predictions, theory
from sua.decide.certificates import error_floor, mean_lower_bound, misalignment_test, stability_certificate
from sua.decide.diagnosis import lambda_diagnosis
from sua.decide.miscalibration import CELL_KINDS, best_weights, certain_gap, orbit_calibration_error, statements
from sua.decide.removable import geometric_mean, removable, removable_risk
from sua.metrics import SingleClassError, ece
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


def test_error_floor_is_about_pooled_answers_and_none_exists_for_x_alone():
    drawn = draw(brittle(0.6), 200, 2, np.random.default_rng(0))
    kind = Predictions(probs=drawn.probs, perturbed=drawn.perturbed, labels=drawn.answers)  # x is always right
    floor, wrong = error_floor(kind), kind.orbit.argmax(-1) != kind.labels[:, None]
    assert kind.is_error.mean() == 0 < floor.bound <= wrong.mean()
    first = str(floor).split("\n")[0]
    assert first.startswith("If these variants keep the meaning") and "their variants, pooled, are wrong" in first
    assert "the inputs alone have no floor above 0" in str(floor)


# calibration error


def test_misalignment_estimates_are_those_of_the_theorem():
    rng = np.random.default_rng(2)
    orbit = rng.dirichlet([0.5] * 3, (50, 4))
    predictions = Predictions(probs=orbit[:, 0], perturbed=orbit[:, 1:])
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    gini, bits = 1 - (orbit**2).sum(-1).mean(), entropy(orbit).mean() / LN2
    tv = np.mean([np.abs(orbit[:, i] - orbit[:, j]).sum(-1).mean() / 2 for i, j in pairs])
    js = np.mean([entropy((orbit[:, i] + orbit[:, j]) / 2).mean() for i, j in pairs]) - entropy(orbit).mean()
    by_tv, by_js = misalignment_test(predictions), misalignment_test(predictions, kind="js")
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


# calibration error over cells

WITHIN = [(), ("formulation",), ("class",), ("formulation", "class")]


def random_orbits(rng, n=12, members=3, classes=3):
    """Outputs on a grid of fifths, so that zeros, ties and shared cells occur."""
    return rng.multinomial(5, rng.dirichlet([0.5] * classes, (n, members))) / 5


def labelled(orbit, labels):
    return Predictions(probs=orbit[:, 0], perturbed=orbit[:, 1:], labels=labels)


def calibrated_worlds(count, rng):
    """Worlds in which every column of the orbit is calibrated, one after another."""
    worlds = theory.random_worlds(count, rng, calibrated=True)
    for row in range(count):
        yield theory.World(worlds.mass[row], worlds.kernel[row], worlds.p[row], worlds.truth[row])


def test_pooled_top_label_with_equal_weights_is_confidence_less_plurality():
    orbit = np.random.default_rng(20).dirichlet([0.4] * 4, (200, 5))
    plurality = np.array([np.bincount(answers).max() / 5 for answers in orbit.argmax(-1)])
    gap = certain_gap(orbit, np.ones(5), "top_label", ())
    assert gap == pytest.approx(orbit.max(-1).mean(1) - plurality)


@pytest.mark.parametrize("kind", CELL_KINDS)
@pytest.mark.parametrize("within", WITHIN)
def test_certain_gap_by_hand(kind, within):
    rng = np.random.default_rng(21)
    orbit, n = random_orbits(rng), 12
    weight = rng.uniform(0 if kind == "class_wise" else -1, 1, 5 * 9)
    item, label, cell, p = statements(orbit, kind, within)
    by_hand = [min(sum(weight[c] * (q - (k == y)) for i, k, c, q in zip(item, label, cell, p) if i == row) / 3
                   for y in range(3)) for row in range(n)]
    assert certain_gap(orbit, weight, kind, within) == pytest.approx(by_hand)
    assert len(p) == (n * 3 if kind == "top_label" else n * 9)


@pytest.mark.parametrize("kind", CELL_KINDS)
@pytest.mark.parametrize("within", WITHIN)
def test_best_weights_attain_the_least_error_of_any_label_law(kind, within):
    for seed in range(5):
        orbit = random_orbits(np.random.default_rng(seed))
        found = certain_gap(orbit, best_weights(orbit, kind, within), kind, within).mean()
        assert found == pytest.approx(least_error(orbit, kind, within), abs=1e-9) and found >= -1e-12


def least_error(orbit, kind, within):
    """min over label laws of the items of the calibration error over cells, as a linear programme of its own."""
    (n, members, classes), (item, label, cell, p) = orbit.shape, statements(orbit, kind, within)
    cells = np.unique(cell)
    claimed = np.array([p[cell == c].sum() for c in cells])
    came_true = np.zeros((len(cells), n * classes))
    for i, k, c in zip(item, label, cell):
        came_true[np.searchsorted(cells, c), i * classes + k] += 1
    sides = np.vstack([np.hstack([sign * came_true, -np.eye(len(cells))]) for sign in (1, -1)])
    one_label = np.hstack([np.kron(np.eye(n), np.ones(classes)), np.zeros((n, len(cells)))])
    scale = (1 if kind == "top_label" else 2) * n * members
    return linprog(np.append(np.zeros(n * classes), np.ones(len(cells))) / scale, A_ub=sides,
                   b_ub=np.append(claimed, -claimed), A_eq=one_label, b_eq=np.ones(n)).fun


@pytest.mark.parametrize("kind", CELL_KINDS)
@pytest.mark.parametrize("within", WITHIN)
def test_no_labels_bring_the_error_below_the_certain_gap(kind, within):
    rng = np.random.default_rng(22)
    for _ in range(20):
        orbit = random_orbits(rng)
        measured = orbit_calibration_error(labelled(orbit, rng.integers(3, size=12)), kind, within)
        weight = rng.uniform(0 if kind == "class_wise" else -1, 1, 45)
        assert certain_gap(orbit, weight, kind, within).mean() <= measured + 1e-12
        assert certain_gap(orbit, best_weights(orbit, kind, within), kind, within).mean() <= measured + 1e-9


def test_pooled_error_over_cells_is_the_ece_and_refinements_never_lower_it():
    rng = np.random.default_rng(23)
    orbit, labels = rng.dirichlet([0.4] * 3, (300, 3)), rng.integers(3, size=300)
    pooled = Predictions(probs=orbit.reshape(-1, 3), labels=labels.repeat(3))
    for bins in (1, 5, 15):
        assert orbit_calibration_error(labelled(orbit, labels), "top_label", (), bins) == pytest.approx(
            ece(pooled, bins))
    for kind in CELL_KINDS:
        errors = [orbit_calibration_error(labelled(orbit, labels), kind, within, bins)
                  for within, bins in (((), 5), ((), 15), (("class",), 15), (("formulation", "class"), 15))]
        assert errors == sorted(errors) and errors[0] < errors[-1]


def test_errors_over_cells_by_hand():
    orbit = np.tile([[0.7, 0.3], [0.7, 0.3]], (10, 1, 1))
    always = labelled(orbit, np.zeros(10, dtype=int))  # .7 and .3 come true always and never
    for within in WITHIN:
        assert orbit_calibration_error(always, "top_label", within) == pytest.approx(0.3)
        assert orbit_calibration_error(always, "class_wise", within) == pytest.approx(0.3)


def test_class_wise_sees_a_shift_between_formulations_that_no_flip_shows():
    orbit = np.tile([[0.6, 0.4], [0.9, 0.1]], (300, 1, 1))  # same answer, so one accuracy for .6 and .9
    quiet = labelled(orbit, None)
    assert error_floor(quiet).bound == misalignment_test(quiet).bound == 0
    for kind in CELL_KINDS:
        result = misalignment_test(quiet, kind=kind)
        assert result.plain == pytest.approx(0.15)  # accuracy a: (|a - .6| + |a - .9|) / 2
        assert 0.12 < result.bound < 0.15
        assert result.n == 200 and result.fitted == 100 and "no label was used" in str(result)
    assert misalignment_test(quiet, kind="top_label", within=()).plain == pytest.approx(0.15)


@pytest.mark.parametrize("kind", CELL_KINDS)
@pytest.mark.parametrize("within", [(), ("formulation", "class")])
def test_cells_coverage_in_a_tight_world(kind, within):
    rng = np.random.default_rng(24)
    results = [misalignment_test(draw(brittle(0.3), 90, 1, rng), 0.1, kind, within=within, seed=seed)
               for seed in range(200)]
    assert sum(result.bound > 0.15 + 1e-12 for result in results) <= at_most(0.1, 200)  # error = share / 2, attained
    assert sum(result.plain > 0.15 for result in results) > 60
    assert np.mean([result.bound > 0 for result in results]) > 0.9


@pytest.mark.parametrize("kind", CELL_KINDS)
def test_no_false_alarm_in_calibrated_worlds(kind):
    rng = np.random.default_rng(25)
    fired = [misalignment_test(draw(world, 90, 2, rng), 0.05, kind).bound > 0
             for world in calibrated_worlds(60, rng)]
    # here the best weights are not 0: orbits of a sure and an undecided input, calibrated to the last digit
    fired += [misalignment_test(draw(theory.COUNTEREXAMPLES[name], 90, 1, rng), 0.05, kind, seed=seed).bound > 0
              for seed in range(60) for name in ("calibrated pairs", "pairs of labels")]
    assert sum(fired) <= at_most(0.05, 180)


def test_cells_by_group_and_on_few_items():
    rng = np.random.default_rng(26)
    sharp, unsure = draw(brittle(0.6), 240, 1, rng), draw(theory.COUNTEREXAMPLES["perfect coin"], 240, 1, rng)
    mixed = Predictions(probs=np.vstack([sharp.probs, unsure.probs]),
                        perturbed=np.vstack([sharp.perturbed, unsure.perturbed]))
    result = misalignment_test(mixed, kind="top_label", groups=np.repeat(["sharp", "unsure"], 240))
    assert result.groups["unsure"][2] == 0 < result.groups["sharp"][2] <= 0.3 and "group sharp" in str(result)
    assert result.bound == pytest.approx(result.groups["sharp"][2] / 2) and result.n + result.fitted == 480
    for n in (1, 2, 3):
        for kind in CELL_KINDS:
            assert misalignment_test(sharp.subset(slice(n)), kind=kind).bound >= 0


def test_cells_refuse_what_they_do_not_know():
    good = draw(brittle(0.5), 20, 2, np.random.default_rng(27))
    for bad, words in ((dict(kind="ece"), "choose one of tv, js, top_label"), (dict(bins=0), "at least one bin"),
                       (dict(within=("variant",)), "formulation, class"), (dict(within="class"), "give a tuple")):
        with pytest.raises(ValueError, match=words):
            misalignment_test(good, **{"kind": "top_label", **bad})
    with pytest.raises(ValueError, match="labels"):
        orbit_calibration_error(good)


# removable risk

counts = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 4))


@settings(max_examples=150, deadline=None)
@given(counts, st.floats(0, 1))
def test_removable_risk_is_the_same_for_every_label(table, mix):
    table[:, 0] += table.sum(1) == 0
    orbit = table / table.sum(1, keepdims=True)
    orbit = orbit * (1 - mix**8) + mix**8 / orbit.shape[1]  # from zeros to uniform, by way of tiny numbers
    orbit /= orbit.sum(1, keepdims=True)
    for y, target in enumerate(np.eye(orbit.shape[1])):
        single, mean = ((orbit - target) ** 2).sum(-1).mean(), ((orbit.mean(0) - target) ** 2).sum()
        assert single == pytest.approx(mean + removable(orbit), abs=1e-12)
        with np.errstate(divide="ignore"):
            single, mean = -np.log(orbit[:, y]).mean(), -np.log(geometric_mean(orbit)[y])
        assert single == pytest.approx(mean + removable(orbit, "log"), rel=1e-12, abs=1e-12)
    assert geometric_mean(orbit).sum() == pytest.approx(1) and removable(orbit, "log") >= 0
    assert -1e-15 <= removable(orbit) <= 1 - 1 / min(orbit.shape) + 1e-12


def test_removable_risk_is_sensitivity_in_the_geometry_of_the_loss():
    orbit = np.random.default_rng(30).dirichlet([0.5] * 4, (50, 3))
    pairs = np.mean([((orbit[:, i] - orbit[:, j]) ** 2).sum(-1) for i in range(3) for j in range(3)], axis=0)
    assert removable(orbit) == pytest.approx(pairs / 2, abs=1e-12)
    g = geometric_mean(orbit)
    assert removable(orbit, "log") == pytest.approx(rel_entr(g[:, None], orbit).sum(-1).mean(-1), abs=1e-12)
    assert removable(np.repeat(orbit[:, :1], 3, axis=1), "log") == pytest.approx(np.zeros(50), abs=1e-12)


def test_geometric_mean_with_zeros():
    assert geometric_mean([[0.5, 0.5, 0], [0.5, 0, 0.5]]) == pytest.approx([1, 0, 0])
    assert removable(np.array([[0.5, 0.5, 0], [0.5, 0, 0.5]]), "log") == pytest.approx(LN2)
    opposites = np.array([[1, 0.0], [0, 1.0]])
    assert geometric_mean(opposites) == pytest.approx([0.5, 0.5]) and removable(opposites, "log") == np.inf
    assert removable(opposites) == pytest.approx(0.5) and removable(np.ones((3, 1))) == 0


@pytest.mark.parametrize("loss", ["brier", "log"])
def test_removable_risk_coverage_by_simulation(loss):
    rng = np.random.default_rng(31)
    population = rng.dirichlet([0.2] * 3, (40, 4))
    truth, n = removable(population, loss).mean(), 300
    results = [removable_risk(labelled(population[rng.integers(40, size=50)], None), 0.1, loss, 10.0) for _ in range(n)]
    assert sum(result.bound > truth for result in results) <= at_most(0.1, n)
    assert sum(result.plain > truth for result in results) > 90
    assert np.mean([result.bound > truth / 2 for result in results]) > 0.5  # and useful


def test_removable_risk_is_what_averaging_removes():
    rng = np.random.default_rng(32)
    orbit, labels = rng.dirichlet([0.3] * 3, (500, 4)), rng.integers(3, size=500)
    losses = ((orbit - np.eye(3)[labels][:, None]) ** 2).sum(-1).mean()
    removed = losses - ((orbit.mean(1) - np.eye(3)[labels]) ** 2).sum(-1).mean()
    result = removable_risk(labelled(orbit, labels))
    assert result.plain == pytest.approx(removed, abs=1e-12) and 0.8 * removed < result.bound < removed
    assert "answering by the mean of these 4 formulations lowers the Brier score by at least" in str(result)
    assert "no label was used" in str(result) and result.k == 3


def test_removable_log_loss_may_be_infinite_and_its_bound_is_not():
    orbit = np.tile([[1, 0.0], [0, 1.0]], (200, 1, 1))
    orbit[:150] = [[0.9, 0.1], [0.1, 0.9]]
    result = removable_risk(labelled(orbit, None), loss="log")
    assert result.plain == np.inf and result.infinite == 50 and 0.5 < result.bound < 0.75 * np.log(5 / 3) + 0.25 * 2
    assert "S_g is infinite on 50 of them" in str(result) and "geometric mean" in str(result)
    assert removable_risk(labelled(orbit, None), loss="log", cap=0.1).bound < 0.1
    certain = removable_risk(labelled(np.tile([1.0, 0.0], (30, 3, 1)), None))
    assert certain.bound == certain.plain == 0
    for bad, words in ((dict(loss="hinge"), "'brier' or 'log'"), (dict(cap=0), "positive number of nats")):
        with pytest.raises(ValueError, match=words):
            removable_risk(labelled(orbit, None), **bad)


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


def test_lambda_diagnosis_of_a_constant_or_infinite_score():
    S, H, wrong = (values[30:] for values in binormal(430, 1, 0.9, 0))  # 185 errors, 215 right
    for level in (0, 0.1, 0.7, 1e6 + 1 / 3):
        result = lambda_diagnosis(np.full(400, level), H, wrong)
        assert result.lam == -np.inf and result.helps is False and result.d_s == result.rho == 0
        assert result.bound == pytest.approx(theory.binormal_auroc(0.9, 0, 0, 0), abs=0.03)
        assert result.auroc["S"] == 0.5 and "rank by H alone" in str(result)
    assert lambda_diagnosis(np.zeros(400), -H, wrong).helps is True
    with pytest.raises(ValueError, match="H is constant"):
        lambda_diagnosis(S, np.full(400, 0.1), wrong)
    with pytest.raises(ValueError, match=r"S\[3\] = inf.*'tv' or 'js'"):
        lambda_diagnosis(np.where(np.arange(400) == 3, np.inf, S), H, wrong)


def test_lambda_diagnosis_says_where_the_picture_does_not_fit():
    S, H, wrong = binormal(400, 0.1, 1, 0.2)
    assert "exceeds here" not in str(lambda_diagnosis(S, H, wrong))
    skewed = lambda_diagnosis(S, np.exp(4 * H), wrong)  # the ranking of H, far from normal
    assert skewed.bound < skewed.auroc["H"] and "which H exceeds here" in str(skewed)


# what all share


@pytest.mark.parametrize("tool", [error_floor, misalignment_test, stability_certificate, removable_risk])
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
        misalignment_test(good, kind="kl")
    with pytest.raises(ValueError, match=r"\(20,\)"):
        misalignment_test(good, groups=[1, 2])


def test_labels_are_never_read():
    plain = draw(moderate(), 100, 3, np.random.default_rng(12))
    labels = np.random.default_rng(13).integers(2, size=100)
    with_labels = Predictions(probs=plain.probs, perturbed=plain.perturbed, labels=labels)
    for tool in (sua.error_floor, sua.misalignment_test, sua.removable_risk):
        assert tool(plain) == tool(with_labels)
    for kind in CELL_KINDS:
        assert misalignment_test(plain, kind=kind) == misalignment_test(with_labels, kind=kind)
    assert str(sua.stability_certificate(plain)) == str(sua.stability_certificate(with_labels))


def top_label_test(predictions):
    return misalignment_test(predictions, kind="top_label")


@pytest.mark.parametrize("tool", [error_floor, misalignment_test, top_label_test, stability_certificate,
                                  removable_risk])
def test_result_says_what_it_assumes(tool):
    result = tool(draw(brittle(0.5), 150, 2, np.random.default_rng(14)))
    assert result.assumptions and all(words in str(result) for words in result.assumptions)
    assert 0 < result.bound < 1
