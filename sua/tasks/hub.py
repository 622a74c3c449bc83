"""Sets of the Hugging Face hub at pinned revisions, read from a mirror or from the hub itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Iterable, Mapping

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, load_dataset

from .. import paths
from ..inputs import expect
from ..sources import pin
from .task import SPLITS


@dataclass(frozen=True)
class HubTask:
    """Where a hub data set, or a mirror's of the same layout, keeps what a Task needs.

    revision : which of the hub's is taken where no mirror has the set; None: its main of today.
    label_names : the classes in the order of their numbers.
    options : for multiple choice the column {"text": [...], "label": [...]}; `label` then names the right one, and rows
    with another number of options than label_names are left out.
    votes : a column of C numbers, people's votes or shares, which become label_dist. With label=None the label is the
    class of most votes, the first of equal ones.
    held_out : its labelled splits that nothing trains on.
    official : {split of the Task: the hub's}, such as {"train": "train", "calibration": "validation", "test": "test"}:
    these rows in the place of drawn ones, and no other splits.
    ValueError for fewer than two label names, neither label nor votes, or splits of other names.
    """

    hub_id: str
    revision: str | None = None
    label_names: tuple[str, ...] = ()
    text: str = "text"
    text_pair: str | None = None
    options: str | None = None
    label: str | None = "label"
    config: str = "default"
    held_out: tuple[str, ...] = ("validation", "test")
    votes: str | None = None
    official: Mapping[str, str] | None = field(default=None, hash=False)

    def __post_init__(self):
        expect(not isinstance(self.label_names, str) and len(self.label_names) > 1, lambda: f"label_names = "
               f"{self.label_names!r}: name the classes of {self.hub_id} in the order of their numbers, at least two")
        expect(self.label or self.votes, f"{self.hub_id}: label = votes = None: name the column of the labels, or of "
               "votes")
        unknown = [split for split in self.official or () if split not in SPLITS]
        expect(not unknown, f"official names the splits {unknown}: known are {', '.join(SPLITS)}")

    @property
    def splits(self) -> tuple[str, ...]:
        """The hub's splits that are read, each once."""
        return tuple(dict.fromkeys(self.official.values())) if self.official else ("train", *self.held_out)


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
    "commonsense_qa": HubTask("tau/commonsense_qa", pin("tau/commonsense_qa"), tuple("ABCDE"), text="question",
                              options="choices", label="answerKey", held_out=("validation",)),
    "boolq": HubTask("google/boolq", pin("google/boolq"), ("no", "yes"), text="passage", text_pair="question",
                     label="answer", held_out=("validation",)),
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


def labelled_rows(spec: HubTask, split: str) -> tuple[Dataset, dict]:
    """One split's labelled rows in the common schema, and where it came from."""
    rows, origin = hub_rows(spec, split, filter(None, (spec.text, spec.text_pair, spec.options, spec.label,
                                                       spec.votes)))
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
    if spec.votes:
        table["label_dist"] = shares = _shares(spec, prefix, rows[spec.votes][:])
    labels = list(rows[spec.label]) if spec.label else shares.argmax(-1).tolist()
    if spec.options:
        options = list(rows[spec.options])
        table["options"] = [list(row["text"]) for row in options]
        labels = [list(row["label"]).index(label) if len(row["text"]) == len(spec.label_names) else -1
                  for row, label in zip(options, labels)]
    table["label"] = [int(label) for label in labels]  # BoolQ's are True and False
    return Dataset.from_dict(table).select(np.flatnonzero(np.array(labels) >= 0))


def _shares(spec, split, votes):
    """(N, C) shares of the votes of each row."""
    c = len(spec.label_names)
    for i, row in enumerate(votes):
        is_count = isinstance(row, list) and len(row) == c and all(isinstance(v, (int, float)) and v >= 0 for v in row)
        expect(is_count and 0 < sum(row) < np.inf, lambda: f"{spec.hub_id}: row {i} of {split} has {spec.votes} = "
               f"{row!r}, expected {c} numbers of at least 0, one for each of label_names, not all 0")
    return np.array(votes, dtype=np.float64) / np.sum(votes, axis=1, dtype=np.float64, keepdims=True)


def from_hub(source: HubTask | HubSet, split: str) -> Dataset:
    """One split from the hub itself. NotAvailableError where it does not answer."""
    if source.revision is None:
        paths.tell_runner("notes", f"data set {source.hub_id} has no revision: the hub's main of today is taken")
    try:
        return load_dataset(source.hub_id, source.config, split=split, revision=source.revision)
    except Exception as error:  # whatever went wrong, the reader needs the same two remedies
        reason = f"revision {source.revision or 'main'}: {type(error).__name__}"
        raise paths.not_available("data set", f"{source.hub_id} ({source.config}, {split})", reason) from error
