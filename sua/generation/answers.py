"""Generations: the free-form answers of a model to N questions and to variants of each, and their clusters."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..inputs import expect, numbers
from ..predictions import Predictions, json_facts, texts


@dataclass(frozen=True, eq=False)
class Generations:
    """Answers of one model to N questions and to K variants of each, validated on construction.

    Parameters
    ----------
    questions : N strings x.
    answers : N strings, the greedy answer to each x.
    token_logprobs : (N, T) ln p of the tokens of the greedy answer, in nats, the one that ends it included; NaN after.
    token_entropies : (N, T) entropies of the distributions that these tokens were chosen from, nats; NaN after the end.
    variants : (N, K) strings, meaning-preserving variants of x, or None.
    samples : (N, K + 1, M) strings, answers sampled at x and, from index 1 on, at its variants, or None.
    loglikelihoods : (N, K + 1, M) ln p of the samples under the distribution they were drawn from. With `samples`.
    p_true : (N,) probability that the model calls its greedy answer true, or None.
    verbalised : (N,) confidence in the greedy answer that the model states in words, in [0, 1], NaN where it states
        none; or None.
    pieces, piece_logprobs : (N, M + 1, T) text of each token of the greedy answer and of the samples at x, and its ln p
        under the distribution it was drawn from; "" and NaN after the last token. With each other.
    attention : (N, L, T) weight that each token of the greedy answer gives to the one before it, in each layer by the
        head that looks back most; NaN for the first token and after the last.
    hidden : (N, M, D) state of the middle layer at the last token of each sample at x.
    ids : N strings; default "0", "1", ...
    meta : JSON-serialisable facts (model, template, temperature, perturbation, seed, ...).

    Raises ValueError naming the field that is wrong, and what to do.
    """

    questions: np.ndarray
    answers: np.ndarray
    token_logprobs: np.ndarray
    token_entropies: np.ndarray
    variants: np.ndarray | None = None
    samples: np.ndarray | None = None
    loglikelihoods: np.ndarray | None = None
    p_true: np.ndarray | None = None
    verbalised: np.ndarray | None = None
    pieces: np.ndarray | None = None
    piece_logprobs: np.ndarray | None = None
    attention: np.ndarray | None = None
    hidden: np.ndarray | None = None
    ids: np.ndarray | None = None
    meta: dict = field(default_factory=dict)

    def __post_init__(self):
        n = len(self.questions)
        if self.ids is None:
            object.__setattr__(self, "ids", range(n))
        for name, kind, axes in (("questions", str, 1), ("answers", str, 1), ("token_logprobs", float, 2),
                                 ("token_entropies", float, 2), ("variants", str, 2), ("samples", str, 3),
                                 ("loglikelihoods", float, 3), ("p_true", float, 1), ("verbalised", float, 1),
                                 ("pieces", str, 3), ("piece_logprobs", float, 3), ("attention", float, 3),
                                 ("hidden", float, 3), ("ids", str, 1)):
            if (value := getattr(self, name)) is not None:
                value = (numbers(name, value, "pad short rows with NaN") if kind is float else
                         texts(name, value, only_text=name != "ids"))
                expect(value.ndim == axes and len(value) == n and value.size, f"{name} has shape {value.shape}, "
                       f"expected {axes} axes, the first of N = {n}: give one entry per question")
                object.__setattr__(self, name, value)
        ended = np.isnan(self.token_logprobs)
        expect(not ended[:, 0].any() and (ended[:, 1:] >= ended[:, :-1]).all()
               and np.array_equal(ended, np.isnan(self.token_entropies)),
               "token_logprobs and token_entropies need at least one number per answer, both NaN after its last token")
        self._expect_logprobs("token_logprobs", self.token_logprobs[~ended])
        told = self.token_entropies[~ended]
        expect((np.isfinite(told) & (told >= -1e-9)).all(), "token_entropies holds negative or infinite numbers: give "
               "entropies in nats")
        expect((self.samples is None) == (self.loglikelihoods is None), "give samples and loglikelihoods together")
        if self.samples is not None:
            places = 1 + (0 if self.variants is None else self.variants.shape[1])
            expect(self.samples.shape == self.loglikelihoods.shape and self.samples.shape[1] == places,
                   f"samples has shape {self.samples.shape}, loglikelihoods {self.loglikelihoods.shape}: give both for "
                   f"x and its variants, (N, {places}, M)")
            self._expect_logprobs("loglikelihoods", self.loglikelihoods)
            expect(np.isfinite(self.loglikelihoods).any(-1).all(), "loglikelihoods are all -inf for some prompt: what "
                   "was drawn has positive probability; look for overflow in the model's logits")
        expect(self.p_true is None or ((self.p_true >= 0) & (self.p_true <= 1)).all(),
               "p_true holds numbers outside [0, 1]: give probabilities")
        told = np.zeros(0) if self.verbalised is None else self.verbalised[~np.isnan(self.verbalised)]
        expect(((told >= 0) & (told <= 1)).all(), "verbalised holds numbers outside [0, 1]: give probabilities, or NaN "
               "for refusals")
        expect((self.pieces is None) == (self.piece_logprobs is None), "give pieces and piece_logprobs together")
        if self.pieces is not None:
            expect(self.pieces.shape == self.piece_logprobs.shape, f"pieces has shape {self.pieces.shape}, "
                   f"piece_logprobs {self.piece_logprobs.shape}: give one number per token")
            self._expect_logprobs("piece_logprobs", self.piece_logprobs[~np.isnan(self.piece_logprobs)])
        object.__setattr__(self, "meta", json_facts(self.meta))

    def _expect_logprobs(self, name, values):
        expect((values <= 1e-9).all(), f"{name} holds numbers above 0, or NaN: give logarithms of probabilities")

    def __len__(self):
        return len(self.questions)

    def require(self, name: str) -> np.ndarray:
        """The field `name`; ValueError with the remedy if it was not generated."""
        value = getattr(self, name)
        expect(value is not None, f"these Generations hold no `{name}`: call generate with "
               + {"p_true": "p_true=True", "verbalised": "verbalised=True", **dict.fromkeys(
                   ("pieces", "piece_logprobs", "attention", "hidden"), "internals=True")}.get(name, "m >= 1"))
        return value

    @cached_property
    def digest(self) -> str:
        """Hash of the questions, greedy answers and samples, which clusters of them keep."""
        held = [values.tolist() for values in (self.questions, self.answers, self.require("samples"))]
        return hashlib.sha256(repr(held).encode()).hexdigest()[:16]

    def distribution(self, clusters: "Clusters", weighting: str = "frequency") -> np.ndarray:
        """(N, K + 1, C) distribution over meaning clusters at x and at its variants, C = the most clusters + 1.

        weighting : "frequency", the shares of the M samples, or "likelihood", the summed probability of the distinct
        answers in a cluster, normalised over clusters. ValueError for another one, and for clusters of other answers.
        """
        expect(weighting in ("frequency", "likelihood"),
               f"weighting = {weighting!r}: choose 'frequency' or 'likelihood'")
        expect(clusters.digest in (None, self.digest) and clusters.samples.shape == self.samples.shape,
               "these clusters belong to other Generations: call sua.meaning_clusters on these")
        samples, weights = self.require("samples"), np.ones(self.require("samples").shape)
        if weighting == "likelihood":
            equal = samples[..., :, None] == samples[..., None, :]
            repeated = np.tril(equal, -1).any(-1)  # p(cluster) sums over answers, not over draws
            # tokens may spell one answer in several ways: the likeliest counts
            likely = np.where(equal, self.loglikelihoods[..., None, :], -np.inf).max(-1)
            weights = np.where(repeated, 0, np.exp(likely - likely.max(-1, keepdims=True)))
        is_in = clusters.samples[..., None] == np.arange(clusters.counts.max() + 1)
        mass = (weights[..., None] * is_in).sum(-2)
        return mass / mass.sum(-1, keepdims=True)

    def predictions(self, clusters: "Clusters", weighting: str = "frequency") -> Predictions:
        """Predictions whose classes are each question's meaning clusters and, last, "none of these".

        `probs` and `perturbed` are `distribution(clusters, weighting)`, `samples` the clusters of the samples at x. The
        label is the most probable cluster that holds a gold answer; where none does, it is "none of these", which has
        probability 0, so that every answer is an error. No labels where the clusters know no gold answers.
        """
        probs, labels = self.distribution(clusters, weighting), None
        if clusters.correct is not None:
            best = np.where(clusters.correct, probs[:, 0], -1).argmax(-1)
            labels = np.where(clusters.correct.any(-1), best, clusters.counts)
        return Predictions(probs[:, 0], probs[:, 1:] if self.variants is not None else None, labels,
                           samples=clusters.samples[:, 0], n_classes=clusters.counts + 1, ids=self.ids,
                           meta={**self.meta, "weighting": weighting})

    save, load = Predictions.save, classmethod(Predictions.load.__func__)  # one file format


@dataclass(frozen=True, eq=False)
class Clusters:
    """Meaning clusters of Generations, shared by a question and its variants; the greedy answer's cluster is 0.

    samples : (N, K + 1, M) cluster of each sample. counts : (N,) number of clusters of each question.
    correct : (N, C) bool, True where a cluster holds a gold answer, C = the most clusters + 1; None without gold.
    digest : that of the Generations they belong to, or None where it is not known.
    ValueError for shapes or numbers that do not fit each other.
    """

    samples: np.ndarray
    counts: np.ndarray
    correct: np.ndarray | None = None
    digest: str | None = None

    def __post_init__(self):
        samples, counts = np.asarray(self.samples), np.asarray(self.counts)
        for name, value, axes in (("samples", samples, 3), ("counts", counts, 1)):
            expect(value.ndim == axes and value.size and np.issubdtype(value.dtype, np.integer), f"{name} has shape "
                   f"{value.shape} and dtype {value.dtype}: give integers with {axes} axes")
        expect(len(counts) == len(samples) and (samples >= 0).all() and (samples < counts[:, None, None]).all(),
               "samples names clusters outside 0..counts - 1: number the clusters of each question from 0")
        shape = len(counts), int(counts.max()) + 1
        expect(self.correct is None or np.shape(self.correct) == shape, lambda: f"correct has shape "
               f"{np.shape(self.correct)}, expected {shape}: one column per cluster and one for none of these")

    @property
    def is_error(self) -> np.ndarray:
        """(N,) bool, True where the greedy answer means no gold answer. ValueError without gold answers."""
        expect(self.correct is not None, "these clusters know no gold answers: give gold to meaning_clusters")
        return ~self.correct[:, 0]
