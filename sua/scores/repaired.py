"""SUA repaired: sensitivity and uncertainty added with learned, nonnegative weights, and the answer's own error rate.

The paper subtracts uncertainty from sensitivity, S - lambda H. Where errors become more likely with both (given each
other), no lambda > 0 ranks failures better than S alone (Theorem 13): both belong in the score with a plus.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from ..divergences import FLOOR
from ..inputs import expect
from ..predictions import Predictions
from .fits import CONSTANT
from .rows import blockwise

PRIOR = np.array([1.0, 1.0, 0.0])  # weight per standard deviation of each evidence, before any label is seen
PRECISION = 8.0  # of the normal prior on every weight and answer effect: a standard deviation of 0.35


def sua_repaired(predictions: Predictions, calibration: Predictions) -> np.ndarray:
    """Log-odds of an error, up to a constant, (N,) in (-inf, inf); higher = more likely wrong.

        score(x) = w_1 u(x) + w_2 v(x) + w_3 S(x) + b_y          y = the answer to x, w >= 0

        u = ln (1 - p_y) / p_y                 uncertainty: the model's own odds against its answer
        v = mean_k ln (1 - q_ky) / q_ky        the same odds at the K variants of x
        S = sqrt(mean_k TV(p, q_k))            sensitivity

    u and v are in nats; all three are centred and divided by their standard deviation on `calibration`. The weights
    w, the effects b of the C answers and a constant are the posterior mode of a logistic regression of the error on
    `calibration` with independent normal priors, w ~ N((1, 1, 0), 1/8) restricted to w >= 0 and b ~ N(0, 1/8). The
    objective is strictly convex, so that its minimum is unique and nothing is random or left to choose.

    Why this form. If the error probability rises with sensitivity and with uncertainty, each at a fixed value of the
    other, no lambda > 0 makes S - lambda H rank better than S (Theorem 13), hence w >= 0. How much each counts
    is learned: a brittle model errs where it moves, a robust one where it is unsure. b: some answers are wrong more
    often than their odds say. The prior decides where errors are few.

    How many labels. On the 34 settings of `sua.recorded.llms`, K = 2 prompts, its mean AUROC is above that of msp with
    50 calibration items already, and the gain grows with their number. Never worse than msp it is with no number that
    was tried: where the variants say less than x does, it is behind until w has been learned. With 50, 100, 200 and 500
    items 17, 14, 5 and 1 of the settings are more than .005 behind, the worst by .016, .012, .010 and .007 (means of
    four draws of the items; a single draw can be .03 behind): take 200 or more.

    calibration : labelled predictions of other items, with as many classes. If it holds no error, or nothing but
    errors, it says nothing about ranking: w = (1, 1, 0) and b = 0 are used.
    Raises ValueError if labels or variants are missing or the numbers of classes differ.
    """
    classes = predictions.probs.shape[1]
    expect(calibration.probs.shape[1] == classes, f"calibration has {calibration.probs.shape[1]} classes, predictions "
           f"have {classes}: calibrate on the same label set")
    known = evidence(calibration)
    centre, scale = known.mean(0), known.std(0)
    scale = np.where(scale > CONSTANT, scale, 1)
    weights, effects = fit((known - centre) / scale, calibration.answers, calibration.is_error, classes)
    return (evidence(predictions) - centre) / scale @ weights + effects[predictions.answers]


@blockwise
def evidence(predictions: Predictions) -> np.ndarray:
    """(N, 3) uncertainty u, the variants' odds v and sensitivity S of `sua_repaired`, each of them unscaled."""
    answers = predictions.answers
    given = answers[:, None, None] == np.arange(predictions.probs.shape[1])
    own, other = (predictions.orbit * given).sum(-1), (predictions.orbit * ~given).sum(-1)  # 1 - own would round to 0
    against = np.log(np.maximum(other, FLOOR)) - np.log(np.maximum(own, FLOOR))
    moved = np.abs(predictions.perturbed - predictions.probs[:, None]).sum(-1).mean(1) / 2
    return np.column_stack([against[:, 0], against[:, 1:].mean(1), np.sqrt(moved)])


def fit(x, answers, is_error, classes) -> tuple[np.ndarray, np.ndarray]:
    """Weights (D,) >= 0 of the evidence x (N, D) and effects (C,) of the answers: the posterior mode, or the prior
    where `is_error` holds one class only."""
    effects = np.zeros(classes)
    if is_error.all() or not is_error.any():
        return PRIOR.copy(), effects
    design = np.column_stack([x, answers[:, None] == np.arange(classes), np.ones(len(x))])
    prior = np.concatenate([PRIOR, effects, [0]])
    precision = np.append(np.full(len(prior) - 1, PRECISION), 0)  # the constant is free
    sign = np.where(is_error, 1.0, -1.0)

    def negative_log_posterior(theta):
        logit, off = sign * (design @ theta), theta - prior
        loss = np.logaddexp(0, -logit).sum() + precision @ off**2 / 2
        return loss, precision * off - (sign * expit(-logit)) @ design

    bounds = [(0, None)] * len(PRIOR) + [(None, None)] * (classes + 1)
    found = minimize(negative_log_posterior, prior, jac=True, method="L-BFGS-B", bounds=bounds,
                     options={"maxiter": 10000, "maxfun": 100000, "ftol": 1e-15, "gtol": 1e-7}).x
    return found[:len(PRIOR)], found[len(PRIOR):-1]
