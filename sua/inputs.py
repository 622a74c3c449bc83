"""What an input is, and how inputs are read and checked: texts, pairs of texts, questions with their options.

An input is a text, or a tuple of texts: (premise, hypothesis), or (question, option_1, option_2, ...).
"""

from __future__ import annotations

import difflib
from typing import Mapping, Sequence

import numpy as np

Input = str | tuple[str, ...]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def expect(condition, message):
    """ValueError with `message` (text, or a function that makes it) unless `condition` holds."""
    if not condition:
        raise ValueError(message() if callable(message) else message)


def unknown_name(what, name, known) -> str:
    """A message that names what is unknown, the nearest known name and all others."""
    near = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {name!r}: {hint}Known: {', '.join(known)}"


def as_inputs(data) -> list:
    """The inputs of a list, each as it is kept: a text, or a tuple of texts for a list or {"question", "choices"}."""
    expect(not isinstance(data, (str, Mapping)) and not hasattr(data, "columns"), lambda: "inputs is one "
           f"{type(data).__name__}: give a list of texts, such as [text] or frame['text'].tolist()")
    return [_as_input(i, example) for i, example in enumerate(data)]


def _as_input(i, example):
    if isinstance(example, Mapping):
        expect({"question", "choices"} <= set(example), lambda: f"inputs[{i}] has the keys {sorted(example)}: give "
               "{'question': ..., 'choices': [...]}, or a tuple (question, option_1, option_2, ...)")
        return example["question"], *example["choices"]
    # a text that a table lacks is NaN
    empty = not example.strip() if isinstance(example, str) else isinstance(example, float)
    expect(not empty, lambda: f"inputs[{i}] = {example!r} is empty or not text: remove the row, or give its text")
    return tuple(example) if isinstance(example, list) else example


def distinct(inputs):
    """The distinct inputs in order of appearance, and the (N,) place of each input among them."""
    inputs = list(inputs)
    if not inputs:
        raise ValueError("inputs is empty: give at least one text")
    for i, example in enumerate(inputs):
        parts = example if isinstance(example, tuple) else (example,)
        if not all(isinstance(part, str) and part.strip() for part in parts):
            raise ValueError(f"inputs[{i}] = {example!r} is empty or not text: remove the row, or give its text")
    index = {example: i for i, example in enumerate(dict.fromkeys(inputs))}
    return list(index), np.array([index[example] for example in inputs])


def inputs(split) -> list[Input]:
    """The inputs of a split as models take them: texts, (text, text_pair) or (question, option, option, ...) tuples."""
    if "text_pair" in split.column_names:
        return list(zip(split["text"], split["text_pair"]))
    if "options" in split.column_names:
        return [(text, *options) for text, options in zip(split["text"], split["options"])]
    return list(split["text"])


def clarifications(split) -> list[list[Input]]:
    """For each input of a split its Z clarifications, in the form of the inputs."""
    if "clarified_pair" in split.column_names:
        return [list(zip(first, second)) for first, second in zip(split["clarified"], split["clarified_pair"])]
    return [list(row) for row in split["clarified"]]


def has_options(example: Input) -> bool:
    """Whether it is a tuple (question, option_1, option_2, ...), and not a text or a pair of texts."""
    return isinstance(example, (tuple, list)) and len(example) > 2


def lettered(options: Sequence[str]) -> str:
    """The options of a question as lines "A. ..."."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options))


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


def option_counts(inputs, c: int) -> list[int] | None:
    """Of each input with options their number, of others C; None if all have C. ValueError for more options than C."""
    counts = [len(x) - 1 if has_options(x) else c for x in inputs]
    i = int(np.argmax(counts))
    expect(counts[i] <= c, lambda: f"inputs[{i}] is a question with {counts[i]} options, since it has {counts[i] + 1} "
           f"texts, but the model knows {c} classes: join further texts to the first or the second")
    return counts if min(counts) < c else None


def in_first_order(probs: np.ndarray, orbits) -> np.ndarray:
    """(N, L, C) `probs` of the L members of each orbit, with the options of each in the order of the first member."""
    return np.take_along_axis(probs, option_columns(orbits, probs.shape[-1]), -1)
