"""The command `sua`: what it prints, writes and refuses."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sua
from sua.__main__ import main

LOGS = Path(__file__).parent / "fixtures/lm_eval"


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Two files of predictions in the working directory: p.parquet, and c.parquet to calibrate on."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, n, first in (("p", 30, 0), ("c", 60, 100)):
        sua.Predictions(probs=rng.dirichlet(np.ones(3), n), perturbed=rng.dirichlet(np.ones(3), (n, 2)),
                        labels=rng.integers(0, 3, n), ids=range(first, first + n)).save(f"{name}.parquet")
    return sua.Predictions.load("p.parquet"), sua.Predictions.load("c.parquet")


def test_a_table_of_every_item_with_the_score_of_the_function(saved, capsys):
    p, c = saved
    assert main(["score", "p.parquet", "--score", "sua_repaired", "--calibration", "c.parquet", "--out", "t.csv"]) == 0
    assert capsys.readouterr().out == "table: t.csv\n"
    rows = list(csv.DictReader(open("t.csv", newline="")))
    assert [row["id"] for row in rows] == p.ids.tolist()
    expected = sua.score(p, "sua_repaired", calibration=c)
    np.testing.assert_allclose([float(row["sua_repaired"]) for row in rows], expected, atol=1e-6)
    assert [int(row["answer"]) for row in rows] == p.answers.tolist()
    assert [row["wrong"] for row in rows] == [str(int(wrong)) for wrong in p.is_error]


def test_the_items_most_likely_wrong_are_printed_first(saved, capsys):
    p, _ = saved
    assert main(["score", "p.parquet", "--score", "sua"]) == 0
    head, *rows, told = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "answer", "confidence", "sua", "label", "wrong"] and len(rows) == 20
    order = np.argsort(-sua.score(p, "sua"), kind="stable")[:20]
    assert [row.split()[0] for row in rows] == p.ids[order].tolist() and told.startswith("The 20 of 30 items")


def test_a_report_and_a_list_of_scores(saved, capsys):
    assert main(["score", "p.parquet", "--score", "orbit_msp", "--out", "r.html"]) == 0
    assert Path("r.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert main(["scores"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]} >= set(sua.SCORES)


def test_logs_of_the_harness_become_a_file(tmp_path, capsys):
    out = tmp_path / "p.parquet"
    assert main(["lm-eval", str(LOGS / "plain"), str(LOGS / "letters"), "--out", str(out)]) == 0
    assert "24 questions, 2 runs" in capsys.readouterr().out
    expected = sua.from_lm_eval([LOGS / "plain", LOGS / "letters"])
    np.testing.assert_array_equal(sua.Predictions.load(out).perturbed, expected.perturbed)


@pytest.mark.parametrize("arguments, said", [
    (["score", "none.parquet"], "none.parquet"),
    (["score", "p.parquet", "--score", "entropi"], "did you mean 'entropy'"),
    (["score", "p.parquet", "--score", "sua_repaired"], "give --calibration"),
    (["score", "p.parquet", "--out", "t.xls"], "ends in .csv"), (["score", "c.txt"], "no file of Predictions.save"),
    (["lm-eval", "nowhere", "--out", "q.parquet"], "nowhere is not there")])
def test_what_cannot_be_done_is_said_in_one_line(saved, capsys, arguments, said):
    Path("c.txt").write_text("no parquet")
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("sua: ") and said in captured.err and not captured.out


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "sua", "score", "--help"], text=True, capture_output=True)
    assert done.returncode == 0 and "usage: sua score" in done.stdout
