"""Constants of the bounds, and identities and functions of laws that are not worlds. Nats."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, rel_entr, xlogy

from ..divergences import entropy

LN2 = np.log(2)
LAMBDA_TV = 1 / LN2  # smallest lambda with E S_TV <= lambda E H for every calibrated model
LAMBDA_JS = 1.5 * np.log2(4 / 3)  # the same for Jensen-Shannon
LAMBDA_TOP = 1.5 / LN2  # the same for total variation where only the top label is calibrated
LAMBDA_ALARM = 1 / (2 * LN2)  # smallest lambda for which TV > lambda max(H, H') forces a flip
TOLERANCE = 1e-12


def js_cost(p: ArrayLike) -> np.ndarray:
    """sum_k p_k w(p_k), w(v) = 2 ln 2 + v ln v - (1 + v) ln(1 + v): at most 0.6226 H, as 2 G is at most H_bits."""
    p = real(p)
    return (p * (2 * LN2 + xlogy(p, p) - xlogy(1 + p, 1 + p))).sum(-1)


def clarification_split(p: ArrayLike, clarified: ArrayLike, weights: ArrayLike
                        ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(S, I, incoherence): S = E_z KL(p_z||p) = I(Y;Z) + KL(pbar||p), exactly (Theorem 11b).

    p (..., C), clarified (..., Z, C) = p_z, weights (..., Z). I is legitimate ambiguity; incoherence is 0 iff p = pbar,
    and equals the collapse index KL(p*||p) where p_z and the weights are the truth's. S - H(pbar) + E_z H(p_z) =
    incoherence, so S > H(p) at lambda = 1 proves p != pbar.
    """
    p, weights = real(p), real(weights)
    pbar = (weights[..., None] * clarified).sum(-2)

    def kl(q):
        return (weights * rel_entr(real(clarified), q[..., None, :]).sum(-1)).sum(-1)

    return kl(p), kl(pbar), rel_entr(pbar, p).sum(-1)


def fano(error: ArrayLike, classes: int) -> np.ndarray:
    """h(e) + e ln(C - 1): the largest entropy (nats) of p* that an error rate e of its argmax allows."""
    return entropy(np.stack([error, 1 - np.asarray(error)], -1)) + np.asarray(error) * np.log(classes - 1)


def population_auroc(mass: np.ndarray, error: np.ndarray, score: np.ndarray) -> np.ndarray:
    """(...) AUROC of score (..., n) on a population of n points with masses (n,) and error probabilities (n,)."""
    bad, good = mass * error, mass * (1 - error)
    above = np.sign(score[..., :, None] - score[..., None, :]) / 2 + 0.5
    return (bad[..., :, None] * good[..., None, :] * above).sum((-1, -2)) / (bad.sum(-1) * good.sum(-1))


def binormal_auroc(d_s: ArrayLike, d_h: ArrayLike, rho: ArrayLike, lam: ArrayLike) -> np.ndarray:
    """AUROC of S - lam H, normal within classes: unit variance, correlation rho, shifts d_s, d_h (Theorem 14)."""
    return ndtr((d_s - lam * d_h) / np.sqrt(1 - 2 * lam * rho + lam**2) / np.sqrt(2))


def binormal_lambda(d_s: ArrayLike, d_h: ArrayLike, rho: ArrayLike) -> np.ndarray:
    """The lambda of highest AUROC of S - lam H; > 0 iff d_h < rho d_s (Theorem 14).

    Where S itself should not count (d_s <= rho d_h) no finite lambda is best: -inf (rank by H) or +inf (by -H).
    """
    weight_s, weight_h = np.asarray(d_s - rho * d_h, dtype=float), np.asarray(d_h - rho * d_s, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight_s > 0, -weight_h / weight_s, np.where(np.asarray(d_h) > 0, -np.inf, np.inf))[()]


def unseen_share(k: ArrayLike, delta: float = 0.05) -> np.ndarray:
    """Share of Pi that may lie beyond the worst of k draws, with confidence 1 - delta: 1 - delta^(1/k) (Theorem 3d)."""
    return 1 - delta ** (1 / np.asarray(k, dtype=float))


def real(values: ArrayLike) -> np.ndarray:
    """As floats, what may be Fractions."""
    return np.asarray(values, dtype=np.float64)
