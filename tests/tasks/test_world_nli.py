"""The NLI world's labels against individuals in small domains, and its p*(y|x), clarifications and kernels."""

import re
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
from scipy.stats import binom, chi2, chisquare

from sua.perturb import audit, variants
from sua.tasks.worlds import nli as world

E, N, C = range(3)
PARENTS = {"poodle": "dog", "dog": "animal", "child": "person", "car": "vehicle", "spinning": "turning",
           "turning": "moving", "fleeing": "leaving", "leaving": "moving"}


def upwards(concept):
    return {concept} | (upwards(PARENTS[concept]) if concept in PARENTS else set())


def small_domains(nouns, adjectives, verbs, size):
    """Every domain of `size` individuals (sets of what is true of them) in which each noun, with and without each
    adjective, and each more general noun beside its special ones is somebody's."""
    activities = {frozenset().union(*map(upwards, done)) & verbs for r in range(len(verbs) + 1)
                  for done in product(verbs, repeat=r)}
    traits = [frozenset(a for a, on in zip(sorted(adjectives), given) if on)
              for given in product((0, 1), repeat=len(adjectives))]
    sorts = {frozenset(upwards(noun)) & nouns | trait for noun in nouns for trait in traits}
    for domain in combinations_with_replacement(list(product(sorts, activities)), size):
        if {sort for sort, _ in domain} == sorts:
            yield [sort | done for sort, done in domain]


def holds(sentence, domain):
    """Truth in a domain of a sentence without a second reading, written as (quantifier, noun phrase, verb)."""
    quantifier, phrase, verb = sentence
    chosen = [individual for individual in domain if set(phrase.split()) <= individual]
    doing = sum(verb in individual for individual in chosen)
    return {"every": doing == len(chosen), "some": doing > 0, "no": doing == 0,
            "not every": doing < len(chosen)}[quantifier]


def brute_force(premises, hypothesis, size):
    sentences = [*premises, hypothesis]
    words = {word for _, phrase, _ in sentences for word in phrase.split()}
    adjectives = words & {"old", "small"}
    domains = list(small_domains(words - adjectives, adjectives, {verb for *_, verb in sentences}, size))
    possible = {holds(hypothesis, domain) for domain in domains if all(holds(s, domain) for s in premises)}
    assert possible
    return {(True,): E, (False,): C}.get(tuple(possible), N)


def say(quantifier, phrase, verb):
    return f"indeed {quantifier} {phrase} was {verb}"


QUANTIFIERS = ("every", "some", "no", "not every")
PHRASES = [("dog", "dog"), ("poodle", "dog"), ("animal", "dog"), ("animal", "poodle"), ("dog", "car"),
           ("dog", "old dog"), ("old dog", "dog"), ("old dog", "old dog"), ("old dog", "small dog")]


@pytest.mark.parametrize("phrases", PHRASES)
def test_labels_are_those_of_individuals_in_small_domains(phrases):
    for quantifiers in product(QUANTIFIERS, repeat=2):
        for verbs in (("moving", "moving"), ("turning", "moving"), ("moving", "spinning")):
            pair = list(zip(quantifiers, phrases, verbs))
            size = 5 if "small" in phrases[1] else 4
            assert world.readings(tuple(say(*s) for s in pair)) == [(1, brute_force(pair[:1], pair[1], size))], pair


def test_verbs_that_exclude_nothing_are_independent():
    for quantifiers in product(QUANTIFIERS, repeat=2):
        pair = list(zip(quantifiers, ("dog", "dog"), ("turning", "leaving")))
        assert world.readings(tuple(say(*s) for s in pair)) == [(1, brute_force(pair[:1], pair[1], 3))] == [(1, N)]


@pytest.mark.parametrize("adjective, weight", world._BOTH.items())
@pytest.mark.parametrize("hypothesis", [(q, p, "moving") for q in QUANTIFIERS for p in ("car", "{} car", "dog")])
def test_attachment_readings(adjective, weight, hypothesis):
    quantifier, phrase, verb = hypothesis[0], hypothesis[1].format(adjective), hypothesis[2]
    first = ("every", f"{adjective} dog", "moving")
    labels = [brute_force([first, ("every", second, "moving")], (quantifier, phrase, verb), 5)
              for second in (f"{adjective} car", "car")]
    found = world.readings((f"indeed every {adjective} dog and car was moving", say(quantifier, phrase, verb)))
    assert found == [(weight, labels[0]), (1 - weight, labels[1])]


@pytest.mark.parametrize("verb, weight", world._NONE.items())
@pytest.mark.parametrize("quantifier", QUANTIFIERS)
def test_scope_readings_on_either_side(verb, weight, quantifier):
    other, ambiguous = (quantifier, "dog", verb), f"indeed every dog was not {verb}"
    none, not_all = ("no", "dog", verb), ("not every", "dog", verb)
    assert world.readings((ambiguous, say(*other))) == [
        (weight, brute_force([none], other, 2)), (1 - weight, brute_force([not_all], other, 2))]
    assert world.readings((say(*other), ambiguous)) == [
        (weight, brute_force([other], none, 2)), (1 - weight, brute_force([other], not_all, 2))]


@pytest.mark.parametrize("word, sense", world._POLYSEMES.items())
def test_polysemy_by_hand(word, sense):
    first, second, weight = sense
    other = ({"animal", "person", "vehicle"} - {first, second}).pop()
    for quantifier, hypothesis, label in (("every", "every", E), ("every", "some", E), ("no", "some", C),
                                          ("every", "not every", C), ("no", "every", C)):
        p = {top: world.p_star([(say(quantifier, top, "moving"), say(hypothesis, word, "moving"))])[0]
             for top in (first, second, other)}
        one_hot = np.eye(3)
        np.testing.assert_allclose(p[first], weight * one_hot[label] + (1 - weight) * one_hot[N], atol=1e-15)
        np.testing.assert_allclose(p[second], (1 - weight) * one_hot[label] + weight * one_hot[N], atol=1e-15)
        assert p[other].tolist() == one_hot[N].tolist()
        spelled = (say(quantifier, second, "moving"), say(hypothesis, f"{word} of the {second} kind", "moving"))
        assert world.p_star([spelled])[0].tolist() == one_hot[label].tolist()
    # one word, one sense: whichever it is, a sentence entails itself
    assert world.p_star([(say("every", word, "moving"),) * 2])[0].tolist() == [1, 0, 0]


@pytest.fixture(scope="module")
def drawn():
    columns = world.draw(4000, np.random.default_rng(5))
    return columns, world.p_star(columns["inputs"])


def test_every_drawn_pair_has_one_or_two_readings(drawn):
    assert {len(world.readings(pair)) for pair in drawn[0]["inputs"]} == {1, 2}


def test_clarifications_mix_to_p_star_and_are_clear_themselves(drawn):
    columns, p = drawn
    clarified = np.stack([world.p_star([row[z] for row in columns["clarified"]]) for z in (0, 1)], 1)
    assert columns["weights"].shape == (4000, 2)
    np.testing.assert_allclose(columns["weights"].sum(1), 1, atol=1e-15)
    np.testing.assert_allclose(np.einsum("nz,nzc->nc", columns["weights"], clarified), p, atol=1e-12)
    assert (clarified.max(-1) == 1).all()
    assert all(first != second and x not in (first, second) for x, (first, second), construction in zip(
        columns["inputs"], columns["clarified"], columns["construction"]) if construction != "none")
    assert all(first != second for first, second in columns["clarified"])


def test_what_clarifications_say_is_also_written_as_clear_items():
    """A model that learns the clear items has seen the very sentences, up to words of the same meaning."""
    bank = world._bank()
    clear = {pair for cell in (E, N, C) for pair in bank[cell][0]}
    for construction in ("scope", "attachment", "polysemy"):
        for pair in bank[construction][0]:
            sentences = [world._parse(text) for text in pair]
            for z in (0, 1):
                assert tuple(map(str, world._spelled_out(sentences, z))) in clear


@pytest.mark.parametrize("name", world.kernels())
def test_kernels_keep_p_star_and_change_the_pair(drawn, name):
    inputs, p = drawn[0]["inputs"][:1000], drawn[1][:1000]
    rows = variants(inputs, world.kernels()[name], 3)
    varied = world.p_star([variant for row in rows for variant in row]).reshape(len(inputs), 3, 3)
    np.testing.assert_array_equal(varied, np.repeat(p[:, None], 3, axis=1))
    assert audit(world.kernels()[name], inputs, world.p_star) == 1
    changed = np.mean([variant != x for x, row in zip(inputs, rows) for variant in row])
    assert changed > (0.85 if name == "rare" else 0.99)  # words may be at their rarest already


def test_synonyms_are_redrawn_uniformly_on_one_side_or_both():
    rng, kernel = np.random.default_rng(0), world.kernels()["synonyms"]
    pair = ("indeed every dog was moving", "indeed some dog was moving")
    redrawn = [kernel.rewrite(pair, rng) for _ in range(6000)]
    for side in (0, 1):  # a side is chosen with probability 2/3, then a word is redrawn with probability 1/2
        words = [text[side].split()[2] for text in redrawn]
        group = world._GROUPS["dog"]
        p = np.array([1 / 3 / len(group)] * len(group)) + 2 / 3 * np.eye(len(group))[0]
        assert chisquare([words.count(word) for word in group], 6000 * p).pvalue > 1e-4
    only_premise, only_hypothesis, both = (sum((a != pair[0], b != pair[1]) == which for a, b in redrawn)
                                           for which in ((1, 0), (0, 1), (1, 1)))
    assert min(only_premise, only_hypothesis, both) > 500


def test_rare_words_and_openers_and_distractors():
    rng, pair = np.random.default_rng(0), ("indeed every old dog was moving", "yesterday some dog was moving")
    rare = {word for _ in range(50) for text in world.kernels()["rare"].rewrite(pair, rng) for word in text.split()}
    assert rare - set(" ".join(pair).split()) == {"elderly", "pooch", "stirring"}
    openers = [world.kernels()["wording"].rewrite(pair, rng) for _ in range(3000)]
    assert {text.split(" ", 1)[1] for a, b in openers for text in (a, b)} == {t.split(" ", 1)[1] for t in pair}
    both = [(a.split()[0], b.split()[0]) for a, b in openers]
    assert chisquare([both.count(o) for o in product(world._OPENERS, repeat=2)]).pvalue > 1e-4
    distracted = [world.kernels()["distractors"].rewrite(pair, rng) for _ in range(100)]
    assert {b for _, b in distracted} == {f"{pair[1]} {d}" for d in world._DISTRACTORS}
    assert {a for a, _ in distracted} == {pair[0]}


@pytest.mark.parametrize("seed", range(4))
def test_labels_drawn_reading_by_reading_follow_p_star(seed):
    """The generative story: z by its weight, then the label that the spelled-out pair has for certain."""
    rng = np.random.default_rng([11, seed])
    columns = world.draw(3000, rng, ambiguity=1.0)
    z = (rng.random(3000) > columns["weights"][:, 0]).astype(int)
    labels = world.p_star([row[k] for row, k in zip(columns["clarified"], z)]).argmax(-1)
    p = world.p_star(columns["inputs"])
    value, cells = 0, 0
    for kind in np.unique(p, axis=0):
        at = (p == kind).all(-1)
        observed, expected = np.bincount(labels[at], minlength=3), at.sum() * kind
        assert (observed[expected == 0] == 0).all()
        value += ((observed - expected)[expected > 0] ** 2 / expected[expected > 0]).sum()
        cells += 1  # two possible labels: one degree of freedom
    assert cells > 10 and 1e-4 < chi2.sf(value, cells) < 1 - 1e-4


@pytest.mark.parametrize("ambiguity", [0.0, 0.3, 1.0])
def test_ambiguous_share_and_constructions(ambiguity):
    columns = world.draw(3000, np.random.default_rng(2), ambiguity)
    ambiguous = world.p_star(columns["inputs"]).max(-1) < 1
    assert binom.ppf(1e-6, 3000, ambiguity) <= ambiguous.sum() <= binom.isf(1e-6, 3000, ambiguity)
    assert [c != "none" for c in columns["construction"]] == ambiguous.tolist()
    counts = [columns["construction"].count(c) for c in ("scope", "attachment", "polysemy")]
    assert not ambiguity or chisquare(counts).pvalue > 1e-4


def test_labels_are_balanced_among_clear_pairs(drawn):
    p = drawn[1]
    counts = np.bincount(p[p.max(-1) == 1].argmax(-1), minlength=3)
    assert chisquare(counts).pvalue > 1e-4 and (0.25 < counts / counts.sum()).all()


def test_the_hypothesis_alone_says_little():
    """Bag of words of the hypothesis, ridge regression on one-hot labels: well below what the pair allows."""
    columns = world.draw(6000, np.random.default_rng(3), ambiguity=0.0)
    labels = world.p_star(columns["inputs"]).argmax(-1)
    texts = [hypothesis.split() for _, hypothesis in columns["inputs"]]
    index = {word: i for i, word in enumerate(sorted({word for text in texts for word in text}))}
    x = np.array([[text.count(word) for word in index] for text in texts], float)
    x = np.c_[x, np.ones(len(x))]
    train, test = slice(0, 4000), slice(4000, None)
    w = np.linalg.solve(x[train].T @ x[train] + np.eye(x.shape[1]), x[train].T @ np.eye(3)[labels[train]])
    assert ((x[test] @ w).argmax(-1) == labels[test]).mean() < 0.6


def test_weights_do_not_give_ambiguity_away():
    columns = world.draw(20000, np.random.default_rng(4))
    weights, ambiguous = columns["weights"][:, 0], np.array(columns["construction"]) != "none"
    values = {*world._NONE.values(), *world._BOTH.values(), *(w for *_, w in world._POLYSEMES.values())}
    assert set(weights[ambiguous]) == values == set(weights[~ambiguous])
    assert abs(weights[ambiguous].mean() - weights[~ambiguous].mean()) < 0.05


def test_synonyms_are_written_with_the_frequency_of_their_rank():
    texts = [text for pair in world.draw(3000, np.random.default_rng(6), 0.0, skew=1.5)["inputs"] for text in pair]
    for concept in ("dog", "spinning"):
        group = world._GROUPS[concept]
        weight = np.arange(1, len(group) + 1) ** -1.5
        counts = np.array([sum(word in text.split() for text in texts) for word in group])
        assert chisquare(counts, counts.sum() * weight / weight.sum()).pvalue > 1e-4


def test_no_word_has_two_roles():
    content = [word for group in world._GROUPS.values() for word in group] + [*world._POLYSEMES]
    frames = " ".join((*world._OPENERS, *world._CLOSERS, *world._DISTRACTORS, world._ANY)).split()
    assert len(set(content)) == len(content) and not set(content) & set(frames)


def test_draws_follow_from_the_generator():
    first, again, other = (world.draw(50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first["inputs"] == again["inputs"] != other["inputs"] and first["clarified"] == again["clarified"]


@pytest.mark.parametrize("text", ["hello world", "indeed every cat was moving", "indeed some dog was not moving", "",
                                  "indeed every jaguar of the person kind was moving", "indeed Every dog was moving",
                                  "indeed some old dog and car was moving", "indeed every dog of the animal kind was "
                                  "moving", "indeed every old dog and every car was moving"])
def test_other_texts_are_refused(text):
    fine = "indeed every dog was moving"
    for pair in ((text, fine), (fine, text)):
        with pytest.raises(ValueError, match=re.escape(f"does not write {text!r}")):
            world.p_star([(fine, fine), pair])


@pytest.mark.parametrize("example", ["indeed every dog was moving", ("indeed every dog was moving",)])
def test_a_single_text_is_not_a_pair(example):
    with pytest.raises(ValueError, match="is not a pair.*premise, hypothesis"):
        world.p_star([example])
