"""Free-form answers of causal language models: generation, meaning clusters, and their uncertainty scores.

`GenerativeLM.generate` answers every question once greedily and M times by sampling, and does the same at meaning-
preserving variants; one such `Generations` serves all scores. `meaning_clusters` groups its answers by meaning, so that
`Generations.predictions` gives a `sua.Predictions` over clusters, to which every score of `sua.SCORES` applies.
"""

from .answers import Clusters, Generations
from .meaning import (Entailment, SameText, Triple, cluster, meaning_clusters, normalise, relevance, rouge, rouge_l,
                      similarities)
from .model import P_TRUE, GenerativeLM
from .scores import (GENERATION_SCORES, cocoa, deg, discrete_semantic_entropy, eigenscore, eigv, generation_score,
                     kernel_language_entropy, lexical_similarity, mean_token_entropy, p_true, perplexity, rauq, sar,
                     semantic_entropy, sentence_sar, sequence_nll, token_sar, verbalised)
