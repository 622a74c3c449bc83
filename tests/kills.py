"""Kills at random moments of a whole smoke run, publishing included: `python tests/kills.py --kills 40` (an hour).

One copy of the project runs undisturbed, another is killed with SIGKILL and started again; then its publishing is
killed as often. Wrong is: another result, finished work done again, a published folder that mixes two runs.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
SMOKE = "-j2", "PROFILE=smoke"
ALL = ("reproduce",)
PUBLISH = """
from sua.study.run import StageRun
stage = StageRun("05_tables", "smoke")
print("ready", flush=True)
while True:
    stage.publish()
"""


def make(folder, *arguments):
    """`make` in a copy of the project, with this interpreter as the active environment."""
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}
    environment.pop("MAKEFLAGS", None)
    return subprocess.Popen(["make", *arguments], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)


def copy_of_the_project(folder):
    folder.mkdir()
    for name in ("sua", "notebooks", "data", "tests", "Makefile", "requirements.lock", "pyproject.toml"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "hub"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    return folder


def reproduced(folder, stages):
    """What `make` of these targets of the smoke profile prints until its end."""
    process = make(folder, *SMOKE, *stages)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def published(folder):
    """{name: content} of what the smoke profile's run in a copy has published."""
    return {file.name: file.read_bytes() for file in (folder / "figures/smoke").glob("*")}


def made(folder, stages):
    """What was published if all was run, else {name: content} of what the stages have made, but what tells times."""
    if stages == ALL:
        return published(folder)
    found = [file for stage in stages for file in (folder / "build/smoke" / stage).rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in found
            if file.name not in ("manifest.json", "notebook.ipynb")}


def expect_the_same(ours, theirs):
    """The same files with the same content, but for MANIFEST.json, which tells times."""
    assert ours.keys() == theirs.keys() and ours, sorted(ours.keys() ^ theirs.keys())
    differing = [name for name in ours if name != "MANIFEST.json" and ours[name] != theirs[name]]
    assert not differing, f"differ: {', '.join(differing)}"


def kill(process):
    """SIGKILL to a process and all that it started."""
    for child in [*psutil.Process(process.pid).children(recursive=True), process]:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            pass
    process.communicate()


def whole_and_killed(folder, kills, seed=0, stages=ALL):
    """Run stages in one copy of the project undisturbed, in another with so many kills; check it, and return both
    folders."""
    whole, killed = (copy_of_the_project(folder / name) for name in ("whole", "killed"))
    for copy in (whole, killed):
        profile = copy / "notebooks/profiles/smoke.yaml"
        profile.write_text(profile.read_text(encoding="utf-8").replace("publish: false", "publish: true"))
    start = time.time()
    reproduced(whole, stages)
    seconds, moments = time.time() - start, random.Random(seed)
    while kills:
        process = make(killed, *SMOKE, *stages)
        try:
            process.communicate(timeout=seconds * moments.uniform(0.02, 0.4))
        except subprocess.TimeoutExpired:
            kill(process)
            kills -= 1
        else:  # it was faster, so that the next kill needs another run
            expect_the_same(made(killed, stages), made(whole, stages))
            shutil.rmtree(killed / "build")
            shutil.rmtree(killed / "figures", ignore_errors=True)
    finished = {manifest.parent.name for manifest in (killed / "build/smoke").glob("[0-9]*/manifest.json")}
    output = reproduced(killed, stages)
    assert all(f"{stage} (smoke): up to date" in output for stage in finished), output
    expect_the_same(made(killed, stages), made(whole, stages))
    return whole, killed


def kill_publishing(folder, kills, seed=0):
    """Kill the publishing of a finished run: all files are there or none, and the next run completes them."""
    moments, before = random.Random(seed), published(folder)
    again = [sys.executable, "-m", "sua.study.run", "05_tables", "--profile", "smoke"]
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-c", PUBLISH], cwd=folder, text=True, stdout=subprocess.PIPE)
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0, 0.3))
        kill(process)
        assert published(folder) in ({}, before)
        subprocess.run(again, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        assert published(folder) == before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40, help="of the run, and again of its publishing")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.pop("PYTHONPATH", None)  # each copy runs its own sua
    with tempfile.TemporaryDirectory() as scratch:
        _, last = whole_and_killed(Path(scratch), options.kills, options.seed)
        kill_publishing(last, options.kills, options.seed)
    print(f"{options.kills} kills of the run and {options.kills} of its publishing: identical results")
