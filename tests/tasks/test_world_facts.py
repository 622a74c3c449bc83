"""The facts world's p*(y|x) against the knowledge base itself, for every question it can write, and drawn answers."""

import re
from collections import Counter
from dataclasses import FrozenInstanceError
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, chi2, chi2_contingency, chisquare

from sua import load_task
from sua.perturb import variants
from sua.tasks.worlds import facts

BASE = facts.knowledge_base()
SHARED = [name for name in BASE if len(name.people) == 2]
TOWN = re.compile("|".join(town for name in BASE for town in {person.town for person in name.people}))


def draw(n=1500, seed=0, **options):
    return facts.draw(n, np.random.default_rng(seed), **options)


def one_hot(label):
    return np.array([float(label == other) for other in facts.LABELS])


def meant(text):
    """The name and the people that a question can be about, by looking for their words in it."""
    name, = (name for name in BASE if name.text in text)
    return name, [person for person in name.people if not TOWN.search(text) or person.town in text.split()]


def test_knowledge_base():
    assert len(BASE) == 20 and sum(len(name.people) for name in BASE) == 30 and len(SHARED) == 10
    assert len({name.text for name in BASE}) == 20 and all(len(name.text.split()) == 2 for name in BASE)
    for name in BASE:
        assert sum(name.weights) == 1 and len(name.weights) == len(name.people)  # exactly, so that clear means p* = 1
    for name in SHARED:
        one, other = name.people
        assert one.town != other.town and sum(a == b for a, b in zip(one.facts, other.facts)) == 1
        assert 0.15 <= min(name.weights) and max(name.weights) <= 0.85
    assert len({max(name.weights) for name in SHARED}) == 10
    assert {first > second for first, second in (name.weights for name in SHARED)} == {True, False}
    known = {answer for name in BASE for person in name.people for answer in person.facts}
    assert known == set(facts.LABELS) and len(facts.LABELS) == 24
    assert facts.knowledge_base.__wrapped__() == BASE
    with pytest.raises(FrozenInstanceError):
        BASE[0].people[0].town = "elsewhere"


def test_questions_say_nothing_of_answers_and_no_word_has_two_roles():
    frames = {word for written, _ in facts._frames(1.5) for frame in written for word in frame.split()}
    phrases = {word for phrase in (*facts._OPENERS, *facts._CLOSERS, *facts._BY_TOWN) for word in phrase.split()}
    people = {word for name in BASE for word in name.text.split()}
    towns = {*facts.TOWNS}
    answers = {*facts.LABELS}
    assert not answers & (frames | phrases | people | towns) and not people & towns
    assert not (people | towns) & (frames | phrases) - {"{}"}
    groups = [word for group in facts._SYNONYMS for word in group]
    assert len(set(groups)) == len(groups) and {group[0] for group in facts._SYNONYMS} <= frames | phrases
    assert not set(groups) & {word for phrase in (*facts._OPENERS, *facts._CLOSERS) for word in phrase.split()}
    for relation in range(len(facts.RELATIONS)):
        assert len(set(facts._templates(relation))) == 8


def test_p_star_of_every_question_about_everybody():
    expected, texts = [], []
    for (r, (frames, _)), name in product(enumerate(facts._frames(1.5)), BASE):
        for i, frame in enumerate(frames):
            texts.append(frame.format(name.text))
            expected.append(sum(weight * one_hot(person.facts[r]) for person, weight in zip(name.people, name.weights)))
            person = name.people[i % len(name.people)]
            for by_town in ("of {}", "who lives in {}", "who dwells in {}", "living in {}"):
                texts.append(f"quick question {frame.format(name.text + ' ' + by_town.format(person.town))} no hurry")
                expected.append(one_hot(person.facts[r]))
    np.testing.assert_array_equal(facts.p_star(texts), expected)


def test_relations_by_hand():
    person, = BASE[1].people
    questions = [f"what does {BASE[1].text} do for a living", f"from what does {BASE[1].text} draw melodies",
                 f"which beast waits for {BASE[1].text} at the door", f"which hue would {BASE[1].text} pick"]
    np.testing.assert_array_equal(facts.p_star(questions), [one_hot(answer) for answer in person.facts])


@pytest.mark.parametrize("text", [
    "hello world", "", "what is the job of mara", "what is the job", f"what is the age of {BASE[0].text}",
    f"what is the job of {BASE[0].text} of atlantis", f"what pet does {BASE[0].text} play",
    f"what is the job of {BASE[0].text} and {BASE[1].text}", ("what is the job of", BASE[0].text)])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=re.escape(f"does not write {text!r}") + ".*own templates"):
        facts.p_star([f"what is the job of {BASE[0].text}", text])


def test_a_town_where_no_such_person_lives_is_refused():
    stranger = next(person.town for name in BASE for person in name.people
                    if person.town not in {own.town for own in SHARED[0].people})
    with pytest.raises(ValueError, match=f"no {SHARED[0].text} lives in {stranger}"):
        facts.p_star([f"what is the job of {SHARED[0].text} of {stranger}"])


@pytest.mark.parametrize("seed", range(5))
def test_answers_of_whoever_is_meant_follow_p_star(seed):
    rng = np.random.default_rng([7, seed])
    rows, value, df = draw(6000, seed, ambiguity=1.0), 0, 0
    p, counts = facts.p_star(rows["inputs"]), {}
    for text, choices, row in zip(rows["inputs"], rows["choices"], p):
        name, people = meant(text)
        person = people[rng.choice(len(people), p=name.weights)]
        relation = facts.LABELS.index(choices[0]) // 6
        answer = person.facts[relation]
        key = name.text, relation
        counts.setdefault(key, (row, np.zeros(24)))[1][facts.LABELS.index(answer)] += 1
        assert (counts[key][0] == row).all()
    for row, observed in counts.values():
        assert (observed[row == 0] == 0).all()
        expected = observed.sum() * row[row > 0]
        value, df = value + ((observed[row > 0] - expected) ** 2 / expected).sum(), df + len(expected) - 1
    assert df == len(counts) == 30 and 1e-4 < chi2.sf(value, df) < 1 - 1e-4  # 10 names in the 3 relations that differ


@pytest.mark.parametrize("ambiguity", [0.0, 0.3, 1.0])
def test_clarifications_mix_to_p_star(ambiguity):
    rows = draw(ambiguity=ambiguity)
    p = facts.p_star(rows["inputs"])
    clarified = facts.p_star([text for row in rows["clarified"] for text in row]).reshape(-1, 2, 24)
    np.testing.assert_allclose(np.einsum("nz,nzc->nc", rows["weights"], clarified), p, atol=1e-12, rtol=0)
    assert rows["weights"].shape == (1500, 2) and (rows["weights"].sum(-1) == 1).all()
    is_ambiguous = p.max(-1) < 1
    assert binom.ppf(1e-6, 1500, ambiguity) <= is_ambiguous.sum() <= binom.isf(1e-6, 1500, ambiguity)
    assert (clarified.max(-1) == 1).all()  # a clarified question is clear
    np.testing.assert_array_equal((clarified[:, 0] != clarified[:, 1]).any(-1), is_ambiguous)
    assert all(len({text, *row}) == 3 for text, row in zip(rows["inputs"], rows["clarified"]))
    assert not any(TOWN.search(text) for text, hard in zip(rows["inputs"], is_ambiguous) if hard)


def test_having_readings_gives_nothing_away():
    rows = draw(20000)
    is_ambiguous = facts.p_star(rows["inputs"]).max(-1) < 1
    forms = [tuple(re.search("of|who|living", text[re.search("|".join(n.text for n in BASE), text).end():])[0]
                   for text in row) for row in rows["clarified"]]
    assert len(set(forms)) == 6  # never twice the same
    for feature in (forms, [tuple(row) for row in rows["weights"]]):
        counts = [Counter(value for value, hard in zip(feature, is_ambiguous) if hard == group) for group in (0, 1)]
        assert set(counts[0]) == set(counts[1])
        if feature is forms:  # the weights of clear shared names are their own, which shifts their frequencies a little
            assert chi2_contingency([[count[value] for value in counts[0]] for count in counts]).pvalue > 1e-4


def test_clear_questions_come_with_and_without_towns():
    kinds = Counter()
    for text, p in zip(draw(ambiguity=0.0)["inputs"], facts.p_star(draw(ambiguity=0.0)["inputs"])):
        kinds[len(meant(text)[0].people), bool(TOWN.search(text))] += 1
        assert p.max() == 1
    assert min(kinds.values()) > 30 and len(kinds) == 4  # among them shared names in a relation where both agree


def test_choices_and_answers():
    rows = draw()
    p = facts.p_star(rows["inputs"])
    position = []
    for text, choices, dist, answers, prompt, row in zip(
            rows["inputs"], rows["choices"], rows["choice_dist"], rows["answers"], rows["prompt"], p):
        columns = [facts.LABELS.index(choice) for choice in choices]
        assert len(set(columns)) == 4 and len({column // 6 for column in columns}) == 1
        np.testing.assert_array_equal(dist, row[columns])
        assert dist.sum() == 1 and {facts.LABELS[y] for y in np.flatnonzero(row)} == {*answers} <= {*choices}
        assert [row[facts.LABELS.index(answer)] for answer in answers] == sorted(row[row > 0], reverse=True)
        assert prompt == f"question: {text}? answer:"
        position.append(choices.index(answers[0]))
    assert chisquare(np.bincount(position, minlength=4)).pvalue > 1e-4
    assert rows["choice_dist"].shape == (1500, 4)


@pytest.mark.parametrize("skew", [0.0, 1.5])
def test_names_templates_and_words_follow_zipf(skew):
    texts = draw(6000, ambiguity=0.0, skew=skew)["inputs"]
    zipf = lambda n, s: np.arange(1, n + 1) ** -s / (np.arange(1, n + 1) ** -s).sum()
    names = [[name.text for name in BASE].index(meant(text)[0].text) for text in texts]
    assert chisquare(np.bincount(names, minlength=20), 6000 * zipf(20, skew / 2)).pvalue > 1e-4
    cues = ["favourite|favorite|preferred", "like best", "prefer$|prefer ", "which .* would", "in the eyes",
            "pleases|delights", "dearest", "if asked"]
    ranks = [r for text in texts for r, cue in enumerate(cues) if re.search(cue, text)]
    assert chisquare(np.bincount(ranks, minlength=8), len(ranks) * zipf(8, skew)).pvalue > 1e-4
    words = "colour color hue shade tint".split()
    ranks = [words.index(word) for text in texts for word in text.split() if word in words]
    assert chisquare(np.bincount(ranks, minlength=5), len(ranks) * zipf(5, skew)).pvalue > 1e-4


@pytest.mark.parametrize("kernel", ["synonyms", "wording", "rare", "distractors"])
def test_kernels_keep_p_star(kernel):
    rows = draw(400)
    texts = rows["inputs"] + [text for row in rows["clarified"] for text in row]
    drawn = variants(texts, facts.kernels()[kernel], 3)
    varied = facts.p_star([variant for row in drawn for variant in row]).reshape(len(texts), 3, 24)
    np.testing.assert_array_equal(varied, np.repeat(facts.p_star(texts)[:, None], 3, axis=1))
    changed = np.mean([variant != text for text, row in zip(texts, drawn) for variant in row])
    assert changed > {"synonyms": 0.5, "wording": 0.999, "rare": 0.95, "distractors": 0.999}[kernel]


def test_what_each_kernel_does():
    name, kernels, rng = BASE[0].text, facts.kernels(), np.random.default_rng(0)
    text = f"excuse me which colour would {name} choose thank you"
    sample = lambda kernel: {*kernels[kernel].sample(text, 2000, rng)} - {text}  # a synonym may redraw itself
    assert sample("synonyms") == {f"excuse me which {a} would {name} {b} thank you" for a, b in product(
        ("colour", "color", "hue", "shade", "tint"), ("choose", "pick", "select"))} - {text}
    others = {template.format(name) for template in facts._templates(3)} - {f"which colour would {name} choose"}
    assert sample("wording") == {f"excuse me {other} thank you" for other in others}
    assert sample("rare") == {f"excuse me if asked for a tint what would {name} select thank you"}
    longer = sample("distractors")
    assert all(text in variant and len(variant) > len(text) for variant in longer)
    assert len(longer) == 7 + 7 + 7 * 7  # a new opener, a new closer, or both


def test_distractors_end_when_all_are_said():
    kernel, rng = facts.kernels()["distractors"], np.random.default_rng(0)
    text = f"what is the job of {BASE[1].text}"
    p = facts.p_star([text])
    for _ in range(100):
        text = kernel.rewrite(text, rng)
    np.testing.assert_array_equal(facts.p_star([text]), p)
    assert all(text.count(phrase) == 1 for phrase in (*facts._OPENERS[1:], *facts._CLOSERS[1:]))


def test_draws_follow_from_the_generator():
    first, again, other = draw(seed=3), draw(seed=3), draw(seed=4)
    for column in first:
        assert np.array_equal(first[column], again[column]) if column != "answers" else first[column] == again[column]
    assert first["inputs"] != other["inputs"]


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_bad_shares_are_refused(share):
    with pytest.raises(ValueError, match=f"ambiguity = {share}: give a share"):
        draw(ambiguity=share)


def test_as_a_task():
    task = load_task("facts", {"train": 40, "validation": 5, "calibration": 5, "test": 30})
    assert task.n_classes == 24 and {"clarified", "weights", "choices", "choice_dist", "answers", "prompt"} <= set(
        task["test"].column_names)
    np.testing.assert_array_equal(task.p_star(list(task["test"]["text"])), np.array(task["test"]["label_dist"]))
