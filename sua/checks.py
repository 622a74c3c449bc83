"""Checks of student code (notebooks/assignments): each raises an AssertionError that names the likely mistake.

A check calls the student's function on fresh random cases beside sua's own. Where the two differ it tries the known
mistakes: the one that returns what the student's function returned is named. A check that passes is silent.
"""

from __future__ import annotations

import copy
from typing import Callable, Mapping, Sequence

import numpy as np
from scipy.special import betaincinv, softmax as _softmax

from . import metrics, scores
from .decide.abstention import p_values
from .predictions import Predictions
from .theory import TOLERANCE, World, random_worlds
from .theory.statements import PRINTED, slack

LN2 = np.log(2)


def compare(function: Callable, reference: Callable, cases: Sequence[tuple],
            mistakes: Mapping[str, Callable] | None = None) -> None:
    """AssertionError unless function(*case) equals reference(*case) within 1e-8 on every case.

    mistakes : {message: function with that mistake}; the first one that explains all that was returned is named.
    """
    name = function.__name__
    found = [_numbers(name, function(*copy.deepcopy(case))) for case in cases]
    expected = [np.asarray(reference(*case), dtype=np.float64) for case in cases]
    for value, right in zip(found, expected):
        assert value.shape == right.shape, (f"{name} returns shape {value.shape}, expected {right.shape}: which axis "
                                            "do you sum or average over?")
        assert (value < np.inf).all() or not np.isfinite(right).all(), (
            f"{name} returns {value[~(value < np.inf)][0]}: look for the logarithm of 0 and for overflow; "
            "0 ln 0 counts as 0")
    same = lambda values: all(np.allclose(a, b, rtol=0, atol=1e-8) for a, b in zip(found, values))
    if same(expected):
        return
    for message, mistaken in (mistakes or {}).items():
        assert not same([mistaken(*case) for case in cases]), f"{name}: {message}"
    case, value, right = next(row for row in zip(cases, found, expected)
                              if not np.allclose(*row[1:], rtol=0, atol=1e-8))
    given = ", ".join(np.array2string(np.asarray(part), precision=3, threshold=20) for part in case)
    raise AssertionError(f"{name}({given})\nreturns {value},\nexpected {right}")


def distributions(values, name: str = "your result") -> None:
    """AssertionError unless `values` are probabilities that sum to 1 over the last axis."""
    values = _numbers(name, values)
    assert values.ndim and np.isfinite(values).all(), f"{name} = {values}: give finite probabilities, one per class"
    assert (values >= 0).all(), f"{name} holds {values.min():.3g}: probabilities are never negative"
    total = values.sum(-1)
    off = total[np.abs(total - 1) > 1e-6]
    if off.size:
        other = values.ndim > 1 and np.allclose(values.sum(0), 1)
        raise AssertionError(f"{name}: these rows sum to {off[0]:.3g}, not 1: "
                             + ("the columns do; normalise over the last axis" if other else
                                "did you forget to renormalise?"))


def softmax(function: Callable) -> None:
    """Checks function(logits (..., C)) -> probabilities."""
    draw = np.random.default_rng().normal(size=(2, 4, 3))
    distributions(function(draw.copy()), function.__name__)
    reference = lambda z: np.exp(z - np.logaddexp.reduce(z, axis=-1, keepdims=True))
    compare(function, reference, [(draw[0],), (draw,), (1000 * draw,)])


def entropy(function: Callable) -> None:
    """Checks function(p (..., C)) -> entropy in nats."""
    compare(function, scores.entropy, [(_draw(2, 4),), (_draw(3, 5, 2),), (np.array([1.0, 0, 0]),)], {
        "your entropy is in bits: use the natural logarithm": lambda p: scores.entropy(p) / LN2,
        "your entropy is negative: check the sign": lambda p: -scores.entropy(p),
        "you divide by ln C: entropy in nats is not scaled": lambda p: scores.entropy(p) / np.log(p.shape[-1]),
    })


def divergence(function: Callable, name: str) -> None:
    """Checks function(p, q) -> the divergence `name` ("kl", "js", "tv") over the last axis, nats; q > 0 for "kl"."""
    ours, kl = scores.divergence_named(name), scores.divergence_named("kl")
    mistakes = {"kl": {
        "this is KL(q, p) instead of KL(p, q)": lambda p, q: kl(q, p),
        "your divergence is in bits: use the natural logarithm": lambda p, q: kl(p, q) / LN2,
        "check the sign: KL is never negative": lambda p, q: -kl(p, q),
        "this is the cross-entropy, which is not 0 at p = q": lambda p, q: kl(p, q) + scores.entropy(p),
    }, "js": {
        "your divergence is in bits: use the natural logarithm": lambda p, q: ours(p, q) / LN2,
        "this is twice the divergence: the two halves are averaged, not added": lambda p, q: 2 * ours(p, q),
        "this is the Jensen-Shannon distance, the square root of the divergence": lambda p, q: np.sqrt(ours(p, q)),
        "this is the mean of KL(p, q) and KL(q, p): compare each with their midpoint": lambda p, q: (
            kl(p, q) + kl(q, p)) / 2,
        "you compare the midpoint with p and q: exchange the arguments of KL": lambda p, q: (
            kl((p + q) / 2, p) + kl((p + q) / 2, q)) / 2,
    }, "tv": {
        "this is the sum of absolute differences, which can reach 2: a factor is missing": lambda p, q: 2 * ours(p, q),
        "you average over the classes: the largest value must be 1 whatever C is": lambda p, q: np.abs(p - q).mean(-1),
        "this is the largest difference at one class, not over all events": lambda p, q: np.abs(p - q).max(-1),
        "positive and negative differences cancel": lambda p, q: np.zeros(np.broadcast(p, q).shape[:-1]),
    }}
    inside = lambda *shape: 0.9 * _draw(*shape) + 0.1 / shape[-1]
    compare(function, ours, [(_draw(2, 3), inside(2, 3)), (_draw(4, 1, 5), inside(4, 2, 5)),
                             (np.array([1.0, 0]), np.array([0.5, 0.5]))], mistakes[name])


def score(function: Callable, name: str, **parameters) -> None:
    """Checks function(*fields, **parameters) -> (N,), the score `name` of sua.SCORES.

    fields : the arrays that the score reads, in the order of sua.SCORES[name].needs; `clarified` is followed by its
    weights (N, Z).
    """
    needs = [field for need in scores.SCORES[name].needs for field in (need, "weights")[:1 + (need == "clarified")]]
    call = _named(lambda given: function(*[getattr(given, field) for field in needs], **parameters), function)
    ours = lambda given: scores.score(given, name, **parameters)
    other = lambda what, **changed: lambda given: scores.score(given, what, **changed)
    each = lambda given: scores.divergence_named("kl")(given.probs[:, None], given.perturbed)
    lam = parameters.get("lam", 1)
    mistakes = {"sensitivity": {
        "this is the mean of KL(q, p): the output at x itself comes first": other("sensitivity_reverse_kl"),
        "you add up the K variants: S is their mean": lambda given: each(given).sum(1),
        "you take the largest divergence: S is the mean over variants": lambda given: each(given).max(1),
        "you average the variants first: take the divergence to each, then the mean": lambda given: (
            scores.divergence_named("kl")(given.probs, given.perturbed.mean(1))),
    }, "sua": {
        "you add lam H: SUA subtracts it": other("sua", lam=-lam),
        "you ignore lam": other("sua", lam=1),
        "lam multiplies S, it belongs to H": lambda given: (
            lam * scores.sensitivity(given) - scores.entropy(given.probs)),
        "your entropy is in bits: use the natural logarithm": other("sua", lam=lam / LN2),
        "your sensitivity is KL(q, p): the output at x itself comes first": other(
            "sua", lam=lam, divergence="reverse_kl"),
    }, "clarification_mi": {
        "every reading counts the same: use the weights": lambda given: scores.mutual_information(given.clarified),
        "this is H(pbar) alone: what is left once the reading is known is subtracted": other("clarification_entropy"),
        "in bits: use the natural logarithm": lambda given: ours(given) / LN2,
    }}
    compare(call, ours, [(_predictions(),), (_predictions(),)], {
        "the orientation is reversed: higher must mean more likely wrong": lambda given: -ours(given),
        **mistakes.get(name, {})})


def auroc(function: Callable) -> None:
    """Checks function(is_error (N,), score (N,)) -> AUROC, ties counting half."""
    rng = np.random.default_rng()
    draw = lambda score: (np.append(rng.random(len(score) - 2) < 0.4, [True, False]), score)
    nudge = lambda is_error, score, towards: metrics.auroc(is_error, score + 1e-6 * towards * is_error)
    compare(function, metrics.auroc, [draw(rng.normal(size=9)), draw(rng.integers(4, size=40).astype(float))], {
        "this is 1 - AUROC: check the orientation, an error should score higher": lambda *case: (
            1 - metrics.auroc(*case)),
        "ties count for nothing: a tie is half a win": lambda *case: nudge(*case, -1),
        "ties count as a full win: a tie is half a win": lambda *case: nudge(*case, 1),
        "you count pairs, their share is asked for": lambda is_error, score: (
            metrics.auroc(is_error, score) * is_error.sum() * (~is_error).sum()),
        "divide by the number of (error, right answer) pairs, not of all pairs": lambda is_error, score: (
            metrics.auroc(is_error, score) * is_error.mean() * (~is_error).mean()),
    })


def counterexample(world: World, statement: str, **reading) -> None:
    """Checks that `world` keeps the meaning and violates the printed statement (a name in sua.statements.PRINTED).

    reading : parameters of the statement (L=, lam=, loss=, name=).
    """
    assert isinstance(world, World), f"return a World(mass, kernel, p, truth), not {type(world).__name__}"
    drift = float(np.max(world.drift))
    assert drift <= TOLERANCE, (f"truth changes by {drift:.3g} (total variation) between an input and its neighbour: "
                                "the bound is only claimed for perturbations that keep the meaning")
    left, right = (np.asarray(side, dtype=float) for side in PRINTED[statement](world, **reading))
    assert slack(PRINTED[statement], world, **reading) < -TOLERANCE, (
        f"the bound holds on your world: left side {np.round(left, 4)}, right side {np.round(right, 4)}"
        + "".join(f", {key} = {value:.4g}" for key, value in reading.items() if not isinstance(value, str)))


def of_world(function: Callable, name: str, **parameters) -> None:
    """Checks function(world, **parameters) -> (N,) on random worlds: "robust_risk", or "eq11", R + S_TV - lam H."""
    reference, mistakes = {
        "robust_risk": (World.robust_risk, {
            "you forget that x belongs to its own neighbourhood": lambda w: np.where(w.kernel > 0, w.risk(), 0).max(-1),
            "you take the mean over rewordings: look for the worst": World.mean_risk,
            "you take the worst of all inputs: only neighbours count": lambda w: np.full(len(w.p), w.risk().max()),
            "this is the risk at x itself": World.risk,
            "you count the most probable label: the answer is drawn from p": lambda w: w.robust_risk("zero_one"),
        }),
        "eq11": (lambda w, lam=1.0: w.risk() + w.sua(lam), {
            "you add lam H: the printed bound subtracts it": lambda w, lam=1.0: w.risk() + w.sua(-lam),
            "you ignore lam": lambda w, lam=1.0: w.risk() + w.sua(),
            "you take the largest total variation: S is the mean": lambda w, lam=1.0: (
                w.risk() + w.sup(w.divergence()) - lam * w.entropy),
            "half of the total variation is missing or it is there twice": lambda w, lam=1.0: (
                w.risk() + 2 * w.sensitivity() - lam * w.entropy),
            "R(x) is missing": lambda w, lam=1.0: w.sua(lam),
        }),
    }[name]
    fix = lambda call: _named(lambda world: call(world, **parameters), function)
    compare(fix(function), fix(reference), [(world,) for world in _worlds(20)],
            {message: fix(mistaken) for message, mistaken in mistakes.items()})


def bound(function: Callable, of: str) -> None:
    """Checks that function(world) -> (N,) bounds "mean_risk" or "robust_risk" from above on 300 random worlds.

    It may not exceed R + (SUA)_+ + H for the mean risk, R + sup TV for the worst case (Theorems 4 and 1).
    """
    at_most = {"mean_risk": lambda w: w.risk() + np.maximum(w.sua(), 0) + w.entropy,
               "robust_risk": lambda w: w.risk() + w.sup(w.divergence())}[of]
    name, worlds = function.__name__, _worlds(300)
    values = [_numbers(name, function(world)) for world in worlds]
    for world, value in zip(worlds, values):
        assert value.shape == world.mass.shape, f"{name} returns shape {value.shape}, expected {world.mass.shape}"
    below = np.array([(getattr(world, of)() - value).max() for world, value in zip(worlds, values)])
    above = max((value - at_most(world)).max() for world, value in zip(worlds, values))
    assert below.max() <= TOLERANCE, (
        f"{name} is no upper bound: it lies below the risk in {(below > TOLERANCE).mean():.0%} of random worlds, by up "
        f"to {below.max():.3g}. Which of its terms make it too small?")
    assert above <= TOLERANCE, f"{name} may be true but is loose, by {above:.3g} somewhere: which term can shrink?"


def mixture(function: Callable) -> None:
    """Checks function(readings (..., Z, C), weights (..., Z)) -> (..., C), the mean over the readings."""
    ours = lambda readings, weights: np.einsum("...zc,...z->...c", readings, weights)
    cases = [(_draw(5, 3, 4), _draw(5, 3)), (_draw(2, 4), _draw(2)), (_draw(2, 3, 2, 4), _draw(2, 3, 2))]
    compare(function, ours, cases, {
        "every reading counts the same: use the weights": lambda readings, weights: readings.mean(-2),
        "you add up the readings: weigh them": lambda readings, weights: readings.sum(-2),
    })


def collapse(function: Callable) -> None:
    """Checks function(p_star, p), both (..., C), -> (KL(p_star, p), H(p_star) - H(p)) in nats."""
    kl, gap = scores.divergence_named("kl"), lambda p_star, p: scores.entropy(p_star) - scores.entropy(p)
    ours = lambda p_star, p: (kl(p_star, p), gap(p_star, p))
    inside = 0.9 * _draw(6, 3) + 0.1 / 3
    compare(function, ours, [(_draw(6, 3), inside), (inside[0], inside[1])], {
        "your index is KL(p, p*): the world draws from p*": lambda p_star, p: (kl(p, p_star), gap(p_star, p)),
        "check the sign of the gap, H(p*) - H(p)": lambda p_star, p: (kl(p_star, p), gap(p, p_star)),
        "return the index first, then the gap": lambda p_star, p: ours(p_star, p)[::-1],
    })


def sister_world(function: Callable) -> None:
    """Checks function(p_star (N, C)) -> (N, C), all mass on the first of the likeliest answers."""
    ours = lambda p_star: np.arange(p_star.shape[1]) == p_star.argmax(-1)[:, None]
    compare(function, ours, [(_draw(9, 4),), (np.array([[0.2, 0.4, 0.4], [1, 0, 0], [0.5, 0.5, 0]]),)], {
        "where answers tie you keep them all: keep the first": lambda p_star: p_star == p_star.max(-1, keepdims=True),
        "you leave the likeliest answer its old probability: now it is the only one": lambda p_star: (
            ours(p_star) * p_star),
    })


def error_rates(function: Callable) -> None:
    """Checks function(detector, outputs_one, outputs_two), outputs (N, K+1, C), -> (false alarm rate, miss rate)."""
    rate = lambda detector, outputs: np.mean(detector(outputs))
    detectors = (lambda outputs: outputs[:, 0, 0] > 0.4, lambda outputs: outputs[:, 0, 0])
    compare(function, lambda detector, one, two: (rate(detector, one), 1 - rate(detector, two)),
            [(detector, _draw(12, 3, 2), _draw(20, 3, 2)) for detector in detectors], {
        "the second is the share of alarms; a miss is a silence": lambda detector, one, two: (
            rate(detector, one), rate(detector, two)),
        "the first is the share of silences; of one reading, every alarm is false": lambda detector, one, two: (
            1 - rate(detector, one), 1 - rate(detector, two)),
        "misses come first, return the false alarms before them": lambda detector, one, two: (
            1 - rate(detector, two), rate(detector, one)),
        "the worlds are exchanged: outputs_one deserve their certainty": lambda detector, one, two: (
            rate(detector, two), 1 - rate(detector, one)),
        "these are counts, shares are asked for": lambda detector, one, two: (
            rate(detector, one) * len(one), (1 - rate(detector, two)) * len(two)),
    })


def decomposition(function: Callable) -> None:
    """Checks function(p (N, C), clarified (N, Z, C), weights (N, Z)) -> (S_clar, I(Y; Z), KL(pbar, p)), each (N,)."""
    kl = scores.divergence_named("kl")

    def terms(p, clarified, weights, swap_shift=False, swap_index=False):
        mean = np.einsum("nzc,nz->nc", clarified, weights)
        shift = kl(p[:, None], clarified) if swap_shift else kl(clarified, p[:, None])
        return ((weights * shift).sum(1), scores.mutual_information(clarified, weights),
                kl(p, mean) if swap_index else kl(mean, p))

    inside = lambda *shape: 0.9 * _draw(*shape) + 0.1 / shape[-1]
    cases = [(inside(8, 3), inside(8, 2, 3), _draw(8, 2)), (inside(4, 4), inside(4, 3, 4), _draw(4, 3))]
    compare(function, terms, cases, {
        "your S_clar is KL(p, p_z): the answer to the clarified input comes first": lambda *case: terms(
            *case, swap_shift=True),
        "your index is KL(p, pbar): pbar comes first": lambda *case: terms(*case, swap_index=True),
        "both divergences are the wrong way round: p comes second": lambda *case: terms(*case, True, True),
        "every reading counts the same: use the weights": lambda p, clarified, weights: terms(
            p, clarified, np.full_like(weights, 1 / weights.shape[1])),
    })


def detection(function: Callable) -> None:
    """Checks function(predictions, flags (N,), names, threshold) -> AUROC of each score on max p >= threshold."""
    keep = lambda predictions, threshold: predictions.probs.max(-1) >= threshold
    rank = lambda predictions, flags, names, kept: [
        metrics.auroc(flags[kept], scores.score(predictions, name)[kept]) for name in names]
    ours = lambda predictions, flags, names, threshold: rank(predictions, flags, names, keep(predictions, threshold))
    drawn = Predictions(_draw(90, 3), clarified=_draw(90, 2, 3), weights=_draw(90, 2))
    names = ["clarification_mi", "entropy", "collapse_index"]
    compare(function, ours, [(drawn, np.arange(90) % 2 == 0, names, least) for least in (0.6, 0.7)], {
        "you rank all inputs: keep those of max p >= threshold": lambda predictions, flags, names, threshold: rank(
            predictions, flags, names, np.ones(90, dtype=bool)),
        "you kept the inputs below the threshold": lambda predictions, flags, names, threshold: rank(
            predictions, flags, names, ~keep(predictions, threshold)),
        "this is 1 - AUROC: what is to be found is the ambiguous input": lambda *case: 1 - np.array(ours(*case)),
    })


def verdict(function: Callable) -> None:
    """Checks function(p (C,), clarified (Z, C), weights (Z,)) -> "collapsed", "open" or "clear", tolerance 0.1."""
    sure, weights = np.array([[0.97, 0.02, 0.01], [0.01, 0.97, 0.02]]), np.array([0.75, 0.25])
    for p, clarified, right, what in (
            (weights @ sure, sure, "open", "the readings differ and p is their mixture"),
            (sure[0], sure, "collapsed", "the readings differ and p knows one of them alone"),
            (sure[0], sure[[0, 0]], "clear", "both readings have the answer of p"),
            (sure[1], sure[[0, 0]], "collapsed", "both readings have an answer, p has another"),
            (sure.mean(0), sure, "collapsed", "p mixes the readings evenly, but their weights are 3/4 and 1/4")):
        found = function(p.copy(), clarified.copy(), weights.copy())
        assert found == right, f"{function.__name__} returns {found!r}, expected {right!r}: {what}"


def log_probabilities(function: Callable) -> None:
    """Checks function(logits (..., C)) -> ln p (..., C), for logits of any size."""
    ours = lambda logits: logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    draw = np.random.default_rng().normal(size=(4, 3))
    compare(function, ours, [(draw,), (draw[0],), (900 * draw,)], {
        "these are probabilities: their logarithm is asked for": lambda logits: np.exp(ours(logits)),
        "probabilities are rounded to 0 before their logarithm is taken": lambda logits: np.log(
            _softmax(logits, axis=-1)),
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
            terms[1] - lam * scores.entropy(_softmax(logits, axis=-1)).mean()),
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
    inside = lambda *shape: 0.99 * _draw(*shape) + 0.01 / shape[-1]
    still = inside(20, 3)
    loud = np.repeat(still[:, None], 3, axis=1)
    loud[0] = np.eye(3)[still[0].argmin()] * 0.97 + 0.01  # one input alone moves
    for lam, p, perturbed in ((1.0, inside(20, 4), inside(20, 2, 4)), (0.4, still, loud),
                              (2.0, still, np.repeat(still[:, None], 3, axis=1))):
        t = float(_numbers(function.__name__, function(p.copy(), perturbed.copy(), lam)))
        assert 0 <= t <= 1, f"t = {t:.4g} is no share in [0, 1]: where no input has SUA > 0, nothing needs mixing"
        mix = lambda rows: (1 - t) * rows + t / rows.shape[-1]
        left = scores.sua_positive(Predictions(mix(p), mix(perturbed)), lam).max()
        assert left < 1e-8, (f"with your t = {t:.4f} an input still has (SUA)_+ = {left:.4f} at lam = {lam}: which one "
                             "needs the largest t, and which logarithm bounds its entropy?")
        worst = scores.sua_positive(Predictions(p, perturbed), lam).max()
        least = worst / (worst + lam * np.log(p.shape[1]))
        assert t <= least + 1e-8, f"your t = {t:.4f} does it, but {least:.4f} is already enough: solve for the smallest"


def p_value(function: Callable) -> None:
    """Checks function(errors, n, risk) -> P(Bin(n, risk) <= errors)."""
    ours = lambda errors, n, risk: float(p_values(errors, n, risk))
    below = lambda errors, n, risk: ours(errors - 1, n, risk) if errors else 0.0
    cases = [(3, 20, 0.2), (0, 30, 0.05), (12, 40, 0.3), (0, 0, 0.1), (5, 5, 0.4)]
    compare(function, ours, cases, {
        "this is the probability of just that many errors: add that of fewer": lambda *case: ours(*case) - below(*case),
        "the number of errors seen is left out of the sum": below,
        "this is the other tail: few errors are evidence of a small risk": lambda *case: 1 - below(*case),
        "this is one minus the p-value": lambda *case: 1 - ours(*case),
    })


def upper_limit(function: Callable) -> None:
    """Checks function(errors, n, delta) -> the Clopper-Pearson upper limit of an error rate at level 1 - delta."""
    ours = lambda errors, n, delta: 1.0 if errors == n else float(betaincinv(errors + 1, n - errors, 1 - delta))
    cases = [(3, 20, 0.1), (0, 30, 0.05), (12, 40, 0.2), (6, 6, 0.1), (0, 0, 0.1)]
    compare(function, ours, cases, {
        "you split delta between two sides: only an upper limit is asked for": lambda errors, n, delta: ours(
            errors, n, delta / 2),
        "you exchanged delta and 1 - delta": lambda errors, n, delta: ours(errors, n, 1 - delta),
        "this is the lower limit": lambda errors, n, delta: (
            0.0 if not errors else float(betaincinv(errors, n - errors + 1, delta))),
    })


def error_free_items(function: Callable) -> None:
    """Checks function(risk, delta) -> the least n with (1 - risk)^n <= delta."""
    ours = lambda risk, delta: np.argmax((1 - risk) ** np.arange(2000) <= delta)
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

    compare(function, ours, [case[:4] for case in _calibrations()], {
        "you return the smallest such threshold: the largest answers most": lambda *case: ours(*case, pick=0),
        "scores equal to the threshold are answered too": lambda *case: ours(*case, answers=np.less),
        "you divide the errors by all items: only the answered ones count": lambda *case: ours(*case, of_all=True),
    })


def certify(function: Callable) -> None:
    """Checks function(scores, is_error, thresholds, risk, delta) -> threshold by fixed-sequence testing, or -inf."""
    def passes(values, is_error, thresholds, risk, delta, answers=np.less_equal):
        answered = answers(values[:, None], thresholds)
        return p_values(is_error.astype(int) @ answered, answered.sum(0), risk) <= delta

    last = lambda thresholds, passing: thresholds[passing][-1] if passing.any() else -np.inf
    before_failure = lambda *case, **options: last(case[2], np.logical_and.accumulate(passes(*case, **options)))
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
    rule = lambda values, is_error: values[is_error].min(initial=9)
    true_risk = lambda threshold: threshold / 10
    sets = [case[:2] for case in _calibrations()]
    risks = sorted(true_risk(rule(*case)) for case in sets)
    broken = lambda rule, sets, true_risk, risk: np.mean([true_risk(rule(*case)) > risk for case in sets])
    compare(function, broken, [(rule, sets, true_risk, risks[i]) for i in (5, 10)], {
        "this is the share that keep the promise": lambda *case: 1 - broken(*case),
        "a risk equal to the promised one keeps the promise": lambda rule, sets, true_risk, risk: np.mean(
            [true_risk(rule(*case)) >= risk for case in sets]),
        "this is a count: the share of the calibration sets is asked for": lambda *case: broken(*case) * len(sets),
        "this is the mean true risk: how often does it exceed the promise?": lambda rule, sets, true_risk, risk: (
            np.mean([true_risk(rule(*case)) for case in sets])),
    })


def _named(call, function):
    call.__name__ = function.__name__
    return call


def _numbers(name, value):
    assert value is not None, f"{name} returns None: is a `return` missing?"
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise AssertionError(f"{name} returns {value!r}: expected numbers") from None


def _draw(*shape):
    """Random distributions over the last axis; one probability in five is exactly 0."""
    rng = np.random.default_rng()
    weight = rng.exponential(size=shape) * (rng.random(shape) < 0.8)
    weight[..., 0] += 1e-2  # never all of them
    return weight / weight.sum(-1, keepdims=True)


def _predictions():
    """Random Predictions with variants and clarifications, in which no divergence is infinite."""
    inside = lambda *shape: 0.9 * _draw(*shape) + 0.1 / shape[-1]
    return Predictions(_draw(9, 3), inside(9, 4, 3), clarified=_draw(9, 2, 3), weights=inside(9, 2))


def _terms(logits, variant_logits, labels, lam, **fields):
    """Array of task, consistency and alignment of a batch by sua's own Objective with these fields, all weights 1."""
    import torch  # which checks of other functions do without

    from .training.objectives import Objective

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


def _worlds(count):
    """Random worlds, one by one, in which a perturbation keeps the meaning; half of them are one-way."""
    rng = np.random.default_rng()
    batches = [random_worlds((count + 1) // 2, rng, kernel=kernel) for kernel in ("orbit", "any")]
    fields = ("mass", "kernel", "p", "truth")
    return [World(*(getattr(batch, field)[i] for field in fields)) for i in range(count // 2) for batch in batches]
