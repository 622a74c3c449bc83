"""Free-form answers of causal language models: generation, meaning clusters, and their uncertainty scores.

`GenerativeLM.generate` answers every question once greedily and M times by sampling, and does the same at meaning-
preserving variants; one such `Generations` serves all scores. `meaning_clusters` groups its answers by meaning, so that
`Generations.predictions` gives a `sua.Predictions` over clusters, to which every score of `sua.SCORES` applies.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import string
import zlib
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Callable, Sequence

import numpy as np

from .models import progress, within_memory
from .perturb import Perturbation, variants
from .predict import Predictions, expect
from .scores import Score, entropy, unknown_name

Triple = tuple[str, str, str]  # a question and two answers to it
P_TRUE = ("Question: {question}\nProposed answer: {answer}\nIs the proposed answer:\n (A) True\n (B) False\n"
          "The proposed answer is:")


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
    ids: np.ndarray | None = None
    meta: dict = field(default_factory=dict)

    def __post_init__(self):
        n = len(self.questions)
        if self.ids is None:
            object.__setattr__(self, "ids", range(n))
        for name, kind, axes in (("questions", str, 1), ("answers", str, 1), ("token_logprobs", float, 2),
                                 ("token_entropies", float, 2), ("variants", str, 2), ("samples", str, 3),
                                 ("loglikelihoods", float, 3), ("p_true", float, 1), ("ids", str, 1)):
            if (value := getattr(self, name)) is not None:
                value = np.asarray(value).astype(kind)
                expect(value.ndim == axes and len(value) == n and value.size, f"{name} has shape {value.shape}, "
                       f"expected {axes} axes, the first of N = {n}: give one entry per question")
                object.__setattr__(self, name, value)
        ended = np.isnan(self.token_logprobs)
        expect(not ended[:, 0].any() and (ended[:, 1:] >= ended[:, :-1]).all()
               and np.array_equal(ended, np.isnan(self.token_entropies)),
               "token_logprobs and token_entropies need at least one number per answer, both NaN after its last token")
        self._expect_logprobs("token_logprobs", self.token_logprobs[~ended])
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

    def _expect_logprobs(self, name, values):
        expect((values <= 1e-9).all(), f"{name} holds numbers above 0, or NaN: give logarithms of probabilities")

    def __len__(self):
        return len(self.questions)

    def require(self, name: str) -> np.ndarray:
        """The field `name`; ValueError with the remedy if it was not generated."""
        value = getattr(self, name)
        expect(value is not None, f"these Generations hold no `{name}`: call generate with "
               + ("p_true=True" if name == "p_true" else "m >= 1"))
        return value

    def distribution(self, clusters: "Clusters", weighting: str = "frequency") -> np.ndarray:
        """(N, K + 1, C) distribution over meaning clusters at x and at its variants, C = the most clusters + 1.

        weighting : "frequency", the shares of the M samples, or "likelihood", the summed probability of the distinct
        answers in a cluster, normalised over clusters. ValueError for another one.
        """
        expect(weighting in ("frequency", "likelihood"),
               f"weighting = {weighting!r}: choose 'frequency' or 'likelihood'")
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

    save = Predictions.save  # one file format: parquet, with a JSON header in its schema

    @classmethod
    def load(cls, path) -> "Generations":
        """Read what `save` wrote. ValueError for any other file."""
        try:
            return Predictions.load.__func__(cls, path)
        except TypeError:
            raise ValueError(f"{path} holds no Generations: load it with Predictions.load") from None


class GenerativeLM:
    """A causal language model of transformers with its tokenizer, that answers questions in free text.

    An answer ends at an end-of-sequence token, before a newline, or after max_new_tokens. Equal prompts are computed
    once, each prompt's keys and values once for all of its answers; batches are sorted by length, and halved where
    they do not fit into memory. Answers and numbers do not depend on batch size, order or padding beyond rounding.

    template : prompt, with "{question}" where the question goes. Text that a chat template made is fine.
    max_new_tokens : tokens at which an answer is cut. temperature : of the samples; greedy answers are scored at 1.
    batch_size : answers per forward pass. cache : a folder for this model's weights alone, where results are kept.
    ValueError for a template without "{question}", max_new_tokens or batch_size < 1, temperature <= 0.
    """

    def __init__(self, model, tokenizer, *, template: str = "Question: {question}\nAnswer:", max_new_tokens: int = 32,
                 temperature: float = 1.0, batch_size: int = 64, name: str | None = None, cache: Path | None = None):
        expect("{question}" in template, f'template = {template!r} has no "{{question}}": say where the question goes')
        expect(max_new_tokens >= 1, f"max_new_tokens = {max_new_tokens}: an answer needs at least one token")
        expect(temperature > 0, f"temperature = {temperature}: give a positive one; greedy answers come anyway")
        expect(batch_size >= 1, f"batch_size = {batch_size}: give at least 1")
        self.model, self.tokenizer, self.template = model.eval(), tokenizer, template
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.batch_size, self.name, self.cache = batch_size, name or type(model).__name__, cache
        ends = model.generation_config.eos_token_id
        texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        self.stops = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id,
                      *(token for token, text in enumerate(texts) if "\n" in text)} - {None}

    def generate(self, questions: Sequence[str], perturbation: Perturbation | None = None, k: int = 8, m: int = 10, *,
                 p_true: bool = True, seed: int = 0, ids: Sequence | None = None,
                 meta: dict | None = None) -> Generations:
        """Greedy answers, M samples at each question and at K variants of it, and p(True).

        perturbation : draws the k variants; None leaves them out. m : samples per prompt; 0 for greedy answers alone.
        p_true : also ask whether the greedy answer is true (Kadavath et al., 2022, without other samples shown):
        p(A) / (p(A) + p(B)) at the options "(A) True" and "(B) False". seed : of variants and samples; the draws at
        a prompt follow from seed and prompt alone. ids, meta : as in Generations.

        ValueError for an empty question, m < 0, variants with m = 0, or a prompt too long for the model.
        """
        questions = list(questions)
        expect(questions, "questions is empty: give at least one")
        for i, text in enumerate(questions):
            expect(isinstance(text, str) and text.strip(), f"questions[{i}] = {text!r} is empty or not text: remove it")
        expect(m >= (perturbation is not None), f"m = {m}: give m >= 1 samples, or m = 0 without a perturbation")
        drawn = variants(questions, perturbation, k, seed) if perturbation else [[] for _ in questions]
        facts = {"model": self.name, "template": self.template, "max_new_tokens": self.max_new_tokens,
                 "temperature": self.temperature, "seed": seed,
                 **({"perturbation": perturbation.name, "k": k} if perturbation else {}), **(meta or {})}
        ids = list(map(str, range(len(questions)) if ids is None else ids))
        job = questions, drawn, m, p_true, seed, ids, facts
        file = self.cache and Path(self.cache) / f"{hashlib.sha256(repr(job).encode()).hexdigest()[:24]}.parquet"
        if file and file.exists():
            return Generations.load(file)
        generations = self._generate(*job)
        if file:
            generations.save(file)
        return generations

    def _generate(self, questions, drawn, m, p_true, seed, ids, facts):
        orbits, greedy = [[x, *row] for x, row in zip(questions, drawn)], set(questions)
        texts = list(dict.fromkeys(text for orbit in orbits for text in orbit))
        prompts = [self.template.replace("{question}", text) for text in texts]
        draws = [np.random.default_rng([seed, zlib.crc32(prompt.encode())]).random((m, self.max_new_tokens))
                 for prompt in prompts]
        likeliest = np.full((1, self.max_new_tokens), np.nan)
        draws = [np.concatenate([likeliest, rows]) if text in greedy else rows for text, rows in zip(texts, draws)]
        encoded = self._encode(prompts, self.max_new_tokens)
        found = dict(zip(texts, self._in_batches(encoded, m + 1, lambda chosen, *state: self._continue(
            [draws[i] for i in chosen], *state))))
        answers, logprobs, entropies = zip(*(found[x][0] for x in questions))
        sampled = {text: list(zip(*rows[len(rows) - m:])) for text, rows in found.items()}
        given = {}
        if m:
            given["samples"] = [[sampled[text][0] for text in orbit] for orbit in orbits]
            given["loglikelihoods"] = [[[lp.sum() for lp in sampled[text][1]] for text in orbit] for orbit in orbits]
        if drawn[0]:
            given["variants"] = drawn
        if p_true:
            given["p_true"] = self._p_true(questions, answers)
        return Generations(questions, answers, _padded(logprobs), _padded(entropies), ids=ids, meta=facts, **given)

    def _encode(self, texts, room):
        """Token lists of prompts; a template that has the special first token already gets no second one."""
        bos = self.tokenizer.bos_token
        encoded = self.tokenizer(texts, add_special_tokens=not (bos and texts[0].startswith(bos)))["input_ids"]
        limit = getattr(self.model.config, "max_position_embeddings", np.inf)
        for text, tokens in zip(texts, encoded):
            expect(len(tokens) + room <= limit, lambda: f"a prompt of {len(tokens)} tokens and {room} new ones exceed "
                   f"the model's {limit}: shorten it, or max_new_tokens: {text[:80]!r}")
        return encoded

    def _in_batches(self, encoded, rows, read):
        """What `read(indices, logits, cache, mask)` gives for each prompt, of which each takes `rows` of a batch."""
        import torch

        # longest first: running out of memory shows at once, and little is padding
        order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), encoded[i]), reverse=True)

        def run(size):
            found = {}
            with torch.inference_mode(), progress(total=len(order), desc=f"generate {self.name}") as bar:
                for start in range(0, len(order), size):
                    chosen = order[start:start + size]
                    found.update(zip(chosen, read(chosen, *self._prefill([encoded[i] for i in chosen]))))
                    bar.update(len(chosen))
            return [found[i] for i in range(len(order))]

        return within_memory(run, max(1, self.batch_size // rows))

    def _prefill(self, encoded):
        """(n, V) logits after each prompt, the keys and values of all, and the (n, L) mask of their left padding."""
        import torch

        width = max(map(len, encoded))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in encoded], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded], device=self.model.device)
        out = self.model(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                         use_cache=True, logits_to_keep=1)
        return out.logits[:, -1], out.past_key_values, mask

    def _continue(self, draws, logits, kv, mask):
        """For each prompt [(answer, token log-probabilities, token entropies)], one per row of its `draws`.

        draws : per prompt (rows, T) uniform numbers that choose the tokens; NaN chooses the most probable one, and
        only there are entropies computed.
        """
        import torch

        device = logits.device
        of_prompt = torch.tensor([i for i, rows in enumerate(draws) for _ in rows], device=device)
        draws = torch.tensor(np.concatenate(draws), device=device)
        temperature = torch.full_like(draws[:, :1], self.temperature).masked_fill(draws[:, :1].isnan(), 1)
        stops = torch.tensor(sorted(self.stops), device=device)
        tokens = torch.zeros(draws.shape, dtype=torch.long, device=device)
        logprobs, entropies = torch.full_like(draws, torch.nan), torch.full_like(draws, torch.nan)
        kv.batch_select_indices(of_prompt)
        logits, mask, alive = logits[of_prompt], mask[of_prompt], torch.arange(len(draws), device=device)
        for step in range(self.max_new_tokens):
            logp = (logits.double() / temperature[alive]).log_softmax(-1)
            p = logp.exp()
            chosen = _choose(p, draws[alive, step])
            tokens[alive, step] = chosen
            logprobs[alive, step] = logp.gather(-1, chosen[:, None])[:, 0]
            likeliest = draws[alive, step].isnan()
            entropies[alive[likeliest], step] = torch.special.entr(p[likeliest]).sum(-1)
            going = (~torch.isin(chosen, stops)).nonzero()[:, 0]
            if step + 1 == self.max_new_tokens or not len(going):
                break
            if len(going) < len(alive):
                kv.batch_select_indices(going)
                alive, mask, chosen = alive[going], mask[going], chosen[going]
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            logits = self.model(input_ids=chosen[:, None], attention_mask=mask, position_ids=mask.sum(-1, True) - 1,
                                past_key_values=kv, use_cache=True).logits[:, -1]
        lengths = (~logprobs.isnan()).sum(1).tolist()
        texts = self.tokenizer.batch_decode([row[:n] for row, n in zip(tokens.tolist(), lengths)],
                                            skip_special_tokens=True)
        rows = iter([(text.split("\n")[0].strip(), lp[:n], h[:n]) for text, lp, h, n in
                     zip(texts, logprobs.cpu().numpy(), entropies.cpu().numpy(), lengths)])
        return [[next(rows) for _ in range(count)] for count in of_prompt.bincount().tolist()]

    def _p_true(self, questions, answers):
        asked = list(dict.fromkeys(zip(questions, answers)))
        texts = [P_TRUE.format(question=question, answer=answer) for question, answer in asked]
        true, false = (self._encode([text + option for text in texts], 0) for option in (" (A)", " (B)"))
        shared = [os.path.commonprefix(pair) for pair in zip(true, false)]
        for a, b, prompt in zip(true, false, shared):
            expect(len(prompt) < min(len(a), len(b)), "the tokenizer does not tell (A) from (B): set p_true=False")
        options = [(a[len(prompt)], b[len(prompt)]) for a, b, prompt in zip(true, false, shared)]
        read = lambda chosen, logits, *_: [logits[row, options[i]].double().softmax(-1)[0].item()
                                           for row, i in enumerate(chosen)]
        found = dict(zip(asked, self._in_batches(shared, 1, read)))
        return [found[pair] for pair in zip(questions, answers)]


def _choose(p, uniform):
    """The token at which the cumulative probabilities (n, V) pass the uniform number; NaN: the most probable one."""
    import torch

    below = p.cumsum(-1)
    drawn = torch.searchsorted(below, uniform[:, None] * below[:, -1:], right=True)[:, 0]
    return torch.where(uniform.isnan(), p.argmax(-1), drawn)


def _padded(rows):
    out = np.full((len(rows), max(map(len, rows))), np.nan)
    for i, row in enumerate(rows):
        out[i, :len(row)] = row
    return out


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
        meaning = lambda text: group.get(normalise(text), normalise(text))
        return np.array([meaning(a) == meaning(b) for _, a, b in triples], dtype=bool)


class Entailment:
    """Equivalence and similarity of answers by an NLI model, each distinct pair computed once.

    model : anything whose predict_proba takes (premise, hypothesis) pairs. column : the column of "entailment".
    Both texts are the question followed by an answer. Called with triples: True where each answer entails the other,
    that is, where entailment is the most probable class in both directions (Kuhn et al., ICLR 2023).
    """

    def __init__(self, model, column: int):
        self.model, self.column, self._known = model, column, {}

    def _probs(self, pairs):
        if new := [pair for pair in dict.fromkeys(pairs) if pair not in self._known]:
            probs = self.model.predict_proba(new)
            expect(0 <= self.column < probs.shape[1], lambda: f"column = {self.column}, but the NLI model gives "
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
    All questions' comparisons with their r-th founder are one call of `equivalent`.
    """
    unplaced, place = [list(dict.fromkeys(row)) for row in answers], [{} for _ in answers]
    number = 0
    while any(unplaced):
        triples = [(question, row[0], other) for question, row in zip(questions, unplaced) for other in row[1:]]
        joins = iter(equivalent(triples) if triples else ())
        for i, row in enumerate(unplaced):
            place[i].update({other: number for j, other in enumerate(row) if j == 0 or next(joins)})
            unplaced[i] = [other for other in row if other not in place[i]]
        number += 1
    return [np.array([of[answer] for answer in row]) for of, row in zip(place, answers)]


@dataclass(frozen=True, eq=False)
class Clusters:
    """Meaning clusters of Generations, shared by a question and its variants; the greedy answer's cluster is 0.

    samples : (N, K + 1, M) cluster of each sample. counts : (N,) number of clusters of each question.
    correct : (N, C) bool, True where a cluster holds a gold answer, C = the most clusters + 1; None without gold.
    """

    samples: np.ndarray
    counts: np.ndarray
    correct: np.ndarray | None = None

    @property
    def is_error(self) -> np.ndarray:
        """(N,) bool, True where the greedy answer means no gold answer. ValueError without gold answers."""
        expect(self.correct is not None, "these clusters know no gold answers: give gold to meaning_clusters")
        return ~self.correct[:, 0]


def meaning_clusters(generations: Generations, equivalent: Callable[[list[Triple]], np.ndarray],
                     gold: Sequence[Sequence[str]] | None = None) -> Clusters:
    """Cluster the greedy answer and all samples, at x and its variants, of each question.

    equivalent : SameText(...), an Entailment, or another function of triples (question, answer, answer) -> (n,) bool.
    gold : for each question its gold answer with aliases. They do not shape the clusters: a cluster holds a gold
    answer if its first member is equivalent to one. ValueError unless there is a non-empty list for each question.
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
            expect(not isinstance(texts, str) and len(texts), f"gold[{i}] = {texts!r}: give a list of answers")
        founders = [[row[i] for i in np.unique(place, return_index=True)[1]] for row, place in zip(answers, places)]
        asked = [(i, c, (question, founder, text)) for i, question in enumerate(generations.questions)
                 for c, founder in enumerate(founders[i]) for text in gold[i]]
        correct = np.zeros((len(counts), counts.max() + 1), dtype=bool)
        for (i, c, _), holds in zip(asked, equivalent([triple for *_, triple in asked])):
            correct[i, c] |= holds
    return Clusters(np.array([place[1:] for place in places]).reshape(samples.shape), counts, correct)


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
    (n,) numbers in [0, 1]; it gets each distinct pair once.
    """
    answers = [[answer, *drawn] for answer, drawn in zip(generations.answers, generations.require("samples")[:, 0])]
    pairs = [[(question, *pair) for pair in combinations(sorted(set(row)), 2)]
             for question, row in zip(generations.questions, answers)]
    triples = list(dict.fromkeys(triple for row in pairs for triple in row))
    known = dict(zip(triples, similarity(triples))) if triples else {}
    return np.array([[[1.0 if a == b else known[question, min(a, b), max(a, b)] for a in row] for b in row]
                     for question, row in zip(generations.questions, answers)])


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
                                   "Fomicheva et al., TACL 2020", "[0, 1]", _SAMPLES, ("samples",)),
    "semantic_entropy": Score(semantic_entropy, "-sum_c p_c ln p_c, p_c ~ sum of p(y) over distinct y in c",
                              "Kuhn et al., ICLR 2023", "[0, ln M]", _SAMPLES,
                              ("samples", "loglikelihoods", "clusters")),
    "discrete_semantic_entropy": Score(discrete_semantic_entropy, "-sum_c (n_c/M) ln(n_c/M)",
                                       "Farquhar et al., Nature 2024", "[0, ln M]", _SAMPLES, ("samples", "clusters")),
    "eigv": Score(eigv, "sum_k max(0, 1 - lambda_k), L = I - D^-1/2 W D^-1/2",
                  "Lin et al., TMLR 2024", "[1, M]", _SAMPLES, ("similarities",)),
    "deg": Score(deg, "trace(M I - D) / M^2", "Lin et al., TMLR 2024", "[0, 1 - 1/M]", _SAMPLES,
                 ("similarities",)),
    "kernel_language_entropy": Score(kernel_language_entropy, "-tr K ln K, K ~ exp(-t (D - W)), tr K = 1",
                                     "Nikitin et al., NeurIPS 2024", "[0, ln M]", _SAMPLES, ("similarities",)),
    "cocoa": Score(cocoa, "-ln p(y*) mean_k (1 - s(y*, y_k))", "Vashurin et al., NeurIPS 2025", "[0, inf)",
                   "M + 1 answers", ("token_logprobs", "similarities")),
}


def generation_score(generations: Generations, name: str, clusters: Clusters | None = None,
                     similarities: np.ndarray | None = None) -> np.ndarray:
    """The score `name` of GENERATION_SCORES for every question, (N,), higher = more likely wrong.

    clusters : of `meaning_clusters`. similarities : of the function `similarities`.
    ValueError for an unknown name (suggests the nearest), or where what the score needs is missing.
    """
    if name not in GENERATION_SCORES:
        raise ValueError(unknown_name("generation score", name, GENERATION_SCORES))
    function = GENERATION_SCORES[name].function
    given = {"generations": generations, "clusters": clusters, "similarities": similarities}
    wanted = {key: value for key, value in given.items() if key in inspect.signature(function).parameters}
    for key, value in wanted.items():
        expect(value is not None and not callable(value), f"score {name!r} needs {key}: give {key}=" + {
            "clusters": "sua.meaning_clusters(generations, sua.SameText())"}.get(key, "sua.similarities(generations)"))
    return function(**wanted)
