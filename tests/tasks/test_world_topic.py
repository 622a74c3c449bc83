"""The topic world's p*(y|x) against enumeration of its generative process in fractions, and against drawn labels."""

import re
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from scipy.stats import chi2, chisquare

from sua import load_task
from sua.tasks.worlds import topic as world

SIZES = {"train": 400, "validation": 10, "calibration": 10, "test": 300}
SENSE = [Fraction(45, 100), Fraction(30, 100), Fraction(17, 100), Fraction(8, 100)]
AMBIGUITY = Fraction(3, 10)


def lone_words():
    """{word: [P(ambiguous sentence about that word | y)]} by walking through every choice of the generator."""
    p = {}
    for y, other in product(range(4), repeat=2):
        if other != y:
            first, second = sorted((y, other))
            words = world._POLYSEMES[world.LABELS[first], world.LABELS[second]].split()
            for rank, word in enumerate(words):
                share = SENSE[rank] if y == first else SENSE[3 - rank]
                p.setdefault(word, [Fraction(0)] * 4)[y] += AMBIGUITY * Fraction(1, 3) * share
    return p


def test_the_process_spends_all_its_probability():
    p = lone_words()
    assert len(p) == 24
    assert [sum(given[y] for given in p.values()) for y in range(4)] == [AMBIGUITY] * 4


@pytest.mark.parametrize("word", lone_words())
def test_posterior_of_a_lone_polyseme_is_bayes_rule(word):
    likelihood = lone_words()[word]
    exact = [float(x / sum(likelihood)) for x in likelihood]  # the prior is uniform
    for text in (f"we talked about the {word}", f"the story was about the {word} once more"):
        np.testing.assert_allclose(world.p_star([text])[0], exact, atol=1e-15)


def test_a_clear_word_settles_the_topic():
    for y, name in enumerate(world.LABELS):
        for group in world._GROUPS[name]:
            for word in group:
                assert world.p_star([f"he remembered the {word}"])[0].tolist() == np.eye(4)[y].tolist()
    # beside a clear word a polyseme of the same topic leaves no doubt
    assert world.p_star(["she described the pitch and the guitar"])[0].tolist() == [1, 0, 0, 0]


def test_no_word_has_two_roles():
    own = [word for name in world.LABELS for group in world._GROUPS[name] for word in group]
    shared = [word for words in world._POLYSEMES.values() for word in words.split()]
    frames = [word for frame in (*world.OPENERS, *world.CLOSERS) for word in frame.split()]
    assert len(own) == 4 * 8 * 5 == len(set(own)) and len(set(shared)) == len(shared) == 24
    assert not {*own} & {*shared} and not {*own, *shared} & {*frames} and float(sum(SENSE)) == world._SENSE.sum()


@pytest.mark.parametrize("text", ["hello world", "we talked about the song and the goal", "the pitch and the bill", ""])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=re.escape(f"does not write {text!r}") + ".*one topic, or one polyseme"):
        world.p_star(["we talked about the song", text])


@pytest.mark.parametrize("seed", range(5))
def test_sampled_labels_follow_p_star(seed):
    rows = load_task("topic", {**SIZES, "train": 3000}, seed=seed, ambiguity=1.0, label_rule="sampled")["train"]
    likelihood = lone_words()
    words = [next(word for word in re.findall(r"\w+", text) if word in likelihood) for text in rows["text"]]
    words, labels, value = np.array(words), np.array(rows["label"]), 0
    for word, given in likelihood.items():
        observed = np.bincount(labels[words == word], minlength=4)
        expected = observed.sum() * np.array([float(x / sum(given)) for x in given])
        assert (observed[expected == 0] == 0).all()
        value += ((observed - expected)[expected > 0] ** 2 / expected[expected > 0]).sum()
    assert 1e-4 < chi2.sf(value, df=len(likelihood)) < 1 - 1e-4  # two topics a word: one degree of freedom each


@pytest.mark.parametrize("seed", range(5))
def test_words_and_topics_come_as_often_as_the_process_says(seed):
    rows = load_task("topic", {**SIZES, "train": 4000}, seed=seed, ambiguity=1.0)["train"]
    p = lone_words()
    words = [next(word for word in re.findall(r"\w+", text) if word in p) for text in rows["text"]]
    expected = {word: float(sum(p[word]) / 4 / AMBIGUITY) for word in p}
    assert chisquare([words.count(word) for word in p], [4000 * expected[word] for word in p]).pvalue > 1e-4


def test_synonyms_are_written_with_the_frequency_of_their_rank():
    rows = load_task("topic", {**SIZES, "train": 4000}, ambiguity=0.0, skew=1.5)["train"]
    rank = {word: r for name in world.LABELS for group in world._GROUPS[name] for r, word in enumerate(group)}
    ranks = [rank[word] for text in rows["text"] for word in re.findall(r"\w+", text) if word in rank]
    weight = np.array([(r + 1) ** -1.5 for r in range(5)])
    assert chisquare(np.bincount(ranks), len(ranks) * weight / weight.sum()).pvalue > 1e-4


def test_a_clarification_settles_the_sense_that_its_weight_belongs_to():
    columns = world.draw(400, np.random.default_rng(3), ambiguity=1.0)
    for text, readings, weights in zip(columns["inputs"], columns["clarified"], columns["weights"]):
        p = world.p_star([text])[0]
        assert [p[world.p_star([reading])[0].argmax()] for reading in readings] == list(weights)


def test_weights_alone_do_not_tell_clear_from_ambiguous():
    columns = world.draw(20_000, np.random.default_rng(0), ambiguity=0.5)
    ambiguous = world.p_star(columns["inputs"]).max(-1) < 1
    for value in np.unique(columns["weights"][:, 0].round(6)):
        shares = [(columns["weights"][rows, 0].round(6) == value).mean() for rows in (ambiguous, ~ambiguous)]
        assert abs(shares[0] - shares[1]) < 5 * np.sqrt(0.25 * (1 / ambiguous.sum() + 1 / (~ambiguous).sum()))
