"""Kernels of how a question is put: a neutral frame around it, its instruction, the order of its options."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Sequence

from ..inputs import expect, has_options
from .kernel import Perturbation


_FRAMES = ["here is the text : {}", "the text reads as follows : {}", "someone wrote : {}", "quote : {}",
           "{} ( end of text )", "from a longer text : {}", "the following was posted online : {}",
           "this is what was written : {}", "copied word for word : {}", "{} - that is all it says"]


def _framing(text, rng):
    """A neutral sentence around the text, which says nothing about its content."""
    return _FRAMES[rng.integers(len(_FRAMES))].format(text)


FRAMING = Perturbation.of_text("framing", _framing)


def instructions(templates: Sequence[str], name: str = "instructions") -> Perturbation:
    """The kernel that says the same question under another instruction.

    templates : format strings with the field {question}. A text is written in one of them and redrawn uniformly from
    all, which makes (x, x') an exchangeable pair; "{question}" alone stands for no instruction. For questions with
    options: sua.perturb.on_first of it.
    ValueError for a template without the field, and for a text written in none of them.
    """
    for template in templates:
        if template.count("{question}") != 1:
            raise ValueError(f"template {template!r} needs the field {{question}} once")
    longest = sorted(templates, key=len, reverse=True)  # the most literal match is the one that was meant
    patterns = [re.compile("(.*)".join(map(re.escape, t.split("{question}"))), re.DOTALL) for t in longest]

    def question(text):
        found = next(filter(None, (pattern.fullmatch(text) for pattern in patterns)), None)
        if not found:
            raise ValueError(f"{text!r} is written in none of the templates: add '{{question}}' to them, or write the "
                             "inputs in one of them")
        return found.group(1)

    def rewrite(text, rng):
        return templates[rng.integers(len(templates))].replace("{question}", question(text))

    def others(text):
        return len({template.replace("{question}", question(text)) for template in templates} - {text})

    return Perturbation(name, rewrite, others)


def _options(example):
    expect(has_options(example), lambda: f"{example!r} has no options to reorder: give a tuple (question, option_1, "
           "option_2, ...)")
    return example[1:]


def _reordered(example, rng):
    options = _options(example)
    return example[0], *(options[i] for i in rng.permutation(len(options)))


def _other_orders(example):
    """How many orders differ from its own, n! / (m_1! m_2! ...) - 1, where m_i options have the same text."""
    options = _options(example)
    same = math.prod(math.factorial(m) for m in Counter(options).values())
    return math.factorial(len(options)) // same - 1


# the same options in another order; prediction and training map what comes of it back onto the order of x
OPTION_ORDER = Perturbation("option_order", _reordered, _other_orders)
