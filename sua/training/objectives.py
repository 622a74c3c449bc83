"""Training objectives: what a method minimises, as one readable line in `OBJECTIVES`, on logits alone.

For x with label y and K variants with outputs q_1..q_K, p = p(.|x), H = entropy, m = mean of p and the q_k, in nats:

    loss = task + consistency * E S + alignment * A - confidence_penalty * E H

    task  = (1 - augment) CE(t, p) + augment mean_k CE(t, q_k)
    t     = e_y, or label_weight e_y + (1 - label_weight) r; r is another answer, through which no gradient flows:
            p*, the orbit's mean of a frozen teacher, or of this orbit its mean m, its majority's answer, or p
    S     = mean_k D(p, q_k),                           or mean D(p or q_k, m) over the orbit with to_mean
    A     = E (S - lam H)_+ with S = mean_k D(p, q_k),  or (E S - lam E H)_+ with batch_level
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

VARIANTS = ("perturbed", "copies", "fgm", "vat")
ADVERSARIAL = ("fgm", "vat")
GIVEN = ("label_dist", "teacher")  # targets that come with the data
MEANS = ("arithmetic", "geometric")
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


def _mean(orbit, mean):
    """(n, C) mean of the log-probabilities (n, M, C), as probabilities."""
    return orbit.exp().mean(1) if mean == "arithmetic" else orbit.mean(1).softmax(-1)


def _majority(orbit, mean):
    """(n, C) one-hot answer of most members of the orbit (n, M, C), of equals the one of the largest mean."""
    votes = F.one_hot(orbit.argmax(-1), orbit.shape[-1]).sum(1) + _mean(orbit, mean) / 2
    return F.one_hot(votes.argmax(-1), orbit.shape[-1]).to(orbit.dtype)


OF_ORBIT = {"orbit": _mean, "majority": _majority, "clean": lambda orbit, mean: orbit[:, 0].exp()}
TARGETS = ("labels", *GIVEN, *OF_ORBIT)


@dataclass(frozen=True)
class Objective:
    """The terms of a loss and their weights (formula: head of this module). Calling it on logits gives the loss.

    k : variants per item and step; 0 needs none. share : the part of a batch's items that have variants. It is enough
        to estimate the terms, which are means, and the passes saved let the model see more items.
    variants : "perturbed" (drawn from a kernel), "copies" (x itself under other dropout masks), or one adversarial
        shift of the word embeddings, "fgm" (Miyato et al., ICLR 2017) or "vat" (Miyato et al., TPAMI 2018), whose
        length is `radius` times that of the embeddings.
    target : what is learned: "labels"; "label_dist", the rows of that column; "teacher", the mean answer of the model
        that training starts from, frozen, to x and `teacher_k` variants; of the model as it is now, without a gradient,
        "orbit", the mean over x and its K variants, "majority", the answer of most of them, or "clean", p itself. An
        item without variants is its own orbit. label_weight : part of the label in such a target; with 0 the labels
        are never read. mean : "arithmetic" or "geometric". power : the target becomes proportional to this power of
        the mean; above 1 it is sharper.
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
    target: str = "labels"
    label_weight: float = 0.0
    mean: str = "arithmetic"
    power: float = 1.0
    teacher_k: int = 8
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
        for name, known in (("divergence", DIVERGENCES), ("variants", VARIANTS), ("target", TARGETS), ("mean", MEANS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r}; known: {', '.join(known)}")
        for name in ("share", "augment", "smoothing", "label_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: give a share in [0, 1]")
        for name in ("k", "radius", "power", "consistency", "alignment", "lam", "confidence_penalty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: give a finite number that is not negative")
        used = self.augment or self.consistency or self.alignment or self.target in ("orbit", "majority")
        if bool(self.k) != bool(used):
            raise ValueError(f"{self}: variants (k > 0) and a term that uses them come together")
        if self.variants in ADVERSARIAL and self.k != 1:
            raise ValueError(f"variants = {self.variants!r} with k = {self.k}: an item has one adversarial shift, "
                             "k = 1")
        if not self.share or self.share < 1 and (not self.k or self.variants in ADVERSARIAL):
            raise ValueError(f"{self}: share is the part of a batch that has variants, above 0; without variants and "
                             "with adversarial shifts it has to be 1")
        if self.target == "labels" and self.label_weight:
            raise ValueError(f"{self}: label_weight mixes the label into another target, and target is 'labels'")
        if self.target not in ("teacher", "orbit") and (self.power != 1 or self.mean != "arithmetic"):
            raise ValueError(f"{self}: power and mean change the target 'teacher' or 'orbit', and target is "
                             f"{self.target!r}")
        if self.target == "clean" and not self.augment:
            raise ValueError(f"{self}: p is a target for the variants, whose share augment of the task loss is 0")
        if self.variants == "fgm" and not self.reads_labels:
            raise ValueError(f"{self}: the shift 'fgm' needs labels, and with this target none are read; take 'vat'")
        if self.teacher_k < 1:
            raise ValueError(f"teacher_k = {self.teacher_k}: the teacher answers at least one variant per input")
        if self.to_mean and not self.consistency or self.batch_level and not self.alignment:
            raise ValueError(f"{self}: to_mean changes the consistency term and batch_level the alignment term, "
                             "whose weights are 0")
        if self.to_mean and self.divergence not in TO_MEAN:
            raise ValueError(f"divergence = {self.divergence!r} with to_mean; known: {', '.join(TO_MEAN)}")

    @property
    def on_variants_alone(self) -> bool:
        """Whether no term looks at x itself, so that it need not go through the network."""
        return (self.augment == self.share == 1 and self.variants not in ADVERSARIAL and self.target not in OF_ORBIT
                and not (self.consistency or self.alignment or self.confidence_penalty))

    @property
    def passes(self) -> float:
        """Rows per item and step that go through the network: x, its variants, and VAT's search for a direction. A
        teacher's teacher_k + 1 passes, once per item, come on top."""
        return 1 - self.on_variants_alone + self.share * self.k + (self.variants == "vat")

    @property
    def reads_labels(self) -> bool:
        """Whether labels have any part in the loss."""
        return self.target == "labels" or self.label_weight > 0

    @property
    def from_trained(self) -> bool:
        """Whether it teaches a model what a model says, so that it needs one that knows something to start from."""
        return self.target == "teacher" or self.target != "label_dist" and not self.reads_labels

    @property
    def name(self) -> str:
        """The name in OBJECTIVES, or the fields that differ from their default: "k4-consistency1-divergence_js"."""
        known = next((name for name, objective in OBJECTIVES.items() if objective == self), None)
        return known or "-".join(_told(field.name, getattr(self, field.name)) for field in fields(self)
                                 if getattr(self, field.name) != field.default)

    def __call__(self, logits: torch.Tensor, variant_logits: torch.Tensor | None, labels: torch.Tensor | None,
                 reference: torch.Tensor | None = None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """logits (B, C), variant_logits (V, K, C) or None, labels (B,) or None, reference (B, C), the rows of
        label_dist or of the teacher -> (loss, {term: scalar}).

        The variants are those of the first V items; where x itself is not needed (`on_variants_alone`), logits may be
        those of a variant. Terms: task, entropy, and with variants sensitivity
        (mean_k D(p, q_k), even with to_mean) and sua_positive, of these items.
        """
        log_p = F.log_softmax(logits, -1)  # (B, C)
        h = entropy(log_p)  # (B,)
        terms = {"entropy": h.mean()}
        log_q, v = None, 0

        if self.k:
            log_q, v = F.log_softmax(variant_logits, -1), len(variant_logits)  # (V, K, C)
            s = DIVERGENCES[self.divergence](log_p[:v, None], log_q).mean(1)  # (V,)
            gap = s.mean() - self.lam * h[:v].mean() if self.batch_level else s - self.lam * h[:v]
            terms |= {"sensitivity": s.mean(), "sua_positive": gap.relu().mean()}

        target = self._target(log_p, log_q, labels, reference)  # (B, C)
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

    @torch.no_grad()
    def _target(self, log_p, log_q, labels, reference):
        """(B, C) distributions that all rows of an item learn."""
        classes, v = log_p.shape[-1], 0 if log_q is None else len(log_q)
        one_hot = F.one_hot(labels, classes).to(log_p.dtype) if self.reads_labels else None
        if self.target in OF_ORBIT:
            orbits = [torch.cat([log_p[:v, None], log_q], 1), log_p[v:, None]]
            target = torch.cat([OF_ORBIT[self.target](orbit, self.mean) for orbit in orbits])
        else:
            target = one_hot if self.target == "labels" else reference.to(log_p.dtype)
        if self.power != 1:
            target = (self.power * target.clamp_min(torch.finfo(target.dtype).tiny).log()).softmax(-1)
        if self.label_weight:
            target = self.label_weight * one_hot + (1 - self.label_weight) * target
        return (1 - self.smoothing) * target + self.smoothing / classes


def _told(name, value):
    return name if value is True else f"{name}_{value}" if isinstance(value, str) else f"{name}{value:g}"


OBJECTIVES: dict[str, Objective] = {
    "erm": Objective(),
    "label_smoothing": Objective(smoothing=0.1),
    "confidence_penalty": Objective(confidence_penalty=0.1),
    "soft_labels": Objective(target="label_dist"),
    "augment": Objective(k=4, augment=0.8),  # x and its four variants weigh the same
    "augment_smoothed": Objective(k=4, augment=0.8, smoothing=0.1),
    "augment_share_smoothed": Objective(k=1, share=0.25, augment=0.5, smoothing=0.1, confidence_penalty=0.3),
    "paft": Objective(k=1, augment=1.0),  # a random formulation per step (arXiv 2502.12859)
    "consistency": Objective(k=4, consistency=1.0),
    "alignment": Objective(k=4, alignment=1.0),
    # R-Drop (Liang et al., NeurIPS 2021) at its alpha = 1, and FGM: each halved, which Adam does not see
    "r_drop": Objective(k=1, variants="copies", augment=0.5, consistency=0.5, divergence="symmetric_kl"),
    "adversarial": Objective(k=1, variants="fgm", augment=0.5),
    "sua_tr": Objective(k=4, consistency=1.0, alignment=1.0),  # as printed, section 5.2
    # its repair: a target of the label and of the mean over this orbit; no further term, no lambda (Theorem 15)
    "sua_tr_repaired": Objective(k=1, augment=0.5, target="orbit", label_weight=0.8),
    # from a trained model, without labels but for the last: a mean over formulations has their sensitivity removed
    "distil": Objective(k=1, augment=0.5, target="teacher"),
    # the gradient of the mean KL(q_i, q_j) over pairs i != j, q_i held fixed, is (K + 1) / K times this one's
    "swarm": Objective(k=4, augment=0.8, target="orbit"),  # swarm distillation (Zhou et al., EMNLP 2022)
    "consensus": Objective(k=4, augment=0.8, target="majority"),  # Flip-Flop Consistency (arXiv 2510.14242)
    "clean_answer": Objective(k=4, augment=1.0, target="clean"),  # bias-augmented consistency training
    "distil_labels": Objective(k=1, augment=0.5, target="teacher", label_weight=0.5),
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
