"""Files are whole or not there: many writers, writers that fail or are killed, and what they leave; the page of
promises names tests that exist."""

import os
import re
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sua import Predictions, files
from sua.tasks.recorded import own_questions

ROOT = Path(__file__).parents[1]


def test_240_parallel_saves_all_succeed(tmp_path):
    made = [Predictions(probs=[[i / 240, 1 - i / 240]]) for i in range(240)]
    targets = [tmp_path / f"{i % 3}.parquet" for i in range(240)]
    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(Predictions.save, made, targets)) == targets
    for i, target in enumerate(targets[:3]):
        assert round(Predictions.load(target).probs[0, 0] * 240) % 3 == i
    assert len(list(tmp_path.iterdir())) == 3


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    files.write_text(tmp_path / "deep/a", "old")
    with pytest.raises(ArithmeticError), files.whole(tmp_path / "deep/a") as file:
        file.write(b"half")
        raise ArithmeticError
    assert (tmp_path / "deep/a").read_text() == "old" and len(list((tmp_path / "deep").iterdir())) == 1


def test_bytes_are_on_the_disk_before_their_name_is(tmp_path, monkeypatch):
    done = []

    def fsync(handle):
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"{os.fstat(handle).st_size} bytes")

    def replace(old, new, system=os.replace):
        done.append("name")
        system(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    files.write_text(tmp_path / "a", "four")
    assert done == ["4 bytes", "name", "folder"]


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    files.write_text(tmp_path / "a", "whole")
    (tmp_path / "b").write_text("as ever")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_leftovers_of_killed_writers_go_and_those_of_living_ones_stay(tmp_path):
    old, young, other = (tmp_path / f".{name}" for name in ("1.unfinished", "2.unfinished", "3"))
    folder = tmp_path / ".4.unfinished"
    folder.mkdir()
    (folder / "half").touch()
    for left in (old, young, other):
        left.write_text("half")
    for left in (old, other, folder):
        os.utime(left, (time.time() - files.ABANDONED - 9,) * 2)
    files.write_text(tmp_path / "a", "new")
    assert {file.name for file in tmp_path.iterdir()} == {"a", young.name, other.name}


class Killed(BaseException):
    """In the place of SIGKILL: nothing handles it."""


@pytest.mark.parametrize("step", [1, 2])
def test_a_folder_is_the_old_or_the_new_wherever_its_switch_is_killed(tmp_path, monkeypatch, step):
    def folder(name, text):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}").write_text(text)
        return tmp_path / name

    content = lambda place: {file.read_text() for file in place.iterdir()} if place.exists() else set()
    target, calls = folder("target", "old"), []

    def replace(old, new, system=os.replace):
        calls.append(new)
        if len(calls) == step:
            raise Killed
        system(old, new)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", replace)
        files.put(folder("new", "new"), target)
    assert content(target) == ({"old"} if step == 1 else set())
    files.put(tmp_path / "new", target)
    assert content(target) == {"new"} and [file.name for file in tmp_path.iterdir()] == ["target"]


def test_a_line_that_is_not_json_is_named(tmp_path):
    file = tmp_path / "lines"
    file.write_text('{"a": "one\u2028line"}\n[2]\n', encoding="utf-8")
    assert files.json_lines(file) == [{"a": "one\u2028line"}, [2]]
    for bad in ('{"a": 1', "\xff", "[" * 100_000):
        file.write_bytes(b"[1]\n" + bad.encode("latin-1") + b"\n[3]\n")
        with pytest.raises(ValueError, match=f"{file}, line 2 is not JSON"):
            files.json_lines(file)


def test_a_damaged_data_file_is_named_with_its_line(tmp_path, monkeypatch):
    (tmp_path / "notebooks/profiles").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    lines = (ROOT / "data/ambiguous_questions.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "data/ambiguous_questions.jsonl").write_bytes(b"".join([*lines[:4], lines[4][:30]]))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="ambiguous_questions.jsonl, line 5 is not JSON"):
        own_questions()


def test_the_page_of_promises_names_tests_that_exist():
    page = (ROOT / "notebooks/site/promises.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) >= 12
    for file, test in named:
        assert re.search(rf"^def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), f"{file}::{test}"
