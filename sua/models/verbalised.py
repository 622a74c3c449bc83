"""Confidence in words: the model is shown its answer and says how likely it is to be right (Tian et al., EMNLP 2023;
Xiong et al., ICLR 2024). What it says is read strictly: a number and nothing else, or it is a refusal.
"""

from __future__ import annotations

import re
from typing import Sequence

from ..inputs import LETTERS, expect, lettered

CONFIDENCE = ("{question}\n\nProposed answer: {answer}\n\nHow likely is it that the proposed answer is right? Reply "
              "with a percentage between 0% and 100%, and nothing else.")
_NUMBER = re.compile(r"(?:(?:confidence|probability|percentage)\s*[:=]\s*)?(\d+(?:\.\d+)?|\.\d+)\s*(%|percent)?\s*\.?",
                     re.IGNORECASE)


def read_confidence(text: str) -> float | None:
    """The probability that a reply states, in [0, 1], or None for a refusal.

    "85%", "85 percent", "85", "Confidence: 85%" are .85, and so is "0.85": without a percent sign a number with a
    decimal point of at most 1 is a probability. A reply of more words or numbers, or outside of the range, is a
    refusal.
    """
    found = _NUMBER.fullmatch(text.strip().strip("*"))
    if not found:
        return None
    number, is_percentage = float(found[1]), found[2] or not ("." in found[1] and float(found[1]) <= 1)
    value = number / 100 if is_percentage else number
    return value if 0 <= value <= 1 else None


def confidence_prompt(texts: Sequence[str], options: Sequence[str], answer: int | str) -> str:
    """What is asked about an answer to the question `texts` with its options, if any: an option by its number, or a
    text.

    ValueError for an option that does not exist.
    """
    question = "\n".join(texts) + (f"\n\n{lettered(options)}" if options else "")
    if not isinstance(answer, str):
        expect(0 <= answer < len(options), lambda: f"the answer {answer!r} to {question!r} is none of its "
               f"{len(options)} options: give a number from 0 on, or a text")
        answer = f"{LETTERS[answer]}. {options[answer]}"
    given = {"{question}": question, "{answer}": answer}
    return re.sub("{question}|{answer}", lambda found: given[found[0]], CONFIDENCE)
