"""The project as a whole: pins agree, notebooks are clean, one profile schema, the README shows committed results,
and `make reproduce` survives being killed."""

import ast
import json
import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from datasets import Dataset
from packaging.requirements import Requirement
from scipy.special import entr, logsumexp, rel_entr
from sklearn.metrics import roc_auc_score

from kills import copy_of_the_project, make, whole_and_killed
from loopback import Net
from pins import unmet
import sua
from sua import Predictions
from sua.metrics.ranking import comparable
from sua.models.tiny import tiny_encoder, tiny_llama
from sua.study import experiment, pages, run
from sua.tasks import inputs, load_task

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PROFILES = sorted(file.stem for file in (ROOT / "notebooks/profiles").glob("*.yaml"))


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def pyproject_requirements():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [entry for extra in project["optional-dependencies"].values() for entry in extra]
    requirements = [Requirement(entry) for entry in project["dependencies"] + extras]
    return [requirement for requirement in requirements if requirement.name != project["name"]]  # an extra in another


def test_pins_agree_everywhere():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!+-]+", line) for line in lines)
    pins = {line.split("==")[0].lower(): line.split("==")[1] for line in lines}
    for requirement in pyproject_requirements():
        assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert {"pip": ["-r requirements.lock", "-e ."]} in environment
    assert pins["torch"] == "2.13.0"


def test_pins_check_finds_what_is_missing_or_other(tmp_path):
    lock = tmp_path / "lock"
    lock.write_text(f"# pins\nnumpy=={version('numpy')}\ntorch=={version('torch').split('+')[0]}\n")
    assert unmet(lock) == []
    lock.write_text("numpy==0.1\nno-such-package==1.0\n")
    assert unmet(lock) == ["numpy", "no-such-package"]


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*) \$\(STAGES\)", makefile, re.MULTILINE)[1].split())
    printed = subprocess.run(["make", "help"], capture_output=True, text=True, check=True).stdout
    assert targets == {line.split()[0] for line in printed.splitlines() if re.match(r"[a-z]+ {2,}", line)}


def test_makefile_has_the_edges_that_the_notebooks_declare():
    makefile = (ROOT / "Makefile").read_text()
    for notebook in NOTEBOOKS:
        edges = re.findall(rf"^{notebook.stem}: (.*)$", makefile, re.MULTILINE)
        declared = nbformat.read(notebook, as_version=4).metadata["sua"]["needs"]
        needs = [line.split("|")[0] for line in edges]  # what follows | is order only
        assert [stage for line in needs for stage in line.split()] == declared, notebook.stem


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_are_clean(notebook):
    content = nbformat.read(notebook, as_version=4)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in content.cells) == 1
    assert content.metadata["kernelspec"]["name"] == "python3"
    for cell in code:
        assert not cell.outputs and cell.execution_count is None
        assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE), "shell or magic"
        assert not re.search(r"[\"'](/|~/|[A-Z]:\\)", cell.source), "absolute path"
        assert len(cell.source.splitlines()) <= 30 or "parameters" in cell.metadata.get("tags", []), (
            "a long cell wants a function in sua")
    text = " ".join(cell.source for cell in content.cells if cell.cell_type == "markdown")
    for part in ("You will learn", "What to see", "Try it yourself", "Where we deviate"):
        assert part in text or notebook.stem.startswith("05") and part == "What to see"


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_fits_every_notebook(profile):
    for notebook in NOTEBOOKS:
        run.StageRun(notebook.stem, profile)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_defaults_in_the_notebook_are_those_of_the_cpu_profile(notebook):
    (cell,) = [cell for cell in nbformat.read(notebook, as_version=4).cells
               if "parameters" in cell.metadata.get("tags", [])]
    names = [node.targets[0].id for node in ast.parse(cell.source).body]
    exec(cell.source, space := {"world_setting": experiment.world_setting})  # noqa: S102 - the reader runs it too
    defaults = {name: space[name] for name in names}
    assert defaults == run.StageRun(notebook.stem, "cpu").parameters


def test_pages_show_the_committed_tables():
    for page in pages.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert pages.render_page(text) == text, "run `make readme`"
        assert "<!-- begin " in text


def examples_of(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def shown_by(example, capsys):
    """The names that an example defines; it prints something."""
    exec(example, space := {})  # noqa: S102 - the reader would run it too
    assert capsys.readouterr().out.strip()
    return space


def test_the_readme_examples_run(capsys, monkeypatch, tmp_path):
    own_model, harness = examples_of("README.md")
    space = shown_by(own_model, capsys)
    assert len(space["risk"]) == len(space["texts"])
    monkeypatch.chdir(tmp_path)  # where the example's folders stand
    (tmp_path / "runs").mkdir()
    for name, log in (("prompt_1", "plain"), ("prompt_2", "instruct"), ("options_reversed", "letters")):
        (tmp_path / "runs" / name).symlink_to(ROOT / "tests/fixtures/lm_eval" / log)
    assert len(shown_by(harness, capsys)["predictions"]) == 24 and (tmp_path / "report.html").exists()


def test_the_how_to_examples_run(capsys, monkeypatch):
    words = ["Which is largest? larger? the Sun the Moon the Earth What floats on water? iron cork granite gold "
             "A. B. C. D. A B C D (A) (B)"]
    local = tiny_llama(words, template="{question} {options} :", score="letter")
    monkeypatch.setattr("sua.models.load.load_model", lambda name, causal, score: local)  # stand-ins for hub and server
    monkeypatch.setattr("sua.models.remote.RemoteLM", lambda url, name, cache: local)
    of_hub, remote, written, clarified, abstaining, piped = (shown_by(example, capsys) for example in
                                                             examples_of("notebooks/site/how_to.md"))
    assert of_hub["predictions"].n_classes.tolist() == remote["predictions"].n_classes.tolist() == [3, 4]
    assert not np.allclose(of_hub["predictions"].perturbed, of_hub["predictions"].probs[:, None])
    assert written["answers"].samples.shape == (2, 5, 8)
    collapsed, fine = clarified["sua"].score(clarified["predictions"], "clarification_sua")
    assert collapsed > 0.5 > 0 > fine
    assert abstaining["rule"].threshold is not None and abstaining["rule"].coverage > 0.4
    sure, unsure = abstaining["service"].answer(["a clever turn", "a quiet evening"])
    assert sure.answer == 1 and unsure.answer == sua.ABSTAIN
    assert piped["predictions"].is_error.tolist() == [False, True]


def test_the_readme_is_short_and_its_links_hold():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1800
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    published = {f"figures/cpu/{stage.stem}.{kind}" for stage in NOTEBOOKS for kind in ("ipynb", "png")}
    assert {f"figures/cpu/{stage.stem}.ipynb" for stage in NOTEBOOKS} <= set(links)
    assert [link for link in links if not (ROOT / link).exists() and link not in published] == []


def test_published_notebooks_are_small_and_tell_nothing_of_the_machine():
    for folder in (ROOT / "figures").iterdir():
        notebooks = sorted(folder.glob("*.ipynb")) if folder.is_dir() else []
        assert sum(file.stat().st_size for file in notebooks) < 8_000_000, folder
        for file in notebooks:
            content = nbformat.read(file, as_version=4)
            assert any(cell.get("outputs") for cell in content.cells), file
            assert not re.search(r"papermill|\bat 0x|/home/|/tmp/", nbformat.writes(content)), file


def test_a_stage_killed_at_random_moments_ends_as_if_it_had_not_been(tmp_path):
    whole_and_killed(tmp_path, kills=2, stages=("02_ambiguity_collapse",))


SLOW = pytest.mark.skipif(not os.environ.get("SUA_SLOW"), reason="SUA_SLOW is not set")


@SLOW
def test_reproduce_smoke_killed_at_random_moments_ends_as_if_it_had_not_been(tmp_path):
    whole, _ = whole_and_killed(tmp_path, kills=2)
    table_1_by_another_library(whole / "build/smoke")


@SLOW
def test_the_gpu_profile_runs_on_stand_ins(hub_sets, tmp_path):
    """Real rows, tiny models in the place of the real ones, and every task of the profile at toy size."""
    folder, stand_ins = copy_of_the_project(tmp_path / "project"), hub_sets
    (stand_ins / "models").unlink()  # the real ones
    trivia = stand_ins / "datasets/mandarjoshi/trivia_qa/rc.nocontext/validation.parquet"
    trivia.parent.mkdir(parents=True)
    Dataset.from_list([{"question_id": f"tc_{i}", "question": f"What is number {i}?", "answer": {
        "value": f"{i}", "aliases": [f"{i}"]}} for i in range(8)]).to_parquet(trivia)
    words = inputs(load_task("sst2", {"train": 500})["train"])
    tiny_llama([*words, "(A) (B)"]).save(stand_ins / "models/Qwen/Qwen2.5-0.5B-Instruct")
    encoder, home = tiny_encoder(words, 2), stand_ins / "models/sentence-transformers/all-MiniLM-L6-v2"
    encoder.tokenizer.save_pretrained(home)
    encoder.model.base_model.save_pretrained(home)  # without a head, as the real one
    small = {"sizes": {"train": 16, "validation": 8, "calibration": 24, "test": 32}, "epochs": 1, "seeds": [0], "k": 2,
             "resamples": 50, "dropout": 2, "audit_items": 20, "worlds": 2000, "scatter": 200, "grid_levels": 3,
             "runs": 20, "repeats": 5, "promises": [[0.2, 0.2]], "publish": False, "threads": 1, "ambient_items": 20,
             "llm_items": 240, "methods": {"erm": [{}], "sua_tr": [{}], "sua_tr_repaired": [{"share": 0.25}]},
             "all_trainings": ["erm", "sua_tr", "sua_tr_repaired"], "max_new_tokens": 4, "samples": 3,
             "sets": {"own_questions": 6, "ambignq": 6, "triviaqa": 6}, "models": ["Qwen/Qwen2.5-0.5B-Instruct"],
             "curve": {"experiments": ["sst2"], "methods": ["erm", "sua_tr"], "rows": [[8, 1]], "test": 16}}

    def cut(node):  # `worlds` is a number in one notebook, and a mapping to be cut itself in another
        return {key: small[key] if key in small and isinstance(small[key], dict) == isinstance(value, dict) else
                cut(value) if isinstance(value, dict) else value for key, value in node.items()}

    file = folder / "notebooks/profiles/gpu.yaml"
    profile = cut(yaml.safe_load(file.read_text(encoding="utf-8")))
    profile["02_ambiguity_collapse"]["language_models"]["items"] = 4
    asked = profile["04_baselines"]["language_models"]["tasks"]
    for spec in asked.values():  # of some the mirror has no training rows
        spec["sizes"] = {"calibration": 24, "test": 32}
    tasks = profile["05_tables"]["tasks"]
    file.write_text(yaml.safe_dump(profile, sort_keys=False), encoding="utf-8")
    # the longest stage first, beside it the two that only the last waits for
    process = make(folder, "-j2", "03_sua_tr_training", "reproduce", "PROFILE=gpu", f"MIRROR={stand_ins}")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    table = pd.read_csv(folder / "build/gpu/05_tables/table1.csv")
    assert len(tasks) == 5 and len(asked) == 9
    shown = {column.split(" / ")[0] for column in table.columns[1:]}
    assert shown == {*tasks, *(f"zero-shot {name}" for name in asked)}
    asked = pd.read_csv(folder / "build/gpu/02_ambiguity_collapse/metrics.csv")
    asked = asked[(asked["model"] == "Qwen2.5-0.5B-Instruct") & (asked["metric"] == "accuracy")]
    assert {name.split(" (")[0] for name in asked["task"]} == set(small["sets"])


@SLOW
def test_the_encoder_profile_runs_on_what_download_brought(mirror, tmp_path, monkeypatch):
    """From an empty cache and a server in the place of the net, which is gone when the notebooks run."""
    folder, net = copy_of_the_project(tmp_path / "project"), Net(mirror)
    monkeypatch.delenv("SUA_MIRROR")
    for name, value in {"SUA_GITHUB": net.address, "HF_ENDPOINT": net.address, "HF_HOME": tmp_path / "cache",
                        "HF_HUB_DISABLE_XET": "1"}.items():
        monkeypatch.setenv(name, str(value))
    for profile in ("encoder", "encoder_smoke"):
        process = make(folder, "download", f"PROFILE={profile}")
        output, _ = process.communicate()
        assert process.returncode == 0, output
    net.close()
    process = make(folder, "-j2", "reproduce", "PROFILE=encoder_smoke")
    output, _ = process.communicate()
    assert process.returncode == 0 and "not available" not in output, output
    manifest = json.loads((folder / "build/encoder_smoke/04_baselines/manifest.json").read_text(encoding="utf-8"))
    assert any("calibration-on-disagreement-data" in name for name in manifest["inputs"])


def table_1_by_another_library(build):
    """Table 1's numbers again from the saved predictions, by scikit-learn and formulas written out here. Scores that
    agree to nine digits are tied, as everywhere: a model that has learned nothing has many."""
    of_seed = lambda task, training, seed: Predictions.load(
        build / ("04_baselines" if task.startswith("zero-shot ") else "03_sua_tr_training") / "predictions"
        / f"{task}-{training}-{seed}-test.parquet")
    entropy = lambda p: entr(p).sum(-1)
    kl = lambda p: rel_entr(p.probs[:, None], np.maximum(p.perturbed, 1e-12)).sum(-1).mean(1)
    formulas = {
        "msp": lambda p: -p.probs.max(-1), "entropy": lambda p: entropy(p.probs), "sensitivity": kl,
        "sua": lambda p: kl(p) - entropy(p.probs), "orbit_entropy": lambda p: entropy(p.orbit.mean(1)),
        "sensitivity_tv": lambda p: np.abs(p.perturbed - p.probs[:, None]).sum((1, 2)),
        "disagreement": lambda p: (p.perturbed.argmax(-1) != p.probs.argmax(-1)[:, None]).sum(1),
        "energy": lambda p: -logsumexp(p.logits, axis=-1), "neg_entropy": lambda p: -entropy(p.probs)}
    printed = pd.concat([pd.read_csv(build / "04_baselines" / f"{name}intervals.csv") for name in ("", "zero_shot_")])
    printed = printed[printed["reference"] == "entropy"].set_index(["task", "training", "score"])["auroc"]
    seeds = run.StageRun("05_tables", "smoke").parameters["seeds"]
    table = pd.read_csv(build / "05_tables/table1.csv", index_col="score")
    compared = 0
    for column in table:
        task, training = column.split(" / ")
        zero_shot = task.startswith("zero-shot ")  # in turn each of nine formulations is x
        predictions = [of_seed(task.removesuffix(" (clear)"), training, seed)
                       for seed in (range(9) if zero_shot else seeds)]
        if task.endswith(" (clear)"):
            predictions = [p.subset(p.label_dist.max(-1) == 1) for p in predictions]
        for name, formula in formulas.items():
            if name == "energy" and zero_shot:
                assert pd.isna(table.loc[name, column])  # written as n/a
                continue
            mean = np.mean([roc_auc_score(p.probs.argmax(-1) != p.labels, comparable(np.float64(formula(p))))
                            for p in predictions])
            assert printed[task, training, name] == pytest.approx(mean, abs=1e-9), (column, name)
            assert float(table.loc[name, column].split()[0]) == pytest.approx(mean, abs=0.0005001), (column, name)
            compared += 1
    assert compared >= 9 * 2 and any(column.startswith("zero-shot ") for column in table)
