"""Scores that are fitted on labelled calibration items: lambda, temperature, discriminant; Gaussians and a probe of
features.
"""

from __future__ import annotations

import numpy as np

from ..divergences import entropy
from ..inputs import expect
from ..metrics import auroc
from ..predictions import Predictions
from . import fits
from .orbit import sensitivity, sua
from .rows import blockwise


LAMBDAS = np.concatenate([[0], np.geomspace(1 / 16, 16, 33)])
SIGNED_LAMBDAS = np.concatenate([-LAMBDAS[:0:-1], LAMBDAS])


def choose_lambda(calibration: Predictions, grid=LAMBDAS, divergence: str = "kl") -> float:
    """The value of `grid` for which S - lam * H has the highest failure AUROC on `calibration`.

    Of equally good values the one nearest to 0 wins. Raises SingleClassError if `calibration` has no error, or
    nothing but errors. Use data that will not be scored: chosen in-sample, lambda gains AUROC even on noise.
    """
    s, h = sensitivity(calibration, divergence), entropy(calibration.probs)
    order = sorted((float(lam) for lam in grid), key=abs)
    expect(order and np.isfinite(order).all(), lambda: f"grid = {grid!r}: give one finite lambda or more")
    return max(order, key=lambda lam: auroc(calibration.is_error, s - lam * h))


def sua_calibrated(predictions: Predictions, calibration: Predictions, divergence: str = "kl") -> np.ndarray:
    """SUA with the lam >= 0 of highest failure AUROC on labelled calibration predictions."""
    return sua(predictions, choose_lambda(calibration, LAMBDAS, divergence), divergence)


def sua_signed(predictions: Predictions, calibration: Predictions, divergence: str = "kl") -> np.ndarray:
    """SUA with the lam of either sign of highest failure AUROC on labelled calibration predictions."""
    return sua(predictions, choose_lambda(calibration, SIGNED_LAMBDAS, divergence), divergence)


def msp_scaled(predictions: Predictions, calibration: Predictions) -> np.ndarray:
    """1 - max p at the temperature of lowest NLL on calibration. With two classes it ranks as `msp` does."""
    return 1 - _tempered(predictions, fits.temperature(calibration)).max(-1)


def entropy_scaled(predictions: Predictions, calibration: Predictions) -> np.ndarray:
    """H at the temperature of lowest NLL on calibration. With two classes it ranks as `entropy` does."""
    return entropy(_tempered(predictions, fits.temperature(calibration)))


@blockwise
def _tempered(predictions, T):
    return fits.at_temperature(predictions.probs, T)


def fused(predictions: Predictions, calibration: Predictions, divergence: str = "kl") -> np.ndarray:
    """S + mu H with the mu of either sign that a linear discriminant of errors finds on calibration.

    Optimal among S - lambda H where (S, H) is binormal: mu = -lambda* of `lambda_diagnosis` (Theorem 14). Becomes
    -S + mu H where errors have lower S, given H, on calibration.
    """
    fit = fits.discriminant(_plane(calibration, divergence), calibration.is_error)
    return fit(_plane(predictions, divergence))


def logistic(predictions: Predictions, calibration: Predictions, divergence: str = "kl") -> np.ndarray:
    """P(error | S, H) by logistic regression on calibration."""
    fit = fits.logistic(_plane(calibration, divergence), calibration.is_error)
    return fit(_plane(predictions, divergence))


def _plane(predictions, divergence):
    return np.stack([sensitivity(predictions, divergence), entropy(predictions.probs)], axis=-1)


def mahalanobis(predictions: Predictions, calibration: Predictions) -> np.ndarray:
    """Squared distance of the features to the nearest class mean; class means, shared covariance from calibration.

    ValueError where features of calibration have another width, vary too little to tell a covariance from rounding, or
    lie so far apart that a distance overflows.
    """
    return _distance(predictions, calibration, calibration.require("labels"))


def _distance(predictions, calibration, groups):
    known = _features_alike(predictions, calibration)
    return _of_features(predictions, fits.mahalanobis(known, groups))


def _features_alike(predictions, calibration):
    """The features of calibration; ValueError unless those of predictions have as many columns."""
    known, new = calibration.require("features"), predictions.require("features")
    expect(known.shape[1] == new.shape[1], f"features of calibration have {known.shape[1]} columns, those of "
           f"predictions {new.shape[1]}: take both from the same model")
    return known


def _of_features(predictions, fit):
    """(N,) fit(features); ValueError where one of them is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = _rowwise(predictions, fit)
    bad = ~np.isfinite(found)
    expect(not bad.any(), lambda: f"features[{int(np.argmax(bad))}] of predictions lies too far from those of "
           "calibration for a finite number: look for overflow in the model")
    return found


@blockwise
def _rowwise(predictions, fit):
    return fit(predictions.features)


def relative_mahalanobis(predictions: Predictions, calibration: Predictions) -> np.ndarray:
    """`mahalanobis` minus the distance to one Gaussian that is fitted to all classes together.

    It looks for inputs unlike all others. Where the surest answers have the features furthest out, as with a head that
    is linear in them, it ranks failures worse than chance.
    """
    return mahalanobis(predictions, calibration) - _distance(predictions, calibration, np.zeros(len(calibration)))


def probe(predictions: Predictions, calibration: Predictions) -> np.ndarray:
    """P(error | features) by a regularised logistic regression on calibration; see `fits.probe`.

    Kadavath et al. 2022 (arXiv 2207.05221) and Azaria & Mitchell, EMNLP Findings 2023 (SAPLMA) read a model's hidden
    state so. ValueError where features of calibration have another width, or are too large; SingleClassError where it
    has no error, or nothing but errors.
    """
    known = _features_alike(predictions, calibration)
    return _of_features(predictions, fits.probe(known, calibration.is_error))
