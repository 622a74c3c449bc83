"""The registry of scores: formula, source, range, cost and needs of each, and `score`, which computes one by name.

Which one to take. Without labels, msp or entropy: one pass, and hard to beat. With 200 labelled items or more,
sua_repaired; below that it is above msp on average, and in many single settings a little behind it. Where variants are
other prompts, orbit_msp and spuq can gain on msp without labels; sensitivity alone ranks failures well only where a
model errs where it moves, which no unlabelled item shows.

Calibration with another number of classes. What is fitted on (S, H), a temperature and Gaussians of features say
nothing about single answers, and a question's options may vary in number from split to split: these scores take it.
sua_repaired learns how often each answer is wrong, and refuses it.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Callable, Mapping

import numpy as np

from ..divergences import entropy, mutual_information
from ..extras import need
from ..inputs import expect, unknown_name
from ..predictions import Predictions
from .clarification import clarification_sua, collapse_index, mixed, weights_of
from .fitted import (entropy_scaled, fused, logistic, mahalanobis, msp_scaled, probe, relative_mahalanobis,
                     sua_calibrated, sua_signed)
from .orbit import alarm, disagreement, orbit_entropy, orbit_msp, sensitivity, spuq, sua, sua_positive
from .repaired import sua_repaired
from .rows import blockwise
from .single import energy, margin, msp, self_consistency


# from an API that returns text alone to several models of one's own; each shows what those before it do
ACCESS = ("text", "probabilities", "logits", "hidden states", "weights", "several models")


@dataclass(frozen=True)
class Score:
    """One entry of the registry. `passes`: forward passes per item; `needs`: the fields and arguments it reads;
    `access`: what the model has to show, one of ACCESS."""

    function: Callable[..., np.ndarray]
    formula: str
    source: str
    range: str
    passes: str = "1"
    needs: tuple[str, ...] = ("probs",)
    defaults: tuple[tuple[str, object], ...] = ()
    access: str = "probabilities"

    @property
    def samples(self) -> str:
        """Answers sampled per item: "M" or "0"."""
        return "M" if {"samples", "loglikelihoods", "similarities", "hidden"} & set(self.needs) else "0"

    @property
    def labels(self) -> str:
        """Whether labelled calibration items are needed: "yes" or "no"."""
        return "yes" if "calibration" in self.needs else "no"


def _ensemble(predictions):
    return np.concatenate([predictions.probs[:, None], predictions.require("members")], axis=1)


_ORBIT = ("probs", "perturbed")
_FIT = ("probs", "calibration")
_SUA = "S - lambda H"
_PAPER = "arXiv 2604.20903, section 3"
_OURS = "this companion"
_BALD = "Houlsby et al., 2011"
_REAL = "(-inf, inf)"

SCORES: dict[str, Score] = {
    # one pass over x
    "msp": Score(msp, "1 - max p", "Hendrycks & Gimpel, ICLR 2017", "[0, 1 - 1/C]"),
    "margin": Score(margin, "p_(2) - p_(1)", "Scheffer et al., IDA 2001", "[-1, 0]"),
    "entropy": Score(lambda predictions: entropy(predictions.probs), "H = -sum p ln p", "Shannon 1948", "[0, ln C]"),
    "neg_entropy": Score(lambda predictions: -entropy(predictions.probs), "-H", "ablation of SUA", "[-ln C, 0]"),
    "energy": Score(energy, "-ln sum exp(logits)", "Liu et al., NeurIPS 2020", _REAL, needs=("logits",),
                    access="logits"),
    "self_consistency": Score(self_consistency, "1 - max_y freq(y) over M samples at x", "Wang et al., ICLR 2023",
                              "[0, 1 - 1/M]", "1 (M samples)", ("probs", "samples"), access="text"),
    # x and its K variants
    "sensitivity": Score(sensitivity, "S = mean_k KL(p, q_k)", _PAPER, "[0, inf)", "K + 1", _ORBIT),
    "sensitivity_reverse_kl": Score(sensitivity, "mean_k KL(q_k, p)", _PAPER, "[0, inf)", "K + 1", _ORBIT,
                                    (("divergence", "reverse_kl"),)),
    "sensitivity_js": Score(sensitivity, "mean_k JS(p, q_k)", _PAPER, "[0, ln 2]", "K + 1", _ORBIT,
                            (("divergence", "js"),)),
    "sensitivity_tv": Score(sensitivity, "mean_k TV(p, q_k)", _PAPER, "[0, 1]", "K + 1", _ORBIT,
                            (("divergence", "tv"),)),
    "sua": Score(sua, f"{_SUA}, lambda = 1", _PAPER, "[-ln C, inf)", "K + 1", _ORBIT),
    "sua_positive": Score(sua_positive, f"max({_SUA}, 0), lambda = 1", _PAPER, "[0, inf)", "K + 1", _ORBIT),
    "alarm": Score(alarm, "mean_k max(TV(p, q_k) - max(1 - max p, 1 - max q_k), 0)", f"{_OURS} (Theorem 6)", "[0, 1]",
                   "K + 1", _ORBIT),
    "orbit_entropy": Score(orbit_entropy, "H(mean of p and q_k)", "after Ayhan & Berens, MIDL 2018", "[0, ln C]",
                           "K + 1", _ORBIT),
    "orbit_msp": Score(orbit_msp, "1 - mean of p and q_k at argmax p", "after Ayhan & Berens, MIDL 2018", "[0, 1]",
                       "K + 1", _ORBIT),
    "perturbation_mi": Score(lambda predictions: mutual_information(predictions.require("perturbed")),
                             "H(mean q_k) - mean H(q_k)", _OURS, "[0, ln min(K, C)]", "K", ("perturbed",)),
    "disagreement": Score(disagreement, "mean_k 1[argmax q_k != argmax p]", f"{_OURS} (flip rate)", "[0, 1]",
                          "K + 1", _ORBIT, access="text"),
    "spuq": Score(spuq, "1 - mean_k q_k(argmax p)", "after Gao et al., EACL 2024", "[0, 1]", "K + 1", _ORBIT),
    # several models
    "dropout_entropy": Score(lambda predictions: entropy(predictions.require("dropout").mean(1)), "H(mean_t p_t)",
                             "Gal & Ghahramani, ICML 2016", "[0, ln C]", "T", ("dropout",), access="weights"),
    "dropout_bald": Score(lambda predictions: mutual_information(predictions.require("dropout")),
                          "H(mean_t p_t) - mean_t H(p_t)", _BALD, "[0, ln min(T, C)]", "T", ("dropout",),
                          access="weights"),
    "ensemble_entropy": Score(lambda predictions: entropy(_ensemble(predictions).mean(1)), "H(mean of p and members)",
                              "Lakshminarayanan et al., NIPS 2017", "[0, ln C]", "E + 1", ("probs", "members"),
                              access="several models"),
    "ensemble_bald": Score(lambda predictions: mutual_information(_ensemble(predictions)),
                           "H(mean of p and members) - mean of their H", _BALD, "[0, ln min(E + 1, C)]", "E + 1",
                           ("probs", "members"), access="several models"),
    # x and its Z clarifications; uniform weights where none are given
    "clarification_entropy": Score(lambda predictions: entropy(mixed(predictions)), "H(pbar), pbar = sum_z w_z p_z",
                                   "Hou et al., ICML 2024", "[0, ln C]", "Z", ("clarified",)),
    "clarification_mi": Score(lambda predictions: mutual_information(predictions.require("clarified"),
                                                                     weights_of(predictions)),
                              "I(Y; Z) = H(pbar) - sum_z w_z H(p_z)", "Hou et al., ICML 2024", "[0, ln min(Z, C)]",
                              "Z", ("clarified",)),
    "clarification_sua": Score(clarification_sua, "sum_z w_z KL(p_z, p) - H", f"{_OURS} (Theorem 11)", "[-ln C, inf)",
                               "Z + 1", ("probs", "clarified")),
    "collapse_index": Score(collapse_index, "KL(pbar, p)", f"{_OURS} (Theorem 11)", "[0, inf)", "Z + 1",
                            ("probs", "clarified")),
    # fitted on calibration
    "msp_scaled": Score(msp_scaled, "1 - max p at temperature T from calibration", "Guo et al., ICML 2017",
                        "[0, 1 - 1/C]", needs=_FIT),
    "entropy_scaled": Score(entropy_scaled, "H at temperature T from calibration", "Guo et al., ICML 2017",
                            "[0, ln C]", needs=_FIT),
    "mahalanobis": Score(mahalanobis, "min_c (h - mu_c)' inv(Sigma) (h - mu_c), h = features",
                         "Lee et al., NeurIPS 2018", "[0, inf)", needs=("features", "calibration"),
                         access="hidden states"),
    "relative_mahalanobis": Score(relative_mahalanobis, "mahalanobis - (h - mu)' inv(Sigma_0) (h - mu)",
                                  "Ren et al., 2021 (arXiv 2106.09022)", _REAL,
                                  needs=("features", "calibration"), access="hidden states"),
    "probe": Score(probe, "P(error | h), logistic regression on calibration, h = features",
                   "Kadavath et al., 2022 (arXiv 2207.05221); Azaria & Mitchell, EMNLP Findings 2023", "[0, 1]",
                   needs=("features", "calibration"), access="hidden states"),
    "sua_calibrated": Score(sua_calibrated, f"{_SUA}, lambda >= 0 from calibration", _PAPER, _REAL, "K + 1",
                            (*_ORBIT, "calibration")),
    "sua_signed": Score(sua_signed, f"{_SUA}, lambda of either sign from calibration", _OURS, _REAL, "K + 1",
                        (*_ORBIT, "calibration")),
    "fused": Score(fused, "S + mu H, mu from a linear discriminant on calibration", f"{_OURS} (Theorem 14)", _REAL,
                   "K + 1", (*_ORBIT, "calibration")),
    "logistic": Score(logistic, "P(error | S, H), logistic regression on calibration", _OURS, "[0, 1]", "K + 1",
                      (*_ORBIT, "calibration")),
    "sua_repaired": Score(sua_repaired, "w_1 u + w_2 v + w_3 sqrt(S_TV) + b_answer, w >= 0 from calibration; u, v = "
                          "log-odds against the answer at x and its variants", _OURS, _REAL, "K + 1",
                          (*_ORBIT, "calibration")),
}


def table(registry: Mapping[str, Score] = SCORES) -> "pandas.DataFrame":
    """A registry as a frame: name, formula, range, what it costs (access, passes and samples per item, labels), needs,
    source."""
    pd = need("pandas")
    return pd.DataFrame([{"name": name, "formula": entry.formula, "range": entry.range, "access": entry.access,
                          "passes": entry.passes, "samples": entry.samples, "labels": entry.labels,
                          "needs": ", ".join(entry.needs), "source": entry.source} for name, entry in registry.items()])


def affordable(access: str = "several models", *, variants: bool = True, samples: bool = True, labels: bool = True
               ) -> list[str]:
    """Names of the scores of x, its variants and its samples that one can have.

    access : what the model shows at most, one of ACCESS. variants, samples : whether the K further passes, the M
    sampled answers can be paid for; dropout and several models take passes of their own. labels : whether there are
    labelled calibration items. Scores of clarifications, which somebody has to write, are left out. ValueError for
    another access.
    """
    expect(access in ACCESS, lambda: f"access = {access!r}: choose one of {', '.join(ACCESS)}")
    paid_for = {"perturbed": variants, "samples": samples, "calibration": labels, "clarified": False}
    return [name for name, entry in SCORES.items() if ACCESS.index(entry.access) <= ACCESS.index(access)
            and all(paid_for.get(field, True) for field in entry.needs)]


def available(predictions: Predictions, calibration: Predictions | None = None) -> list[str]:
    """Names of the scores for which `predictions` hold every field, and `calibration` too where it is needed."""
    def holds(p, fields):
        return p is not None and all(getattr(p, field) is not None for field in fields)

    fields = {name: set(entry.needs) - {"calibration"} for name, entry in SCORES.items()}
    return [name for name, entry in SCORES.items() if holds(predictions, fields[name])
            and ("calibration" not in entry.needs or holds(calibration, {"labels", *fields[name]}))]


def score(predictions: Predictions, name: str, **parameters: object) -> np.ndarray:
    """The score `name` of every item, (N,), higher = more likely wrong.

    `sua.SCORES` lists names, formulas and what each needs. Parameters go to the score's function (lam=,
    divergence=); a score whose `needs` lists "calibration" takes calibration=Predictions with labels, on items
    other than those scored.

    Raises ValueError for an unknown name (suggests the nearest), an unknown parameter, a missing field, or
    calibration items that are themselves scored. Unfitted scores are computed in blocks of items.
    """
    if not isinstance(name, str) or name not in SCORES:
        raise ValueError(unknown_name("score", name, SCORES))
    expect(isinstance(predictions, Predictions), lambda: f"predictions is a {type(predictions).__name__}: give "
           "Predictions, as sua.predict returns or as sua.Predictions(probs=...) makes")
    entry = SCORES[name]
    calibration = parameters.get("calibration")
    fitted = "calibration" in entry.needs
    if fitted:
        expect(isinstance(calibration, Predictions),
               f"score {name!r} is fitted: give calibration=Predictions of other items, with labels")
        shared = set(calibration.ids.tolist()).intersection(predictions.ids.tolist())
        expect(not shared, lambda: f"calibration and scored items share {len(shared)} ids ({min(shared)!r}, ...): "
               "choose parameters on one split and score another; if these are different items, give them different "
               "ids: sua.predict(..., ids=[...])")
    known = list(inspect.signature(entry.function).parameters)[1:]
    unknown = sorted(set(parameters) - set(known))
    expect(not unknown, lambda: f"score {name!r} has no parameter {unknown[0]!r}; it takes "
           + (", ".join(known) or "none"))
    function = entry.function if fitted else blockwise(entry.function)
    return function(predictions, **{**dict(entry.defaults), **parameters})
