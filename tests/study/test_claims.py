"""Verdicts follow from results: each branch of each criterion on results made for it."""

import numpy as np
import pandas as pd
import pytest

from sua.study.claims import CLAIMS, VERDICTS, Results, ledger
from sua.study.report import COLUMNS

NOTHING = Results(pd.DataFrame(columns=COLUMNS), pd.DataFrame(
    columns=["task", "training", "score", "reference", "auroc", "gain", "gain_low", "gain_high"]), {})


def verdict(claim, **results):
    results = Results(**{**vars(NOTHING), **results})
    return next(entry for entry in CLAIMS if entry.id == claim).judge(results)


def test_without_results_nothing_is_tested():
    rows = ledger(NOTHING)
    assert list(rows["id"]) == [f"C{i}" for i in range(1, 12)]
    assert set(rows["verdict"]) == {"not tested"} and rows["evidence"].str.len().min() > 0
    assert rows["criterion"].str.len().min() > 0 and "not tested" in VERDICTS


@pytest.mark.parametrize("printed, repaired, kl, expected", [
    (0, 0, 0, "supported"), (0, 0, 5, "mixed"), (5, 0, 0, "repaired"), (5, 1, 0, "refuted")])
def test_printed_bounds(printed, repaired, kl, expected):
    facts = {"worlds": 10, "printed_violations": printed, "repaired_violations": repaired, "kl_violations": kl,
             "refuted_by": "one input", "repaired_by": "a plus sign"}
    found, evidence = verdict("C2", facts={"C2": facts})
    assert found == expected
    assert ("one input" in evidence) == (expected != "supported")
    assert ("a plus sign" in evidence) == (expected in ("mixed", "repaired"))


def test_the_worst_case_is_measured_on_trained_models_too():
    facts = {"C3": {"worlds": 10, "printed_violations": 5, "repaired_violations": 0, "refuted_by": "one",
                    "repaired_by": "two"}}
    row = {"task": "t", "passes": 1, "brier": 0.5, "of the mean": 0.4, "removable": 0.1, "worst": 0.8, "limit": 0.9}
    table = lambda *rows: {"formulations": pd.DataFrame([{**row, **more} for more in rows])}
    told = lambda *rows: verdict("C3", facts=facts, tables=table(*rows))
    found, evidence = told({}, {"passes": 9, "removable": 7.0})
    assert found == "repaired" and "on 1 trained models the identity holds in 1" in evidence
    assert "0.800 on average" in evidence
    for broken in ({"removable": 0.2}, {"worst": 0.95}):
        assert told({}, broken)[0] == "refuted"
    assert verdict("C3", facts=facts)[0] == "repaired" and verdict("C3", tables=table({}))[0] == "not tested"


def gains(*intervals):
    return pd.DataFrame([{"task": "t", "training": "erm", "score": "sua", "reference": reference, "auroc": 0.7,
                          "gain": (low + high) / 2, "gain_low": low, "gain_high": high}
                         for reference, (low, high) in zip(["entropy", "self_consistency"], intervals)])


@pytest.mark.parametrize("intervals, expected", [
    ([(0.1, 0.2), (0.01, 0.1)], "supported"), ([(-0.2, -0.1), (-0.1, -0.01)], "refuted"),
    ([(0.1, 0.2), (-0.1, 0.1)], "mixed"), ([(-0.1, 0.1), (-0.1, 0.1)], "mixed")])
def test_failure_prediction(intervals, expected):
    assert verdict("C6", intervals=gains(*intervals))[0] == expected


def test_failure_prediction_is_judged_within_strata():
    both = pd.concat([gains((0.1, 0.2), (0.1, 0.2)),  # pooled, SUA looks ahead; it is behind on either part
                      gains((-0.2, -0.1), (-0.2, -0.1)).assign(task="t (clear)"),
                      gains((-0.1, 0.1), (-0.1, 0.1)).assign(task="t (ambiguous)")], ignore_index=True)
    found, evidence = verdict("C6", intervals=both[both["task"] != "t (ambiguous)"])
    assert found == "refuted"
    found, evidence = verdict("C6", intervals=both)
    assert found == "mixed" and "clear inputs: 0 and 1 of 1; ambiguous inputs: 0 and 0 of 1" in evidence


def test_failure_prediction_counts_language_models():
    llms = gains((0.1, 0.2), (0.1, 0.2)).assign(task="mmlu", training="a model")
    found, evidence = verdict("C6", intervals=pd.concat([gains((-0.2, -0.1), (-0.2, -0.1)), llms], ignore_index=True))
    assert found == "mixed" and "all inputs: 0 and 1 of 1; language models: 1 and 0 of 1" in evidence
    asked = gains((0.1, 0.2), (0.1, 0.2)).assign(task="zero-shot topic (clear)", training="a model")
    pooled = gains((-0.2, -0.1), (-0.2, -0.1)).assign(task="zero-shot topic", training="a model")
    found, evidence = verdict("C6", intervals=pd.concat([asked, pooled, llms], ignore_index=True))
    assert found == "supported"
    assert "language models asked here: 1 and 0 of 1; language models: 1 and 0 of 1" in evidence


def metrics(values):
    return pd.DataFrame([dict(zip(COLUMNS, ("t", "m", training, score, metric, seed, value)))
                         for (training, score, metric), per_seed in values.items()
                         for seed, value in enumerate(per_seed)])


def compared(**gains):
    """{metric: (low, high) of every rival's gain over the printed SUA-TR}; its own parts never count as rivals."""
    return pd.DataFrame([{"task": "t", "metric": metric, "training": training, "reference": "sua_tr", "value": 0.5,
                          "gain": (low + high) / 2, "gain_low": low, "gain_high": high}
                         for metric, (low, high) in gains.items()
                         for training, (low, high) in {"erm": (low, high), "sua_tr": (0, 0), "consistency": (9, 9),
                                                       "soft_labels": (9, 9)}.items()])


@pytest.mark.parametrize("accuracy, ece, expected", [
    ((-0.2, -0.1), (0.1, 0.2), "supported"), ((0.1, 0.2), (-0.2, -0.1), "refuted"),
    ((-0.2, -0.1), (-0.2, -0.1), "mixed"), ((-0.1, 0.1), (-0.1, 0.1), "refuted"), ((-0.2, -0.1), (-0.1, 0.2), "mixed")])
def test_training_counts_only_clear_gains_and_a_lower_ece_as_better(accuracy, ece, expected):
    found, evidence = verdict("C7", comparison=compared(accuracy=accuracy, ece_scaled=ece))
    assert found == expected and "1 methods on 1 tasks" in evidence


@pytest.mark.parametrize("rate, sua, clarified, expected", [
    (0.9, 0.8, 0.95, "supported"), (0.9, 0.5, 0.95, "repaired"), (0.9, 0.5, 0.7, "mixed"),
    (0.1, np.nan, np.nan, "refuted"), (0.9, np.nan, np.nan, "not tested")])
def test_collapse(rate, sua, clarified, expected):
    frame = metrics({("majority", "", "collapse_rate"): [rate], ("majority", "sua", "collapse_auroc"): [sua],
                     ("majority", "clarification_sua", "collapse_auroc"): [clarified]})
    found, evidence = verdict("C8", metrics=frame)
    assert found == expected and "nan" not in evidence


@pytest.mark.parametrize("real, expected", [(0.95, "repaired"), (0.6, "mixed")])
def test_a_repair_of_collapse_has_to_hold_on_real_text_too(real, expected):
    frame = metrics({("majority", "", "collapse_rate"): [0.9], ("majority", "sua", "collapse_auroc"): [0.5],
                     ("majority", "clarification_sua", "collapse_auroc"): [0.95],
                     ("erm", "clarification_sua", "ambiguity_auroc_all"): [real]})
    found, evidence = verdict("C8", metrics=frame)
    assert found == expected and f"ambiguous real text: t {real:.3f}" in evidence


@pytest.mark.parametrize("rate, sua, expected", [(0.2, 0.9, "mixed"), (0.6, 0.9, "supported"), (0.6, 0.5, "mixed")])
def test_collapse_has_to_be_seen_on_language_models_too(rate, sua, expected):
    frame = metrics({("majority", "", "collapse_rate"): [0.9], ("majority", "sua", "collapse_auroc"): [0.8],
                     ("majority", "clarification_sua", "collapse_auroc"): [0.95],
                     ("zero-shot", "", "collapse_rate"): [rate], ("zero-shot", "sua", "collapse_auroc"): [sua],
                     ("zero-shot", "clarification_sua", "collapse_auroc"): [0.7]})
    frame.loc[frame["training"] == "zero-shot", "task"] = "own_questions"
    found, evidence = verdict("C8", metrics=frame)
    assert found == expected and f"own_questions {rate:.3f}, t 0.900" in evidence


def benchmark(h, s, sua, elsewhere):
    """AUROCs in regime D under the follow-up's labels, and of SUA over all under the two other rules (H there .6)."""
    rows = [("sensitivity", "D", {"H": h, "-H": 1 - h, "S": s, "S - H": sua})]
    rows += [(rule, "all", {"H": 0.6, "S - H": elsewhere}) for rule in ("model", "orbit")]
    unused = ("self-consistency (samples at x)", "disagreement of the variants")
    return pd.DataFrame([{"labels drawn from": rule, "regime": regime, "score": score, "auroc": value}
                         for rule, regime, values in rows
                         for score, value in {**values, **dict.fromkeys(unused, 0.5)}.items()])


@pytest.mark.parametrize("h, s, sua, elsewhere, expected", [
    (0.23, 0.89, 0.88, 0.4, "mixed"), (0.23, 0.80, 0.88, 0.7, "supported"), (0.23, 0.80, 0.88, 0.4, "mixed"),
    (0.23, 0.89, 0.70, 0.7, "refuted"), (0.60, 0.80, 0.88, 0.7, "refuted")])
def test_synthetic_benchmark(h, s, sua, elsewhere, expected):
    assert verdict("C9", tables={"synthetic": benchmark(h, s, sua, elsewhere)})[0] == expected


@pytest.mark.parametrize("cells, expected", [
    ([("a", 0.3, 0.1, 0.2), ("nli", 0.1, -0.2, -0.1)], "supported"), ([("a", 0.3, -0.2, -0.1)], "refuted"),
    ([("a", 0.3, -0.2, -0.1), ("nli", 0.1, -0.1, 0.1)], "refuted"),
    ([("a", 0.3, -0.2, -0.1), ("nli", 0.1, -0.2, -0.1)], "mixed"),
    ([("a", 0.3, 0.1, 0.2), ("b", 0.1, 0.1, 0.2)], "mixed"),
    ([("a", 0.3, 0.1, 0.2), ("nli", 0.3, -0.2, -0.1)], "mixed"),
    ([("a", 0.1, 0.1, 0.2)], "not tested")])
def test_regime_share(cells, expected):
    table = pd.DataFrame([{"task": task, "training": "erm", "median D": share, "advantage": (low + high) / 2,
                           "low": low, "high": high, "S over entropy": 0.0} for task, share, low, high in cells])
    found, evidence = verdict("C10", tables={"regimes": table})
    assert found == expected and "nan" not in evidence


def test_regime_share_counts_language_models():
    cells = [("zero-shot topic", -0.3), ("a", 0.1), ("mmlu", -0.2), ("mmlu", 0.1)]
    table = pd.DataFrame([{"task": task, "training": "erm", "median D": 0.3, "advantage": 0.0, "low": low,
                           "high": low + 0.1, "S over entropy": 0.0} for task, low in cells])
    found, evidence = verdict("C10", tables={"regimes": table})
    assert found == "mixed" and "on language models better in 1, worse in 2 of 3" in evidence


def test_ratio_alarms_are_counted_where_meaning_is_kept_exactly():
    table = pd.DataFrame({"task": ["zero-shot topic", "a", "b", "c"], "training": "m",
                          "S/H mean_ratio": [0.7, 0.5, 3.0, 4.0],
                          "least_preserving_kernel": [np.nan, 1.0, 1.0, 0.9]})
    found, evidence = verdict("C11", tables={"validity": table})
    assert found == "not tested" and "0.500 to 4.000" in evidence and "1 of 2 cells" in evidence
    assert evidence.endswith(", m on zero-shot topic: 0.700")
