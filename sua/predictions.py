"""Predictions: what a model says about N inputs and about K variants of each.

Everything after the forward passes (scores, metrics, abstention, theory, tables) reads one `Predictions`
object and nothing else, so that every result can be recomputed from a saved file without the model.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Sequence

import numpy as np

from .inputs import expect

SUM_TOLERANCE = 1e-4  # half-precision softmax outputs miss 1 by about this much
SCHEMA_VERSION = 2  # 2 added logits, features, dropout and members
# axes of the optional fields, by the letters of Predictions' docstring
DISTRIBUTIONS = {"perturbed": "NKC", "label_dist": "NC", "clarified": "NZC", "dropout": "NTC", "members": "NEC"}
REALS = {**DISTRIBUTIONS, "weights": "NZ", "logits": "NC", "features": "ND"}


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
        put = lambda name, value: object.__setattr__(self, name, value)
        probs = distributions("probs", self.probs, ndim=2)
        n, c = probs.shape
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
        ids = np.arange(n).astype(str) if self.ids is None else np.asarray(self.ids).astype(str)
        expect(ids.shape == (n,), f"ids has shape {ids.shape}, expected ({n},): one id per input")
        put("ids", ids)

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
        expect(value is not None, f"these Predictions hold no `{name}`: give it on construction "
               f"(Predictions(probs=..., {name}=...)) or let sua.predict fill it")
        return value

    def subset(self, index) -> "Predictions":
        """The rows that `index` (integers, slice or boolean mask) selects, in that order."""
        rows = {f.name: getattr(self, f.name)[index] for f in fields(self)
                if f.name != "meta" and getattr(self, f.name) is not None}
        return replace(self, **rows)

    def sample(self, m: int, seed: int = 0) -> "Predictions":
        """The same with `samples`: m answers per input drawn from p(.|x), as self-consistency does."""
        expect(m >= 1, f"m = {m}: self-consistency needs at least one sample per input")
        uniform = np.random.default_rng(seed).random((len(self), m, 1))
        drawn = (uniform > self.probs.cumsum(-1)[:, None, :-1]).sum(-1)
        return replace(self, samples=drawn)

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

    def save(self, path) -> Path:
        """Write one parquet file, the JSON header (shapes, meta) in its schema; atomic, so never half a file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "meta"}
        arrays = {name: value for name, value in arrays.items() if value is not None}
        columns = {name: pa.array(list(value.reshape(len(self), -1))) if value.ndim > 1 else pa.array(value)
                   for name, value in arrays.items()}
        header = {"schema": SCHEMA_VERSION, "meta": self.meta,
                  "shapes": {name: list(value.shape) for name, value in arrays.items()}}
        table = pa.table(columns).replace_schema_metadata({"sua": json.dumps(header, sort_keys=True)})
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        pq.write_table(table, unfinished)
        os.replace(unfinished, path)
        return path

    @classmethod
    def load(cls, path) -> "Predictions":
        """Read what `save` wrote. ValueError for any other parquet file or a newer schema."""
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        header = json.loads((table.schema.metadata or {}).get(b"sua", b"null"))
        expect(header is not None, f"{path} was not written by Predictions.save: it has no `sua` header")
        expect(header["schema"] <= SCHEMA_VERSION, f"{path} has schema {header['schema']}, this version of sua "
               f"reads up to {SCHEMA_VERSION}: update sua")
        arrays = {name: np.stack(table[name].to_numpy()).reshape(shape) if len(shape) > 1 else
                  table[name].to_numpy() for name, shape in header["shapes"].items()}
        return cls(**arrays, meta=header["meta"])


def _first_of_most(probs):
    # rounding that differs from one processor to the next must not choose between equals
    return (probs >= probs.max(-1, keepdims=True) - 1e-9).argmax(-1)


def reals(name, values, ndim):
    """`values` as finite float64 numbers, or a ValueError that names the first bad one."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not a rectangular array of numbers ({error}): pad absent options with 0 "
                         "and give n_classes") from None
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
