"""The ledger: every claim of the paper with a criterion, and the verdict that the results give it.

A verdict is computed, never typed: `supported` (the criterion holds), `refuted` (its contrary does), `repaired`
(false as printed, and a corrected statement holds), `mixed` (it depends, and the evidence says on what) or
`not tested` (the results at hand cannot decide). The paper's PDF was not at hand: claims are quoted from its abstract
and from secondary sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping

import pandas as pd

VERDICTS = ("supported", "refuted", "repaired", "mixed", "not tested")
Judgement = tuple[str, str]


@dataclass(frozen=True)
class Results:
    """What a verdict may rest on.

    metrics : long frame (task, model, training, score, metric, seed, value). intervals : AUROC of every score with
    its gain over a reference, per task and training. facts : findings of the theory checks by claim id.
    """

    metrics: pd.DataFrame
    intervals: pd.DataFrame
    facts: Mapping[str, Mapping]

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


def _failure_prediction(results: Results) -> Judgement:
    rows = results.intervals
    rows = rows[(rows["score"] == "sua") & rows["reference"].isin(["entropy", "self_consistency"])]
    if rows.empty:
        return "not tested", "no AUROC of SUA with an interval"
    better, worse = (rows["gain_low"] > 0).sum(), (rows["gain_high"] < 0).sum()
    evidence = "; ".join(f"{row.task}/{row.training}: SUA {row.auroc:.3f}, over {row.reference.replace('_', '-')} "
                         f"{row.gain:+.3f} [{row.gain_low:+.3f}, {row.gain_high:+.3f}]" for row in rows.itertuples())
    verdict = "supported" if better == len(rows) else "refuted" if worse == len(rows) else "mixed"
    return verdict, f"better in {better}, worse in {worse} of {len(rows)} comparisons. {evidence}"


_HIGHER_IS_BETTER = {"accuracy": True, "robust_accuracy": True, "ece": False}


def _training(results: Results) -> Judgement:
    wins, losses, parts = 0, 0, []
    rivals = [name for name in results.intervals["training"].unique() if name != "sua_tr"]  # ablations are no rivals
    measures = [(metric, "", higher) for metric, higher in _HIGHER_IS_BETTER.items()]
    measures += [("auroc", "sua", True), ("selective_accuracy_80", "sua", True)]
    for metric, score, higher in measures:
        values = results.mean(metric, score=score).unstack("training")
        if "sua_tr" not in values or not rivals:
            continue
        others = values[rivals]
        sign = 1 if higher else -1
        ahead = others.apply(lambda column: sign * (values["sua_tr"] - column))  # NaN counts for neither
        wins, losses = wins + int((ahead > 0).values.sum()), losses + int((ahead <= 0).values.sum())
        parts += [f"{task} {metric}{f' ({score})' if score else ''}: sua_tr {values.loc[task, 'sua_tr']:.3f}, " +
                  ", ".join(f"{name} {value:.3f}" for name, value in others.loc[task].items()) for task in values.index]
    if not parts:
        return "not tested", "SUA-TR was not trained beside another method"
    verdict = "supported" if not losses else "refuted" if not wins else "mixed"
    return verdict, f"ahead in {wins} of {wins + losses} comparisons of seed means. {'; '.join(parts)}"


def _collapse(results: Results) -> Judgement:
    rate = results.mean("collapse_rate", training="erm")
    detection = results.mean("collapse_auroc", score="sua", training="erm")
    if rate.empty or detection.empty:
        return "not tested", "no ambiguous inputs were evaluated"
    (task, _), rate = rate.idxmax(), rate.max()
    seen = detection.loc[(task, "erm")]
    evidence = (f"{task}: {rate:.0%} of the ambiguous inputs get one answer with almost all the mass; SUA tells them "
                f"from clear inputs with AUROC {seen:.3f}".replace("nan", "n/a"))
    if rate < 0.5:
        return "refuted", f"{evidence}: no collapse"
    if pd.isna(seen):
        return "not tested", f"{evidence}: no clear inputs to compare with"
    if seen >= 0.75:
        return "supported", evidence
    return "mixed", f"{evidence}: collapse exists, SUA does not expose it"


def _not_tested(why: str) -> Callable[[Results], Judgement]:
    return lambda results: ("not tested", why)


_BOUND = ("refuted if a checked world violates the printed inequality; repaired if moreover the corrected theorem has "
          "no violation in all random worlds; mixed if only the reading with KL is violated")
_FOLLOW_UP = "follow-up (2026)"

CLAIMS: tuple[Claim, ...] = (
    Claim("C1", "R_rob ≤ R + L sup D + kappa", "Theorem 4.3, Eq 10", _BOUND, _printed_and_repaired("C1")),
    Claim("C2", "R_rob ≤ R + L SUA + kappa, pointwise; also with the positive part", "Theorem 4.3, Eq 11", _BOUND,
          _printed_and_repaired("C2")),
    Claim("C3", "minimising E[(SUA)+] bounds the worst-case perturbed risk", "abstract", _BOUND,
          _printed_and_repaired("C3")),
    Claim("C4", "ECE ≥ (1/B) sum_b (S_b - lambda H_b - c_b)+", "Theorem 4.5", _BOUND, _printed_and_repaired("C4")),
    Claim("C5", "abstaining when SUA > tau has selective risk ≤ R + L tau + E[kappa given SUA ≤ tau]",
          "Proposition 4.8", _BOUND, _printed_and_repaired("C5")),
    Claim("C6", "SUA predicts failures better than entropy and self-consistency", "abstract, section 6",
          "supported if the 95 % interval of the AUROC gain is above 0 against both, for every task and training; "
          "refuted if below 0 in all; else mixed", _failure_prediction),
    Claim("C7", "SUA-TR beats the other training methods on accuracy, robust accuracy, ECE, failure AUROC and "
          "selective accuracy at 80 % coverage", "sections 5.2, 6",
          "supported if its mean over seeds is ahead in every comparison; refuted if in none; else mixed", _training),
    Claim("C8", "ambiguity collapse exists and SUA exposes it", "section 3.5",
          "supported if at least half of the ambiguous inputs collapse and SUA separates them from clear ones with "
          "AUROC at least 0.75; refuted if fewer collapse; else mixed", _collapse),
    Claim("C9", "synthetic regime D: entropy .228, self-consistency .500, SUA .877", _FOLLOW_UP,
          "needs the synthetic regime benchmark", _not_tested("the benchmark is not part of this run")),
    Claim("C10", "on standard NLI entropy wins; SUA helps where regime D holds at least 20 % of the inputs",
          _FOLLOW_UP, "needs NLI and adversarial question answering", _not_tested("no such task in this run")),
    Claim("C11", "mean S/H is .537, 1.373, .649 and 4.232 on four encoders", _FOLLOW_UP,
          "needs those encoders", _not_tested("those encoders are not part of this run")),
)


def ledger(results: Results) -> pd.DataFrame:
    """One row per claim: id, claim, source, criterion, verdict, evidence."""
    rows = []
    for claim in CLAIMS:
        verdict, evidence = claim.judge(results)
        rows.append({"id": claim.id, "claim": claim.claim, "source": claim.source, "criterion": claim.criterion,
                     "verdict": verdict, "evidence": evidence})
    return pd.DataFrame(rows)
