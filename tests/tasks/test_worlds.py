"""Every generated world: kernels and clarifications keep p*(y|x) exactly, labels follow it, splits follow seeds."""

import numpy as np
import pytest
from scipy.stats import binom, chi2

from sua import load_task
from sua.perturb import variants
from sua.tasks import SPLITS, clarifications, inputs
from sua.tasks.worlds import WORLDS

SIZES = {"train": 400, "validation": 10, "calibration": 10, "test": 300}
KERNELS = ("synonyms", "wording", "rare", "distractors")


@pytest.fixture(scope="module", params=WORLDS)
def task(request):
    return load_task(request.param, SIZES)


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_keep_p_star_and_change_the_text(task, kernel):
    originals = inputs(task["test"])
    p = np.array(task["test"]["label_dist"])
    np.testing.assert_array_equal(task.p_star(originals), p)
    rows = variants(originals, task.perturbation(kernel), 5)
    varied = task.p_star([variant for row in rows for variant in row]).reshape(len(p), 5, -1)
    np.testing.assert_array_equal(varied, np.repeat(p[:, None], 5, axis=1))
    changed = np.mean([variant != x for x, row in zip(originals, rows) for variant in row])
    assert changed > 0.5, f"{kernel} leaves {1 - changed:.0%} of the texts as they are"


def test_clarifications_mix_back_to_p_star(task):
    weights = np.array(task["test"]["weights"])
    assert weights.shape == (300, 2) and (weights > 0).all() and np.allclose(weights.sum(1), 1, atol=1e-15)
    readings = clarifications(task["test"])
    p_z = task.p_star([x for row in readings for x in row]).reshape(300, 2, -1)
    np.testing.assert_allclose((weights[..., None] * p_z).sum(1), task["test"]["label_dist"], atol=1e-12)
    assert all(first != second and x not in (first, second)
               for x, (first, second) in zip(inputs(task["test"]), readings))
    ambiguous = np.array(task["test"]["ambiguous"])
    moved = np.abs(p_z[:, 0] - p_z[:, 1]).sum(-1) > 1e-9
    np.testing.assert_array_equal(moved, ambiguous)  # readings disagree exactly where p* is not certain


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(3))
def test_sampled_labels_follow_p_star(name, seed):
    rows = load_task(name, {**SIZES, "train": 4000}, seed=seed, ambiguity=0.7, label_rule="sampled")["train"]
    p, labels = np.array(rows["label_dist"]), np.array(rows["label"])
    assert (p[np.arange(len(p)), labels] > 0).all()
    value = degrees = 0
    for distribution in np.unique(p.round(12), axis=0):
        observed = np.bincount(labels[(np.abs(p - distribution) < 1e-9).all(1)], minlength=p.shape[1])
        possible = distribution > 0
        expected = observed.sum() * distribution[possible]
        if possible.sum() > 1 and expected.min() >= 5:
            value += ((observed[possible] - expected) ** 2 / expected).sum()
            degrees += possible.sum() - 1
    assert degrees >= 3 and 1e-4 < chi2.sf(value, degrees) < 1 - 1e-4


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("ambiguity", [0.0, 0.3, 1.0])
def test_ambiguous_share(name, ambiguity):
    rows = load_task(name, {**SIZES, "train": 3000}, ambiguity=ambiguity)["train"]
    assert binom.ppf(1e-6, 3000, ambiguity) <= sum(rows["ambiguous"]) <= binom.isf(1e-6, 3000, ambiguity)
    assert list(rows["ambiguous"]) == [max(p) < 1 for p in rows["label_dist"]]


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_follows_from_its_arguments(name):
    first, again, other = load_task(name, SIZES), load_task(name, SIZES), load_task(name, SIZES, seed=1)
    assert {split: len(first[split]) for split in SPLITS} == SIZES
    assert first.digest == again.digest != other.digest
    # a split does not depend on the sizes of the others
    assert inputs(load_task(name, {**SIZES, "train": 1000})["test"]) == inputs(first["test"])
    assert inputs(first["train"])[:300] != inputs(first["test"])
    sampled = load_task(name, SIZES, label_rule="sampled")
    assert inputs(sampled["test"]) == inputs(first["test"])
    assert list(first["train"]["label"]) == np.array(first["train"]["label_dist"]).argmax(-1).tolist()
    assert list(sampled["test"]["label"]) == list(first["test"]["label"])  # drawn from p* whatever the rule
    identifiers = [i for split in SPLITS for i in first[split]["id"]]
    assert len(set(identifiers)) == len(identifiers) and first.source["origin"] == "generated"


@pytest.mark.parametrize("wrong, said", [(dict(ambiguity=1.5), "ambiguity = 1.5.*share"),
                                         (dict(ambiguity=-0.1), "ambiguity = -0.1"),
                                         (dict(skew=-1.0), "skew = -1.0.*at least 0"),
                                         (dict(label_rule="vote"), "label_rule = 'vote'.*'majority' or 'sampled'"),
                                         (dict(label_rule="soft"), "soft_labels")])
def test_bad_worlds_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        load_task("topic", SIZES, **wrong)
