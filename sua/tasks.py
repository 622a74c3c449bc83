"""Tasks: labelled inputs in named splits and one schema, from a generated world, a local mirror or the hub.

Columns of every split: `id`, `text` (and `text_pair` for pairs), `label`, and `label_dist` where p*(y|x) or human
votes are known. Splits: train, validation (to choose hyperparameters), calibration (to choose lambda, temperatures
and thresholds) and test (scored once).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass, field
from typing import Callable, Mapping, Sequence

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_dataset
from scipy.special import softmax

from . import paths
from .perturb import KERNELS, Input, Perturbation, mixture
from .predict import Predictions

SPLITS = ("train", "validation", "calibration", "test")


@dataclass(frozen=True)
class Task:
    """Named splits of labelled inputs, the kernels that keep their meaning, and where the rows came from."""

    name: str
    splits: DatasetDict
    label_names: tuple[str, ...]
    kernels: Mapping[str, Perturbation] = field(default_factory=dict)
    source: Mapping[str, object] = field(default_factory=dict)
    p_star: Callable[[Sequence[Input]], np.ndarray] | None = None

    @property
    def n_classes(self) -> int:
        return len(self.label_names)

    def __getitem__(self, split: str) -> Dataset:
        if split not in self.splits:
            raise ValueError(f"task {self.name!r} has no split {split!r}; it has {', '.join(self.splits)}")
        return self.splits[split]

    def perturbation(self, names: str | Sequence[str]) -> Perturbation:
        """The kernel of that name (the task's own first, then sua.perturb.KERNELS), or the mixture of several."""
        if not isinstance(names, str):
            kernels = [self.perturbation(name) for name in names]
            return kernels[0] if len(kernels) == 1 else mixture(*kernels)
        known = {**KERNELS, **self.kernels}
        if names not in known:
            raise ValueError(f"task {self.name!r} has no perturbation {names!r}; known: {', '.join(known)}")
        return known[names]

    @property
    def digest(self) -> str:
        """Hash of every row: equal digests mean equal data."""
        rows = hashlib.sha256()
        for name, split in sorted(self.splits.items()):
            rows.update(name.encode())
            rows.update(json.dumps(split.to_dict(), sort_keys=True).encode())
        return rows.hexdigest()[:16]


def inputs(split: Dataset) -> list[Input]:
    """The inputs of a split as models take them: texts, or (text, text_pair) tuples."""
    if "text_pair" in split.column_names:
        return list(zip(split["text"], split["text_pair"]))
    return list(split["text"])


@dataclass(frozen=True)
class HubTask:
    """Where a hub data set keeps what a Task needs. `evaluation` = its labelled split that nothing trains on."""

    hub_id: str
    revision: str
    label_names: tuple[str, ...]
    text: str
    text_pair: str | None = None
    label: str = "label"
    config: str = "default"
    held_out: tuple[str, ...] = ("validation", "test")


HUB_TASKS: dict[str, HubTask] = {
    "sst2": HubTask("stanfordnlp/sst2", "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb", ("negative", "positive"),
                    text="sentence"),
    "ag_news": HubTask("fancyzhx/ag_news", "eb185aade064a813bc0b7f42de02595523103ca4",
                       ("world", "sports", "business", "science and technology"), text="text", held_out=("test",)),
}


def load_task(name: str | HubTask, sizes: Mapping[str, int] | None = None, seed: int = 0, **world) -> Task:
    """A task by name: a generated world ("topic"), a registered hub set ("sst2", "ag_news"), or any HubTask.

    sizes : how many rows each split gets, default 1000 for train and test, 500 for calibration, 200 for validation.
    A seeded draw decides which. Hub rows without a label (-1) are left out; calibration and test rows come from the
    hub's held-out splits, and share a single one in proportion if it is smaller than asked for. Further arguments go
    to the world's generator.

    Raises ValueError for an unknown name, a missing column or too few rows; NotAvailableError if neither a mirror
    nor the hub has the set.
    """
    from . import worlds

    sizes = {"train": 1000, "validation": 200, "calibration": 500, "test": 1000, **(sizes or {})}
    if unknown := set(sizes) - set(SPLITS):
        raise ValueError(f"sizes names unknown splits {sorted(unknown)}; known: {', '.join(SPLITS)}")
    if min(sizes.values()) < 1:
        raise ValueError(f"sizes = {sizes}: every split needs at least one row")
    if name in worlds.WORLDS:
        return worlds.WORLDS[name](sizes=sizes, seed=seed, **world)
    if isinstance(name, str) and name not in HUB_TASKS:
        raise ValueError(f"unknown task {name!r}; known: {', '.join([*worlds.WORLDS, *HUB_TASKS])}. For another hub "
                         "data set give a sua.tasks.HubTask that names its columns")
    if world:
        raise ValueError(f"task {name!r} takes no {sorted(world)}: only generated worlds do")
    spec = HUB_TASKS[name] if isinstance(name, str) else name
    short = name if isinstance(name, str) else spec.hub_id.split("/")[-1]
    return _hub_task(short, spec, sizes, seed)


def _hub_task(name, spec, sizes, seed):
    loaded = {split: _rows(spec, split) for split in ("train", *spec.held_out)}
    origin = loaded["train"][1]
    pool = {split: rows.select(np.flatnonzero(np.array(rows[spec.label]) >= 0)) for split, (rows, _) in loaded.items()}
    held_out = [split for split in spec.held_out if len(pool[split])]
    if not held_out:
        raise ValueError(f"{spec.hub_id}: none of {', '.join(spec.held_out)} has labels; name a labelled split")
    rng = np.random.default_rng(seed)
    order = {split: list(rng.permutation(len(rows))) for split, rows in pool.items()}
    if len(held_out) == 1:  # the other's labels are hidden: calibration and test share what is there, in proportion
        wanted, rows = sizes["calibration"] + sizes["test"], len(pool[held_out[0]])
        if rows < wanted:
            part = rows * sizes["calibration"] // wanted
            sizes = {**sizes, "calibration": part, "test": rows - part}
    take = {"train": "train", "validation": "train", "calibration": held_out[0], "test": held_out[-1]}
    splits = DatasetDict()
    for split, origin_split in take.items():
        rows, size = pool[origin_split], sizes[split]
        chosen, order[origin_split] = order[origin_split][:size], order[origin_split][size:]
        if len(chosen) < size:
            raise ValueError(f"{spec.hub_id}: {split} asks for {size} rows, {origin_split} has {len(chosen)} left "
                             f"of {len(rows)}: lower sizes[{split!r}]")
        splits[split] = _schema(rows.select(sorted(chosen)), spec, origin_split)
    source = {"hub_id": spec.hub_id, "config": spec.config, **origin, "splits": "drawn anew, not the official ones"}
    paths.tell_runner("notes", f"{spec.hub_id} ({origin['origin']}): splits {source['splits']}; rows {sizes}")
    return Task(name, splits, spec.label_names, source=source)


def _schema(rows, spec, prefix):
    columns = {"text": spec.text, "text_pair": spec.text_pair, "label": spec.label}
    table = {ours: list(rows[theirs]) for ours, theirs in columns.items() if theirs}
    return Dataset.from_dict({"id": [f"{prefix}-{i}" for i in rows["_row"]], **table})


def _rows(spec, split):
    """One split with its row numbers, and where it came from; ValueError if the mapping names a missing column."""
    file = paths.in_mirror("datasets", spec.hub_id, spec.config, f"{split}.parquet")
    if file:
        rows = Dataset(pq.read_table(file))
        origin = {"origin": "mirror", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    else:
        rows = _from_hub(spec, split)
        origin = {"origin": "hub", "revision": spec.revision}
    where = f"{file}" if file else f"{spec.hub_id}, split {split},"
    for column in filter(None, (spec.text, spec.text_pair, spec.label)):
        if column not in rows.column_names:
            raise ValueError(f"{where} has no column {column!r}; it has {', '.join(rows.column_names)}. Use the "
                             "hub's own columns, or a HubTask that names these")
    return rows.add_column("_row", list(range(len(rows)))), origin


def _from_hub(spec, split):
    try:
        return load_dataset(spec.hub_id, spec.config, split=split, revision=spec.revision)
    except Exception as error:  # whatever went wrong, the reader needs the same two remedies
        reason = f"revision {spec.revision}: {type(error).__name__}"
        raise paths.not_available("data set", f"{spec.hub_id} ({spec.config}, {split})", reason) from error


def checklist_groups() -> dict[str, list[str]]:
    """CheckList's invariance groups for sentiment (Ribeiro et al., ACL 2020): original text -> its variants.

    Read from raw/checklist_sentiment of a mirror. NotAvailableError if no mirror has it.
    """
    groups = {}
    for group in _json_lines("checklist_sentiment", "test"):
        if group["kind"] == "INV" and len(group["texts"]) > 1:
            original, *rest = group["texts"]
            groups.setdefault(original, []).extend(rest)  # several tests may vary one text
    return groups


def recorded_llms() -> dict[str, Predictions]:
    """Option probabilities of 16 base LLMs on 3000 multiple-choice items (Ye et al., NeurIPS 2024), no gold answers.

    The first of three instruction prompts is x, the two others are its variants (K = 2). Read from
    raw/llm_mcq_logits of a mirror; NotAvailableError if no mirror has it.
    """
    with np.load(_raw("llm_mcq_logits", "logits.npz")) as saved:
        logits = np.concatenate([saved[name] for name in saved.files if name.endswith("_10k")], axis=2, dtype=float)
        models = [str(model) for model in saved["models"]]
    return {model: Predictions(probs=p[0], perturbed=p[1:].swapaxes(0, 1), meta={"task": "mcq", "model": model})
            for model, p in zip(models, softmax(logits, axis=-1))}


def recorded_chaosnli() -> dict[str, Predictions]:
    """Outputs of fine-tuned NLI models on ChaosNLI (Nie et al., EMNLP 2020): 100 human votes per item as label_dist.

    Here the "variants" are training seeds of one model: what flips between them is an error of one of them. Read from
    raw/chaosnli of a mirror; NotAvailableError if no mirror has it.
    """
    rows = [row for split in ("train", "validation", "test") for row in _json_lines("chaosnli", split)]
    found = {}
    for model in ("roberta-base", "bert-base-uncased"):
        names = sorted({name for row in rows for name in row["model_logits"] if name.startswith(model)})
        complete = [row for row in rows if set(names) <= set(row["model_logits"])]
        probs = softmax([[row["model_logits"][name] for name in names] for row in complete], axis=-1)
        found[model] = Predictions(
            probs=probs[:, 0], perturbed=probs[:, 1:], labels=[row["label"] for row in complete],
            label_dist=np.array([row["label_count"] for row in complete]) / 100, ids=[row["id"] for row in complete],
            meta={"task": "chaosnli", "model": model})
    return found


def _raw(name, file):
    found = paths.in_mirror("raw", name, file)
    if not found:
        raise paths.not_available("data set", f"raw/{name}", "not on the hub: a mirror only")
    return found


def _json_lines(name, split):
    return map(json.loads, _raw(name, f"{split}.jsonl").read_text(encoding="utf-8").splitlines())


def download(profile: str) -> None:
    """Fetch every hub data set and model of a profile's experiments into data/hub; what is there stays as it is."""
    from huggingface_hub import snapshot_download

    from .models import HUB_REVISIONS
    from .run import load_profile

    target = paths.root() / "data" / "hub"
    sections = [section for section in load_profile(profile).values() if "experiments" in section]
    experiments = [setting for section in sections for setting in section["experiments"].values()]
    for name in dict.fromkeys(setting["task"]["name"] for setting in experiments):
        if name not in HUB_TASKS:
            continue
        spec = HUB_TASKS[name]
        for split in ("train", *spec.held_out):
            file = target / "datasets" / spec.hub_id / spec.config / f"{split}.parquet"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                unfinished = file.with_suffix(".part")
                _from_hub(spec, split).to_parquet(unfinished)
                unfinished.replace(file)
            print(f"{spec.hub_id} {split}: {file.relative_to(paths.root())}")
    for model in dict.fromkeys(setting["model"] for setting in experiments if setting["model"] != "tiny"):
        folder = target / "models" / model
        try:
            snapshot_download(model, revision=HUB_REVISIONS.get(model, "main"), local_dir=folder,
                              allow_patterns=["*.json", "*.safetensors", "*.txt"])
        except Exception as error:
            raise paths.not_available("model", model, type(error).__name__) from error
        print(f"{model}: {folder.relative_to(paths.root())}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m sua.tasks", description="Fetch data sets and models.")
    parser.add_argument("command", choices=["download"])
    parser.add_argument("--profile", required=True)
    try:
        download(parser.parse_args().profile)
    except paths.NotAvailableError as error:
        sys.exit(str(error))
