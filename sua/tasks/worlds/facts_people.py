"""The people of the facts world: what can be asked of them, and who shares a name with whom."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

# the answers of each relation
_ANSWERS = {
    "job": ("doctor", "lawyer", "cook", "pilot", "pharmacist", "undertaker"),
    "instrument": ("violin", "piano", "harmonica", "accordion", "cello", "horn"),
    "pet": ("dog", "cat", "rabbit", "donkey", "snake", "pig"),
    "colour": ("red", "blue", "green", "grey", "purple", "black"),
}
RELATIONS = tuple(_ANSWERS)
LABELS = tuple(answer for answers in _ANSWERS.values() for answer in answers)
VALUES = len(LABELS) // len(RELATIONS)  # LABELS holds as many answers of each relation, relation by relation

_FIRST_NAMES = """mara tovin elsa jorin petra aldo nika ruben ilse casper
    dunja felix greta hanno ivara kolya lotte milo nadja osric""".split()
_LAST_NAMES = [a + b for a in "hol bran stel vek kas".split() for b in "mer wick dal rup".split()]
TOWNS = """harven brillow tarnley ostrum quell morvane eldmere fennick garvost ilmouth
    jarnow kelvor lowmar nettal orsel pendrick ruskel seddle thornick upmere""".split()
# P(the first of two namesakes is meant), one for each shared name; the rest is the second's share
_SHARES = (0.55, 0.42, 0.62, 0.35, 0.68, 0.29, 0.74, 0.22, 0.81, 0.15)


@dataclass(frozen=True)
class Person:
    """A town, by which namesakes are told apart and which is never asked for, and one answer per relation."""

    town: str
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Name:
    """A full name, its one or two people and the probability that each of them is meant (sums to 1)."""

    text: str
    people: tuple[Person, ...]
    weights: tuple[float, ...]


@cache
def knowledge_base() -> tuple[Name, ...]:
    """The 20 names, from the most to the least asked, and their 30 people; the same in every run.

    Ten names are shared. Namesakes live in different towns, agree in one relation and differ in the others.
    """
    rng = np.random.default_rng(2024)
    n = len(_FIRST_NAMES)
    texts = [f"{first} {last}" for first, last in zip(_FIRST_NAMES, rng.permutation(_LAST_NAMES))]
    town = rng.permutation(n) % len(TOWNS)
    value = np.stack([rng.permutation(n) % VALUES for _ in RELATIONS], axis=1)

    def person(town, value):
        return Person(TOWNS[town], tuple(LABELS[r * VALUES + v] for r, v in enumerate(value)))

    base = [Name(text, (person(town[i], value[i]),), (1.0,)) for i, text in enumerate(texts)]
    for rank, (i, share) in enumerate(zip(np.sort(rng.choice(n, len(_SHARES), replace=False)), _SHARES)):
        move = rng.integers(1, VALUES, len(RELATIONS)) * (np.arange(len(RELATIONS)) != rank % len(RELATIONS))
        namesake = person((town[i] + rng.integers(1, len(TOWNS))) % len(TOWNS), (value[i] + move) % VALUES)
        base[i] = Name(texts[i], (*base[i].people, namesake), (share, round(1 - share, 2)))
    return tuple(base)
