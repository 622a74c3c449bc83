"""Student copies of the assignments, and grades of what students hand in, by nbgrader.

    python notebooks/assignments/grade.py release
    python notebooks/assignments/grade.py grade SUBMISSIONS

Both work in build/assignments, an nbgrader course folder with nbgrader's own names for everything in it, so that
nbgrader's other tools work there too.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
import warnings
from pathlib import Path

from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from sqlalchemy.exc import SAWarning
from traitlets.config import Config

from sua.models.common import progress

SOURCE = Path(__file__).resolve().parent / "source"
COURSE = Path(__file__).resolve().parents[2] / "build" / "assignments"
SECONDS_PER_CELL = 120
COLUMNS = ("student", "assignment", "cell", "points", "max")

warnings.filterwarnings("ignore", category=SAWarning)  # nbgrader's own queries
# nbgrader calls `alembic` by name when it makes its database
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def release(course: Path = COURSE, source: Path = SOURCE) -> NbGraderAPI:
    """Write the student copy of every assignment to course/release/<assignment>/; RuntimeError if nbgrader fails.

    Returns nbgrader's interface to the course folder.
    """
    _copy(source, course / "source")
    config = Config(ExecutePreprocessor={"timeout": SECONDS_PER_CELL})
    api = NbGraderAPI(CourseDirectory(root=str(course.resolve()), config=config), config=config)
    for assignment in sorted(file.stem for file in source.glob("*/*.ipynb")):
        result = api.generate_assignment(assignment)
        if not result["success"]:
            raise RuntimeError(f"nbgrader makes no student copy of {assignment}:\n{result['log']}")
    return api


def grade(submissions: Path, course: Path = COURSE, source: Path = SOURCE) -> tuple[list[dict], dict[str, str]]:
    """Run every submissions/<student>/<assignment>/<assignment>.ipynb against the tests of `source`.

    Returns one row {student, assignment, cell, points, max} per graded cell, which it also writes to course/scores.csv,
    and {"student/assignment": nbgrader's log} of what could not be graded. points is None (empty in the file) where a
    text waits for the instructor. ValueError if the folder holds no submission.
    """
    handed_in = sorted((file.parts[-3], file.stem) for file in submissions.glob("*/*/*.ipynb")
                       if file.stem == file.parent.name and (source / file.stem / file.name).exists())
    if not handed_in:
        raise ValueError(f"{submissions} holds no <student>/<assignment>/<assignment>.ipynb with an assignment of "
                         f"{source}: sort the files like that")
    api = release(course, source)
    _copy(submissions, course / "submitted")
    rows, failed = [], {}
    for student, assignment in progress(handed_in, desc="grade"):
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


def _copy(folder, to):
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("release", help="write the student copies")
    commands.add_parser("grade", help="grade what students handed in").add_argument("submissions", type=Path)
    given = parser.parse_args()
    if given.command == "release":
        release()
        print(f"student copies: {COURSE / 'release'}")
        return 0
    try:
        rows, failed = grade(given.submissions)
    except ValueError as error:
        parser.error(str(error))
    print(f"{len(rows)} graded cells: {COURSE / 'scores.csv'}")
    for what, log in failed.items():
        print(f"not graded: {what}\n{log}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
