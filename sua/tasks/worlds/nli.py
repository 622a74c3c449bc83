"""The NLI world: (premise, hypothesis) pairs of simple English whose label is proved, not annotated.

Their words, readings and labels are in `nli_meaning`; here pairs are drawn and rewritten. They are chosen so that a
tiny model can learn them: openers have one word and all else that is optional closes the hypothesis, hence quantifiers
keep their positions; positive premises and special nouns are common.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np

from ...perturb import Perturbation
from .nli_meaning import (LABELS, _ADJECTIVES, _ANY, _BOTH, _CLOSERS, _CONCEPT, _DISTRACTORS, _GROUPS, _KINDS, _NONE,
                          _NOUNS, _OPENERS, _POLYSEMES, _VERBS, _WORD, _ancestors, _choices, _parse, p_star, readings)

__all__ = ["LABELS", "draw", "kernels", "p_star", "readings"]

# how much of the world exercises what: quantifiers on the same words, a more special or general noun, ...
_SHARES = {"quantifier": 0.5, "noun": 0.16, "verb": 0.02, "adjective": 0.05, "polysemy": 0.12, "attachment": 0.13,
           "scope": 0.05, "unrelated": 0.005, "other": 0.01}
_CLOSED, _DISTRACTED = 0.1, 0.08  # shares of the hypotheses with such a part
_POSITIVE = 2  # premises with "every" or "some" come twice as often as those with "no" or "not every"


def _blocks():
    """(what it exercises, (quantifiers of premise and hypothesis), noun phrases, verbs); "every not" is the scope form.

    "alike" are the pairs of quantifiers that decide nothing once the noun of the hypothesis is the more general one.
    """
    every, some, no, not_every = quantifiers = ("every", "some", "no", "not every")
    anything, universal = list(product(quantifiers, repeat=2)), list(product((every, no), quantifiers))
    alike = [(every, every), (every, not_every), (no, no), (no, some)]
    scope = [pair for q in quantifiers for pair in (("every not", q), (q, "every not"))]

    verb = [(v, v) for v in _VERBS]
    other_verb = [(v, u) for v, u in product(_VERBS, repeat=2)
                  if v != u and (v in _ancestors(_VERBS, u) or u in _ancestors(_VERBS, v))]
    general = [noun for noun, (parent, _) in _NOUNS.items() if not parent]
    special = [noun for noun in _NOUNS if noun not in general]
    itself = [(a, a) for a in special]
    down = [(a, b) for a, b in product(_NOUNS, repeat=2) if a != b and a in _KINDS[b]]
    up = [(b, a) for a, b in down]
    apart = [(a, b) for a, b in product(_NOUNS, repeat=2) if a not in _KINDS[b] and b not in _KINDS[a]]
    narrower = [(a, f"{adjective} {a}") for a, adjective in product(special, _ADJECTIVES)]
    senses = [(first, phrase) for word, (first, second, _) in _POLYSEMES.items()
              for phrase in (word, f"{word} of the {first} kind", f"{word} of the {second} kind")]
    joined = [(f"{adj} {a} and {second}", hypothesis)
              for (a, b), adj in product(apart, _ADJECTIVES) if a in special and b in special
              for second in (b, f"every {adj} {b}", f"every {b} {_ANY}") for hypothesis in (b, f"{adj} {b}")]
    return [("quantifier", anything, itself, verb), ("scope", scope, itself, verb),
            ("noun", universal, down, verb), ("noun", alike, up, verb),
            ("adjective", universal, narrower, verb), ("adjective", alike, [(b, a) for a, b in narrower], verb),
            ("verb", list(product((every, some), quantifiers)), itself, other_verb),
            ("polysemy", universal, senses, verb), ("polysemy", anything, [(word, word) for word in _POLYSEMES], verb),
            ("attachment", list(product((every,), quantifiers)), joined, verb),
            ("unrelated", universal, apart, verb), ("other", anything, down + up + [(a, a) for a in general], verb)]


def _sentence(quantifier, phrase, verb):
    return f"every {phrase} was not {verb}" if quantifier == "every not" else f"{quantifier} {phrase} was {verb}"


@lru_cache(maxsize=1)
def _bank():
    """Every pair in common words without opener: {label index if clear, else what makes it ambiguous: (pairs, p)}."""
    rows = []
    for exercised, quantifiers, phrases, verbs in _blocks():
        for qs, nouns, vs in product(quantifiers, phrases, verbs):
            pair = tuple(map(_sentence, qs, nouns, vs))
            labels = {label for _, label in readings(pair)}
            weight = 1 if qs[0].startswith("no") else _POSITIVE
            rows.append((exercised if len(labels) > 1 else labels.pop(), exercised, weight, pair))
    total = {name: sum(weight for _, exercised, weight, _ in rows if exercised == name) for name in _SHARES}
    bank = {}
    for cell in {row[0] for row in rows}:
        chosen = [row for row in rows if row[0] == cell]
        p = np.array([_SHARES[exercised] * weight / total[exercised] for _, exercised, weight, _ in chosen])
        bank[cell] = [row[-1] for row in chosen], p / p.sum()
    return bank


def _spelled_out(pair, z):
    """The pair with what is open settled: the sentences that say reading z and nothing else."""
    result = []
    for s in pair:
        if s.noun in _POLYSEMES and not s.kind:
            s = s._replace(kind=f"of the {_POLYSEMES[s.noun][z]} kind")
        if s.second == "and" and s.adjective:
            s = s._replace(second="and every", adjective2="" if z else s.adjective, sort=_ANY if z else "")
        if s.negation:
            s = s._replace(quantifier="not every" if z else "no", negation="")
        result.append(s)
    return result


@lru_cache(maxsize=None)
def _versions(pair):
    """The pair, and under z = 0 and 1 spelled out, as templates; P(z = 0), or None where there is a single reading."""
    sentences = [_parse(text) for text in pair]
    choices = _choices(sentences)
    versions = [sentences, *(_spelled_out(sentences, z) for z in (0, 1))]
    return [[_template(str(s)) for s in version] for version in versions], next(iter(choices.values()), None)


@lru_cache(maxsize=None)
def _template(text):
    """The text with a slot for each word that has synonyms, and the concepts that go there."""
    concepts = [word for word in _WORD.findall(text) if word in _GROUPS]
    return _WORD.sub(lambda m: "{}" if m.group() in _GROUPS else m.group(), text), concepts


def draw(n: int, rng: np.random.Generator, ambiguity: float = 0.3, skew: float = 1.5) -> dict:
    """n pairs: `inputs`, `clarified` (two pairs each), `weights` (n, 2) = p(z|x), and `construction`, the name of what
    makes the pair ambiguous ("scope", "attachment", "polysemy") or "none".

    ambiguity : share of pairs with p_star.max < 1, a third of them of each construction; the other pairs have the
    three labels equally often. skew : the r-th word of a concept is written with probability proportional to r^-skew.
    Where there is a single reading the clarifications name the scene in two ways, with weights drawn from those of
    the constructions.
    """
    cells = (*range(len(LABELS)), "scope", "attachment", "polysemy")
    cell = np.where(rng.random(n) < ambiguity, rng.integers(3, 6, n), rng.integers(0, 3, n))
    pairs = [None] * n
    for c, name in enumerate(cells):
        options, p = _bank()[name]
        at = np.flatnonzero(cell == c)
        for i, chosen in zip(at.tolist(), rng.choice(len(options), len(at), p=p).tolist()):
            pairs[i] = options[chosen]

    # for each pair the word of each concept, on either side, and the parts that carry no condition
    words = {}
    for concept, group in _GROUPS.items():
        p = np.arange(1, len(group) + 1) ** -float(skew)
        words[concept] = rng.choice(group, (n, 2), p=p / p.sum()).tolist()
    openers = rng.choice(_OPENERS, (n, 2)).tolist()
    closers = np.where(rng.random(n) < _CLOSED, rng.integers(len(_CLOSERS), size=n), -1).tolist()
    distractors = np.where(rng.random(n) < _DISTRACTED, rng.choice(_DISTRACTORS, n), "").tolist()
    borrowed = np.array([rng.choice(weights, n) for weights in (
        [*_NONE.values()], [*_BOTH.values()], [w for *_, w in _POLYSEMES.values()])])[rng.integers(3, size=n), range(n)]

    def write(i, templates, closer):
        premise, hypothesis = (f"{openers[i][side]} " + template.format(*(words[c][i][side] for c in concepts))
                               for side, (template, concepts) in enumerate(templates))
        return premise, " ".join(filter(None, (hypothesis, _CLOSERS[closer] if closer >= 0 else "", distractors[i])))

    inputs, clarified, weights = [], [], borrowed
    for i, (pair, closer) in enumerate(zip(pairs, closers)):
        (x, *spelled_out), weight = _versions(pair)
        inputs.append(write(i, x, closer))
        if weight is None:
            others = [other for other in range(len(_CLOSERS)) if other != closer]
            clarified.append((write(i, x, others[0]), write(i, x, others[1])))
        else:
            weights[i] = weight
            clarified.append(tuple(write(i, version, closer) for version in spelled_out))

    names = np.array(["none"] * len(LABELS) + list(cells[len(LABELS):]))
    return {"inputs": inputs, "clarified": clarified, "weights": np.stack([weights, 1 - weights], 1),
            "construction": names[cell].tolist()}


# --- kernels ------------------------------------------------------------------------------------------------------

def _redraw(text, rng, choose):
    """Half of the words that have synonyms, each replaced by choose(group)."""
    def word(match):
        group = _GROUPS.get(_CONCEPT.get(match.group()))
        return choose(group) if group and rng.random() < 0.5 else match.group()

    return _WORD.sub(word, text)


def _synonyms(pair, rng):
    """The words of the premise, of the hypothesis or of both, redrawn uniformly within their groups."""
    chosen = ((0,), (1,), (0, 1))[rng.integers(3)]
    return tuple(_redraw(text, rng, lambda group: group[rng.integers(len(group))]) if side in chosen else text
                 for side, text in enumerate(pair))


def _rare(pair, rng):
    return tuple(_redraw(text, rng, lambda group: group[-1]) for text in pair)


def _wording(pair, rng):
    """Both openers redrawn uniformly, which is how the world writes them."""
    return tuple(str(_parse(text)._replace(opener=_OPENERS[rng.integers(len(_OPENERS))])) for text in pair)


def _distractors(pair, rng):
    """The hypothesis with a comment that says nothing about the scene, although it may hold a quantifier."""
    return pair[0], str(_parse(pair[1])._replace(distractor=_DISTRACTORS[rng.integers(len(_DISTRACTORS))]))


def kernels() -> dict[str, Perturbation]:
    """All keep p* exactly. "synonyms" and "wording" redraw uniformly, so (x, x') is exchangeable; "rare" puts half of
    the content words into their rarest synonyms; "distractors" comments on the hypothesis."""
    return {name: Perturbation(name, rewrite) for name, rewrite in
            (("synonyms", _synonyms), ("wording", _wording), ("rare", _rare), ("distractors", _distractors))}
