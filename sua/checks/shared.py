"""What the checks of all assignments share: comparing with sua's own function, random cases, and readable messages."""

from __future__ import annotations

import copy
from typing import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .. import scores
from ..predictions import Predictions

LN2 = np.log(2)
FLOAT32 = 1e-5  # differences up to this size, relative above 1, are rounding: students may compute in float32


def compare(function: Callable, reference: Callable, cases: Sequence[tuple],
            mistakes: Mapping[str, Callable] | None = None, tolerance: float = FLOAT32) -> None:
    """AssertionError unless function(*case) equals reference(*case) on every case.

    mistakes : {message: function with that mistake}; the first one that explains all that was returned is named.
    tolerance : the largest difference that counts as equal, absolute up to 1 and relative above.
    """
    name = function.__name__
    found = [numbers(name, function(*copy.deepcopy(case))) for case in cases]
    expected = [np.asarray(reference(*case), dtype=np.float64) for case in cases]
    for value, right in zip(found, expected):
        assert value.shape == right.shape, (f"{name} returns shape {value.shape}, expected {right.shape}: which axis "
                                            "do you sum or average over?")
        assert (value < np.inf).all() or not np.isfinite(right).all(), (
            f"{name} returns {value[~(value < np.inf)][0]}: look for the logarithm of 0 and for overflow; "
            "0 ln 0 counts as 0")

    def equal(values):
        return all(np.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(found, values))

    if equal(expected):
        return
    for message, mistaken in (mistakes or {}).items():
        assert not equal([mistaken(*case) for case in cases]), f"{name}: {message}"
    raise AssertionError(_first_difference(name, cases, found, expected, tolerance))


def _first_difference(name, cases, found, expected, tolerance):
    """Where the smallest case that differs does so first, in a line: no array of more than six numbers is shown."""
    off = [~np.isclose(*pair, rtol=tolerance, atol=tolerance) for pair in zip(found, expected)]
    i = min(np.flatnonzero([where.any() for where in off]), key=lambda i: expected[i].size)
    at = tuple(int(axis[0]) for axis in np.nonzero(np.atleast_1d(off[i])))[:expected[i].ndim]
    count = f"; {off[i].sum()} of {off[i].size} numbers are off" if off[i].ndim else ""
    return (f"{name}({', '.join(map(_brief, cases[i]))}){list(at) if at else ''} is {found[i][at]:.6g}, expected "
            f"{expected[i][at] + 0.0:.6g}{count}")  # 0.0 for -0.0


def _brief(part):
    if isinstance(part, np.ndarray) and part.size > 6:
        return f"array of shape {part.shape}"
    if isinstance(part, (np.ndarray, float)):
        return np.array2string(np.asarray(part), precision=4, separator=", ")
    return repr(part) if isinstance(part, (int, str)) else type(part).__name__


def distributions(values: ArrayLike, name: str = "your result") -> None:
    """AssertionError unless `values` are probabilities that sum to 1 over the last axis."""
    values = numbers(name, values)
    assert values.ndim, f"{name} is the single number {values:.3g}: give one probability per class"
    odd = values[~np.isfinite(values)]
    assert not odd.size, f"{name} holds {odd[0]}: give finite probabilities; look for overflow and for 0 / 0"
    assert (values >= 0).all(), f"{name} holds {values.min():.3g}: probabilities are never negative"
    total = values.sum(-1)
    off = total[np.abs(total - 1) > FLOAT32]
    if off.size:
        other = values.ndim > 1 and np.allclose(values.sum(0), 1)
        raise AssertionError(f"{name}: these rows sum to {off[0]:.3g}, not 1: "
                             + ("the columns do; normalise over the last axis" if other else
                                "did you forget to renormalise?"))


def score(function: Callable, name: str, **parameters: object) -> None:
    """Checks function(*fields, **parameters) -> (N,), the score `name` of sua.SCORES.

    fields : the arrays that the score reads, in the order of sua.SCORES[name].needs; `clarified` is followed by its
    weights (N, Z).
    """
    needs = [field for need in scores.SCORES[name].needs for field in (need, "weights")[:1 + (need == "clarified")]]
    lam = parameters.get("lam", 1)
    kl = scores.divergence_named("kl")

    def call(given):
        return function(*[getattr(given, field) for field in needs], **parameters)

    def ours(given):
        return scores.score(given, name, **parameters)

    def other(what, **changed):
        return lambda given: scores.score(given, what, **changed)

    def each(given):
        return kl(given.probs[:, None], given.perturbed)

    mistakes = {"sensitivity": {
        "this is the mean of KL(q, p): the output at x itself comes first": other("sensitivity_reverse_kl"),
        "you add up the K variants: S is their mean": lambda given: each(given).sum(1),
        "you take the largest divergence: S is the mean over variants": lambda given: each(given).max(1),
        "you average the variants first: take the divergence to each, then the mean": lambda given: (
            kl(given.probs, given.perturbed.mean(1))),
    }, "sua": {
        "you add lam H: SUA subtracts it": other("sua", lam=-lam),
        "you ignore lam": other("sua", lam=1),
        "lam multiplies S, it belongs to H": lambda given: (
            lam * scores.sensitivity(given) - scores.entropy(given.probs)),
        "your entropy is in bits: use the natural logarithm": other("sua", lam=lam / LN2),
        "your sensitivity is KL(q, p): the output at x itself comes first": other(
            "sua", lam=lam, divergence="reverse_kl"),
    }, "clarification_mi": {
        "every reading counts the same: use the weights": lambda given: scores.mutual_information(given.clarified),
        "this is H(pbar) alone: what is left once the reading is known is subtracted": other("clarification_entropy"),
        "in bits: use the natural logarithm": lambda given: ours(given) / LN2,
    }}
    compare(named(call, function), ours, [(_predictions(),), (_predictions(),)], {
        "the orientation is reversed: higher must mean more likely wrong": lambda given: -ours(given),
        **mistakes.get(name, {})})


def named(call: Callable, function: Callable) -> Callable:
    """`call` under the name of the student's function, which messages begin with."""
    call.__name__ = function.__name__
    return call


def numbers(name: str, value) -> np.ndarray:
    """What the function of that name returned as float64; AssertionError if it is None or no array of numbers."""
    assert value is not None, f"{name} returns None: is a `return` missing?"
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise AssertionError(f"{name} returns {_brief(value)}: expected numbers") from None


def draw(*shape) -> np.ndarray:
    """Random distributions over the last axis; one probability in five is exactly 0."""
    rng = np.random.default_rng()
    weight = rng.exponential(size=shape) * (rng.random(shape) < 0.8)
    weight[..., 0] += 1e-2  # never all of them
    return weight / weight.sum(-1, keepdims=True)


def inside(*shape) -> np.ndarray:
    """Random distributions over the last axis, all probabilities positive."""
    return 0.9 * draw(*shape) + 0.1 / shape[-1]


def _predictions():
    """Random Predictions with variants and clarifications, in which no divergence is infinite."""
    return Predictions(draw(9, 3), inside(9, 4, 3), clarified=draw(9, 2, 3), weights=inside(9, 2))
