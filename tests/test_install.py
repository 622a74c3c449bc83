"""The wheel: what it holds, what it needs, and what it says where something is missing.

The fast tests run what a wheel holds in an interpreter that refuses every package but the core's; under SUA_SLOW the
wheel is installed into an empty environment.
"""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement

from sua.extras import EXTRAS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = {Requirement(entry).name for entry in PROJECT["dependencies"]}
EVERYDAY = """
import sys
import numpy as np
import sua
rng = np.random.default_rng(0)
make = lambda n: sua.Predictions(probs=rng.dirichlet([1, 1], n), perturbed=rng.dirichlet([1, 1], (n, 3)),
                                 labels=rng.integers(0, 2, n), ids=rng.integers(0, 1 << 60, n))
fitted, tested = make(200), make(100)
tested.save("p.parquet")
again = sua.Predictions.load("p.parquet")
scores = sua.score(again, "sua_repaired", calibration=fitted)
assert scores.tolist() == sua.score(tested, "sua_repaired", calibration=fitted).tolist()
rule = sua.AbstentionRule.fit(sua.score(fitted, "orbit_msp"), fitted.is_error, risk=0.6, delta=0.1)
open("rule.json", "w").write(rule.to_json())
assert sua.AbstentionRule.from_json(open("rule.json").read()) == rule
print(sua.error_floor(tested).bound >= 0, sua.metrics.auroc(tested.is_error, scores) > 0)
from sua.sources import SMOLLM2_WHEEL
assert SMOLLM2_WHEEL.files, "sources.csv"
assert not {"torch", "pandas", "matplotlib"} & sys.modules.keys()
"""
REFUSE = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        known = {{"sua", "packaging", "dateutil", *sys.stdlib_module_names, *{CORE!r}}}
        if top not in known and not top.startswith("_"):
            raise ModuleNotFoundError(f"No module named {{top!r}}", name=top)

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what it is built from."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "sua", source / "sua", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", source,
                    source], check=True, capture_output=True)
    (built,) = source.glob("*.whl")
    return built


@pytest.fixture
def unpacked(wheel, tmp_path):
    """Runs a script in an empty folder, with the wheel's content and the core's packages alone."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "here").mkdir()

    def run(script):
        return subprocess.run([sys.executable, "-c", REFUSE + script], cwd=tmp_path / "here", text=True,
                              capture_output=True, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")})
    return run


def test_the_wheel_holds_the_module_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        info = next(name for name in archive.namelist() if name.endswith("METADATA"))
        said = Metadata.from_email(archive.read(info), validate=False)
        scripts = archive.read(info.replace("METADATA", "entry_points.txt")).decode()
    ours = {str(file.relative_to(ROOT)) for file in (ROOT / "sua").rglob("*")
            if file.suffix in (".py", ".csv", ".typed") and "__pycache__" not in file.parts}
    assert held == ours and {"sua/sources.csv", "sua/py.typed"} < held
    assert {need.name for need in said.requires_dist if need.marker is None} == CORE == {
        "filelock", "numpy", "pyarrow", "scipy", "tqdm"}
    assert "sua = sua.__main__:main" in scripts


def test_every_extra_that_an_error_names_brings_the_package():
    def brings(extra):
        for entry in map(Requirement, PROJECT["optional-dependencies"][extra]):
            if entry.name == "sua":
                for inner in entry.extras:
                    yield from brings(inner)
            yield entry.name.lower()

    through_others = {"nbformat": "papermill", "IPython": "ipywidgets", "yaml": "pyyaml", "sklearn": "scikit-learn"}
    for package, extra in EXTRAS.items():
        assert through_others.get(package, package) in set(brings(extra)), package
    everything = set(brings("all"))
    assert {name for extra in PROJECT["optional-dependencies"] for name in brings(extra)} <= everything


def test_the_core_of_the_wheel_scores_saves_and_loads(unpacked):
    done = unpacked(EVERYDAY)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True True\n"


MISSING = {
    "sua.load_task": "models", "sua.worlds": "models", "sua.train": "models", "sua.load_model('a/b')": "models",
    "table()": "models", "sua.RemoteLM('http://localhost:1', 'm')": "api",
    "sua.report_html(sua.Predictions(probs=[[1, 0]]), 'r.html')": "report"}


def test_a_missing_extra_is_named_with_the_line_that_installs_it(unpacked):
    done = unpacked(f"""
import sua
from sua.scores.registry import table
for call in {list(MISSING)!r}:
    try:
        eval(call)
        print("nothing missing")
    except ModuleNotFoundError as error:
        print(error)
""")
    assert done.returncode == 0, done.stderr
    for call, said in zip(MISSING, done.stdout.splitlines(), strict=True):
        assert said.endswith(f"which the core of sua does without: pip install 'sua[{MISSING[call]}]'"), (call, said)


def test_another_missing_module_is_not_explained_away():
    from sua.extras import missing

    error = ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")
    assert missing(error, "sua.x") is error


@pytest.mark.parametrize("call", ["sua.recorded.ambiguous_questions()", "sua.recorded.llms()"])
def test_what_reads_the_checkout_says_so_elsewhere(call, tmp_path, monkeypatch):
    import sua

    monkeypatch.chdir(tmp_path)
    with pytest.raises(sua.paths.NotAvailableError, match=r"data/\S+ is part of the project's folder.*checkout"):
        eval(call)  # noqa: S307 - the two calls above


@pytest.mark.parametrize("arguments", [["01_theory_checks", "--profile", "cpu"], ["--explain", "--profile", "cpu"]])
def test_the_runner_needs_a_checkout(arguments, tmp_path, monkeypatch, capsys):
    from sua.study import run

    monkeypatch.chdir(tmp_path)
    assert run.main(arguments) == 1
    assert "notebooks/profiles is part of the project's folder" in capsys.readouterr().err


@pytest.mark.skipif(not os.environ.get("SUA_SLOW"), reason="SUA_SLOW is not set")
def test_an_empty_environment_with_the_wheel_has_no_torch(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python, environment = tmp_path / "env/bin/python", {**os.environ, "PYTHONPATH": ""}
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-q", wheel], check=True, cwd=tmp_path, env=environment)
    listed = subprocess.run([*pip, "list", "--format=freeze"], check=True, cwd=tmp_path, env=environment, text=True,
                            capture_output=True).stdout
    assert {line.split("==")[0].lower() for line in listed.split()} == CORE | {"sua", "pip", "setuptools"} - (
        {"setuptools"} if "setuptools" not in listed else set())
    done = subprocess.run([python, "-c", EVERYDAY], cwd=tmp_path, env=environment, text=True, capture_output=True)
    assert done.stdout == "True True\n", done.stderr
    scores = subprocess.run([tmp_path / "env/bin/sua", "score", "p.parquet", "--score", "sua"], cwd=tmp_path,
                            env=environment, text=True, capture_output=True, check=True).stdout
    assert scores.splitlines()[0].split() == ["id", "answer", "confidence", "sua", "label", "wrong"]
