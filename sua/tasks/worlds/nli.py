"""The NLI world: (premise, hypothesis) pairs of simple English whose label is proved, not annotated.

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

The pairs are chosen so that a tiny model can learn them: openers have one word and all else that is optional closes
the hypothesis, hence quantifiers keep their positions; positive premises and special nouns are common.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import product
from typing import NamedTuple, Sequence

import numpy as np

from ...inputs import Input
from ...perturb import Perturbation

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
_CLOSED, _DISTRACTED = 0.1, 0.08  # shares of the hypotheses with such a part
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
        raise ValueError(f"the NLI world does not write {text!r}: see sua.tasks.worlds.nli for its grammar and words")
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


# --- drawing ------------------------------------------------------------------------------------------------------

# how much of the world exercises what: quantifiers on the same words, a more special or general noun, ...
_SHARES = {"quantifier": 0.5, "noun": 0.16, "verb": 0.02, "adjective": 0.05, "polysemy": 0.12, "attachment": 0.13,
           "scope": 0.05, "unrelated": 0.005, "other": 0.01}
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
