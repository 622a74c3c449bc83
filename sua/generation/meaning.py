"""When two answers mean the same: equivalences and similarities of answers, and clusters of meaning."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from itertools import combinations
from typing import Callable, Sequence

import numpy as np

from ..inputs import expect, whole
from ..predictions import Model, distributions, model_rows
from .answers import Clusters, Generations

Triple = tuple[str, str, str]  # a question and two answers to it


def normalise(text: str) -> str:
    """Lower case without punctuation, English articles and repeated spaces, as SQuAD compares answers."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(word for word in bare.split() if word not in ("a", "an", "the"))


@dataclass(frozen=True)
class SameText:
    """Equivalence of answers that are equal after `normalise`, or in one group of `aliases`.

    Like every equivalence, a function: triples (question, answer, answer) -> (n,) bool.
    """

    aliases: Sequence[Sequence[str]] = ()

    def __call__(self, triples: Sequence[Triple]) -> np.ndarray:
        group = {normalise(text): i for i, texts in enumerate(self.aliases) for text in texts}

        def meaning(text):
            return group.get(normalise(text), normalise(text))

        return np.array([meaning(a) == meaning(b) for _, a, b in triples], dtype=bool)


class Entailment:
    """Equivalence and similarity of answers by an NLI model, each distinct pair computed once.

    model : anything whose predict_proba takes (premise, hypothesis) pairs. column : the column of "entailment".
    Both texts are the question followed by an answer. Called with triples: True where each answer entails the other,
    that is, where entailment is the most probable class in both directions (Kuhn et al., ICLR 2023).
    """

    def __init__(self, model: Model, column: int):
        self.model, self._known = model, {}
        self.column = whole("column", column, 0, "give the place of entailment among the model's classes")

    def _probs(self, pairs):
        if new := [pair for pair in dict.fromkeys(pairs) if pair not in self._known]:
            probs = model_rows(getattr(self.model, "name", "NLI"), self.model.predict_proba(new), len(new))
            probs = distributions("output of the NLI model", probs, ndim=2)
            expect(self.column < probs.shape[1], lambda: f"column = {self.column}, but the NLI model gives "
                   f"{probs.shape[1]} classes: name the one of entailment")
            self._known.update(zip(new, probs))
        return np.array([self._known[pair] for pair in pairs])

    def _both(self, triples):
        pairs = [(f"{question} {a}", f"{question} {b}") for question, a, b in triples]
        probs = self._probs(pairs + [(b, a) for a, b in pairs])
        return probs.reshape(2, len(pairs), -1)

    def __call__(self, triples: Sequence[Triple]) -> np.ndarray:
        return (self._both(triples).argmax(-1) == self.column).all(0)

    def similarity(self, triples: Sequence[Triple]) -> np.ndarray:
        """(n,) mean probability of entailment in the two directions (Lin et al., TMLR 2024)."""
        return self._both(triples)[..., self.column].mean(0)


def cluster(answers: Sequence[Sequence[str]], questions: Sequence[str],
            equivalent: Callable[[list[Triple]], np.ndarray]) -> list[np.ndarray]:
    """For each question the cluster of each of its answers, numbered by first appearance.

    Each answer joins the first cluster whose first member it is equivalent to, or founds one (Kuhn et al., ICLR 2023).
    All questions' comparisons with their r-th founder are one call of `equivalent`. ValueError unless it gives one
    bool per triple.
    """
    unplaced, place = [list(dict.fromkeys(row)) for row in answers], [{} for _ in answers]
    number = 0
    while any(unplaced):
        triples = [(question, row[0], other) for question, row in zip(questions, unplaced) for other in row[1:]]
        joins = iter(_verdicts(equivalent, triples) if triples else ())
        for i, row in enumerate(unplaced):
            place[i].update({other: number for j, other in enumerate(row) if j == 0 or next(joins)})
            unplaced[i] = [other for other in row if other not in place[i]]
        number += 1
    return [np.array([of[answer] for answer in row]) for of, row in zip(place, answers)]


def _verdicts(equivalent, triples):
    """What it says of each triple, (n,) bool; NaN, another length and anything but True and False are refused."""
    found = np.asarray(equivalent(triples))
    expect(found.shape == (len(triples),) and found.dtype.kind in "biuf" and np.isin(found, (0, 1)).all(),
           lambda: f"equivalent returned {_short(found)} for {len(triples)} triples: return one bool for each")
    return found.astype(bool)


def _short(array):
    odd = array[~np.isin(array, (0, 1))].ravel()[:1].tolist() if array.dtype.kind in "biuf" else []
    return f"shape {array.shape}, dtype {array.dtype}" + (f", with {odd[0]}" if odd else "")


def meaning_clusters(generations: Generations, equivalent: Callable[[list[Triple]], np.ndarray],
                     gold: Sequence[Sequence[str]] | None = None) -> Clusters:
    """Cluster the greedy answer and all samples, at x and its variants, of each question.

    equivalent : SameText(...), an Entailment, or another function of triples (question, answer, answer) -> (n,) bool.
    gold : for each question its gold answer with aliases. They do not shape the clusters: a cluster holds a gold
    answer if its first member is equivalent to one. ValueError unless there is a non-empty list of texts for each
    question, and for an equivalence that does not give one bool per triple.
    """
    expect(callable(equivalent) and not isinstance(equivalent, type), lambda: f"equivalent = {equivalent!r}: give a "
           "function of triples (question, answer, answer), such as sua.SameText()")
    samples = generations.require("samples")
    answers = [[answer, *drawn.ravel()] for answer, drawn in zip(generations.answers, samples)]
    places = cluster(answers, generations.questions, equivalent)
    counts, correct = np.array([place.max() + 1 for place in places]), None
    if gold is not None:
        expect(len(gold) == len(generations), f"gold has {len(gold)} entries, there are {len(generations)} questions")
        for i, texts in enumerate(gold):
            expect(isinstance(texts, (list, tuple, np.ndarray)) and len(texts) and all(isinstance(text, str) for text in
                   texts), lambda: f"gold[{i}] = {texts!r}: give a list of answers, each a text")
        founders = [[row[i] for i in np.unique(place, return_index=True)[1]] for row, place in zip(answers, places)]
        asked = [(i, c, (question, founder, text)) for i, question in enumerate(generations.questions)
                 for c, founder in enumerate(founders[i]) for text in gold[i]]
        correct = np.zeros((len(counts), counts.max() + 1), dtype=bool)
        for (i, c, _), holds in zip(asked, _verdicts(equivalent, [triple for *_, triple in asked])):
            correct[i, c] |= holds
    return Clusters(np.array([place[1:] for place in places]).reshape(samples.shape), counts, correct,
                    generations.digest)


def rouge_l(a: str, b: str) -> float:
    """ROUGE-L F1 of two texts' lower-case words (Lin, 2004), in [0, 1]; 1 if both have none."""
    a, b = (re.findall(r"\w+", text.lower()) for text in (a, b))
    if not a or not b:
        return float(a == b)
    # longest common subsequence, a whole column of its table in the bits of one integer: 0 where it grows
    positions = {word: sum(1 << i for i, other in enumerate(a) if other == word) for word in set(b)}
    column = everything = (1 << len(a)) - 1
    for word in b:
        matches = column & positions[word]
        column = (column + matches | column - matches) & everything
    return 2 * (len(a) - column.bit_count()) / (len(a) + len(b))


def rouge(triples: Sequence[Triple]) -> np.ndarray:
    """(n,) ROUGE-L F1 of the two answers of each triple."""
    return np.array([rouge_l(a, b) for _, a, b in triples])


def similarities(generations: Generations, similarity: Callable[[list[Triple]], np.ndarray] = rouge) -> np.ndarray:
    """(N, M + 1, M + 1) symmetric similarities of the greedy answer (index 0) and the samples at x; 1 for equal ones.

    similarity : `rouge`, an Entailment's `similarity`, or another function of triples (question, answer, answer) ->
    (n,) numbers in [0, 1]; it gets each distinct pair once. ValueError if it gives anything else.
    """
    answers = [[answer, *drawn] for answer, drawn in zip(generations.answers, generations.require("samples")[:, 0])]
    pairs = [[(question, *pair) for pair in combinations(sorted(set(row)), 2)]
             for question, row in zip(generations.questions, answers)]
    triples = list(dict.fromkeys(triple for row in pairs for triple in row))
    found = np.asarray(similarity(triples) if triples else (), dtype=float)
    expect(found.shape == (len(triples),) and ((found >= -1e-9) & (found <= 1 + 1e-9)).all(), lambda: "similarity "
           f"returned shape {found.shape} for {len(triples)} triples, or numbers outside [0, 1]: return one for each")
    known = dict(zip(triples, found))
    return np.array([[[1.0 if a == b else known[question, min(a, b), max(a, b)] for a in row] for b in row]
                     for question, row in zip(generations.questions, answers)])


def relevance(generations: Generations, similarity: Callable[[list[Triple]], np.ndarray] = rouge) -> np.ndarray:
    """(N, M + 1, T) relevance of each token to the meaning of its answer, the greedy one (index 0) and the samples at
    x.

    1 - the similarity of the answer and the answer without the token, scaled to sum 1 over the answer's tokens; equal
    shares where no token matters, 0 after the last one (Duan et al., ACL 2024). similarity : as in `similarities`.
    """
    pieces, alive = generations.require("pieces"), ~np.isnan(generations.require("piece_logprobs"))
    triples = {}
    for i, question in enumerate(generations.questions):
        for j, row in enumerate(pieces[i]):
            answer = "".join(row).strip()
            for t in np.flatnonzero(alive[i, j]):
                triples[i, j, t] = question, answer, "".join(np.delete(row, t)).strip()
    asked = list(dict.fromkeys(triple for triple in triples.values() if triple[1] != triple[2]))
    found = np.asarray(similarity(asked) if asked else (), dtype=float)
    expect(found.shape == (len(asked),) and ((found >= -1e-9) & (found <= 1 + 1e-9)).all(), lambda: "similarity "
           f"returned shape {found.shape} for {len(asked)} triples, or numbers outside [0, 1]: return one for each")
    known, weights = dict(zip(asked, found)), np.zeros(pieces.shape)
    for place, triple in triples.items():
        weights[place] = max(1 - known.get(triple, 1.0), 0)
    total = weights.sum(-1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1), alive / alive.sum(-1, keepdims=True))
