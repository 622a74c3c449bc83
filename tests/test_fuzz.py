"""A slice of the campaign of tests/fuzz.py, and that it finds what is planted."""

import warnings

import numpy as np
import pytest

import fuzz
from fuzz import Case, never, outcome

SLICE = 3000


@pytest.mark.parametrize("family", fuzz.FAMILIES)
def test_no_unclear_error_and_no_wrong_result(family, monkeypatch):
    monkeypatch.setattr(fuzz, "FAMILIES", {name: (make, share if name == family else 0)
                                           for name, (make, share) in fuzz.FAMILIES.items()})
    table, failures, spent = fuzz.campaign(SLICE)
    assert table[family].total() > 0 and table[family]["right"] > 0 and table[family]["clear error"] > 0
    assert not failures, fuzz.report(table, failures, spent)


def refuse(message, kind=ValueError):
    raise kind(message)


def of_rounding():
    warnings.warn("overflow encountered in exp", RuntimeWarning)
    return 1


@pytest.mark.parametrize("case, expected", [
    (Case("", lambda: 1, lambda found: found == 1), "right"),
    (Case("", lambda: 2, lambda found: found == 1), "wrong result"),
    (Case("", lambda: 1, never, ("lam",)), "wrong result"),
    (Case("", lambda: refuse("lam = nan: give a number"), never, ("lam",)), "clear error"),
    (Case("", lambda: refuse("could not convert"), never, ("lam",)), "unclear error"),
    (Case("", lambda: refuse("lam = 1"), lambda found: True), "unclear error"),  # a valid call is not to be refused
    (Case("", lambda: refuse("lam", TypeError), never, ("lam",)), "unclear error"),
    (Case("", lambda: refuse("lam", RecursionError), never, ("lam",)), "unclear error"),
    (Case("", of_rounding, lambda found: True), "unclear error"),
])
def test_outcomes(case, expected):
    assert outcome(case)[0] == expected


def test_a_planted_fault_ends_the_campaign_with_status_1(monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "FAMILIES", {"scores": fuzz.FAMILIES["scores"]})
    monkeypatch.setattr(fuzz, "close", lambda found, expected, tolerance=0: np.array_equal(found, np.add(expected, 1)))
    assert fuzz.main(["100"]) == 1
    said = capsys.readouterr().out
    assert "wrong result x" in said and "| all | 28 |" in said


def test_a_case_follows_from_its_number():
    for family in ("scores", "metrics", "kernels"):
        assert [fuzz.attempt(family, 7) for _ in range(2)] == [fuzz.attempt(family, 7)] * 2
