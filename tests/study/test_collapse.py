"""The matched comparison against loops over pairs, and the probe for ambiguity."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from sua import Predictions, metrics
from sua.metrics import SingleClassError
from sua.scores import fits
from sua.study import collapse


def by_pairs(target, score, group, counts):
    """Weight of rightly ordered pairs over weight of all, ties half; a pair is one of the target and one not."""
    won = total = 0
    for i in np.flatnonzero(target):
        for j in np.flatnonzero(~target):
            if group[i] == group[j] != collapse.UNCOMPARED:
                total += counts[i] * counts[j]
                won += counts[i] * counts[j] * (0.5 if score[i] == score[j] else score[i] > score[j])
    return won / total


def test_matched_auroc_is_the_share_of_pairs_within_groups():
    rng = np.random.default_rng(0)
    target, score, group = rng.random(60) < 0.4, rng.integers(6, size=60).astype(float), rng.integers(-1, 4, size=60)
    group[:3], target[:3] = 9, True  # a group of the target alone has no pairs
    counts = np.stack([np.ones(60), *rng.multinomial(60, np.full(60, 1 / 60), 4)])
    found = collapse.matched_auroc(target, score, group, counts)
    assert found == pytest.approx([by_pairs(target, score, group, row) for row in counts])
    assert collapse.matched_auroc(target, score, group) == pytest.approx(found[:1])
    together = np.zeros(60, dtype=int)
    assert collapse.matched_auroc(target, score, together) == pytest.approx(metrics.auroc(target, score))
    assert np.isnan(collapse.matched_auroc(target, score, np.full(60, collapse.UNCOMPARED))).all()


def test_fifths_are_of_the_confident_answers_alone():
    top = np.concatenate([np.linspace(0.5, 0.94, 7), np.linspace(0.95, 0.999, 10)])
    p = Predictions(probs=np.stack([top, 1 - top], -1))
    assert collapse.fifths(p, 0.95).tolist() == [-1] * 7 + [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert (collapse.fifths(p, 1.1) == collapse.UNCOMPARED).all()


def test_detect_gives_nothing_where_a_seed_has_nothing_to_compare():
    rng = np.random.default_rng(1)
    target, group = np.arange(40) < 15, np.zeros(40, dtype=int)
    cells = [{name: (target, rng.random(40), group) for name in ("a", "b")} for _ in range(2)]
    rows, of_seeds = collapse.detect(cells, ["a", "b"], "m", [3, 7], 50, task="t")
    assert [(row["seed"], row["score"]) for row in of_seeds] == [(3, "a"), (3, "b"), (7, "a"), (7, "b")]
    for row, name in zip(rows, ("a", "b")):
        values = [metrics.auroc(target, cell[name][1]) for cell in cells]
        assert row["auroc"] == pytest.approx(np.mean(values)) and row["low"] <= row["auroc"] <= row["high"]
        assert [r["value"] for r in of_seeds if r["score"] == name] == pytest.approx(values)
    cells[1] = {name: (np.zeros(40, dtype=bool), score, group) for name, (_, score, group) in cells[1].items()}
    rows, of_seeds = collapse.detect(cells, ["a", "b"], "m", [3, 7], 50, task="t")
    assert np.isnan([row["auroc"] for row in rows]).all()
    assert [np.isnan(row["value"]) for row in of_seeds] == [False, False, True, True]


def test_edit_size_is_the_weighted_share_of_changed_characters():
    assert collapse.edit_size("abcd", ["abcd", "wxyz"], [0.75, 0.25]) == pytest.approx(0.25)
    assert collapse.edit_size("abcd", ["abcd", ""], [1, 0]) == 0  # readings that fill up the row have no weight
    pair = collapse.edit_size(("ab", "cd"), [("ab", "xy")], [1.0])
    assert pair == pytest.approx(1 - 2 * 3 / 10)  # "ab " of five characters each is kept


def test_a_probe_for_ambiguity_is_judged_on_inputs_that_it_was_not_fitted_on():
    rng = np.random.default_rng(0)
    target = np.arange(600) % 3 == 0
    written = rng.normal(size=(600, 12)) + 1.5 * target[:, None] * np.eye(12)[0]
    # two unit Gaussians 1.5 apart: the best AUROC is Phi(1.5 / sqrt 2) = .856
    assert roc_auc_score(target, collapse.ambiguity_probe(written, target)) == pytest.approx(0.856, abs=0.04)
    noise = rng.normal(size=(600, 150))  # seen items could be told apart by heart
    assert roc_auc_score(target, fits.probe(noise, target)(noise)) > 0.75
    assert abs(roc_auc_score(target, collapse.ambiguity_probe(noise, target)) - 0.5) < 0.1


def test_rewrites_of_one_question_are_not_parted():
    rng = np.random.default_rng(1)
    question = np.repeat(np.arange(60), 5)  # five rewrites each, whose features are the question's own
    features = rng.normal(size=(60, 40))[question] + 0.01 * rng.normal(size=(300, 40))
    target = (rng.random(60) < 0.5)[question]
    parted, whole = (roc_auc_score(target, collapse.ambiguity_probe(features, target, groups))
                     for groups in (None, [f"q{i}" for i in question]))
    assert parted > 0.9 > 0.7 > whole
    with pytest.raises(SingleClassError):
        collapse.ambiguity_probe(features, np.zeros(300, bool))
