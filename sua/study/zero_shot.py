"""Pretrained language models, asked without training: tasks through their formulations, our own questions with options,
open questions in their own words.

Answers are kept per model, weights and type in the profile's folder of models, one file per formulation or set of open
questions, so that an interrupted run goes on where it was and a second one takes seconds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from datasets import Dataset

from .. import metrics, paths
from ..generation import (GENERATION_SCORES, P_TRUE, GenerativeLM, generation_score, meaning_clusters, relevance,
                          similarities)
from ..inputs import Input, clarifications, inputs as inputs_of, option_columns
from ..models.choice import ChoiceLM
from ..models.load import load_model
from ..models.tiny import tiny_llama
from ..perturb import KERNELS, OPTION_ORDER, Formulations, Perturbation, formulations, mixture, variants
from ..predictions import Predictions
from ..scores import score
from ..tasks import Task, load_task, recorded
from .collapse import edit_size
from .experiment import in_processes
from .report import Stage, write_csv

PREFIX = "zero-shot "  # of a task's name, in every table
SAMPLES = 10  # answers drawn from p(.|x), for self-consistency
PREDICTIONS, LISTED = "predictions", "zero_shot.csv"
PLAIN = "likelihood-plain"  # the formulation in which our own questions are asked
KINDS = ("topic", "choice_likelihood", "choice_letter")


@lru_cache(maxsize=1)
def load(model: str, dtype: str | None = None, packaged: bool = False) -> ChoiceLM:
    """The language model, which takes whole prompts; "tiny_llama" is an untrained one, to see that everything runs.

    dtype, packaged : of load_model. NotAvailableError if no place has it.
    """
    if model == "tiny_llama":
        rows = recorded.ambiguous_questions()
        texts = [row["question"] for row in rows] + [row["distractor"] for row in rows]
        texts += load_task("topic", {"train": 0, "validation": 0, "calibration": 0, "test": 500})["test"]["text"]
        texts += [f"{P_TRUE} (A) (B)"]
        return tiny_llama(texts + [prompt.template for kind in KINDS for prompt in formulations(kind).prompts("all")],
                          template="{question}", name=model)
    return load_model(model, causal=True, dtype=dtype, packaged=packaged, template="{question}", name=Path(model).name)


def load_or_say(model: str, dtype: str | None = None, packaged: bool = False) -> ChoiceLM | None:
    """As `load`; where no place has the model None, said once, so that the run goes on without its rows."""
    try:
        return load(model, dtype, packaged)
    except paths.NotAvailableError as error:
        said = f"n/a (no model): {model} is neither in a mirror nor to be had from the hub or the package index"
        paths.tell_runner("notes", said)
        print(f"{said}. Its rows are left out, the rest of the run goes on.\n{error}")
        return None


def ask(model: str, groups: Sequence[Sequence[Input]], cache: Path, *, dtype: str | None = None, packaged: bool = False,
        score: str = "sum", chat: bool = False, workers: int = 1) -> list[np.ndarray]:
    """(n, C) probabilities of every group of prompts with options, each group in one piece.

    workers : processes of one thread; give one where the model sits on a GPU. score, chat : of ChoiceLM.
    """
    jobs = [((model, dtype, packaged), score, chat, list(group), cache) for group in groups]
    return in_processes(_answer, jobs, workers, f"ask {Path(model).name}")


def _answer(which, scored, chat, prompts, cache):
    loaded = load(*which)
    chooser = ChoiceLM(loaded.model, loaded.tokenizer, score=scored, template="{question}", chat=chat, name=loaded.name,
                       cache=_folder(cache, which))
    return chooser.predict_proba(prompts)


def _folder(cache, which):
    """Where the answers of these weights in this type are kept."""
    loaded = load(*which)
    return Path(cache) / f"answers-{loaded.name}-{loaded.dtype}-{_weights(*which)}"


@lru_cache(maxsize=1)
def _weights(*which):
    """Eight letters that differ for other weights of one name, such as the hub's and those of a package."""
    digest = hashlib.sha256()
    for name, weight in load(*which).model.state_dict().items():
        digest.update(name.encode() + weight.flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def zero_shot(name: str, spec: Mapping, model: str, cache: Path, *, dtype: str | None = None,
              packaged: bool = False, workers: int = 1, seed: int = 0) -> dict[str, list[Predictions]]:
    """{"calibration", "test": [Predictions, each formulation in turn as x and the others as its variants]}.

    spec : as a profile writes it: `task` (default the name) and `sizes` of load_task, `kind` of formulations, `set` of
    them (default "seen"), `score` and `chat` of ChoiceLM, `reorder` (under each formulation the options in an order of
    its own).
    Inputs that hold words of a formulation are left out; meta says how many. Raises NotAvailableError for data or a
    model that no place has.
    """
    task, forms, orbits = ways_to_ask(name, spec, seed)
    splits, prompts = tuple(orbits), forms.prompts(spec.get("set", "seen"))
    everything = [row for split in splits for row in orbits[split].values()]
    asked = ask(model, [[row[j] for row in everything] for j in range(len(prompts))], cache, dtype=dtype,
                packaged=packaged, score=spec.get("score", "sum"), chat=spec.get("chat", False), workers=workers)
    found = np.stack(asked, 1)  # (N, M, C)
    loaded, start, predictions = load(model, dtype, packaged), 0, {}
    for split in splits:
        rows = task[split].select(list(orbits[split]))
        p = found[start:start + len(rows)]
        start += len(rows)
        both = [(x, *row) for x, row in zip(inputs_of(rows), orbits[split].values())]
        p = np.take_along_axis(p, option_columns(both, p.shape[-1])[:, 1:], -1)
        given = {ours: rows[theirs][:] for ours, theirs in (("labels", "label"), ("label_dist", "label_dist"),
                                                            ("ids", "id")) if theirs in rows.column_names}
        facts = {"task": PREFIX + name, "model": loaded.name, "training": loaded.name, "split": split,
                 "dtype": loaded.dtype, "k": len(prompts) - 1,
                 "perturbation": f"formulations of {forms.kind}" + " + option order" * bool(spec.get("reorder")),
                 "left_out": len(task[split]) - len(rows),
                 **({"truth": "exact"} if task.p_star else {}), **({"origin": loaded.origin} if loaded.origin else {})}
        predictions[split] = [
            Predictions(probs=p[:, j], perturbed=np.delete(p, j, 1), meta={**facts, "formulation": prompt.id},
                        **given).sample(SAMPLES, seed) for j, prompt in enumerate(prompts)]
    return predictions


def ways_to_ask(name: str, spec: Mapping, seed: int = 0
                ) -> tuple[Task, Formulations, dict[str, dict[int, list[Input]]]]:
    """(task, its formulations, {"calibration", "test": {row of the split: its input asked through each of them}}).

    spec, and what is left out : of `zero_shot`. Raises NotAvailableError for data that no place has.
    """
    task = load_task(spec.get("task", name), {"train": 0, "validation": 0, **spec["sizes"]})
    forms, kernel = formulations(spec["kind"], task.label_names), OPTION_ORDER if spec.get("reorder") else None

    def ways(x):
        try:
            return forms.orbits([x], spec.get("set", "seen"), kernel, seed)[0]
        except ValueError:  # it holds words of a formulation
            return None

    return task, forms, {split: {i: row for i, x in enumerate(inputs_of(task[split])) if (row := ways(x))}
                         for split in ("calibration", "test")}


def save(found: Mapping[tuple[str, str], Mapping[str, Sequence[Predictions]]], folder: Path) -> None:
    """{(task, model): what `zero_shot` returned}, each Predictions in a file, and zero_shot.csv, which lists them."""
    rows = []
    for (task, model), splits in found.items():
        for split, runs in splits.items():
            for j, p in enumerate(runs):
                file = f"{PREDICTIONS}/{task}-{model}-{j}-{split}.parquet"
                p.save(Path(folder) / file)
                rows.append({"task": task, "model": model, "split": split, "formulation": p.meta["formulation"],
                             "items": len(p), "accuracy": 1 - p.is_error.mean(), "file": file})
    columns = ["task", "model", "split", "formulation", "items", "accuracy", "file"]
    write_csv(pd.DataFrame(rows, columns=columns), Path(folder) / LISTED)


def saved(stage: Stage, maker: str = "04_baselines") -> dict[tuple[str, str], dict[str, list[Predictions]]]:
    """What an earlier stage of the profile has kept with `save`."""
    found = {}
    for row in pd.read_csv(stage.upstream(maker, LISTED)).to_dict("records"):
        runs = found.setdefault((row["task"], row["model"]), {}).setdefault(row["split"], [])
        runs.append(Predictions.load(stage.upstream(maker, row["file"])))
    return found


def origins(runs: Iterable[Predictions]) -> str:
    """What a caption has to say of the weights behind these predictions; empty where the hub's own were used."""
    told = dict.fromkeys(p.meta["origin"].split(":")[0] for p in runs if "origin" in p.meta)
    return f" Weights: {'; '.join(told)}." if told else ""


def formulation_table(runs: Sequence[Predictions]) -> pd.DataFrame:
    """Of each formulation as x: accuracy, mean H and S (nats), share of the inputs with SUA > 0, and failure AUROCs.

    Then their mean, and the accuracy of answering by the mean over all formulations, with that mean's entropy as H.
    """
    rows = {}
    for p in runs:
        rows[p.meta["formulation"]] = {
            "accuracy": metrics.accuracy(p), "H": score(p, "entropy").mean(), "S": score(p, "sensitivity").mean(),
            "SUA > 0": (score(p, "sua") > 0).mean(),
            **{f"AUROC {name}": metrics.auroc(p.is_error, score(p, name)) if 0 < p.is_error.mean() < 1 else np.nan
               for name in ("entropy", "sensitivity", "sua", "orbit_msp")}}
    table = pd.DataFrame(rows).T
    table.loc["mean of the formulations"] = table.mean()
    mean = Predictions(probs=runs[0].orbit.mean(1), labels=runs[0].labels)
    h = score(mean, "entropy")
    table.loc["answered by their mean"] = pd.Series({
        "accuracy": metrics.accuracy(mean), "H": h.mean(),
        "AUROC entropy": metrics.auroc(mean.is_error, h) if 0 < mean.is_error.mean() < 1 else np.nan})
    return table.rename_axis("formulation")


def tell(p: Predictions, options: Sequence[str]) -> str:
    """What the answers to one question, asked through several formulations, say in words."""
    h, s, sua = (float(score(p, name)[0]) for name in ("entropy", "sensitivity", "sua"))
    answers = p.orbit[0].argmax(-1)
    mean = p.orbit[0].mean(0)
    said = [f"It answers {options[answers[0]]!r} with probability {p.probs[0].max():.2f}, and the same under "
            f"{(answers == answers[0]).sum()} of {len(answers)} formulations. H = {h:.2f}, S = {s:.2f}, "
            f"SUA = S - H = {sua:+.2f} nats."]
    said += ["SUA > 0: the wording moves the answer further than the model admits, so that it is wrong about its own "
             "certainty." if sua > 0 else "SUA <= 0: the model admits as much doubt as the wording makes; that it is "
             "right does not follow."]
    if answers[0] != mean.argmax():
        said += [f"The mean of all formulations answers {options[mean.argmax()]!r} instead."]
    return " ".join(said)


# --- our own questions ---

def some_prompts(n: int = 24) -> list[Input]:
    """n of our own questions with their options, asked: what a numerical floor is measured on."""
    return formulations("choice_likelihood").ask(
        [(row["question"], *_options(row)) for row in recorded.ambiguous_questions()[:n]], PLAIN)


def _options(row):
    return [reading["answer"] for reading in row["interpretations"]] + [row["distractor"]]


@dataclass(frozen=True)
class OwnAnswers:
    """A model's answers to our own questions: with `every` option, and with `two`. is_ambiguous : (N,). edits : (N,)
    the share of a question's characters that its two clarifications change."""

    every: Predictions
    two: Predictions
    is_ambiguous: np.ndarray
    edits: np.ndarray

    def rates(self, threshold: float) -> dict[str, float]:
        """Shares: right controls; ambiguous questions answered by the distractor; clarifications answered by their
        reading, and questions with all of them right; ambiguous and clear answers of at least `threshold`, of two."""
        answers, last = self.every.answers, self.every.n_classes - 1
        readings, right = np.arange(self.every.clarified.shape[1]), self.every.clarified.argmax(-1)
        hit, real = right == readings, readings < last[:, None]
        a, sure = self.is_ambiguous, self.two.probs.max(-1) >= threshold
        return {"controls right": (answers[~a] == 0).mean(), "distractor": (answers[a] == last[a]).mean(),
                "clarified right": hit[a][real[a]].mean(), "all readings right": (hit | ~real)[a].all(1).mean(),
                "collapsed": sure[a].mean(), "clear and as sure": sure[~a].mean()}


def own_questions(model: str, cache: Path, k: int, *, dtype: str | None = None, packaged: bool = False,
                  workers: int = 1, items: int | None = None) -> OwnAnswers:
    """The model's answers to our own questions, by ln p of the options.

    Options are the answers of the readings, then the distractor; variants the first k paraphrases, clarifications those
    of the readings. An ambiguous question has three or four options, a control two. So that nothing but the content
    tells them apart, `two` has two options and two clarifications of each: the answers of the two likeliest readings,
    or answer and distractor of a control, given that the answer is one of them.
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
        texts = [text, *row["paraphrases"][:k], *readings]
        orbits.append(forms.ask([(question, *_options(row)) for question in texts], PLAIN))
    parts = np.array_split(np.arange(len(orbits)), max(1, min(2 * workers, len(orbits))))
    found = ask(model, [[x for i in part for x in orbits[i]] for part in parts], cache, dtype=dtype, packaged=packaged,
                workers=workers)
    width = max(p.shape[-1] for p in found)
    found = np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[-1]))) for p in found])
    p = found.reshape(len(orbits), -1, width)
    loaded, weights = load(model, dtype, packaged), np.array(data["weights"])
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
    pair = Predictions(probs=q[:, 0], perturbed=q[:, 1:1 + k], clarified=of_two, weights=w / w.sum(1, keepdims=True),
                       ids=data["id"], meta=facts)
    texts = [[row[j] for j in two] for row, two in zip(clarifications(data), likeliest)]
    edits = np.array([edit_size(*row) for row in zip(data["text"], texts, pair.weights)])
    return OwnAnswers(every, pair, ambiguous, edits)


# --- open questions ---

def open_questions(sets: Mapping[str, Dataset], questions: Mapping, cache: Path, workers: int = 1
                   ) -> dict[str, list[tuple[Predictions, np.ndarray, dict[str, np.ndarray]]]]:
    """What a language model answers in its own words: for each set one triple per seed.

    sets : rows of `recorded.OPEN_QUESTIONS`. questions : as a profile writes it: `model`; `template`, `max_new_tokens`
    and `batch_size` of GenerativeLM; `k` rewordings, by the kernels `perturbation` where a set brings none of its own;
    `samples` at each wording; `seeds`.
    A triple: Predictions over the meanings of the answers, on the question, its rewordings and its clarifications;
    (N,) whether the answer without sampling is wrong; {score: (N,)}, GENERATION_SCORES of the answers to x alone, in
    which two answers mean the same as `recorded.SameAnswer` says, and are as similar as ROUGE-L.
    """
    jobs = [(data, questions, seed, cache) for data in sets.values() for seed in questions["seeds"]]
    found = iter(in_processes(_answer_freely, jobs, workers, f"ask {Path(questions['model']).name}"))
    return {name: [next(found) for _ in questions["seeds"]] for name in sets}


def _answer_freely(data, questions, seed, cache):
    which = (questions["model"], None, False)
    loaded, k, texts, readings = load(*which), questions["k"], list(data["text"]), clarifications(data)
    if "paraphrases" in data.column_names:
        reworded = data["paraphrases"]
    else:
        reworded = variants(texts, mixture(*(KERNELS[name] for name in questions["perturbation"])), k, seed)
    orbits = {x: [*row[:k], *clarified] for x, row, clarified in zip(texts, reworded, readings)}
    lm = GenerativeLM(loaded.model, loaded.tokenizer, name=loaded.name, cache=_folder(cache, which),
                      **{name: questions[name] for name in ("template", "max_new_tokens", "batch_size")})
    listed = _Listed("rewordings and clarifications", lambda x, rng: orbits[x])
    facts = {"dtype": loaded.dtype, **({"origin": loaded.origin} if loaded.origin else {})}
    answers = lm.generate(texts, listed, k, questions["samples"], verbalised=True, internals=True, seed=seed,
                          ids=data["id"], meta=facts)
    accepted = [[form for forms in row for form in forms] for row in data["answers"]]
    meanings = meaning_clusters(answers, recorded.SameAnswer(data), accepted)
    p, z = answers.predictions(meanings), len(readings[0])
    p = replace(p, perturbed=p.perturbed[:, :-z], clarified=p.perturbed[:, -z:], weights=np.array(data["weights"]))
    read = {"clusters": meanings, "similarities": similarities(answers), "relevance": relevance(answers)}
    return p, meanings.is_error, {name: generation_score(answers, name, **read) for name in GENERATION_SCORES}


class _Listed(Perturbation):
    """Variants that are given: all of them, in their order."""

    def sample(self, example, k, rng):
        return self.rewrite(example, rng)
