"""Metrics of predictors and of scores. `is_error` is True for a wrong answer; a higher score is more likely wrong.

Tied scores are handled in expectation over random tie-breaking, so no result depends on the order of the rows. Scores
that agree to nine digits are tied: further ones are rounding, and would rank otherwise on another processor.
Metrics that take `counts` (B, N), how often each item occurs in each of B resamples, return (B,) values for them, NaN
where a resample has none; without `counts` they return one float. A score is sorted once for all resamples.
"""

from typing import Callable

from ..divergences import FLOOR
from ..predictions import Predictions
from .bootstrap import auroc_intervals, holm, intervals
from .predictors import (accuracy, brier, debiased_ece, ece, equal_mass_ece, mean_of_k, nll, robust_accuracy,
                         worst_of_k)
from .ranking import (SingleClassError, augrc, aurc, auroc, comparable, e_aurc, prr, selective_accuracy,
                      selective_risk, two_classes)

MODEL_METRICS: dict[str, Callable[[Predictions], float]] = {
    "accuracy": accuracy, "robust_accuracy": robust_accuracy, "ece": ece, "brier": brier, "nll": nll,
}
SCORE_METRICS: dict[str, Callable[..., float]] = {
    "auroc": auroc, "aurc": aurc, "e_aurc": e_aurc, "selective_accuracy_80": selective_accuracy,
}
