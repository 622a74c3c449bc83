"""The assignments: full marks for the solutions, none for the blank copy, exactly the planted mistakes lose points."""

import importlib.util
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import scipy

from sua import checks, metrics, scores, theory

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "notebooks/assignments/source"
NAMES = sorted(file.stem for file in SOURCE.glob("*/*.ipynb"))
ALL = bool(os.environ.get("SUA_SLOW"))
pytestmark = pytest.mark.filterwarnings("ignore:Object of type <Submitted")  # nbgrader's own queries

# per assignment: (solution cell, right, wrong, the test cell that must lose its points)
WRONG = {
    "a1": [("entropy", "np.log(", "np.log2(", "test-entropy"),
           ("kl", "np.where(p > 0, p, 1) / q", "p / q", "test-kl"),
           ("auroc", "difference > 0", "difference < 0", "test-auroc")],
    "a2": [("robust", " | np.eye(len(risk), dtype=bool)", "", "test-robust"),
           ("positive", "min(lam * entropy(p), 0.75) / 2", "0.5", "test-positive"),
           ("mean-bound", "+ lam * world.entropy", "- lam * world.entropy", "test-mean-bound")],
    "a3": [("mixture", "(weights[..., None] * readings).sum(-2)", "readings.mean(-2)", "test-mixture"),
           ("error-rates", "1 - np.mean(detector(outputs_two))", "np.mean(detector(outputs_two))", "test-error-rates"),
           ("decompose", "kl(clarified, p[:, None])", "kl(p[:, None], clarified)", "test-decompose")],
    "a4": [("p-value", "range(errors + 1)", "range(errors)", "test-p-value"),
           ("repaired-terms", "max(s.mean() - lam * entropy(p).mean(), 0)",
            "np.maximum(s - lam * entropy(p)[:, 0], 0).mean()", "test-repaired-terms"),
           ("certify", "break", "continue", "test-certify")],
}


def load(name):
    return nbformat.read(SOURCE / name / f"{name}.ipynb", as_version=4)


def cells(notebook, **flags):
    """{cell id: cell} of those whose nbgrader metadata has these flags."""
    return {cell.id: cell for cell in notebook.cells
            if all(cell.metadata.get("nbgrader", {}).get(key) == value for key, value in flags.items())}


@pytest.fixture(scope="module")
def grader():
    pytest.importorskip("nbgrader", reason="nbgrader is not installed: pip install -e '.[course]'")
    sqlalchemy = pytest.importorskip("sqlalchemy")
    sqlalchemy.event.listen(sqlalchemy.Engine, "connect",  # most of the time went into waiting for the disk
                            lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    spec = importlib.util.spec_from_file_location("grade", SOURCE.parent / "grade.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.skipif(name != "a1" and not ALL, reason="SUA_SLOW is not set"))
    for name in NAMES])
def test_solutions_score_fully_the_blank_copy_nothing_and_mistakes_cost_their_own_points(grader, name, tmp_path):
    source, course = tmp_path / "source", tmp_path / "course"
    source.mkdir()
    (source / name).symlink_to(SOURCE / name)  # a course of this assignment alone
    grader.release(course, source)
    blank = nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4)
    mistaken = load(name)
    for cell, right, wrong, _ in WRONG[name]:
        code = cells(mistaken)[cell].source
        assert code.count(right) == 1, f"{name}/{cell} holds {right!r} {code.count(right)} times"
        cells(mistaken)[cell].source = code.replace(right, wrong)
    handed_in = {"solutions": nbformat.writes(load(name)), "mistaken": nbformat.writes(mistaken),
                 "blank": nbformat.writes(blank), "unreadable": "{"}
    for student, text in handed_in.items():
        (tmp_path / "submitted" / student / name).mkdir(parents=True)
        (tmp_path / "submitted" / student / name / f"{name}.ipynb").write_text(text, encoding="utf-8")
    rows, failed = grader.grade(tmp_path / "submitted", course, source)
    assert list(failed) == [f"unreadable/{name}"] and "JSON" in failed[f"unreadable/{name}"]
    table = pd.read_csv(course / "scores.csv")
    assert table.equals(pd.DataFrame(rows)[list(grader.COLUMNS)])

    tests, texts = cells(load(name), grade=True, solution=False), cells(load(name), grade=True, solution=True)
    points = {cell: content.metadata.nbgrader.points for cell, content in (tests | texts).items()}
    assert set(table["cell"]) == set(points) and (table["max"] == table["cell"].map(points)).all()
    lost = {"solutions": set(), "blank": set(points), "mistaken": {test for *_, test in WRONG[name]}}
    for student, cells_lost in lost.items():
        got = table[table["student"] == student].set_index("cell")["points"]
        for cell in tests:
            assert got[cell] == (0 if cell in cells_lost else points[cell]), (student, cell)
        for cell in texts:  # an answer waits for the instructor, a blank one does not
            assert got[cell] == 0 if student == "blank" else np.isnan(got[cell]), (student, cell)

    run = nbformat.read(course / "autograded" / "blank" / name / f"{name}.ipynb", as_version=4)
    errors = {cell.id: output.ename for cell in run.cells for output in cell.get("outputs", [])
              if output.output_type == "error"}
    assert set(errors.values()) == {"NotImplementedError"} and set(errors) >= set(tests)


def test_the_student_copies_give_nothing_away(grader, tmp_path):
    grader.release(tmp_path)
    for name in NAMES:
        copy = nbformat.read(tmp_path / "release" / name / f"{name}.ipynb", as_version=4)
        text = "\n".join(cell.source for cell in copy.cells)
        assert "SOLUTION" not in text and "HIDDEN" not in text
        for cell in cells(load(name), solution=True).values():
            answer = re.search(r"BEGIN SOLUTION\n(.*?)\n\s*### END", cell.source, re.DOTALL)[1]
            assert not any(line.strip() in text for line in answer.splitlines() if len(line.strip()) > 20), cell.id


@pytest.mark.parametrize("name", NAMES)
def test_sources_are_clean(name):
    notebook = load(name)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, cell.id
            assert max(map(len, cell.source.splitlines())) <= 120, cell.id
        if "nbgrader" in cell.metadata:
            assert cell.metadata.nbgrader.schema_version == 3 and cell.metadata.nbgrader.grade_id == cell.id
    points = {kind: sum(cell.metadata.nbgrader.points for cell in cells(notebook, grade=True, solution=kind).values())
              for kind in (False, True)}
    guide = (SOURCE.parent / "INSTRUCTOR.md").read_text(encoding="utf-8").split(f"\n## {name}")[1].split("\n## ")[0]
    assert f"{sum(points.values())} points, {points[True]} of them by hand" in guide


def test_a_folder_without_submissions_is_named(grader, tmp_path):
    with pytest.raises(ValueError, match="nobody holds no <student>/<assignment>"):
        (tmp_path / "nobody").mkdir()
        grader.grade(tmp_path / "nobody", tmp_path / "course")


kl, js, tv = (scores.divergence_named(name) for name in ("kl", "js", "tv"))
SWAP = theory.COUNTEREXAMPLES["swap"]


def auroc_of_pairs(wins):
    return lambda is_error, score: wins(score[is_error][:, None], score[~is_error]).mean()


@pytest.mark.parametrize("check, right", [
    (checks.softmax, lambda z: scipy.special.softmax(z, axis=-1)),
    (checks.entropy, lambda p: -(p * np.log(p, where=p > 0, out=np.zeros_like(p))).sum(-1)),
    (lambda f: checks.divergence(f, "kl"), lambda p, q: (p * np.log(np.where(p > 0, p / q, 1))).sum(-1)),
    (lambda f: checks.divergence(f, "js"), lambda p, q: (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2),
    (lambda f: checks.divergence(f, "tv"), lambda p, q: np.maximum(p - q, 0).sum(-1)),
    (lambda f: checks.score(f, "sua", lam=0.3), lambda p, q, lam: kl(p[:, None], q).mean(1) - lam * scores.entropy(p)),
    (lambda f: checks.score(f, "collapse_index"), lambda p, clear, w: kl(np.einsum("nzc,nz->nc", clear, w), p)),
    (checks.auroc, auroc_of_pairs(lambda wrong, right: (wrong > right) + (wrong == right) / 2)),
    (lambda f: checks.bound(f, "robust_risk"), lambda w: w.risk() + w.sup(w.divergence())),
])
def test_checks_accept_what_is_right(check, right):
    check(right)


@pytest.mark.parametrize("check, wrong, message", [
    (checks.softmax, np.exp, "did you forget to renormalise"),
    (checks.entropy, lambda p: scores.entropy(p) / np.log(2), "in bits: use the natural logarithm"),
    (checks.entropy, lambda p: scores.entropy(p).sum(), "which axis"),
    (checks.entropy, lambda p: p.sum(-1) * np.nan, "0 ln 0"),
    (checks.entropy, lambda p: None, "is a `return` missing"),
    (checks.entropy, lambda p: 1 - (p ** 2).sum(-1), "expected"),
    (lambda f: checks.divergence(f, "kl"), lambda p, q: kl(q, p), r"KL\(q, p\) instead of KL\(p, q\)"),
    (lambda f: checks.divergence(f, "js"), lambda p, q: np.sqrt(js(p, q)), "distance"),
    (lambda f: checks.divergence(f, "tv"), lambda p, q: 2 * tv(p, q), "a factor is missing"),
    (lambda f: checks.score(f, "sensitivity"), lambda p, q: -kl(p[:, None], q).mean(1), "orientation is reversed"),
    (lambda f: checks.score(f, "sua", lam=0.3), lambda p, q, lam: kl(p[:, None], q).mean(1) - scores.entropy(p),
     "you ignore lam"),
    (checks.auroc, lambda is_error, score: 1 - metrics.auroc(is_error, score), "1 - AUROC"),
    (checks.auroc, auroc_of_pairs(np.greater), "ties count for nothing"),
    (checks.auroc, auroc_of_pairs(np.greater_equal), "ties count as a full win"),
    (lambda f: checks.counterexample(f(), "eq10"), lambda: SWAP, "the bound holds on your world"),
    (lambda f: checks.counterexample(f(), "eq11"), lambda: theory.COUNTEREXAMPLES["changed meaning"], "truth changes"),
    (lambda f: checks.of_world(f, "robust_risk"), theory.World.mean_risk, "look for the worst"),
    (lambda f: checks.bound(f, "mean_risk"), lambda w: w.risk() + w.sua(), "no upper bound"),
    (lambda f: checks.bound(f, "mean_risk"), lambda w: w.risk() + 2, "loose"),
])
def test_checks_name_the_mistake(check, wrong, message):
    with pytest.raises(AssertionError, match=message):
        check(wrong)
    with pytest.raises(NotImplementedError):  # an exercise that was not begun is no mistake
        check(lambda *_, **__: (_ for _ in ()).throw(NotImplementedError()))


def test_the_questions_of_a3_are_rows_of_the_data():
    data = (ROOT / "data/ambiguous_questions.jsonl").read_text(encoding="utf-8").splitlines()
    assert set((SOURCE / "a3/questions.jsonl").read_text(encoding="utf-8").splitlines()) < set(data)
