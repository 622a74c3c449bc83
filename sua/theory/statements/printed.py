"""The bounds of the paper as printed. A docstring says what refutes its bound, or under which reading it is true."""

from __future__ import annotations

from typing import Callable

import numpy as np

from ..numbers import TOLERANCE
from ..world import cell_mean
from .chain import positive, statement

PRINTED: dict[str, Callable] = {}


@statement(PRINTED, "preserving")
def eq10(w, name="tv", loss="gibbs", L=1):
    """Eq 10: R_rob <= R + L sup D. True for TV and the Gibbs loss (Theorem 1)."""
    return w.robust_risk(loss), w.risk(loss) + L * w.sup(w.divergence(name))


@statement(PRINTED, "preserving")
def eq11(w, name="tv", loss="gibbs", L=1, lam=1.0):
    """Eq 11: R_rob <= R + L (S - lam H). False: a perfect coin (sign error), a rare jump (mean for supremum)."""
    return w.robust_risk(loss), w.risk(loss) + L * w.sua(lam, name)


@statement(PRINTED, "preserving")
def eq11_positive(w, name="tv", loss="gibbs", L=1, lam=1.0):
    """Eq 11 with the positive part: R_rob <= R + L (S - lam H)_+. False wherever 0 < S <= lam H moves the risk."""
    return w.robust_risk(loss), w.risk(loss) + L * positive(w.sua(lam, name))


@statement(PRINTED, "preserving")
def abstract(w, name="tv", loss="zero_one", L=1, lam=1.0):
    """Abstract: E R_rob <= E R + L E(SUA)_+. False: E(SUA)_+ = 0 goes with clean risk 0 and worst-case risk 1."""
    return w.mean(w.robust_risk(loss)), w.mean(w.risk(loss) + L * positive(w.sua(lam, name)))


@statement(PRINTED, "preserving", "exchangeable")
def theorem45(w, name="tv", lam=1.0, cells=None):
    """Thm 4.5: (1/B) sum_b (S_b - lam H_b)_+ <= ECE, b over B bins of the confidence. False in five ways."""
    same = w.same(cells)
    size = np.where(same, w.mass[..., None, :], 0).sum(-1)
    weight = w.mass / np.where(size > 0, size, 1)  # each bin counts once
    gap = positive(cell_mean(w, same, w.sua(lam, name)[..., None])[..., 0])
    return (weight * gap).sum(-1) / weight.sum(-1), w.ece(cells)


@statement(PRINTED, "preserving")
def proposition48(w, tau=0.0, name="tv", loss="zero_one", L=1, lam=1.0, robust=False, conditional=False):
    """Prop 4.8: the risk where SUA <= tau is at most R + L tau. Left clean or robust, R overall or conditional."""
    accepted = w.mass * (w.sua(lam, name) <= tau + TOLERANCE)

    def within(values):
        return (accepted * values).sum(-1) / np.maximum(accepted.sum(-1), TOLERANCE)

    clean = w.risk(loss)
    right = (within(clean) if conditional else w.mean(clean)) + L * tau
    return within(w.robust_risk(loss) if robust else clean), np.where(accepted.any(-1), right, np.inf)
