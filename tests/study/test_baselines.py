"""Rows of notebook 04: each number against its definition, another library, or a world made so that it is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from sua import SCORES, AbstentionRule, Predictions, answer_sets, metrics, removable_risk, score
from sua.study import baselines
from sua.study.report import Stage


def model(n=400, k=2, classes=4, seed=0, confident=1.0, doubt=1.0, **meta):
    """Labels drawn from a p that is raised to `confident`: calibrated at 1, too sure of itself above. The variants are
    p, shaken. doubt : the smaller, the surer p is, and the more often right."""
    rng = np.random.default_rng(seed)
    true = rng.dirichlet(np.full(classes, doubt), n)
    sure = true ** confident / (true ** confident).sum(-1, keepdims=True)
    moved = sure[:, None] * rng.uniform(0.3, 1, (n, k, classes))
    labels = (rng.random((n, 1)) > true.cumsum(-1)[:, :-1]).sum(-1)
    return Predictions(probs=sure, perturbed=moved / moved.sum(-1, keepdims=True), labels=labels,
                       ids=[f"{seed}-{i}" for i in range(n)], meta={"template": "base", **meta})


def test_cells_are_what_notebook_03_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("sua.paths.build", lambda profile: tmp_path)
    monkeypatch.setenv("SUA_STAGE_DIR", str(tmp_path / "stage"))
    folder = tmp_path / "03_sua_tr_training" / "predictions"
    folder.mkdir(parents=True)
    for seed in (0, 1):
        model(8, seed=seed).save(folder / f"topic-erm-{seed}-test.parquet")
    cells = baselines.load_cells(Stage("04_a", "p"), ["topic", "nli"], ["erm"], [0, 1], "test")
    assert list(cells) == [("topic", "erm")] and [p.ids[0] for p in cells["topic", "erm"]] == ["0-0", "1-0"]
    first, second = baselines.with_ensembles({"cell": [replace(p, ids=None) for p in cells["topic", "erm"]]})["cell"]
    np.testing.assert_allclose(first.members[:, 0], second.probs)
    alone = [model(8)]
    assert baselines.with_ensembles({"cell": alone})["cell"] is alone


def test_strata_part_the_clear_from_the_ambiguous_only_where_the_truth_is_known():
    p = replace(model(3), label_dist=np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 1, 0, 0.0]]))
    assert list(baselines.strata("t", p)) == ["t"]
    parts = baselines.strata("t", replace(p, meta={"truth": "exact"}))
    assert parts["t (clear)"].tolist() == [True, False, True]
    assert parts["t (ambiguous)"].tolist() == [False, True, False]


def test_a_stratum_without_errors_is_left_out_and_told(capsys):
    p = replace(model(6), labels=None, label_dist=np.eye(4)[[0, 0, 0, 0, 0, 0]] * 1.0, meta={"truth": "exact"})
    p.label_dist[3:] = 0.25
    wrong = np.array([0, 0, 0, 1, 0, 1], dtype=bool)
    p = replace(p, labels=np.where(wrong, (p.answers + 1) % 4, p.answers))
    found = baselines.by_stratum("t", [p], [{"s": np.arange(6.0)}])
    assert list(found) == ["t", "t (ambiguous)"] and found["t (ambiguous)"][0][1]["s"].tolist() == [3, 4, 5]
    assert "t (clear): n/a" in capsys.readouterr().out


def test_doubt_is_the_rank_correlation_with_the_entropy_of_the_votes():
    held, tested = model(300, seed=1), model(250, seed=2)
    tested = replace(tested, label_dist=tested.probs**0.7 / (tested.probs**0.7).sum(-1, keepdims=True))
    rows = {row["score"]: row for row in baselines.doubt_rows([tested] * 2, [held] * 2, 60)}
    votes = pd.Series(-(tested.label_dist * np.log(tested.label_dist)).sum(-1))
    for name, row in rows.items():
        value = score(tested, name, **({"calibration": held} if name == "sua_repaired" else {}))
        assert row["rho"] == pytest.approx(pd.Series(value).corr(votes, method="spearman"), abs=1e-12)
        assert row["low"] < row["rho"] < row["high"] < row["low"] + 8 / np.sqrt(250)
    assert list(rows) == [*baselines.DOUBT] and rows["entropy"]["rho"] > 0.95
    same = replace(tested, label_dist=tested.probs)
    assert list(baselines.doubt_rows([same], [held], 5)[0].values()) == ["entropy", *[pytest.approx(1)] * 3]


def test_rows_of_a_cell_are_the_gains_over_entropy():
    held, tested = model(300, seed=1), model(400, seed=2)
    of = lambda name: roc_auc_score(tested.is_error, score(tested, name))
    row = baselines.regime_row([tested], [held], 50)
    assert row["advantage"] == pytest.approx(of("sua") - of("entropy")) and row["low"] < row["advantage"] < row["high"]
    assert row["S over entropy"] == pytest.approx(of("sensitivity") - of("entropy"))
    tested, held = tested.sample(10), held.sample(10)
    row = baselines.repaired_row([tested], [held], 50)
    best = max(baselines.RIVALS, key=of)
    ours = roc_auc_score(tested.is_error, score(tested, "sua_repaired", calibration=held))
    assert row["best rival"] == best and row["ahead by"] == pytest.approx(ours - of(best))
    assert row["over entropy"] == pytest.approx(ours - of("entropy"))


def test_a_cell_without_errors_has_no_row():
    p = replace(model(40), labels=None)
    p = replace(p, labels=p.answers)
    assert baselines.regime_row([p], [model(seed=1)], 10) is None
    assert baselines.repaired_row([p], [model(seed=1)], 10) is None


def test_items_are_split_once_and_drawn_from_all():
    p = model(100)
    held, tested = baselines.split_items(p, 40)
    assert len(held) == 10 and len(tested) == 30 and not set(held.ids) & set(tested.ids)
    assert max(int(item.split("-")[1]) for item in tested.ids) > 40
    assert len(baselines.split_items(p)[1]) == 75


def test_a_language_model_has_its_scores_its_lambdas_and_its_promise():
    p = model(800, k=2, confident=2)
    held, tested = baselines.split_items(p)
    found = baselines.llm_intervals(held, tested, 50)
    assert {row["reference"] for row in found} == {"entropy", "self_consistency"}
    row = baselines.llm_row(held, tested, found, risk=0.4, delta=0.1)
    for name in baselines.UNFITTED:
        assert row[name] == pytest.approx(roc_auc_score(tested.is_error, score(tested, name)))
    assert row["sua gain"] == pytest.approx(row["sua"] - row["entropy"])
    grid = {lam: roc_auc_score(tested.is_error, score(tested, "sensitivity") - lam * score(tested, "entropy"))
            for lam in (row["lambda best"], -1, 0, 1)}
    assert row["its AUROC"] == pytest.approx(max(grid.values())) == pytest.approx(grid[row["lambda best"]])
    rule = AbstentionRule.fit(score(held, "msp"), held.is_error, risk=0.4, delta=0.1)
    assert row["answered"] == rule.accept(score(tested, "msp")).mean() > 0


def test_subjects_are_ordered_by_what_is_known_of_them():
    p = model(900)
    p = replace(p, meta={**p.meta, "subject": {item: "easy" if i % 3 == 0 else "hard" if i % 3 == 1 else "between"
                                               for i, item in enumerate(p.ids)}})
    chance = np.select([np.arange(900) % 3 == 0, np.arange(900) % 3 == 1], [0.9, 0.1], 0.5)
    right = np.random.default_rng(1).random(900) < chance
    p = replace(p, labels=np.where(right, p.answers, (p.answers + 1) % 4))
    held, tested = baselines.split_items(p)
    rows = baselines.by_knowledge({"a": (held, tested)})
    hard = np.array([tested.meta["subject"][item] == "hard" for item in tested.ids])
    assert [row["accuracy"] for row in rows] == sorted(row["accuracy"] for row in rows)
    assert rows[0]["accuracy"] == pytest.approx(1 - tested.is_error[hard].mean())
    assert rows[0]["sua"] == pytest.approx(roc_auc_score(tested.is_error[hard], score(tested, "sua")[hard]))


@pytest.mark.parametrize("loss", ["brier", "log"])
def test_what_labels_say_is_removed_is_what_is_known_without_them(loss):
    p = model(200, k=3)
    assert baselines.removed(p, loss) == pytest.approx(removable_risk(p, loss=loss).plain, abs=1e-12)
    other = replace(p, labels=(p.labels + 1) % 4)
    assert baselines.removed(other, loss) == pytest.approx(baselines.removed(p, loss), abs=1e-12)


def test_a_formulation_that_excludes_the_label_makes_the_log_loss_infinite():
    p = Predictions(probs=[[0.5, 0.5]], perturbed=[[[1.0, 0.0]]], labels=[1])
    assert baselines.removed(p, "log") == np.inf and np.isfinite(baselines.removed(p, "brier"))


@pytest.mark.parametrize("confident", [1, 8])
def test_no_certificate_exceeds_what_the_labels_say(confident):
    row = baselines.certificates(model(1500, confident=confident))
    for name in baselines.CERTIFIED:
        assert row[f"{name} ≥"] <= row[name] + 1e-9, name
    assert row["error ≥"] > 0 and row["brier ≥"] > 0


def test_certified_rows_are_rules_and_say_where_nothing_is_answered():
    held, tested = model(500, seed=1), model(500, seed=2)
    found = baselines.certified_rows(tested, held, [(0.5, 0.1), (0.001, 0.1)])
    rows = {(row["score"], row["risk"]): row for row in found}
    rule = AbstentionRule.fit(score(held, "msp"), held.is_error, risk=0.5, delta=0.1)
    accepted = rule.accept(score(tested, "msp"))
    assert rows["msp", 0.5]["coverage"] == accepted.mean() > 0
    assert rows["msp", 0.5]["error"] == tested.is_error[accepted].mean()
    assert rows["msp", 0.001]["coverage"] == 0 and np.isnan(rows["msp", 0.001]["error"])
    assert not {"sua_repaired", "sua_signed"} & {name for name, _ in rows}


def test_rounding_decides_nothing_where_an_item_equals_the_threshold():
    held = model(500, seed=1)
    noise = 1 + 1e-12 * np.random.default_rng(0).normal(size=held.orbit.shape)  # as another processor's
    orbit = held.orbit * noise / (held.orbit * noise).sum(-1, keepdims=True)
    same = replace(held, ids=[f"again {i}" for i in held.ids])
    moved = replace(same, probs=orbit[:, 0], perturbed=orbit[:, 1:])
    here, there = (pd.DataFrame(baselines.certified_rows(p, held, [(0.5, 0.1)])) for p in (same, moved))
    assert here["coverage"].max() > 0
    pd.testing.assert_frame_equal(here, there)

    # the same where calibration items are drawn from the items that judge
    one, other = (Predictions.concatenate([held, p]) for p in (same, moved))
    here, there = (baselines.broken_shares(p, "entropy", 0.3, delta=0.1, repeats=200, size=200) for p in (one, other))
    assert here == there


def test_methods_are_compared_over_every_score_of_every_pool_and_size():
    pools = [model(1500, seed=1, doubt=0.2), model(1000, seed=2, doubt=0.2)]
    rows = baselines.method_rows("here", pools, sizes=(50, 500, 501))
    assert {row["sets"] for row in rows} == {2 * len(baselines.RANKING)} and rows[0]["predictions"] == "here"
    sizes = [row["calibration items"] for row in rows if row["method"].endswith("(default)")]
    assert sizes == [50, 500]  # half of the smaller pool at most
    few, more = (np.mean([float(row["silent"]) for row in rows if row["calibration items"] == n]) for n in sizes)
    assert more < few  # more items certify more
    assert {row["calibration items"] for row in baselines.method_rows("here", [model(200)])} == {100}
    assert {row["calibration items"] for row in baselines.method_rows("here", [model(60)])} == {30}


def test_the_rule_keeps_a_promise_that_the_shortcut_breaks():
    p = model(3000)
    risk = round(0.8 * float(p.is_error.mean()), 3)
    told = baselines.broken_shares(p, "entropy", risk, delta=0.1, repeats=60, size=200)
    assert told["promise broken"] <= 0.1 + 3 * np.sqrt(0.09 / 60) and told["allowed"] == 0.1
    assert told["shortcut broken"] > 0.3
    assert metrics.selective_risk(p.is_error, score(p, "entropy"))[-1] > risk  # not all may be answered


def test_a_calibrated_models_own_doubt_is_a_good_probability_and_a_wrong_order_is_not():
    held, tested = model(2000, seed=1), model(2000, seed=2)
    rows = {(row["score"], row["method"]): row for row in baselines.probability_rows(
        [tested], [held], ["msp", "entropy", "neg_entropy", "energy", "sua_repaired"])}
    assert {method for _, method in rows} == set(baselines.METHODS)
    assert ("sua_repaired", "platt") in rows and ("energy", "platt") not in rows  # no logits
    best = float((score(tested, "msp") * (1 - score(tested, "msp"))).mean())  # Brier of the true probability
    for method in baselines.METHODS:
        row = rows["msp", method]
        assert row["brier"] == pytest.approx(best, abs=0.01) and row["ece"] < 0.06
        assert row["constant"] == pytest.approx(tested.is_error.mean() * (1 - tested.is_error.mean()))
    assert rows["neg_entropy", "isotonic"]["brier"] > rows["entropy", "isotonic"]["brier"] + 0.01
    assert rows["neg_entropy", "platt"]["brier"] == pytest.approx(rows["entropy", "platt"]["brier"], abs=1e-6)
    one = replace(held, labels=np.where(np.arange(2000) == 7, (held.answers + 1) % 4, held.answers))  # a single error
    few = baselines.probability_rows([tested], [one], ["msp", "logistic"], ["platt"])
    assert [row["score"] for row in few] == ["msp"]
    right = replace(held, labels=held.answers)
    assert baselines.probability_rows([tested], [right]) == []
    once = baselines.probability_rows([tested, tested], [right, held], ["msp"], ["platt"])
    assert once == [rows["msp", "platt"]]


def test_answer_sets_stand_beside_the_rule_of_the_same_risk():
    held, tested = model(800, seed=3), model(800, seed=4)
    rows = baselines.set_rows(tested, held, coverage=0.7)
    assert [(row["on"], row["method"]) for row in rows] == [(on, method) for on in ("p", "orbit")
                                                            for method in ("lac", "aps")]
    sets = answer_sets(tested, held, 0.7)
    single = sets.sum(1) == 1
    assert rows[0]["size"] == sets.sum(1).mean() and rows[0]["single"] == single.mean()
    assert rows[0]["error among them"] == tested.is_error[single].mean()
    assert rows[0]["covered"] == pytest.approx(0.7, abs=0.06) and rows[0]["size"] <= rows[1]["size"]
    rule = AbstentionRule.fit(score(held, "msp"), held.is_error, risk=0.3, delta=0.1)
    assert rows[0]["answered"] == rule.accept(score(tested, "msp")).mean() > 0
    none = baselines.set_rows(tested, held, coverage=0.999 - 0.01)
    assert none[0]["answered"] == 0 and np.isnan(none[0]["its error"])


def test_a_budget_names_its_best_score_and_what_it_gains_over_msp():
    settings = {str(seed): (model(300, seed=seed), model(600, seed=seed + 10)) for seed in range(3)}
    settings["right"] = tuple(replace(p, labels=p.answers) for p in settings["0"])  # ranks nothing: left out
    rows = {row["budget"]: row for row in baselines.budget_rows(settings, labels=100)}
    assert list(rows) == list(baselines.BUDGETS)
    assert rows["text from an API, K + 1 prompts"]["best"] == "disagreement"
    one = rows["one pass"]
    assert one["scores"] == 4 and one["best"] in ("msp", "margin", "entropy")
    aurocs = [roc_auc_score(tested.is_error, score(tested, one["best"])) for _, tested in list(settings.values())[:3]]
    assert one["AUROC"] == pytest.approx(np.mean(aurocs))
    tried = rows["K + 1 passes, labels"]
    fitted = "calibration" in SCORES[tried["best"]].needs
    on = lambda held: {"calibration": held.subset(slice(100))} if fitted else {}
    gains = [roc_auc_score(tested.is_error, score(tested, tried["best"], **on(held)))
             - roc_auc_score(tested.is_error, score(tested, "msp")) for held, tested in list(settings.values())[:3]]
    assert (tried["over msp"], tried["at worst"]) == (pytest.approx(np.mean(gains)), pytest.approx(min(gains)))
    assert tried["AUROC"] >= rows["K + 1 passes"]["AUROC"] >= one["AUROC"]
