"""The part of the risk that answering by the mean of several formulations removes: it needs no label (Theorem 15)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from ..divergences import geometric_mean, mean_log  # geometric_mean: a public name of this module
from ..inputs import expect
from ..predictions import Predictions
from .certificates import ITEMS, MEANING, check_delta, listed, mean_lower_bound

CAP = 2.0


def removable(orbit, loss: str = "brier") -> np.ndarray:
    """(...) mean loss of the M distributions (..., M, C) minus the loss of their mean: one number for every label.

    "brier": S_2 = mean |q_m - qbar|^2, in [0, 1 - 1 / min(M, C)]. "log": S_g = -ln sum_c prod_m q_m(c)^(1/M) in nats,
    with `geometric_mean`; infinite where every class is excluded by one of them.
    """
    expect(loss in ("brier", "log"), f"loss = {loss!r}: choose 'brier' or 'log'")
    orbit = np.asarray(orbit, dtype=np.float64)
    if loss == "brier":
        return ((orbit - orbit.mean(-2, keepdims=True)) ** 2).sum(-1).mean(-1)
    return np.maximum(-logsumexp(mean_log(orbit), axis=-1), 0)


@dataclass(frozen=True)
class RemovableRisk:
    """Answering by the mean of an item's M formulations lowers the mean `loss` by at least `bound` on further items.

    plain : by how much it does on these items, exactly and whatever their labels are (the sensitivity in the geometry
    of the loss; infinite if `infinite` > 0 items have infinite S_g). cap : items count at most this much in the bound.
    """

    bound: float
    plain: float
    loss: str
    cap: float
    infinite: int
    n: int
    k: int
    delta: float
    assumptions: tuple[str, ...]

    def __str__(self):
        mean, loss = {"brier": ("mean", "Brier score"), "log": ("geometric mean", "log-loss (nats)")}[self.loss]
        capped = (f"; S_g is infinite on {self.infinite} of them, the bound counts at most {self.cap:g} nats an item"
                  if self.loss == "log" else "")
        return (f"With confidence {1 - self.delta:.6g}, answering by the {mean} of these {self.k + 1} formulations "
                f"lowers the {loss} by at least {self.bound:.4f}, compared with answering by one of them at random; no "
                f"label was used.\nOn these {self.n} items it is lowered by {self.plain:.4f}, whatever their labels "
                f"are{capped}.\n" + listed(self.assumptions))


def removable_risk(predictions: Predictions, delta: float = 0.05, loss: str = "brier", cap: float = CAP,
                   seed: int = 0) -> RemovableRisk:
    """Label-free: what averaging x and its K variants takes off the risk (Theorem 15).

    For every label y, mean_m |q_m - e_y|^2 = |qbar - e_y|^2 + S_2, and mean_m -ln q_m(y) = -ln g(y) + S_g with the
    geometric mean g. So the mean of S over items is what is removed on them, and a lower limit of its expectation
    (`mean_lower_bound`, valid at every n with probability >= 1 - delta) what will be removed on further items.

    loss : "brier" or "log". cap : S_g has no upper limit, so the bound is one on E min(S_g, cap) <= E S_g; fix it
    before looking. The comparison is with the mean over the M formulations, not with x alone. seed : order in which the
    betting bound reads the items. ValueError for a delta outside (0, 1), another loss, cap <= 0, or without variants.
    """
    check_delta(delta)
    expect(cap > 0, f"cap = {cap}: give a positive number of nats")
    orbit = predictions.orbit
    n, members, classes = orbit.shape
    removed = removable(orbit, loss)
    highest = (1 - 1 / min(members, classes) or 1) if loss == "brier" else cap  # with one class all S_2 are 0
    shuffled = np.random.default_rng(seed).permutation(np.minimum(removed, highest))
    # the limit is a bisection's lower end, so that it may lie below 0 by rounding
    bound = max(0.0, float(mean_lower_bound(shuffled, delta, 0, highest)))
    return RemovableRisk(bound, float(removed.mean()), loss, float(highest), int(np.isinf(removed).sum()), n,
                         members - 1, delta,
                         (ITEMS, MEANING, "the loss is the mean over x and its variants with equal weight"))
