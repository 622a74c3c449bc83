"""Generated world "facts": questions about invented people, whose answers and ambiguities are known exactly.

A fixed knowledge base holds one job, instrument, pet and favourite colour per person. Some full names belong to two
people of different towns. A question that gives the town is clear; one that gives the shared name alone has two valid
answers where the two differ: whoever asks means the one or the other with known probability, which gives p*(y|x).
It is small enough for a two-layer encoder to learn from 4000 questions in half a minute on one core.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import product
from typing import NamedTuple, Sequence

import numpy as np

from ...inputs import Input
from ...perturb import Perturbation, synonyms
from .facts_people import LABELS, RELATIONS, TOWNS, VALUES, knowledge_base

CHOICES = 4

# templates of each relation, from the common to the rare; {} = the person
_TEMPLATES = {
    "job": """what is the job of {}
        what does {} do for a living
        which job does {} have
        how does {} earn a living
        what kind of work does {} do
        in what job is {} employed
        by what work does {} earn money
        how does {} pay the bills""",
    "instrument": """what instrument does {} play
        which instrument can {} play
        what does {} play at a concert
        on which instrument does {} play tunes
        which instrument does {} practise
        what is the instrument of {}
        which instrument is heard when {} gives a concert
        from what does {} draw tunes""",
    "pet": """what pet does {} have
        which animal does {} own
        what kind of pet does {} keep
        what is the pet of {}
        which animal lives in the house of {}
        which animal does {} feed every day
        what sort of animal shares the house of {}
        which animal waits for {} at the door""",
    "colour": """what is the favourite colour of {}
        which colour does {} like best
        what colour does {} prefer
        which colour would {} choose
        what is the best colour in the eyes of {}
        which colour pleases {} most
        which colour is dearest to {}
        if asked for a colour what would {} choose""",
}
# words of the same meaning wherever the templates use them, from the common to the rare
_SYNONYMS = [line.split() for line in """job profession occupation vocation calling
    money cash
    tunes melodies airs
    concert recital performance
    practise rehearse
    animal creature beast critter
    own possess
    house home dwelling abode residence
    lives resides dwells
    colour color hue shade tint
    favourite favorite preferred
    choose pick select
    pleases delights""".splitlines()]
_BY_TOWN = ("of {}", "who lives in {}", "living in {}")
_OPENERS = ("", "quick question", "by the way", "excuse me", "one more thing", "hello again", "it rained this morning",
            "i am writing a letter", "my coffee is getting cold")
_CLOSERS = ("", "please", "if you know", "thank you", "do you remember", "take your time", "no hurry",
            "i ask for a friend", "in case it is on file")

_PERSON_SKEW = 1 / 2  # people differ less than wordings in how often they are asked for: each must be learnt
_PHRASED = 0.25  # share of questions with an opener, and of those with a closer


def draw(n: int, rng: np.random.Generator, ambiguity: float = 0.3, skew: float = 1.5) -> dict[str, list | np.ndarray]:
    """n questions as columns.

    inputs : texts. clarified : pairs of texts, the towns of both people added to a bare name; where x is clear, the
    town of the person added or put in two other ways. weights : (n, 2) probabilities of the two readings. choices :
    four answers of the relation asked in random order, every valid one among them. choice_dist : (n, 4) exact
    distribution over them. answers : the valid answers, the likelier first. prompt : the question for a language model.

    ambiguity : share of questions with two valid answers. skew : the r-th template and the r-th synonym are written
    with probability proportional to r^-skew, the r-th name is asked for with r^-(skew / 2).
    ValueError for a share outside [0, 1].
    """
    if not 0 <= ambiguity <= 1:
        raise ValueError(f"ambiguity = {ambiguity}: give a share in [0, 1]")
    base, rows = knowledge_base(), np.arange(n)
    shared = np.array([len(name.people) == 2 for name in base])
    weight = np.array([_two(name.weights) for name in base])  # (names, 2)
    value = np.array([[[LABELS.index(answer) % VALUES for answer in person.facts] for person in _two(name.people)]
                      for name in base])  # (names, 2, relations)
    differs = value[:, 0] != value[:, 1]

    # which name and relation: any for a clear question, one in which namesakes differ for an ambiguous one
    is_ambiguous = rng.random(n) < ambiguity
    asked = _zipf(len(base), _PERSON_SKEW * skew)
    shared_name = rng.choice(len(base), n, p=asked * shared / (asked @ shared))
    name = np.where(is_ambiguous, shared_name, rng.choice(len(base), n, p=asked))
    among_differing = (rng.random((n, len(RELATIONS))) * differs[name]).argmax(-1)
    relation = np.where(is_ambiguous, among_differing, rng.integers(len(RELATIONS), size=n))
    has_town = ~is_ambiguous & (differs[name, relation] | (rng.random(n) < 0.5))
    person = rng.integers(2, size=n)
    readings = np.where(has_town[:, None], person[:, None], [0, 1])  # whom the two clarifications are about
    # where nobody competes the weights say nothing; those of a shared name make them look as elsewhere
    weights = weight[np.where(shared[name] & ~has_town, name, shared_name)]

    frame = np.empty(n, dtype=object)
    for r, (frames, probabilities) in enumerate(_frames(skew)):
        frame[relation == r] = rng.choice(np.array(frames, dtype=object), (relation == r).sum(), p=probabilities)
    opener, closer = (rng.integers(1, len(phrases), n) * (rng.random(n) < _PHRASED) for phrases in (_OPENERS, _CLOSERS))
    form = rng.permuted(np.tile(np.arange(len(_BY_TOWN)), (n, 1)), axis=1)  # x's own, then those of its clarifications

    def write(i, z, with_town, column):
        text, people = base[name[i]].text, _two(base[name[i]].people)
        about = f"{text} {_BY_TOWN[form[i, column]].format(people[z].town)}" if with_town else text
        return f"{_OPENERS[opener[i]]} {frame[i].format(about)} {_CLOSERS[closer[i]]}".strip()

    inputs = [write(i, person[i], has_town[i], 0) for i in rows]
    clarified = [tuple(write(i, readings[i, z], True, 1 + z) for z in range(2)) for i in rows]

    valid = value[name[:, None], readings, relation[:, None]]  # (n, 2)
    dist = np.zeros((n, VALUES))
    for z in range(2):
        dist[rows, valid[:, z]] += weights[:, z]
    order = np.where(dist > 0, -1, rng.random((n, VALUES))).argsort(-1)[:, :CHOICES]  # the valid, then others
    order = rng.permuted(order, axis=1)
    likelier = dist.argsort(-1, kind="stable")[:, ::-1]
    labels = np.array(LABELS, dtype=object).reshape(len(RELATIONS), VALUES)
    return {
        "inputs": inputs, "clarified": clarified, "weights": weights,
        "choices": labels[relation[:, None], order].tolist(),
        "choice_dist": np.take_along_axis(dist, order, axis=1),
        "answers": [labels[r, likelier[i, :count]].tolist()
                    for i, (r, count) in enumerate(zip(relation, (dist > 0).sum(-1)))],
        "prompt": [f"question: {text}? answer:" for text in inputs],
    }


def p_star(inputs: Sequence[Input]) -> np.ndarray:
    """(N, 24) exact p*(answer | question), for questions, their variants and their clarifications.

    The name, the town where it is given, and the relation decide; wording and added phrases do not.
    ValueError for a text that the world does not write, or a town where no person of that name lives.
    """
    names = {name.text: name for name in knowledge_base()}
    column = {label: y for y, label in enumerate(LABELS)}
    result = np.zeros((len(inputs), len(LABELS)))
    for row, text in enumerate(inputs):
        x = _parse(text)
        meant = [(person, weight) for person, weight in zip(names[x.name].people, names[x.name].weights)
                 if x.town in ("", person.town)]
        if not meant:
            raise ValueError(f"the facts world does not write {text!r}: no {x.name} lives in {x.town}")
        for person, weight in meant:
            result[row, column[person.facts[x.relation]]] += 1.0 if x.town else weight
    return result


def kernels() -> dict[str, Perturbation]:
    """"synonyms" and "wording" (another template, common words) to train with; "rare" (the rarest template in its
    rarest words) and "distractors" (a neutral phrase before or after, or both) to attack with. All keep p* exactly."""
    return {"synonyms": synonyms(_SYNONYMS), "wording": Perturbation.of_text("wording", _wording),
            "rare": Perturbation.of_text("rare", _rare), "distractors": Perturbation.of_text("distractors", _distract)}


def _two(values):
    """Those of two people; one alone takes both places."""
    return (values * 2)[:2]


def _zipf(n, skew):
    weights = np.arange(1, n + 1) ** -float(skew)
    return weights / weights.sum()


def _templates(relation):
    return [line.strip() for line in _TEMPLATES[RELATIONS[relation]].splitlines()]


@cache
def _expand(template):
    """[(template in one choice of synonyms, rank of each word in its group)], from common to rare words."""
    groups = {group[0]: group for group in _SYNONYMS}
    slots = [list(enumerate(groups.get(word, [word]))) for word in template.split()]
    return [(" ".join(word for _, word in chosen), [rank for rank, _ in chosen]) for chosen in product(*slots)]


@cache
def _frames(skew):
    """For each relation: all its questions without a person, and the probability of each."""
    result = []
    for relation in range(len(RELATIONS)):
        templates = _templates(relation)
        frames, weights = [], []
        for template, probability in zip(templates, _zipf(len(templates), skew)):
            written = _expand(template)
            likelihood = np.array([np.prod([(rank + 1.0) ** -skew for rank in ranks]) for _, ranks in written])
            frames += [frame for frame, _ in written]
            weights += list(probability * likelihood / likelihood.sum())
        result.append((frames, np.array(weights)))
    return result


@cache
def _grammar():
    """Patterns that split a text into opener, question and closer and that find the person in the question, and
    {question without a person: (relation, template)}."""
    def one_of(phrases):
        return "|".join(map(re.escape, phrases))

    whole = re.compile(f"((?:(?:{one_of(_OPENERS[1:])}) )*)(.*?)((?: (?:{one_of(_CLOSERS[1:])}))*)")
    by_town = "|".join(words.format(f"(?:{one_of(TOWNS)})") for form in _BY_TOWN for words, _ in _expand(form))
    person = re.compile(rf"(?<= )({one_of(name.text for name in knowledge_base())})((?: (?:{by_town}))?)(?= |$)")
    meaning = {frame: (r, template) for r in range(len(RELATIONS)) for template in _templates(r)
               for frame, _ in _expand(template)}
    return whole, person, meaning


class _Question(NamedTuple):
    opener: str
    relation: int
    template: str
    person: str  # as written, with the town if there is one
    closer: str
    name: str
    town: str  # "" if not given


def _parse(text):
    whole, find, meaning = _grammar()
    parts = whole.fullmatch(text) if isinstance(text, str) else None
    person = find.search(parts[2]) if parts else None
    frame = parts[2][:person.start()] + "{}" + parts[2][person.end():] if person else None
    if frame not in meaning:
        raise ValueError(f"the facts world does not write {text!r}: it asks its people, by their full names, for their "
                         f"{', '.join(RELATIONS)}, in its own templates")
    town = person[2].split()[-1] if person[2] else ""
    return _Question(parts[1], *meaning[frame], person[0], parts[3], person[1], town)


def _wording(text, rng):
    x = _parse(text)
    others = [template for template in _templates(x.relation) if template != x.template]
    return x.opener + others[rng.integers(len(others))].format(x.person) + x.closer


def _rare(text, rng):
    x = _parse(text)
    return x.opener + _expand(_templates(x.relation)[-1])[-1][0].format(x.person) + x.closer


def _distract(text, rng):
    """Phrases that the text does not hold yet, so that a repeated attack does not repeat itself."""
    where = rng.integers(3)  # before, after, both
    for at, phrases in enumerate((_OPENERS, _CLOSERS)):
        fresh = [phrase for phrase in phrases if phrase not in text]
        if fresh and where in (at, 2):
            phrase = fresh[rng.integers(len(fresh))]
            text = f"{text} {phrase}" if at else f"{phrase} {text}"
    return text
