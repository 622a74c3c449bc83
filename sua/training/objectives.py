"""Training objectives: what a method minimises, as one readable line in `OBJECTIVES`, on logits alone.

For x with target t and K variants with outputs q_1..q_K, p = p(.|x), H = entropy, m = mean of p and the q_k, in nats:

    loss = task + consistency * E S + alignment * A - confidence_penalty * E H

    task  = (1 - augment) CE(t, p) + augment mean_k CE(t, q_k)
    S     = mean_k D(p, q_k),                           or mean D(p or q_k, m) over the orbit with to_mean
    A     = E (S - lam H)_+ with S = mean_k D(p, q_k),  or (E S - lam E H)_+ with batch_level
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

from ..theory.numbers import LAMBDA_JS

VARIANTS = ("perturbed", "copies", "fgm", "vat")
ADVERSARIAL = ("fgm", "vat")
VAT_START = 0.1  # VAT looks for its direction at this share of the radius


def entropy(log_p):
    """H over the last axis of log-probabilities, nats."""
    return -(log_p.exp() * log_p).sum(-1)


DIVERGENCES = {  # of log-probabilities, over the last axis
    "kl": lambda p, q: (p.exp() * (p - q)).sum(-1),
    "reverse_kl": lambda p, q: (q.exp() * (q - p)).sum(-1),
    "symmetric_kl": lambda p, q: ((p.exp() - q.exp()) * (p - q)).sum(-1) / 2,
    "js": lambda p, q: entropy(torch.logaddexp(p, q) - math.log(2)) - (entropy(p) + entropy(q)) / 2,
    "tv": lambda p, q: (p.exp() - q.exp()).abs().sum(-1) / 2,
}
TO_MEAN = {"js": DIVERGENCES["kl"], "tv": DIVERGENCES["tv"]}  # generalised JS is the mean KL to the mean


def to_mean(divergence, orbit):
    """Mean divergence of the log-probabilities (B, K + 1, C) to their mean over the orbit."""
    log_mean = orbit.logsumexp(1, keepdim=True) - math.log(orbit.shape[1])
    return TO_MEAN[divergence](orbit, log_mean).mean()


@dataclass(frozen=True)
class Objective:
    """The terms of a loss and their weights (formula: head of this module). Calling it on logits gives the loss.

    k : variants per item and step; 0 needs none. share : the part of a batch's items that have variants. It is enough
        to estimate the terms, which are means, and the passes saved let the model see more items.
    variants : "perturbed" (drawn from a kernel), "copies" (x itself under other dropout masks), or one adversarial
        shift of the word embeddings, "fgm" (Miyato et al., ICLR 2017) or "vat" (Miyato et al., TPAMI 2018), whose
        length is `radius` times that of the embeddings.
    soft : targets are the rows of label_dist instead of the labels.
    smoothing : the target becomes (1 - smoothing) t + smoothing / C.
    augment : share of the task loss that the variants carry.
    consistency, to_mean, divergence : weight of S, measured to the variants or to m; D is "kl", "reverse_kl",
        "symmetric_kl", "js" or "tv" (with to_mean "js" or "tv"; "js" is then the generalised one, H(m) - mean H).
    alignment, lam, batch_level : weight of A, its lambda, and whether the positive part is taken of the batch's mean
        instead of each item. With accumulated gradients or several processes a batch-level term is taken of each part
        of the batch. One part may exceed 0 where the whole does not, so that the term acts somewhat more often.
    confidence_penalty : weight of -E H (Pereyra et al., 2017).

    ValueError for values out of range, unknown names, and fields that would have no effect.
    """

    k: int = 0
    share: float = 1.0
    variants: str = "perturbed"
    radius: float = 0.1
    soft: bool = False
    smoothing: float = 0.0
    augment: float = 0.0
    consistency: float = 0.0
    to_mean: bool = False
    divergence: str = "kl"
    alignment: float = 0.0
    lam: float = 1.0
    batch_level: bool = False
    confidence_penalty: float = 0.0

    def __post_init__(self):
        for name, known in (("divergence", DIVERGENCES), ("variants", VARIANTS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r}; known: {', '.join(known)}")
        for name in ("share", "augment", "smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: give a share in [0, 1]")
        for name in ("k", "radius", "consistency", "alignment", "lam", "confidence_penalty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: give a finite number that is not negative")
        used = self.augment or self.consistency or self.alignment
        if bool(self.k) != bool(used):
            raise ValueError(f"{self}: variants (k > 0) and a term that uses them come together")
        if self.variants in ADVERSARIAL and self.k != 1:
            raise ValueError(f"variants = {self.variants!r} with k = {self.k}: an item has one adversarial shift, "
                             "k = 1")
        if not self.share or self.share < 1 and (not self.k or self.variants in ADVERSARIAL):
            raise ValueError(f"{self}: share is the part of a batch that has variants, above 0; without variants and "
                             "with adversarial shifts it has to be 1")
        if self.to_mean and not self.consistency or self.batch_level and not self.alignment:
            raise ValueError(f"{self}: to_mean changes the consistency term and batch_level the alignment term, "
                             "whose weights are 0")
        if self.to_mean and self.divergence not in TO_MEAN:
            raise ValueError(f"divergence = {self.divergence!r} with to_mean; known: {', '.join(TO_MEAN)}")

    @property
    def passes(self) -> float:
        """Rows per item and step that go through the network: x, its variants, and VAT's search for a direction."""
        return 1 + self.share * self.k + (self.variants == "vat")

    @property
    def name(self) -> str:
        """The name in OBJECTIVES, or the fields that differ from their default: "k4-consistency1-divergence_js"."""
        known = next((name for name, objective in OBJECTIVES.items() if objective == self), None)
        return known or "-".join(_told(field.name, getattr(self, field.name)) for field in fields(self)
                                 if getattr(self, field.name) != field.default)

    def __call__(self, logits, variant_logits, labels, label_dist=None):
        """logits (B, C), variant_logits (V, K, C) or None, labels (B,), label_dist (B, C) -> (loss, {term: scalar}).

        The variants are those of the first V items. Terms: task, entropy, and with variants sensitivity
        (mean_k D(p, q_k), even with to_mean) and sua_positive, of these items.
        """
        log_p = F.log_softmax(logits, -1)  # (B, C)
        target = (label_dist if self.soft else F.one_hot(labels, logits.shape[-1])).to(log_p.dtype)
        target = (1 - self.smoothing) * target + self.smoothing / logits.shape[-1]
        h = entropy(log_p)  # (B,)
        terms = {"entropy": h.mean()}

        if self.k:
            log_q, v = F.log_softmax(variant_logits, -1), len(variant_logits)  # (V, K, C)
            s = DIVERGENCES[self.divergence](log_p[:v, None], log_q).mean(1)  # (V,)
            gap = s.mean() - self.lam * h[:v].mean() if self.batch_level else s - self.lam * h[:v]
            terms |= {"sensitivity": s.mean(), "sua_positive": gap.relu().mean()}

        task = -(target * log_p).sum(-1)  # (B,)
        if self.augment:
            on_variants = -(target[:v, None] * log_q).sum(-1).mean(1)
            task = torch.cat([(1 - self.augment) * task[:v] + self.augment * on_variants, task[v:]])
        task = task.mean()

        loss = task - self.confidence_penalty * terms["entropy"]
        if self.consistency:
            loss = loss + self.consistency * (to_mean(self.divergence, torch.cat([log_p[:v, None], log_q], 1))
                                              if self.to_mean else terms["sensitivity"])
        if self.alignment:
            loss = loss + self.alignment * terms["sua_positive"]
        return loss, {"task": task, **terms}


def _told(name, value):
    return name if value is True else f"{name}_{value}" if isinstance(value, str) else f"{name}{value:g}"


OBJECTIVES: dict[str, Objective] = {
    "erm": Objective(),
    "label_smoothing": Objective(smoothing=0.1),
    "confidence_penalty": Objective(confidence_penalty=0.1),
    "soft_labels": Objective(soft=True),
    "augment": Objective(k=4, augment=0.8),  # x and its four variants weigh the same
    "augment_smoothed": Objective(k=4, augment=0.8, smoothing=0.1),
    "consistency": Objective(k=4, consistency=1.0),
    "alignment": Objective(k=4, alignment=1.0),
    # R-Drop (Liang et al., NeurIPS 2021) at its alpha = 1, and FGM: each halved, which Adam does not see
    "r_drop": Objective(k=1, variants="copies", augment=0.5, consistency=0.5, divergence="symmetric_kl"),
    "adversarial": Objective(k=1, variants="fgm", augment=0.5),
    "sua_tr": Objective(k=4, consistency=1.0, alignment=1.0),  # as printed, section 5.2
    # a calibrated model has E S_JS <= LAMBDA_JS E H, the positive part outside of the mean (theorem 8)
    "sua_tr_repaired": Objective(k=1, augment=0.5, consistency=1.0, to_mean=True, divergence="js", alignment=1.0,
                                 lam=LAMBDA_JS, batch_level=True, smoothing=0.1, confidence_penalty=0.3),
}


def adversarial_logits(objective: Objective, forward, embedding, batch, labels):
    """(logits at x (B, C), logits at x + r (B, 1, C)); r shifts the word embeddings, row by row, by `radius` times
    their length along the gradient of the cross-entropy (FGM), or of KL(p(x), p(x + noise)) in the noise (VAT).

    forward : () -> (B, C) logits of `batch`. embedding : the module whose output is shifted.
    """
    mask = batch["attention_mask"][..., None]  # (B, T, 1)
    with torch.no_grad():
        words = embedding(batch["input_ids"]) * mask  # (B, T, hidden)

    def length(rows):
        return rows.norm(dim=(1, 2), keepdim=True)

    def shift_along(rows):
        return objective.radius * length(words) * rows / length(rows).clamp_min(1e-30)

    if objective.variants == "fgm":
        shift = torch.zeros_like(words, requires_grad=True)
        with _shifted(embedding, shift):
            logits = forward()
        reach = F.cross_entropy(logits, labels, reduction="sum")
    else:
        logits = forward()
        shift = (VAT_START * shift_along(torch.randn_like(words) * mask)).requires_grad_()
        with _shifted(embedding, shift):
            reach = DIVERGENCES["kl"](logits.detach().log_softmax(-1), forward().log_softmax(-1)).sum()

    gradient, = torch.autograd.grad(reach, shift, retain_graph=objective.variants == "fgm")
    with _shifted(embedding, shift_along(gradient)):
        return logits, forward()[:, None]


@contextmanager
def _shifted(embedding, shift):
    hook = embedding.register_forward_hook(lambda module, args, output: output + shift)
    try:
        yield
    finally:
        hook.remove()
