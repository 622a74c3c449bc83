"""Checks of assignment 4: the terms of both losses, the share that pleases one, the risk that a mean removes, and a
rule that keeps its promise."""

from __future__ import annotations

from typing import Callable

import numpy as np
from scipy.special import betaincinv, softmax

from .. import scores
from ..decide.abstention import p_values
from ..predictions import Predictions
from .shared import compare, inside, numbers


def log_probabilities(function: Callable) -> None:
    """Checks function(logits (..., C)) -> ln p (..., C), for logits of any size."""
    def ours(logits):
        return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)

    logits = np.random.default_rng().normal(size=(4, 3))
    large = np.round(900 * logits)  # whole numbers are the same in float32
    compare(function, ours, [(logits,), (logits[0],), (large,)], {
        "these are probabilities: their logarithm is asked for": lambda logits: np.exp(ours(logits)),
        "probabilities are rounded to 0 before their logarithm is taken": lambda logits: np.log(
            softmax(logits, axis=-1)),
        "you only shift the logits: subtract the logarithm of the sum of exponentials too": lambda logits: (
            logits - logits.max(-1, keepdims=True)),
    })


def sua_tr_terms(function: Callable) -> None:
    """Checks function(logits (B, C), variant_logits (B, K, C), labels (B,), lam) -> (task, consistency, alignment)."""
    compare(function, _terms, _batches(), {
        "you take the positive part of the batch's mean: it belongs to each input": lambda *case: _terms(
            *case, batch_level=True),
        "your S is KL(q, p): the output at x itself comes first": lambda *case: _terms(*case, divergence="reverse_kl"),
        "the positive part is missing": lambda logits, variant_logits, labels, lam: (
            *(terms := _terms(logits, variant_logits, labels, lam))[:2],
            terms[1] - lam * scores.entropy(softmax(logits, axis=-1)).mean()),
        "you take the positive part for each variant: S is their mean": lambda logits, variant_logits, labels, lam: (
            np.mean([_terms(logits, q[:, None], labels, lam) for q in np.moveaxis(variant_logits, 1, 0)], axis=0)),
        "you add up the K variants: S is their mean": lambda logits, variant_logits, labels, lam: (
            _terms(logits, variant_logits, labels, lam / (k := variant_logits.shape[1])) * [1, k, k]),
    })


def repaired_terms(function: Callable) -> None:
    """Checks function(logits (B, C), variant_logits (B, K, C), labels (B,), lam) -> (task, consistency, alignment)."""
    def ours(logits, variant_logits, labels, lam, **changed):
        k = variant_logits.shape[1]
        fields = {"augment": k / (k + 1), "to_mean": True, "divergence": "js", "batch_level": True, **changed}
        return _terms(logits, variant_logits, labels, lam, **fields)

    compare(function, ours, _batches(lam=0.1), {
        "you take the positive part for each input: here it is that of the batch's mean": lambda *case: ours(
            *case, batch_level=False),
        "your task loss leaves the variants out: all K + 1 rows weigh the same": lambda *case: ours(*case, augment=0.0),
        "your task loss leaves x out: all K + 1 rows weigh the same": lambda *case: ours(*case, augment=1.0),
        "your consistency is the mean JS(p, q_k): measure the distance of all rows to their mean": lambda *case: ours(
            *case, to_mean=False),
    })


def mixing_share(function: Callable) -> None:
    """Checks function(p (N, C), perturbed (N, K, C), lam) -> t for which (1 - t) p + t / C has (S - lam H)_+ = 0.

    For every input, and with a t that does not exceed Theorem 12's; a smaller one that does it is right too.
    """
    for lam, p, perturbed in _outputs_to_mix():
        t = numbers(function.__name__, function(p.copy(), perturbed.copy(), lam))
        assert t.ndim == 0, f"{function.__name__} returns shape {t.shape}: one t has to do for all inputs"
        assert 0 <= t <= 1, f"t = {t:.4g} is no share in [0, 1]: where no input has SUA > 0, nothing needs mixing"
        mixed = Predictions(*((1 - t) * rows + t / rows.shape[-1] for rows in (p, perturbed)))
        left = scores.sua_positive(mixed, lam).max()
        assert left < 1e-6, (f"with your t = {t:.4f} an input still has (SUA)_+ = {left:.4f} at lam = {lam} and "
                             f"C = {p.shape[1]}: which input needs the largest t, and is every logarithm natural?")
        worst = scores.sua_positive(Predictions(p, perturbed), lam).max()
        least = worst / (worst + lam * np.log(p.shape[1]))
        assert t <= least + 1e-6, f"your t = {t:.4f} does it, but {least:.4f} is already enough: solve for the smallest"


def removable(function: Callable) -> None:
    """Checks function(orbit (N, M, C)) -> (N,) mean over M of the squared distance to the mean over M."""
    def ours(orbit, root=False, to=None, mean=np.mean):
        squares = ((orbit - (orbit.mean(1) if to is None else to(orbit))[:, None]) ** 2).sum(-1)
        return mean(np.sqrt(squares) if root else squares, axis=1)

    def pairs(orbit, factor):
        return factor * ((orbit[:, :, None] - orbit[:, None]) ** 2).sum(-1).sum((1, 2))

    rng = np.random.default_rng()
    cases = [(softmax(2 * rng.normal(size=shape), axis=-1),) for shape in ((6, 4, 3), (5, 2, 2), (4, 7, 5))]
    compare(function, ours, cases, {
        "you divide by M - 1: this is no estimate, the mean over the M formulations is meant": lambda orbit: (
            pairs(orbit, 1 / (2 * orbit.shape[1] * (orbit.shape[1] - 1)))),
        "you add up the M formulations: their mean is asked for": lambda orbit: ours(orbit, mean=np.sum),
        "you take the largest of the M distances: their mean is asked for": lambda orbit: ours(orbit, mean=np.max),
        "this is twice S_2: of the distances between all pairs, the half": lambda orbit: (
            pairs(orbit, 1 / orbit.shape[1] ** 2)),
        "you measure the distance to the first formulation: to the mean of all": lambda orbit: ours(
            orbit, to=lambda rows: rows[:, 0]),
        "you average over the labels: the squared distance is their sum": lambda orbit: ours(orbit) / orbit.shape[2],
        "these are distances: square them": lambda orbit: ours(orbit, root=True),
        "the sign is turned round: the mean is never worse, so S_2 is not negative": lambda orbit: -ours(orbit),
    })


def _outputs_to_mix():
    """(lam, p (N, C), perturbed (N, K, C)): random, one input moves, none moves, and many classes."""
    still = inside(20, 3)
    same = np.repeat(still[:, None], 3, axis=1)
    loud = same.copy()
    loud[0] = np.eye(3)[still[0].argmin()] * 0.97 + 0.01  # one input alone moves
    return [(1.0, inside(20, 4), inside(20, 2, 4)), (0.4, still, loud), (2.0, still, same),
            *((lam, _on_two(p), _on_two(q)[None]) for lam, p, q in ((0.1, 0.9, 0.3), (1.0, 0.5, 0.972)))]


def _on_two(share):
    """(1, 3000) distribution of which two classes share nearly all. There Theorem 12's t is nearly the smallest."""
    return np.append([share, 1 - share], np.full(2998, 1e-12))[None] / (1 + 2998e-12)


def p_value(function: Callable) -> None:
    """Checks function(errors, n, risk) -> P(Bin(n, risk) <= errors)."""
    def ours(errors, n, risk):
        return float(p_values(errors, n, risk))

    def below(errors, n, risk):
        return ours(errors - 1, n, risk) if errors else 0.0

    cases = [(3, 20, 0.2), (0, 30, 0.05), (12, 40, 0.3), (0, 0, 0.1), (5, 5, 0.4)]
    compare(function, ours, cases, {
        "this is the probability of just that many errors: add that of fewer": lambda *case: ours(*case) - below(*case),
        "the number of errors seen is left out of the sum": below,
        "this is the other tail: few errors are evidence of a small risk": lambda *case: 1 - below(*case),
        "this is one minus the p-value": lambda *case: 1 - ours(*case),
    })


def upper_limit(function: Callable) -> None:
    """Checks function(errors, n, delta) -> the Clopper-Pearson upper limit of an error rate, to nine digits."""
    def ours(errors, n, delta):
        return 1.0 if errors == n else float(betaincinv(errors + 1, n - errors, 1 - delta))

    cases = [(3, 20, 0.1), (0, 30, 0.05), (12, 40, 0.2), (6, 6, 0.1), (0, 0, 0.1)]
    compare(function, ours, cases, {
        "you split delta between two sides: only an upper limit is asked for": lambda errors, n, delta: ours(
            errors, n, delta / 2),
        "you exchanged delta and 1 - delta": lambda errors, n, delta: ours(errors, n, 1 - delta),
        "this is the lower limit": lambda errors, n, delta: (
            0.0 if not errors else float(betaincinv(errors, n - errors + 1, delta))),
    }, tolerance=1e-9)


def error_free_items(function: Callable) -> None:
    """Checks function(risk, delta) -> the least n with (1 - risk)^n <= delta."""
    def ours(risk, delta):
        return np.argmax((1 - risk) ** np.arange(2000) <= delta)

    compare(function, ours, [(0.05, 0.05), (0.08, 0.1), (0.2, 0.01), (0.013, 0.3)], {
        "one too few: the p-value is still above delta": lambda *case: ours(*case) - 1,
        "risk and delta are exchanged": lambda risk, delta: ours(delta, risk),
        "return a whole number of items, rounded up": lambda risk, delta: np.log(delta) / np.log(1 - risk),
    })


def naive_threshold(function: Callable) -> None:
    """Checks function(scores, is_error, thresholds, risk) -> the largest threshold of observed error rate <= risk."""
    def ours(values, is_error, thresholds, risk, answers=np.less_equal, pick=-1, of_all=False):
        answered = answers(values[:, None], thresholds)
        count = answered.sum(0)
        fits = (count > 0) & (is_error.astype(int) @ answered <= risk * (len(values) if of_all else count))
        return thresholds[fits][pick] if fits.any() else -np.inf

    cases = [(values, is_error, np.append(0, thresholds), risk)  # at 0 nothing is answered
             for values, is_error, thresholds, risk, _ in _calibrations()]
    cases.append((cases[0][0], np.ones(200, dtype=bool), *cases[0][2:]))
    compare(function, ours, cases, {
        "you return the smallest such threshold: the largest answers most": lambda *case: ours(*case, pick=0),
        "scores equal to the threshold are answered too": lambda *case: ours(*case, answers=np.less),
        "you divide the errors by all items: only the answered ones count": lambda *case: ours(*case, of_all=True),
    })


def certify(function: Callable) -> None:
    """Checks function(scores, is_error, thresholds, risk, delta) -> threshold by fixed-sequence testing, or -inf."""
    def passes(values, is_error, thresholds, risk, delta, answers=np.less_equal):
        answered = answers(values[:, None], thresholds)
        return p_values(is_error.astype(int) @ answered, answered.sum(0), risk) <= delta

    def last(thresholds, passing):
        return thresholds[passing][-1] if passing.any() else -np.inf

    def before_failure(*case, **options):
        return last(case[2], np.logical_and.accumulate(passes(*case, **options)))

    compare(function, before_failure, _calibrations(), {
        "you go on after a failure: stop at the first threshold that fails": lambda *case: last(case[2], passes(*case)),
        "you return the threshold that failed: the last one before it is certified": lambda *case: (
            case[2][min(np.argmin(np.append(passes(*case), False)), len(case[2]) - 1)]),
        "you divide delta by the number of thresholds: in a fixed order each test has the full level": lambda *case: (
            before_failure(*case[:4], case[4] / len(case[2]))),
        "scores equal to the threshold are answered too": lambda *case: before_failure(*case, answers=np.less),
        "the level is delta, not 1 - delta": lambda *case: before_failure(*case[:4], 1 - case[4]),
    })


def share_broken(function: Callable) -> None:
    """Checks function(rule, calibrations, true_risk, risk) -> share of sets on which true_risk(rule(*set)) > risk."""
    def rule(values, is_error):
        return values[is_error].min(initial=9)

    def true_risk(threshold):
        return threshold / 10

    def broken(rule, sets, true_risk, risk):
        return np.mean([true_risk(rule(*case)) > risk for case in sets])

    sets = [case[:2] for case in _calibrations()]
    risks = sorted(true_risk(rule(*case)) for case in sets)
    compare(function, broken, [(rule, sets, true_risk, risks[i]) for i in (5, 10)], {
        "this is the share that keep the promise": lambda *case: 1 - broken(*case),
        "a risk equal to the promised one keeps the promise": lambda rule, sets, true_risk, risk: np.mean(
            [true_risk(rule(*case)) >= risk for case in sets]),
        "this is a count: the share of the calibration sets is asked for": lambda *case: broken(*case) * len(sets),
        "this is the mean true risk: how often does it exceed the promise?": lambda rule, sets, true_risk, risk: (
            np.mean([true_risk(rule(*case)) for case in sets])),
    })


def _terms(logits, variant_logits, labels, lam, **fields):
    """Array of task, consistency and alignment of a batch by sua's own Objective with these fields, all weights 1."""
    import torch  # which checks of other functions do without

    from ..training.objectives import Objective

    objective = Objective(k=variant_logits.shape[1], consistency=1.0, alignment=1.0, lam=lam, **fields)
    loss, terms = objective(*map(torch.tensor, (logits, variant_logits, labels)))
    task, alignment = float(terms["task"]), float(terms["sua_positive"])
    return np.array([task, float(loss) - task - alignment, alignment])


def _batches(lam=0.7):
    """Two random (logits, variant_logits, labels, lam): every other input moves far in one, none does in the other.

    One variant in four never moves far.
    """
    rng = np.random.default_rng()
    logits, shift = rng.normal(size=(2, 8, 3)), rng.normal(size=(2, 8, 4, 3))
    far = (np.arange(8)[:, None] % 2 * np.arange(4) > 0)[..., None]
    return [(z, z[:, None] + (0.1 + size * far) * move, rng.integers(3, size=8), lam)
            for z, move, size in zip(logits, shift, (5, 0))]


def _calibrations():
    """Random (scores, is_error, thresholds, risk, delta) with ties; the error rate rises, and dips again in some."""
    rng = np.random.default_rng()
    values = rng.integers(1, 9, size=(20, 200))
    rates = np.array([[0, 0.1, 0.3, 0.5], [0.02, 0.3, 0, 0], [0, 0, 0.9, 0], [0.3, 0.2, 0.1, 0], [0.1] * 4] * 4)
    return [(value, rng.random(200) < rate[(value - 1) // 2], np.arange(1, 9), 0.15, 0.1)
            for value, rate in zip(values, rates)]
