"""Recorded sets that are no training task: outputs of real models, human votes, rewrites, attacks, open questions.

Most are not on the hub: they are read from raw/<name> of a mirror. Each function raises NotAvailableError where its set
is not to be had. None of their rows is part of this repository, but for the project's own questions.
"""

from __future__ import annotations

import hashlib
import json
from typing import Callable, Sequence

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.special import softmax

from .. import paths
from ..generation import Triple, normalise
from ..inputs import expect
from ..perturb import KERNELS, variants
from ..predictions import Predictions
from .hub import HUB_SETS, hub_rows

MOST_READINGS = 8  # one question of AmbigNQ in a hundred has more, one has 41
SPLITS = ("train", "validation", "test")


def checklist_groups() -> dict[str, list[str]]:
    """CheckList's invariance groups for sentiment (Ribeiro et al., ACL 2020): original text -> its variants."""
    groups = {}
    for group in _json_lines("checklist_sentiment", "test"):
        if group["kind"] == "INV" and len(group["texts"]) > 1:
            original, *rest = group["texts"]
            groups.setdefault(original, []).extend(rest)  # several tests may vary one text
    return groups


def recorded_llms() -> dict[str, Predictions]:
    """Option probabilities of 16 base LLMs on 3000 multiple-choice items (Ye et al., NeurIPS 2024), no gold answers.

    The first of three instruction prompts is x, the two others are its variants (K = 2).
    """
    with np.load(_raw("llm_mcq_logits", "logits.npz")) as saved:
        logits = np.concatenate([saved[name] for name in saved.files if name.endswith("_10k")], axis=2, dtype=float)
        models = [str(model) for model in saved["models"]]
    return {model: Predictions(probs=p[0], perturbed=p[1:].swapaxes(0, 1), meta={"task": "mcq", "model": model})
            for model, p in zip(models, softmax(logits, axis=-1))}


def recorded_chaosnli() -> dict[str, Predictions]:
    """Outputs of fine-tuned NLI models on ChaosNLI (Nie et al., EMNLP 2020): 100 human votes per item as label_dist.

    Here the "variants" are training seeds of one model: what flips between them is an error of one of them.
    """
    rows = _json_lines("chaosnli", *SPLITS)
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


def chaosnli() -> Dataset:
    """ChaosNLI's pairs in the common schema: label = majority of 100 votes, label_dist (3,) = their shares."""
    rows = _json_lines("chaosnli", *SPLITS)
    return Dataset.from_dict({
        "id": [row["id"] for row in rows], "text": [row["premise"] for row in rows],
        "text_pair": [row["hypothesis"] for row in rows], "label": [row["label"] for row in rows],
        "label_dist": [[votes / 100 for votes in row["label_count"]] for row in rows]})


def ambient(seed: int = 0) -> Dataset:
    """AmbiEnt (Liu et al., EMNLP 2023): NLI pairs with `ambiguous` and, per reading, a linguist's unambiguous rewrite.

    An ambiguous pair's clarifications are its rewrites, equally weighted. An unambiguous pair has none in the set; it
    gets two neutral framings of itself, which change nothing and so serve as the control. Rows are filled up to the
    largest number of readings with clarifications of weight 0.
    """
    rows = _json_lines("ambient", "validation", "test")
    readings = []
    for row in rows:
        pair = (row["premise"], row["hypothesis"])
        rewrites = [(r["premise"], r["hypothesis"]) for r in row["disambiguations"]]
        readings.append(rewrites or variants([pair], KERNELS["framing"], 2, seed)[0])
    filled, weights = _filled(readings)
    return Dataset.from_dict({
        "id": [row["id"] for row in rows], "text": [row["premise"] for row in rows],
        "text_pair": [row["hypothesis"] for row in rows], "ambiguous": [row["ambiguous"] for row in rows],
        "clarified": [[first for first, _ in pairs] for pairs in filled],
        "clarified_pair": [[second for _, second in pairs] for pairs in filled],
        "weights": weights})


def advglue(task: str) -> Dataset:
    """Adversarial GLUE (Wang et al., NeurIPS 2021): attacks on "sst2" or "chaosnli" (there on GLUE's MNLI) that people
    found to keep the label, in the common schema. ValueError for another task."""
    known = {"sst2": ({"sst2"}, ("sentence",)), "chaosnli": ({"mnli", "mnli-mm"}, ("premise", "hypothesis"))}
    if task not in known:
        raise ValueError(f"task = {task!r}: AdvGLUE is read for {' and '.join(known)}")
    parts, columns = known[task]
    rows = [row for row in _json_lines("advglue", "validation") if row["task"] in parts]
    texts = {ours: [row[theirs] for row in rows] for ours, theirs in zip(("text", "text_pair"), columns)}
    return Dataset.from_dict({"id": [row["id"] for row in rows], **texts, "label": [row["label"] for row in rows]})


def prompt_sensitivity() -> pd.DataFrame:
    """759 runs of 9 LLMs (Lu et al., NAACL 2024): accuracy, and the sensitivity of right and of wrong answers apart."""
    return pd.read_csv(_raw("prompt_sensitivity_scores", "evaluation_scores.csv"))


def ambiguous_questions() -> list[dict]:
    """The project's own ambiguous and unambiguous questions, with readings and paraphrases; data/README.md has the
    schema."""
    file = paths.root() / "data" / "ambiguous_questions.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def own_questions(items: int | None = None, seed: int = 0) -> Dataset:
    """`ambiguous_questions` as open questions, clarified by their interpretations, with their four `paraphrases`."""
    return _open_questions([{
        "id": row["id"], "text": row["question"], "ambiguous": row["ambiguous"], "paraphrases": row["paraphrases"],
        "answers": [[reading["answer"], *reading["aliases"]] for reading in row["interpretations"]],
        "clarified": [reading["clarified"] for reading in row["interpretations"]],
        "weights": [reading["weight"] for reading in row["interpretations"]]} for row in ambiguous_questions()],
        items, seed)


def ambignq(items: int | None = None, seed: int = 0) -> Dataset:
    """AmbigNQ's validation set (Min et al., EMNLP 2020) as open questions: ambiguous where an annotator saw several
    readings, of which the first such annotator's, at most MOST_READINGS, are the clarifications, equally weighted."""
    rows, _ = hub_or_raw("ambignq", "validation", ("id", "question", "annotations"))
    questions = []
    for row in rows:
        single, several = ((row["single_answers"], row["interpretations"]) if "interpretations" in row else
                           _verdicts(row["annotations"]))
        answers = [reading["answer"] for annotator in several for reading in annotator] + single
        if not several:  # annotators word one answer differently
            answers = [[form for forms in single for form in forms]]
        clarified = [reading["question"] for reading in several[0][:MOST_READINGS]] if several else []
        questions.append({"id": row["id"], "text": row["question"], "ambiguous": bool(several), "answers": answers,
                          "clarified": clarified, "weights": [1 / len(clarified) for _ in clarified]})
    return _open_questions(questions, items, seed)


def triviaqa(items: int | None = None, seed: int = 0) -> Dataset:
    """TriviaQA's validation questions (Joshi et al., ACL 2017), without evidence, as open questions: none ambiguous."""
    rows, _ = hub_or_raw("triviaqa", "validation", ("question_id", "question", "answer"))
    rows = {row["question"]: row for row in rows}.values()  # one with two kinds of evidence has a row for each
    return _open_questions([{
        "id": row["question_id"], "text": row["question"], "ambiguous": False, "clarified": [], "weights": [],
        "answers": [[row["answer"]["value"], *row["answer"]["aliases"]]]} for row in rows], items, seed)


# each draws `items` questions with `seed` (None: all of them) and gives the columns id, text, `answers` (the forms that
# are accepted for each meaning), `ambiguous`, `clarified` and `weights`
OPEN_QUESTIONS: dict[str, Callable[..., Dataset]] = {
    "own_questions": own_questions, "ambignq": ambignq, "triviaqa": triviaqa}


class SameAnswer:
    """Equivalence of answers to open questions, for `meaning_clusters`: equal after `normalise`, or the same meaning.

    An answer means the longest accepted form that it contains as whole words: "It is Paris." means "Paris".
    questions : of OPEN_QUESTIONS, no text twice. ValueError in a call for another question.
    """

    def __init__(self, questions: Dataset):
        self._known = {}
        for text, answers in zip(questions["text"], questions["answers"]):
            forms = [(_words(form), meaning) for meaning, of_meaning in enumerate(answers) for form in of_meaning]
            # a form of two meanings names the first
            self._known[text] = {words: meaning for words, meaning in reversed(forms) if words.strip()}

    def _meaning(self, question, text):
        expect(question in self._known, lambda: f"no accepted answers to {question!r}: give its data set to SameAnswer")
        named = [words for words in self._known[question] if words in _words(text)]
        return self._known[question][max(named, key=len)] if named else _words(text)

    def __call__(self, triples: Sequence[Triple]) -> np.ndarray:
        return np.array([self._meaning(x, a) == self._meaning(x, b) for x, a, b in triples], dtype=bool)


def _words(text):
    return f" {normalise(text)} "


def _verdicts(annotations):
    """AmbigNQ's hub column as the mirror's file has it: the single answers, and the lists of readings."""
    by_kind = {"singleAnswer": [], "multipleQAs": []}
    for kind, answer, pairs in zip(annotations["type"], annotations["answer"], annotations["qaPairs"]):
        readings = [{"question": x, "answer": y} for x, y in zip(pairs["question"], pairs["answer"])]
        by_kind[kind].append(answer if kind == "singleAnswer" else readings)
    return by_kind["singleAnswer"], by_kind["multipleQAs"]


def _open_questions(rows, items, seed):
    """Questions with two clarifications or more: an unambiguous one gets neutral framings of itself, beside the
    restatement that it may have, so that merely having clarifications gives nothing away."""
    if items is not None:
        expect(1 <= items <= len(rows), f"items = {items}: the set has {len(rows)} questions; ask for 1 to as many")
        rows = [rows[i] for i in sorted(np.random.default_rng(seed).permutation(len(rows))[:items])]
    for row in rows:
        if not row["ambiguous"]:
            framed = variants([row["text"]], KERNELS["framing"], 2, seed)[0]
            row |= {"clarified": [*row["clarified"], *framed][:2], "weights": [0.5, 0.5]}
    clarified, weights = _filled([row["clarified"] for row in rows], [row["weights"] for row in rows])
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return Dataset.from_dict({**columns, "clarified": clarified, "weights": weights})


def _filled(readings, weights=None):
    """Every row's readings filled up to the most of any row, the first again at weight 0; equal weights if none."""
    width = max(map(len, readings))
    weights = weights or [[1 / len(row)] * len(row) for row in readings]
    return ([row + row[:1] * (width - len(row)) for row in readings],
            [row + [0.0] * (width - len(row)) for row in weights])


def hub_or_raw(name: str, split: str, columns: Sequence[str]) -> tuple[list[dict], dict]:
    """Rows of a set in the form of a mirror's raw/<name>, or, where none has it, with the hub's own columns; and where
    they came from. Raises what hub_rows does."""
    if file := paths.in_mirror("raw", name, f"{split}.jsonl"):
        return _json_lines(name, split), {"origin": "mirror", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    rows, origin = hub_rows(HUB_SETS[name], split, columns)
    return rows.select_columns(list(columns)).to_list(), origin


def _json_lines(name, *splits):
    return [json.loads(line) for split in splits
            for line in _raw(name, f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def _raw(name, file):
    found = paths.in_mirror("raw", name, file)
    if not found:
        raise paths.not_available("data set", f"raw/{name}", "not on the hub: a mirror only")
    return found
