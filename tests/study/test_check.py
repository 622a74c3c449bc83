"""`make check`: what counts as the same result, here and on another processor."""

import json
import subprocess

import pandas as pd
import pytest

from sua.study import check
from sua.study.report import COLUMNS

ROW = {"task": "sst2", "model": "m", "training": "erm", "score": "", "metric": "accuracy", "seed": 0}


def csv(*rows):
    return pd.DataFrame([{**ROW, **row} for row in rows], columns=COLUMNS).to_csv(index=False).encode()


def test_generated_worlds_and_inference_agree_to_four_digits():
    for named in ({"task": "topic"}, {"task": "facts (clear)"}, {"task": "nli:rare"}, {"training": ""},
                  {"training": "zero-shot"}, {"task": "zero-shot topic", "model": "lm", "training": "lm"}):
        old = csv({**named, "value": 0.5}, {**named, "seed": 1, "value": 0.6})
        near = csv({**named, "value": 0.5}, {**named, "seed": 1, "value": 0.6001})
        far = csv({**named, "value": 0.5}, {**named, "seed": 1, "value": 0.6004})
        rule = "inference" if "training" in named else "generated"
        assert check.compare_metrics(near, old) == ([], {rule: 1})
        (line,), _ = check.compare_metrics(far, old)
        assert "fresh 0.5502, committed 0.55" in line and f"rule {rule}, allowed 0.0001" in line


def test_new_trainings_may_differ_as_much_as_committed_ones_do():
    old = csv({"value": 0.5}, {"seed": 1, "value": 0.54}, {"task": "ag_news", "value": 0.8})
    moved = csv({"value": 0.53}, {"seed": 1, "value": 0.58}, {"task": "ag_news", "value": 0.83})
    assert check.compare_metrics(moved, old) == ([], {"trained": 2})
    far = csv({"value": 0.5}, {"seed": 1, "value": 0.54}, {"task": "ag_news", "value": 0.85})
    (line,), _ = check.compare_metrics(far, old)
    assert "ag_news" in line and "allowed 0.04" in line


def test_rows_that_are_missing_or_lost_their_number():
    old = csv({"value": 0.5})
    assert "only in one" in check.compare_metrics(csv({"value": 0.5}, {"score": "sua", "value": 1}), old)[0][0]
    assert "fresh nan" in check.compare_metrics(csv({"value": "n/a"}), old)[0][0]
    assert check.compare_metrics(csv({"value": "n/a"}), csv({"value": "n/a"}))[0] == []


@pytest.mark.parametrize("ours, same", [
    ("| H | .501 [0.400, 0.601] \u25b2 |", True), ("| H | .501 [0.400, 0.604] \u25b2 |", False),
    ("| H | .501 [0.400, 0.602] |", False), ("| S | .501 [0.400, 0.602] \u25b2 |", False)])
def test_tables_are_the_same_words_with_numbers_one_in_the_last_digit_apart(ours, same):
    theirs = "| H | .501 [0.400, 0.602] \u25b2 |"
    assert (check.compare_text(ours, theirs) == []) == same


def test_whole_numbers_have_to_be_equal_and_lines_all_there():
    assert check.compare_text("answers 3 of 12", "answers 4 of 12") and check.compare_text("1e-05", "1.0e-05") == []
    assert check.compare_text("a\n", "a\nb\n") == ["1 lines, committed 2"]


def test_check_compares_with_the_commit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "figures" / "p"
    folder.mkdir(parents=True)
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    manifest = {"stages": {"01_a": {"machine": {"processor": "x"}, "threads": 1}}}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    (folder / "metrics.csv").write_bytes(csv({"task": "topic", "value": 0.5}))
    (folder / "table1.md").write_text("| 0.500 |\n")

    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True,
                       capture_output=True)

    git("init")
    assert "run `make reproduce" in check.check("p")[0]
    git("add", "figures")
    git("commit", "-m", "results")
    assert check.check("p") == [] and "byte by byte" in capsys.readouterr().out
    manifest["stages"]["01_a"]["machine"]["packages_mib"] = 7  # another package beside those of the pins
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    assert check.check("p") == [] and "byte by byte" in capsys.readouterr().out
    (folder / "metrics.csv").write_bytes(csv({"task": "topic", "value": 0.50001}))
    (folder / "new.txt").write_text("")
    assert check.check("p") == ["new.txt: only in the fresh results", "metrics.csv: differs"]
    manifest["stages"]["01_a"]["machine"]["processor"] = "y"
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    assert check.check("p") == ["new.txt: only in the fresh results"] and "generated 1" in capsys.readouterr().out
    (folder / "table1.md").write_text("| 0.510 |\n")
    assert "table1.md: line 1" in check.check("p")[1]
    for damaged in (b"", b"\xff", b"no comma\n1\n"):
        (folder / "metrics.csv").write_bytes(damaged)
        assert check.check("p")[1].startswith("metrics.csv: missing or damaged")
    for damaged in (b"", b"[]", b'{"stages": {"01_a": 3}}', b"\xff"):
        (folder / "MANIFEST.json").write_bytes(damaged)
        (said,) = check.check("p")
        assert "no MANIFEST.json that can be read (fresh: False, committed: True)" in said
