"""What an input is, and how inputs are read and checked: texts, pairs of texts, questions with their options.

An input is a text, or a tuple of texts: (premise, hypothesis), or (question, option_1, option_2, ...).
"""

from __future__ import annotations

import difflib
from numbers import Integral
from typing import Iterable, Mapping, Sequence

import numpy as np

Input = str | tuple[str, ...]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPTIONS = "{options}"  # where a prompt that is asked as it stands lists its options


def expect(condition, message):
    """ValueError with `message` (text, or a function that makes it) unless `condition` holds."""
    if not condition:
        raise ValueError(message() if callable(message) else message)


def whole(name, value, least: int, remedy: str) -> int:
    """`value` as an int; ValueError with the remedy unless it is a whole number of at least `least`."""
    expect(isinstance(value, Integral) and value >= least, lambda: f"{name} = {value!r}: {remedy}")
    return int(value)


def expect_seed(seed) -> int:
    """The seed as an int; ValueError unless it is a whole number of at least 0."""
    return whole("seed", seed, 0, "give a whole number of at least 0")


def numbers(name, values, remedy: str) -> np.ndarray:
    """`values` as a float64 array; ValueError with the remedy unless it is a rectangular one of real numbers."""
    try:
        expect(not np.iscomplexobj(np.asarray(values)), "complex values")
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not a rectangular array of numbers ({error}): {remedy}") from None


def finite(name, values) -> np.ndarray:
    """`values` as a float64 vector; ValueError unless it has at least one number, all finite."""
    array = numbers(name, values, "give one number per item")
    expect(array.ndim == 1 and len(array), f"{name} has shape {array.shape}: give a vector with at least one value")
    bad = ~np.isfinite(array)
    expect(not bad.any(), lambda: f"{name}[{int(np.argmax(bad))}] = {array[bad][0]}: give finite scores")
    return array


def unknown_name(what, name, known) -> str:
    """A message that names what is unknown, the nearest known name and all others."""
    near = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {name!r}: {hint}Known: {', '.join(known)}"


def as_inputs(data) -> list:
    """The inputs of a list, each as it is kept: a text, or a tuple of texts for a list or {"question", "choices"}.

    ValueError for anything else than a list of them, and for one that is empty or not text, naming its position.
    """
    expect(not hasattr(data, "splits"), lambda: f"inputs is the whole task {data.name!r}: give one of its splits, such "
           "as task['test']")
    expect(isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)) and not hasattr(data, "columns"),
           lambda: f"inputs is one {type(data).__name__}: give a list of texts, such as [text] or "
           "frame['text'].tolist(), or one split of a task")
    return [_as_input(i, example) for i, example in enumerate(data)]


def _as_input(i, example):
    if isinstance(example, Mapping):
        expect({"question", "choices"} <= set(example), lambda: f"inputs[{i}] has the keys "
               f"{sorted(map(str, example))}: give {{'question': ..., 'choices': [...]}}, or a tuple "
               "(question, option_1, option_2, ...)")
        choices = example["choices"]
        expect(isinstance(choices, (list, tuple, np.ndarray)) and len(choices) > 1, lambda: f"inputs[{i}]['choices'] = "
               f"{choices!r}: give a list of the options' texts, at least two")
        example = example["question"], *choices
    example = tuple(example) if isinstance(example, (list, np.ndarray)) else example
    _expect_text(i, example)
    # numpy's strings are written otherwise, so that variants would be drawn otherwise
    return tuple(map(str, example)) if isinstance(example, tuple) else str(example)


def _expect_text(i, example):
    parts = example if isinstance(example, tuple) else (example,)
    expect(parts and all(isinstance(part, str) and part.strip() for part in parts), lambda: f"inputs[{i}] = "
           f"{example!r} is empty or not text: remove the row, or give its text")


def distinct(inputs):
    """The distinct inputs in order of appearance, and the (N,) place of each input among them."""
    inputs = list(inputs)
    if not inputs:
        raise ValueError("inputs is empty: give at least one text")
    for i, example in enumerate(inputs):
        _expect_text(i, example)
    index = {example: i for i, example in enumerate(dict.fromkeys(inputs))}
    return list(index), np.array([index[example] for example in inputs])


def inputs(split) -> list[Input]:
    """The inputs of a split as models take them: texts, (text, text_pair) or (question, option, option, ...) tuples."""
    expect("text" in split.column_names, lambda: f"the split has no column 'text', only {', '.join(split.column_names)}"
           ": rename the column that holds the texts")
    if "text_pair" in split.column_names:
        return list(zip(split["text"][:], split["text_pair"][:]))  # read whole, a column is twenty times as fast
    if "options" in split.column_names:
        return [(text, *options) for text, options in zip(split["text"][:], split["options"][:])]
    return list(split["text"][:])


def clarifications(split) -> list[list[Input]]:
    """For each input of a split its Z clarifications, in the form of the inputs."""
    if "clarified_pair" in split.column_names:
        return [list(zip(first, second)) for first, second in zip(split["clarified"][:], split["clarified_pair"][:])]
    return [list(row) for row in split["clarified"][:]]


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

    def rank(example):
        return sorted(range(len(example) - 1), key=lambda j: example[1 + j])

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
