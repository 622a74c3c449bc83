"""Abstention with a promise: a threshold on any score, certified on labelled calibration items.

The promise needs no assumption on the score. It concerns inputs drawn like the calibration items, answered by the
same model, with the score computed in the same way. A score is higher where an error is more likely: a rule answers
where score <= threshold. Tied scores are answered all or not at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import ks_2samp

from ..inputs import expect, finite, numbers
from ..predictions import Predictions
from ..scores import SCORES, unknown_name
from . import kept
from .risk_control import DEFAULT, METHODS, examine, p_values as p_values, shortage

SCHEMA_VERSION = 1
SKETCH = 200  # calibration scores kept for the drift check


def loss(predictions: Predictions, kind: str = "clean", seed: int = 0) -> np.ndarray:
    """(N,) bool, the error that a rule is to control.

    "clean" : wrong on x.
    "drawn" : wrong on one of the K variants, drawn uniformly. This certifies the mean risk under perturbation, on
        variants that the score has seen. For an unseen variant score K - 1 of them and take the last as the loss.
    "any" : wrong on x or on any of its K variants. Its mean is 1 - robust_accuracy; it says nothing about the supremum
        over all variants.
    """
    if kind == "clean":
        return predictions.is_error
    wrong = predictions.perturbed_answers != predictions.require("labels")[:, None]
    if kind == "drawn":
        return wrong[np.arange(len(wrong)), np.random.default_rng(seed).integers(wrong.shape[1], size=len(wrong))]
    expect(kind == "any", f"kind = {kind!r}: choose 'clean', 'drawn' or 'any'")
    return predictions.is_error | wrong.any(1)


class Drift(NamedTuple):
    """Result of a drift check; true fields of a two-sample Kolmogorov-Smirnov test."""

    void: bool
    distance: float
    p_value: float
    message: str


@dataclass(frozen=True)
class AbstentionRule:
    """Answer where score <= threshold (None: nowhere). Made by `fit`, `paper`, `at_coverage` or `from_json`.

    risk_bound : the risk promised, None without guarantee. It bounds P(wrong | answered) with probability 1 - delta
    over the calibration draw; for "conformal-risk" P(answered and wrong), on average over calibration draws.
    coverage : share of the calibration items tested (not those that only gave thresholds) that it answers.
    n : number of these items. why : the reason for the threshold, in words.
    digest : sha256 of the calibration scores and losses. sketch : (score, number of calibration scores <= it) pairs.
    """

    threshold: float | None
    method: str
    why: str
    risk_bound: float | None = None
    delta: float | None = None
    coverage: float | None = None
    n: int = 0
    score_name: str | None = None
    parameters: dict = field(default_factory=dict)
    k: int | None = None
    digest: str | None = None
    sketch: tuple[tuple[float, int], ...] = ()

    @classmethod
    def fit(cls, scores: ArrayLike, is_error: ArrayLike, *, risk: float, delta: float | None = None,
            thresholds: ArrayLike | None = None, method: str = DEFAULT, score_name: str | None = None,
            parameters: dict | None = None, k: int | None = None) -> "AbstentionRule":
        """The rule of largest coverage that can promise `risk` from labelled calibration items.

        Parameters
        ----------
        scores : (N,) finite scores of items that had no part in the choice of the score or of its parameters.
        is_error : (N,) bool or 0/1 integers, or a loss in [0, 1] as floats. See `loss`.
        risk, delta : the promise P(selective risk > risk) <= delta. "conformal-risk" takes no notice of delta.
        thresholds : (M,) scores, labels not needed. "uniform" tries all of them, or every calibration score without
            them. For the other methods they must be scores of other items; their 20 quantiles 5 %, ..., 100 % are
            tried (all of them where M <= 20, so that thresholds of one's own choice pass unchanged). None: a fixed
            random fifth of the calibration items gives the thresholds and is left out of the test.
        method : "uniform", every threshold at once by the exact law of the errors along a score that ranks nothing,
            the largest that passes; any score; proof in sua.risk_control. It counts errors: a loss between 0 and 1 is
            made an error with that probability, by a draw from the data's digest that the promise averages over. For
            a score of two or three values "fixed-sequence" may answer more.
            The rest test single thresholds by `p_values`: the exact binomial test, Hoeffding-Bentkus for losses given
            as floats (even where all are 0 or 1: the test must not be chosen by the values).
            "fixed-sequence", thresholds in rising order at level delta until one fails, from the first that
            is expected to answer twice the ln(delta) / ln(1 - risk) items that an error-free test needs; any score.
            "bonferroni", all m tested at delta / m, the largest that passes; any score.
            "sgr", bisection (Geifman & El-Yaniv, NeurIPS 2017) at delta / (floor(log2 m) + 1); proved only
            where the true selective risk does not fall as the threshold rises: SUA need not be such a score.
            "conformal-risk", E[loss * answered] <= risk (Angelopoulos et al., ICLR 2024): the joint error.
        score_name, parameters, k : what was calibrated; `accept` refuses another. Leave out score_name for a score of
            your own, that neither sua.SCORES nor sua.GENERATION_SCORES lists.

        Where no threshold passes the rule abstains on everything, and `why` says what would help.
        Raises ValueError for non-finite scores, losses outside [0, 1], a risk or delta outside (0, 1), an unknown
        score_name, or a k that is no whole number >= 0.
        """
        expect(method in METHODS, f"method = {method!r}: choose one of {', '.join(METHODS)}")
        conformal = method == "conformal-risk"
        for name, value in (("risk", risk), ("delta", delta))[:1 if conformal else 2]:
            _expect_inside(name, value)
        identity = _identity(score_name, parameters, k)
        scores = finite("scores", scores)
        losses, binary = _losses(is_error, len(scores))
        thresholds = None if thresholds is None else finite("thresholds", thresholds)
        digest = kept.digest(scores, losses)
        examined = examine(scores, losses, binary, thresholds, method, risk, delta, int(digest, 16))
        tau, count, total, n, promised, _ = examined
        if promised.any():
            best = np.flatnonzero(promised)[-1]
            threshold, coverage = float(tau[best]), float(count[best] / n)
            why = f"{total[best]:.6g} errors (summed loss) among the {count[best]} of {n} calibration items answered"
        else:
            threshold, coverage = None, 0.0
            why = shortage(examined, method, risk, delta, len(scores))
        return cls(
            threshold,
            method,
            why,
            risk_bound=float(risk),
            delta=None if conformal else float(delta),
            coverage=coverage,
            n=n,
            digest=digest,
            sketch=_sketch(scores, threshold),
            **identity,
        )

    @classmethod
    def paper(cls, tau: float = 0.0, *, parameters: dict | None = None, k: int | None = None) -> "AbstentionRule":
        """Answer where SUA <= tau (arXiv 2604.20903, Prop. 4.8). No guarantee: the printed bound is false."""
        expect(isinstance(tau, Real) and math.isfinite(tau), lambda: f"tau = {tau!r}: give a finite threshold")
        return cls(float(tau), "paper", "SUA <= tau, as printed; the bound claimed for it has counterexamples",
                   **_identity("sua", parameters, k))

    @classmethod
    def at_coverage(cls, scores: ArrayLike, coverage: float, *, score_name: str | None = None,
                    parameters: dict | None = None, k: int | None = None) -> "AbstentionRule":
        """The smallest threshold that answers at least `coverage` of the (N,) scores. No labels, no guarantee."""
        expect(isinstance(coverage, Real) and 0 < coverage <= 1,
               lambda: f"coverage = {coverage!r}: give a share in (0, 1]")
        scores = finite("scores", scores)
        threshold = float(np.sort(scores)[max(math.ceil(coverage * len(scores) - 1e-9), 1) - 1])
        return cls(threshold, "coverage", f"answers at least {coverage:.6g} of the items it was set on; risk unknown",
                   coverage=float((scores <= threshold).mean()), n=len(scores), digest=kept.digest(scores),
                   sketch=_sketch(scores, threshold), **_identity(score_name, parameters, k))

    def accept(self, scores: ArrayLike, *, score_name: str | None = None, parameters: dict | None = None,
               k: int | None = None) -> np.ndarray:
        """(N,) bool, True where the input may be answered.

        What is said about the scores must agree with what was calibrated. Raises ValueError for another score_name,
        other parameters, another k, or a NaN score.
        """
        said = dict(score_name=score_name, parameters=None if parameters is None else kept.plain(parameters), k=k)
        for name, value in said.items():
            mine = getattr(self, name)
            expect(value is None or mine is not None, f"this rule does not say for which {name} it was calibrated: "
                   f"fit it with {name}={value!r} if that is what its scores are")
            expect(value is None or value == mine, f"this rule was calibrated for {name} = {mine!r}, not {value!r}: "
                   "compute that score, or fit a rule for this one")
        scores = numbers("scores", scores, "give one number per input")
        expect(not np.isnan(scores).any(), lambda: f"scores[{int(np.argmax(np.isnan(scores)))}] is NaN: an input "
               "without a score can be neither answered nor counted as abstained")
        return np.zeros(scores.shape, dtype=bool) if self.threshold is None else scores <= self.threshold

    def drift(self, scores: ArrayLike, false_alarm: float = 0.01) -> Drift:
        """Do the (M,) scores of incoming inputs still follow the calibration scores? Labels not needed.

        Two-sample Kolmogorov-Smirnov test at the sketched scores up to the threshold (beyond it a score counts only
        as "abstained", so lower bounds will do). Its distance never exceeds that of the full samples, so
        under no drift P(void) <= false_alarm for each check on new inputs, ties included. Silence proves nothing: the
        labels may drift while the scores do not.
        """
        _expect_inside("false_alarm", false_alarm)
        expect(self.sketch, "this rule holds no calibration scores to compare with: use AbstentionRule.fit")
        scores = numbers("scores", scores, "give one number per input")
        expect(scores.size, "no scores to compare with calibration: answer some inputs first")
        expect(scores.ndim == 1, f"scores has shape {scores.shape}: give a vector, one number per input")
        self.accept(scores)
        size, sketch = self.sketch[-1][1], np.array(self.sketch)
        points, below = sketch[self.accept(sketch[:, 0])].T
        old = np.repeat(np.arange(len(points) + 1), np.diff([0, *below, size]).astype(int))
        distance, p_value = map(float, ks_2samp(old, np.searchsorted(points, scores))[:2])
        void = p_value <= false_alarm
        verdict = (("guarantee void" if self.risk_bound is not None else "coverage target void") +
                   ": incoming scores differ from calibration; label new items and fit again"
                   if void else "no drift seen in the scores")
        return Drift(void, distance, p_value, f"{verdict} (Kolmogorov-Smirnov distance {distance:.3f}, {len(scores)} "
                     f"against {size} inputs, p = {p_value:.3g}, false-alarm rate {false_alarm:g})")

    def to_json(self) -> str:
        """The rule as JSON text, with a checksum of its content. Identity and promise travel with the threshold."""
        return kept.to_json(self, SCHEMA_VERSION)

    @classmethod
    def from_json(cls, text: str) -> "AbstentionRule":
        """Read what `to_json` wrote. ValueError for other text, a newer schema, or content changed since."""
        content = kept.from_json(cls, text, SCHEMA_VERSION, "rule", "its promise is void; fit again")
        return cls(**content | {"sketch": tuple(map(tuple, content["sketch"]))})

    def __str__(self):
        what = f"{self.score_name or 'score'}{self.parameters or ''}{f' (K = {self.k})' if self.k else ''}"
        if self.threshold is None:
            return f"Abstain on everything, whatever the {what}.\nWhy: {self.why}."
        if self.risk_bound is None:
            promise = "No guarantee on the risk."
        else:
            when, whom = (("on average over", "of all inputs are answered and wrong") if self.delta is None else
                          (f"with probability {1 - self.delta:.6g} over", "of the answered inputs are wrong"))
            promise = (f"Promise: {when} the calibration draw, at most {self.risk_bound:.2%} {whom} (mean loss)\n"
                       "where inputs are drawn like the calibration items, for the same model, perturbation and score.")
        seen = "" if self.coverage is None else f"\nIt answers {self.coverage:.1%} of {self.n} calibration items."
        why = f"Why: {self.method}, {self.why}."
        return f"Answer where {what} <= {self.threshold:.6g}, else abstain.\n{promise}{seen}\n{why}"


def _identity(score_name, parameters, k):
    """{score_name, parameters, k} as the rule holds them, validated."""
    named = isinstance(score_name, str)
    if score_name is not None and not (named and score_name in SCORES):
        from ..generation import GENERATION_SCORES
        expect(named and score_name in GENERATION_SCORES, lambda: unknown_name("score_name", score_name, SCORES) +
               ". Leave it out for a score of your own")
    expect(k is None or isinstance(k, (int, np.integer)) and not isinstance(k, bool) and k >= 0,
           f"k = {k!r}: give the number of variants, a whole number")
    return {"score_name": score_name, "parameters": kept.plain(parameters), "k": None if k is None else int(k)}


def _expect_inside(name, value):
    expect(isinstance(value, Real) and 0 < value < 1,
           lambda: f"{name} = {value!r}: give a number strictly between 0 and 1")


def _losses(is_error, n):
    """(losses as float64, whether they are errors by type), validated."""
    array = np.asarray(is_error)
    expect(array.shape == (n,), f"is_error has shape {array.shape}, scores ({n},): give one loss per score")
    expect(array.dtype.kind in "buif", f"is_error has dtype {array.dtype}: give booleans, 0/1, or losses in [0, 1]")
    binary = array.dtype.kind in "bui"
    bad = ~((array == 0) | (array == 1) if binary else (array >= 0) & (array <= 1))
    expect(not bad.any(), lambda: f"is_error[{int(np.argmax(bad))}] = {array[bad][0]}: give 1 for a wrong answer and "
            "0 for a right one, or losses in [0, 1] as floats")
    return array.astype(np.float64), binary


def _sketch(scores, threshold):
    """Up to SKETCH quantiles of the scores, and the threshold, each with the number of scores <= it."""
    ordered, n = np.sort(scores), len(scores)
    points = ordered[(n - 1) * np.arange(SKETCH) // (SKETCH - 1)]
    points = np.unique(points if threshold is None else np.append(points, threshold))
    below = np.searchsorted(ordered, points, side="right")
    return tuple(zip(points.tolist(), below.tolist()))
