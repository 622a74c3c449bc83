"""Scores of free-form answers, (N,), higher = more likely wrong: the registry `GENERATION_SCORES`. Nats."""

from __future__ import annotations

import inspect

import numpy as np

from ..divergences import entropy
from ..inputs import expect, unknown_name
from ..scores import Score
from .answers import Clusters, Generations
from .meaning import similarities


def sequence_nll(generations: Generations) -> np.ndarray:
    """-ln p(greedy answer); ranks as 1 - p does, but does not saturate."""
    return -np.nansum(generations.token_logprobs, axis=1)


def perplexity(generations: Generations) -> np.ndarray:
    """Mean negative log-likelihood per token of the greedy answer, the logarithm of its perplexity."""
    return -np.nanmean(generations.token_logprobs, axis=1)


def mean_token_entropy(generations: Generations) -> np.ndarray:
    """Mean entropy of the next token along the greedy answer."""
    return np.nanmean(generations.token_entropies, axis=1)


def p_true(generations: Generations) -> np.ndarray:
    """1 - p(True)."""
    return 1 - generations.require("p_true")


def lexical_similarity(generations: Generations) -> np.ndarray:
    """1 - mean pairwise ROUGE-L F1 of the samples at x. ValueError for fewer than two samples."""
    m = generations.require("samples").shape[-1]
    expect(m >= 2, f"M = {m}: pairs of samples need M >= 2")
    others = similarities(generations)[:, 1:, 1:]
    return 1 - (others.sum((1, 2)) - m) / (m * (m - 1))


def semantic_entropy(generations: Generations, clusters: Clusters) -> np.ndarray:
    """H over clusters c of p(c|x), the summed likelihoods of the distinct answers in c, normalised over clusters."""
    return entropy(generations.distribution(clusters, "likelihood")[:, 0])


def discrete_semantic_entropy(generations: Generations, clusters: Clusters) -> np.ndarray:
    """H over clusters of the shares of the samples at x."""
    return entropy(generations.distribution(clusters)[:, 0])


def eigv(similarities: np.ndarray) -> np.ndarray:
    """EigV, a continuous number of meanings among the samples at x."""
    w = similarities[:, 1:, 1:]
    scale = w.sum(-1) ** -0.5
    # the eigenvalues of L = I - scale W scale are 1 - those of scale W scale
    return np.maximum(np.linalg.eigvalsh(scale[:, :, None] * w * scale[:, None, :]), 0).sum(-1)


def deg(similarities: np.ndarray) -> np.ndarray:
    """Deg, 1 - the mean similarity of the samples at x, that of each with itself included."""
    return 1 - similarities[:, 1:, 1:].mean((1, 2))


def kernel_language_entropy(similarities: np.ndarray, t: float = 0.3) -> np.ndarray:
    """Von Neumann entropy of the heat kernel exp(-t L) of the samples at x, L = D - W, scaled to K_ii = 1/M."""
    w = similarities[:, 1:, 1:]
    values, vectors = np.linalg.eigh(w.sum(-1)[:, :, None] * np.eye(w.shape[1]) - w)
    kernel = (vectors * np.exp(-t * values)[:, None]) @ vectors.swapaxes(1, 2)
    scale = np.diagonal(kernel, axis1=1, axis2=2) ** -0.5
    return entropy(np.maximum(np.linalg.eigvalsh(scale[:, :, None] * kernel * scale[:, None, :] / w.shape[1]), 0))


def cocoa(generations: Generations, similarities: np.ndarray) -> np.ndarray:
    """-ln p(greedy answer) times the mean dissimilarity of the samples at x to it."""
    return sequence_nll(generations) * (1 - similarities[:, 0, 1:]).mean(-1)


_GREEDY = "1 answer"
_SAMPLES = "M answers"

GENERATION_SCORES: dict[str, Score] = {
    "sequence_nll": Score(sequence_nll, "-sum_t ln p(y_t)", "Malinin & Gales, ICLR 2021", "[0, inf)", _GREEDY,
                          ("token_logprobs",)),
    "perplexity": Score(perplexity, "-mean_t ln p(y_t)", "Fomicheva et al., TACL 2020", "[0, inf)", _GREEDY,
                        ("token_logprobs",)),
    "mean_token_entropy": Score(mean_token_entropy, "mean_t H(p(.|y_<t))", "Fomicheva et al., TACL 2020", "[0, ln V]",
                                _GREEDY, ("token_entropies",)),
    "p_true": Score(p_true, "1 - p(True)", "Kadavath et al., 2022 (arXiv 2207.05221)", "[0, 1]",
                     "1 answer, 1 pass", ("p_true",)),
    "lexical_similarity": Score(lexical_similarity, "1 - mean_{i<j} ROUGE-L(y_i, y_j)",
                                   "Fomicheva et al., TACL 2020", "[0, 1]", _SAMPLES, ("samples",), access="text"),
    "semantic_entropy": Score(semantic_entropy, "-sum_c p_c ln p_c, p_c ~ sum of p(y) over distinct y in c",
                              "Kuhn et al., ICLR 2023", "[0, ln M]", _SAMPLES,
                              ("samples", "loglikelihoods", "clusters")),
    "discrete_semantic_entropy": Score(discrete_semantic_entropy, "-sum_c (n_c/M) ln(n_c/M)",
                                       "Farquhar et al., Nature 2024", "[0, ln M]", _SAMPLES, ("samples", "clusters"),
                                       access="text"),
    "eigv": Score(eigv, "sum_k max(0, 1 - lambda_k), L = I - D^-1/2 W D^-1/2",
                  "Lin et al., TMLR 2024", "[1, M]", _SAMPLES, ("similarities",), access="text"),
    "deg": Score(deg, "trace(M I - D) / M^2", "Lin et al., TMLR 2024", "[0, 1 - 1/M]", _SAMPLES,
                 ("similarities",), access="text"),
    "kernel_language_entropy": Score(kernel_language_entropy, "-tr K ln K, K ~ exp(-t (D - W)), tr K = 1",
                                     "Nikitin et al., NeurIPS 2024", "[0, ln M]", _SAMPLES, ("similarities",),
                                     access="text"),
    "cocoa": Score(cocoa, "-ln p(y*) mean_k (1 - s(y*, y_k))", "Vashurin et al., NeurIPS 2025", "[0, inf)",
                   "M + 1 answers", ("token_logprobs", "similarities")),
}


def generation_score(generations: Generations, name: str, clusters: Clusters | None = None,
                     similarities: np.ndarray | None = None) -> np.ndarray:
    """The score `name` of GENERATION_SCORES for every question, (N,), higher = more likely wrong.

    clusters : of `meaning_clusters`. similarities : of the function `similarities`.
    ValueError for an unknown name (suggests the nearest), or where what the score needs is missing, or of other
    Generations.
    """
    if not isinstance(name, str) or name not in GENERATION_SCORES:
        raise ValueError(unknown_name("generation score", name, GENERATION_SCORES))
    function = GENERATION_SCORES[name].function
    given = {"generations": generations, "clusters": clusters, "similarities": similarities}
    wanted = {key: value for key, value in given.items() if key in inspect.signature(function).parameters}
    for key, value in wanted.items():
        expect(value is not None and not callable(value), f"score {name!r} needs {key}: give {key}=" + {
            "clusters": "sua.meaning_clusters(generations, sua.SameText())"}.get(key, "sua.similarities(generations)"))
        if key in CHECKS:
            CHECKS[key](generations, value)
    return function(**wanted)


def _check_clusters(generations, clusters):
    shape = np.shape(getattr(clusters, "samples", ()))
    expect(shape == generations.require("samples").shape, lambda: f"clusters of samples of shape {shape}, but the "
           f"samples have {generations.samples.shape}: give sua.meaning_clusters of these Generations")


def _check_similarities(generations, similarities):
    n, _, m = generations.require("samples").shape
    shape = np.shape(similarities)
    expect(shape == (n, m + 1, m + 1) and np.isfinite(similarities).all(), lambda: f"similarities of shape {shape} are "
           f"not ({n}, {m + 1}, {m + 1}) finite numbers: give sua.similarities of these Generations")


CHECKS = {"clusters": _check_clusters, "similarities": _check_similarities}
