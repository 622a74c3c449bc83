"""The strict runner on small projects of its own: what it refuses, what it keeps, what it does not do twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from sua.study import run

WRITE = "import os, pathlib\nfolder = pathlib.Path(os.environ['SUA_STAGE_DIR'])\n"


def project(folder: Path, cells: dict[str, list[str]], parameters: dict, needs: dict | None = None,
            outputs: tuple[str, ...] = ("out.txt",), tagged: bool = True) -> Path:
    """A folder with notebooks/<name>.ipynb for each of `cells` and one profile `p`; the first cell has parameters."""
    (folder / "notebooks" / "profiles").mkdir(parents=True, exist_ok=True)
    for name, sources in cells.items():
        notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
        if tagged:
            notebook.cells[0].metadata["tags"] = ["parameters"]
        notebook.metadata["sua"] = {"needs": (needs or {}).get(name, []), "outputs": list(outputs)}
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
    profile = {"settings": {"publish": True, "threads": 1}, **parameters}
    (folder / "notebooks" / "profiles" / "p.yaml").write_text(yaml.safe_dump(profile))
    return folder


@pytest.fixture
def execute(tmp_path, monkeypatch, capsys):
    """execute(cells, parameters, ...) -> (exit status, what was printed) of running the last notebook."""
    monkeypatch.chdir(tmp_path)

    def go(cells=None, parameters=None, notebook=None, **options):
        if cells:
            project(tmp_path, cells, parameters or {}, **options)
        status = run.main([notebook or list(cells)[-1], "--profile", "p"])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return go


GOOD = ["profile = 'p'\nsize = 1", WRITE + "(folder / 'out.txt').write_text(str(size))"]
SIZE_7 = {"01_a": {"size": 7}}


def test_parameters_reach_the_notebook_and_results_are_published(execute, tmp_path):
    noting = "from sua import paths\npaths.tell_runner('notes', 'drawn anew')"
    status, printed = execute({"01_a": [*GOOD, noting]}, SIZE_7)
    assert status == 0 and "[1/1] 01_a (p): it has not been run" in printed
    assert (tmp_path / "build/p/01_a/out.txt").read_text() == "7"
    assert (tmp_path / "figures/p/out.txt").read_text() == "7"
    manifest = json.loads((tmp_path / "figures/p/MANIFEST.json").read_text())["stages"]["01_a"]
    assert manifest["parameters"] == {"profile": "p", "size": 7}
    assert set(manifest["outputs"]) == {"out.txt", "notebook.ipynb"}
    assert manifest["notes"] == ["drawn anew"]
    assert manifest["machine"]["versions"]["papermill"] and manifest["seconds"] > 0


@pytest.mark.parametrize("cells, parameters, options, said", [
    (GOOD, {"01_a": {"size": 7, "speed": 1}}, {}, "unknown parameters for 01_a: ['speed']"),
    (GOOD, {"01_a": {}}, {}, "missing parameters for 01_a in profile 'p': ['size']"),
    (GOOD, {}, {}, "has no section '01_a'"),
    (GOOD, SIZE_7, {"tagged": False}, "has 0 cells tagged `parameters`"),
])
def test_refuses_before_anything_runs(execute, tmp_path, cells, parameters, options, said):
    status, printed = execute({"01_a": cells}, parameters, **options)
    assert status == 1 and said in printed
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("last, said", [
    ("raise ArithmeticError('tea')", "tea"),
    ("import sys; sys.exit(0)", "did not complete"),
    ("pass", "declared outputs are missing: out.txt"),
])
def test_a_stage_that_did_not_end_well_is_kept_apart(execute, tmp_path, last, said):
    status, printed = execute({"01_a": ["profile = 'p'", last, "after = 1"]}, {"01_a": {}})
    assert status == 1 and said in printed
    assert not (tmp_path / "build/p/01_a").exists() and not (tmp_path / "figures").exists()
    failed = tmp_path / "build/p/failed/01_a"
    assert said in (failed / "traceback.txt").read_text() and (failed / "notebook.ipynb").exists()


def test_unknown_profile_and_notebook_name_the_known_ones(execute, capsys):
    execute({"01_a": GOOD}, SIZE_7)
    assert run.main(["01_a", "--profile", "q"]) == 1
    assert "unknown profile 'q'; known: p" in capsys.readouterr().err
    assert run.main(["02_b", "--profile", "p"]) == 1
    assert "unknown notebook '02_b'; known: 01_a" in capsys.readouterr().err


def test_nothing_is_run_again_unless_an_input_or_output_changed(execute, tmp_path):
    counting = GOOD + [WRITE + "log = folder.parents[2] / 'log'\nlog.write_text(log.read_text() + '.' "
                       "if log.exists() else '.')"]
    runs = lambda: len((tmp_path / "log").read_text())
    execute({"01_a": counting}, SIZE_7)
    assert "up to date" in execute(notebook="01_a")[1] and runs() == 1

    notebook = nbformat.read(tmp_path / "notebooks/01_a.ipynb", as_version=4)
    os.utime(tmp_path / "notebooks/01_a.ipynb")  # a new date alone is no change
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "x"}
    nbformat.write(notebook, tmp_path / "notebooks/01_a.ipynb")
    assert "up to date" in execute(notebook="01_a")[1] and runs() == 1

    assert "changed: parameters" in execute({"01_a": counting}, {"01_a": {"size": 8}})[1] and runs() == 2
    assert "changed: notebooks/01_a.ipynb" in execute({"01_a": counting + ["1 + 1"]}, {"01_a": {"size": 8}})[1]
    assert runs() == 3
    (tmp_path / "build/p/01_a/out.txt").write_text("edited")
    assert "output missing or edited: out.txt" in execute(notebook="01_a")[1] and runs() == 4
    (tmp_path / "figures/p/out.txt").unlink()
    execute(notebook="01_a")
    assert (tmp_path / "figures/p/out.txt").exists() and runs() == 4


def test_a_stage_follows_the_stages_it_needs(execute, tmp_path, capsys):
    read = ["profile = 'p'", WRITE + "import json\nup = folder.parent / '01_a' / 'out.txt'\n"
            "(folder / 'out.txt').write_text(up.read_text() + '!')"]
    options = dict(needs={"02_b": ["01_a"]})
    status, printed = execute({"01_a": GOOD, "02_b": read}, {**SIZE_7, "02_b": {}}, **options)
    assert status == 1 and "02_b needs 01_a, but it has not been run" in printed
    assert execute(notebook="01_a")[0] == 0 and execute(notebook="02_b")[0] == 0
    assert (tmp_path / "figures/p/out.txt").read_text() == "7!"
    project(tmp_path, {"01_a": GOOD, "02_b": read}, {"01_a": {"size": 9}, "02_b": {}}, **options)
    run.main(["--explain", "--profile", "p"])
    assert capsys.readouterr().out.splitlines() == ["01_a: changed: parameters", "02_b: up to date"]
    execute(notebook="01_a")
    assert "changed: stage 01_a" in execute(notebook="02_b")[1]


def test_a_manifest_says_whether_its_time_is_that_of_all_the_work(execute, quick, tmp_path):
    def uncached(stage):
        return run.read_manifest(tmp_path / "build/p" / stage)["uncached"]

    execute({"01_a": GOOD}, SIZE_7)
    assert uncached("01_a")  # nothing was there
    execute({"01_a": GOOD}, {"01_a": {"size": 8}})
    assert not uncached("01_a")  # it may have found what its first try kept
    execute({"02_b": GOOD}, {"01_a": {"size": 8}, "02_b": {"size": 1}})
    assert uncached("02_b")
    shutil.rmtree(tmp_path / "build/p")
    (tmp_path / "build/p/models").mkdir(parents=True)
    execute({"01_a": GOOD}, SIZE_7)
    assert not uncached("01_a")  # models of nobody knows when


def test_killed_after_the_last_line_of_work_only_moves(execute, tmp_path, monkeypatch):
    monkeypatch.setattr(run.StageRun, "_into_place", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        execute({"01_a": GOOD}, SIZE_7)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run.StageRun, "_execute", lambda self: pytest.fail("executed again"))
    assert run.main(["01_a", "--profile", "p"]) == 0
    assert (tmp_path / "build/p/01_a/out.txt").read_text() == "7"


class Killed(BaseException):
    """In the place of SIGKILL: nothing handles it."""


@pytest.fixture
def quick(monkeypatch):
    """Without a kernel: the stage writes its parameter `size` to out.txt, and its notebook as it is."""
    def write(stage):
        (stage.staging / "out.txt").write_text(str(stage.parameters["size"]))
        nbformat.write(stage.notebook, stage.staging / run.EXECUTED)

    monkeypatch.setattr(run.StageRun, "_execute", write)
    monkeypatch.setattr(run.StageRun, "_check", lambda self: None)


def as_published(folder):
    return {file.name: file.read_bytes() for file in (folder / "figures/p").glob("*")}


@pytest.mark.parametrize("step", range(1, 7))
def test_publishing_that_was_killed_is_all_or_nothing_and_done_by_the_next_run(execute, quick, tmp_path, monkeypatch,
                                                                               step):
    """Killed at each step: writing a file, moving the old folder away, moving the new one to its place."""
    execute({"01_a": GOOD}, SIZE_7)
    old, calls = as_published(tmp_path), []

    def counted(system):
        def call(first, *rest):
            if "figures" in str(first):
                calls.append(first)
                if len(calls) == step:
                    raise Killed
            return system(first, *rest)
        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", counted(Path.write_bytes))
        patch.setattr(os, "replace", counted(os.replace))
        try:
            execute({"01_a": GOOD}, {"01_a": {"size": 8}})
        except Killed:
            assert as_published(tmp_path) in ({}, old)
    assert len(calls) == min(step, 5)
    execute(notebook="01_a")
    assert as_published(tmp_path)["out.txt"] == b"8"
    manifest = json.loads(as_published(tmp_path)["MANIFEST.json"])["stages"]["01_a"]
    assert manifest == run.read_manifest(tmp_path / "build/p/01_a")
    assert [file.name for file in (tmp_path / "figures").iterdir()] == ["p"]


def test_what_is_published_is_compared_with_its_manifest_too(execute, quick, tmp_path):
    execute({"01_a": GOOD}, SIZE_7)
    published = as_published(tmp_path)
    for name, content in (("MANIFEST.json", b'{"profile": "p", "stages": {}}'), ("out.txt", b"8"), ("stale", b"")):
        (tmp_path / "figures/p" / name).write_bytes(content)
        assert "up to date" in execute(notebook="01_a")[1] and as_published(tmp_path) == published
    changed = tmp_path / "figures/p/out.txt"
    os.utime(changed, (0, 0))  # untouched if nothing differs
    execute(notebook="01_a")
    assert changed.stat().st_mtime == 0


@pytest.mark.parametrize("damaged", [b"{", b"null", b'{"inputs": {}, "outputs": 3}', b"\xff", b"[" * 100_000],
                         ids=["cut", "null", "number", "bytes", "deep"])
def test_a_damaged_manifest_makes_its_stage_run_anew(execute, quick, tmp_path, damaged):
    execute({"01_a": GOOD}, SIZE_7)
    file = tmp_path / "build/p/01_a/manifest.json"
    file.write_bytes(damaged)
    assert "01_a (p): its manifest.json is damaged" in execute(notebook="01_a")[1]
    assert run.read_manifest(file.parent)["outputs"].keys() == {"out.txt", "notebook.ipynb"}
    assert "up to date" in execute(notebook="01_a")[1]


@pytest.mark.parametrize("damaged, said", [
    (b"settings: {threads: 1", "p.yaml is no YAML"), (b"\xff\xfe\x00", "p.yaml is no YAML"),
    (b"", "p.yaml: the whole is None"), (b"- 1", "p.yaml: the whole is [1], expected `key: value` lines"),
    (b"settings: 3\n01_a: {size: 7}", "p.yaml: settings is 3"), (b"01_a: [size, 7]", "01_a is ['size', 7]")])
def test_a_damaged_profile_is_named(execute, tmp_path, damaged, said):
    project(tmp_path, {"01_a": GOOD}, SIZE_7)
    (tmp_path / "notebooks/profiles/p.yaml").write_bytes(damaged)
    status, printed = execute(notebook="01_a")
    assert status == 1 and said in printed


def test_killed_at_any_moment_it_ends_in_the_same_results(tmp_path):
    """Kill the runner and its kernel with SIGKILL as they start and in the middle of the work, then let it finish."""
    waiting = ["profile = 'p'\nsize = 1", WRITE + "import time\n(folder / 'out.txt').write_text('half')\n"
               "while not (folder.parents[2] / 'go').exists():\n    time.sleep(0.1)",
               WRITE + "(folder / 'out.txt').write_text(str(size))"]
    project(tmp_path, {"01_a": waiting}, SIZE_7)
    command = [sys.executable, "-m", "sua.study.run", "01_a", "--profile", "p"]
    for there in (tmp_path, tmp_path / "build/p/.01_a.new/out.txt"):  # a second later and as soon as this exists
        process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        time.sleep(1)
        while not there.exists() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "figures").exists()
    (tmp_path / "go").touch()
    assert subprocess.run(command, cwd=tmp_path).returncode == 0
    assert (tmp_path / "figures/p/out.txt").read_text() == "7"
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "up to date" in again.stdout


SHOWING = """
import sys, time
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display
for i in range(3):
    print('step', i, flush=True)
    time.sleep(0.01)
print('bar 1\\rbar 2', file=sys.stderr)
print(f'in {folder.resolve().parents[2]}', object())
figure, axes = plt.subplots()
axes.plot([0, 1], [1, 0])
figure.savefig(folder / 'training_curves.png')
(folder / 'captions.json').write_text('{"training_curves": "A line that falls."}')
plt.show()
display(Markdown('**found**'), pd.DataFrame({'a': [1]}))
display({'application/vnd.jupyter.widget-view+json': {'model_id': 'a'}, 'text/plain': 'FloatSlider()'}, raw=True)
"""


def test_the_executed_notebook_is_published_with_what_it_shows(execute, tmp_path):
    name = "03_sua_tr_training"
    assert execute({name: [*GOOD, SHOWING]}, {name: {"size": 7}})[0] == 0
    first = {file.name: file.read_bytes() for file in (tmp_path / "figures/p").glob("03*")}
    assert first.keys() == {f"{name}.ipynb", f"{name}.png"}
    text = first[f"{name}.ipynb"].decode()
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    sources = "".join(cell.source for cell in notebook.cells)
    assert "size = 7" in sources and "size = 1" not in sources and "A line that falls." in notebook.cells[1].source
    stream, picture, found, table, slider = notebook.cells[-1].outputs
    assert stream.text == "step 0\nstep 1\nstep 2\nin . <object object>\n"
    assert set(picture.data) == {"image/png"} and len(picture.data["image/png"]) < 20_000
    assert found.data["text/markdown"] == "**found**" and "<td>1</td>" in table.data["text/html"]
    assert slider.data == {"text/plain": "FloatSlider()"}
    for forbidden in (str(tmp_path), "papermill", "start_time", "at 0x"):
        assert forbidden not in text, forbidden
    (tmp_path / "build/p" / name / "out.txt").write_text("edited")  # so that it runs again
    assert execute(notebook=name)[0] == 0
    assert {file.name: file.read_bytes() for file in (tmp_path / "figures/p").glob("03*")} == first
    assert "up to date" in execute(notebook=name)[1]


def test_every_stage_that_is_needed_is_published_too(execute, tmp_path):
    execute({"01_a": GOOD, "02_b": GOOD}, {**SIZE_7, "02_b": {"size": 8}}, needs={"02_b": ["01_a"]}, notebook="01_a")
    execute(notebook="02_b")
    assert {file.name for file in (tmp_path / "figures/p").glob("*")} == {
        "MANIFEST.json", "out.txt", "01_a.ipynb", "02_b.ipynb"}
    (tmp_path / "figures/p/01_a.ipynb").write_text("{}")
    assert "results are in figures/p/" in execute(notebook="02_b")[1]
    assert "size = 7" in (tmp_path / "figures/p/01_a.ipynb").read_text()


def test_a_small_picture_shows_the_same():
    import io

    import numpy as np
    from PIL import Image

    from sua.study.executed import small

    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[5:15, 5:15] = 200, 30, 30, 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", pnginfo=None)
    shown = np.array(Image.open(io.BytesIO(small(file.getvalue()))).convert("RGB"))
    assert (shown[0, 0] == 255).all() and (shown[10, 10] == (200, 30, 30)).all()  # what was transparent is white
    assert small(small(file.getvalue())) == small(file.getvalue())
