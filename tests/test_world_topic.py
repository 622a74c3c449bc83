"""The topic world's p*(y|x) against enumeration of its generative process in fractions, and against drawn labels."""

import re
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, chi2, chisquare

from sua import load_task, worlds
from sua.perturb import variants
from sua.tasks import SPLITS

SIZES = {"train": 400, "validation": 10, "calibration": 10, "test": 300}
SENSE = [Fraction(45, 100), Fraction(30, 100), Fraction(17, 100), Fraction(8, 100)]
AMBIGUITY = Fraction(3, 10)


def lone_words():
    """{word: [P(ambiguous sentence about that word | y)]} by walking through every choice of the generator."""
    p = {}
    for y, other in product(range(4), repeat=2):
        if other != y:
            first, second = sorted((y, other))
            words = worlds._POLYSEMES[worlds.TOPICS[first], worlds.TOPICS[second]].split()
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
        np.testing.assert_allclose(worlds.topic_posterior([text])[0], exact, atol=1e-15)


def test_a_clear_word_settles_the_topic():
    for y, name in enumerate(worlds.TOPICS):
        for group in worlds._groups()[name]:
            for word in group:
                assert worlds.topic_posterior([f"he remembered the {word}"])[0].tolist() == np.eye(4)[y].tolist()
    # beside a clear word a polyseme of the same topic leaves no doubt
    assert worlds.topic_posterior(["she described the pitch and the guitar"])[0].tolist() == [1, 0, 0, 0]


def test_no_word_has_two_roles():
    own = [word for name in worlds.TOPICS for group in worlds._groups()[name] for word in group]
    shared = [word for words in worlds._POLYSEMES.values() for word in words.split()]
    frames = [word for frame in (*worlds._OPENERS, *worlds._CLOSERS) for word in frame.split()]
    assert len(own) == 4 * 8 * 5 == len(set(own)) and len(set(shared)) == len(shared) == 24
    assert not {*own} & {*shared} and not {*own, *shared} & {*frames} and float(sum(SENSE)) == worlds._SENSE.sum()


@pytest.mark.parametrize("text", ["hello world", "we talked about the song and the goal", "the pitch and the bill", ""])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=re.escape(f"does not write {text!r}") + ".*one topic, or one polyseme"):
        worlds.topic_posterior(["we talked about the song", text])


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


@pytest.mark.parametrize("ambiguity", [0.0, 0.3, 1.0])
def test_ambiguous_share(ambiguity):
    rows = load_task("topic", {**SIZES, "train": 3000}, ambiguity=ambiguity)["train"]
    count = sum(rows["ambiguous"])
    assert binom.ppf(1e-6, 3000, ambiguity) <= count <= binom.isf(1e-6, 3000, ambiguity)
    assert list(rows["ambiguous"]) == [max(p) < 1 for p in rows["label_dist"]]


def test_synonyms_are_written_with_the_frequency_of_their_rank():
    rows = load_task("topic", {**SIZES, "train": 4000}, ambiguity=0.0, skew=1.5)["train"]
    rank = {word: r for name in worlds.TOPICS for group in worlds._groups()[name] for r, word in enumerate(group)}
    ranks = [rank[word] for text in rows["text"] for word in re.findall(r"\w+", text) if word in rank]
    weight = np.array([(r + 1) ** -1.5 for r in range(5)])
    assert chisquare(np.bincount(ranks), len(ranks) * weight / weight.sum()).pvalue > 1e-4


def test_kernels_keep_p_star_and_change_the_text():
    task = load_task("topic", SIZES)
    texts = list(task["test"]["text"])
    p = task.p_star(texts)
    np.testing.assert_array_equal(p, np.array(task["test"]["label_dist"]))
    for names in ("synonyms", "wording", ["synonyms", "wording"]):
        rows = variants(texts, task.perturbation(names), 5)
        varied = task.p_star([variant for row in rows for variant in row]).reshape(len(texts), 5, 4)
        np.testing.assert_array_equal(varied, np.repeat(p[:, None], 5, axis=1))
    wording = variants(texts, task.perturbation("wording"), 5)
    assert all(variant != text for text, row in zip(texts, wording) for variant in row)


def test_rows_and_labels_by_rule():
    majority = load_task("topic", SIZES)
    assert {split: len(majority[split]) for split in SPLITS} == SIZES
    assert majority["test"].column_names == ["id", "text", "label", "label_dist", "ambiguous"]
    p = np.array(majority["test"]["label_dist"])
    assert list(majority["test"]["label"]) == p.argmax(-1).tolist() and np.allclose(p.sum(-1), 1, atol=1e-15)
    ids = [i for split in SPLITS for i in majority[split]["id"]]
    assert len(set(ids)) == len(ids)
    sampled = load_task("topic", SIZES, label_rule="sampled")
    assert list(sampled["test"]["text"]) == list(majority["test"]["text"])
    assert (p[np.arange(len(p)), sampled["test"]["label"]] > 0).all()
    assert majority.n_classes == 4 and majority.source["origin"] == "generated"


def test_the_world_follows_from_its_arguments():
    first, again, other = load_task("topic", SIZES), load_task("topic", SIZES), load_task("topic", SIZES, seed=1)
    assert first.digest == again.digest != other.digest
    # a split does not depend on the sizes of the others, and a longer one is not the train split again
    longer = load_task("topic", {**SIZES, "train": 1000})
    assert list(longer["test"]["text"]) == list(first["test"]["text"])
    assert list(first["train"]["text"])[:300] != list(first["test"]["text"])


@pytest.mark.parametrize("wrong, said", [(dict(ambiguity=1.5), "ambiguity = 1.5.*share"),
                                         (dict(ambiguity=-0.1), "ambiguity = -0.1"),
                                         (dict(label_rule="vote"), "label_rule = 'vote'.*'majority' or 'sampled'")])
def test_bad_worlds_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        load_task("topic", SIZES, **wrong)
