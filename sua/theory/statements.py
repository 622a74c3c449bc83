"""Every bound of the paper as printed, and every bound that replaces it, as a function of a `sua.theory.World`.

A statement returns a chain of quantities, (...) or per input (..., N) or per pair (..., N, N), which, it claims, never
decreases. `PRINTED` holds those of arXiv 2604.20903v1 (quoted from secondary sources), with kappa = c_b = 0, which
every natural definition of the two allows in the counterexamples. `REPAIRED` holds those that are true; a docstring
gives the proof in a line, and the number of the theorem in this companion.

Notation: R risk, a = 1 - max p, G = 1 - sum p^2, m = margin, F = flip rate, S_D = E_{x'~Pi} D(p(x), p(x')), H = entropy
in nats, H_bits = H / ln 2. `needs` of a statement: "preserving" (p* constant on N(x)), "exchangeable" (the pair (x, x')
~ P Pi has a symmetric law, as after pooling x with its variants), "calibrated" (p = E[p*|p]).
"""

from __future__ import annotations

from typing import Callable, NamedTuple

import numpy as np

from ..divergences import EXACT as DIVERGENCES
from .finite import World, _cell_mean, _log, _one_hot
from .numbers import LAMBDA_ALARM, LAMBDA_JS, LAMBDA_TOP, LAMBDA_TV, LN2, TOLERANCE, js_cost, real

PRINTED: dict[str, Callable] = {}
REPAIRED: dict[str, Callable] = {}


class Search(NamedTuple):
    """rate = share of worlds violated, worst = least slack found, index of that world, violated (...) bool."""

    rate: float
    worst: float
    index: int
    violated: np.ndarray


def slack(statement: Callable, worlds: World, **parameters) -> np.ndarray:
    """(...) smallest step of the statement's chain in each world, over inputs or pairs; negative = violated."""
    terms = [np.asarray(term, dtype=np.float64) for term in statement(worlds, **parameters)]
    shape = worlds.mass.shape[:-1]
    worst = np.full(shape, np.inf)
    for left, right in zip(terms, terms[1:]):
        left, right = np.broadcast_arrays(left, right)
        step = np.where(left == right, 0, right - np.where(left == right, 0, left))
        worst = np.minimum(worst, step.reshape(*shape, -1).min(-1) if step.ndim > len(shape) else step)
    return worst


def search(statement: Callable, worlds: World, **parameters) -> Search:
    """How often a batch of worlds violates the statement (by more than 1e-12), and where worst."""
    found = slack(statement, worlds, **parameters)
    return Search(float((found < -TOLERANCE).mean()), float(found.min()), int(found.argmin()), found < -TOLERANCE)


def _positive(values):
    return np.maximum(values, 0)


def _max_of_pair(values):
    return np.maximum(values[..., :, None], values[..., None, :])


def _statement(registry, *needs):
    """Register a statement. needs: what its worlds must satisfy, "preserving", "exchangeable", "calibrated"."""
    def register(chain):
        chain.needs = needs
        registry[chain.__name__] = chain
        return chain
    return register


@_statement(PRINTED, "preserving")
def eq10(w, name="tv", loss="gibbs", L=1):
    """Eq 10: R_rob <= R + L sup D. True for TV and the Gibbs loss (Theorem 1)."""
    return w.robust_risk(loss), w.risk(loss) + L * w.sup(w.divergence(name))


@_statement(PRINTED, "preserving")
def eq11(w, name="tv", loss="gibbs", L=1, lam=1.0):
    """Eq 11: R_rob <= R + L (S - lam H). False: a perfect coin (sign error), a rare jump (mean for supremum)."""
    return w.robust_risk(loss), w.risk(loss) + L * w.sua(lam, name)


@_statement(PRINTED, "preserving")
def eq11_positive(w, name="tv", loss="gibbs", L=1, lam=1.0):
    """Eq 11 with the positive part: R_rob <= R + L (S - lam H)_+. False wherever 0 < S <= lam H moves the risk."""
    return w.robust_risk(loss), w.risk(loss) + L * _positive(w.sua(lam, name))


@_statement(PRINTED, "preserving")
def abstract(w, name="tv", loss="zero_one", L=1, lam=1.0):
    """Abstract: E R_rob <= E R + L E(SUA)_+. False: E(SUA)_+ = 0 goes with clean risk 0 and worst-case risk 1."""
    return w.mean(w.robust_risk(loss)), w.mean(w.risk(loss) + L * _positive(w.sua(lam, name)))


@_statement(PRINTED, "preserving", "exchangeable")
def theorem45(w, name="tv", lam=1.0, cells=None):
    """Thm 4.5: (1/B) sum_b (S_b - lam H_b)_+ <= ECE, b over B bins of the confidence. False in five ways."""
    same = w.same(cells)
    size = np.where(same, w.mass[..., None, :], 0).sum(-1)
    weight = w.mass / np.where(size > 0, size, 1)  # each bin counts once
    gap = _positive(_cell_mean(w, same, w.sua(lam, name)[..., None])[..., 0])
    return (weight * gap).sum(-1) / weight.sum(-1), w.ece(cells)


@_statement(PRINTED, "preserving")
def proposition48(w, tau=0.0, name="tv", loss="zero_one", L=1, lam=1.0, robust=False, conditional=False):
    """Prop 4.8: the risk where SUA <= tau is at most R + L tau. Left clean or robust, R overall or conditional."""
    accepted = w.mass * (w.sua(lam, name) <= tau + TOLERANCE)

    def within(values):
        return (accepted * values).sum(-1) / np.maximum(accepted.sum(-1), TOLERANCE)

    clean = w.risk(loss)
    right = (within(clean) if conditional else w.mean(clean)) + L * tau
    return within(w.robust_risk(loss) if robust else clean), np.where(accepted.any(-1), right, np.inf)


@_statement(REPAIRED)
def worst_case(w):
    """Theorem 1: R_rob <= R + sup TV + sup TV(p*, p*'), Gibbs loss. |R' - R| splits at the truth of x."""
    return w.robust_risk(), w.risk() + w.sup(w.divergence()) + w.drift


@_statement(REPAIRED, "preserving")
def worst_case_exact(w):
    """Theorem 1: R_rob - R <= sup max_k (p_k - p'_k)_+ <= sup TV; p* = e_k attains the first."""
    drop = _positive((w.p[..., :, None, :] - w.p[..., None, :, :]).max(-1))
    return w.robust_risk() - w.risk(), w.sup(drop), w.sup(w.divergence())


@_statement(REPAIRED, "preserving")
def mean_risk(w):
    """Theorem 2: |R_Pi - R| <= S_TV, Gibbs loss. Average |R' - R| <= TV over Pi."""
    return np.abs(w.mean_risk() - w.risk()), w.sensitivity()


@_statement(REPAIRED)
def tv_from_divergences(w):
    """Theorem 2: S_TV^2 <= min(S_KL / 2, 1 - exp(-S_KL), 2 S_JS). Pinsker, Bretagnolle-Huber, Jensen."""
    kl = w.sensitivity("kl")
    return w.sensitivity() ** 2, np.minimum(np.minimum(kl / 2, -np.expm1(-kl)), 2 * w.sensitivity("js"))


@_statement(REPAIRED, "preserving")
def tail_risk(w, alpha=0.2):
    """Theorem 3b: the mean risk in the worst alpha of Pi is <= R + S_TV / alpha."""
    return w.tail_risk(alpha), w.risk() + w.sensitivity() / alpha


@_statement(REPAIRED)
def least_mass(w):
    """Theorem 3a: if every neighbour has Pi >= w then sup TV <= S_TV / w."""
    apart = (w.kernel > 0) & ~np.eye(w.kernel.shape[-1], dtype=bool)
    return w.sup(np.where(apart, w.divergence(), 0)), w.sensitivity() / np.where(apart, w.kernel, 1).min(-1)


@_statement(REPAIRED, "preserving")
def plus_entropy(w, lam=1.0):
    """Theorem 4: R_Pi <= R + (SUA)_+ + min(S, lam H) <= R + (SUA)_+ + lam H, since S = (SUA)_+ + min(S, lam H)."""
    alarm = w.risk() + _positive(w.sua(lam))
    return w.mean_risk(), alarm + np.minimum(w.sensitivity(), lam * w.entropy), alarm + lam * w.entropy


@_statement(REPAIRED)
def flip_margin(w):
    """Theorem 5a: a flip needs TV >= (m + m') / 2. Both top labels must cross."""
    return np.where(w.flips, (w.margin[..., :, None] + w.margin[..., None, :]) / 2, 0), w.divergence()


@_statement(REPAIRED)
def flip_bound(w):
    """Theorem 5b: F <= 2 S_TV / m <= 2 S_TV / (1 - H_bits)_+. Markov; m >= 1 - H_bits."""
    twice = 2 * real(w.sensitivity())
    bounds = [np.where(low > 0, twice / np.where(low > 0, low, 1), np.inf)
              for low in (real(w.margin), 1 - w.entropy / LN2)]
    return w.flip_rate, *bounds


@_statement(REPAIRED, "preserving")
def stable_radius(w):
    """Theorem 5d: where sup TV < m / 2, R_rob = R for the 0-1 loss."""
    stable = w.sup(w.divergence()) < w.margin / 2
    return np.where(stable, w.robust_risk("zero_one") - w.risk("zero_one"), 0), np.zeros(1)


@_statement(REPAIRED, "preserving", "exchangeable")
def alarm(w, lam=LAMBDA_ALARM):
    """Theorem 6: E(TV - lam max(H, H'))_+ / 2 <= E(TV - max(a, a'))_+ / 2 <= F / 2 <= err <= E R_rob (0-1 loss).

    A common top label caps TV at max(a, a'), and a <= H_bits / 2; a flip makes one of the two answers wrong.
    """
    def half(values):
        return w.mean(w.pair_mean(_positive(w.divergence() - values))) / 2

    wrong, robust = w.risk("zero_one"), w.robust_risk("zero_one")
    return (half(lam * _max_of_pair(w.entropy)), half(_max_of_pair(w.doubt)), w.mean(w.flip_rate) / 2,
            w.mean(wrong), w.mean(robust))


@_statement(REPAIRED, "preserving", "exchangeable")
def floor_gibbs(w):
    """Theorem 7: Gibbs loss >= S_TV / 2. TV(p, p') <= (1 - p_y) + (1 - p'_y)."""
    return w.mean(w.sensitivity()) / 2, w.mean(w.risk())


@_statement(REPAIRED, "preserving", "exchangeable")
def floor_brier(w):
    """Theorem 7: Brier loss >= S_square / 2. (p - e_y).(p' - e_y) >= 0 on the simplex."""
    return w.mean(w.sensitivity("square")) / 2, w.mean(w.risk("brier"))


@_statement(REPAIRED, "preserving", "exchangeable")
def floor_log(w):
    """Theorem 7: log-loss >= E -ln max_k sqrt(p_k p'_k) >= E B(p, p'), the Bhattacharyya distance."""
    best = np.sqrt(real(w.p[..., :, None, :] * w.p[..., None, :, :])).max(-1)
    return w.mean(w.sensitivity("bhattacharyya")), w.mean(w.pair_mean(-_log(best))), w.mean(w.risk("log"))


@_statement(REPAIRED, "preserving")
def floor_orbit(w):
    """Theorem 7: err >= 1 - E(share of the most frequent answer in the orbit). One label law serves the orbit."""
    return w.mean(1 - _cell_mean(w, w.same(w.orbits), _one_hot(w.p)).max(-1)), w.mean(w.risk("zero_one"))


@_statement(REPAIRED, "preserving", "exchangeable", "calibrated")
def aligned_tv(w, gini=2, lam=LAMBDA_TV):
    """Theorem 8.1 (alignment): a calibrated model has E S_TV <= 2 E G and 2 E G <= E H_bits; both sharp."""
    return w.mean(w.sensitivity()), gini * w.mean(w.gini), gini / 2 * lam * w.mean(w.entropy)


@_statement(REPAIRED, "preserving", "exchangeable", "calibrated")
def aligned_square(w, gini=2):
    """Theorem 8.1: calibrated implies E S_square <= 2 E G."""
    return w.mean(w.sensitivity("square")), gini * w.mean(w.gini)


@_statement(REPAIRED, "preserving", "exchangeable", "calibrated")
def aligned_js(w, lam=LAMBDA_JS):
    """Theorem 8.1: calibrated implies E S_JS <= 0.6226 E H. For KL no such constant exists."""
    return w.mean(w.sensitivity("js")), lam * w.mean(w.entropy)


@_statement(REPAIRED, "preserving", "exchangeable", "calibrated")
def aligned_flips(w, doubt=2, lam=LAMBDA_TV):
    """Theorem 8.1: calibrated implies F <= 2 E a and 2 E a <= E H_bits."""
    return w.mean(w.flip_rate), doubt * w.mean(w.doubt), doubt / 2 * lam * w.mean(w.entropy)


@_statement(REPAIRED, "preserving", "exchangeable")
def misaligned_tv(w, factor=0.5, lam=LAMBDA_TV):
    """Theorem 8.2: (E S_TV - E H_bits) / 2 <= (E S_TV - 2 E G) / 2 <= the canonical calibration error.

    E S_TV <= 2 E(1 - p_Y) by Theorem 7, and E(1 - p_Y) = E G + E <p, p - c> <= E G + E TV(p, c), c = E[p*|p].
    """
    s = w.mean(w.sensitivity())
    return factor * (s - lam * w.mean(w.entropy)), factor * (s - lam * LN2 * 2 * w.mean(w.gini)), w.calibration_error()


@_statement(REPAIRED, "preserving", "exchangeable")
def misaligned_classwise(w, factor=0.5):
    """Theorem 8.2: (E S_TV - 2 E G) / 2 <= the classwise calibration error."""
    return factor * (w.mean(w.sensitivity()) - 2 * w.mean(w.gini)), w.classwise_error()


@_statement(REPAIRED, "preserving", "exchangeable")
def misaligned_js(w, factor=1 / (2 * LN2), lam=LAMBDA_JS):
    """Theorem 8.2: (E S_JS - 0.6226 E H) / (2 ln 2) <= (E S_JS - E sum p w(p)) / (2 ln 2) <= calibration error."""
    s, cost = w.mean(w.sensitivity("js")), w.mean(js_cost(w.p))
    return factor * (s - lam * w.mean(w.entropy)), factor * (s - lam / LAMBDA_JS * cost), w.calibration_error()


@_statement(REPAIRED, "preserving", "exchangeable")
def top_label_flips(w, factor=0.5, lam=LAMBDA_TV, cells=None):
    """Theorem 8.3: (F - E H_bits) / 2 <= F / 2 - E a <= ECE, any binning. ECE >= conf - acc = err - E a."""
    flips = w.mean(w.flip_rate)
    return (factor * (flips - lam * w.mean(w.entropy)), factor * (flips - lam * LN2 * 2 * w.mean(w.doubt)),
            w.ece(cells))


@_statement(REPAIRED, "preserving", "exchangeable")
def top_label_tv(w, factor=0.5, lam=2 * LAMBDA_TV, cells=None):
    """Theorem 8.3: E S_TV / 2 - E H_bits <= ECE, any binning (the best coefficient of H_bits lies in [3/4, 1])."""
    return factor * (w.mean(w.sensitivity()) - lam * w.mean(w.entropy)), w.ece(cells)


@_statement(REPAIRED, "preserving", "exchangeable")
def top_label_alarm(w, factor=0.5, cells=None):
    """Theorem 8.3: E(TV - max(a, a'))_+ / 2 - E a <= ECE, any binning. The alarm is at most F / 2."""
    moved = w.mean(w.pair_mean(_positive(w.divergence() - _max_of_pair(w.doubt))))
    return factor * moved - w.mean(w.doubt), w.ece(cells)


@_statement(REPAIRED, "preserving", "exchangeable")
def top_label_js(w, factor=1 / (2 * LN2), cells=None):
    """Theorem 8.3: E S_JS / (2 ln 2) - E H_bits <= ECE, any binning, since JS <= ln 2 TV."""
    return factor * w.mean(w.sensitivity("js")) - w.mean(w.entropy) / LN2, w.ece(cells)


@_statement(REPAIRED, "preserving", "exchangeable")
def top_label_unbinned(w, factor=0.5, lam=LAMBDA_TOP):
    """Theorem 8.3: (E S_TV - 1.5 E H_bits) / 2 <= ECE with one cell per value of the confidence; 1.5 is sharp."""
    return factor * (w.mean(w.sensitivity()) - lam * w.mean(w.entropy)), w.ece()


@_statement(REPAIRED, "preserving", "exchangeable")
def top_label_groups(w):
    """Theorem 8.4: sum_g P(g) (F_g / 2 - a_g)_+ <= ECE over groups g that the kernel never leaves."""
    gap = _cell_mean(w, w.same(w.orbits), (w.flip_rate / 2 - w.doubt)[..., None])[..., 0]
    return w.mean(_positive(gap)), w.ece(w.orbits)


@_statement(REPAIRED)
def tv_from_kl(w):
    """Theorem 8.5: S_KL <= phi(M) S_TV, phi(M) = M ln M / (M - 1), M = sup p_k / p'_k. A chord of t ln t."""
    p, q = real(w.p)[..., :, None, :], real(w.p)[..., None, :, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        top = w.sup(np.where(p > 0, p / q, 0).max(-1)).clip(min=1 + 1e-9)  # phi is continuous, with phi(1) = 1
    return w.sensitivity("kl"), np.log(top) / (1 - 1 / top) * w.sensitivity()


@_statement(REPAIRED, "preserving", "exchangeable")
def distance_to_truth(w):
    """Theorem 9: E S_TV / 2 <= E TV(p, p*). Triangle inequality through the common truth."""
    return w.mean(w.sensitivity()) / 2, w.mean(DIVERGENCES["tv"](w.p, w.truth))


@_statement(REPAIRED, "preserving", "exchangeable")
def excess_log_loss(w):
    """Theorem 9: E TV^2 / 2 <= E B(p, p') <= E KL(p*||p). Minimise over the common truth."""
    square = w.mean(w.pair_mean(w.divergence() ** 2)) / 2
    return square, w.mean(w.sensitivity("bhattacharyya")), w.mean(DIVERGENCES["kl"](w.truth, w.p))


@_statement(REPAIRED, "preserving", "exchangeable")
def excess_brier(w):
    """Theorem 9: E S_square / 4 <= E |p - p*|^2, calibration plus grouping loss."""
    return w.mean(w.sensitivity("square")) / 4, w.mean(DIVERGENCES["square"](w.p, w.truth))


@_statement(REPAIRED, "preserving")
def selective_risk(w, tau=0.0, lam=1.0):
    """Theorem 10a (Prop 4.8 repaired): where SUA <= tau, E R_Pi <= E R + tau + lam E H; S <= tau + lam H there."""
    accepted = w.mass * (w.sua(lam) <= tau)
    excess = w.mean_risk() - w.risk() - lam * w.entropy - tau
    return (accepted * excess).sum(-1), np.zeros(1)


@_statement(REPAIRED)
def free_smoothing(w, lam=1.0, name="tv"):
    """Theorem 12: mixing p with the uniform law brings E(SUA)_+ to 0 and leaves every answer as it was."""
    worst = real(_positive(w.sua(lam, name))).max(-1)
    mixed = w.smoothed(worst / (worst + lam * np.log(w.p.shape[-1])))
    changed = w.mean(mixed.risk("zero_one") != w.risk("zero_one"))
    return mixed.mean(_positive(mixed.sua(lam, name))) + changed, np.zeros(1)


# Theorems 15 to 17: an orbit is a question in M formulations, q_m the answer to one of them (m drawn as P draws it),
# qbar the mean of the q_m, y the label that they share, e_y its vertex.


def _orbit_mean(w, values):
    """(..., N, C) mean of values (..., N, C), which may be infinite, over the orbit of each input."""
    weight = np.where(w.same(w.orbits), w.mass[..., None, :], 0)[..., None]
    weight = weight / weight.sum(-2, keepdims=True)
    return (weight * np.where(weight > 0, values[..., None, :, :], 0)).sum(-2)


def _orbit_max(w, values):
    """(..., N, C) maximum of values (..., N, C) >= 0 over the orbit of each input."""
    return np.where(w.same(w.orbits)[..., None], values[..., None, :, :], 0).max(-2)


def _to_labels(p):
    """(..., N, C) the Brier loss |p - e_y|^2 for every label y; as a square it keeps small values exact."""
    return DIVERGENCES["square"](p[..., None, :], np.eye(p.shape[-1], dtype=int))


def _to_mean(w, p):
    """(..., N, 1) S_2 = mean_m |p_m - pbar|^2 of the orbit."""
    return _orbit_mean(w, DIVERGENCES["square"](p, _orbit_mean(w, p))[..., None])


def _root(world_mean):
    return np.sqrt(real(world_mean))


@_statement(REPAIRED, "preserving")
def removable_brier(w):
    """Theorem 15a: mean_m |q_m - e_y|^2 = |qbar - e_y|^2 + S_2 for every y, S_2 = mean_m |q_m - qbar|^2.

    The parallel-axis theorem: the products (q_m - qbar)(qbar - e_y) sum to 0.
    """
    each = _orbit_mean(w, _to_labels(w.p))
    return each, _to_labels(_orbit_mean(w, w.p)) + _to_mean(w, w.p), each


@_statement(REPAIRED, "preserving")
def removable_log(w):
    """Theorem 15b: mean_m -ln q_m(y) = -ln g(y) + mean_m KL(g || q_m) for every y, g the normalised geometric mean.

    ln g and mean_m ln q_m differ by a constant. Where every label is excluded by some q_m, both sides are infinite.
    """
    q = real(w.p)
    each = real(_orbit_mean(w, -_log(q)))
    product = np.exp(-each)
    total = product.sum(-1, keepdims=True)
    g = np.where(total > 0, product / np.where(total > 0, total, 1), real(_orbit_mean(w, q)))
    return each, -_log(g) + real(_orbit_mean(w, DIVERGENCES["kl"](g, q)[..., None])), each


@_statement(REPAIRED, "preserving")
def worst_formulation(w):
    """Theorem 15e: sqrt(E max_m |q_m - e_y|^2) <= sqrt(Brier of qbar) + sqrt(E max_m |q_m - qbar|^2) <= the same with
    E S_2 / (least share of a formulation) in the second root: M E S_2 if all M are alike.

    |q_m - e_y| <= |qbar - e_y| + |q_m - qbar|, then Minkowski; a maximum is at most the sum.
    """
    mean = _orbit_mean(w, w.p)
    worst, of_mean = (w.mean((w.truth * loss).sum(-1)) for loss in (_orbit_max(w, _to_labels(w.p)), _to_labels(mean)))
    apart = _orbit_max(w, DIVERGENCES["square"](w.p, mean)[..., None])[..., 0]
    same = w.same(w.orbits)
    share = w.mass[..., None, :] / np.where(same, w.mass[..., None, :], 0).sum(-1, keepdims=True)
    summed = _to_mean(w, w.p)[..., 0] / np.where(same, share, 1).min(-1)
    return _root(worst), *(_root(of_mean) + _root(w.mean(moved)) for moved in (apart, summed))


def _student(w, fidelity):
    """Answers r_m of another model: part the orbit's mean qbar, part what the teacher answers to another input."""
    return fidelity * _orbit_mean(w, w.p) + (1 - fidelity) * np.roll(w.p, 1, axis=-2)


@_statement(REPAIRED, "preserving")
def distilled(w, fidelity=0.5):
    """Theorem 16a: |sqrt(Brier of r) - sqrt(Brier of qbar)| <= sqrt(eps), eps = E mean_m |r_m - qbar|^2, any student r.

    Minkowski: r - e_y = (r - qbar) + (qbar - e_y). eps needs no label, and Brier of qbar = Brier of q - E S_2.
    """
    mean, student = _orbit_mean(w, w.p), _student(w, fidelity)
    reached, aim = (_root(w.mean((w.truth * _to_labels(p)).sum(-1))) for p in (student, mean))
    return np.abs(reached - aim), _root(w.mean(DIVERGENCES["square"](student, mean)))


@_statement(REPAIRED, "preserving")
def distilled_parts(w, fidelity=0.5):
    """Theorem 16b: eps = E |rbar - qbar|^2 + E S_2(r), fidelity to the mean and consistency in one. Parallel axis."""
    mean, student = _orbit_mean(w, w.p), _student(w, fidelity)
    eps = w.mean(DIVERGENCES["square"](student, mean))
    fit = w.mean(DIVERGENCES["square"](_orbit_mean(w, student), mean))
    return eps, fit + w.mean(_to_mean(w, student)[..., 0]), eps


@_statement(REPAIRED, "preserving")
def label_free_ece(w, turns=0, cells=None):
    """Theorem 17: E min_y mean_m v(c_m) (max p_m - 1[f_m = y]) <= ECE over cells c, for every v in [-1, 1]^cells.

    |gap of a cell| = max_v v gap, and the label is no kinder than the kindest one. The best v attains the least ECE of
    any label law: the gaps are linear in v and in the law, so maximum and minimum may be exchanged. Here v(c) =
    cos(turns c); v = 1 gives E max p - E(share of the most frequent answer in the orbit).
    """
    cells = w.p.max(-1) if cells is None else np.asarray(cells)
    v = np.cos(turns * real(cells))[..., None] if turns else np.ones((*cells.shape, 1), dtype=int)
    claimed = _orbit_mean(w, v * w.p.max(-1, keepdims=True))[..., 0]
    granted = _orbit_mean(w, v * _one_hot(w.p)).max(-1)
    return w.mean(claimed - granted), w.ece(cells)
