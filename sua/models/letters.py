"""An answer as a letter: the prompt that lists the options, and the distribution over them that replies stand for."""

from __future__ import annotations

import re
from typing import Sequence

import numpy as np

from ..inputs import LETTERS, OPTIONS, expect, lettered

TEMPLATE = "{question}\n\n{options}\n\nAnswer with the letter of the right option and nothing else."


def letter_prompt(question: str, options: Sequence[str], template: str = TEMPLATE) -> str:
    """`template` with its {question} and {options}, these as lines "A. ..."; other braces stay as they are.

    ValueError where template is "{question}" alone and the question does not say {options}.
    """
    if template == "{question}":
        expect(OPTIONS in question, lambda: f"the prompt {question!r} has no {{options}}, so that no letter would mean "
               "anything: say where the list goes, or keep the default template")
        return question.replace(OPTIONS, lettered(options))
    given = {"{question}": question, OPTIONS: lettered(options)}
    return re.sub("{question}|{options}", lambda found: given[found[0]], template)


def read_logprobs(top: Sequence[tuple[str, float]], c: int) -> tuple[float, np.ndarray]:
    """The listed probability of the first c letters, and their (c,) distribution by `RemoteLM.predict_proba`'s rule.

    top : (token, log-probability in nats) pairs of one position.
    """
    listed = np.exp([logprob for _, logprob in top])
    mass = np.zeros(c)
    for (token, _), p in zip(top, listed):
        letter = re.fullmatch(r"[\W_]*([A-Za-z])[\W_]*", token)
        if letter and (k := LETTERS.index(letter[1].upper())) < c:
            mass[k] += p
    readable, missing = mass.sum(), mass == 0
    if missing.any() and readable:
        mass[missing] = min(listed.min(), max(1 - listed.sum(), 0) / missing.sum())
    return readable, mass / mass.sum() if readable else np.full(c, 1 / c)


def read_answers(texts: Sequence[str], options: Sequence[str]) -> tuple[float, np.ndarray]:
    """The share of answers that name an option, and the (C,) distribution by `RemoteLM.predict_proba`'s rule."""
    votes = [named for named in (named_option(text, options) for text in texts) if named is not None]
    counts = np.bincount(votes, minlength=len(options)) if votes else np.zeros(len(options))
    return len(votes) / len(texts), (counts + 0.5) / (len(votes) + len(options) / 2)


def named_option(text: str, options: Sequence[str]) -> int | None:
    """The option that an answer names: by a letter at its start that stands alone ("B", "(b)", "B. Paris", but not
    "A bird"), by "answer is B" or "answer: B", or by an option's text and nothing else. None for all others."""
    if found := (re.match(r"[\W_]*([A-Za-z])[*_ \t]*(?:[.,:;)\]\n]|$)", text)
                 or re.search(r"(?i:answer(?: is)?)[\W_]*([A-Z])(?![\w'])", text)):
        k = LETTERS.index(found[1].upper())
        return k if k < len(options) else None
    bare = [part.strip(" \t\r\n.\"'*`").casefold() for part in (text, *options)]
    return bare.index(bare[0], 1) - 1 if bare[0] in bare[1:] else None
