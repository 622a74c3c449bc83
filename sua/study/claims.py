"""The ledger: every claim of the paper with a criterion, and the verdict that the results give it.

A verdict is computed, never typed: `supported` (the criterion holds), `refuted` (its contrary does), `repaired`
(false as printed, and a corrected statement holds), `mixed` (it depends, and the evidence says on what) or
`not tested` (the results at hand cannot decide). The paper's PDF was not at hand: claims are quoted from its abstract
and from secondary sources.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Mapping

import pandas as pd

VERDICTS = ("supported", "refuted", "repaired", "mixed", "not tested")
Judgement = tuple[str, str]


@dataclass(frozen=True)
class Results:
    """What a verdict may rest on.

    metrics : long frame (task, model, training, score, metric, seed, value). intervals : AUROC of every score with
    its gain over a reference, per task and training. facts : findings of the theory checks by claim id. comparison :
    measures of every training with its gain over a reference training, per task. tables : further tables of the
    baselines by name (synthetic, regimes, validity).
    """

    metrics: pd.DataFrame
    intervals: pd.DataFrame
    facts: Mapping[str, Mapping]
    comparison: pd.DataFrame = field(default_factory=pd.DataFrame)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def mean(self, metric: str, **where) -> pd.Series:
        """Mean over seeds of a metric, by task and training; `where` selects rows."""
        rows = self.metrics[self.metrics["metric"] == metric]
        for column, value in where.items():
            rows = rows[rows[column] == value]
        return rows.groupby(["task", "training"], sort=False)["value"].mean()


@dataclass(frozen=True)
class Claim:
    id: str
    claim: str
    source: str
    criterion: str
    judge: Callable[[Results], Judgement]


def _printed_and_repaired(claim: str) -> Callable[[Results], Judgement]:
    """A printed bound: refuted if a checked world violates it, repaired if moreover the corrected one never fails;
    mixed if it holds for total variation and fails for the divergence that the paper computes with, KL."""

    def judge(results):
        facts = results.facts.get(claim)
        if not facts:
            return "not tested", "the theory checks have not been run"
        if facts["printed_violations"] == 0:
            holds = f"no violation in {facts['worlds']} random label-preserving worlds with total variation"
            if not facts.get("kl_violations"):
                return "supported", holds
            return "mixed", f"{holds}; but {facts['refuted_by']}; repaired: {facts['repaired_by']}"
        evidence = f"refuted as printed: {facts['refuted_by']}"
        if facts["repaired_violations"] == 0 and facts.get("calibrated_violations", 0) == 0:
            return "repaired", f"{evidence}; repaired: {facts['repaired_by']}"
        return "refuted", evidence

    return judge


def _worst_case(results: Results) -> Judgement:
    """C3 as a printed bound, and what its repair says of trained models over the formulations of the test inputs."""
    verdict, evidence = _printed_and_repaired("C3")(results)
    table = results.tables.get("formulations")
    if verdict == "not tested" or table is None or table.empty:
        return verdict, evidence
    table = table[table["passes"] == 1]
    exact = (table["brier"] - table["of the mean"] - table["removable"]).abs() < 1e-9
    below = table["worst"] <= table["limit"] + 1e-9
    evidence += (f"; on {len(table)} trained models the identity holds in {exact.sum()}, with S_2 from "
                 f"{table['removable'].min():.3f} to {table['removable'].max():.3f}, and the worst formulation is "
                 f"within its limit in {below.sum()}: sqrt(E max Brier) {table['worst'].mean():.3f} on average, limit "
                 f"{table['limit'].mean():.3f}")
    return (verdict if exact.all() and below.all() else "refuted"), evidence


def _failure_prediction(results: Results) -> Judgement:
    rows = results.intervals
    rows = rows[(rows["score"] == "sua") & rows["reference"].isin(["entropy", "self_consistency"])]
    apart = {task.split(" (")[0] for task in rows["task"] if "(" in task}
    rows = rows[~rows["task"].isin(apart)]  # clear and ambiguous inputs pooled may rank scores as neither part does
    if rows.empty:
        return "not tested", "no AUROC of SUA with an interval"
    better, worse = rows["gain_low"] > 0, rows["gain_high"] < 0
    parts = []
    for reference, cell in rows.groupby("reference", sort=False):
        extremes = [cell.loc[cell["gain"].idxmax()], cell.loc[cell["gain"].idxmin()]]
        kinds = "; ".join(f"{kind}: {better[of_kind.index].sum()} and {worse[of_kind.index].sum()} of {len(of_kind)}"
                          for kind, of_kind in cell.groupby(cell["task"].map(_kind), sort=False))
        parts.append(f"over {reference.replace('_', '-')}: better in {better[cell.index].sum()}, worse in "
                     f"{worse[cell.index].sum()} of {len(cell)} cells ({kinds}), " + ", ".join(
                         f"{row.task}/{row.training} {row.gain:+.3f} [{row.gain_low:+.3f}, {row.gain_high:+.3f}]"
                         for row in (extremes if len(cell) > 1 else extremes[:1])))
    verdict = "supported" if better.all() else "refuted" if worse.all() else "mixed"
    return verdict, "; ".join(parts)


LANGUAGE_MODELS = "mmlu"  # the task under which notebook 04 lists the recorded language models


def _is_language_model(task):
    return task == LANGUAGE_MODELS or task.startswith("zero-shot ")


def _kind(task):
    if _is_language_model(task):
        return "language models" if task == LANGUAGE_MODELS else "language models asked here"
    return f"{task.split(' (')[1][:-1]} inputs" if "(" in task else "all inputs"


_OWN = ("sua_tr", "sua_tr_repaired", "consistency", "alignment", "soft_labels")  # its parts, and who knows p*
_LOWER_IS_BETTER = ("ece_scaled",)


def _training(results: Results) -> Judgement:
    rows = results.comparison
    if rows.empty or "sua_tr" not in set(rows["reference"]):
        return "not tested", "SUA-TR was not trained beside another method"
    rivals = rows[(rows["reference"] == "sua_tr") & ~rows["training"].isin(_OWN)]
    if rivals.empty:
        return "not tested", "SUA-TR was not trained beside another method"
    sign = rivals["metric"].isin(_LOWER_IS_BETTER).map({True: 1, False: -1})
    low, high = sign * rivals["gain_low"], sign * rivals["gain_high"]
    ahead, behind = (low > 0) & (high > 0), (low < 0) & (high < 0)
    parts = [f"{metric}: ahead of {ahead[cell.index].sum()}, behind {behind[cell.index].sum()} of {len(cell)}"
             for metric, cell in rivals.groupby("metric", sort=False)]
    verdict = "supported" if ahead.all() else "refuted" if not ahead.any() else "mixed"
    return verdict, (
        f"printed SUA-TR against {rivals['training'].nunique()} methods on {rivals['task'].nunique()} tasks (without "
        "its own terms alone, its repair and soft labels), by 95 % intervals over test items at equal compute: the "
        f"more variants, the fewer inputs. {'; '.join(parts)}")


MUST_COLLAPSE = 0.5  # share of the ambiguous inputs whose answers collapse, for C8 to be supported


def _collapse(results: Results) -> Judgement:
    judged = ("zero-shot", "majority")  # language models, and tiny ones of worlds under majority labels
    rate = pd.concat([results.mean("collapse_rate", training=training) for training in judged])
    seen = {score: pd.concat([results.mean("collapse_auroc", score=score, training=training) for training in judged])
            for score in ("sua", "clarification_sua")}
    if rate.empty or seen["sua"].empty:
        return "not tested", "no ambiguous inputs were evaluated"

    def told(values):
        return ", ".join(f"{task} {value:.3f}".replace("nan", "n/a") for (task, _), value in values.items())

    evidence = (f"collapse rate, in worlds under majority labels: {told(rate)}; AUROC of SUA for collapsed answers: "
                f"{told(seen['sua'])}; with clarifications as the kernel: {told(seen['clarification_sua'])}")
    real = results.mean("ambiguity_auroc_all", score="clarification_sua")
    if len(real):
        evidence += f"; the latter for ambiguous real text: {told(real)}"
    if (rate < MUST_COLLAPSE).any():
        return "refuted" if (rate < MUST_COLLAPSE).all() else "mixed", f"{evidence}: not everywhere do they collapse"
    if seen["sua"].isna().any():
        return "not tested", f"{evidence}: no clear inputs to compare with"
    if (seen["sua"] >= 0.75).all():
        return "supported", evidence
    return "repaired" if (seen["clarification_sua"] >= 0.9).all() and (real >= 0.9).all() else "mixed", evidence


_PUBLISHED = {"H": 0.228, "self-consistency (samples at x)": 0.500, "S - H": 0.877}


def _synthetic(results: Results) -> Judgement:
    table = results.tables.get("synthetic")
    if table is None:
        return "not tested", "the benchmark is not part of this run"
    means = table.groupby(["labels drawn from", "regime", "score"])["auroc"].mean()
    planted = means["sensitivity", "D"]
    others = {rule: means[rule, "all"] for rule in ("model", "orbit")}
    evidence = ("regime D, their label rule: " + ", ".join(f"{name} {planted[name]:.3f}" for name in (
        "H", "-H", "self-consistency (samples at x)", "disagreement of the variants", "S", "S - H")) + "; all regimes, "
        + "; ".join(f"labels from the {rule}: H {of['H']:.3f}, S - H {of['S - H']:.3f}" for rule, of in others.items()))
    if abs(planted["S - H"] - _PUBLISHED["S - H"]) > 0.05 or planted["H"] >= 0.5:
        return "refuted", evidence
    fair = planted["S - H"] > planted["S"] and all(of["S - H"] > of["H"] for of in others.values())
    return ("supported" if fair else "mixed"), evidence


def _regime_share(results: Results) -> Judgement:
    table = results.tables.get("regimes")
    if table is None or table.empty:
        return "not tested", "no cells with both errors and right answers"
    large = table["median D"] >= 0.2
    helps, hurts = table["low"] > 0, table["high"] < 0
    nli, llms = table["task"].str.contains("nli"), table["task"].map(_is_language_model)
    evidence = (f"SUA is better than entropy in {helps[large].sum()}, worse in {hurts[large].sum()} of the "
                f"{large.sum()} cells with D at 20 % or more, better in {helps[~large].sum()} of the "
                f"{(~large).sum()} others; on NLI better in {helps[nli].sum()}, worse in "
                f"{hurts[nli].sum()} of {nli.sum()}; on language models better in "
                f"{helps[llms].sum()}, worse in {hurts[llms].sum()} of {llms.sum()}")
    if helps.any():
        gain, alone = table.loc[helps, "advantage"].mean(), table.loc[helps, "S over entropy"].mean()
        evidence += f"; where it is better, it gains {gain:+.3f} over entropy on average, S alone {alone:+.3f}"
    if not large.any():
        return "not tested", f"{evidence}; no cell reaches 20 %"
    if helps[large].all() and not helps[~large].any() and not helps[nli].any():
        return "supported", evidence
    entropy_wins = nli.any() and hurts[nli].all()
    return "refuted" if not helps[large].any() and not entropy_wins else "mixed", evidence


def _ratio(results: Results) -> Judgement:
    table = results.tables.get("validity")
    if table is None or table.empty:
        return "not tested", "those encoders are not part of this run"
    exact = table[table["least_preserving_kernel"] == 1]
    alarms = (f", and it is above 1 in {(exact['S/H mean_ratio'] > 1).sum()} of {len(exact)} cells whose perturbations "
              "keep the meaning exactly") if len(exact) else ""
    asked = table[table["task"].str.startswith("zero-shot ")]
    models = "".join(f", {row.training} on {row.task}: {ratio:.3f}" for row, ratio in zip(
        asked.itertuples(), asked["S/H mean_ratio"]))
    return "not tested", ("those encoders are not part of this run; here mean S/H is "
                          f"{table['S/H mean_ratio'].min():.3f} to {table['S/H mean_ratio'].max():.3f}{alarms}{models}")


_BOUND = ("refuted if a checked world that keeps the labels violates the printed inequality; repaired if moreover the "
          "corrected theorem has no violation in all random worlds; mixed if only the reading with KL is violated")
_FOLLOW_UP = "follow-up (2026)"

CLAIMS: tuple[Claim, ...] = (
    Claim("C1", "R_rob ≤ R + L sup D + kappa", "Theorem 4.3, Eq 10", _BOUND, _printed_and_repaired("C1")),
    Claim("C2", "R_rob ≤ R + L SUA + kappa, pointwise; also with the positive part", "Theorem 4.3, Eq 11", _BOUND,
          _printed_and_repaired("C2")),
    Claim("C3", "minimising E[(SUA)+] bounds the worst-case perturbed risk", "abstract", f"{_BOUND}, and "
          "if the theorem holds for every trained model over the formulations of its test inputs", _worst_case),
    Claim("C4", "ECE ≥ (1/B) sum_b (S_b - lambda H_b - c_b)+", "Theorem 4.5", _BOUND, _printed_and_repaired("C4")),
    Claim("C5", "abstaining when SUA > tau has selective risk ≤ R + L tau + E[kappa given SUA ≤ tau]",
          "Proposition 4.8", _BOUND, _printed_and_repaired("C5")),
    Claim("C6", "SUA predicts failures better than entropy and self-consistency", "abstract, section 6",
          "supported if the 95 % interval of the AUROC gain over test items, each for itself, is above 0 against both, "
          "for every task and training and every language model, recorded or asked here; refuted if below 0 in all; "
          "else mixed. Clear and ambiguous inputs of a world are judged apart", _failure_prediction),
    Claim("C7", "SUA-TR beats the other training methods on accuracy, robust accuracy, ECE, failure AUROC and "
          "selective accuracy at 80 % coverage", "sections 5.2, 6",
          "supported if the 95 % interval of its gain over test items is above 0 in every comparison; refuted if in "
          "none; else mixed",
          _training),
    Claim("C8", "ambiguity collapse exists and SUA exposes it", "section 3.5",
          f"supported if in every world and language model at least {MUST_COLLAPSE:.0%} of the ambiguous inputs "
          "collapse and SUA separates them from clear ones of the same confidence with AUROC at least 0.75; repaired "
          "if it does so only with clarifications as the kernel, at least 0.9, and these also tell ambiguous real text "
          "from clear, where there is some; refuted if fewer collapse; else mixed", _collapse),
    Claim("C9", "synthetic regime D: entropy .228, self-consistency .500, SUA .877", _FOLLOW_UP,
          "refuted if SUA is further than .05 from its value in regime D, or entropy not below chance; supported if "
          "moreover S alone is not better there and SUA beats entropy under the other label rules too; else mixed",
          _synthetic),
    Claim("C10", "on standard NLI entropy wins; SUA helps where regime D holds at least 20 % of the inputs", _FOLLOW_UP,
          "supported if SUA's AUROC gain over entropy has an interval, over test items, above 0 in every cell with at "
          "least 20 % of D (medians) and in no other, nor on NLI; refuted if in none of the former, and entropy does "
          "not win on all of NLI; else mixed. A cell is a task and training, or a language model, recorded or asked "
          "here", _regime_share),
    Claim("C11", "mean S/H is .537, 1.373, .649 and 4.232 on four encoders", _FOLLOW_UP,
          "needs those encoders; whether mean S/H > 1 is a good alarm is shown", _ratio),
)


def ledger(results: Results) -> pd.DataFrame:
    """One row per claim: id, claim, source, criterion, verdict, evidence."""
    rows = []
    for claim in CLAIMS:
        verdict, evidence = claim.judge(results)
        rows.append({"id": claim.id, "claim": claim.claim, "source": claim.source, "criterion": claim.criterion,
                     "verdict": verdict, "evidence": evidence})
    return pd.DataFrame(rows)
