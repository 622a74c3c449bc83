"""Kernels that rewrite a text, whatever it is about: slips of the finger, surface, words of the same meaning."""

from __future__ import annotations

import re
from typing import Sequence

from ..inputs import expect
from .kernel import Perturbation


def synonyms(groups: Sequence[Sequence[str]], rate: float = 0.5, name: str = "synonyms") -> Perturbation:
    """Each word that has a group is redrawn, with probability `rate`, uniformly from its group.

    Uniform redraws make the kernel reversible, so (x, x') is an exchangeable pair. ValueError for a rate outside
    [0, 1].
    """
    expect(0 <= rate <= 1, f"rate = {rate}: give a probability in [0, 1]")
    group_of = {word: group for group in groups for word in group}

    def rewrite(text, rng):
        def redraw(match):
            group = group_of.get(match.group())
            return group[rng.integers(len(group))] if group and rng.random() < rate else match.group()

        return re.sub(r"\w+", redraw, text)

    return Perturbation.of_text(name, rewrite)


_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {key: "".join(row[max(i - 1, 0):i] + row[i + 1:i + 2]) for row in _ROWS for i, key in enumerate(row)}
WORDS_PER_TYPO = 8
SHORTEST_TYPO = 4  # a slip in a shorter word often makes another word ("bad", "bed")


def _typo(text, rng):
    """Slips of the finger inside at most one word in eight: neighbouring key, swap, doubling, omission."""
    words = [match.span() for match in re.finditer(r"[A-Za-z]+", text) if len(match.group()) >= SHORTEST_TYPO]
    if not words:
        return text
    count = min(len(words), max(1, len(text.split()) // WORDS_PER_TYPO))
    parts, after = [], len(text)
    for start, end in sorted((words[i] for i in rng.choice(len(words), count, replace=False)), reverse=True):
        at = int(rng.integers(start + 1, end - 2))  # first and last letters carry most of a word's identity
        a, b = text[at], text[at + 1]
        near = _NEIGHBOURS[a.lower()]
        slip = [near[rng.integers(len(near))] + b, b + a, a + a + b, b][rng.integers(4)]
        parts += [text[at + 2:after], slip]
        after = at
    return "".join([text[:after], *reversed(parts)])


_CONTRACTIONS = [("do not", "don't"), ("does not", "doesn't"), ("did not", "didn't"), ("is not", "isn't"),
                 ("are not", "aren't"), ("was not", "wasn't"), ("cannot", "can't"), ("could not", "couldn't"),
                 ("would not", "wouldn't"), ("it is", "it's"), ("that is", "that's"), ("you are", "you're"),
                 ("they are", "they're"), ("we are", "we're"), ("i am", "i'm"), ("there is", "there's")]
_SHORT = dict(_CONTRACTIONS)
_LONG = {short: long for long, short in _CONTRACTIONS if not short.endswith("'s")}  # "it's" may be "it has"


def _swap_words(table):
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, table)) + r")\b", re.IGNORECASE)
    # case is ignored for "\u0130" and "\u017f" too, which lower() does not turn into the table's letters
    return lambda text: pattern.sub(lambda match: table.get(match.group().lower(), match.group()), text)


def _without_stop(text):
    bare = text.rstrip()
    return bare[:-1].rstrip() or text if bare.endswith(".") else text


_SURFACE = [
    _swap_words(_SHORT),
    _swap_words(_LONG),
    str.lower,
    lambda text: text[:1].upper() + text[1:],
    _without_stop,
    lambda text: re.sub(r"(?<=\w)\s*$", " .", text, count=1),
    lambda text: re.sub(r"(?<!\s)\s+([,.;:!?])", r"\1", text),  # tried once per run of spaces: linear
    lambda text: re.sub(r"(?<=\w)([,.;:!?])(?!\S)", r" \1", text),
]


def _surface(text, rng):
    """Case, punctuation, contractions and spacing: two of the changes, drawn at random."""
    for change in rng.choice(len(_SURFACE), 2, replace=False):
        text = _SURFACE[change](text)
    return text


TYPOS = Perturbation.of_text("typos", _typo)
SURFACE = Perturbation.of_text("surface", _surface)
