"""What a pair of the NLI world means: its words, its sentences, and the label of each reading by proof.

Semantics. Both sentences speak of one scene. Every individual in it has one most special kind, is old or not, small or
not, and does a set of things that is closed upwards (who spins also turns and moves). A model says, for every region
that the pair's noun phrases cut out, which combinations of activities are found there; no region is empty, so "every"
implies "some". "every", "some", "no" and "not every" are conditions on models, and the label comes from going through
all models: entailment if every model of the premise satisfies the hypothesis, contradiction if none does, else
neutral. Openers and closers ("yesterday", "at noon that day") name the scene, and distractors ("no doubt", "to some
surprise") comment on it: they set no condition.

Three constructions have two readings z with fixed weights w_z, and p*(y|x) = sum_z w_z [label under z is y]:
scope ("every dog was not moving": none was, or not every one was), attachment ("every old dog and car": whether the
cars are meant to be old), and polysemy ("jaguar": an animal or a vehicle; the same in both sentences).
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import product
from typing import NamedTuple, Sequence

import numpy as np

from ...inputs import Input

LABELS = ("entailment", "neutral", "contradiction")

# parent, then words of the same meaning from the common to the rare; the first also names the concept
_NOUNS = {
    "animal": (None, "animal creature beast"), "dog": ("animal", "dog hound canine pooch"),
    "poodle": ("dog", "poodle"),
    "person": (None, "person human individual"), "child": ("person", "child kid youngster juvenile"),
    "vehicle": (None, "vehicle conveyance"), "car": ("vehicle", "car automobile motorcar"),
}
_VERBS = {
    "moving": (None, "moving shifting stirring"),
    "turning": ("moving", "turning rotating revolving"), "spinning": ("turning", "spinning whirling twirling"),
    "leaving": ("moving", "leaving departing exiting"), "fleeing": ("leaving", "fleeing escaping absconding"),
}
_ADJECTIVES = {"old": (None, "old aged elderly"), "small": (None, "small little diminutive")}
_GROUPS = {concept: words.split() for table in (_NOUNS, _VERBS, _ADJECTIVES) for concept, (_, words) in table.items()}

# weights of the first reading: P(first sense), P(the adjective goes with both nouns), P(none | verb)
_POLYSEMES = {"jaguar": ("animal", "vehicle", 0.7), "beetle": ("animal", "vehicle", 0.35),
              "mole": ("animal", "person", 0.8), "dove": ("animal", "person", 0.25)}
_BOTH = {"old": 0.65, "small": 0.75}
_NONE = {"moving": 0.7, "turning": 0.65, "spinning": 0.75, "leaving": 0.35, "fleeing": 0.2}

_CONCEPT = {word: concept for concept, group in _GROUPS.items() for word in group} | {word: word for word in _POLYSEMES}
_OPENERS = ("yesterday", "indeed", "clearly", "actually", "surely")
_CLOSERS = ("at noon that day", "in that very place", "at that very moment")
_DISTRACTORS = ("no doubt", "to some surprise", "as every report says", "as was not forgotten")
_ANY = "of any sort"  # closes the second noun phrase to an adjective of the first
_WORD = re.compile(r"(?<!of the )\b\w+")  # "of the animal kind" has no synonyms


class _Sentence(NamedTuple):
    """The parts of a sentence as the grammar names them; a part that is not there is ''."""

    opener: str
    quantifier: str
    adjective: str
    noun: str
    kind: str
    second: str  # "and" or "and every" before a second noun phrase
    adjective2: str
    noun2: str
    sort: str
    negation: str
    verb: str
    closer: str
    distractor: str

    def __str__(self):
        return " ".join(part for part in (*self[:9], "was", *self[9:]) if part)


def _pattern():
    def one_of(words, form="{} "):
        return "(" + form.format("(?:" + "|".join(words) + ")") + ")"

    nouns, verbs, adjectives = ([word for concept in table for word in _GROUPS[concept]]
                                for table in (_NOUNS, _VERBS, _ADJECTIVES))
    kinds = {kind for *senses, _ in _POLYSEMES.values() for kind in senses}
    return re.compile("".join((
        one_of(_OPENERS), "?", one_of(("every", "some", "no", "not every")), one_of(adjectives), "?",
        one_of([*nouns, *_POLYSEMES]), one_of(sorted(kinds), "of the {} kind "), "?",
        "(?:", one_of(("and", "and every")), one_of(adjectives), "?", one_of(nouns), one_of([_ANY]), "?", ")?",
        "was ", one_of(["not"]), "?", one_of(verbs), one_of(_CLOSERS), "?", one_of(_DISTRACTORS), "?")))


_PATTERN = _pattern()


@lru_cache(maxsize=100_000)
def _parse(text):
    match = _PATTERN.fullmatch(text + " ")
    s = match and _Sentence(*((part or "").strip() for part in match.groups()))
    if not s or (s.kind and _kind(s) not in _POLYSEMES.get(s.noun, ())) or (
            s.negation and (s.quantifier != "every" or s.second)) or (
            s.second and (s.quantifier != "every" or bool(s.adjective2) + bool(s.sort) != (s.second == "and every"))):
        raise ValueError(f"the NLI world does not write {text!r}: see sua.tasks.worlds.nli_meaning for its grammar "
                         "and words")
    return s


def _kind(s):
    return s.kind.split()[2]


# --- meanings -----------------------------------------------------------------------------------------------------

def _ancestors(table, concept):
    return {concept} | (_ancestors(table, table[concept][0]) if table[concept][0] else set())


_KINDS = {noun: _ancestors(_NOUNS, noun) for noun in _NOUNS}
_KINDS |= {(word, z): _KINDS[senses[z]] | {(word, z)} for word, senses in _POLYSEMES.items() for z in (0, 1)}
_TRAITS = ((), ("old",), ("small",), ("old", "small"))
_ACTIVITIES = sorted({tuple(sorted(set().union(*(_ancestors(_VERBS, v) for v, on in zip(_VERBS, done) if on))))
                      for done in product((0, 1), repeat=len(_VERBS))})


@lru_cache(maxsize=None)
def _individuals(noun, adjective):
    """The sorts of individuals that a noun phrase is true of, as a set of (most special kind, traits)."""
    return frozenset((kind, traits) for kind, traits in product(_KINDS, _TRAITS)
                     if noun in _KINDS[kind] and (not adjective or adjective in traits))


@lru_cache(maxsize=None)
def _doing(verb):
    return frozenset(done for done in _ACTIVITIES if verb in done)


def _choices(pair) -> dict:
    """{what is open: weight of its first reading}: a polyseme in the whole pair, the rest in the sentence on a side."""
    found = {}
    for side, s in enumerate(pair):
        if s.noun in _POLYSEMES and not s.kind:
            found[s.noun] = _POLYSEMES[s.noun][2]
        if s.second == "and" and s.adjective:
            found["attachment", side] = _BOTH[_CONCEPT[s.adjective]]
        if s.negation:
            found["scope", side] = _NONE[_CONCEPT[s.verb]]
    return found


def _meaning(s: _Sentence, side: int, reading: dict) -> list:
    """The conditions (quantifier, individuals, activities) that the sentence sets under a reading; all must hold."""
    noun, adjective, adjective2 = _CONCEPT[s.noun], _CONCEPT.get(s.adjective), _CONCEPT.get(s.adjective2)
    if noun in _POLYSEMES:
        noun = noun, _POLYSEMES[noun].index(_kind(s)) if s.kind else reading[noun]
    quantifier = s.quantifier
    if s.negation:
        quantifier = "not every" if reading["scope", side] else "no"
    if reading.get(("attachment", side)) == 0:
        adjective2 = adjective
    phrases = [(noun, adjective), (_CONCEPT[s.noun2], adjective2)] if s.second else [(noun, adjective)]
    return [(quantifier, _individuals(*phrase), _doing(_CONCEPT[s.verb])) for phrase in phrases]


@lru_cache(maxsize=None)
def _venn(sets, universe):
    """How many regions the sets cut out of the universe, and the regions that each set consists of."""
    regions = sorted({tuple(x in s for s in sets) for x in universe})
    return len(regions), tuple(tuple(r for r, region in enumerate(regions) if region[i]) for i in range(len(sets)))


@lru_cache(maxsize=None)
def _decide(premise, hypothesis, n_regions, n_activities):
    """The label by enumeration: a model gives each region the non-empty set (bitmask) of activities found there."""
    models = np.indices((2 ** n_activities - 1,) * n_regions).reshape(n_regions, -1) + 1

    def holds(conditions):
        result = np.ones(models.shape[1], bool)
        for quantifier, regions, activities in conditions:
            mask = sum(1 << a for a in activities)
            found = models[list(regions)]
            every, some = ((found & ~mask) == 0).all(0), ((found & mask) != 0).any(0)
            result &= {"every": every, "some": some, "no": ~some, "not every": ~every}[quantifier]
        return result

    possible = holds(hypothesis)[holds(premise)]
    return 0 if possible.all() else 1 if possible.any() else 2


def _label(premise: list, hypothesis: list) -> int:
    """Index into LABELS of a pair of meanings. Only how the sets overlap matters, so few cases are ever enumerated."""
    quantifiers, individuals, activities = zip(*premise, *hypothesis)
    n_regions, regions = _venn(individuals, frozenset().union(*individuals))
    n_activities, activities = _venn(activities, tuple(_ACTIVITIES))
    conditions = tuple(zip(quantifiers, regions, activities))
    return _decide(conditions[:len(premise)], conditions[len(premise):], n_regions, n_activities)


def readings(pair: Input) -> list[tuple[float, int]]:
    """(weight, label index) of every reading of a pair. ValueError for a text that the world does not write."""
    if isinstance(pair, str) or len(pair) != 2:
        raise ValueError(f"{pair!r} is not a pair: give (premise, hypothesis)")
    sentences = [_parse(text) for text in pair]
    choices = _choices(sentences)
    result = []
    for z in product((0, 1), repeat=len(choices)):
        weight = 1.0
        for w, chosen in zip(choices.values(), z):
            weight *= 1 - w if chosen else w
        reading = dict(zip(choices, z))
        result.append((weight, _label(*(_meaning(s, side, reading) for side, s in enumerate(sentences)))))
    return result


def p_star(inputs: Sequence[Input]) -> np.ndarray:
    """(N, 3) exact p*(label | pair), columns in the order of LABELS. ValueError for what the world does not write."""
    result = np.zeros((len(inputs), len(LABELS)))
    for row, pair in zip(result, inputs):
        found = readings(pair)
        if len({label for _, label in found}) == 1:
            row[found[0][1]] = 1  # not the sum of the weights, which may round
        else:
            for weight, label in found:
                row[label] += weight
    return result
