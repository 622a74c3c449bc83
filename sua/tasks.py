"""Tasks: labelled inputs in named splits and one schema, from a generated world, a local mirror or the hub.

Columns of every split: `id`, `text` (and `text_pair` for pairs, `options` for multiple choice), `label`, and where they
are known `label_dist` (p*(y|x) or shares of human votes), `clarified` texts (one per reading) and their `weights`.
Splits: train, validation (to choose hyperparameters), calibration (to choose lambda, temperatures
and thresholds) and test (scored once).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset

from . import paths
from .perturb import KERNELS, OPTION_ORDER, Input, Perturbation, mixture, on_first
from .sources import pin

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
        if self.is_multiple_choice:
            known = {name: on_first(kernel) for name, kernel in known.items()} | {OPTION_ORDER.name: OPTION_ORDER}
        if names not in known:
            raise ValueError(f"task {self.name!r} has no perturbation {names!r}; known: {', '.join(known)}")
        return known[names]

    @property
    def is_multiple_choice(self) -> bool:
        """Whether the classes are the options that each input brings along."""
        return "options" in self.splits["train"].column_names

    @property
    def digest(self) -> str:
        """Hash of every row: equal digests mean equal data."""
        rows = hashlib.sha256()
        for name, split in sorted(self.splits.items()):
            rows.update(name.encode())
            rows.update(json.dumps(split.to_dict(), sort_keys=True).encode())
        return rows.hexdigest()[:16]


def inputs(split: Dataset) -> list[Input]:
    """The inputs of a split as models take them: texts, (text, text_pair) or (question, option, option, ...) tuples."""
    if "text_pair" in split.column_names:
        return list(zip(split["text"], split["text_pair"]))
    if "options" in split.column_names:
        return [(text, *options) for text, options in zip(split["text"], split["options"])]
    return list(split["text"])


def clarifications(split: Dataset) -> list[list[Input]]:
    """For each input of a split its Z clarifications, in the form of the inputs."""
    if "clarified_pair" in split.column_names:
        return [list(zip(first, second)) for first, second in zip(split["clarified"], split["clarified_pair"])]
    return [list(row) for row in split["clarified"]]


@dataclass(frozen=True)
class HubTask:
    """Where a hub data set keeps what a Task needs. held_out : its labelled splits that nothing trains on.

    options : for multiple choice the column {"text": [...], "label": [...]}; `label` then names the right one, and rows
    with another number of options than label_names are left out.
    """

    hub_id: str
    revision: str
    label_names: tuple[str, ...]
    text: str
    text_pair: str | None = None
    options: str | None = None
    label: str = "label"
    config: str = "default"
    held_out: tuple[str, ...] = ("validation", "test")

    @property
    def splits(self) -> tuple[str, ...]:
        return "train", *self.held_out


@dataclass(frozen=True)
class HubSet:
    """Where the hub keeps a set with columns of its own, which one function alone knows."""

    hub_id: str
    revision: str
    config: str
    splits: tuple[str, ...]


HUB_TASKS: dict[str, HubTask] = {
    "sst2": HubTask("stanfordnlp/sst2", pin("stanfordnlp/sst2"), ("negative", "positive"), text="sentence"),
    "ag_news": HubTask("fancyzhx/ag_news", pin("fancyzhx/ag_news"),
                       ("world", "sports", "business", "science and technology"), text="text", held_out=("test",)),
    "openbookqa": HubTask("allenai/openbookqa", pin("allenai/openbookqa"), tuple("ABCD"),
                          text="question_stem", options="choices", label="answerKey", config="main"),
    "arc_easy": HubTask("allenai/ai2_arc", pin("allenai/ai2_arc"), tuple("ABCD"), text="question",
                        options="choices", label="answerKey", config="ARC-Easy", held_out=("test",)),
}
_NLI = {"label_names": ("entailment", "neutral", "contradiction"), "text": "premise", "text_pair": "hypothesis"}
SNLI = HubTask("stanfordnlp/snli", pin("stanfordnlp/snli"), config="plain_text", held_out=("validation",), **_NLI)
MULTI_NLI = HubTask("nyu-mll/multi_nli", pin("nyu-mll/multi_nli"), held_out=("validation_matched",), **_NLI)
HUB_SETS: dict[str, HubSet] = {
    "bbq": HubSet("oskarvanderwal/bbq", pin("oskarvanderwal/bbq"), "All", ("test",)),
    "ambignq": HubSet("sewon/ambig_qa", pin("sewon/ambig_qa"), "light", ("validation",)),
    "triviaqa": HubSet("mandarjoshi/trivia_qa", pin("mandarjoshi/trivia_qa"), "rc.nocontext", ("validation",)),
    "mmlu": HubSet("cais/mmlu", pin("cais/mmlu"), "all", ("test",)),
}


def load_task(name: str | HubTask, sizes: Mapping[str, int] | None = None, seed: int = 0, **world) -> Task:
    """A task by name: a generated world ("topic", "nli", "facts"), a registered set ("sst2", "ag_news", "openbookqa",
    "arc_easy"), "chaosnli" (training rows of SNLI and MultiNLI, held-out rows with 100 human votes each), "bbq" (with
    `ambiguous`: whether the context leaves the question open), or any HubTask.

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
        return worlds.generate(name, sizes, seed, **world)
    composed = {"chaosnli": _chaosnli, "bbq": _bbq}
    if isinstance(name, str) and name not in (known := [*HUB_TASKS, *composed]):
        raise ValueError(f"unknown task {name!r}; known: {', '.join([*worlds.WORLDS, *known])}. For "
                         "another hub data set give a sua.tasks.HubTask that names its columns")
    if world:
        raise ValueError(f"task {name!r} takes no {sorted(world)}: only generated worlds do")
    if name in composed:
        return composed[name](sizes, seed)
    spec = HUB_TASKS[name] if isinstance(name, str) else name
    short = name if isinstance(name, str) else spec.hub_id.split("/")[-1]
    return _hub_task(short, spec, sizes, seed)


def _hub_task(name, spec, sizes, seed):
    loaded = {split: _rows(spec, split) for split in spec.splits}
    origin = loaded["train"][1]
    pool = {split: rows for split, (rows, _) in loaded.items()}
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
        splits[split] = rows.select(sorted(chosen))
    source = {"hub_id": spec.hub_id, "config": spec.config, **origin, "splits": "drawn anew, not the official ones"}
    paths.tell_runner("notes", f"{spec.hub_id} ({origin['origin']}): splits {source['splits']}; rows {sizes}")
    return Task(name, splits, spec.label_names, source=source)


def _chaosnli(sizes, seed):
    """Half of the training rows from SNLI, half from MultiNLI; calibration and test rows are people's votes."""
    from .recorded import chaosnli

    rng = np.random.default_rng(seed)
    splits, origins = DatasetDict(), {}
    for split in ("train", "validation"):
        parts = []
        for spec, size in zip((SNLI, MULTI_NLI), (sizes[split] - sizes[split] // 2, sizes[split] // 2)):
            rows, origin = _rows(spec, "train" if split == "train" else spec.held_out[0])
            origins[spec.hub_id] = origin
            parts.append(_draw(rows, size, rng, f"{spec.hub_id}: {split}"))
        splits[split] = concatenate_datasets(parts)
    votes = chaosnli()
    order = rng.permutation(len(votes))
    if (wanted := sizes["calibration"] + sizes["test"]) > len(votes):
        raise ValueError(f"chaosnli: calibration and test ask for {wanted} rows, there are {len(votes)}: lower sizes")
    splits["calibration"] = votes.select(sorted(order[:sizes["calibration"]]))
    splits["test"] = votes.select(sorted(order[sizes["calibration"]:wanted]))
    source = {**next(iter(origins.values())), "sets": origins, "splits": "drawn anew, not the official ones"}
    paths.tell_runner("notes", f"chaosnli: trained on SNLI and MultiNLI, tested on ChaosNLI; rows {sizes}")
    return Task("chaosnli", splits, SNLI.label_names, source=source)


def _bbq(sizes, seed):
    """BBQ (Parrish et al., Findings of ACL 2022): a context, a question about it and three options.

    In an ambiguous context the option that says "unknown" is right, in a disambiguated one a person. Items of one
    template (category, question_index) differ in few words, so all of them go to one split.
    """
    columns = ["category", "example_id", "question_index", "context_condition", "context", "question", "ans0", "ans1",
               "ans2", "label"]
    rows, origin = hub_rows(HUB_SETS["bbq"], "test", columns)
    rows = rows.select_columns(columns).to_list()
    data = Dataset.from_dict({
        "id": [f"{row['category']}-{row['example_id']}" for row in rows],
        "text": [f"{row['context']} {row['question']}" for row in rows],
        "options": [[row["ans0"], row["ans1"], row["ans2"]] for row in rows], "label": [row["label"] for row in rows],
        "ambiguous": [row["context_condition"] == "ambig" for row in rows]})
    templates = {}
    for i, row in enumerate(rows):
        templates.setdefault((row["category"], str(row["question_index"])), []).append(i)
    rng, members, parts = np.random.default_rng(seed), list(templates.values()), {split: [] for split in SPLITS}
    for i in rng.permutation(len(members)):  # to the split that is furthest from its size
        parts[min(SPLITS, key=lambda split: len(parts[split]) / sizes[split])] += members[i]
    splits = DatasetDict({split: _draw(data.select(part), sizes[split], rng, f"bbq: {split}")
                          for split, part in parts.items()})
    source = {"hub_id": HUB_SETS["bbq"].hub_id, "config": HUB_SETS["bbq"].config, **origin,
              "splits": "drawn anew, not the official ones"}
    paths.tell_runner("notes", f"bbq ({origin['origin']}): splits {source['splits']}; rows {sizes}")
    return Task("bbq", splits, tuple("ABC"), source=source)


def _draw(rows, size, rng, what):
    if size > len(rows):
        raise ValueError(f"{what} asks for {size} rows, there are {len(rows)}: lower sizes")
    return rows.select(sorted(rng.permutation(len(rows))[:size]))


def _rows(spec, split):
    """One split's labelled rows in the common schema, and where it came from."""
    rows, origin = hub_rows(spec, split, filter(None, (spec.text, spec.text_pair, spec.options, spec.label)))
    return _schema(rows, spec, split), origin


def hub_rows(source: HubTask | HubSet, split: str, columns: Iterable[str]) -> tuple[Dataset, dict]:
    """One split with the hub's own columns, from a mirror or the hub, and where it came from.

    Raises ValueError if one of `columns` is missing; NotAvailableError if neither a mirror nor the hub has the set.
    """
    file = paths.in_mirror("datasets", source.hub_id, source.config, f"{split}.parquet")
    if file:
        rows = Dataset(pq.read_table(file))
        origin = {"origin": "mirror", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    else:
        rows = from_hub(source, split)
        origin = {"origin": "hub", "revision": source.revision}
    where = f"{file}" if file else f"{source.hub_id}, split {split},"
    for column in columns:
        if column not in rows.column_names:
            raise ValueError(f"{where} has no column {column!r}; it has {', '.join(rows.column_names)}. Use the "
                             "hub's own columns, or a HubTask that names these")
    return rows, origin


def _schema(rows, spec, prefix):
    table = {"id": [f"{prefix}-{i}" for i in range(len(rows))], "text": list(rows[spec.text])}
    if spec.text_pair:
        table["text_pair"] = list(rows[spec.text_pair])
    labels = list(rows[spec.label])
    if spec.options:
        options = list(rows[spec.options])
        table["options"] = [list(row["text"]) for row in options]
        labels = [list(row["label"]).index(label) if len(row["text"]) == len(spec.label_names) else -1
                  for row, label in zip(options, labels)]
    table["label"] = labels
    return Dataset.from_dict(table).select(np.flatnonzero(np.array(labels) >= 0))


def from_hub(source: HubTask | HubSet, split: str) -> Dataset:
    """One split at the pinned revision, from the hub itself. Raises NotAvailableError."""
    try:
        return load_dataset(source.hub_id, source.config, split=split, revision=source.revision)
    except Exception as error:  # whatever went wrong, the reader needs the same two remedies
        reason = f"revision {source.revision}: {type(error).__name__}"
        raise paths.not_available("data set", f"{source.hub_id} ({source.config}, {split})", reason) from error
