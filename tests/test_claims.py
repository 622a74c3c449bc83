"""Verdicts follow from results: each branch of each criterion on results made for it."""

import numpy as np
import pandas as pd
import pytest

from sua.claims import CLAIMS, VERDICTS, Results, ledger
from sua.report import COLUMNS

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


def gains(*intervals):
    return pd.DataFrame([{"task": "t", "training": "erm", "score": "sua", "reference": reference, "auroc": 0.7,
                          "gain": (low + high) / 2, "gain_low": low, "gain_high": high}
                         for reference, (low, high) in zip(["entropy", "self_consistency"], intervals)])


@pytest.mark.parametrize("intervals, expected", [
    ([(0.1, 0.2), (0.01, 0.1)], "supported"), ([(-0.2, -0.1), (-0.1, -0.01)], "refuted"),
    ([(0.1, 0.2), (-0.1, 0.1)], "mixed"), ([(-0.1, 0.1), (-0.1, 0.1)], "mixed")])
def test_failure_prediction(intervals, expected):
    assert verdict("C6", intervals=gains(*intervals))[0] == expected


def metrics(values):
    return pd.DataFrame([dict(zip(COLUMNS, ("t", "m", training, score, metric, seed, value)))
                         for (training, score, metric), per_seed in values.items()
                         for seed, value in enumerate(per_seed)])


@pytest.mark.parametrize("accuracy, ece, expected", [(0.9, 0.1, "supported"), (0.7, 0.3, "refuted"),
                                                     (0.9, 0.3, "mixed"), (0.8, 0.2, "refuted")])
def test_training_counts_a_tie_as_no_gain_and_a_lower_ece_as_better(accuracy, ece, expected):
    frame = metrics({("sua_tr", "", "accuracy"): [accuracy - 0.05, accuracy + 0.05], ("erm", "", "accuracy"): [0.8],
                     ("sua_tr", "", "ece"): [ece], ("erm", "", "ece"): [0.2], ("ablation", "", "ece"): [0.0]})
    both = pd.concat([gains((0, 1)), gains((0, 1)).assign(training="sua_tr")])
    assert verdict("C7", metrics=frame, intervals=both)[0] == expected


@pytest.mark.parametrize("rate, auroc, expected", [(0.9, 0.8, "supported"), (0.9, 0.5, "mixed"),
                                                   (0.1, np.nan, "refuted")])
def test_collapse(rate, auroc, expected):
    frame = metrics({("erm", "", "collapse_rate"): [rate], ("erm", "sua", "collapse_auroc"): [auroc]})
    found, evidence = verdict("C8", metrics=frame)
    assert found == expected and "nan" not in evidence
