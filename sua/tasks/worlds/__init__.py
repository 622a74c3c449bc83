"""Generated tasks whose true p*(y|x), synonym groups and readings are known exactly; nothing in them is estimated.

A world is a module of this package that writes simple English from a small grammar: `draw` writes inputs, each with
two clarifications (x with a reading spelled out) and their weights, `p_star` reads any of its texts by Bayes' rule,
and `kernels` rewrites them without touching p*. Here a world becomes a Task.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Mapping

import numpy as np
from datasets import Dataset, DatasetDict

from ..task import SPLITS, Task

WORLDS = ("topic", "nli", "facts")
LABEL_RULES = ("majority", "sampled")
DIGITS = 12  # of p*


def generate(name: str, sizes: Mapping[str, int], seed: int = 0, ambiguity: float = 0.3, skew: float = 1.5,
             label_rule: str = "majority") -> Task:
    """The world of that name as a Task.

    sizes : rows per split; one of 0 is left out. ambiguity : share of inputs whose p*(y|x) has mass on more than one
    label. skew : exponent of the Zipf law by which words of the same meaning are used, so that rare ones are seldom
    seen in training.
    label_rule : how train and validation rows are labelled. "majority" takes argmax p*, as a vote among annotators
    does (this is what teaches a model to collapse); "sampled" draws each label from p*. A third rule, soft labels, is
    a matter of training and not of the data: OBJECTIVES["soft_labels"] learns from the column label_dist. Calibration
    and test labels are always drawn from p*: what the one who asks has meant.

    Besides the common schema each row holds label_dist (C,) = p*(y|x), `ambiguous`, `clarified` (two texts, with
    `clarified_pair` for pairs) and their `weights`. Kernels: "synonyms", "wording", and for attacks "rare" and
    "distractors"; all keep p* exactly. Raises ValueError for a share outside [0, 1], a negative skew or an unknown
    rule.
    """
    if not 0 <= ambiguity <= 1:
        raise ValueError(f"ambiguity = {ambiguity}: give a share in [0, 1]")
    if skew < 0:
        raise ValueError(f"skew = {skew}: give an exponent of at least 0")
    if label_rule not in LABEL_RULES:
        raise ValueError(f"label_rule = {label_rule!r}: give {' or '.join(map(repr, LABEL_RULES))}; for soft labels "
                         "train with OBJECTIVES['soft_labels']")
    world = import_module(f".{name}", __name__)
    truth = partial(_rounded, world.p_star)
    splits = DatasetDict()
    for index, split in enumerate(SPLITS):
        if not sizes[split]:
            continue
        rng = np.random.default_rng([seed, index])
        columns = world.draw(sizes[split], rng, ambiguity, skew)
        inputs, clarified = columns.pop("inputs"), columns.pop("clarified")
        p_star = truth(inputs)
        drawn = (rng.random((len(inputs), 1)) > p_star.cumsum(-1)[:, :-1]).sum(-1)
        splits[split] = Dataset.from_dict({
            "id": [f"{split}-{i}" for i in range(len(inputs))],
            **_columns(inputs, clarified),
            "label": p_star.argmax(-1) if label_rule == "majority" and split in ("train", "validation") else drawn,
            "label_dist": p_star,
            "ambiguous": p_star.max(-1) < 1,
            **columns,
        })
    source = {"origin": "generated", "world": name, "seed": seed, "ambiguity": ambiguity, "skew": skew,
              "label_rule": label_rule}
    return Task(name, splits, world.LABELS, world.kernels(), source, truth)


def _rounded(p_star, inputs):
    # sums of another order end otherwise: rounded, ties are ties and the data the same bytes on every processor
    return p_star(inputs).round(DIGITS)


def _columns(inputs, clarified):
    if isinstance(inputs[0], str):
        return {"text": inputs, "clarified": [list(row) for row in clarified]}
    return {"text": [first for first, _ in inputs], "text_pair": [second for _, second in inputs],
            "clarified": [[first for first, _ in row] for row in clarified],
            "clarified_pair": [[second for _, second in row] for row in clarified]}
