"""Predictions: what a model says about N inputs and about K variants of each.

Everything after the forward passes (scores, metrics, abstention, theory, tables) reads one `Predictions`
object and nothing else, so that every result can be recomputed from a saved file without the model.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Mapping, Protocol, Sequence, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from . import storage
from .inputs import Input, expect, expect_seed, numbers, whole

_UNSAFE = re.compile("[\0\ud800-\udfff]")  # what files of text cannot hold exactly
SUM_TOLERANCE = 1e-4  # half-precision softmax outputs miss 1 by about this much
# axes of the optional fields, by the letters of Predictions' docstring
DISTRIBUTIONS = {"perturbed": "NKC", "label_dist": "NC", "clarified": "NZC", "dropout": "NTC", "members": "NEC"}
REALS = {**DISTRIBUTIONS, "weights": "NZ", "logits": "NC", "features": "ND"}
# what fills an optional field, where sua.predict does not do so by itself
FILLED_BY = {"perturbed": "sua.predict(model, data, perturbation)", "samples": "sua.predict(..., samples=M)",
             "labels": "sua.predict(..., labels=...), or a split with the column label,",
             "label_dist": "sua.predict on a split with the column label_dist",
             "clarified": "sua.predict on a split with clarifications",
             "weights": "sua.predict on a split with clarifications and their weights",
             "logits": "sua.predict(..., internals=True), with a model that has outputs(inputs),",
             "features": "sua.predict(..., internals=True), with a model that has outputs(inputs),",
             "dropout": "sua.predict(..., dropout=T), with a model that has dropout_proba,",
             "members": "with_members(predictions of other models)"}


@dataclass(frozen=True, eq=False)
class Predictions:
    """Output distributions of one model on N inputs, validated on construction.

    Parameters
    ----------
    probs : (N, C) probabilities p(y|x).
    perturbed : (N, K, C) probabilities of K meaning-preserving variants of each input, or None.
    labels : (N,) integers in 0..C-1, or None where no gold answer exists.
    label_dist : (N, C) exact p*(y|x) or shares of human votes, or None.
    clarified : (N, Z, C) probabilities of x with each of its Z interpretations spelled out, or None.
    weights : (N, Z) weights of these interpretations; rows sum to 1. Needs `clarified`.
    samples : (N, M) answers (class indices) sampled from the model at the same x, or None.
    logits : (N, C) finite scores whose softmax is p(y|x), up to a temperature, or None.
    features : (N, D) finite representation of x that the model's head reads, or None.
    dropout : (N, T, C) probabilities of T stochastic passes over x with dropout on, or None.
    members : (N, E, C) probabilities p(y|x) of E independently trained models beside this one, or None.
    n_classes : (N,) number of options of each row where it varies; options beyond it have probability 0.
    ids : N strings; default "0", "1", ...
    meta : JSON-serialisable facts (task, model, training, split, perturbation, seed, versions).

    Every distribution must sum to 1 within 1e-4 and is then renormalised in float64.

    Memory: 8 bytes per number. Construction needs four times as much for a moment, loading a file six times; scores
    are computed in blocks and add little. So 8 GB hold N (K + 1) C up to about 150 million numbers: with K = 8 and
    C = 4, N = 4 million; with K = 8 and C = 150, N = 100,000.

    Raises
    ------
    ValueError : names the field, the row and the value that is wrong, and what to do.
    """

    probs: np.ndarray
    perturbed: np.ndarray | None = None
    labels: np.ndarray | None = None
    label_dist: np.ndarray | None = None
    clarified: np.ndarray | None = None
    weights: np.ndarray | None = None
    samples: np.ndarray | None = None
    logits: np.ndarray | None = None
    features: np.ndarray | None = None
    dropout: np.ndarray | None = None
    members: np.ndarray | None = None
    n_classes: np.ndarray | None = None
    ids: np.ndarray | None = None
    meta: dict = field(default_factory=dict)

    def __post_init__(self):
        def put(name, value):
            object.__setattr__(self, name, value)

        probs = distributions("probs", self.probs, ndim=2)
        n, c = probs.shape
        expect(c > 1, "probs has one class only, so every answer is right: give p and 1 - p for a yes-or-no answer")
        put("probs", probs)
        for name, shape in REALS.items():
            if (value := getattr(self, name)) is None:
                continue
            value = (reals if name in ("logits", "features") else distributions)(name, value, ndim=len(shape))
            expect(len(value) == n, f"{name} has {len(value)} rows, probs has {n}: give one entry per input")
            expect(shape[-1] != "C" or value.shape[-1] == c,
                   f"{name} has {value.shape[-1]} classes, probs has {c}: use the same label order in both")
            put(name, value)
        if self.weights is not None:
            expect(self.clarified is not None and self.clarified.shape[1] == self.weights.shape[1],
                   "weights needs clarified with the same number Z of interpretations per input")
        for name, shape in (("labels", "(N,)"), ("samples", "(N, M)"), ("n_classes", "(N,)")):
            value = getattr(self, name)
            if value is not None:
                low, high = (1, c) if name == "n_classes" else (0, c - 1)
                put(name, _integers(name, value, n, shape, low, high))
        if self.n_classes is not None:
            for name in ("probs", *DISTRIBUTIONS):
                if (value := getattr(self, name)) is not None:
                    absent = np.arange(c) >= self.n_classes.reshape(n, *[1] * (value.ndim - 1))
                    self._expect_present(name, absent & (value > 0), "absent options must have probability 0 "
                                         "(a tuple of three or more texts is a question with its options)")
            for name in ("labels", "samples"):
                if (value := getattr(self, name)) is not None:
                    absent = value >= self.n_classes.reshape(n, *[1] * (value.ndim - 1))
                    self._expect_present(name, absent, "it names an absent option")
        ids = np.arange(n).astype(str) if self.ids is None else texts("ids", self.ids)
        expect(ids.shape == (n,), f"ids has shape {ids.shape}, expected ({n},): one id per input")
        put("ids", ids)
        put("meta", json_facts(self.meta))

    def _expect_present(self, name, is_bad, remedy):
        expect(not is_bad.any(), lambda: f"{name}{_index(is_bad)} = {getattr(self, name)[is_bad][0]:.3g}, but "
               f"n_classes[{np.argwhere(is_bad)[0, 0]}] = {self.n_classes[np.argwhere(is_bad)[0, 0]]}: {remedy}")

    def __len__(self):
        return len(self.probs)

    def __repr__(self):
        shapes = [f"{f.name}{getattr(self, f.name).shape}" for f in fields(self)
                  if f.name not in ("ids", "meta") and getattr(self, f.name) is not None]
        about = ", ".join(f"{key}={value}" for key, value in self.meta.items() if isinstance(value, (str, int, float)))
        return f"Predictions({', '.join(shapes)}{'; ' + about if about else ''})"

    @property
    def answers(self) -> np.ndarray:
        """(N,) the most probable class; the first of those within 1e-9 of it."""
        return _first_of_most(self.probs)

    @property
    def perturbed_answers(self) -> np.ndarray:
        """(N, K) the most probable class of each variant."""
        return _first_of_most(self.require("perturbed"))

    @property
    def is_error(self) -> np.ndarray:
        """(N,) bool, True where the answer differs from the label."""
        return self.answers != self.require("labels")

    @property
    def orbit(self) -> np.ndarray:
        """(N, K+1, C) the distributions of x and of its variants."""
        return np.concatenate([self.probs[:, None], self.require("perturbed")], axis=1)

    def require(self, name: str) -> np.ndarray:
        """The field `name`; ValueError with the remedy if it was not given."""
        value = getattr(self, name)
        expect(value is not None, lambda: f"these Predictions hold no `{name}`: give it on construction "
               f"(Predictions(probs=..., {name}=...)) or let {FILLED_BY.get(name, 'sua.predict')} fill it")
        return value

    def subset(self, index: ArrayLike | slice) -> "Predictions":
        """The rows that `index` (integers, slice or boolean mask) selects, in that order."""
        rows = {f.name: getattr(self, f.name)[index] for f in fields(self)
                if f.name != "meta" and getattr(self, f.name) is not None}
        return replace(self, **rows)

    def sample(self, m: int, seed: int = 0) -> "Predictions":
        """The same with `samples`: m answers per input drawn from p(.|x), as self-consistency does."""
        whole("m", m, 1, "self-consistency needs at least one sample per input")
        expect_seed(seed)
        uniform = np.random.default_rng(seed).random((len(self), m, 1))
        drawn = (uniform > self.probs.cumsum(-1)[:, None, :-1]).sum(-1)
        return replace(self, samples=drawn)

    @classmethod
    def concatenate(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """The rows of all parts, one part after the other; `meta` keeps the facts that are equal in all.

        ValueError if there is no part, if a field is given in some alone, or if classes, K or another width differ.
        """
        parts = list(parts)
        expect(parts, "parts is empty: give at least one Predictions")
        rows = {f.name: _joined(f.name, parts) for f in fields(cls) if f.name not in ("n_classes", "meta")}
        if any(part.n_classes is not None for part in parts):
            rows["n_classes"] = np.concatenate([np.full(len(part), part.probs.shape[1]) if part.n_classes is None
                                                else part.n_classes for part in parts])
        facts = {key: value for key, value in parts[0].meta.items()
                 if all(key in part.meta and part.meta[key] == value for part in parts)}
        return cls(**rows, meta=facts)

    def with_members(self, others: Sequence["Predictions"]) -> "Predictions":
        """The same with `members`: the probabilities of other models on the same inputs, matched by position.

        ValueError if there is none, or if ids or classes differ from these.
        """
        expect(len(others) > 0, "others is empty: an ensemble needs at least one further model")
        for i, other in enumerate(others):
            expect(np.array_equal(other.ids, self.ids), lambda: f"others[{i}] has other ids: predict the same rows in "
                   "the same order, or take them with subset")
            expect(other.probs.shape == self.probs.shape, f"others[{i}] has {other.probs.shape[1]} classes, these have "
                   f"{self.probs.shape[1]}: use the same label order in both")
        return replace(self, members=np.stack([other.probs for other in others], axis=1))

    def save(self, path: Path | str) -> Path:
        """Write one parquet file, atomic, so never half a file, with checksums by which `load` knows damage."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "meta"}
        storage.write(path, {name: value for name, value in arrays.items() if value is not None}, self.meta)
        return Path(path)

    @classmethod
    def load(cls, path: Path | str) -> "Predictions":
        """Read what `save` wrote. ValueError for a file that is damaged, cut, of another kind or of a newer schema."""
        arrays, meta = storage.read(path)
        try:
            return cls(**arrays, meta=meta)
        except TypeError:
            raise ValueError(f"{path} holds no {cls.__name__}, but {', '.join(arrays)}: load it with Predictions.load "
                             "or Generations.load, whichever saved it") from None


def _first_of_most(probs):
    # rounding that differs from one processor to the next must not choose between equals
    return (probs >= probs.max(-1, keepdims=True) - 1e-9).argmax(-1)


def _joined(name, parts):
    values = [getattr(part, name) for part in parts]
    if all(value is None for value in values):
        return None
    lacks = next((i for i, value in enumerate(values) if value is None), None)
    expect(lacks is None, f"parts[{lacks}] holds no `{name}`, but others do: give it in all parts or in none")
    odd = next((i for i, value in enumerate(values) if value.shape[1:] != values[0].shape[1:]), None)
    expect(odd is None, lambda: f"{name} of parts[{odd}] has shape {values[odd].shape}, that of parts[0] "
           f"{values[0].shape}: predict all parts with the same classes, perturbation and k")
    return np.concatenate(values)


@runtime_checkable
class Model(Protocol):
    """What every score needs of a model."""

    def predict_proba(self, inputs: Sequence[Input]) -> np.ndarray:
        """(N, C) probabilities, row i for inputs[i], columns in a fixed label order."""


def model_rows(name, values, n) -> np.ndarray:
    """What a model returned for n inputs, an array of n rows; ValueError that names the model for any other shape."""
    remedy = "return one row per input, in their order, of as many numbers each"
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"model {name!r} returned rows of several lengths for {n} inputs: {remedy}") from None
    expect(array.ndim == 2 and len(array) == n and array.size,
           lambda: f"model {name!r} returned shape {array.shape} for {n} inputs: {remedy}")
    return array


def texts(name, values, only_text: bool = False) -> np.ndarray:
    """`values` as an array of strings. ValueError for the first that is missing, or that no file can hold exactly.

    only_text : also refuse what is not text, such as numbers.
    """
    array = np.array(values, dtype=object)  # numpy's own strings lose a NUL at their end
    for is_bad, problem in ((_is_no_text if only_text else _is_missing, "is not text: give a string"),
                            (_is_unsafe, "has a NUL or half of a surrogate pair, which files of text cannot hold: "
                             "remove or replace it")):
        bad = np.array([is_bad(value) for value in array.ravel()], dtype=bool).reshape(array.shape)
        expect(not bad.any(), lambda: f"{name}{_index(bad)} = {array[bad][0]!r} {problem}")
    return np.array([str(value) for value in array.ravel()], dtype=str).reshape(array.shape)


def _is_no_text(value):
    return not isinstance(value, str)


def _is_missing(value):
    return value is None or isinstance(value, (bytes, list)) or isinstance(value, float) and value != value


def _is_unsafe(value):
    return _UNSAFE.search(str(value)) is not None


def json_facts(meta) -> dict:
    """A copy of `meta`; ValueError that names the key whose value JSON cannot hold."""
    expect(isinstance(meta, Mapping), lambda: f"meta = {meta!r}: give a dict of facts")
    for key, value in meta.items():
        expect(isinstance(key, str), lambda: f"meta has the key {key!r}: give strings as keys")
        try:
            json.dumps(value, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"meta[{key!r}] cannot be written as JSON ({error}): give numbers, texts, lists and dicts "
                             "of Python, such as array.tolist() or float(x)") from None
    return dict(meta)


def reals(name, values, ndim):
    """`values` as finite float64 numbers, or a ValueError that names the first bad one."""
    array = np.array(numbers(name, values, "pad absent options with 0 and give n_classes"))
    expect(array.ndim == ndim, f"{name} has shape {array.shape}, expected {ndim} dimensions")
    expect(0 not in array.shape, f"{name} has shape {array.shape}: "
           + ("K = 0 variants per input; draw at least one" if name == "perturbed" and array.shape[1] == 0 else
               "it is empty"))
    _expect_all(name, array, np.isfinite(array), "is not a finite number; look for overflow in the model's logits")
    return array


def distributions(name, values, ndim):
    """`values` as float64 distributions over the last axis, or a ValueError that names the first bad row."""
    array = reals(name, values, ndim)
    _expect_all(name, array, array >= 0, "is negative; give probabilities, not logits or log-probabilities")
    total = array.sum(-1, keepdims=True)
    off = np.abs(total[..., 0] - 1) > SUM_TOLERANCE
    expect(not off.any(), lambda: f"{name}{_index(off)} sums to {total[..., 0][off][0]:.6g}, not to 1 within "
           f"{SUM_TOLERANCE:g}; apply softmax to logits, or renormalise")
    # exact sums are left alone, so that what was saved loads bit for bit
    return np.where(np.abs(total - 1) < 1e-12, array, array / total)


def _expect_all(name, array, good, problem):
    expect(good.all(), lambda: f"{name}{_index(~good)} = {array[~good][0]} {problem}")


def _index(is_bad):
    return str([int(i) for i in np.argwhere(is_bad)[0]])


def _integers(name, values, n, shape, low, high):
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} is not a rectangular array ({error}): give every row as many entries") from None
    expect(array.ndim == shape.count("N") + shape.count("M") and len(array) == n and array.size,
           f"{name} has shape {array.shape}, expected {shape} with N = {n}")
    expect(np.issubdtype(array.dtype, np.integer), f"{name} has dtype {array.dtype}: give integer class indices")
    bad = (array < low) | (array > high)
    expect(not bad.any(), lambda: f"{name}{_index(bad)} = {array[bad][0]} is outside {low}..{high}: "
           + ("give the number of options of each row" if name == "n_classes" else "class indices start at 0"))
    return array.astype(np.int64)
