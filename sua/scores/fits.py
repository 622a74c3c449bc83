"""What some scores fit on labelled calibration items: a temperature, a direction in a plane of scores, Gaussians.

Fits take arrays and return a function of new arrays; temperature scaling takes whole Predictions. `sua.score` sees to
it that calibration items are never scored.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable

import numpy as np

from ..extras import need
from ..inputs import expect
from ..metrics import two_classes
from ..predictions import Predictions
from .rows import BLOCK

HOTTEST = 100.0  # temperatures are sought in [1 / HOTTEST, HOTTEST]
CONSTANT = 1e-9  # a column of scores that varies by no more is constant up to rounding, and tells nothing apart
WIDEST = 1024  # columns of features up to which a probe is fitted by Newton's method
SINGULAR = 1e-12  # least variance of a direction, in parts of the largest, that is not an effect of rounding


def temperature(calibration: Predictions) -> float:
    """The T in [0.01, 100] at which p^(1/T), renormalised, has the lowest NLL on labelled items.

    Guo et al., ICML 2017. The same as softmax(logits / T): logits and log-probabilities differ by a constant per item.
    An item whose label has probability 0 costs infinity at every T and has no say; ValueError if there is no other.
    """
    labels, z = calibration.require("labels"), _log(calibration.probs)
    at_label = z[np.arange(len(z)), labels]
    possible = np.isfinite(at_label)
    expect(possible.any(), "every calibration label has probability 0: no temperature can help")
    z = z[possible] - at_label[possible, None]
    finite = np.where(np.isfinite(z), z, 0)
    blocks = [(z[i:i + BLOCK], finite[i:i + BLOCK]) for i in range(0, len(z), BLOCK)]
    # d NLL / d(1/T) = mean of E_T[z] - z_label rises with 1/T: bisect its sign
    low, high = -np.log(HOTTEST), np.log(HOTTEST)
    for _ in range(50):
        middle = (low + high) / 2
        rising = sum((_softmax(z * np.exp(middle)) * finite).sum(-1).sum() for z, finite in blocks) > 0
        low, high = (low, middle) if rising else (middle, high)
    return float(np.exp(-middle))


def scaled(predictions: Predictions, T: float) -> Predictions:
    """The same model at temperature T: probs, perturbed, clarified and dropout become p^(1/T), renormalised.

    Logits are divided by T. Samples were drawn at the old temperature and are dropped; ensemble members are other
    models, each with a temperature of its own, and stay. `meta` notes the temperature. ValueError unless T > 0.
    """
    fields = {name: at_temperature(value, T) for name in ("probs", "perturbed", "clarified", "dropout")
              if (value := getattr(predictions, name)) is not None}
    logits = None if predictions.logits is None else predictions.logits / T
    return replace(predictions, **fields, logits=logits, samples=None, meta={**predictions.meta, "temperature": T})


def at_temperature(p, T: float) -> np.ndarray:
    """p^(1/T), renormalised over the last axis; probability 0 stays 0. ValueError unless T is finite and > 0."""
    expect(0 < T < np.inf, f"T = {T}: give a finite temperature above 0")
    return _softmax(_log(p) / T)


def discriminant(x, is_error) -> Callable[[np.ndarray], np.ndarray]:
    """Linear discriminant (Fisher 1936): x (N, D) -> projection on inv(pooled covariance) (mean_error - mean_right).

    The direction is scaled to weight 1 (or -1) on the first column; constant columns weigh 0.
    SingleClassError if there is one class only.
    """
    wrong = two_classes(is_error)
    x = x * (x.std(0) > CONSTANT)
    means = x[wrong].mean(0), x[~wrong].mean(0)
    residual = x - np.where(wrong[:, None], *means)
    direction = np.linalg.pinv(residual.T @ residual / len(x), hermitian=True) @ (means[0] - means[1])
    direction /= abs(direction[0]) or 1
    return lambda new: new @ direction


def logistic(x, is_error) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic regression: x (N, D) -> P(error). Standardised columns, penalty |w|^2 / 2 on the summed log-loss.

    The penalty keeps w finite where the classes can be separated. SingleClassError if there is one class only.
    """
    from scipy.optimize import minimize

    sign = np.where(two_classes(is_error), 1, -1)
    center, spread = x.mean(0), x.std(0)
    spread = np.where(spread > CONSTANT, spread, 1)

    def standard(x):  # with a column of ones for the intercept
        return np.hstack([(x - center) / spread, np.ones((len(x), 1))])

    design = standard(x)

    penalty = np.append(np.ones(x.shape[1]), 0)  # none on the intercept

    def loss(w):
        margin = sign * (design @ w)
        return (np.logaddexp(0, -margin).sum() + penalty @ w ** 2 / 2,
                penalty * w - design.T @ (sign * _sigmoid(-margin)))

    w = minimize(loss, np.zeros(design.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-8}).x
    # a step of Newton squares the error that the search leaves, so that the optimum does not depend on its path
    p = _sigmoid(design @ w)
    w = w - np.linalg.solve((design.T * (p * (1 - p))) @ design + np.diag(penalty), loss(w)[1])
    return lambda new: _sigmoid(standard(new) @ w)


def probe(features, target) -> Callable[[np.ndarray], np.ndarray]:
    """Linear probe: features (N, D) -> P(target), by logistic regression (scikit-learn) on standardised columns.

    The penalty is D |w|^2 / 2 on the summed log-loss: before any label is seen, the log-odds of an input have a
    standard deviation of 1, whatever the number of columns. target : (N,) bool. SingleClassError if it holds one class
    only.
    """
    LogisticRegression = need("sklearn.linear_model").LogisticRegression

    two_classes(target)
    unit = 2.0 ** np.frexp(np.abs(features).max(0))[1]  # powers of two cost no digit, and no square overflows
    centre, spread = (features / unit).mean(0), (features / unit).std(0)
    spread = np.where(spread > CONSTANT, spread, np.inf)  # a constant column tells nothing, and weighs 0

    def standard(x):
        return (x / unit - centre) / spread

    wide = features.shape[1] > WIDEST  # its Hessian would be too large
    model = LogisticRegression(C=1 / features.shape[1], tol=1e-8, max_iter=10_000,
                               solver="lbfgs" if wide else "newton-cholesky").fit(standard(features), target)
    return lambda new: _sigmoid(standard(new) @ model.coef_[0] + model.intercept_[0])


def mahalanobis(features, groups) -> Callable[[np.ndarray], np.ndarray]:
    """features (N, D) -> squared Mahalanobis distance to the nearest of the groups' means, one shared covariance.

    The covariance within groups is shrunk towards a multiple of the identity by the Ledoit-Wolf rule (2004), so that
    fewer items than dimensions will do. ValueError if the items vary within groups by no more than rounding, in some
    direction or in all.
    """
    unit = 2.0 ** np.frexp(np.abs(features).max())[1]  # a power of two costs no digit, and no square overflows
    features = features / unit
    values, group = np.unique(groups, return_inverse=True)
    means = np.stack([features[group == g].mean(0) for g in range(len(values))])
    covariance = shrunk_covariance(features - means[group])
    variances = np.linalg.eigvalsh(covariance)
    # features are at most 1 here, and known to 16 digits
    expect(variances[0] > SINGULAR * variances[-1] and variances[-1] > SINGULAR**2, lambda: f"{len(features)} "
           f"calibration items of {len(values)} classes vary too little within classes to estimate a covariance: give "
           "more, and leave out features that follow from others")
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T
    return lambda new: np.min([(((new / unit - mean) @ whiten) ** 2).sum(-1) for mean in means], axis=0)


def shrunk_covariance(x) -> np.ndarray:
    """(D, D) Ledoit-Wolf estimate (J. Multivariate Analysis, 2004) from centred x (N, D)."""
    n, d = x.shape
    sample, power = x.T @ x / n, (x ** 2).sum(1)
    scale = np.trace(sample) / d
    spread = (sample ** 2).sum() - d * scale ** 2  # squared distance of the sample covariance from scale * identity
    noise = ((power ** 2).mean() - (sample ** 2).sum()) / n
    weight = min(noise / spread, 1) if spread > 0 else 1
    return (1 - weight) * sample + weight * scale * np.eye(d)


def _log(p):
    return np.log(p, out=np.full_like(p, -np.inf), where=p > 0)


def _softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _sigmoid(z):
    return 1 / (1 + np.exp(-np.clip(z, -700, 700)))
