"""The bounds that are true: Theorems 1 to 12."""

from __future__ import annotations

from typing import Callable

import numpy as np

from ...divergences import EXACT as DIVERGENCES
from ..numbers import LAMBDA_ALARM, LAMBDA_JS, LAMBDA_TOP, LAMBDA_TV, LN2, js_cost, real
from ..world import cell_mean, log, one_hot
from .chain import positive, statement

REPAIRED: dict[str, Callable] = {}


def _max_of_pair(values):
    return np.maximum(values[..., :, None], values[..., None, :])


@statement(REPAIRED)
def worst_case(w):
    """Theorem 1: R_rob <= R + sup TV + sup TV(p*, p*'), Gibbs loss. |R' - R| splits at the truth of x."""
    return w.robust_risk(), w.risk() + w.sup(w.divergence()) + w.drift


@statement(REPAIRED, "preserving")
def worst_case_exact(w):
    """Theorem 1: R_rob - R <= sup max_k (p_k - p'_k)_+ <= sup TV; p* = e_k attains the first."""
    drop = positive((w.p[..., :, None, :] - w.p[..., None, :, :]).max(-1))
    return w.robust_risk() - w.risk(), w.sup(drop), w.sup(w.divergence())


@statement(REPAIRED, "preserving")
def mean_risk(w):
    """Theorem 2: |R_Pi - R| <= S_TV, Gibbs loss. Average |R' - R| <= TV over Pi."""
    return np.abs(w.mean_risk() - w.risk()), w.sensitivity()


@statement(REPAIRED)
def tv_from_divergences(w):
    """Theorem 2: S_TV^2 <= min(S_KL / 2, 1 - exp(-S_KL), 2 S_JS). Pinsker, Bretagnolle-Huber, Jensen."""
    kl = w.sensitivity("kl")
    return w.sensitivity() ** 2, np.minimum(np.minimum(kl / 2, -np.expm1(-kl)), 2 * w.sensitivity("js"))


@statement(REPAIRED, "preserving")
def tail_risk(w, alpha=0.2):
    """Theorem 3b: the mean risk in the worst alpha of Pi is <= R + S_TV / alpha."""
    return w.tail_risk(alpha), w.risk() + w.sensitivity() / alpha


@statement(REPAIRED)
def least_mass(w):
    """Theorem 3a: if every neighbour has Pi >= w then sup TV <= S_TV / w."""
    apart = (w.kernel > 0) & ~np.eye(w.kernel.shape[-1], dtype=bool)
    return w.sup(np.where(apart, w.divergence(), 0)), w.sensitivity() / np.where(apart, w.kernel, 1).min(-1)


@statement(REPAIRED, "preserving")
def plus_entropy(w, lam=1.0):
    """Theorem 4: R_Pi <= R + (SUA)_+ + min(S, lam H) <= R + (SUA)_+ + lam H, since S = (SUA)_+ + min(S, lam H)."""
    alarm = w.risk() + positive(w.sua(lam))
    return w.mean_risk(), alarm + np.minimum(w.sensitivity(), lam * w.entropy), alarm + lam * w.entropy


@statement(REPAIRED)
def flip_margin(w):
    """Theorem 5a: a flip needs TV >= (m + m') / 2. Both top labels must cross."""
    return np.where(w.flips, (w.margin[..., :, None] + w.margin[..., None, :]) / 2, 0), w.divergence()


@statement(REPAIRED)
def flip_bound(w):
    """Theorem 5b: F <= 2 S_TV / m <= 2 S_TV / (1 - H_bits)_+. Markov; m >= 1 - H_bits."""
    twice = 2 * real(w.sensitivity())
    bounds = [np.where(low > 0, twice / np.where(low > 0, low, 1), np.inf)
              for low in (real(w.margin), 1 - w.entropy / LN2)]
    return w.flip_rate, *bounds


@statement(REPAIRED, "preserving")
def stable_radius(w):
    """Theorem 5d: where sup TV < m / 2, R_rob = R for the 0-1 loss."""
    stable = w.sup(w.divergence()) < w.margin / 2
    return np.where(stable, w.robust_risk("zero_one") - w.risk("zero_one"), 0), np.zeros(1)


@statement(REPAIRED, "preserving", "exchangeable")
def alarm(w, lam=LAMBDA_ALARM):
    """Theorem 6: E(TV - lam max(H, H'))_+ / 2 <= E(TV - max(a, a'))_+ / 2 <= F / 2 <= err <= E R_rob (0-1 loss).

    A common top label caps TV at max(a, a'), and a <= H_bits / 2; a flip makes one of the two answers wrong.
    """
    def half(values):
        return w.mean(w.pair_mean(positive(w.divergence() - values))) / 2

    wrong, robust = w.risk("zero_one"), w.robust_risk("zero_one")
    return (half(lam * _max_of_pair(w.entropy)), half(_max_of_pair(w.doubt)), w.mean(w.flip_rate) / 2,
            w.mean(wrong), w.mean(robust))


@statement(REPAIRED, "preserving", "exchangeable")
def floor_gibbs(w):
    """Theorem 7: Gibbs loss >= S_TV / 2. TV(p, p') <= (1 - p_y) + (1 - p'_y)."""
    return w.mean(w.sensitivity()) / 2, w.mean(w.risk())


@statement(REPAIRED, "preserving", "exchangeable")
def floor_brier(w):
    """Theorem 7: Brier loss >= S_square / 2. (p - e_y).(p' - e_y) >= 0 on the simplex."""
    return w.mean(w.sensitivity("square")) / 2, w.mean(w.risk("brier"))


@statement(REPAIRED, "preserving", "exchangeable")
def floor_log(w):
    """Theorem 7: log-loss >= E -ln max_k sqrt(p_k p'_k) >= E B(p, p'), the Bhattacharyya distance."""
    best = np.sqrt(real(w.p[..., :, None, :] * w.p[..., None, :, :])).max(-1)
    return w.mean(w.sensitivity("bhattacharyya")), w.mean(w.pair_mean(-log(best))), w.mean(w.risk("log"))


@statement(REPAIRED, "preserving")
def floor_orbit(w):
    """Theorem 7: err >= 1 - E(share of the most frequent answer in the orbit). One label law serves the orbit."""
    return w.mean(1 - cell_mean(w, w.same(w.orbits), one_hot(w.p)).max(-1)), w.mean(w.risk("zero_one"))


@statement(REPAIRED, "preserving", "exchangeable", "calibrated")
def aligned_tv(w, gini=2, lam=LAMBDA_TV):
    """Theorem 8.1 (alignment): a calibrated model has E S_TV <= 2 E G and 2 E G <= E H_bits; both sharp."""
    return w.mean(w.sensitivity()), gini * w.mean(w.gini), gini / 2 * lam * w.mean(w.entropy)


@statement(REPAIRED, "preserving", "exchangeable", "calibrated")
def aligned_square(w, gini=2):
    """Theorem 8.1: calibrated implies E S_square <= 2 E G."""
    return w.mean(w.sensitivity("square")), gini * w.mean(w.gini)


@statement(REPAIRED, "preserving", "exchangeable", "calibrated")
def aligned_js(w, lam=LAMBDA_JS):
    """Theorem 8.1: calibrated implies E S_JS <= 0.6226 E H. For KL no such constant exists."""
    return w.mean(w.sensitivity("js")), lam * w.mean(w.entropy)


@statement(REPAIRED, "preserving", "exchangeable", "calibrated")
def aligned_flips(w, doubt=2, lam=LAMBDA_TV):
    """Theorem 8.1: calibrated implies F <= 2 E a and 2 E a <= E H_bits."""
    return w.mean(w.flip_rate), doubt * w.mean(w.doubt), doubt / 2 * lam * w.mean(w.entropy)


@statement(REPAIRED, "preserving", "exchangeable")
def misaligned_tv(w, factor=0.5, lam=LAMBDA_TV):
    """Theorem 8.2: (E S_TV - E H_bits) / 2 <= (E S_TV - 2 E G) / 2 <= the canonical calibration error.

    E S_TV <= 2 E(1 - p_Y) by Theorem 7, and E(1 - p_Y) = E G + E <p, p - c> <= E G + E TV(p, c), c = E[p*|p].
    """
    s = w.mean(w.sensitivity())
    return factor * (s - lam * w.mean(w.entropy)), factor * (s - lam * LN2 * 2 * w.mean(w.gini)), w.calibration_error()


@statement(REPAIRED, "preserving", "exchangeable")
def misaligned_classwise(w, factor=0.5):
    """Theorem 8.2: (E S_TV - 2 E G) / 2 <= the classwise calibration error."""
    return factor * (w.mean(w.sensitivity()) - 2 * w.mean(w.gini)), w.classwise_error()


@statement(REPAIRED, "preserving", "exchangeable")
def misaligned_js(w, factor=1 / (2 * LN2), lam=LAMBDA_JS):
    """Theorem 8.2: (E S_JS - 0.6226 E H) / (2 ln 2) <= (E S_JS - E sum p w(p)) / (2 ln 2) <= calibration error."""
    s, cost = w.mean(w.sensitivity("js")), w.mean(js_cost(w.p))
    return factor * (s - lam * w.mean(w.entropy)), factor * (s - lam / LAMBDA_JS * cost), w.calibration_error()


@statement(REPAIRED, "preserving", "exchangeable")
def top_label_flips(w, factor=0.5, lam=LAMBDA_TV, cells=None):
    """Theorem 8.3: (F - E H_bits) / 2 <= F / 2 - E a <= ECE, any binning. ECE >= conf - acc = err - E a."""
    flips = w.mean(w.flip_rate)
    return (factor * (flips - lam * w.mean(w.entropy)), factor * (flips - lam * LN2 * 2 * w.mean(w.doubt)),
            w.ece(cells))


@statement(REPAIRED, "preserving", "exchangeable")
def top_label_tv(w, factor=0.5, lam=2 * LAMBDA_TV, cells=None):
    """Theorem 8.3: E S_TV / 2 - E H_bits <= ECE, any binning (the best coefficient of H_bits lies in [3/4, 1])."""
    return factor * (w.mean(w.sensitivity()) - lam * w.mean(w.entropy)), w.ece(cells)


@statement(REPAIRED, "preserving", "exchangeable")
def top_label_alarm(w, factor=0.5, cells=None):
    """Theorem 8.3: E(TV - max(a, a'))_+ / 2 - E a <= ECE, any binning. The alarm is at most F / 2."""
    moved = w.mean(w.pair_mean(positive(w.divergence() - _max_of_pair(w.doubt))))
    return factor * moved - w.mean(w.doubt), w.ece(cells)


@statement(REPAIRED, "preserving", "exchangeable")
def top_label_js(w, factor=1 / (2 * LN2), cells=None):
    """Theorem 8.3: E S_JS / (2 ln 2) - E H_bits <= ECE, any binning, since JS <= ln 2 TV."""
    return factor * w.mean(w.sensitivity("js")) - w.mean(w.entropy) / LN2, w.ece(cells)


@statement(REPAIRED, "preserving", "exchangeable")
def top_label_unbinned(w, factor=0.5, lam=LAMBDA_TOP):
    """Theorem 8.3: (E S_TV - 1.5 E H_bits) / 2 <= ECE with one cell per value of the confidence; 1.5 is sharp."""
    return factor * (w.mean(w.sensitivity()) - lam * w.mean(w.entropy)), w.ece()


@statement(REPAIRED, "preserving", "exchangeable")
def top_label_groups(w):
    """Theorem 8.4: sum_g P(g) (F_g / 2 - a_g)_+ <= ECE over groups g that the kernel never leaves."""
    gap = cell_mean(w, w.same(w.orbits), (w.flip_rate / 2 - w.doubt)[..., None])[..., 0]
    return w.mean(positive(gap)), w.ece(w.orbits)


@statement(REPAIRED)
def tv_from_kl(w):
    """Theorem 8.5: S_KL <= phi(M) S_TV, phi(M) = M ln M / (M - 1), M = sup p_k / p'_k. A chord of t ln t."""
    p, q = real(w.p)[..., :, None, :], real(w.p)[..., None, :, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        top = w.sup(np.where(p > 0, p / q, 0).max(-1)).clip(min=1 + 1e-9)  # phi is continuous, with phi(1) = 1
    return w.sensitivity("kl"), np.log(top) / (1 - 1 / top) * w.sensitivity()


@statement(REPAIRED, "preserving", "exchangeable")
def distance_to_truth(w):
    """Theorem 9: E S_TV / 2 <= E TV(p, p*). Triangle inequality through the common truth."""
    return w.mean(w.sensitivity()) / 2, w.mean(DIVERGENCES["tv"](w.p, w.truth))


@statement(REPAIRED, "preserving", "exchangeable")
def excess_log_loss(w):
    """Theorem 9: E TV^2 / 2 <= E B(p, p') <= E KL(p*||p). Minimise over the common truth."""
    square = w.mean(w.pair_mean(w.divergence() ** 2)) / 2
    return square, w.mean(w.sensitivity("bhattacharyya")), w.mean(DIVERGENCES["kl"](w.truth, w.p))


@statement(REPAIRED, "preserving", "exchangeable")
def excess_brier(w):
    """Theorem 9: E S_square / 4 <= E |p - p*|^2, calibration plus grouping loss."""
    return w.mean(w.sensitivity("square")) / 4, w.mean(DIVERGENCES["square"](w.p, w.truth))


@statement(REPAIRED, "preserving")
def selective_risk(w, tau=0.0, lam=1.0):
    """Theorem 10a (Prop 4.8 repaired): where SUA <= tau, E R_Pi <= E R + tau + lam E H; S <= tau + lam H there."""
    accepted = w.mass * (w.sua(lam) <= tau)
    excess = w.mean_risk() - w.risk() - lam * w.entropy - tau
    return (accepted * excess).sum(-1), np.zeros(1)


@statement(REPAIRED)
def free_smoothing(w, lam=1.0, name="tv"):
    """Theorem 12: mixing p with the uniform law brings E(SUA)_+ to 0 and leaves every answer as it was."""
    worst = real(positive(w.sua(lam, name))).max(-1)
    mixed = w.smoothed(worst / (worst + lam * np.log(w.p.shape[-1])))
    changed = w.mean(mixed.risk("zero_one") != w.risk("zero_one"))
    return mixed.mean(positive(mixed.sua(lam, name))) + changed, np.zeros(1)
