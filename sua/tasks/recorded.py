"""Recorded sets that are no training task: outputs of real models, human votes, rewrites, attacks, open questions.

Each function raises NotAvailableError where its source is not to be had. Of their rows, the project's own questions and
a slice of the language models' outputs are part of this repository, in data/.
"""

from __future__ import annotations

from typing import Callable, Sequence

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.special import softmax

from .. import files, paths
from ..generation import Triple, normalise
from ..inputs import expect
from ..perturb import KERNELS, variants
from ..predictions import Predictions
from . import upstream
from .hub import HUB_SETS, hub_rows

MOST_READINGS = 8  # one question of AmbigNQ in a hundred has more, one has 41


def checklist_groups() -> dict[str, list[str]]:
    """CheckList's invariance groups for sentiment (Ribeiro et al., ACL 2020): original text -> its variants.

    The tests of fairness are left out: their texts hold stereotypes by design. Groups of different tests take turns."""
    tests = [data for kind, capability, data in upstream.checklist_tests().values()
             if kind == "INV" and capability != "Fairness"]
    groups = {}
    for i in range(max(map(len, tests))):
        for original, *rest in (data[i] for data in tests if i < len(data)):
            if rest:
                groups.setdefault(original, []).extend(rest)  # several tests may vary one text
    return groups


def llms(prompt: str = "base", in_full: bool = False) -> dict[str, Predictions]:
    """25 language models (1.8B to 72B) in 34 settings on MMLU (Ye et al., NeurIPS 2024), with gold answers.

    Keys: a base model's name, or a chat model's with its chat template, "Yi-34B-Chat, template 1". Six options: A-D,
    "I don't know" and "None of the above". x = the question under `prompt`, "base", "shared" or "task"; its two
    variants (K = 2) are the others: one instruction in other words. ids = item numbers; meta has `template`, `prompts`
    (that of x first) and `subject`, {id: MMLU subject}.

    in_full : every item with a known answer (9,967), from the sources; otherwise the 2,000 of data/llm_mcq.npz.
    ValueError for another prompt.
    """
    expect(prompt in upstream.PROMPTS, f"prompt = {prompt!r}: known are {', '.join(upstream.PROMPTS)}")
    order = [prompt, *(other for other in upstream.PROMPTS if other != prompt)]
    saved = upstream.llm_slice(items=None, kept=np.asarray) if in_full else _committed_llms()
    subject = dict(zip(saved["ids"].astype(str).tolist(), saved["subjects"].tolist()))
    found = {}
    for model, template, logits in zip(saved["models"].tolist(), saved["templates"].tolist(), saved["logits"]):
        first, *others = softmax(logits[[upstream.PROMPTS.index(name) for name in order]].astype(float), axis=-1)
        found[model if template == "base" else f"{model}, template {template[-1]}"] = Predictions(
            probs=first, perturbed=np.stack(others, axis=1), labels=saved["gold"], ids=saved["ids"],
            meta={"task": "mmlu", "model": model, "template": template, "prompts": order, "subject": subject})
    return found


def _committed_llms():
    with np.load(paths.of_checkout("data", "llm_mcq.npz")) as saved:
        return dict(saved)


def prompted_llama() -> Predictions:
    """LLaMA-13B on 2,886 questions of 16 MMLU subjects under ten one-shot prompts (Kumar et al., 2023), with gold
    answers.

    The first prompt is x, the nine others are its variants (K = 9). ids = subject and position in it; meta has
    `subject`, {id: subject}.
    """
    by_subject = upstream.llama_prompts()
    probs = np.concatenate([scores for scores, _ in by_subject.values()], axis=1)
    subject = {f"{name}-{i}": name for name, (_, targets) in by_subject.items() for i in range(len(targets))}
    return Predictions(
        probs=probs[0], perturbed=probs[1:].swapaxes(0, 1), ids=list(subject),
        labels=np.concatenate([targets for _, targets in by_subject.values()]),
        meta={"task": "mmlu", "model": "LLaMA-13B", "subject": subject})


def recorded_chaosnli() -> dict[str, Predictions]:
    """Outputs of fine-tuned NLI models on ChaosNLI (Nie et al., EMNLP 2020): 100 human votes per item as label_dist.

    Here the "variants" are training seeds of one model: what flips between them is an error of one of them.
    """
    rows, found = upstream.chaosnli_rows(), {}
    for model in ("roberta-base", "bert-base-uncased"):
        logits = upstream.chaosnli_logits(model)
        with_outputs = [row for row in rows if row["id"] in logits]
        probs = softmax([logits[row["id"]] for row in with_outputs], axis=-1)
        found[model] = Predictions(
            probs=probs[:, 0], perturbed=probs[:, 1:], labels=[row["label"] for row in with_outputs],
            label_dist=np.array([row["votes"] for row in with_outputs]) / 100, ids=[row["id"] for row in with_outputs],
            meta={"task": "chaosnli", "model": model})
    return found


def chaosnli() -> Dataset:
    """ChaosNLI's pairs in the common schema: label = majority of 100 votes, label_dist (3,) = their shares."""
    rows = upstream.chaosnli_rows()
    return Dataset.from_dict({
        "id": [row["id"] for row in rows], "text": [row["premise"] for row in rows],
        "text_pair": [row["hypothesis"] for row in rows], "label": [row["label"] for row in rows],
        "label_dist": [[votes / 100 for votes in row["votes"]] for row in rows]})


def ambient(seed: int = 0) -> Dataset:
    """AmbiEnt (Liu et al., EMNLP 2023): NLI pairs with `ambiguous` and, per reading, a linguist's unambiguous rewrite.

    An ambiguous pair's clarifications are its rewrites, equally weighted. An unambiguous pair has none in the set; it
    gets two neutral framings of itself, which change nothing and so serve as the control. Rows are filled up to the
    largest number of readings with clarifications of weight 0.
    """
    rows = upstream.ambient_rows()
    readings = []
    for row in rows:
        pair = (row["premise"], row["hypothesis"])
        rewrites = [(r["premise"], r["hypothesis"]) for r in row["disambiguations"]]
        readings.append(rewrites or variants([pair], KERNELS["framing"], 2, seed)[0])
    filled, weights = _filled(readings)
    return Dataset.from_dict({
        "id": [str(row["id"]) for row in rows], "text": [row["premise"] for row in rows],
        "text_pair": [row["hypothesis"] for row in rows],
        "ambiguous": [row["premise_ambiguous"] or row["hypothesis_ambiguous"] for row in rows],
        "clarified": [[first for first, _ in pairs] for pairs in filled],
        "clarified_pair": [[second for _, second in pairs] for pairs in filled],
        "weights": weights})


def advglue(task: str) -> Dataset:
    """Adversarial GLUE (Wang et al., NeurIPS 2021): attacks on "sst2" or "chaosnli" (there on GLUE's MNLI) that people
    found to keep the label, in the common schema. ValueError for another task."""
    known = {"sst2": (("sst2",), ("sentence",)), "chaosnli": (("mnli", "mnli-mm"), ("premise", "hypothesis"))}
    if task not in known:
        raise ValueError(f"task = {task!r}: AdvGLUE is read for {' and '.join(known)}")
    parts, columns = known[task]
    rows = [{**row, "id": f"{part}-{row['idx']}"} for part in parts for row in upstream.advglue_rows()[part]]
    texts = {ours: [row[theirs] for row in rows] for ours, theirs in zip(("text", "text_pair"), columns)}
    return Dataset.from_dict({"id": [row["id"] for row in rows], **texts, "label": [row["label"] for row in rows]})


def prompt_sensitivity() -> pd.DataFrame:
    """759 runs of 9 LLMs (Lu et al., NAACL 2024): accuracy, and the sensitivity of right and of wrong answers apart."""
    return pd.read_csv(upstream.prompt_sensitivity_file())


def ambiguous_questions() -> list[dict]:
    """The project's own ambiguous and unambiguous questions, with readings and paraphrases; data/README.md has the
    schema."""
    return files.json_lines(paths.of_checkout("data", "ambiguous_questions.jsonl"))


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
    rows, _ = hub_rows(HUB_SETS["ambignq"], "validation", ("id", "question", "annotations"))
    questions = []
    for row in rows:
        single, several = _verdicts(row["annotations"])
        answers = [reading["answer"] for annotator in several for reading in annotator] + single
        if not several:  # annotators word one answer differently
            answers = [[form for forms in single for form in forms]]
        clarified = [reading["question"] for reading in several[0][:MOST_READINGS]] if several else []
        questions.append({"id": row["id"], "text": row["question"], "ambiguous": bool(several), "answers": answers,
                          "clarified": clarified, "weights": [1 / len(clarified) for _ in clarified]})
    return _open_questions(questions, items, seed)


def triviaqa(items: int | None = None, seed: int = 0) -> Dataset:
    """TriviaQA's validation questions (Joshi et al., ACL 2017), without evidence, as open questions: none ambiguous."""
    rows, _ = hub_rows(HUB_SETS["triviaqa"], "validation", ("question_id", "question", "answer"))
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
    """The single answers of AmbigNQ's annotators, and the lists of readings of those who saw several."""
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
