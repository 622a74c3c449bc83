"""Tasks by name: generated worlds, sets of the hub, and those composed of several."""

from __future__ import annotations

from typing import Mapping

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from .. import paths
from . import worlds
from .hub import HUB_SETS, HUB_TASKS, MULTI_NLI, SNLI, HubTask, hub_rows, labelled_rows
from .recorded import chaosnli
from .task import SPLITS, Task


def load_task(name: str | HubTask, sizes: Mapping[str, int] | None = None, seed: int = 0, **world: object) -> Task:
    """A task by name: a generated world ("topic", "nli", "facts"), a registered set ("sst2", "ag_news", "openbookqa",
    "arc_easy", "commonsense_qa", "boolq"), "chaosnli" (training and validation rows of SNLI and, as far as there are so
    many, as many of MultiNLI; held-out rows with 100 human votes each), "bbq" (with `ambiguous`: whether the context
    leaves the question open), or any HubTask.

    sizes : how many rows each split gets, default 1000 for train and test, 500 for calibration, 200 for validation; a
    split of 0 rows is left out, and training rows that no split takes are not read. A seeded draw decides which and in
    what order. Hub rows without a label (-1) are left out; calibration and test rows come from the hub's held-out
    splits, and share a single one in proportion if it is smaller than asked for. `official` splits of a HubTask are
    whole and as they are where `sizes` does not name them. Further arguments go to the world's generator.

    Raises ValueError for an unknown name, a missing column or too few rows; NotAvailableError if neither a mirror
    nor the hub has the set.
    """
    asked, sizes = sizes or {}, {"train": 1000, "validation": 200, "calibration": 500, "test": 1000, **(sizes or {})}
    if unknown := set(sizes) - set(SPLITS):
        raise ValueError(f"sizes names unknown splits {sorted(unknown)}; known: {', '.join(SPLITS)}")
    if min(sizes.values()) < 0 or sizes["test"] < 1:
        raise ValueError(f"sizes = {sizes}: give test at least one row, and other splits 0, which leaves them out, or "
                         "more")
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
    return _official_task(short, spec, asked, seed) if spec.official else _hub_task(short, spec, sizes, seed)


def _hub_task(name, spec, sizes, seed):
    trains = sizes["train"] + sizes["validation"] > 0
    loaded = {split: labelled_rows(spec, split) for split in spec.splits if split != "train" or trains}
    origin = next(iter(loaded.values()))[1]
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
    splits = DatasetDict({split: _next_rows(spec, split, sizes[split], place, pool[place], order[place])
                          for split, place in take.items() if sizes[split]})
    source = {"hub_id": spec.hub_id, "config": spec.config, **origin, "splits": "drawn anew, not the official ones"}
    paths.tell_runner("notes", f"{spec.hub_id} ({origin['origin']}): splits {source['splits']}; rows {sizes}")
    return Task(name, splits, spec.label_names, source=source)


def _official_task(name, spec, sizes, seed):
    """The hub's own splits, whole and in their order but for those of which `sizes` asks for a draw."""
    if absent := set(sizes) - set(spec.official):
        raise ValueError(f"{spec.hub_id}: sizes names {sorted(absent)}, but its official splits are "
                         f"{', '.join(spec.official)}")
    loaded = {place: labelled_rows(spec, place) for place in spec.splits}
    rng, splits, places = np.random.default_rng(seed), DatasetDict(), list(spec.official.values())
    order = {place: list(rng.permutation(len(rows))) for place, (rows, _) in loaded.items()}
    for split, place in spec.official.items():
        rows, origin = loaded[place]
        if not len(rows):
            raise ValueError(f"{spec.hub_id}: {place} has no labels; name a labelled split for {split!r}")
        if split not in sizes and places.count(place) > 1:
            raise ValueError(f"{spec.hub_id}: {split} shares {place} with another split: give sizes[{split!r}]")
        splits[split] = rows if split not in sizes else _next_rows(spec, split, sizes[split], place, rows, order[place])

    how = "drawn from the official ones" if sizes else "the official ones"
    source = {"hub_id": spec.hub_id, "config": spec.config, **origin, "splits": how}
    rows = {split: len(rows) for split, rows in splits.items()}
    paths.tell_runner("notes", f"{spec.hub_id} ({origin['origin']}): splits {how}; rows {rows}")
    return Task(name, splits, spec.label_names, source=source)


def _next_rows(spec, split, size, place, rows, order):
    """The rows at the next `size` places of `order`, which are taken out of it."""
    if len(order) < size:
        raise ValueError(f"{spec.hub_id}: {split} asks for {size} rows, {place} has {len(order)} left of {len(rows)}: "
                         f"lower sizes[{split!r}]")
    chosen, order[:] = order[:size], order[size:]
    return rows.select(chosen)


def _chaosnli(sizes, seed):
    """Half of the training and validation rows from MultiNLI, or what it has, the others from SNLI; fewer training rows
    are among more of them. Calibration and test rows are people's votes."""
    rng = np.random.default_rng(seed)
    splits, origins, pool = DatasetDict(), {}, {}
    for spec in (SNLI, MULTI_NLI):
        rows, origins[spec.hub_id] = labelled_rows(spec, "train")
        pool[spec] = rows, list(rng.permutation(len(rows)))
    for split in ("validation", "train"):
        of_multi = min(sizes[split] // 2, len(pool[MULTI_NLI][1]))
        splits[split] = concatenate_datasets([
            _next_rows(spec, split, size, "train", *pool[spec])
            for spec, size in ((SNLI, sizes[split] - of_multi), (MULTI_NLI, of_multi))])

    votes = chaosnli()
    order = rng.permutation(len(votes))
    if (wanted := sizes["calibration"] + sizes["test"]) > len(votes):
        raise ValueError(f"chaosnli: calibration and test ask for {wanted} rows, there are {len(votes)}: lower sizes")
    splits["calibration"] = votes.select(order[:sizes["calibration"]])
    splits["test"] = votes.select(order[sizes["calibration"]:wanted])
    for split in ("train", "validation"):  # one set is not to stand before the other
        splits[split] = splits[split].select(rng.permutation(sizes[split]))
    source = {**next(iter(origins.values())), "sets": origins, "splits": "drawn anew, not the official ones"}
    paths.tell_runner("notes", f"chaosnli: trained on SNLI and MultiNLI, tested on ChaosNLI; rows {sizes}, of MultiNLI "
                      f"{of_multi} to train on")
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
        "options": [[row["ans0"], row["ans1"], row["ans2"]] for row in rows],
        "label": [row["label"] for row in rows],
        "ambiguous": [row["context_condition"] == "ambig" for row in rows],
    })

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
    return rows.select(rng.permutation(len(rows))[:size])
