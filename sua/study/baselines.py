"""What notebook 04 asks of every model: one function per question, rows of a table as the answer.

A cell is a task and a training, {(task, training): [Predictions, one per seed]}; a setting is one recorded language
model. Every score that is fitted sees `held`, the calibration items, and is judged on `tested`, others.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Iterable, Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr

from .. import metrics
from ..decide import regimes
from ..decide.abstention import AbstentionRule
from ..decide.certificates import error_floor, misalignment_test
from ..decide.diagnosis import lambda_diagnosis
from ..decide.miscalibration import orbit_calibration_error
from ..decide.probability import METHODS, calibrate, reliability
from ..decide.removable import geometric_mean, removable_risk
from ..decide.risk_control import compare_methods
from ..decide.sets import answer_sets
from ..divergences import entropy
from ..predictions import Predictions
from ..scores import SCORES, SIGNED_LAMBDAS, affordable, available, score, sua
from .report import Stage, score_all

Cells = dict[tuple[str, str], list[Predictions]]
RIVALS = ("entropy", "sensitivity", "sua", "self_consistency", "orbit_entropy", "spuq", "alarm")
UNFITTED = ("msp", "entropy", "sensitivity", "sua", "orbit_msp", "orbit_entropy", "disagreement")
WITH_INTERVALS = ("entropy", "self_consistency", "sensitivity", "sua", "sua_repaired")
DOUBT = ("entropy", "sensitivity", "orbit_entropy", "sua_repaired")  # compared with people's
RANKING = ("msp", "entropy", "orbit_entropy")  # scores that the methods of certifying are compared on
CERTIFIED = ("error", "top_label", "class_wise", "brier", "log")  # bounds whose measured counterpart is not below them


def load_cells(stage: Stage, tasks: Iterable[str], trainings: Iterable[str], seeds: Sequence[int], split: str) -> Cells:
    """The predictions that notebook 03 saved of a split; not every method is trained on every task."""
    found = {}
    for task in tasks:
        for training in trainings:
            files = [f"predictions/{task}-{training}-{seed}-{split}.parquet" for seed in seeds]
            if stage.exists("03_sua_tr_training", files[0]):
                found[task, training] = [Predictions.load(stage.upstream("03_sua_tr_training", file)) for file in files]
    return found


def with_ensembles(cells: Cells) -> Cells:
    """Each run with the other seeds of its training as ensemble members; unchanged where there is one seed."""
    return {key: [p.with_members([other for other in runs if other is not p]) for p in runs] if len(runs) > 1 else runs
            for key, runs in cells.items()}


def strata(task: str, p: Predictions) -> dict[str, np.ndarray]:
    """{title: (N,) bool}: all inputs, and in a world whose p* is known the clear and the ambiguous ones apart."""
    everything = {task: np.ones(len(p), dtype=bool)}
    if p.label_dist is None or p.meta.get("truth") != "exact":
        return everything
    ambiguous = p.label_dist.max(-1) < 1
    return {**everything, f"{task} (clear)": ~ambiguous, f"{task} (ambiguous)": ambiguous}


def scores_of(tested: Sequence[Predictions], held: Sequence[Predictions]) -> list[dict[str, np.ndarray]]:
    """{name: (N,)} per seed, of the scores that exist for all seeds."""
    values = [score_all(p, calibration) for p, calibration in zip(tested, held)]
    common = set.intersection(*map(set, values))
    return [{name: s for name, s in of_seed.items() if name in common} for of_seed in values]


def by_stratum(task: str, tested: Sequence[Predictions], values: Sequence[Mapping]) -> dict[str, list]:
    """{title: [(is_error, {name: score}) per seed]} of every stratum in which each run has errors and right answers."""
    found = {}
    for title, mask in strata(task, tested[0]).items():
        runs = [(p.is_error[mask], {name: s[mask] for name, s in v.items()}) for p, v in zip(tested, values)]
        single = [wrong.mean() for wrong, _ in runs if len(np.unique(wrong)) < 2]
        if single:
            print(f"{title}: n/a, errors and right answers are needed, a run has an error rate of {single[0]:.0%}")
        else:
            found[title] = runs
    return found


def doubt_rows(tested: Sequence[Predictions], held: Sequence[Predictions], resamples: int, level: float = 0.95
               ) -> list[dict]:
    """Spearman's rank correlation of each score of DOUBT with the entropy of people's votes (label_dist), mean over
    seeds, with a percentile interval over items: rows {"score", "rho", "low", "high"}. It reads no answer's rightness,
    but for what `sua_repaired` was fitted on."""
    votes, rng = entropy(tested[0].require("label_dist")), np.random.default_rng(0)
    drawn = [slice(None), *(rng.integers(len(votes), size=len(votes)) for _ in range(resamples))]
    of_seeds, rows = [score_all(p, c, DOUBT) for p, c in zip(tested, held)], []
    for name in (name for name in DOUBT if all(name in values for values in of_seeds)):
        rho = [np.mean([spearmanr(values[name][items], votes[items]).statistic for values in of_seeds])
               for items in drawn]
        low, high = np.percentile(rho[1:], [50 * (1 - level), 50 * (1 + level)])
        rows.append({"score": name, "rho": rho[0], "low": low, "high": high})
    return rows


def repaired_row(tested: Sequence[Predictions], held: Sequence[Predictions], resamples: int) -> dict | None:
    """`sua_repaired` beside the best of RIVALS, picked in hindsight; None where it cannot be fitted or judged."""
    runs = [(p.is_error, score_all(p, c, [*RIVALS, "sua_repaired"])) for p, c in zip(tested, held)]
    if any("sua_repaired" not in values or len(np.unique(wrong)) < 2 for wrong, values in runs):
        return None
    found = {row["score"]: row for row in metrics.auroc_intervals(runs, ("entropy",), resamples)}
    ours, best = found["sua_repaired"], max(RIVALS, key=lambda name: found[name]["auroc"])
    return {"sua_repaired": ours["auroc"], "best rival": best, "its AUROC": found[best]["auroc"],
            "ahead by": ours["auroc"] - found[best]["auroc"], "entropy": found["entropy"]["auroc"],
            "over entropy": ours["gain"], "low": ours["gain_low"], "high": ours["gain_high"]}


def regime_row(tested: Sequence[Predictions], held: Sequence[Predictions], resamples: int) -> dict | None:
    """SUA's advantage over entropy on `tested` beside the shares of regime D and the diagnosis on `held`; None where a
    ranking or a diagnosis needs more errors or more right answers."""
    runs = [(p.is_error, score_all(p, scores=["entropy", "sensitivity", "sua"])) for p in tested]
    try:
        found = {row["score"]: row for row in metrics.auroc_intervals(runs, ("entropy",), resamples)}
        helps = [diagnosis(p).helps for p in held]
    except ValueError:
        return None
    checks = [regimes.validity(p) for p in tested]
    return {"median D": np.mean([(regimes.regime(p) == "D").mean() for p in held]),
            "absolute D": np.mean([regimes.absolute_d(p).mean() for p in held]),
            "advantage": found["sua"]["gain"], "low": found["sua"]["gain_low"], "high": found["sua"]["gain_high"],
            "S over entropy": found["sensitivity"]["gain"],
            "a lambda > 0 helps": ", ".join({True: "yes", False: "no", None: "?"}[told] for told in helps),
            **{f"S/H {name}": np.mean([check[name] for check in checks])
               for name in ("mean_ratio", "ratio_of_means", "median_ratio")}}


def diagnosis(p: Predictions):
    """`lambda_diagnosis` of these labelled items, from 200 resamples."""
    return lambda_diagnosis(score(p, "sensitivity"), score(p, "entropy"), p.is_error, resamples=200)


# --- recorded language models ---

def split_items(p: Predictions, items: int | None = None, seed: int = 0) -> tuple[Predictions, Predictions]:
    """(held, tested): a quarter and three quarters of `items` items, drawn with `seed` (None: of all of them)."""
    drawn = np.random.default_rng(seed).permutation(len(p))[:items]
    quarter = len(drawn) // 4
    return p.subset(drawn[:quarter]), p.subset(drawn[quarter:])


def llm_intervals(held: Predictions, tested: Predictions, resamples: int) -> list[dict]:
    """AUROC of WITH_INTERVALS, and their gains over entropy and over self-consistency (10 answers drawn from p)."""
    values = score_all(tested.sample(10), held, WITH_INTERVALS)
    return metrics.auroc_intervals([(tested.is_error, values)], ("entropy", "self_consistency"), resamples)


def llm_row(held: Predictions, tested: Predictions, found: Sequence[Mapping], risk: float = 0.1, delta: float = 0.1
            ) -> dict[str, object]:
    """One setting: the model, AUROC of its scores, the gains in `found`, lambda foretold and measured, and the share of
    inputs answered under the promise (risk, delta) with msp as the score."""
    values = score_all(tested, held, [*UNFITTED, "sua_repaired"])
    aurocs = {name: metrics.auroc(tested.is_error, s) for name, s in values.items()}
    gains = {row["score"]: row for row in found if row["reference"] == "entropy"}
    told = diagnosis(held)
    of_lambda = [metrics.auroc(tested.is_error, sua(tested, lam)) for lam in SIGNED_LAMBDAS]
    rule = AbstentionRule.fit(score(held, "msp"), held.is_error, risk=risk, delta=delta)
    return {"template": tested.meta["template"], "items": len(tested), "accuracy": metrics.accuracy(tested),
            "ece": metrics.ece(tested), "SUA > 0": float((values["sua"] > 0).mean()), **aurocs,
            **{f"{name} {column}": gains[name][column] for name in ("sua", "sua_repaired")
               for column in ("gain", "gain_low", "gain_high", "p")},
            "repaired ahead by": aurocs["sua_repaired"] - max(aurocs[name] for name in UNFITTED),
            "lambda foretold": told.lam, "lambda low": told.interval[0], "lambda high": told.interval[1],
            "lambda best": SIGNED_LAMBDAS[int(np.argmax(of_lambda))], "its AUROC": max(of_lambda),
            "answered": float(rule.accept(score(tested, "msp")).mean())}


def by_knowledge(settings: Mapping[str, tuple[Predictions, Predictions]], parts: int = 3) -> list[dict]:
    """Accuracy and AUROCs, means over the settings, where the models know little, more and most.

    settings : {name: (held, tested)}. Subjects are ordered by the accuracy of all models on the held items; the parts
    hold as many subjects each. A setting without errors or right answers in a part is left out of its mean.
    """
    right = defaultdict(list)
    for held, _ in settings.values():
        for item, is_error in zip(held.ids, held.is_error):
            right[held.meta["subject"][item]].append(not is_error)
    order = sorted(right, key=lambda subject: (np.mean(right[subject]), subject))
    values = {name: score_all(tested, held, WITH_INTERVALS) for name, (held, tested) in settings.items()}
    rows = []
    for subjects in np.array_split(order, parts):
        found = [_part_of(tested, values[name], set(subjects.tolist())) for name, (_, tested) in settings.items()]
        found = [row for row in found if row]
        rows.append({"subjects": len(subjects), "settings": len(found), **{
            name: float(np.mean([row[name] for row in found])) for name in (found[0] if found else ())}})
    return rows


def _part_of(tested, values, subjects):
    inside = np.array([tested.meta["subject"][item] in subjects for item in tested.ids])
    wrong = tested.is_error[inside]
    if len(np.unique(wrong)) < 2:
        return None
    aurocs = {name: metrics.auroc(wrong, s[inside]) for name, s in values.items()}
    return {"accuracy": float(1 - wrong.mean()), **aurocs}


# --- what is certified ---

def certificates(p: Predictions, delta: float = 0.05) -> dict[str, object]:
    """What can be said about a model without a label, with confidence 1 - delta each, and what the labels say.

    "<name> ≥": the bound; "<name>": its measured counterpart, on the pooled orbits. error: share of wrong answers.
    canonical: E TV(p, E[p*|p]), which cannot be measured; beside it stands its part that can, the class-wise error.
    top_label, class_wise: `orbit_calibration_error`. brier, log: what answering by the (geometric) mean takes off.
    """
    wrong = p.orbit.argmax(-1) != p.require("labels")[:, None]
    row = {"items": len(p), "K": p.perturbed.shape[1], "SUA > 0": float((score(p, "sua") > 0).mean()),
           "error ≥": error_floor(p, delta).bound, "error": float(wrong.mean()),
           "canonical ≥": misalignment_test(p, delta, kind="tv").bound,
           "canonical": orbit_calibration_error(p, "class_wise", within=("class",))}
    for kind in ("top_label", "class_wise"):
        row |= {f"{kind} ≥": misalignment_test(p, delta, kind=kind).bound, kind: orbit_calibration_error(p, kind)}
    for loss in ("brier", "log"):
        row |= {f"{loss} ≥": removable_risk(p, delta, loss=loss).bound, loss: removed(p, loss)}
    return row


def removed(p: Predictions, loss: str) -> float:
    """By how much the labels say that answering by the mean ("brier") or geometric mean ("log") of the orbit lowers the
    mean loss; infinite where a formulation excludes the label."""
    orbit, labels = p.orbit, p.require("labels")

    def losses(q):
        y = labels.reshape(-1, *[1] * (q.ndim - 1))
        if loss == "brier":
            return ((q - (np.arange(q.shape[-1]) == y)) ** 2).sum(-1)
        with np.errstate(divide="ignore"):
            return -np.log(np.take_along_axis(q, y, -1)[..., 0])

    before, mean = losses(orbit).mean(1), orbit.mean(1) if loss == "brier" else geometric_mean(orbit)
    return float((before - losses(mean)).mean()) if np.isfinite(before).all() else np.inf


def _comparable(p, name):
    """A score for a rule; an item at its threshold but for rounding is answered on every processor, or on none."""
    return metrics.comparable(score(p, name))


def certified_rows(tested: Predictions, held: Predictions, promises: Iterable[Sequence[float]]) -> list[dict]:
    """Coverage and error on `tested` of every score's rule under every promise (risk, delta).

    A score fitted on the calibration split may not be certified on it, so that those are left out.
    """
    rows = []
    for name in available(held):
        calibrating, new = _comparable(held, name), _comparable(tested, name)
        for risk, delta in promises:
            rule = AbstentionRule.fit(calibrating, held.is_error, risk=risk, delta=delta, score_name=name,
                                      k=tested.perturbed.shape[1])
            accepted = rule.accept(new)
            rows.append({"score": name, "risk": risk, "delta": delta, "coverage": accepted.mean(),
                         "error": tested.is_error[accepted].mean() if accepted.any() else np.nan})
    return rows


def method_rows(kind: str, pools: Iterable[Predictions], sizes: Sequence[int] = (100, 300, 500, 1000),
                delta: float = 0.1) -> list[dict]:
    """`compare_methods` over RANKING of every pool, for each number of calibration items drawn from it; the other items
    judge. A size above half of the smallest pool is left out; if none is below, that half is taken."""
    pools = list(pools)
    values = [[(_comparable(p, name), p.is_error) for name in RANKING] for p in pools]
    half, rows = min(map(len, pools)) // 2, []
    for n in [size for size in sizes if size <= half] or [half]:
        orders = [np.random.default_rng(0).permutation(len(p)) for p in pools]
        sets = [(s[order[:n]], wrong[order[:n]], s[order[n:]], wrong[order[n:]])
                for order, of_pool in zip(orders, values) for s, wrong in of_pool]
        rows += [{"predictions": kind, "calibration items": n, "sets": len(sets), **row}
                 for row in compare_methods(sets, delta=delta)]
    return rows


def broken_shares(p: Predictions, name: str, risk: float, delta: float, repeats: int, size: int = 500) -> dict:
    """How often a promise is broken when `p` is the world and `size` calibration items are drawn from it: by the rule,
    and by the shortcut, the largest threshold whose observed error rate is at most `risk`."""
    s, wrong, rng = _comparable(p, name), p.is_error, np.random.default_rng(0)
    exceeded = {"promise broken": [], "shortcut broken": []}
    for _ in range(repeats):
        drawn = rng.integers(len(s), size=size)
        rule = AbstentionRule.fit(s[drawn], wrong[drawn], risk=risk, delta=delta)
        allowed = np.flatnonzero(metrics.selective_risk(wrong[drawn], s[drawn]) <= risk)
        tau = np.sort(s[drawn])[allowed[-1]] if len(allowed) else -np.inf
        for way, accepted in zip(exceeded, (rule.accept(s), s <= tau)):
            exceeded[way].append(accepted.any() and wrong[accepted].mean() > risk)
    return {"promise broken": np.mean(exceeded["promise broken"]), "allowed": delta,
            "shortcut broken": np.mean(exceeded["shortcut broken"])}


# --- probabilities of error, and answer sets ---

def probability_rows(tested: Sequence[Predictions], held: Sequence[Predictions], scores: Iterable[str] = SCORES,
                     methods: Iterable[str] = METHODS) -> list[dict]:
    """Of every score, calibrated by every method on `held`, how good a probability of error it is on `tested`: ECE,
    Brier score and that of the constant error rate, means over the runs.

    Runs whose calibration items hold no error, or nothing but errors, are left out, and scores that lack a field, or
    whose own fit four fifths of the calibration items are too few for.
    """
    runs = [(p, c) for p, c in zip(tested, held) if len(np.unique(c.is_error)) == 2]
    rows = []
    for name in scores:
        if not runs or not all(name in available(p, c) for p, c in runs):
            continue
        new = [score_all(p, c, [name])[name] for p, c in runs]
        for method in methods:
            try:
                fits = [calibrate(name, c, method) for _, c in runs]
            except ValueError:
                break
            told = [reliability(p.is_error, fit(values)) for (p, _), fit, values in zip(runs, fits, new)]
            rows.append({"score": name, "method": method, "ece": np.mean([t.ece for t in told]),
                         "brier": np.mean([t.brier for t in told]), "constant": np.mean([t.reference for t in told])})
    return rows


def set_rows(tested: Predictions, held: Predictions, coverage: float = 0.9, delta: float = 0.1) -> list[dict]:
    """Answer sets of `coverage` by each method, on p and on the orbit's mean; beside them what the rule answers that
    promises the same risk, 1 - coverage, by msp and by orbit_msp.

    covered : share of the sets that hold the label. size : mean number of answers. single : share of the sets of one
    answer, and error among these. answered, its error : of the rule.
    """
    rows = []
    for on, by in (("p", "msp"), ("orbit", "orbit_msp")):
        rule = AbstentionRule.fit(score(held, by), held.is_error, risk=round(1 - coverage, 12), delta=delta)
        accepted = rule.accept(score(tested, by))
        for method in ("lac", "aps") if len(np.unique(held.labels)) > 2 else ("lac",):
            sets = answer_sets(tested, held, coverage, method, on)
            covered, size = sets[np.arange(len(sets)), tested.labels], sets.sum(1)
            rows.append({"on": on, "method": method, "covered": covered.mean(), "size": size.mean(),
                         "single": (size == 1).mean(), "error among them": _mean_or_nan(~covered, size == 1),
                         "answered": accepted.mean(), "its error": _mean_or_nan(tested.is_error, accepted)})
    return rows


BUDGETS = {  # what one can have: the parameters of `affordable`
    "text from an API, M answers": {"access": "text", "variants": False, "labels": False},
    "text from an API, K + 1 prompts": {"access": "text", "samples": False, "labels": False},
    "one pass": {"access": "hidden states", "variants": False, "samples": False, "labels": False},
    "one pass, labels": {"access": "hidden states", "variants": False, "samples": False},
    "K + 1 passes": {"access": "hidden states", "samples": False, "labels": False},
    "K + 1 passes, labels": {"access": "hidden states", "samples": False},
}


def budget_rows(settings: Mapping[str, tuple[Predictions, Predictions]], labels: int = 100) -> list[dict]:
    """For every budget its score of highest mean AUROC over the settings, fitted on `labels` of the held items; the
    mean and the lowest of its gains over msp. The best is picked in hindsight.

    A setting in which the labelled items, or the judged ones, hold no error or nothing but errors is left out.
    """
    found = []
    for held, tested in settings.values():
        held = held.subset(slice(labels))
        if len(np.unique(held.is_error)) == 2 == len(np.unique(tested.is_error)):
            values = score_all(tested.sample(10), held)
            found.append({name: metrics.auroc(tested.is_error, s) for name, s in values.items()})
    rows = []
    for budget, can in BUDGETS.items():
        names = [name for name in affordable(**can) if all(name in row for row in found)]
        mean = {name: np.mean([row[name] for row in found]) for name in names if found}
        if mean:
            best = max(mean, key=mean.get)
            gain = [row[best] - row["msp"] for row in found]
            rows.append({"budget": budget, "scores": len(names), "best": best, "AUROC": mean[best],
                         "over msp": np.mean(gain), "at worst": min(gain)})
    return rows


def _mean_or_nan(values, chosen):
    return values[chosen].mean() if chosen.any() else np.nan
