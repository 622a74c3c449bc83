"""Which thresholds of a score can be promised: tests of "P(wrong | score <= t) > risk" on labelled calibration items.

The default, "uniform", judges all thresholds t at once, on all items. Let k(t) and r(t) be the numbers of wrong and of
right answers among the n calibration items with score <= t. A table a_0 <= a_1 <= ... <= a_n, fixed before any data,
says how many errors are allowed beside r right answers: t is promised if k(t) <= a_{r(t)}. a_0 = -1 allows nothing.

Claim. Let B_1, B_2, ... be independent, each 1 ("error") with probability `risk`, and K_r the number of ones before the
r-th zero. If P(some r >= 1 has K_r <= a_r and r + K_r <= n) <= delta, then with probability at least 1 - delta over n
independent calibration items no t with P(wrong | score <= t) > risk is promised. So any promised t may be chosen,
by whatever look at the data; the rule takes the largest. The score may rank errors in any way, or tie.

Proof. Write F(t) = P(score <= t), E(t) = P(score <= t and wrong), C(t) = F(t) - E(t). Draw U_1, ..., U_n uniform on
(0, 1), and let item i be wrong with a score <= t where U_i < E(t), right with a score <= t where 1 - U_i < C(t). This
gives the items their law. The same U_i with risk F(t) for E(t) and (1 - risk) F(t) for C(t) give a second sample, with
counts k' and r'. Where the risk is broken, E(t) > risk F(t), so C(t) < (1 - risk) F(t): for all such t together,
k(t) >= k'(t) and r(t) <= r'(t). If such a t is promised, k'(t) <= k(t) <= a_{r(t)} <= a_{r'(t)}. But in the second
sample errors are independent of scores: in the order of the scores (ties at random) they are B_1, ..., B_n, the
r'(t)-th right answer is among the items with score <= t, and at most k'(t) errors come before it. So
K_{r'(t)} <= a_{r'(t)} within the n items, which has probability at most delta. []

The table is a_r = the largest k with P(K_r <= k) < level sqrt(r / n). P(K_r <= k) = P(Bin(r + k, risk) <= k) is the
exact binomial p-value of k errors among r + k answers; the square root gives more of delta to thresholds that answer
more. `level` is the largest for which the claim's condition holds, computed from the negative binomial steps of K_r;
beyond POINTS items a_r steps at POINTS values of r only, which is where K_r has to be compared with it. The least
binomial p-value over a sample's prefixes is the statistic of Berk & Jones (Z. Wahrscheinlichkeitstheorie 47, 1979), and
boundary crossing by recursion that of Noe (Ann. Math. Stat. 43, 1972). "fixed-sequence" and "bonferroni" are those of
Learn then Test (Angelopoulos et al., arXiv 2110.01052).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.signal import fftconvolve
from scipy.special import bdtr, rel_entr
from scipy.stats import nbinom

from ..inputs import expect

LEVELS = 20  # thresholds that the other methods try: the 5 %, 10 %, ..., 100 % quantiles of the separate split
HELD_OUT = 0.2  # share of the calibration items that gives them these thresholds where no separate split is given
POINTS = 500  # numbers of right answers at which the table of allowed errors may step; every one up to 500 items


class Examined(NamedTuple):
    """Per threshold of `tau` (m,), rising: items answered of the n tested, their summed loss, whether it is promised,
    and the level at which it was tested (None for "conformal-risk")."""

    tau: np.ndarray
    count: np.ndarray
    total: np.ndarray
    n: int
    promised: np.ndarray
    level: np.ndarray | float | None


def examine(scores, losses, binary: bool, thresholds, method: str, risk: float, delta: float | None,
            seed: int = 0) -> Examined:
    """All thresholds that `method` tries, judged. Arguments as in `AbstentionRule.fit`, validated; losses as float64.

    seed : of the draw that makes errors of losses between 0 and 1, for "uniform".
    """
    if method == "uniform":
        tau, share = np.unique(scores if thresholds is None else thresholds), None
        losses = losses if binary else (np.random.default_rng(seed).random(len(losses)) < losses).astype(np.float64)
    else:
        if thresholds is None:
            expect(len(scores) >= 2, "one calibration item cannot give both thresholds and a test: give more")
            order, held = np.random.default_rng(0).permutation(len(scores)), math.ceil(HELD_OUT * len(scores))
            thresholds, scores, losses = scores[order[:held]], scores[order[held:]], losses[order[held:]]
        tau, share = _quantiles(thresholds)
    order = np.argsort(scores)
    count = np.searchsorted(scores[order], tau, side="right")
    total, n = np.concatenate([[0.0], np.cumsum(losses[order])])[count], len(scores)
    if method == "conformal-risk":
        return Examined(tau, count, total, n, total + 1 <= risk * (n + 1), None)
    if method == "uniform":
        level, allowed = error_allowance(n, risk, delta)
        right = (count - total).astype(np.int64)
        return Examined(tau, count, total, n, total <= allowed[right], level * np.sqrt(right / n))
    enough = n * share >= 2 * math.ceil(math.log(delta) / math.log1p(-risk))
    start = int(np.argmax(enough)) if enough.any() else len(tau) - 1
    passing, level = SEARCHES[method](p_values(total, count, risk, binary), delta, start)
    return Examined(tau, count, total, n, np.isin(np.arange(len(tau)), passing), level)


def p_values(total, n, risk: float, binary: bool = True) -> np.ndarray:
    """(m,) p-values of "mean loss > risk", from the summed loss `total` (m,) of `n` (m,) items; 1 where n = 0.

    binary : P(Bin(n, risk) <= total), the exact test; it is <= delta iff the Clopper-Pearson upper limit at level
    1 - delta is <= risk. Otherwise, for losses in [0, 1], the Hoeffding-Bentkus bound (Bates et al., JACM 2021).
    """
    total, n = np.asarray(total, dtype=np.float64), np.asarray(n, dtype=np.int64)
    tail = bdtr(np.minimum(np.ceil(total), n), n, risk)
    return tail if binary else np.minimum(np.exp(-n * _h1(total / np.maximum(n, 1), risk)), math.e * tail)


def _h1(rate, risk):
    """KL(Bernoulli(min(rate, risk)) || Bernoulli(risk)): Chernoff's exponent, 0 where rate >= risk."""
    rate = np.minimum(rate, risk)
    return rel_entr(rate, risk) + rel_entr(1 - rate, 1 - risk)


@lru_cache(maxsize=256)
def error_allowance(n: int, risk: float, delta: float) -> tuple[float, np.ndarray]:
    """(level, allowed): a threshold whose r right answers come with at most allowed[r] errors is promised.

    allowed : (n + 1,) int, nondecreasing, -1 where no number of errors is small enough. See the module's claim and
    proof. It depends on the number of calibration items and on the promise only.
    """
    right = np.arange(1, n + 1) if n <= POINTS else np.unique(np.geomspace(1, n, POINTS).round().astype(np.int64))
    gaps = np.diff(right, prepend=0)
    steps = {gap: _errors_before(gap, risk) for gap in np.unique(gaps)}

    def table(level):
        return nbinom.ppf(level * np.sqrt(right / n), right, 1 - risk).astype(np.int64) - 1

    low, high = delta / len(right), delta  # the union bound shows that the low end is allowed
    for _ in range(10):
        middle = math.sqrt(low * high)
        if _crossing(np.minimum(table(middle), n - right), [steps[gap] for gap in gaps]) <= delta:
            low = middle
        else:
            high = middle
    allowed = np.concatenate([[-1], table(low)])[np.searchsorted(right, np.arange(n + 1), side="right")]
    allowed.setflags(write=False)
    return low, allowed


def _errors_before(right, risk):
    """P(0, 1, ... errors before so many right answers), up to a tail below 1e-17."""
    return nbinom.pmf(np.arange(nbinom.isf(1e-17, right, 1 - risk) + 1), right, 1 - risk)


def _crossing(allowed, steps):
    """P(a sum of independent steps is somewhere <= allowed), from the (J,) bounds and the J laws of its steps."""
    waiting, crossed = np.zeros(max(allowed.max() + 1, 1)), 0.0  # sums beyond the last bound never cross
    waiting[0], convolve = 1, np.convolve if len(waiting) < 10_000 else fftconvolve  # the latter beyond 1e5 items
    for bound, step in zip(allowed, steps):
        waiting = convolve(waiting, step)[:len(waiting)]
        crossed += waiting[:bound + 1].sum()
        waiting[:bound + 1] = 0
    return crossed


def _fixed_sequence(p, delta, start):
    """Indices that pass in rising order, and the level of each test."""
    return start + np.flatnonzero(np.logical_and.accumulate(p[start:] <= delta)), delta


def _bonferroni(p, delta, start):
    return np.flatnonzero(p <= delta / len(p)), delta / len(p)


def _bisection(p, delta, start):
    level, low, high, visited = delta / (math.floor(math.log2(len(p))) + 1), 0, len(p) - 1, []
    while low <= high:
        visited.append((low + high) // 2)
        low, high = (visited[-1] + 1, high) if p[visited[-1]] <= level else (low, visited[-1] - 1)
    return [j for j in visited if p[j] <= level], level


SEARCHES = {"fixed-sequence": _fixed_sequence, "bonferroni": _bonferroni, "sgr": _bisection}
METHODS = ("uniform", *SEARCHES, "conformal-risk")
DEFAULT = METHODS[0]


def compare_methods(sets, risks=(0.05, 0.1, 0.15, 0.2), delta: float = 0.1, methods=METHODS[:-1]
                    ) -> list[dict[str, str]]:
    """Rows {method, coverage at each risk, silent, broken}: what the rules that each method fits make of `sets`.

    sets : (calibration scores, calibration errors, test scores, test errors) each. coverage : share of the test items
    answered, mean over the sets. silent : share of sets and risks where the method abstains on everything. broken :
    share where the answered test items are wrong more often than the risk; chance alone breaks some on a test set.
    """
    sets = [(np.asarray(s, float), np.asarray(e, float), np.asarray(new), np.asarray(wrong, bool))
            for s, e, new, wrong in sets]
    return [_method_row(method, sets, risks, delta) for method in methods]


def _method_row(method, sets, risks, delta):
    coverage, silent, broken = np.zeros((3, len(sets), len(risks)))
    for i, (scores, errors, new, wrong) in enumerate(sets):
        for j, risk in enumerate(risks):
            examined = examine(scores, errors, True, None, method, risk, delta)
            answered = new <= examined.tau[examined.promised].max(initial=-np.inf)
            coverage[i, j], silent[i, j] = answered.mean(), not examined.promised.any()
            broken[i, j] = wrong[answered].sum() > risk * answered.sum()
    return {"method": f"{method} (default)" if method == DEFAULT else method,
            **{f"coverage at risk {risk:g}": f"{mean:.3f}" for risk, mean in zip(risks, coverage.mean(0))},
            "silent": f"{silent.mean():.3f}", "broken": f"{broken.mean():.3f}"}


def _quantiles(scores):
    """Distinct quantiles at 1/LEVELS, ..., 1, taken from the scores themselves, and the share of scores <= each."""
    ordered, n = np.sort(scores), len(scores)
    tau = np.unique(ordered[-(-n * np.arange(1, LEVELS + 1) // LEVELS) - 1])
    return tau, np.searchsorted(ordered, tau, side="right") / n


def shortage(examined: Examined, method: str, risk: float, delta: float | None, given: int) -> str:
    """Why no threshold could be promised, and what would help, from all thresholds that answer 5 % of the items (a few
    items would show a low error rate by luck).

    The number of items that would do if the error rates stayed as seen is Chernoff's: ln(1 / level) / KL(rate || risk)
    accepted ones suffice, exactly so at rate 0.
    """
    seen = examined.count >= min(examined.n / LEVELS, examined.count.max())
    answered, errors, n = examined.count[seen], examined.total[seen], examined.n
    rate, share, joint = errors / np.maximum(answered, 1), np.maximum(answered, 1) / n, errors / n
    level = examined.level[seen] if np.ndim(examined.level) else examined.level
    needed = _needed(rate, share, joint, risk, level)
    if np.isnan(needed).all():
        lowest = rate.argmin()
        return (f"no error rate seen is below the risk {risk:.3g}, the lowest is {rate[lowest]:.3g} among the "
                f"{answered[lowest]} items of lowest score: more calibration items would not help; use a better score "
                "or model, or allow more risk")
    if method == "uniform":  # more items are tested at a lower level; few sizes, so that tables are reused
        size = 1 << min(math.ceil(np.nanmin(needed)), 4095).bit_length()
        level = error_allowance(size, risk, delta)[0] * np.sqrt((1 - rate) * share)
        needed = _needed(rate, share, joint, risk, level)
    best = np.nanargmin(needed)
    where = f"{errors[best]:.6g} errors among the {answered[best]} of {n} items of lowest score"
    if needed[best] <= n and method in ("fixed-sequence", "sgr"):
        return (f"{method} stopped at a threshold that fails before it came to one that would pass by itself "
                f"({where}): method='uniform' judges every threshold")
    enough = math.ceil(max(needed[best], n + 1) * given / n)
    return (f"{given} calibration items are too few to certify a risk of {risk:.3g}; if the error rate stays as seen "
            f"({where}), about {enough} would be needed; a larger risk or delta needs fewer, as does a better score")


def _needed(rate, share, joint, risk, level):
    """Items of which a share `share` with error rate `rate` would pass at `level`; NaN where no number does."""
    if level is None:  # conformal: the joint error, P(answered and wrong)
        return (1 - risk) / np.where(joint < risk, risk - joint, np.nan)
    return -np.log(np.maximum(level, 1e-300)) / np.where(rate < risk, _h1(rate, risk), np.nan) / share
