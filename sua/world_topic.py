"""Generated tasks whose true p*(y|x), synonym groups and readings are known exactly.

A world writes simple English from a small grammar, so that Bayes' rule gives p*(y|x) in closed form and its kernels
keep p* exactly. Nothing here is estimated.
"""

from __future__ import annotations

import re
from typing import Mapping, Sequence

import numpy as np
from datasets import Dataset, DatasetDict

from .perturb import Perturbation, synonyms
from .tasks import SPLITS, Task

TOPICS = ("music", "sport", "money", "nature")

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

_OPENERS = ("we talked about", "they asked about", "he remembered", "everyone mentioned", "this page is about",
            "it all began with", "people wondered about", "she described", "nobody forgot", "the story was about")
_CLOSERS = ("", "again", "once more", "that day", "as usual", "in the end", "last week", "for a while")


def _groups():
    return {topic: [line.split() for line in lines.splitlines()] for topic, lines in _CONCEPTS.items()}


def topic(sizes: Mapping[str, int], seed: int = 0, ambiguity: float = 0.3, skew: float = 1.5,
          label_rule: str = "majority") -> Task:
    """Which of four topics is a sentence about? Clear sentences name the topic's own things, in common or rare words;
    ambiguous ones hold a single word with a sense in two topics, and p*(y|x) has mass on both.

    sizes : rows per split. ambiguity : share of ambiguous sentences. skew : the r-th word of a concept is written
    with probability proportional to r^-skew, so that rare synonyms are seldom seen in training.
    label_rule : "majority" labels argmax p* (this is what teaches a model to collapse), "sampled" draws from p*.

    Besides the common schema each row holds `label_dist` (4,) = p*(y|x) and `ambiguous`. Kernels: "synonyms" and
    "wording", both keep p* exactly. Raises ValueError for a share outside [0, 1] or an unknown rule.
    """
    if not 0 <= ambiguity <= 1:
        raise ValueError(f"ambiguity = {ambiguity}: give a share in [0, 1]")
    if label_rule not in ("majority", "sampled"):
        raise ValueError(f"label_rule = {label_rule!r}: give 'majority' or 'sampled'")
    groups = _groups()
    frequency = np.arange(1, 6) ** -float(skew)
    frequency /= frequency.sum()

    def content(rng, y):
        if rng.random() < ambiguity:
            other = rng.choice([t for t in range(len(TOPICS)) if t != y])
            pair = tuple(TOPICS[t] for t in sorted((y, other)))
            sense = _SENSE if TOPICS[y] == pair[0] else _SENSE[::-1]
            return [rng.choice(_POLYSEMES[pair].split(), p=sense)]
        concepts = rng.choice(len(groups[TOPICS[y]]), rng.integers(1, 3), replace=False)
        words = [rng.choice(groups[TOPICS[y]][concept], p=frequency) for concept in concepts]
        if rng.random() < 0.5:  # a word of two senses beside words that settle which
            pair = [pair for pair in _POLYSEMES if TOPICS[y] in pair][rng.integers(len(TOPICS) - 1)]
            words.insert(rng.integers(len(words) + 1), rng.choice(_POLYSEMES[pair].split()))
        return words

    def sentence(rng, y):
        things = " and ".join(f"the {word}" for word in content(rng, y))
        return f"{rng.choice(_OPENERS)} {things} {rng.choice(_CLOSERS)}".strip()

    splits = DatasetDict()
    for index, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, index])
        texts = [sentence(rng, y) for y in rng.integers(len(TOPICS), size=sizes[split])]
        p_star = topic_posterior(texts)
        majority = p_star.argmax(-1)
        drawn = (rng.random((len(texts), 1)) > p_star.cumsum(-1)[:, :-1]).sum(-1)
        splits[split] = Dataset.from_dict({
            "id": [f"{split}-{i}" for i in range(len(texts))], "text": texts,
            "label": majority if label_rule == "majority" else drawn,
            "label_dist": p_star, "ambiguous": p_star.max(-1) < 1,
        })
    kernels = {"synonyms": synonyms([group for topic_groups in groups.values() for group in topic_groups]),
               "wording": Perturbation.of_text("wording", _wording)}
    source = {"origin": "generated", "world": "topic", "seed": seed, "ambiguity": ambiguity, "skew": skew,
              "label_rule": label_rule}
    return Task("topic", splits, TOPICS, kernels, source, topic_posterior)


def topic_posterior(texts: Sequence[str]) -> np.ndarray:
    """(N, 4) exact p*(topic | text). A clear word settles the topic; a lone polyseme leaves its two senses.

    The choice of synonym, opener and closer has the same probability under every topic and cancels in Bayes' rule.
    ValueError for a text that the topic world does not write.
    """
    own = {word: y for y, name in enumerate(TOPICS) for group in _groups()[name] for word in group}
    polysemes = {}
    for pair, words in _POLYSEMES.items():
        for rank, word in enumerate(words.split()):
            weight = np.zeros(len(TOPICS))
            weight[[TOPICS.index(name) for name in pair]] = _SENSE[rank], _SENSE[::-1][rank]
            polysemes[word] = weight / weight.sum()
    result = np.zeros((len(texts), len(TOPICS)))
    for row, text in enumerate(texts):
        words = re.findall(r"\w+", text)
        settled = {own[word] for word in words if word in own}
        shared = [polysemes[word] for word in words if word in polysemes]
        if len(settled) > 1 or not settled and len(shared) != 1:
            raise ValueError(f"the topic world does not write {text!r}: it needs words of one topic, or one polyseme")
        result[row] = np.eye(len(TOPICS))[settled.pop()] if settled else shared[0]
    return result


def _wording(text, rng):
    """Another opening and another close around the same things."""
    things = re.search(r"the \w+(?: and the \w+)*(?= |$)", next(
        text[len(opener):] for opener in sorted(_OPENERS, key=len, reverse=True) if text.startswith(opener))).group()
    return f"{rng.choice(_OPENERS)} {things} {rng.choice(_CLOSERS)}".strip()


WORLDS = {"topic": topic}
