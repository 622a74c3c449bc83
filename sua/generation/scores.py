"""Scores of free-form answers, (N,), higher = more likely wrong: the registry `GENERATION_SCORES`. Nats."""

from __future__ import annotations

import inspect

import numpy as np
from scipy.special import logsumexp

from ..divergences import FLOOR, entropy
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


def verbalised(generations: Generations) -> np.ndarray:
    """1 - the confidence that the model states in words; 1 where it states none. Count NaN in `generations.verbalised`.
    """
    return 1 - np.nan_to_num(generations.require("verbalised"), nan=0.0)


def token_sar(generations: Generations, relevance: np.ndarray) -> np.ndarray:
    """-sum_t R_t ln p(y_t) over the greedy answer, R_t the tokens' relevance."""
    return _token_sar(generations, relevance)[:, 0]


def _token_sar(generations, relevance):
    """(N, M + 1) of the greedy answer and the samples."""
    return -np.nansum(relevance * generations.require("piece_logprobs"), axis=-1)


def sentence_sar(generations: Generations, similarities: np.ndarray, t: float = 0.001) -> np.ndarray:
    """Mean over the samples at x of -ln(p(y_j) + sum_{k != j} s(y_j, y_k) p(y_k) / t)."""
    return _shifted(generations.require("loglikelihoods")[:, 0], similarities, t)


def sar(generations: Generations, similarities: np.ndarray, relevance: np.ndarray, t: float = 0.001) -> np.ndarray:
    """`sentence_sar` with exp(-token SAR) in the place of p."""
    return _shifted(-_token_sar(generations, relevance)[:, 1:], similarities, t)


def _shifted(logp, similarities, t):
    s = similarities[:, 1:, 1:]
    weight = np.where(np.eye(s.shape[1], dtype=bool), 1, s / t)  # (N, M, M)
    return -logsumexp(np.broadcast_to(logp[:, None], weight.shape), b=weight, axis=-1).mean(-1)


def eigenscore(generations: Generations, alpha: float = 0.001) -> np.ndarray:
    """ln det(Z Z' + alpha I) / M of the samples' hidden states Z (M, D), each less the mean of its D entries."""
    z = generations.require("hidden")
    z = z - z.mean(-1, keepdims=True)
    gram = z @ z.swapaxes(1, 2) + alpha * np.eye(z.shape[1])
    return np.linalg.slogdet(gram)[1] / z.shape[1]


def rauq(generations: Generations, alpha: float = 0.2) -> np.ndarray:
    """The largest -mean_t ln c_t in the middle third of the layers.

    c_1 = p(y_1), c_t = alpha p(y_t) + (1 - alpha) a_t c_(t-1); a_t is the weight that token t of the greedy answer
    gives to the one before it, by the layer's head that looks back most. Confidence is handed on as far as attention
    does.
    """
    p, a = np.exp(generations.token_logprobs), generations.require("attention")
    layers = a.shape[1]
    a = a[:, layers // 3:-(-2 * layers // 3) + 1]
    c = np.full((*a.shape[:2], p.shape[1]), np.nan)  # (N, layers, T), NaN after the last token as p is
    c[..., 0] = p[:, None, 0]
    for i in range(1, p.shape[1]):
        c[..., i] = alpha * p[:, None, i] + (1 - alpha) * a[..., i] * c[..., i - 1]
    return -np.nanmean(np.log(np.maximum(c, FLOOR)), axis=-1).min(-1)


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
    "verbalised": Score(verbalised, "1 - the confidence stated in words",
                        "Tian et al., EMNLP 2023; Xiong et al., ICLR 2024", "[0, 1]", "2 answers",
                        ("verbalised",), access="text"),
    "token_sar": Score(token_sar, "-sum_t R_t ln p(y_t), R_t ~ 1 - s(y, y without t)", "Duan et al., ACL 2024",
                       "[0, inf)", _GREEDY, ("piece_logprobs", "relevance")),
    "rauq": Score(rauq, "max over layers of -mean_t ln c_t, c_t = alpha p(y_t) + (1 - alpha) a_t c_(t-1)",
                  "Vazhentsev et al., 2025 (arXiv 2505.20045)", "[0, inf)", "1 answer, 1 pass",
                  ("token_logprobs", "attention"), access="weights"),
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
    "sentence_sar": Score(sentence_sar, "mean_j -ln(p(y_j) + sum_{k != j} s(y_j, y_k) p(y_k) / t)",
                          "Duan et al., ACL 2024", "(-inf, inf)", _SAMPLES, ("loglikelihoods", "similarities")),
    "sar": Score(sar, "sentence_sar of exp(-token_sar) in the place of p", "Duan et al., ACL 2024", "(-inf, inf)",
                 _SAMPLES, ("piece_logprobs", "similarities", "relevance")),
    "eigenscore": Score(eigenscore, "ln det(Z Z' + alpha I) / M, Z = hidden states of y_k, centred",
                        "Chen et al., ICLR 2024", "(-inf, inf)", "M answers, M passes", ("hidden",),
                        access="hidden states"),
    "cocoa": Score(cocoa, "-ln p(y*) mean_k (1 - s(y*, y_k))", "Vashurin et al., NeurIPS 2025", "[0, inf)",
                   "M + 1 answers", ("token_logprobs", "similarities")),
}


def generation_score(generations: Generations, name: str, clusters: Clusters | None = None,
                     similarities: np.ndarray | None = None, relevance: np.ndarray | None = None) -> np.ndarray:
    """The score `name` of GENERATION_SCORES for every question, (N,), higher = more likely wrong.

    clusters : of `meaning_clusters`. similarities, relevance : of the functions of these names.
    ValueError for an unknown name (suggests the nearest), or where what the score needs is missing, or of other
    Generations.
    """
    if not isinstance(name, str) or name not in GENERATION_SCORES:
        raise ValueError(unknown_name("generation score", name, GENERATION_SCORES))
    function = GENERATION_SCORES[name].function
    given = {"generations": generations, "clusters": clusters, "similarities": similarities, "relevance": relevance}
    wanted = {key: value for key, value in given.items() if key in inspect.signature(function).parameters}
    for key, value in wanted.items():
        expect(value is not None and not callable(value), f"score {name!r} needs {key}: give {key}=" + {
            "clusters": "sua.meaning_clusters(generations, sua.SameText())",
            "relevance": "sua.generation.relevance(generations)"}.get(key, "sua.similarities(generations)"))
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


def _check_relevance(generations, relevance):
    expected, shape = generations.require("pieces").shape, np.shape(relevance)
    expect(shape == expected and np.isfinite(relevance).all(), lambda: f"relevance of shape {shape} is not {expected} "
           "finite numbers: give sua.generation.relevance of these Generations")


CHECKS = {"clusters": _check_clusters, "similarities": _check_similarities, "relevance": _check_relevance}
