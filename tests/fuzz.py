"""A campaign of valid and hostile inputs: `python tests/fuzz.py 100000`, or one case again: `... scores 1234`.

A case is right where the result equals an independent computation, written here in loops or taken from another
library. A refusal is clear where it is a ValueError, or the documented exception, that names the argument or field.
The exit status is 1 if anything else came back. A case follows from its family and number. A campaign of FULL cases
or more writes its table to notebooks/site/fuzz.md; `make readme` shows it on the page of promises.
"""

import json
import math
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
from scipy.linalg import expm
from scipy.stats import binom, ks_2samp
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression

import sua
from sua import Predictions, metrics, regimes
from sua.perturb import FRAMING, OPTION_ORDER, SURFACE, TYPOS, instructions, mixture, synonyms, variants
from sua.scores import LAMBDAS, SCORES, SIGNED_LAMBDAS

FLOOR = 1e-12
FULL, TABLE = 100_000, Path(__file__).parents[1] / "notebooks/site/fuzz.md"
OUTCOMES = ("right", "clear error", "unclear error", "wrong result")
BAD = OUTCOMES[2:]
NO_NUMBERS = (math.nan, math.inf, -math.inf, None, "1", [1.0], np.ones((2, 1)), {})


class Case(NamedTuple):
    """`call` is tried; `right` judges what it returns. `names`: a refusal has to name one of them; (): must not be
    refused. `refusals`: the documented exceptions."""

    what: str
    call: Callable[[], object]
    right: Callable[[object], bool]
    names: tuple[str, ...] = ()
    refusals: tuple[type[Exception], ...] = (ValueError,)


def never(found):
    return False


def outcome(case: Case) -> tuple[str, str]:
    """One of OUTCOMES, and what came back."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            found = case.call()
    except case.refusals as error:
        return "clear error" if any(name in str(error) for name in case.names) else "unclear error", repr(error)
    except Exception as error:
        return "unclear error", repr(error)
    return "right" if case.right(found) else "wrong result", repr(found)


def one_of(rng, options):
    return options[rng.integers(len(options))]


def close(found, expected, tolerance=1e-9):
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    return found.shape == expected.shape and np.allclose(found, expected, rtol=tolerance, atol=tolerance)


# --- Predictions ---

def simplex(rng, *shape):
    """Distributions over the last axis: smooth, nearly certain, certain, of eighths (ties) or nearly uniform."""
    kind, c = rng.integers(5), shape[-1]
    if kind == 0:
        return np.eye(c)[rng.integers(c, size=shape[:-1])]
    if kind == 1:
        return rng.multinomial(8, np.full(c, 1 / c), shape[:-1]) / 8
    weights = 1 + 1e-13 * rng.random(shape) if kind == 2 else rng.standard_gamma(one_of(rng, (0.05, 1, 20)), shape)
    weights[..., 0] += 1e-200
    return weights / weights.sum(-1, keepdims=True)


def drawn_fields(rng, n=None, c=None, k=None, prefix="item"):
    """Every field of valid Predictions."""
    n, c, k = n or rng.integers(1, 7), c or rng.integers(2, 7), k or rng.integers(1, 5)
    return dict(probs=simplex(rng, n, c), perturbed=simplex(rng, n, k, c), labels=rng.integers(c, size=n),
                label_dist=simplex(rng, n, c), clarified=simplex(rng, n, k, c), weights=simplex(rng, n, k),
                samples=rng.integers(c, size=(n, 4)), logits=rng.normal(size=(n, c)) * 9,
                features=rng.normal(size=(n, 3)), dropout=simplex(rng, n, k, c), members=simplex(rng, n, k, c),
                ids=[f"{prefix} {i}" for i in range(n)], meta={"seed": int(rng.integers(9))})


def equal(a, b):
    """Whether two Predictions agree bit for bit."""
    return all((getattr(a, f.name) is None) == (getattr(b, f.name) is None) and (getattr(a, f.name) is None or (
        a.meta == b.meta if f.name == "meta" else np.array_equal(getattr(a, f.name), getattr(b, f.name))))
        for f in fields(Predictions))


def predictions(rng):
    given = drawn_fields(rng)
    case = one_of(rng, (_constructed, _corrupted, _corrupted, _corrupted, _subset, _sampled, _joined))
    return case(rng, given)


def _constructed(rng, given):
    kinds = {name: one_of(rng, (np.asarray, np.ndarray.tolist, np.asfortranarray)) for name in given}
    written = {name: kinds[name](value) if isinstance(value, np.ndarray) else value for name, value in given.items()}
    if rng.random() < 0.5:
        for name in rng.choice([name for name in given if name not in ("probs", "weights", "clarified")], 3):
            written.pop(name, None)
    return Case("construction", lambda: Predictions(**written), lambda p: all(
        close(getattr(p, name), given[name], 1e-12) for name in written if name not in ("ids", "meta"))
        and math.isclose(p.probs.sum(), len(p)))


def _corrupted(rng, given):
    name = one_of(rng, [name for name in given if name not in ("ids", "meta")])
    whole = name in ("labels", "samples")
    value, place = np.array(given[name]), tuple(rng.integers(size) for size in given[name].shape)
    how = one_of(rng, ("entry", "rows", "axes", "type", "ragged", "empty"))
    if how == "entry":
        value = value if whole else value.astype(float)
        worst = (-1, 99, 1 << 40) if whole else (math.nan, math.inf, -math.inf)
        value[place] = one_of(rng, worst if whole or name in ("logits", "features") else (*worst, -0.5, 1.5, 1e300))
    elif how == "rows":
        value = np.concatenate([value, value[:1]])
    elif how == "axes":
        value = value[None] if rng.random() < 0.5 else value[..., 0] if value.ndim > 1 else value[:, None]
    elif how == "type":
        value = one_of(rng, ("text", 7, value.astype(str), [None] * len(value), value.astype(complex) * 1j, {1: 2},
                             value + 0.5 if whole else object()))
    elif how == "ragged":
        value = [*value.tolist(), [[0.5, 0.5], 1]]
    else:
        value = value[:0]
    named = ("probs", name) if name != "probs" else tuple(given)  # probs set the size that the others are held against
    return Case(f"{name} with another {how}", lambda: Predictions(**{**given, name: value}),
                lambda p: how == "type" and close(getattr(p, name), given[name]), named)  # numbers written as texts


def _subset(rng, given):
    p, n = Predictions(**given), len(given["ids"])
    rows = rng.integers(n, size=rng.integers(1, 9))
    return Case("subset", lambda: p.subset(rows), lambda q: q.ids.tolist() == [given["ids"][i] for i in rows] and all(
        np.array_equal(getattr(q, name)[j], getattr(p, name)[i]) for name in ("probs", "perturbed", "labels")
        for j, i in enumerate(rows)))


def _sampled(rng, given):
    p, m = Predictions(**given), one_of(rng, (1, 3, 50, 0, -1, 1.5, None, "2"))
    possible = isinstance(m, int) and m > 0
    return Case(f"sample {m!r}", lambda: p.sample(m, 1), lambda q: possible and q.samples.shape == (len(p), m) and all(
        p.probs[i, y] > 0 for i, row in enumerate(q.samples) for y in row), () if possible else ("m = ",))


def _joined(rng, given):
    p, other = Predictions(**given), Predictions(**drawn_fields(rng, prefix="other"))
    valid = [replace(p, probs=simplex(rng, *p.probs.shape)) for _ in range(2)]
    others = one_of(rng, (valid, [], [other]))
    return Case("with_members", lambda: p.with_members(others), lambda q: others is valid and np.array_equal(
        q.members, np.stack([v.probs for v in valid], 1)), () if others is valid else ("others",))


# --- scores, item by item in loops ---

def log(x):
    return math.log(max(x, FLOOR))


def H(p):
    return -math.fsum(x * math.log(x) for x in p if x > 0)


def KL(p, q):
    return max(math.fsum(a * (log(a) - log(b)) for a, b in zip(p, q)), 0)


def TV(p, q):
    return math.fsum(abs(a - b) for a, b in zip(p, q)) / 2


def mix(rows, weights=None):
    weights = weights or [1 / len(rows)] * len(rows)
    return [math.fsum(w * row[y] for w, row in zip(weights, rows)) for y in range(len(rows[0]))]


def JS(p, q):
    return H(mix([p, q])) - (H(p) + H(q)) / 2


def MI(rows, weights=None):
    return H(mix(rows, weights)) - math.fsum(w * H(row) for w, row in zip(weights or [1 / len(rows)] * len(rows), rows))


def top(p):
    return next(y for y, x in enumerate(p) if x >= max(p) - 1e-9)


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


class Item(NamedTuple):
    p: list
    q: list
    z: list
    w: list
    dropout: list
    members: list
    samples: list
    logits: list


FORMULAS = {
    "msp": lambda x: 1 - max(x.p),
    "margin": lambda x: sorted(x.p)[-2] - sorted(x.p)[-1],
    "entropy": lambda x: H(x.p),
    "neg_entropy": lambda x: -H(x.p),
    "energy": lambda x: -max(x.logits) - math.log(sum(math.exp(v - max(x.logits)) for v in x.logits)),
    "self_consistency": lambda x: 1 - max(x.samples.count(y) for y in x.samples) / len(x.samples),
    "sensitivity": lambda x: mean(KL(x.p, q) for q in x.q),
    "sensitivity_reverse_kl": lambda x: mean(KL(q, x.p) for q in x.q),
    "sensitivity_js": lambda x: mean(JS(x.p, q) for q in x.q),
    "sensitivity_tv": lambda x: mean(TV(x.p, q) for q in x.q),
    "sua": lambda x: mean(KL(x.p, q) for q in x.q) - H(x.p),
    "sua_positive": lambda x: max(mean(KL(x.p, q) for q in x.q) - H(x.p), 0),
    "alarm": lambda x: mean(max(TV(x.p, q) - max(1 - max(x.p), 1 - max(q)), 0) for q in x.q),
    "orbit_entropy": lambda x: H(mix([x.p, *x.q])),
    "orbit_msp": lambda x: 1 - mean(q[top(x.p)] for q in [x.p, *x.q]),
    "perturbation_mi": lambda x: MI(x.q),
    "disagreement": lambda x: mean(top(q) != top(x.p) for q in x.q),
    "spuq": lambda x: 1 - mean(q[top(x.p)] for q in x.q),
    "dropout_entropy": lambda x: H(mix(x.dropout)),
    "dropout_bald": lambda x: MI(x.dropout),
    "ensemble_entropy": lambda x: H(mix([x.p, *x.members])),
    "ensemble_bald": lambda x: MI([x.p, *x.members]),
    "clarification_entropy": lambda x: H(mix(x.z, x.w)),
    "clarification_mi": lambda x: MI(x.z, x.w),
    "clarification_sua": lambda x: math.fsum(w * KL(z, x.p) for w, z in zip(x.w, x.z)) - H(x.p),
    "collapse_index": lambda x: KL(mix(x.z, x.w), x.p),
}
FITTED = [name for name in SCORES if name not in FORMULAS]


def items_of(p):
    return [Item(*row) for row in zip(*(getattr(p, name).tolist() for name in (
        "probs", "perturbed", "clarified", "weights", "dropout", "members", "samples", "logits")))]


def scores(rng):
    if rng.random() < 0.25:
        return _hostile_score(rng)
    return _fitted_score(rng) if rng.random() < 0.3 else _plain_score(rng)


def _plain_score(rng):
    name, p = one_of(rng, list(FORMULAS)), Predictions(**drawn_fields(rng))
    return Case(name, lambda: sua.score(p, name), lambda found: close(found, [FORMULAS[name](x) for x in items_of(p)]))


def _fitted_score(rng):
    name, c, k = one_of(rng, FITTED), rng.integers(2, 5), rng.integers(1, 4)
    p = Predictions(**drawn_fields(rng, 3, c, k))
    calibration = Predictions(**drawn_fields(rng, 30, c, k, "calibration"))
    return Case(name, lambda: sua.score(p, name, calibration=calibration),
                lambda found: ORACLES[name](found, p, calibration), ("calibration", "is_error"))


def _best_temperatures(p):
    """(coldest, hottest): between them, on a grid, lies each temperature of least NLL, which falls and then rises."""
    at_label = p.probs[np.arange(len(p)), p.labels]
    grid = np.geomspace(0.01, 100, 601)
    ratio = p.probs[at_label > 0] / at_label[at_label > 0, None]
    with np.errstate(over="ignore"):
        nll = np.array([np.log((ratio ** (1 / T)).sum(1)).mean() for T in grid])
    least = np.flatnonzero(nll <= nll.min() + 1e-9)
    return grid[max(least[0] - 1, 0)], grid[min(least[-1] + 1, 600)]


def _at_temperature(p, T):
    powers = (p.probs / p.probs.max(1, keepdims=True)) ** (1 / T)
    return powers / powers.sum(1, keepdims=True)


def _is_scaled(found, p, calibration, score):
    """Every item is less sure at a higher temperature."""
    low, high = (np.array([score(row) for row in _at_temperature(p, T)]) for T in _best_temperatures(calibration))
    return found.shape == low.shape and (low - 1e-9 <= found).all() and (found <= high + 1e-9).all()


def _plane(p):
    return np.array([[FORMULAS["sensitivity"](x), H(x.p)] for x in items_of(p)])


def _pairs(wrong, score):
    ours, theirs = score[wrong][:, None], score[~wrong]
    tied = abs(ours - theirs) < 1e-9 * np.maximum(abs(ours), abs(theirs)) + 1e-13
    return np.where(tied, 0.5, ours > theirs).mean()


def _pair_bounds(wrong, score):
    """The least and the largest AUROC: pairs that agree to about nine digits, not to rounding, may be tied or not."""
    ours, theirs = score[wrong][:, None], score[~wrong]
    gap, size = ours - theirs, np.maximum(abs(ours), abs(theirs))
    doubtful, same = abs(gap) <= 2e-9 * size + 1.1e-13, abs(gap) <= 1e-14 * (1 + size)
    sure = np.where(same, 0.5, (gap > 0) & ~doubtful)
    return sure.mean(), (sure + (doubtful & ~same)).mean()


def _is_best_lambda(found, p, calibration, grid):
    plane, new = _plane(calibration), _plane(p)
    areas = [_pair_bounds(calibration.is_error, plane @ [1, -lam]) for lam in grid]
    best = max(low for low, _ in areas) - 1e-9
    return any(close(found, new @ [1, -lam]) for lam, (_, high) in zip(grid, areas) if high >= best)


def _discriminant(found, p, calibration):
    plane, wrong = _plane(calibration), calibration.is_error
    if (plane.std(0) < 1e-9).any():  # what varies by rounding alone counts for nothing
        return np.ptp(found) == 0 if (plane.std(0) < 1e-9).all() else np.isfinite(found).all()
    within = sum(np.cov(plane[group].T, bias=True) * group.mean() for group in (wrong, ~wrong))
    if np.linalg.cond(within) > 1e6:
        return np.isfinite(found).all()
    direction = np.linalg.solve(within, plane[wrong].mean(0) - plane[~wrong].mean(0))
    return close(found, _plane(p) @ direction / abs(direction[0]), 1e-5)


def _logistic(found, p, calibration):
    plane, spread = _plane(calibration), _plane(calibration).std(0)
    standard = lambda x: (x - plane.mean(0)) / np.where(spread > 1e-9, spread, 1)
    theirs = LogisticRegression(tol=1e-10, max_iter=10_000).fit(standard(plane), calibration.is_error)
    return close(found, theirs.predict_proba(standard(_plane(p)))[:, 1], 1e-4)


def _probe(found, p, calibration):
    h, spread = calibration.features, calibration.features.std(0)
    standard = lambda x: (x - h.mean(0)) / spread
    theirs = LogisticRegression(C=1 / h.shape[1], tol=1e-10, max_iter=10_000).fit(standard(h), calibration.is_error)
    return close(found, theirs.predict_proba(standard(p.features))[:, 1], 1e-4)


def _mahalanobis(new, known, groups):
    means = [known[groups == g].mean(0) for g in np.unique(groups)]
    residual = known - np.array(means)[np.searchsorted(np.unique(groups), groups)]
    inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(residual).covariance_)
    return np.array([min((h - m) @ inverse @ (h - m) for m in means) for h in new])


def _alone(found, p, calibration):
    order = np.random.default_rng(0).permutation(len(calibration))
    single = [sua.score(p.subset([i]), "sua_repaired", calibration=calibration.subset(order))[0] for i in range(len(p))]
    return np.isfinite(found).all() and close(found, single, 1e-3)


ORACLES = {
    "msp_scaled": lambda found, p, c: _is_scaled(found, p, c, lambda row: 1 - max(row)),
    "entropy_scaled": lambda found, p, c: _is_scaled(found, p, c, H),
    "mahalanobis": lambda found, p, c: close(found, _mahalanobis(p.features, c.features, c.labels), 1e-6),
    "relative_mahalanobis": lambda found, p, c: close(
        found, _mahalanobis(p.features, c.features, c.labels) - _mahalanobis(p.features, c.features, 0 * c.labels),
        1e-6),
    "sua_calibrated": lambda found, p, c: _is_best_lambda(found, p, c, LAMBDAS),
    "sua_signed": lambda found, p, c: _is_best_lambda(found, p, c, SIGNED_LAMBDAS),
    "fused": _discriminant,
    "logistic": _logistic,
    "probe": _probe,
    "sua_repaired": _alone,
}


def _hostile_score(rng):
    p = Predictions(**drawn_fields(rng))
    return one_of(rng, (_hostile_parameter, _unknown_score, _missing_field, _hostile_calibration))(rng, p)


def _hostile_parameter(rng, p):
    name, parameter, values = one_of(rng, (
        ("sua", "lam", NO_NUMBERS), ("sua_positive", "lam", NO_NUMBERS),
        ("sensitivity", "divergence", ("KL2", None, 3, ["kl"], {})), ("sua", "divergence", ("", [])),
        ("collapse_index", "w_min", (*NO_NUMBERS[:3], *NO_NUMBERS[4:], -0.1, 2)),
        ("entropy", "lam", (1.0,)), ("msp", "calibration", (None,))))
    value = one_of(rng, values)
    return Case(f"{name} with {parameter}", lambda: sua.score(p, name, **{parameter: value}), never, (parameter,))


def _unknown_score(rng, p):
    name = one_of(rng, ("entorpy", "", None, 3, ["sua"], {}, "sua\0", "é" * 50))
    return Case("unknown score", lambda: sua.score(p, name), never, ("unknown score",))


def _missing_field(rng, p):
    name = one_of(rng, [name for name in FORMULAS if SCORES[name].needs != ("probs",)])
    field = one_of(rng, [field for field in SCORES[name].needs if field != "probs"])
    lacking = {"weights": None} if field == "clarified" else {}
    return Case("missing field", lambda: sua.score(replace(p, **lacking, **{field: None}), name), never, (field,))


def _hostile_calibration(rng, p):
    name, c = one_of(rng, FITTED), p.probs.shape[1]
    whole = Predictions(**drawn_fields(rng, 12, c, prefix="calibration"))
    features = whole.features
    calibration, names = one_of(rng, (
        (None, ("calibration",)), ("p", ("calibration",)), ([whole], ("calibration",)),
        (replace(whole, labels=None), ("labels",)),
        (replace(whole, ids=p.ids[:1].tolist() + whole.ids[1:].tolist()), ("ids",)),
        (replace(whole, features=np.ones((12, 3))), ("vary too little",)),
        (replace(whole, features=0.1 + 0 * features), ("vary too little",)),
        (replace(whole, features=np.c_[features, features]), ("features",)),
        (replace(whole, features=np.where(np.arange(3) == 1, features * 1e200, features)), ("features", "vary")),
        (replace(whole, features=1e200 * features), ("features",)),
        (replace(whole, labels=whole.answers), ("is_error",)),
        (whole.subset([0]), ("calibration", "is_error"))))
    names = (*names, "calibration", "is_error")
    return Case(f"{name} with strange calibration", lambda: sua.score(p, name, calibration=calibration),
                lambda found: isinstance(calibration, Predictions) and calibration.labels is not None
                and not set(calibration.ids) & set(p.ids) and np.isfinite(found).all()
                and ("mahal" not in name or (found.max() < 1e12 and calibration.features.shape[1] == 3)), names)


# --- metrics, from pairs and from the definition ---

def _ranked(rng):
    n = rng.integers(2, 30)
    wrong = rng.random(n) < one_of(rng, (0.1, 0.5))
    wrong[:2] = [True, False]
    scale = one_of(rng, (1, 1e-8, 1e8))
    return wrong, scale * (rng.integers(4, size=n).astype(float) if rng.random() < 0.5 else rng.normal(size=n))


def _risks(wrong, score):
    """Expected share of errors among the k lowest scores, ties in random order: each tied item counts as their mean."""
    rate = {s: wrong[score == s].mean() for s in set(score.tolist())}
    rates = [rate[s] for s in sorted(score.tolist())]
    return [math.fsum(rates[:k]) / k for k in range(1, len(rates) + 1)]


def _oracle_aurc(wrong):
    n, errors = len(wrong), int(wrong.sum())
    return mean(max(k - n + errors, 0) / k for k in range(1, n + 1))


def _prr(wrong, score):
    e = wrong.mean()
    return (e - mean(_risks(wrong, score))) / (e - _oracle_aurc(wrong))


def _augrc(wrong, score):
    e = wrong.mean()
    return (1 - _pairs(wrong, score / abs(score).max() if score.any() else score)) * e * (1 - e) + e * e / 2


RANKED = {
    "auroc": lambda wrong, score: _pairs(wrong, score / abs(score).max() if score.any() else score),
    "aurc": lambda wrong, score: mean(_risks(wrong, score)),
    "e_aurc": lambda wrong, score: mean(_risks(wrong, score)) - _oracle_aurc(wrong),
    "prr": _prr, "augrc": _augrc,
    "selective_accuracy": lambda wrong, score: 1 - _risks(wrong, score)[math.ceil(0.8 * len(wrong) - 1e-9) - 1],
    "selective_risk": _risks,
}


def _ece(p, bins=15):
    cells = {}
    for row, wrong in zip(p.probs.tolist(), p.is_error):
        cells.setdefault(math.ceil(round(max(row), 9) * bins - 1e-7), []).append((not wrong) - max(row))
    return sum(abs(math.fsum(cell)) for cell in cells.values()) / len(p)


OF_MODELS = {
    "accuracy": lambda p: mean(top(x.p) == y for x, y in zip(items_of(p), p.labels)),
    "robust_accuracy": lambda p: mean(all(top(q) == y for q in [x.p, *x.q]) for x, y in zip(items_of(p), p.labels)),
    "worst_of_k": lambda p: mean(all(top(q) == y for q in x.q) for x, y in zip(items_of(p), p.labels)),
    "mean_of_k": lambda p: mean(mean(top(q) == y for q in x.q) for x, y in zip(items_of(p), p.labels)),
    "brier": lambda p: mean(sum((v - (j == y)) ** 2 for j, v in enumerate(x.p)) for x, y in zip(items_of(p), p.labels)),
    "nll": lambda p: mean(-log(x.p[y]) for x, y in zip(items_of(p), p.labels)),
    "ece": _ece,
}


def of_metrics(rng):
    return one_of(rng, (_ranking_metric, _model_metric, _hostile_metric, _interval, _adjusted))(rng)


def _ranking_metric(rng):
    name, (wrong, score) = one_of(rng, list(RANKED)), _ranked(rng)
    given = one_of(rng, (wrong, wrong.astype(int), wrong.tolist(), wrong.astype(float)))
    return Case(name, lambda: getattr(metrics, name)(given, score),
                lambda found: close(found, RANKED[name](wrong, score), 1e-8))


def _model_metric(rng):
    name, p = one_of(rng, list(OF_MODELS)), Predictions(**drawn_fields(rng))
    return Case(name, lambda: getattr(metrics, name)(p), lambda found: close(found, OF_MODELS[name](p)))


def _hostile_metric(rng):
    name, (wrong, score) = one_of(rng, list(RANKED)), _ranked(rng)
    spoilt, marked = score.copy(), wrong.astype(float)
    spoilt[rng.integers(len(score))], marked[rng.integers(len(score))] = math.nan, 0.5
    function = getattr(metrics, name)
    call, named = one_of(rng, (
        (lambda: function(wrong, spoilt), "score"), (lambda: function(marked, score), "is_error"),
        (lambda: function(wrong[1:], score), "is_error"), (lambda: function([], []), "is_error"),
        (lambda: function(wrong, score.astype(str)[:1].tolist() + ["x"] * (len(score) - 1)), "score"),
        (lambda: function(wrong, None), "score"), (lambda: function(wrong[None], score[None]), "is_error"),
        (lambda: metrics.selective_accuracy(wrong, score, one_of(rng, NO_NUMBERS[:4] + (0, -1, 2))), "coverage"),
        (lambda: metrics.auroc(wrong | True, score), "is_error"),
        (lambda: metrics.ece(Predictions(**drawn_fields(rng)), bins=one_of(rng, (0, -1, 1.5, None, "2"))), "bins"),
        (lambda: metrics.nll(Predictions(probs=[[1.0, 0.0]])), "labels")))
    return Case(f"{name}, hostile", call, never, (named,))


def _interval(rng):
    (wrong, score), level = _ranked(rng), one_of(rng, (0.5, 0.95))
    runs = [(wrong, {"entropy": score, "other": rng.normal(size=len(wrong))})]
    bad, named = one_of(rng, (
        ({}, ""), ({"level": one_of(rng, NO_NUMBERS[:5] + (0, 1))}, "level"), ({"resamples": 0}, "resamples"),
        ({"resamples": 2.5}, "resamples"), ({"references": ("none",)}, "reference"),
        ({"references": "sua"}, "reference"),
        ({"runs": wrong}, "runs"), ({"runs": runs[0]}, "runs"), ({"runs": []}, "runs"),
        ({"runs": {"entropy": score}}, "runs"),
        ({"runs": [*runs, (wrong, {"other": score})]}, "runs"), ({"runs": [*runs, (wrong[1:], runs[0][1])]}, "items")))
    given = {"runs": runs, "resamples": 20, "level": level, **bad}
    return Case("intervals", lambda: metrics.auroc_intervals(**given), lambda rows: not bad and all(
        row["low"] <= row["high"] and close(row["auroc"], RANKED["auroc"](wrong, runs[0][1][row["score"]]), 1e-8)
        for row in rows), (named, "is_error") if bad else ())


def _adjusted(rng):
    p = rng.random(rng.integers(1, 9)).round(1)
    bad = one_of(rng, (None, None, 1.5, -0.1, "x"))
    given = p if bad is None else [*p, bad]

    def holm(found):
        order = sorted(range(len(p)), key=lambda i: p[i])
        steps = np.maximum.accumulate([p[i] * (len(p) - j) for j, i in enumerate(order)])
        return bad is None and close(found[order], np.minimum(steps, 1))

    return Case("holm", lambda: metrics.holm(given), holm, () if bad is None else ("p_values",))


# --- rules ---

def rules(rng):
    return one_of(rng, (_fitted_rule, _fitted_rule, _hostile_fit, _at_coverage, _rule_text, _drift))(rng)


def _calibration(rng):
    n = one_of(rng, (10, 60, 200))
    score = rng.normal(size=n).round(one_of(rng, (0, 3)))
    return score, rng.random(n) < one_of(rng, (0.02, 0.3)) * (1 + np.tanh(score))


def _fitted_rule(rng):
    score, wrong = _calibration(rng)
    risk, method, tau = one_of(rng, (0.1, 0.3)), one_of(rng, ("uniform", "bonferroni", "conformal-risk")), None
    tau = np.array([-1.0, 0.0, 1.0])
    counts = [(t, int((score <= t).sum()), int(wrong[score <= t].sum())) for t in tau]

    def right(rule):
        if method == "bonferroni":
            passing = [t for t, n, k in counts if n and binom.cdf(k, n, risk) <= 0.1 / 3]
        elif method == "conformal-risk":
            passing = [t for t, n, k in counts if k + 1 <= risk * (len(score) + 1)]
        elif rule.threshold is None:
            return True
        else:  # a necessary condition: each threshold is tested at a level below delta
            n, k = next((n, k) for t, n, k in counts if t == rule.threshold)
            return binom.cdf(k, n, risk) <= 0.1
        return rule.threshold == (max(passing) if passing else None)

    return Case(method, lambda: sua.AbstentionRule.fit(score, wrong, risk=risk, delta=0.1, thresholds=tau,
                                                       method=method), right)


def _hostile_fit(rng):
    score, wrong = _calibration(rng)
    name, values = one_of(rng, (
        ("risk", (*NO_NUMBERS, 0, 1, -1)), ("delta", (*NO_NUMBERS, 0, 1)), ("k", (-1, 1.5, "4", math.nan, [1])),
        ("score_name", ("banana", 3, ["sua"])), ("method", ("best", None, 3, [])),
        ("scores", (score[:-1], np.append(score[1:], math.nan), np.append(score[1:], math.inf), "text", None, [],
                    score[:, None])),
        ("is_error", (wrong[:-1], wrong + 2, wrong - 0.5, ["x"] * len(wrong), None)),
        ("thresholds", (["x"], [math.nan], [], 3.0)), ("parameters", ({"lam": math.nan}, {"lam": object()}, 3))))
    given = {"scores": score, "is_error": wrong, "risk": 0.2, "delta": 0.1, name: one_of(rng, values)}
    return Case(f"fit with strange {name}", lambda: sua.AbstentionRule.fit(**given), never, (name, "scores"))


def _at_coverage(rng):
    score, _ = _calibration(rng)
    share = one_of(rng, (0.01, 0.5, 0.8, 1.0, 1e-300, *NO_NUMBERS, 0, 1.1))
    usual = isinstance(share, float) and 0.01 <= share <= 1
    possible = isinstance(share, float) and 0 < share <= 1

    def right(rule):
        enough = [t for t in score if (score <= t).sum() >= share * len(score) - 1e-9]
        return possible and rule.threshold == min(enough)

    return Case("at_coverage", lambda: sua.AbstentionRule.at_coverage(score, share), right,
                () if usual else ("coverage",))


def _rule_text(rng):
    score, _ = _calibration(rng)
    rule = sua.AbstentionRule.at_coverage(score, 0.5, score_name="sua", k=8)
    text = rule.to_json()
    at = rng.integers(len(text))
    other = one_of(rng, (text, text, text[:at], text[:at] + chr(rng.integers(1, 500)) + text[at + 1:], "[" * 100_000,
                         "", "null", "3", None, "{}", '{"schema": 99}', '{"schema": "1"}', text + "x", b"\xff"))
    return Case("from_json", lambda: sua.AbstentionRule.from_json(other), lambda found: found == rule,
                () if other == text else ("rule", "AbstentionRule"))


def _drift(rng):
    score, _ = _calibration(rng)
    rule, new = sua.AbstentionRule.at_coverage(score, 1.0), rng.normal(size=40)
    bad, named = one_of(rng, (({}, ""), ({}, ""), ({"scores": []}, "score"), ({"scores": [math.nan]}, "score"),
                              ({"scores": "x"}, "score"),
                              ({"false_alarm": one_of(rng, (*NO_NUMBERS, 5))}, "false_alarm")))
    return Case("drift", lambda: rule.drift(**{"scores": new, **bad}), lambda found: not bad and (
        found.distance <= ks_2samp(score, new).statistic + 1e-12 and 0 <= found.p_value <= 1
        and found.void == (found.p_value <= 0.01)), () if not bad else (named,))


# --- kernels ---

PIECES = ("good", "film", "İstanbul", "it is", "İt is", "ſ", "do not", "don't", ".", " ,", "\t", "\n", "é", "e\u0301",
          "👩‍👩‍👧", "\u202e", "{}", "{question}", "\\1", "(", "[", "$", "^", "x" * 200, "不错的电影", "\x00", "ß", "ﬁ", "I",
          "ı am", "A.", "  ", "\ufeff", "ǅ", "%s")
GROUPS = [["good", "fine", "nice"], ["film", "movie"]]
TEMPLATES = ["{question}", "Say: {question}", "{question} Answer:"]
OF_TEXT = (TYPOS, SURFACE, FRAMING, synonyms(GROUPS), mixture(TYPOS, FRAMING), instructions(TEMPLATES))


def _text(rng):
    words = "".join(one_of(rng, PIECES) + one_of(rng, ("", " ")) for _ in range(rng.integers(1, 12)))
    return words if words.strip() else "a"


def kernels(rng):
    return one_of(rng, (_text_kernel, _text_kernel, _tuple_kernel, _order_kernel, _hostile_kernel))(rng)


def _again(kernel, example, k, seed):
    return kernel.sample(example, k, np.random.default_rng(seed))


def _text_kernel(rng):
    kernel, text, k, seed = one_of(rng, OF_TEXT), _text(rng), int(rng.integers(1, 5)), int(rng.integers(99))
    kept = KEPT.get(kernel.name, lambda a, b: True)
    return Case(f"{kernel.name} of a text", lambda: _again(kernel, text, k, seed), lambda found: (
        len(found) == k and all(isinstance(x, str) and x.strip() and kept(text, x) for x in found)
        and found == _again(kernel, text, k, seed)))


KEPT = {  # what a kernel may not touch
    "framing": lambda a, b: a in b,
    "instructions": lambda a, b: a in b or b in a or any(a in t.replace("{question}", a) for t in TEMPLATES),
    "typos": lambda a, b: sorted(re.sub("[A-Za-z]", "", a)) == sorted(re.sub("[A-Za-z]", "", b)),
    "synonyms": lambda a, b: len(re.findall(r"\w+", a)) == len(re.findall(r"\w+", b)),
}


def _tuple_kernel(rng):
    kernel, pair = one_of(rng, OF_TEXT[:4]), tuple(_text(rng) for _ in range(rng.integers(2, 5)))
    return Case(f"{kernel.name} of a tuple", lambda: variants([pair], kernel, 3), lambda found: all(
        len(x) == len(pair) and sum(a != b for a, b in zip(x, pair)) <= 1 for x in found[0]))


def _order_kernel(rng):
    question = tuple(_text(rng) for _ in range(rng.integers(3, 7)))
    return Case("option order", lambda: _again(OPTION_ORDER, question, 3, 0), lambda found: all(
        x[0] == question[0] and sorted(x[1:]) == sorted(question[1:]) for x in found))


def _hostile_kernel(rng):
    call, named = one_of(rng, (
        (lambda: variants(["a text"], one_of(rng, OF_TEXT), one_of(rng, (0, -1, 1.5, None, "2", math.nan))), ("K = ",)),
        (lambda: variants(["a text"], OPTION_ORDER, 2), ("options",)),
        (lambda: variants([("a", "b")], OPTION_ORDER, 2), ("options",)),
        (lambda: mixture(), ("kernel",)), (lambda: instructions(["no field"]), ("template",)),
        (lambda: variants([one_of(rng, (None, 3, 1.5, b"x", ("a", None), ()))], one_of(rng, OF_TEXT[:4]), 2),
         ("input",))))
    return Case("hostile call of a kernel", call, never, named)


# --- free-form answers ---

WORDS = ("Paris", "Rome", "the Moon", "in Paris", "", "¿?")


def generations(rng):
    n, k, m = rng.integers(1, 4), rng.integers(1, 3), rng.integers(2, 5)
    ended = np.sort(rng.random((n, 4)) < 0.5, axis=1)
    ended[:, 0] = False
    log_p = np.where(ended, math.nan, -rng.exponential(size=(n, 4)))
    given = sua.Generations(
        questions=[f"q{i}" for i in range(n)], answers=rng.choice(WORDS, n), token_logprobs=log_p,
        token_entropies=np.where(ended, math.nan, rng.exponential(size=(n, 4))), p_true=rng.random(n),
        variants=[[f"q{i} {j}" for j in range(k)] for i in range(n)], samples=rng.choice(WORDS, (n, k + 1, m)),
        loglikelihoods=-rng.exponential(size=(n, k + 1, m)))
    clusters, alike = sua.meaning_clusters(given, sua.SameText()), sua.similarities(given)
    if rng.random() < 0.2:
        return _hostile_generation(rng, given, clusters, alike)
    name = one_of(rng, list(GENERATED))  # the others need what only a model of its own gives
    return Case(name, lambda: sua.generation_score(given, name, clusters, alike), lambda found: close(
        found, [GENERATED[name](given, clusters, alike, i) for i in range(n)], 1e-7))


def _hostile_generation(rng, given, clusters, alike):
    two = replace(clusters, samples=np.tile(clusters.samples, (2, 1, 1)), counts=np.tile(clusters.counts, 2))
    arguments, named = one_of(rng, (
        (("banana",), "generation score"), ((["eigv"],), "generation score"), ((None,), "generation score"),
        (("semantic_entropy",), "clusters"), (("eigv",), "similarities"), (("semantic_entropy", two), "clusters"),
        (("discrete_semantic_entropy", alike), "clusters"), (("deg", clusters, alike[:, 0]), "similarities"),
        (("cocoa", clusters, np.tile(alike, (2, 1, 1))), "similarities"),
        (("deg", clusters, alike * math.nan), "similarities"),
        (("eigv", clusters, sua.similarities), "similarities"), (("eigv", clusters, "x"), "similarities")))
    return Case("hostile generation score", lambda: sua.generation_score(given, *arguments), never, (named,))


def _mass(g, clusters, i, likelihood):
    mass, seen = Counter(), {}
    for text, c, ln in zip(g.samples[i, 0].tolist(), clusters.samples[i, 0].tolist(), g.loglikelihoods[i, 0]):
        if likelihood:  # distinct answers count once, at their likeliest
            mass[c] += max(math.exp(ln) - seen.get(text, 0), 0)
            seen[text] = max(seen.get(text, 0), math.exp(ln))
        else:
            mass[c] += 1
    return [value / sum(mass.values()) for value in mass.values()]


def _laplacian(w, normed):
    degree = w.sum(1)
    return np.eye(len(w)) - w / np.sqrt(np.outer(degree, degree)) if normed else np.diag(degree) - w


def _kernel_entropy(w):
    kernel = expm(-0.3 * _laplacian(w, False))
    kernel = kernel / np.sqrt(np.outer(np.diag(kernel), np.diag(kernel))) / len(w)
    return H(np.maximum(np.linalg.eigvals(kernel).real, 0))


GENERATED = {
    "sequence_nll": lambda g, c, s, i: -np.nansum(g.token_logprobs[i]),
    "perplexity": lambda g, c, s, i: -np.nanmean(g.token_logprobs[i]),
    "mean_token_entropy": lambda g, c, s, i: np.nanmean(g.token_entropies[i]),
    "p_true": lambda g, c, s, i: 1 - g.p_true[i],
    "lexical_similarity": lambda g, c, s, i: 1 - mean(
        s[i, a, b] for a in range(1, len(s[i])) for b in range(a + 1, len(s[i]))),
    "semantic_entropy": lambda g, c, s, i: H(_mass(g, c, i, True)),
    "discrete_semantic_entropy": lambda g, c, s, i: H(_mass(g, c, i, False)),
    "eigv": lambda g, c, s, i: sum(max(1 - x, 0) for x in np.linalg.eigvals(_laplacian(s[i, 1:, 1:], True)).real),
    "deg": lambda g, c, s, i: np.trace(np.eye(len(s[i]) - 1) * (len(s[i]) - 1 - s[i, 1:, 1:].sum(1))) / (
        len(s[i]) - 1) ** 2,
    "kernel_language_entropy": lambda g, c, s, i: _kernel_entropy(s[i, 1:, 1:]),
    "sentence_sar": lambda g, c, s, i: -mean(math.log(math.exp(g.loglikelihoods[i, 0, a]) + sum(
        math.exp(g.loglikelihoods[i, 0, b]) * s[i, a + 1, b + 1] / 0.001 for b in range(len(s[i]) - 1) if b != a))
        for a in range(len(s[i]) - 1)),
    "cocoa": lambda g, c, s, i: -np.nansum(g.token_logprobs[i]) * mean(1 - s[i, 0, 1:]),
}


# --- regimes ---

def of_regimes(rng):
    p = Predictions(**drawn_fields(rng))
    plane, limits = _plane(p), (float(rng.random()), float(rng.random()))
    if rng.random() < 0.5:
        letters = {(False, False): "A", (True, True): "B", (False, True): "C", (True, False): "D"}
        clear = (abs(plane - limits) > 1e-9).all()
        return Case("regime", lambda: regimes.regime(p, limits), lambda found: not clear or found.tolist() == [
            letters[s > limits[0], h > limits[1]] for s, h in plane])
    call, named = one_of(rng, (
        (lambda: regimes.regime(p, one_of(rng, ((1,), (1, math.nan), "ab", 3.0, {}, (None, 1), ("1", "2")))),
         "thresholds"),
        (lambda: regimes.regime_thresholds(p, one_of(rng, (*NO_NUMBERS, -1, 2))), "sensitivity_quantile"),
        (lambda: regimes.regime_table(p, ["E"] * len(p)), "regimes"), (lambda: regimes.regime_table(p, "A"), "regimes"),
        (lambda: regimes.regime_table(p, scores={"mine": [1.0] * (len(p) + 1)}), "mine"),
        (lambda: regimes.regime_table(p, scores={"mine": [math.nan] * len(p)}), "mine"),
        (lambda: regimes.regime_table(replace(p, labels=None)), "labels"),
        (lambda: regimes.synthetic_benchmark(one_of(rng, (0, 7, -4, 4, 8.5, None, "8"))), "n = "),
        (lambda: regimes.synthetic_benchmark(8, one_of(rng, (0, -1, 1.5, None))), "k = "),
        (lambda: regimes.synthetic_benchmark(8, labels=one_of(rng, ("x", None, []))), "label rule")))
    return Case("hostile call of regimes", call, never, (named,))


# --- files ---

@contextmanager
def folder():
    """A folder of this process, in memory where there is such a place."""
    home = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    try:
        yield Path(home)
    finally:
        shutil.rmtree(home)


def _tried(write, damage, read):
    with folder() as home:
        file = write(home / "saved")
        file.write_bytes(damage(file.read_bytes()))
        return read(file)


def files(rng):
    p = Predictions(**drawn_fields(rng))
    how, at, bit = one_of(rng, ("whole", "flip", "flip", "cut", "other")), rng.random(), 1 << int(rng.integers(8))
    if how == "whole":
        ids = [f"{i}{one_of(rng, PIECES)}".replace("\0", "") for i in range(len(p))]  # Predictions refuse a NUL
        p = replace(p, ids=ids, meta={"text": one_of(rng, PIECES), "deep": [[[1.5]]]})

    def damage(content):
        i = int(at * len(content))
        return {"whole": content, "flip": content[:i] + bytes([content[i] ^ bit]) + content[i + 1:],
                "cut": content[:i], "other": one_of(np.random.default_rng(i), (b"", b"PAR1", b"\0" * 99, b"{}"))}[how]

    return Case(f"file, {how}", lambda: _tried(p.save, damage, Predictions.load), lambda found: equal(found, p),
                () if how == "whole" else ("saved",))


# --- a model behind a hostile server ---

KEY = "sk-never-to-be-seen"
LISTED = {"A": 0.5, " B": 0.25, "the": 0.125}
EXPECTED = [[0.5 / 0.75, 0.25 / 0.75]]


def _bodies(rng):
    """Answers of a server that are not as they should be."""
    from models.test_remote import completion

    status, text, headers = completion(top=LISTED)
    whole = json.loads(text)

    def spoilt(value, *path):
        body, place = json.loads(text), None
        for step in path:
            place, body_at = (body if place is None else place[last]), step
            last = body_at
        place[last] = value
        return 200, json.dumps(body).encode(), {}

    top = ("choices", 0, "logprobs", "content", 0, "top_logprobs")
    return one_of(rng, (
        *[spoilt(value, *top, 0, "logprob") for value in (*NO_NUMBERS[:6], 1e308, {}, True)],
        *[spoilt(value, *top, 0, "token") for value in (None, 3, [], {}, "\x00")],
        *[spoilt(value, *top) for value in (None, {}, "x", [None], [[]], 3)],
        *[spoilt(value, "choices", 0, "logprobs") for value in (3, [], "x", {"content": 3}, {"content": [None]})],
        *[spoilt(value, "choices", 0, "message") for value in (None, 3, [], {}, {"content": 7}, {"content": ["A"]})],
        *[spoilt(value, "choices") for value in (None, [], [None], {}, "x", [3])],
        *[(200, body, {}) for body in (b"", b"null", b"[]", b"3", b"<html>", b"\xff\xfe", b"[" * 5000, text[:-9],
                                       json.dumps({**whole, "error": KEY}).encode())],
        *[(code, one_of(rng, (b"", b"{}", KEY.encode(), b"<html>", text)), {})
          for code in (201, 204, 301, 400, 401, 404, 418, 422, 429, 500, 503)],
        (200, text, {"Content-Encoding": "gzip"}), (200, text, {"Content-Type": "text/html"}), None))


class Remote:
    """One server for the whole campaign; what it answers is the case's."""

    def __init__(self):
        self.server, self.model, self.answer = None, None, None

    def case(self, rng):
        from models.test_remote import Server, completion

        if self.server is None:
            self.server = Server(lambda request, attempt: self.answer).__enter__()
            self.model = sua.RemoteLM(self.server.url, "m", retries=0, samples=2, concurrency=2, timeout=5, api_key=KEY)
        hostile, sound = _bodies(rng), completion(top=LISTED)
        return Case("remote", lambda: self._asked_twice(hostile, sound), lambda found: found == "as promised",
                    ("model 'm'",), (sua.RemoteError, ValueError))

    def _asked_twice(self, hostile, sound):
        """A hostile answer, then a sound one to the same question: the first must leave no trace."""
        with folder() as cache, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            outcomes = [self._ask(answer, cache) for answer in (hostile, sound)]
            leaked = any(KEY.encode() in file.read_bytes() for file in cache.iterdir())
        first, second = outcomes
        if leaked or isinstance(first, Exception) and KEY in str(first):
            return "the key is in the cache or in an error"
        if isinstance(first, Exception):
            if isinstance(second, Exception) or not close(second, EXPECTED):
                return f"{first!r}, then {second!r}"
            raise first
        sums = np.isfinite(first).all() and (first >= 0).all() and close(first.sum(1), [1])
        return "as promised" if sums and np.array_equal(second, first) else f"{first!r}, then {second!r}"

    def _ask(self, answer, cache):
        self.answer, self.model.cache, self.model.logprobs = answer, cache, None
        try:
            return self.model.predict_proba([("which", "one", "two")])
        except Exception as error:
            return error


# of 100 cases
FAMILIES = {"scores": (scores, 28), "predictions": (predictions, 18), "metrics": (of_metrics, 19), "rules": (rules, 12),
            "kernels": (kernels, 9), "generation": (generations, 5), "regimes": (of_regimes, 4), "files": (files, 3),
            "remote": (Remote().case, 2)}


def attempt(family: str, number: int) -> tuple[str, str, str]:
    """What case `number` of a family is, its outcome, and what came back."""
    make, _ = FAMILIES[family]
    case = make(np.random.default_rng([list(FAMILIES).index(family), number]))
    return case.what, *outcome(case)


def campaign(n: int):
    """Outcomes per family of n cases, the number of the first case of each kind of failure, and seconds per family."""
    table, failures, spent = {family: Counter() for family in FAMILIES}, {}, {}
    for family, (_, share) in FAMILIES.items():
        start = time.monotonic()
        for number in range(-(-n * share // 100)):
            what, result, came = attempt(family, number)
            table[family][result] += 1
            if result in BAD:
                kind = family, result, what, re.sub(r"[\d.]+", "#", came)[:60]
                failures.setdefault(kind, []).append((number, came))
        spent[family] = time.monotonic() - start
    return table, failures, spent


def shown(table) -> list[str]:
    """The lines of the table."""
    lines = [f"| family | cases | {' | '.join(OUTCOMES)} |", "| --- |" + " --- |" * (1 + len(OUTCOMES))]
    for family, counts in [*table.items(), ("all", sum(table.values(), Counter()))]:
        lines.append(f"| {family} | {counts.total()} | {' | '.join(str(counts[name]) for name in OUTCOMES)} |")
    return lines


def report(table, failures, spent) -> str:
    """The table, and each kind of failure with one case to try again."""
    lines = shown(table)
    for (family, result, what, _), cases in sorted(failures.items()):
        number, came = cases[0]
        lines.append(f"{result} x {len(cases)}: {family} {number} ({what}): {came[:160]}")
    slowest = max(spent, key=spent.get)
    return "\n".join([*lines, f"{sum(spent.values()):.0f} s, most of it for {slowest} ({spent[slowest]:.0f} s)"])


def main(arguments):
    if len(arguments) == 2:
        print(*attempt(arguments[0], int(arguments[1])), sep="\n")
        return 0
    table, failures, spent = campaign(int(arguments[0]) if arguments else 10_000)
    print(report(table, failures, spent))
    if sum(table.values(), Counter()).total() >= FULL:
        TABLE.write_text("\n".join([*shown(table), ""]), encoding="utf-8")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
