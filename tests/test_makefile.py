"""The Makefile takes what the user gives as text: nothing of it is run, split or expanded."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROFILES = sorted(file.stem for file in (ROOT / "notebooks/profiles").glob("*.yaml"))
HOSTILE = ["smoke; touch {}", "`touch {}`", "$(touch {})", "$(shell touch {})", "$$(touch {})", '"; touch {}; "',
           "'; touch {}; '", "smoke$(shell touch {})"]


def make(*arguments, **variables):
    """`make` with nothing set up and these environment variables; `PY=` says what stands in for Python."""
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("MAKEFLAGS", "MAKELEVEL", "SUA_MIRROR", "VIRTUAL_ENV", "CONDA_PREFIX")}
    return subprocess.run(["make", "-o", "setup", *arguments], cwd=ROOT, text=True, capture_output=True,
                          env={**environment, **variables})


def both_ways(*arguments, **variables):
    """The same variables on make's command line and in its environment."""
    given = [f"{name}={value}" for name, value in variables.items()]
    return make(*arguments, *given), make(*arguments, **variables)


@pytest.mark.parametrize("value", [*HOSTILE, "../profiles/smoke", "smoke cpu", "%", "no-such-profile"])
def test_a_profile_that_is_none_is_refused_with_the_list_of_profiles(value, tmp_path):
    for result in both_ways("explain", "PY=echo", PROFILE=value.format(tmp_path / "ran")):
        assert result.returncode and "is not the name of a profile" in result.stderr
        assert f"known: {' '.join(PROFILES)}." in result.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_are_accepted(profile):
    for result in both_ways("explain", "PY=echo", PROFILE=profile):
        assert result.stdout == f"-m sua.study.run --explain --profile {profile}\n", result.stderr
    assert make("explain", "PY=echo", "PROFILE=").stdout == make("explain", "PY=echo").stdout != ""


@pytest.mark.parametrize("value", [*HOSTILE, "two words", "-x", "it's", 'a "b"', "$HOME", "*"])
def test_folders_arrive_as_they_were_typed(value, tmp_path):
    value = value.format(tmp_path / "ran")
    for folder, there in ((value, f"{ROOT}/{value}"), (f"/mirrors/{value}", f"/mirrors/{value}")):
        for result in both_ways("grade", "PY=printenv SUA_MIRROR; echo", SUBMISSIONS=value, MIRROR=folder):
            assert result.stdout == f"{there}\nnotebooks/assignments/grade.py grade -- {value}\n", result.stderr
    assert not (tmp_path / "ran").exists()


def test_each_of_several_mirrors_is_a_folder_from_here_on():
    for result in both_ways("explain", "PY=printenv SUA_MIRROR; echo", PROFILE="smoke", MIRROR="two words:/a b:c"):
        assert result.stdout.splitlines()[0] == f"{ROOT}/two words:/a b:{ROOT}/c", result.stderr


def test_setup_compares_the_environments_sua_and_leaves_it(tmp_path):
    """The environment is the running one, which has the pins; PYTHONPATH stands for another clone in it."""
    (tmp_path / "sua").mkdir()
    (tmp_path / "sua/__init__.py").touch()
    active = {"VIRTUAL_ENV": sys.prefix, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    said = {folder: subprocess.run(["make", "setup"], cwd=ROOT, text=True, capture_output=True, check=True,
                                   env={**os.environ, **active, "PYTHONPATH": str(folder)})
            for folder in (ROOT, tmp_path)}
    assert not said[ROOT].stderr
    for part in (f"is {tmp_path / 'sua'}, not {ROOT / 'sua'}", f"install --no-deps -e {ROOT}", f"PYTHONPATH={ROOT}"):
        assert part in said[tmp_path].stderr
    assert [file.name for file in (tmp_path / "sua").iterdir() if file.suffix == ".py"] == ["__init__.py"]


def test_grade_asks_for_a_folder():
    result = make("grade", "PY=echo")
    assert result.returncode and "make grade SUBMISSIONS=folder" in result.stdout


def test_clean_keeps_the_course(tmp_path):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text(encoding="utf-8"), encoding="utf-8")
    for folder in ("notebooks/profiles", "build/assignments/submitted", "build/cpu", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "notebooks/profiles/cpu.yaml").touch()
    subprocess.run(["make", "clean", "PROFILE=cpu"], cwd=tmp_path, check=True, capture_output=True)
    assert [path.name for path in (tmp_path / "build").iterdir()] == ["assignments"]
    assert (tmp_path / "build/assignments/submitted").is_dir()


PYTHON = """#!/bin/sh
echo "python $*" >> log
[ "$2" != venv ] || { mkdir -p .venv/bin; cp "$0" .venv/bin/python; }
"""


@pytest.mark.parametrize("has_uv", [True, False])
def test_setup_installs_the_pins_with_uv_where_it_is_there(has_uv, tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "make", "mkdir", "cp", "touch"):
        (tools / name).symlink_to(shutil.which(name))
    stand_ins = {"python3": PYTHON} | ({"uv": "#!/bin/sh\necho \"uv $*\" >> log\n"} if has_uv else {})
    for name, script in stand_ins.items():
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    done = subprocess.run(["make", "setup"], cwd=tmp_path, env={"PATH": str(tools)}, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    ran = (tmp_path / "log").read_text().splitlines()
    by_pip = "python -m pip install -qq -r requirements.lock"
    by_uv = "uv pip install -q --python .venv/bin/python -r requirements.lock"
    assert (by_uv in ran, by_pip in ran) == (has_uv, not has_uv)
    assert (tmp_path / ".venv/ready").exists()
