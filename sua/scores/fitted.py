"""Scores that are fitted on labelled calibration items: lambda, temperature, discriminant, Gaussians of features."""

from __future__ import annotations

import numpy as np

from ..divergences import entropy
from ..metrics import auroc
from ..predictions import Predictions
from . import fits
from .orbit import sensitivity, sua
from .single import msp


LAMBDAS = np.concatenate([[0], np.geomspace(1 / 16, 16, 33)])
SIGNED_LAMBDAS = np.concatenate([-LAMBDAS[:0:-1], LAMBDAS])


def choose_lambda(calibration: Predictions, grid=LAMBDAS, divergence: str = "kl") -> float:
    """The value of `grid` for which S - lam * H has the highest failure AUROC on `calibration`.

    Of equally good values the one nearest to 0 wins. Raises SingleClassError if `calibration` has no error, or
    nothing but errors. Use data that will not be scored: chosen in-sample, lambda gains AUROC even on noise.
    """
    s, h = sensitivity(calibration, divergence), entropy(calibration.probs)
    order = sorted((float(lam) for lam in grid), key=abs)
    return max(order, key=lambda lam: auroc(calibration.is_error, s - lam * h))


def sua_calibrated(predictions: Predictions, calibration: Predictions, divergence: str = "kl") -> np.ndarray:
    """SUA with the lam >= 0 of highest failure AUROC on labelled calibration predictions."""
    return sua(predictions, choose_lambda(calibration, LAMBDAS, divergence), divergence)


def sua_signed(predictions: Predictions, calibration: Predictions, divergence: str = "kl") -> np.ndarray:
    """SUA with the lam of either sign of highest failure AUROC on labelled calibration predictions."""
    return sua(predictions, choose_lambda(calibration, SIGNED_LAMBDAS, divergence), divergence)


def msp_scaled(predictions: Predictions, calibration: Predictions) -> np.ndarray:
    """1 - max p at the temperature of lowest NLL on calibration. With two classes it ranks as `msp` does."""
    return msp(fits.scaled(predictions, fits.temperature(calibration)))


def entropy_scaled(predictions: Predictions, calibration: Predictions) -> np.ndarray:
    """H at the temperature of lowest NLL on calibration. With two classes it ranks as `entropy` does."""
    return entropy(fits.scaled(predictions, fits.temperature(calibration)).probs)


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
    """Squared distance of the features to the nearest class mean; class means, shared covariance from calibration."""
    fit = fits.mahalanobis(calibration.require("features"), calibration.require("labels"))
    return fit(predictions.require("features"))


def relative_mahalanobis(predictions: Predictions, calibration: Predictions) -> np.ndarray:
    """`mahalanobis` minus the distance to one Gaussian that is fitted to all classes together.

    It looks for inputs unlike all others. Where the surest answers have the features furthest out, as with a head that
    is linear in them, it ranks failures worse than chance.
    """
    everything = fits.mahalanobis(calibration.require("features"), np.zeros(len(calibration)))
    return mahalanobis(predictions, calibration) - everything(predictions.require("features"))
