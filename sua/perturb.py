"""Perturbation kernels Pi(.|x): seeded samplers of inputs that mean the same, and an audit that they do.

An input is a text, or a tuple of texts such as (premise, hypothesis). No kernel negates, swaps in antonyms or
deletes content words. The draws for an input depend on the seed and the input alone, not on its neighbours.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Callable, Mapping, Sequence

import numpy as np

Input = str | tuple[str, ...]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
RETRIES = 8  # draws until a variant differs from x; some texts offer a kernel nothing to change


@dataclass(frozen=True)
class Perturbation:
    """A kernel: `rewrite(input, rng)` draws one variant of a whole input.

    Build from a rewriter of plain texts with `of_text`, which leaves the other texts of a tuple as they are.
    """

    name: str
    rewrite: Callable[[Input, np.random.Generator], Input]

    @classmethod
    def of_text(cls, name: str, rewrite: Callable[[str, np.random.Generator], str]) -> "Perturbation":
        """The kernel that rewrites the text, or one text of a tuple, drawn uniformly."""

        def rewrite_input(example, rng):
            if isinstance(example, str):
                return rewrite(example, rng)
            part = rng.integers(len(example))
            return tuple(rewrite(text, rng) if i == part else text for i, text in enumerate(example))

        return cls(name, rewrite_input)

    def sample(self, example: Input, k: int, rng: np.random.Generator) -> list[Input]:
        """k variants of one input, each different from it where the kernel finds something to change."""
        if k < 1:
            raise ValueError(f"K = {k}: draw at least one variant per input")
        return [self._changed(example, rng) for _ in range(k)]

    def _changed(self, example, rng):
        for _ in range(RETRIES):
            variant = self.rewrite(example, rng)
            if variant != example:
                break
        return variant


def variants(inputs: Sequence[Input], perturbation: Perturbation, k: int, seed: int = 0) -> list[list[Input]]:
    """k variants of each input; equal inputs get equal variants, whatever the order of the inputs."""
    return [list(row) for row in _variants(tuple(inputs), perturbation, k, seed)]


@lru_cache(maxsize=8)  # many models are asked about the same inputs
def _variants(inputs, perturbation, k, seed):
    return [perturbation.sample(x, k, np.random.default_rng([seed, zlib.crc32(repr(x).encode())])) for x in inputs]


def mixture(*perturbations: Perturbation) -> Perturbation:
    """For each variant one of the kernels, drawn uniformly. ValueError if there is none."""
    if not perturbations:
        raise ValueError("a mixture needs at least one kernel; known by name: sua.perturb.KERNELS")
    return Perturbation("+".join(p.name for p in perturbations),
                        lambda example, rng: perturbations[rng.integers(len(perturbations))].rewrite(example, rng))


def on_first(perturbation: Perturbation) -> Perturbation:
    """The kernel on the first text of a tuple alone: the question of a multiple-choice input, not its options."""
    rewrite = perturbation.rewrite
    return Perturbation(perturbation.name, lambda example, rng: (rewrite(example[0], rng), *example[1:]))


def _reordered(example, rng):
    if not has_options(example):
        raise ValueError(f"{example!r} has no options to reorder: give a tuple (question, option_1, option_2, ...)")
    return example[0], *(example[1 + i] for i in rng.permutation(len(example) - 1))


# the same options in another order; prediction and training map what comes of it back onto the order of x
OPTION_ORDER = Perturbation("option_order", _reordered)


def lettered(options: Sequence[str]) -> str:
    """The options of a question as lines "A. ..."."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options))


def has_options(example: Input) -> bool:
    """Whether it is a tuple (question, option_1, option_2, ...), and not a text or a pair of texts."""
    return isinstance(example, (tuple, list)) and len(example) > 2


def option_columns(orbits: Sequence[Sequence[Input]], n_classes: int) -> np.ndarray:
    """(N, L, C) places of the options of each orbit's first input among those of its L members.

    Options are known by their text, equal ones by their order; without options, or with others, all stay in place.
    """
    columns = np.tile(np.arange(n_classes), (len(orbits), len(orbits[0]), 1))
    rank = lambda example: sorted(range(len(example) - 1), key=lambda j: example[1 + j])
    for places, orbit in zip(columns, orbits):
        if has_options(orbit[0]):
            for place, member in zip(places, orbit):
                if sorted(member[1:]) == sorted(orbit[0][1:]):
                    place[rank(orbit[0])] = rank(member)
    return columns


def synonyms(groups: Sequence[Sequence[str]], rate: float = 0.5, name: str = "synonyms") -> Perturbation:
    """Each word that has a group is redrawn, with probability `rate`, uniformly from its group.

    Uniform redraws make the kernel reversible, so (x, x') is an exchangeable pair.
    """
    group_of = {word: group for group in groups for word in group}

    def rewrite(text, rng):
        def redraw(match):
            group = group_of.get(match.group())
            return group[rng.integers(len(group))] if group and rng.random() < rate else match.group()

        return re.sub(r"\w+", redraw, text)

    return Perturbation.of_text(name, rewrite)


def given(groups: Mapping[Input, Sequence[Input]], name: str = "given") -> Perturbation:
    """Variants that a data set itself supplies: one of the other members of x's group, drawn uniformly."""

    def rewrite(example, rng):
        if example not in groups:
            raise ValueError(f"the data set gives no variants of {example!r}: perturb only the inputs it lists")
        return groups[example][rng.integers(len(groups[example]))]

    return Perturbation(name, rewrite)


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
    for start, end in sorted((words[i] for i in rng.choice(len(words), count, replace=False)), reverse=True):
        at = int(rng.integers(start + 1, end - 2))  # first and last letters carry most of a word's identity
        a, b = text[at], text[at + 1]
        near = _NEIGHBOURS[a.lower()]
        slip = [near[rng.integers(len(near))] + b, b + a, a + a + b, b][rng.integers(4)]
        text = text[:at] + slip + text[at + 2:]
    return text


_CONTRACTIONS = [("do not", "don't"), ("does not", "doesn't"), ("did not", "didn't"), ("is not", "isn't"),
                 ("are not", "aren't"), ("was not", "wasn't"), ("cannot", "can't"), ("could not", "couldn't"),
                 ("would not", "wouldn't"), ("it is", "it's"), ("that is", "that's"), ("you are", "you're"),
                 ("they are", "they're"), ("we are", "we're"), ("i am", "i'm"), ("there is", "there's")]
_SHORT = dict(_CONTRACTIONS)
_LONG = {short: long for long, short in _CONTRACTIONS if not short.endswith("'s")}  # "it's" may be "it has"


def _swap_words(table):
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, table)) + r")\b", re.IGNORECASE)
    return lambda text: pattern.sub(lambda match: table[match.group().lower()], text)


_SURFACE = [
    _swap_words(_SHORT),
    _swap_words(_LONG),
    str.lower,
    lambda text: text[:1].upper() + text[1:],
    lambda text: re.sub(r"\s*\.\s*$", "", text) or text,
    lambda text: re.sub(r"(?<=\w)\s*$", " .", text, count=1),
    lambda text: re.sub(r"\s+([,.;:!?])", r"\1", text),
    lambda text: re.sub(r"(?<=\w)([,.;:!?])(?!\S)", r" \1", text),
]


def _surface(text, rng):
    """Case, punctuation, contractions and spacing: two of the changes, drawn at random."""
    for change in rng.choice(len(_SURFACE), 2, replace=False):
        text = _SURFACE[change](text)
    return text


_FRAMES = ["here is the text : {}", "the text reads as follows : {}", "someone wrote : {}", "quote : {}",
           "{} ( end of text )", "from a longer text : {}", "the following was posted online : {}",
           "this is what was written : {}", "copied word for word : {}", "{} - that is all it says"]


def _framing(text, rng):
    """A neutral sentence around the text, which says nothing about its content."""
    return _FRAMES[rng.integers(len(_FRAMES))].format(text)


KERNELS: dict[str, Perturbation] = {
    "typos": Perturbation.of_text("typos", _typo),
    "surface": Perturbation.of_text("surface", _surface),
    "framing": Perturbation.of_text("framing", _framing),
}


def audit(perturbation: Perturbation, inputs: Sequence[Input], label: Callable[[Sequence[Input]], np.ndarray],
          k: int = 4, seed: int = 0) -> float:
    """Label-preservation rate: the share of (x, x') whose most probable label is the same.

    label : inputs -> (N, C) distributions: a world's exact p*, or a judge model's predict_proba. A judge also flips
    by mistake: read its rate beside that on pairs known to keep their label. An option is known by its text.
    """
    orbits = [(x, *row) for x, row in zip(inputs, variants(inputs, perturbation, k, seed))]
    found = label([member for orbit in orbits for member in orbit]).reshape(len(orbits), 1 + k, -1)
    labels = np.take_along_axis(found, option_columns(orbits, found.shape[-1]), -1).argmax(-1)
    return float((labels[:, 1:] == labels[:, :1]).mean())
