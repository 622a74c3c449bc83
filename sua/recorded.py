"""Recorded sets that are no training task: outputs of real models, human votes, rewrites and attacks.

They are not on the hub: all but the project's own questions are read from raw/<name> of a mirror, and each function
raises NotAvailableError where no mirror has its file. None of their rows is part of this repository.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.special import softmax

from . import paths
from .perturb import KERNELS, variants
from .predict import Predictions

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
    width = max(map(len, readings))
    filled = [pairs + pairs[:1] * (width - len(pairs)) for pairs in readings]
    return Dataset.from_dict({
        "id": [row["id"] for row in rows], "text": [row["premise"] for row in rows],
        "text_pair": [row["hypothesis"] for row in rows], "ambiguous": [row["ambiguous"] for row in rows],
        "clarified": [[first for first, _ in pairs] for pairs in filled],
        "clarified_pair": [[second for _, second in pairs] for pairs in filled],
        "weights": [[1 / len(pairs)] * len(pairs) + [0.0] * (width - len(pairs)) for pairs in readings]})


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


def _json_lines(name, *splits):
    return [json.loads(line) for split in splits
            for line in _raw(name, f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def _raw(name, file):
    found = paths.in_mirror("raw", name, file)
    if not found:
        raise paths.not_available("data set", f"raw/{name}", "not on the hub: a mirror only")
    return found
