"""Scores: pure functions of Predictions that rank items for failure prediction.

Orientation everywhere: **higher = more likely wrong** (abstain first). Entropies and divergences in nats.
Notation: p = p(.|x), q_k = p(.|x'_k) for the K variants x'_k of x, H = entropy, answer = argmax p; p_z = p(.|x + z)
for the Z clarifications of x, of weight w_z, pbar = sum_z w_z p_z.

The registry `SCORES` names them all; the modules hold their formulas by what they read.
"""

from ..divergences import DIVERGENCES, FLOOR, divergence_named, entropy, mutual_information
from ..inputs import unknown_name
from .clarification import clarification_sua, collapse_index
from .fitted import (LAMBDAS, SIGNED_LAMBDAS, choose_lambda, entropy_scaled, fused, logistic, mahalanobis, msp_scaled,
                     probe, relative_mahalanobis, sua_calibrated, sua_signed)
from .orbit import alarm, disagreement, orbit_entropy, orbit_msp, sensitivity, spuq, sua, sua_positive
from .registry import ACCESS, SCORES, Score, affordable, available, score, table
from .repaired import sua_repaired
from .single import energy, margin, msp, self_consistency
