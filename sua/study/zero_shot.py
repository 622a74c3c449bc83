"""Pretrained language models, asked without training: tasks through their formulations, our own questions with options.

Answers are kept per model, weights and type in the profile's folder of models, one file per formulation, so that an
interrupted run goes on where it was and a second one takes seconds.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from .. import paths
from ..inputs import Input, clarifications, inputs as inputs_of, option_columns
from ..models.choice import ChoiceLM
from ..models.common import progress
from ..models.load import load_model
from ..perturb import OPTION_ORDER, formulations
from ..predictions import Predictions
from ..tasks import load_task, recorded
from .experiment import _prepare_worker

PREFIX = "zero-shot "  # of a task's name, in every table
PLAIN = "likelihood-plain"  # the formulation in which our own questions are asked


@lru_cache(maxsize=1)
def load(model: str, dtype: str | None = None) -> ChoiceLM:
    """The language model, which takes whole prompts. NotAvailableError if no place has it."""
    return load_model(model, causal=True, dtype=dtype, template="{question}", name=Path(model).name)


def load_or_say(model: str, dtype: str | None = None) -> ChoiceLM | None:
    """As `load`; where no place has the model None, said once, so that the run goes on without its rows."""
    try:
        return load(model, dtype)
    except paths.NotAvailableError as error:
        said = f"n/a (no model): {model} is neither in a mirror nor to be had from the hub or the package index"
        paths.tell_runner("notes", said)
        print(f"{said}. Its rows are left out, the rest of the run goes on.\n{error}")
        return None


def ask(model: str, groups: Sequence[Sequence[Input]], cache: Path, *, dtype: str | None = None, score: str = "sum",
        chat: bool = False, workers: int = 1) -> list[np.ndarray]:
    """(n, C) probabilities of every group of prompts with options, each group in one piece.

    workers : processes of one thread; give one where the model sits on a GPU. score, chat : of ChoiceLM.
    """
    jobs = [(model, dtype, score, chat, list(group), str(cache)) for group in groups]
    with progress(total=len(jobs), desc=f"ask {Path(model).name}") as bar:
        if workers == 1 or len(jobs) == 1:
            found = []
            for job in jobs:
                found.append(_answer(*job))
                bar.update()
            return found
        with ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn"), _prepare_worker,
                                 (os.getpid(),)) as pool:
            waiting = [pool.submit(_answer, *job) for job in jobs]
            for future in waiting:
                future.add_done_callback(lambda _: bar.update())
            try:
                return [future.result() for future in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _answer(model, dtype, score, chat, prompts, cache):
    loaded = load(model, dtype)
    chooser = ChoiceLM(loaded.model, loaded.tokenizer, score=score, template="{question}", chat=chat, name=loaded.name,
                       cache=Path(cache) / f"answers-{loaded.name}-{loaded.dtype}-{_weights(model, dtype)}")
    return chooser.predict_proba(prompts)


@lru_cache(maxsize=1)
def _weights(model, dtype):
    """Eight letters that differ for other weights of one name, such as the hub's and those of a package."""
    digest = hashlib.sha256()
    for name, weight in load(model, dtype).model.state_dict().items():
        digest.update(name.encode() + weight.flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def zero_shot(name: str, spec: Mapping, model: str, cache: Path, *, dtype: str | None = None, workers: int = 1,
              seed: int = 0) -> dict[str, list[Predictions]]:
    """{"calibration", "test": [Predictions, each formulation in turn as x and the others as its variants]}.

    spec : as a profile writes it: `task` (default the name) and `sizes` of load_task, `kind` of formulations, `set` of
    them (default "seen"), `score` and `chat` of ChoiceLM, `reorder` (each formulation with another order of the options).
    Inputs that hold words of a formulation are left out; meta says how many. Raises NotAvailableError for data or a
    model that no place has.
    """
    task = load_task(spec.get("task", name), {"train": 0, "validation": 0, **spec["sizes"]})
    forms = formulations(spec["kind"], task.label_names)
    prompts = forms.prompts(spec.get("set", "seen"))
    kernel = OPTION_ORDER if spec.get("reorder") else None
    splits, orbits, kept = ("calibration", "test"), {}, {}
    for split in splits:
        asked = {i: row for i, x in enumerate(inputs_of(task[split])) if (row := _orbit(forms, x, spec, kernel, seed))}
        kept[split], orbits[split] = list(asked), list(asked.values())
    everything = [row for split in splits for row in orbits[split]]
    found = np.stack(ask(model, [[row[j] for row in everything] for j in range(len(prompts))], cache, dtype=dtype,
                         score=spec.get("score", "sum"), chat=spec.get("chat", False), workers=workers), 1)  # (N, M, C)
    loaded, start, predictions = load(model, dtype), 0, {}
    for split in splits:
        rows = task[split].select(kept[split])
        p = found[start:start + len(rows)]
        start += len(rows)
        both = [(x, *row) for x, row in zip(inputs_of(rows), orbits[split])]
        p = np.take_along_axis(p, option_columns(both, p.shape[-1])[:, 1:], -1)
        given = {ours: rows[theirs][:] for ours, theirs in (("labels", "label"), ("label_dist", "label_dist"),
                                                            ("ids", "id")) if theirs in rows.column_names}
        facts = {"task": PREFIX + name, "model": loaded.name, "training": loaded.name, "split": split,
                 "dtype": loaded.dtype, "perturbation": f"formulations of {forms.kind}" + " + option order" * bool(kernel),
                 "k": len(prompts) - 1, "left_out": len(task[split]) - len(rows),
                 **({"truth": "exact"} if task.p_star else {}), **({"origin": loaded.origin} if loaded.origin else {})}
        predictions[split] = [
            Predictions(probs=p[:, j], perturbed=np.delete(p, j, 1), meta={**facts, "formulation": prompt.id}, **given)
            for j, prompt in enumerate(prompts)]
    return predictions


def _orbit(forms, x, spec, kernel, seed):
    """The ways to ask x; None for one that holds words of a formulation."""
    try:
        return forms.orbits([x], spec.get("set", "seen"), kernel, seed)[0]
    except ValueError:
        return None


def formulation_rows(runs: Sequence[Predictions]) -> list[dict]:
    """Of each formulation: accuracy, error on the others too, mean H and S, and the share of the inputs with SUA > 0; last
    the answer by the mean over all of them."""
    from ..scores import score

    rows = []
    for p in runs:
        rows.append({"formulation": p.meta["formulation"], "accuracy": 1 - p.is_error.mean(),
                     **{name: score(p, name).mean() for name in ("entropy", "sensitivity")},
                     "SUA > 0": (score(p, "sua") > 0).mean()})
    mean = runs[0].orbit.mean(1)
    h = -(mean * np.log(np.maximum(mean, 1e-300))).sum(-1).mean()
    return [*rows, {"formulation": "mean of all", "accuracy": (mean.argmax(-1) == runs[0].labels).mean(), "entropy": h}]


# --- our own questions ---

def own_questions(model: str, cache: Path, k: int, *, dtype: str | None = None, workers: int = 1,
                  items: int | None = None) -> tuple[Predictions, Predictions, np.ndarray]:
    """(all options, two options, (N,) ambiguous): the model's answers to our own questions, by ln p of the options.

    Options are the answers of the readings, then the distractor; variants the first k paraphrases, clarifications those
    of the readings. An ambiguous question has three or four options, a control two. So that nothing but the content tells
    them apart, the second Predictions have two options and two clarifications of each: the answers of the two likeliest
    readings, or answer and distractor of a control, given that the answer is one of them.
    items : take so many of each kind; None all.
    """
    data = recorded.own_questions()
    rows = recorded.ambiguous_questions()
    ambiguous = np.array(data["ambiguous"])
    chosen = np.sort(np.concatenate([np.flatnonzero(ambiguous == kind)[:items] for kind in (True, False)]))
    data, rows, ambiguous = data.select(chosen), [rows[i] for i in chosen], ambiguous[chosen]
    forms = formulations("choice_likelihood")
    orbits = []
    for row, text, readings in zip(rows, data["text"], clarifications(data)):
        options = [reading["answer"] for reading in row["interpretations"]] + [row["distractor"]]
        texts = [text, *row["paraphrases"][:k], *readings]
        orbits.append(forms.ask([(question, *options) for question in texts], PLAIN))
    parts = np.array_split(np.arange(len(orbits)), max(1, min(2 * workers, len(orbits))))
    found = ask(model, [[x for i in part for x in orbits[i]] for part in parts], cache, dtype=dtype, workers=workers)
    width = max(p.shape[-1] for p in found)
    found = np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[-1]))) for p in found])
    p = found.reshape(len(orbits), -1, width)
    loaded, weights = load(model, dtype), np.array(data["weights"])
    facts = {"task": "own_questions", "model": loaded.name, "training": "zero-shot", "dtype": loaded.dtype,
             **({"origin": loaded.origin} if loaded.origin else {})}
    counts = [len(row["interpretations"]) + 1 for row in rows]
    every = Predictions(probs=p[:, 0], perturbed=p[:, 1:1 + k], clarified=p[:, 1 + k:], weights=weights,
                        n_classes=counts, ids=data["id"], meta=facts)
    likeliest = np.sort(np.argsort(-weights, axis=1, kind="stable")[:, :2], axis=1)
    two = np.where(ambiguous[:, None], likeliest, [[0, 1]])
    q = np.take_along_axis(p, two[:, None, :], -1)
    q = q / q.sum(-1, keepdims=True)
    of_two = np.take_along_axis(q[:, 1 + k:], likeliest[:, :, None], 1)
    w = np.take_along_axis(weights, likeliest, 1)
    pairs = Predictions(probs=q[:, 0], perturbed=q[:, 1:1 + k], clarified=of_two, weights=w / w.sum(1, keepdims=True),
                        ids=data["id"], meta=facts)
    return every, pairs, ambiguous
