"""P(error): any score as a probability of being wrong, learned from labelled calibration items, and its reliability.

Fits are those of scikit-learn and MAPIE. A fit is kept as a table of numbers, so that what is loaded needs neither of
them and runs no code of a file.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..extras import need
from ..inputs import expect, finite, numbers, unknown_name, whole
from ..metrics import comparable
from ..predictions import Predictions
from ..scores import SCORES, score as score_of
from . import kept

SCHEMA_VERSION = 1
METHODS = ("isotonic", "platt", "venn_abers")
FOLDS = 5  # parts of the calibration items, for scores that are fitted themselves


@dataclass(frozen=True)
class ErrorProbability:
    """scores (N,) -> P(error) (N,) in [0, 1]. Made by `sua.calibrate` or `from_json`.

    method : "isotonic", linear between the scores `points` with the probabilities `values`, constant beyond them;
    "platt", 1 / (1 + exp(-(a s + b))) with values = (a, b); "venn_abers", values[2 i + 1] at points[i], values[2 i]
    between points[i - 1] and points[i].
    n, error_rate : of the calibration items. digest : sha256 of their scores and errors.
    score_name, parameters, k : the score, as in an AbstentionRule; None for one of your own.
    """

    method: str
    points: tuple[float, ...]
    values: tuple[float, ...]
    n: int
    error_rate: float
    score_name: str | None = None
    parameters: dict = field(default_factory=dict)
    k: int | None = None
    digest: str | None = None

    def __call__(self, scores: ArrayLike | Predictions, calibration: Predictions | None = None) -> np.ndarray:
        """P(error) of each item.

        scores : (N,) numbers, or Predictions, whose score is then computed; a fitted score also takes `calibration`.
        ValueError for a NaN score, for Predictions where the score is one of your own, and for another number of
        variants than the K that was calibrated.
        """
        if isinstance(scores, Predictions):
            scores = self._scores_of(scores, calibration)
        scores = comparable(numbers("scores", scores, "give one number per item"))
        expect(not np.isnan(scores).any(), lambda: f"scores[{int(np.argmax(np.isnan(scores)))}] is NaN: an item "
               "without a score has no probability of error")
        points, values = np.array(self.points), np.array(self.values)
        if self.method == "isotonic":
            return np.interp(scores, points, values)
        if self.method == "platt":
            from scipy.special import expit

            return expit(values[0] * scores + values[1])
        return values[_places(points, scores)]

    def _scores_of(self, predictions, calibration):
        expect(self.score_name is not None, "this calibration is of a score of your own: give the scores themselves")
        if "perturbed" in SCORES[self.score_name].needs:
            k = predictions.require("perturbed").shape[1]
            expect(k == self.k, f"score {self.score_name!r} was calibrated with K = {self.k} variants, these "
                   f"Predictions have {k}: draw as many, or calibrate on these")
        return score_of(predictions, self.score_name, **self.parameters, **_fit_on(self.score_name, calibration))

    def to_json(self) -> str:
        """JSON text with a checksum, to lie beside a rule's; nothing in it is code."""
        return kept.to_json(self, SCHEMA_VERSION)

    @classmethod
    def from_json(cls, text: str) -> "ErrorProbability":
        """Read what `to_json` wrote. ValueError for other text, a newer schema, or content changed since."""
        content = kept.from_json(cls, text, SCHEMA_VERSION, "calibration", "calibrate again")
        return cls(**content | {name: tuple(content[name]) for name in ("points", "values")})


def calibrate(score: str | ArrayLike, calibration: ArrayLike | Predictions, method: str = "isotonic",
              **parameters: object) -> ErrorProbability:
    """A score as P(error): `sua.calibrate("entropy", held)(tested)` is the (N,) probability that each answer is wrong.

    Parameters
    ----------
    score : a name in sua.SCORES, or the (N,) scores of the calibration items, higher = more likely wrong.
    calibration : labelled Predictions of items that are not judged later; beside scores also (N,) is_error. A score
        that is fitted itself is fitted on four fifths of them and applied to the last fifth, in turn: on the items of
        its fit it would look better than it is. For new items fit it on all of them.
    method : "isotonic", the best nondecreasing function (Zadrozny & Elkan, KDD 2002): needs hundreds of items.
        "platt", a logistic curve with Platt's targets (1999): two numbers, for few items; falls where errors score low.
        "venn_abers" (Vovk & Petej, UAI 2014): p1 / (1 - p0 + p1), of isotonic fits that take the new item as right (p0)
        and as wrong (p1); the pair [p0, p1] is calibrated whatever the score. Never 0 or 1.
    parameters : of a named score, as sua.score takes them.

    What it says holds for inputs drawn like the calibration items. A method that must not fall makes a score that ranks
    the wrong way round constant. ValueError for another method or score, non-finite scores, calibration items without
    labels or of another number than the scores; where no item, or every one, is wrong, for "isotonic".
    """
    expect(method in METHODS, lambda: f"method = {method!r}: choose one of {', '.join(METHODS)}")
    labelled = isinstance(calibration, Predictions)
    name, k = score if isinstance(score, str) else None, None
    if name is None:
        expect(not parameters, lambda: f"{', '.join(parameters)}: parameters are those of a named score")
        scores, wrong = finite("score", score), calibration.is_error if labelled else np.asarray(calibration)
    else:
        expect(name in SCORES, lambda: unknown_name("score", name, SCORES))
        expect(labelled, lambda: f"calibration is a {type(calibration).__name__}: a score by its name needs labelled "
               "Predictions")
        wrong, scores = calibration.is_error, _out_of_fold(calibration, name, parameters)
        k = calibration.perturbed.shape[1] if "perturbed" in SCORES[name].needs else None
    expect(wrong.shape == scores.shape and np.isin(wrong, (0, 1)).all(), lambda: f"calibration says which of "
           f"{wrong.shape} items are wrong, the scores are {scores.shape}: give 1 for a wrong answer, else 0, one per "
           "score")
    wrong = wrong.astype(bool)
    points, values = _FITS[method](comparable(scores), wrong)
    return ErrorProbability(method, tuple(map(float, points)), tuple(map(float, values)), len(wrong),
                            float(wrong.mean()), name, kept.plain(parameters), k,
                            kept.digest(scores, wrong.astype(float)))


def _out_of_fold(calibration, name, parameters):
    """(N,) scores of calibration items, by fits on other ones of them where the score is fitted."""
    if "calibration" not in SCORES[name].needs:
        return score_of(calibration, name, **parameters)
    expect(len(calibration) >= 2 * FOLDS, f"{len(calibration)} calibration items: give at least {2 * FOLDS}, since "
           f"score {name!r} is fitted on a part of them")
    # each fold gets its share of the errors
    fold = np.empty(len(calibration), dtype=int)
    fold[np.argsort(calibration.is_error, kind="stable")] = np.arange(len(calibration)) % FOLDS
    scores = np.empty(len(calibration))
    for i in range(FOLDS):
        scores[fold == i] = score_of(calibration.subset(fold == i), name, calibration=calibration.subset(fold != i),
                                     **parameters)
    return scores


def _fit_on(name, calibration):
    fitted = "calibration" in SCORES[name].needs
    expect(fitted or calibration is None, f"score {name!r} is not fitted: leave calibration out")
    return {"calibration": calibration} if fitted else {}


def _isotonic(scores, wrong):
    IsotonicRegression = need("sklearn.isotonic").IsotonicRegression

    expect(0 < wrong.sum() < len(wrong), lambda: f"of {len(wrong)} calibration items {int(wrong.sum())} are wrong: an "
           "isotonic fit would say 0 or 1 everywhere; take method='platt' or 'venn_abers', or more items")
    fit = IsotonicRegression(y_min=0, y_max=1).fit(scores, wrong)
    return fit.X_thresholds_, fit.y_thresholds_


def _platt(scores, wrong):
    LogisticRegression = need("sklearn.linear_model").LogisticRegression

    centre, spread = scores.mean(), scores.std()
    spread = spread if spread > 1e-9 * max(1, abs(centre)) else 1.0
    z = np.clip((scores - centre) / spread, -1e6, 1e6)
    # Platt's targets: every item counts as wrong and as right, by weights
    target = np.where(wrong, (wrong.sum() + 1) / (wrong.sum() + 2), 1 / ((~wrong).sum() + 2))
    fit = LogisticRegression(C=np.inf, tol=1e-8, max_iter=10_000).fit(
        np.tile(z, 2)[:, None], np.repeat([1, 0], len(z)), sample_weight=np.concatenate([target, 1 - target]))
    slope = fit.coef_[0, 0] / spread
    return (), (slope, fit.intercept_[0] - slope * centre)


def _venn_abers(scores, wrong):
    VennAbersCalibrator = need("mapie.calibration").VennAbersCalibrator
    IsotonicRegression = need("sklearn.isotonic").IsotonicRegression

    points = np.unique(scores)
    places, top = _places(points, scores), 2 * len(points)  # the order of the scores is all that counts

    def both(of_wrong):
        return np.stack([-of_wrong, of_wrong], 1).astype(float)

    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")  # its last slope is that of a single point
        fit = VennAbersCalibrator(Given(2), cv="prefit").fit(both(places), wrong.astype(int))
        values = fit.predict_proba(both(np.arange(top + 1)))[:, 1]
    # above all calibration scores a wrong item is a block of its own, p1 = 1; MAPIE 1.6 takes p1 of the one below
    p0 = IsotonicRegression().fit(np.append(places, top), np.append(wrong, False)).predict([top])[0]
    return points, [*values[:-1], 1 / (2 - p0)]


def _places(points, scores):
    """2 i + 1 for the score points[i], 2 i for a score between points[i - 1] and points[i]."""
    return np.searchsorted(points, scores, "left") + np.searchsorted(points, scores, "right")


_FITS = {"isotonic": _isotonic, "platt": _platt, "venn_abers": _venn_abers}


class Given:
    """A fitted classifier as MAPIE wants it, whose probabilities are its input."""

    def __init__(self, classes: int):
        self.classes_ = np.arange(classes)

    def fit(self, x, y):
        return self

    def predict(self, x):
        return np.argmax(x, axis=1)

    def predict_proba(self, x):
        return x


class Reliability(NamedTuple):
    """How well P(error) says what happens, on items that had no part in its fit.

    ece : sum_b (n_b / n) |error rate - mean P(error)| over equal-width bins (lo, hi]; biased upward like `metrics.ece`.
    brier : mean of (P(error) - is_error)^2, in [0, 1]. reference : that of the constant mean(is_error), the most that
    is worth having. bins : (B, 3) of the bins that hold items: their number, mean P(error) and error rate.
    """

    ece: float
    brier: float
    reference: float
    bins: np.ndarray


def reliability(is_error: ArrayLike, chance: ArrayLike, bins: int = 15) -> Reliability:
    """`Reliability` of the (N,) P(error) `chance`. ValueError for numbers outside [0, 1] or of another length."""
    bins = whole("bins", bins, 1, "give at least one bin")
    chance = finite("chance", chance)
    expect(((chance >= 0) & (chance <= 1)).all(), "chance holds numbers outside [0, 1]: give probabilities of error, "
           "as sua.calibrate makes of a score")
    wrong = np.asarray(is_error)
    expect(wrong.shape == chance.shape and np.isin(wrong, (0, 1)).all(), lambda: f"is_error has shape {wrong.shape}, "
           f"chance {chance.shape}: give 1 for a wrong answer, else 0, one per item")
    edges = np.round(np.arange(1, bins) / bins, 9)
    index = np.searchsorted(edges, chance.round(9), side="left")
    size, said, happened = (np.bincount(index, weights, bins) for weights in (np.ones(len(chance)), chance, wrong))
    held, rate = size > 0, wrong.mean()
    return Reliability(float(np.abs(happened - said).sum() / len(chance)), float(((chance - wrong) ** 2).mean()),
                       float(rate * (1 - rate)), np.stack([size, said / np.maximum(size, 1),
                                                           happened / np.maximum(size, 1)], 1)[held])
