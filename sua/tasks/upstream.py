"""Readers of the sources' own bytes: one function a source, plain rows and arrays out.

Pickles are read without running what they name. Each function raises NotAvailableError where its source is not to be
had.
"""

from __future__ import annotations

import argparse
import collections
import json
import pickle
import re
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Callable

import numpy as np

from .. import paths
from ..files import json_lines
from ..sources import (ADVGLUE, AMBIENT, CHAOSNLI, CHECKLIST, LLAMA_PROMPTS, LLM_ANSWERS, LLM_LOGITS,
                      PROMPT_SENSITIVITY)
from .hub import HUB_SETS, hub_rows

LABELS = "enc"  # entailment, neutral, contradiction, as ChaosNLI writes them
PROMPTS = ("base", "shared", "task")
LOWEST = -60.0  # of a logit in half precision; e^-60 is nothing


def advglue_rows() -> dict[str, list[dict]]:
    """Adversarial GLUE's dev set: GLUE task -> rows with `idx`, the task's text columns and `label`."""
    return json.loads(ADVGLUE.path("dev.json").read_text(encoding="utf-8"))


def ambient_rows() -> list[dict]:
    """AmbiEnt, dev then test: `premise`, `hypothesis`, which of them is ambiguous, and `disambiguations`."""
    return json_lines(AMBIENT.path("AmbiEnt/dev.jsonl")) + json_lines(AMBIENT.path("AmbiEnt/test.jsonl"))


def chaosnli_rows() -> list[dict]:
    """ChaosNLI on SNLI, then on MultiNLI: `id`, `premise`, `hypothesis`, `label` (majority) and the 100 `votes`, in the
    order entailment, neutral, contradiction."""
    rows = [row for part in ("snli", "mnli_m")
            for row in json_lines(CHAOSNLI.path(f"data/chaosNLI_v1.0/chaosNLI_{part}.jsonl"))]
    return [{"id": row["uid"], "premise": row["example"]["premise"], "hypothesis": row["example"]["hypothesis"],
             "label": LABELS.index(row["majority_label"]), "votes": row["label_count"]} for row in rows]


def chaosnli_logits(model: str) -> dict[str, list[list[float]]]:
    """Id of a pair -> its logits under every training seed of "roberta-base" or "bert-base-uncased", in the order
    entailment, neutral, contradiction; the files have neutral last."""
    found = collections.defaultdict(list)
    for name in sorted(CHAOSNLI.files, key=lambda name: name[-6]):  # ..._<seed>.json
        if f"_{model}_" in name:
            for row in json_lines(CHAOSNLI.path(name)):
                entailment, contradiction, neutral = row["logits"]
                found[row["uid"]].append([entailment, neutral, contradiction])
    return found


def checklist_tests() -> dict[str, tuple[str, str, list]]:
    """CheckList's tests of sentiment: name -> (kind "MFT", "INV" or "DIR"; capability; data, for INV and DIR lists of
    an original and its variants)."""
    with tarfile.open(CHECKLIST.path("release_suites/sentiment_suite.tar.gz")) as archive:
        suite = PlainUnpickler(archive.extractfile("sentiment_suite.pkl")).load()
    return {name: (type(test).__name__, suite.info[name]["capability"], test.data)
            for name, test in suite.tests.items()}


def prompt_sensitivity_file() -> Path:
    """The table of 759 runs."""
    return PROMPT_SENSITIVITY.path("evaluation_scores.csv")


def llm_settings() -> list[tuple[str, str]]:
    """(model, template) of the 34 recorded settings; template "base", or "chat_v1" and "chat_v2" of chat models."""
    names = (re.fullmatch(r"outputs_(\w+)/(.+)_mmlu_10k_base_icl1\.pkl", name) for name in LLM_LOGITS.files)
    return [(name[2], name[1]) for name in names if name]


def llm_logits(model: str, template: str) -> np.ndarray:
    """(3, 10000, 6) logits of the options under each of PROMPTS: A-D, "I don't know" and "None of the above"."""
    return np.array([_item_logits(LLM_LOGITS.path(f"outputs_{template}/{model}_mmlu_10k_{prompt}_icl1.pkl"))
                     for prompt in PROMPTS])


def _item_logits(file):
    with open(file, "rb") as content:
        rows = ArrayUnpickler(content).load()
    return np.array([row["logits_options"] for row in sorted(rows, key=lambda row: row["id"])])


def llm_gold() -> tuple[np.ndarray, np.ndarray]:
    """(10000,) index of the right option, -1 where unknown, and (10000,) MMLU subject, "" there.

    The answers are recorded as texts. An item is known if MMLU's test set has its question with one list of options
    alone, the right one of which is this text; letters and digits are compared.
    """
    rows, _ = hub_rows(HUB_SETS["mmlu"], "test", ("question", "subject", "choices", "answer"))
    by_text = collections.defaultdict(dict)
    for row in rows:
        right = row["choices"][row["answer"]]
        by_text[_plain(row["question"]), _plain(right)].setdefault(tuple(map(_plain, row["choices"])), row)
    items = json.loads(LLM_ANSWERS.path("llm-uncertainty-mwe/data/mmlu_10k_answers.json").read_text(encoding="utf-8"))
    found = [list(by_text[_plain(item["question"]), _plain(item["answer"])].values()) for item in items]
    return (np.array([rows[0]["answer"] if len(rows) == 1 else -1 for rows in found]),
            np.array([rows[0]["subject"] if len(rows) == 1 else "" for rows in found]))


def llama_prompts() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """MMLU subject -> ((10, N, 4) option probabilities of LLaMA-13B under ten one-shot prompts, (N,) right option)."""
    with zipfile.ZipFile(LLAMA_PROMPTS.path("llm_probs_gpt.zip")) as archive:
        def array(subject, name):
            with archive.open(f"llm_probs_gpt/{subject}_{name}.npy") as content:
                return np.load(content, allow_pickle=False)

        subjects = sorted(name[14:-11] for name in archive.namelist()
                          if re.fullmatch(r"llm_probs_gpt/\w+_scores\.npy", name))
        return {subject: (array(subject, "scores"), array(subject, "targets")) for subject in subjects}


def half(logits: np.ndarray) -> np.ndarray:
    """Logits in half precision: the largest of an item is 0, none is below LOWEST."""
    return np.maximum(logits - logits.max(-1, keepdims=True), LOWEST).astype(np.float16)


def llm_slice(items: int | None = 2000, seed: int = 0, kept: Callable = half,
              logits: Callable[[str, str], np.ndarray] = llm_logits) -> dict[str, np.ndarray]:
    """Arrays of data/llm_mcq.npz: a seeded draw among the items with a known answer (None: all of them), under every
    setting and prompt.

    logits (34, 3, items, 6), as `kept` leaves those that `logits` gives of a setting; models and templates (34,);
    prompts (3,); ids = item numbers, gold and subjects (items,).
    """
    gold, subjects = llm_gold()
    ids = np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(gold >= 0))[:items])
    models, templates = zip(*llm_settings())
    return {"logits": np.array([kept(logits(*setting)[:, ids]) for setting in llm_settings()]),
            "models": np.array(models), "templates": np.array(templates), "prompts": np.array(PROMPTS),
            "ids": ids, "gold": gold[ids].astype(np.int8), "subjects": subjects[ids]}


class PlainUnpickler(pickle.Unpickler):
    """Builds plain data only: every class and function that a pickle names is replaced by an inert one."""

    def find_class(self, module, name):
        if module == "collections" and name in ("OrderedDict", "defaultdict"):
            return getattr(collections, name)
        return type(name, (_Inert,), {"__module__": module})


class _Inert:
    """Takes whatever a pickle gives it and does nothing with it; attributes of a state are kept."""

    def __new__(cls, *args, **options):
        return object.__new__(cls)

    def __init__(self, *args, **options):
        pass

    def __call__(self, *args, **options):
        return _Inert()

    def __setstate__(self, state):
        if isinstance(state, dict):
            vars(self).update(state)


class ArrayUnpickler(pickle.Unpickler):
    """Builds plain data and numpy arrays; UnpicklingError for any other class or function that a pickle names."""

    def find_class(self, module, name):
        known = {"_reconstruct": np._core.multiarray._reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in known:
            return known[name]
        raise pickle.UnpicklingError(f"{module}.{name} in a file of arrays: it is not what it should be; do not open "
                                     "it by other means")


def _plain(text):
    return "".join(filter(str.isalnum, str(text).lower()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m sua.tasks.upstream", description="Make data/llm_mcq.npz again.")
    parser.add_argument("--to", type=Path, default=paths.root() / "data" / "llm_mcq.npz")
    try:
        np.savez_compressed(parser.parse_args().to, **llm_slice())
    except paths.NotAvailableError as error:
        sys.exit(str(error))
