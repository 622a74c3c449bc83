"""Predictions from outputs that exist already: lists of label-score dicts, and logs of lm-evaluation-harness."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Callable, Mapping, Sequence

import numpy as np
from scipy.special import softmax

from . import files
from .inputs import expect, numbers
from .predictions import Predictions

ROW = "one list of {'label': ..., 'score': ...} per input, as a transformers pipeline gives with top_k=None"
LOGGED = "samples_*.jsonl"  # what lm-evaluation-harness writes with --log_samples


def from_outputs(outputs: Sequence[Sequence[Mapping]], variants: Sequence[Sequence[Sequence[Mapping]]] | None = None,
                 *, labels: Sequence | None = None, label_names: Sequence[str] | None = None,
                 ids: Sequence | None = None, meta: Mapping | None = None) -> Predictions:
    """Predictions from label-score dicts, in any order, as text-classification pipelines of transformers give them.

    outputs : N lists of {"label", "score"}, one dict per class; scores are probabilities.
    variants : N lists of K such lists, the outputs for K variants of each input.
    labels : N gold labels, by name or by class index.
    label_names : C names in the order of the classes; by default sorted. Predictions.meta keeps them.
    ValueError for an input without exactly one score per class, an unknown label, or another number of variants.
    """
    outputs = list(outputs)
    expect(outputs, f"outputs is empty: give {ROW}")
    first = _scores("outputs[0]", outputs[0])
    names = sorted(first) if label_names is None else [str(name) for name in label_names]
    expect(len(set(names)) == len(names), f"label_names = {names}: give each name once")
    rows = {"probs": [_row(f"outputs[{i}]", row, names) for i, row in enumerate(outputs)]}
    if variants is not None:
        variants = [list(row) for row in variants]
        expect(len(variants) == len(outputs), f"variants has {len(variants)} entries, outputs has {len(outputs)}: give "
               "one list of outputs per input")
        for i, row in enumerate(variants):
            expect(len(row) == len(variants[0]), f"variants[{i}] has {len(row)} outputs, variants[0] has "
                   f"{len(variants[0])}: give the same number K for every input")
        rows["perturbed"] = [[_row(f"variants[{i}][{j}]", each, names) for j, each in enumerate(row)]
                             for i, row in enumerate(variants)]
    if labels is not None:
        rows["labels"] = [_place(i, label, names) for i, label in enumerate(labels)]
    return Predictions(**rows, ids=ids, meta={"label_names": names, **(meta or {})})


def _scores(where, row):
    expect(isinstance(row, Sequence) and row and all(isinstance(each, Mapping) and {"label", "score"} <= each.keys()
                                                     for each in row),
           lambda: f"{where} = {row!r:.120}: give {ROW}")
    found = {str(each["label"]): each["score"] for each in row}
    expect(len(found) == len(row), lambda: f"{where} scores a label twice: give one dict per class")
    return found


def _row(where, row, names):
    found = _scores(where, row)
    expect(found.keys() == set(names), lambda: f"{where} has scores of {', '.join(sorted(found))}, expected "
           f"{', '.join(names)}: ask for all classes (top_k=None), and give label_names if a class never occurs")
    return [found[name] for name in names]


def _place(i, label, names):
    if isinstance(label, str):
        expect(label in names, lambda: f"labels[{i}] = {label!r} is none of {', '.join(names)}")
        return names.index(label)
    return label


def from_lm_eval(folders: Sequence, *, task: str | None = None, per_character: bool = False,
                 options: Callable[[Mapping], Sequence[str]] | None = None) -> Predictions:
    """Predictions from runs of lm-evaluation-harness with --log_samples on one set of multiple-choice questions.

    Each folder is one run: another prompt, other few-shot examples or another order of the options. The first is x, the
    others are its variants (K = runs - 1); one folder leaves `perturbed` out. Questions are matched by doc_id, options
    by their text, so that every distribution is in the order of the first run. p is the softmax of the options'
    log-likelihoods; labels are the logged targets.

    folders : folders that hold a samples_*.jsonl anywhere below, of one task each, or such files.
    task : which task's file to read where a folder holds several.
    per_character : divide each log-likelihood by the length of its option first, as the harness does for acc_norm.
    options : the texts of a document's options, in the order in which they were scored; by default its `choices` or
        `options`, where there are as many, else the scored continuations.

    The answer to each question is checked against the logged `acc` (`acc_norm` with per_character).
    ValueError for a folder with no or several logs, a question that is not in every run, options or target that differ
    between runs, a log that is not of multiple choice, several right answers, or an answer that the log says otherwise.
    """
    expect(not isinstance(folders, (str, Path)), f"folders = {folders!r}: give a list of folders, the one of x first")
    folders = list(folders)
    expect(folders, "folders is empty: give at least one folder of a run with --log_samples")
    runs = []
    for folder in folders:
        file = _log(Path(folder), task)
        docs = [_Doc(file, sample, options, per_character) for sample in files.json_lines(file)]
        runs.append({doc.id: doc for doc in docs})
        expect(docs and len(runs[-1]) == len(docs), f"{file} is empty, or logs a doc_id twice: one filter and one "
               "repeat alone can be read")
        odd = sorted(runs[-1].keys() ^ runs[0].keys())
        expect(not odd, lambda: f"doc_id {odd[0]} is in one of {folders[0]} and {folder} alone: run both on the same "
               "questions, with the same --limit")
    ids = sorted(runs[0])
    width = max(len(doc.texts) for doc in runs[0].values())
    orbits = np.array([[run[i].distribution(runs[0][i], width) for run in runs] for i in ids])
    counts = [len(runs[0][i].texts) for i in ids]
    return Predictions(
        probs=orbits[:, 0], perturbed=orbits[:, 1:] if len(runs) > 1 else None,
        labels=[runs[0][i].target for i in ids], n_classes=counts if min(counts) < width else None,
        ids=[str(i) for i in ids], meta={"source": "lm-evaluation-harness", "runs": [Path(f).name for f in folders]})


def _log(place, task):
    found = sorted(place.rglob(LOGGED)) if place.is_dir() else [place]
    if task is not None and place.is_dir():
        found = [file for file in found if re.fullmatch(rf"samples_{re.escape(task)}_[\dT.:-]+\.jsonl", file.name)]
    expect(len(found) == 1, lambda: f"{place} holds {len(found)} logs ({', '.join(file.name for file in found)}): give "
           "a folder of one run with --log_samples, name the task, or give the file itself")
    expect(found[0].is_file(), f"{place} is not there: give a folder of one run with --log_samples")
    return found[0]


class _Doc:
    """One question of one log: log-likelihoods and texts of its options, and the place of the right one."""

    def __init__(self, file, sample, options, per_character):
        self.id = sample.get("doc_id") if isinstance(sample, Mapping) else None
        expect(isinstance(self.id, int), lambda: f"{file}: {sample!r:.80} has no doc_id: give a log of --log_samples")
        self.where = f"{file}, doc_id {self.id}"
        asked = sample.get("arguments") or []
        asked = [list(each.values()) if isinstance(each, Mapping) else list(each)
                 for each in (asked.values() if isinstance(asked, Mapping) else asked)]
        replies = [reply[0] for reply in sample.get("resps") or []]
        expect(len(asked) == len(replies) > 1 and all(isinstance(reply, list) and len(reply) == 2 for reply in replies),
               f"{self.where} has no log-likelihoods of at least two options: only output_type multiple_choice can be "
               "read; answers in the model's own words go through sua.Generations")
        if any(context for context, _ in asked):  # acc_mutual_info asks each option once more, without its question
            kept = [bool(context) for context, _ in asked]
            asked, replies = ([row for row, keep in zip(rows, kept) if keep] for rows in (asked, replies))
        scored = [continuation for _, continuation in asked]
        if len(set(scored)) < len(scored):  # the options are put into the context
            scored = [context for context, _ in asked]
        self.loglik = numbers(self.where, [reply[0] for reply in replies], "give the log as it was written")
        if per_character:
            self.loglik = self.loglik / [max(len(text.strip()), 1) for text in scored]
        self.texts = [str(text) for text in options(sample["doc"])] if options else _options(sample["doc"], scored)
        expect(len(self.texts) == len(scored) == len({*self.texts}), lambda: f"{self.where} has the options "
               f"{self.texts!r} for {len(scored)} scores: give options=, a function from the document to its "
               "different options in the order in which they were scored")
        self.target = self._target(sample.get("target"), scored)
        metric = "acc_norm" if per_character else "acc"
        if metric in sample:
            right = int(np.argmax(self.loglik)) == self.target
            expect(right == bool(sample[metric]), f"{self.where}: the log has {metric} = {sample[metric]}, but by its "
                   f"log-likelihoods and its target {sample.get('target')!r} the answer is "
                   f"{'right' if right else 'wrong'}: give a log as it was written, with one right option per question")

    def _target(self, target, scored):
        text = str(target).strip()
        if text.isdigit() and int(text) < len(scored):
            return int(text)
        places = [i for i, (ours, asked) in enumerate(zip(self.texts, scored)) if text in (ours.strip(), asked.strip())]
        expect(len(places) == 1, f"{self.where} has the target {target!r}, which is none or several of its options "
               f"{self.texts!r}: only questions with one right option can be read")
        return places[0]

    def distribution(self, first, width):
        """(width,) probabilities of this run, in the order of the options in the `first`."""
        expect(sorted(self.texts) == sorted(first.texts), f"{self.where} has the options {self.texts!r}, the first run "
               f"{first.texts!r}: give options=, so that equal options have equal texts in every run")
        expect(self.texts[self.target] == first.texts[first.target], f"{self.where} has the target "
               f"{self.texts[self.target]!r}, the first run {first.texts[first.target]!r}: the runs ask different "
               "questions")
        p = softmax(self.loglik)[[self.texts.index(text) for text in first.texts]]
        return np.pad(p, (0, width - len(p)))


def _options(doc, scored):
    """The option texts that a document holds under `choices` or `options`, as a list or as {"text": list}."""
    for key in ("choices", "options"):
        held = doc.get(key) if isinstance(doc, Mapping) else None
        held = held.get("text") if isinstance(held, Mapping) else held
        if isinstance(held, list) and len(held) == len(scored):
            return [each if isinstance(each, str) else json.dumps(each) for each in held]
    return scored
