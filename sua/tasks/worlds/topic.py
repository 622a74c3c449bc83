"""The topic world: which of four topics is a sentence about?

A clear sentence names one or two things of its topic, in common or rare words, and half of the time a word of two
senses beside them, which they settle. An ambiguous sentence names a single word with a sense in two topics, and
p*(y|x) has mass on both. Opener, closer and the choice of synonym are drawn alike under every topic, so they cancel
in Bayes' rule, and every kernel keeps p* exactly.
"""

from __future__ import annotations

import re
from typing import Sequence

import numpy as np

from ...perturb import Perturbation, synonyms

LABELS = ("music", "sport", "money", "nature")

# one line per concept: words of the same meaning, from the common to the rare
_CONCEPTS = {
    "music": """song tune melody air ditty
        singer vocalist crooner chanteuse songster
        concert gig recital soiree performance
        guitar violin cello banjo lute
        orchestra ensemble band choir quartet
        rhythm beat tempo cadence metre
        album disc cassette vinyl mixtape
        composer songwriter arranger lyricist tunesmith""",
    "sport": """game match fixture contest bout
        player athlete competitor contender sportsman
        coach trainer mentor instructor handler
        team squad side lineup eleven
        stadium arena gymnasium ballpark velodrome
        goal basket touchdown hoop try
        referee umpire linesman adjudicator arbiter
        medal trophy cup shield rosette""",
    "money": """price cost fee tariff surcharge
        loan credit mortgage overdraft debenture
        investor shareholder financier backer rentier
        market exchange bourse bazaar mart
        salary wage pay stipend remuneration
        tax duty levy excise tithe
        accountant auditor bookkeeper cashier actuary
        profit income revenue proceeds lucre""",
    "nature": """tree oak pine sapling conifer
        river stream creek brook rivulet
        bird sparrow robin finch warbler
        forest wood grove thicket copse
        flower blossom bloom petal floret
        mountain hill peak ridge crag
        rain drizzle shower downpour deluge
        meadow pasture prairie grassland lea""",
}

# words with a sense in two topics, ordered from "mostly the first" to "mostly the second"
_POLYSEMES = {
    ("music", "sport"): "pitch score record track",
    ("music", "money"): "instrument note volume bill",
    ("music", "nature"): "bass scale reed horn",
    ("sport", "money"): "net title transfer return",
    ("sport", "nature"): "racket field ring bat",
    ("money", "nature"): "interest bank branch bull",
}
_SENSE = np.array([0.45, 0.30, 0.17, 0.08])  # P(word | first topic of the pair); reversed for the second

OPENERS = ("we talked about", "they asked about", "he remembered", "everyone mentioned", "this page is about",
            "it all began with", "people wondered about", "she described", "nobody forgot", "the story was about")
CLOSERS = ("", "again", "once more", "that day", "as usual", "in the end", "last week", "for a while")
_DISTRACTORS = ("by the way {}", "as it happens {}", "if you ask me {}", "on the whole {}", "{} so to speak",
                "{} or so it seemed", "{} as we all know", "{} and that was that")

_GROUPS = {topic: [line.split() for line in lines.splitlines()] for topic, lines in _CONCEPTS.items()}
_WORDS = np.array([_GROUPS[topic] for topic in LABELS])  # (topic, concept, rank)
_PAIRS = [tuple(map(LABELS.index, pair)) for pair in _POLYSEMES]
_SHARED = np.array([words.split() for words in _POLYSEMES.values()])  # (pair, rank)
_OWN = {word: y for y, groups in enumerate(_WORDS) for word in groups.flat}
_SENSES = {word: (pair, (_SENSE[rank], _SENSE[::-1][rank]) / (_SENSE[rank] + _SENSE[::-1][rank]))
           for pair, words in zip(_PAIRS, _SHARED) for rank, word in enumerate(words)}  # p*(topic | lone word)


def draw(n: int, rng: np.random.Generator, ambiguity: float = 0.3, skew: float = 1.5) -> dict[str, object]:
    """n sentences with their clarifications and weights, as `worlds.generate` takes them.

    The r-th word of a concept is written with probability proportional to r^-skew. A clarification adds a plain thing
    of the topic meant: of either sense where the word has two, else twice of the sentence's own topic.
    """
    usage = np.cumsum(np.arange(1, _WORDS.shape[2] + 1) ** -float(skew))

    # of each sentence: its topic, a word with a sense in it for the ambiguous, and things to name for the clear
    y, is_ambiguous = rng.integers(len(LABELS), size=n), rng.random(n) < ambiguity
    pair = np.array([[i for i, pair in enumerate(_PAIRS) if y in pair] for y in range(len(LABELS))])[
        y, rng.integers(len(LABELS) - 1, size=n)]
    from_first = np.array(_PAIRS)[pair, 0] == y
    sense = np.searchsorted(np.cumsum(_SENSE), rng.random(n) * (1 - 1e-12))
    lone = _SHARED[pair, np.where(from_first, sense, len(_SENSE) - 1 - sense)]
    beside = _SHARED[pair, rng.integers(_SHARED.shape[1], size=n)]
    concepts = rng.permuted(np.tile(np.arange(_WORDS.shape[1]), (n, 1)), axis=1)[:, :4]  # two to say, two to explain
    rank = np.searchsorted(usage / usage[-1], rng.random((n, 2)))
    named = _WORDS[y[:, None], concepts[:, :2], rank]
    count, has_beside, place = rng.integers(1, 3, size=n), rng.random(n) < 0.5, rng.random(n)
    opener, closer = rng.integers(len(OPENERS), size=n), rng.integers(len(CLOSERS), size=n)
    borrowed = rng.permutation(np.flatnonzero(is_ambiguous)) if is_ambiguous.any() else np.zeros(1, dtype=int)

    inputs, clarified, weights = [], [], np.empty((n, 2))
    for i in range(n):
        words = [lone[i]] if is_ambiguous[i] else list(named[i, :count[i]])
        if has_beside[i] and not is_ambiguous[i]:
            words.insert(int(place[i] * (len(words) + 1)), beside[i])
        meant = _SENSES[lone[i]][0] if is_ambiguous[i] else (y[i], y[i])
        plain = [_WORDS[topic, concepts[i, 2 + z], 0] for z, topic in enumerate(meant)]
        frame = OPENERS[opener[i]], CLOSERS[closer[i]]
        inputs.append(_sentence(words, *frame))
        clarified.append(tuple(_sentence([*words, word], *frame) for word in plain))
        # a clear sentence gets an ambiguous one's weights, so that weights alone tell nothing
        weights[i] = _SENSES[lone[i] if is_ambiguous[i] else lone[borrowed[i % len(borrowed)]]][1]
    return {"inputs": inputs, "clarified": clarified, "weights": weights}


def _sentence(words, opener, closer):
    return f"{opener} {' and '.join(f'the {word}' for word in words)} {closer}".strip()


def p_star(texts: Sequence[str]) -> np.ndarray:
    """(N, 4) exact p*(topic | text). A clear word settles the topic; a lone polyseme leaves its two senses.

    ValueError for a text that this world does not write.
    """
    result = np.zeros((len(texts), len(LABELS)))
    for row, text in enumerate(texts):
        words = re.findall(r"\w+", text)
        settled = {_OWN[word] for word in words if word in _OWN}
        shared = [_SENSES[word] for word in words if word in _SENSES]
        if len(settled) > 1 or not settled and len(shared) != 1:
            raise ValueError(f"the topic world does not write {text!r}: it needs words of one topic, or one polyseme")
        if settled:
            result[row, settled.pop()] = 1
        else:
            topics, share = shared[0]
            result[row, list(topics)] = share
    return result


def kernels() -> dict[str, Perturbation]:
    """synonyms and wording (another opener and closer), rare (the two rarest words of each concept), distractors."""
    rewrites = {"wording": _wording, "rare": _rare, "distractors": _distract}
    return {"synonyms": synonyms([group for groups in _GROUPS.values() for group in groups]),
            **{name: Perturbation.of_text(name, rewrite) for name, rewrite in rewrites.items()}}


_RAREST = {word: group[-2:] for groups in _GROUPS.values() for group in groups for word in group}
_PARTS = re.compile(rf"(?:{'|'.join(OPENERS)}) (the \w+(?: and the \w+)*)(?= |$)")


def _wording(text, rng):
    """Another opening and another close around the same things."""
    return f"{rng.choice(OPENERS)} {_PARTS.search(text)[1]} {rng.choice(CLOSERS)}".strip()


def _rare(text, rng):
    return re.sub(r"\w+", lambda m: _RAREST[m[0]][rng.integers(2)] if m[0] in _RAREST else m[0], text)


def _distract(text, rng):
    return _DISTRACTORS[rng.integers(len(_DISTRACTORS))].format(text)
