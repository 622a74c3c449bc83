"""Measures over formulations against their definitions, item by item, and what Theorems 15 and 16 say of them."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sua import Predictions, metrics
from sua.study import formulations as room
from sua.study.formulations import (fidelity, formulation_table, one_pass, one_pass_table, orbit_mean,
                                    over_formulations, plot_removable)


def made(seed, n=60, k=3, c=3, sharpness=3.0):
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.ones(c) / sharpness, size=(n, k + 1))
    return Predictions(probs=rows[:, 0], perturbed=rows[:, 1:], labels=np.random.default_rng(9).integers(c, size=n))


def test_measures_are_those_of_a_loop():
    p = made(0)
    found = over_formulations(p)
    briers, accuracies, rights, means_, worst, far = [], [], [], [], [], []
    for rows, y in zip(p.orbit, p.labels):
        e, mean = np.eye(3)[y], rows.mean(0)
        briers += [((q - e) ** 2).sum() for q in rows]
        accuracies += [q.argmax() == y for q in rows]
        rights.append(all(q.argmax() == y for q in rows))
        means_.append(((mean - e) ** 2).sum())
        worst.append(max(((q - e) ** 2).sum() for q in rows))
        far.append(max(((q - mean) ** 2).sum() for q in rows))
    assert found["brier"] == pytest.approx(np.mean(briers)) and found["accuracy"] == pytest.approx(np.mean(accuracies))
    assert found["all right"] == pytest.approx(np.mean(rights))
    assert found["of the mean"] == pytest.approx(np.mean(means_))
    assert found["worst"] == pytest.approx(np.sqrt(np.mean(worst)))
    assert found["limit"] == pytest.approx(np.sqrt(np.mean(means_)) + np.sqrt(np.mean(far)))
    assert found["auroc"] == pytest.approx(metrics.auroc(p.is_error, -(p.probs * np.log(p.probs)).sum(-1)))


@pytest.mark.parametrize("seed", range(20))
def test_the_identity_and_both_limits_hold(seed):
    """Theorem 15 (a) and (e), and 16 (a), for any models."""
    q, r = made(seed, sharpness=1 + seed), made(100 + seed)
    found = over_formulations(q)
    assert found["brier"] == pytest.approx(found["of the mean"] + found["removable"], abs=1e-12)
    assert found["worst"] <= found["limit"] + 1e-12
    said = fidelity(r, q)
    assert over_formulations(r)["brier"] <= said["limit of Theorem 16"] + 1e-12
    assert fidelity(q, q)["eps"] == pytest.approx(found["removable"], abs=1e-12)


def test_a_student_that_is_the_mean_reaches_the_limit():
    q = made(1)
    mean = orbit_mean(q)
    r = Predictions(probs=mean.probs, perturbed=np.repeat(mean.probs[:, None], 3, 1), labels=q.labels)
    said = fidelity(r, q)
    assert said["eps"] == pytest.approx(0)
    assert said["limit of Theorem 16"] == pytest.approx(over_formulations(r)["brier"])
    with pytest.raises(ValueError, match="same split with the same kernel"):
        fidelity(r.subset(slice(3)), q)


def test_one_pass_compares_h_after_with_the_best_of_the_orbit_before(monkeypatch):
    wrong = np.array([True, True, False, False])
    sure, doubt = [0.99, 0.01], [0.6, 0.4]
    labels = np.where(wrong, 1, 0)  # every answer is class 0
    before = Predictions(probs=[sure, doubt, sure, doubt], perturbed=[[[0.01, 0.99]], [[0.3, 0.7]], [sure], [doubt]],
                         labels=labels)
    after = Predictions(probs=[doubt, doubt, sure, sure], perturbed=[[doubt], [doubt], [sure], [sure]], labels=labels)
    found = one_pass(after, before)
    assert found["H before"] == 0.5 and found["best orbit score before"] == found["H after"] == 1.0
    assert found["which"] == "sensitivity" and found["within .01"] and tuple(found) == room.ONE_PASS
    assert not one_pass(before, before)["within .01"]
    nothing = Predictions(probs=[sure], perturbed=[[sure]], labels=[0])
    assert np.isnan(one_pass(nothing, nothing)["H after"])


def test_tables_have_a_row_for_each_model_and_for_the_mean():
    test = {("a", method, seed): made(10 * seed + i) for i, method in enumerate(("erm", "distil")) for seed in (0, 1)}
    attacked = {key: made(50 + i, k=2) for i, key in enumerate(test)}
    table = formulation_table(test, attacked, ["erm"], "erm").set_index(["task", "training", "seed"])
    assert list(table.index.get_level_values("training")) == ["erm", "erm, orbit mean"] * 2 + ["distil"] * 2
    mean, single = table.loc["a", "erm, orbit mean", 0], table.loc["a", "erm", 0]
    assert mean["passes"] == 4 and single["passes"] == 1
    assert mean["brier"] == pytest.approx(single["of the mean"]) and mean["removable"] == pytest.approx(0, abs=1e-15)
    assert mean["all right"] == mean["accuracy"] == metrics.accuracy(orbit_mean(test["a", "erm", 0]))
    assert mean["unseen accuracy"] == metrics.accuracy(orbit_mean(attacked["a", "erm", 0]))
    eps = fidelity(test["a", "distil", 1], test["a", "erm", 1])["eps"]
    assert table.loc["a", "distil", 1]["eps"] == pytest.approx(eps)
    assert one_pass_table(test, "erm", ["distil"])["seed"].tolist() == [0, 1]
    nobody = one_pass_table(test, "erm", [])
    assert len(nobody) == nobody["within .01"].sum() == len(room.means(nobody, ["H before"])) == 0
    assert room.means(table.reset_index(), ["brier", "absent"]).loc[("a", "erm"), "brier"] == pytest.approx(
        np.mean([over_formulations(test["a", "erm", seed])["brier"] for seed in (0, 1)]))

    figure, axes = plt.subplots()
    plot_removable(axes, table.reset_index(), "a")
    widths = np.array([bar.get_width() for bar in axes.patches]).reshape(2, 3)  # of the mean, removable; last row first
    assert widths.sum(0)[-1] == pytest.approx(room.means(table.reset_index(), ["brier"]).iloc[0, 0])
    plt.close(figure)


def test_items_that_were_attacked_without_variants_have_no_unseen_columns():
    own = Predictions(probs=[[0.5, 0.5]], labels=[0])
    table = formulation_table({("a", "erm", 0): made(0)}, {("a", "erm", 0): own}, [], "erm")
    assert not any(name.startswith("unseen") for name in table)
