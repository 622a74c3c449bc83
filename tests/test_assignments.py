"""The assignments: full marks for the solutions, none for the blank copy, exactly the planted mistakes lose points."""

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import scipy
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


# what the feedback page of the mistakes above shows
MESSAGES = {"a1": ["your entropy is in bits", "this is 1 - AUROC"],
            "a2": ["you forget that x belongs", "no upper bound"],
            "a3": ["use the weights", "the answer to the clarified input comes first"],
            "a4": ["left out of the sum", "stop at the first threshold that fails"]}


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

    marks = grader.marks(rows).set_index("student")
    assert marks.loc["solutions", ["points", "max", "waiting"]].tolist() == [
        sum(points[cell] for cell in tests), sum(points.values()), sum(points[cell] for cell in texts)]
    assert marks.loc["blank", ["points", "waiting"]].tolist() == [0, 0]
    pages, failed = grader.feedback(course)
    assert [page.parts[-3] for page in pages] == ["blank", "mistaken", "solutions"] and not failed
    assert all(message in pages[1].read_text(encoding="utf-8") for message in MESSAGES[name])


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


@pytest.fixture
def tiny(tmp_path):
    """(source, hand_in): a course of one assignment of one exercise, and a function that writes a submission to it."""
    def flags(name, **changed):
        return {"nbgrader": {"schema_version": 3, "grade_id": name, "grade": False, "solution": False, "locked": False,
                             "task": False, "cell_type": "code", **changed}}

    def notebook(answer):
        code = f"def one():\n    ### BEGIN SOLUTION\n    return {answer}\n    ### END SOLUTION"
        cells = [nbformat.v4.new_code_cell(code, id="one", metadata=flags("one", solution=True)),
                 nbformat.v4.new_code_cell("assert one() == 1, 'not one'", id="test-one",
                                           metadata=flags("test-one", grade=True, locked=True, points=2))]
        return nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=load("a1").metadata))

    def hand_in(folder, student, answer):
        file = folder / student / "t1/t1.ipynb"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(notebook(answer), encoding="utf-8")
        return file

    file = hand_in(tmp_path, "source", 1)
    return file.parents[1], hand_in


def test_what_was_handed_in_is_never_removed(grader, tiny, tmp_path):
    source, hand_in = tiny
    course = tmp_path / "course"
    collected = [hand_in(course / "submitted", "ada", 1), hand_in(course / "submitted", "bob", 2)]
    before = [file.read_bytes() for file in collected]
    rows, failed = grader.grade(course / "submitted", course, source)  # nbgrader's own folder
    assert [row["points"] for row in rows] == [2, 0] and not failed
    assert [file.read_bytes() for file in collected] == before

    again = hand_in(tmp_path / "downloads", "bob", 1)
    rows, _ = grader.grade(tmp_path / "downloads", course, source)
    assert [(row["student"], row["points"]) for row in rows] == [("bob", 2)]
    assert again.exists() and collected[0].read_bytes() == before[0]
    assert (course / "replaced/bob/t1-1/t1.ipynb").read_bytes() == before[1]


@pytest.mark.parametrize("place", ["course", "course/release", "course/submitted/ada", "."])
def test_a_folder_that_overlaps_with_the_course_is_refused(grader, tiny, tmp_path, place):
    source, hand_in = tiny
    file = hand_in(tmp_path / place, "ada", 1)
    with pytest.raises(ValueError, match="overlaps with the course folder"):
        grader.grade(tmp_path / place, tmp_path / "course", source)
    assert file.exists() and not (tmp_path / "course/source").exists()


def test_symbolic_links_in_a_submission_are_not_followed(grader, tiny, tmp_path):
    source, hand_in = tiny
    given, elsewhere = tmp_path / "given", tmp_path / "elsewhere"
    outside = hand_in(elsewhere, "eve", 1).parents[1]  # a folder, with the folder t1 in it
    links = {"file": "t1/answers.txt", "folder": "t1/more", "assignment": "t1", "notebook": "t1/t1.ipynb"}
    for student, link in links.items():
        (given / student / link).parent.mkdir(parents=True)
        if link in ("t1/answers.txt", "t1/more"):
            hand_in(given, student, 1)
        target = {"t1": outside / "t1", "t1/t1.ipynb": outside / "t1/t1.ipynb"}.get(link, outside)
        (given / student / link).symlink_to(target)
    (given / "student").symlink_to(outside)
    rows, failed = grader.grade(given, tmp_path / "course", source)
    assert not rows and failed.keys() == {f"{student}/t1" for student in (*links, "student")}
    assert all("is a symbolic link" in reason for reason in failed.values())
    assert not (tmp_path / "course/submitted").exists() and not (tmp_path / "course/autograded").exists()


def test_what_students_install_has_the_pins(grader, tmp_path):
    grader.environment(tmp_path)
    pins = set((ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines())
    lines = [line for line in (tmp_path / "requirements.txt").read_text(encoding="utf-8").splitlines()
             if not line.startswith("#")]
    assert lines[0] == "-c constraints.txt" and set(lines[1:]) < pins
    assert {line.split("==")[0] for line in lines[1:]} == set(grader.STUDENT_PACKAGES)
    assert set((tmp_path / "constraints.txt").read_text(encoding="utf-8").splitlines()) == pins
    (wheel,) = tmp_path.glob("sua-*.whl")
    files = set(zipfile.ZipFile(wheel).namelist())
    assert {f"sua/{file.relative_to(ROOT / 'sua')}" for file in (ROOT / "sua").rglob("*.py")} <= files


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.skipif(name != "a1" and not ALL, reason="SUA_SLOW is not set"))
    for name in NAMES])
def test_an_assignment_imports_what_students_install_alone(grader, name):
    """The notebook with its solutions, in a process in which no other package can be imported."""
    waiting = [Requirement(package) for package in grader.STUDENT_PACKAGES if package != "torch" or name == "a4"]
    installed = set()
    while waiting:
        requirement = waiting.pop()
        if canonicalize_name(requirement.name) not in installed:
            installed.add(canonicalize_name(requirement.name))
            waiting += [needed for needed in map(Requirement, requires(requirement.name) or [])
                        if needed.marker is None or needed.marker.evaluate({"extra": ""})]
    missing = {module for module, owners in packages_distributions().items()
               if module != "sua" and not set(map(canonicalize_name, owners)) & installed}
    assert len(missing) > 100
    hide = f"""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *where: None if name in {missing} else find(name, *where)
"""
    code = "\n".join([hide, *(cell.source for cell in load(name).cells if cell.cell_type == "code")])
    subprocess.run([sys.executable, "-"], input=code, text=True, cwd=SOURCE / name, check=True, env={
        **os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)})


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
    (lambda f: checks.of_world(f, "robust_risk"), lambda w: w.kernel @ (w.truth * (1 - w.p)).sum(-1), "for the worst"),
    (lambda f: checks.of_world(f, "robust_risk"), theory.World.robust_risk, "from the four tables alone"),
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
