"""Student copies of the assignments, grades of what students hand in, and feedback on it, by nbgrader.

    python notebooks/assignments/grade.py release
    python notebooks/assignments/grade.py grade SUBMISSIONS
    python notebooks/assignments/grade.py feedback

All work in build/assignments, an nbgrader course folder with nbgrader's own names for everything in it, so that
nbgrader's other tools work there too. What was handed in is never removed, wherever it lies.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from itertools import count
from pathlib import Path

import pandas as pd
from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from sqlalchemy.exc import SAWarning
from traitlets.config import Config

from sua.models.common import progress

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).resolve().parent / "source"
COURSE = ROOT / "build" / "assignments"
SECONDS_PER_CELL = 120
COLUMNS = ("student", "assignment", "cell", "points", "max")
CACHES = (".ipynb_checkpoints", "__pycache__")
# what the assignments import, the kernel that runs them, and what sua needs for them
STUDENT_PACKAGES = ("datasets", "ipykernel", "matplotlib", "numpy", "pandas", "scipy", "torch", "tqdm")

warnings.filterwarnings("ignore", category=SAWarning)  # nbgrader's own queries
# nbgrader calls `alembic` by name when it makes its database
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
# the kernels that grade import this checkout's sua, whichever is installed
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def release(course: Path = COURSE, source: Path = SOURCE) -> NbGraderAPI:
    """Write the student copy of every assignment to course/release/<assignment>/; RuntimeError if nbgrader fails.

    Returns nbgrader's interface to the course folder.
    """
    if source.resolve() != course.resolve() / "source":
        shutil.rmtree(course / "source", ignore_errors=True)
        _copy(source, course / "source")
    api = _nbgrader(course)
    for assignment in sorted(file.stem for file in source.glob("*/*.ipynb")):
        result = api.generate_assignment(assignment)
        if not result["success"]:
            raise RuntimeError(f"nbgrader makes no student copy of {assignment}:\n{result['log']}")
    return api


def _nbgrader(course):
    config = Config(ExecutePreprocessor={"timeout": SECONDS_PER_CELL})
    return NbGraderAPI(CourseDirectory(root=str(course.resolve()), config=config), config=config)


def environment(folder: Path) -> None:
    """Write what a student installs to `folder`: requirements.txt, constraints.txt and a wheel of sua.

    The packages are few, their versions are those of requirements.lock, and so are those of what they depend on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pins = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    chosen = [line for line in pins.splitlines() if line.split("==")[0] in STUDENT_PACKAGES]
    for old in folder.glob("sua-*.whl"):
        old.unlink()
    with tempfile.TemporaryDirectory() as copy:  # the build leaves files where it works
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, copy)
        _copy(ROOT / "sua", Path(copy, "sua"))
        subprocess.run([sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "--no-index",
                        "-w", folder.resolve(), "."], cwd=copy, check=True)
    (wheel,) = folder.glob("sua-*.whl")
    (folder / "constraints.txt").write_text(pins, encoding="utf-8")
    (folder / "requirements.txt").write_text("\n".join((
        "# python -m venv course && . course/bin/activate",
        "# python -m pip install -r requirements.txt",
        f"# python -m pip install --no-deps {wheel.name}",
        "# An editor such as VS Code opens the notebooks with that Python. To work in a browser instead:",
        "# python -m pip install -c constraints.txt jupyterlab && jupyter lab",
        "# torch is needed for assignment 4 alone.", "-c constraints.txt", *chosen)) + "\n", encoding="utf-8")


def grade(submissions: Path, course: Path = COURSE, source: Path = SOURCE) -> tuple[list[dict], dict[str, str]]:
    """Run every submissions/<student>/<assignment>/<assignment>.ipynb against the tests of `source`.

    Returns one row {student, assignment, cell, points, max} per graded cell, which it also writes to course/scores.csv,
    and {"student/assignment": reason} of what could not be graded. points is None (empty in the file) where a text
    waits for the instructor. The submissions are only read: copies of them are graded, in course/submitted, which may
    itself be `submissions`. A submission with symbolic links is not graded, since they could lead to any file.
    ValueError if the folder holds no submission, or overlaps with the course folder in another way.
    """
    inside, submitted = submissions.resolve(), course.resolve() / "submitted"
    if inside != submitted and (inside.is_relative_to(course.resolve()) or course.resolve().is_relative_to(inside)):
        raise ValueError(f"{submissions} overlaps with the course folder {course}, where this command writes: give "
                         f"{course / 'submitted'}, or a folder elsewhere")
    handed_in = sorted((file.parts[-3], file.stem) for file in submissions.glob("*/*/*.ipynb")
                       if file.stem == file.parent.name and (source / file.stem / file.name).exists())
    if not handed_in:
        raise ValueError(f"{submissions} holds no <student>/<assignment>/<assignment>.ipynb with an assignment of "
                         f"{source}: sort the files like that")
    api = release(course, source)
    rows, failed = [], {}
    for student, assignment in progress(handed_in, desc="grade"):
        if link := _link(submissions, student, assignment):
            failed[f"{student}/{assignment}"] = f"{link} is a symbolic link: hand in the file itself"
            continue
        if inside != submitted:
            _hand_over(submissions / student / assignment, submitted / student / assignment)
        result = api.autograde(assignment, student)
        if not result["success"]:
            failed[f"{student}/{assignment}"] = result["log"]
            continue
        with api.gradebook as book:
            for cell in book.find_submission_notebook(assignment, assignment, student).grades:
                points = None if cell.auto_score is None and cell.manual_score is None else cell.score
                rows.append(dict(zip(COLUMNS, (student, assignment, cell.name, points, cell.max_score))))
    with open(course / "scores.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return rows, failed


def marks(rows: list[dict]) -> pd.DataFrame:
    """One row per student and assignment: points so far, of how many, and how many wait for a person."""
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    waiting = table["max"].where(table["points"].isna(), 0)
    table = table.assign(points=table["points"].astype(float).fillna(0), waiting=waiting)
    return table.groupby(["student", "assignment"])[["points", "max", "waiting"]].sum().reset_index()


def feedback(course: Path = COURSE) -> tuple[list[Path], dict[str, str]]:
    """Write course/feedback/<student>/<assignment>/<assignment>.html for all that was graded.

    A page shows the notebook with its points, the messages of failed tests and the instructor's comments. Returns these
    files, and {"student/assignment": nbgrader's log} of what failed. ValueError if nothing was graded.
    """
    graded = sorted(file.parts[-3:-1] for file in (course / "autograded").glob("*/*/*.ipynb"))
    if not graded:
        raise ValueError(f"{course / 'autograded'} holds nothing: run `make grade SUBMISSIONS=folder` first")
    api, files, failed = _nbgrader(course), [], {}
    for student, assignment in progress(graded, desc="feedback"):
        result = api.generate_feedback(assignment, student)
        if result["success"]:
            files.append(course / "feedback" / student / assignment / f"{assignment}.html")
        else:
            failed[f"{student}/{assignment}"] = result["log"]
    return files, failed


def _link(submissions, student, assignment):
    """The first symbolic link on the way to a submission or in it, None if there is none."""
    folder = submissions / student / assignment
    for part in (folder.parent, folder, *folder.rglob("*")):
        if part.is_symlink():
            return part
    return None


def _hand_over(folder, to):
    """Copy a submission; one of other content that lies there moves to replaced/, beside `submitted`, first."""
    if to.exists() and _content(to) != _content(folder):
        replaced = to.parents[2] / "replaced" / to.parent.name
        replaced.mkdir(parents=True, exist_ok=True)
        to.rename(next(name for i in count(1) if not (name := replaced / f"{to.name}-{i}").exists()))
    _copy(folder, to)


def _content(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*")
            if file.is_file() and not set(file.parts).intersection(CACHES)}


def _copy(folder, to):
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns(*CACHES), dirs_exist_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("release", help="write the student copies")
    commands.add_parser("grade", help="grade what students handed in").add_argument("submissions", type=Path)
    commands.add_parser("feedback", help="write a page per graded submission")
    given = parser.parse_args()
    try:
        failed = {"release": _release, "grade": _grade, "feedback": _feedback}[given.command](given)
    except ValueError as error:
        parser.error(str(error))
    for what, log in failed.items():
        print(f"no {given.command}: {what}\n{log}", file=sys.stderr)
    return bool(failed)


def _release(_):
    release()
    environment(COURSE / "release")
    print(f"student copies and what students install: {COURSE / 'release'}")
    return {}


def _grade(given):
    rows, failed = grade(given.submissions)
    print(marks(rows).to_string(index=False, float_format="%g"))
    print(f"{len(rows)} graded cells: {COURSE / 'scores.csv'}")
    return failed


def _feedback(_):
    files, failed = feedback()
    print(f"{len(files)} pages: {COURSE / 'feedback'}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
