"""Kernels keep what they promise on any text, are functions of (seed, input) alone, and the audit counts right."""

import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from sua import load_task, perturb
from sua.perturb import (KERNELS, OPTION_ORDER, Perturbation, audit, mixture, synonyms, text as text_kernels,
                         variants)

WORDS = [*"it is not do don't isn't i am You are cannot can't it's they're that there was The film WONDERFUL".split(),
         *"acting bad well-known 3.5 20 naïve {} {0} -- , . ! a.b U.S. bookkeeper queue aaaa".split()]
TEXTS = st.lists(st.sampled_from(WORDS) | st.text("abcdefgzQXYZ'.,!-é", min_size=1, max_size=9), min_size=1,
                 max_size=30).map(" ".join)
GROUPS = [["big", "large", "huge"], ["film", "movie"], ["U"]]
SYNONYMS = synonyms(GROUPS, rate=0.5)
ALL = {**KERNELS, "synonyms": SYNONYMS, "mixture": mixture(*KERNELS.values(), SYNONYMS)}
SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("name", ALL)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), seed=SEEDS, data=st.data())
def test_variants_depend_on_seed_and_input_alone(name, texts, seed, data):
    drawn = variants(texts, ALL[name], 3, seed)
    order = data.draw(st.permutations(range(len(texts))))
    assert variants([texts[i] for i in order], ALL[name], 3, seed) == [drawn[i] for i in order]
    assert [variants([text], ALL[name], 3, seed)[0] for text in texts] == drawn
    # a longer orbit starts with the shorter one
    assert [row[:3] for row in variants(texts, ALL[name], 5, seed)] == drawn
    assert all(len(row) == 3 and all(variant.strip() for variant in row) for row in drawn)


@pytest.mark.parametrize("name", ALL)
def test_seeds_draw_different_variants(name):
    texts = ["it is not a big film about the large movie industry , they say ."] * 2
    draws = [variants(texts, ALL[name], 8, seed) for seed in range(3)]
    assert draws[0] != draws[1] != draws[2] and draws[0][0] == draws[0][1]


@pytest.mark.parametrize("name", ALL)
@given(pair=st.tuples(TEXTS, TEXTS), seed=SEEDS)
def test_tuples_change_in_one_text_at_most(name, pair, seed):
    for variant in variants([pair], ALL[name], 4, seed)[0]:
        assert isinstance(variant, tuple) and len(variant) == 2
        assert variant[0] == pair[0] or variant[1] == pair[1]


def test_each_text_of_a_tuple_is_rewritten_equally_often():
    shout = Perturbation.of_text("shout", lambda text, rng: text + "!")
    drawn = shout.sample(("a", "b", "c"), 3000, np.random.default_rng(0))
    counts = [drawn.count(variant) for variant in (("a!", "b", "c"), ("a", "b!", "c"), ("a", "b", "c!"))]
    assert sum(counts) == 3000 and chisquare(counts).pvalue > 1e-4


@given(TEXTS, SEEDS)
def test_typos_slip_inside_one_word_in_eight(text, seed):
    for variant in variants([text], KERNELS["typos"], 3, seed)[0]:
        before, after = text.split(), variant.split()
        assert len(after) == len(before)
        changed = [(x, y) for x, y in zip(before, after) if x != y]
        assert len(changed) <= max(1, len(before) // 8)
        for x, y in changed:
            assert x[0] == y[0] and x[-1] == y[-1] and len(x) >= 4 and abs(len(x) - len(y)) <= 2
        # words of letters keep their own ends too, inside hyphens and quotes as well
        runs = [re.findall("[A-Za-z]+", whole) for whole in (text, variant)]
        assert [(run[0], run[-1]) for run in runs[0]] == [(run[0], run[-1]) for run in runs[1]]


def test_typos_are_the_four_slips_and_leave_short_words_alone():
    drawn = {variant for seed in range(400) for variant in variants(["word"], KERNELS["typos"], 1, seed)[0]}
    # o -> i, p (its neighbours); swap o and r; double o; omit o
    assert drawn == {"wird", "wprd", "wrod", "woord", "wrd"}
    assert variants(["a bad fit"], KERNELS["typos"], 4) == [["a bad fit"] * 4]


def canonical(text):
    """Lower-case alphanumeric words, contractions spelled out."""
    long = {short: words for words, short in text_kernels._CONTRACTIONS}
    spelled = re.sub(r"\b(" + "|".join(long) + r")\b", lambda match: long[match.group()], text.lower())
    return re.findall(r"\w+", spelled)


@given(TEXTS, SEEDS)
def test_surface_keeps_the_words(text, seed):
    for variant in variants([text], KERNELS["surface"], 4, seed)[0]:
        assert canonical(variant) == canonical(text)


@pytest.mark.parametrize("text, known", [
    ("it is good", {"it's good", "It's good", "It is good", "it is good .", "It is good .", "it's good .",
                    "it is good."}),
    ("Fine , thanks .", {"fine , thanks .", "Fine, thanks.", "Fine , thanks", "fine , thanks", "Fine, thanks",
                         "fine, thanks."})])
def test_surface_by_hand(text, known):
    drawn = {variant for seed in range(400) for variant in variants([text], KERNELS["surface"], 1, seed)[0]}
    assert drawn - {text} == known  # two changes may undo each other in every retry


def test_surface_leaves_numbers_whole():
    drawn = variants(["it costs 3.5 dollars , or 10,000 yen"], KERNELS["surface"], 200)[0]
    assert all("3.5" in variant and "10,000" in variant for variant in drawn)


@given(TEXTS, SEEDS)
def test_framing_contains_the_text(text, seed):
    for variant in variants([text], KERNELS["framing"], 4, seed)[0]:
        assert text in variant and len(variant) > len(text)


@given(st.lists(st.sampled_from("big large huge film movie U other bigger Big u".split()), min_size=1, max_size=20),
       SEEDS)
def test_synonyms_stay_in_their_group(words, seed):
    group_of = {word: set(group) for group in GROUPS for word in group}
    for variant in variants([", ".join(words)], SYNONYMS, 4, seed)[0]:
        after = variant.split(", ")
        assert len(after) == len(words)
        assert all(y in group_of.get(x, {x}) for x, y in zip(words, after))


def test_synonyms_are_redrawn_uniformly_at_their_rate():
    n, rate = 30_000, 0.6
    rewritten = synonyms(GROUPS, rate=rate).rewrite(" ".join(["big"] * n), np.random.default_rng(0)).split()
    counts = [rewritten.count(word) for word in GROUPS[0]]
    assert chisquare(counts, [n * (1 - rate + rate / 3), n * rate / 3, n * rate / 3]).pvalue > 1e-4


def test_variants_differ_from_the_text_where_they_can():
    # one big word at rate 1/2: a draw leaves it alone with probability 2/3, eight in a row with (2/3)^8 = 0.039
    drawn = variants(["big"], SYNONYMS, 2000)[0]
    assert abs(drawn.count("big") / 2000 - (2 / 3) ** perturb.RETRIES) < 0.02


def test_no_variants_asked_for_is_an_error():
    with pytest.raises(ValueError, match="K = 0: draw at least one"):
        variants(["a"], KERNELS["framing"], 0)


def test_given_variants_are_drawn_uniformly_from_the_group():
    kernel = perturb.given({"a": ["b", "c", "d"], ("p", "q"): [("p", "r")]}, name="paraphrases")
    drawn = kernel.sample("a", 6000, np.random.default_rng(1))
    assert chisquare([drawn.count(x) for x in "bcd"]).pvalue > 1e-4 and set(drawn) == {"b", "c", "d"}
    assert variants([("p", "q")], kernel, 2) == [[("p", "r")] * 2] and kernel.name == "paraphrases"
    with pytest.raises(ValueError, match="no variants of 'unlisted'.*only the inputs it lists"):
        variants(["unlisted"], kernel, 1)


def test_mixture_draws_its_kernels_equally_often():
    tag = lambda name: Perturbation.of_text(name, lambda text, rng: f"{text} {name}")
    kernel = mixture(tag("x"), tag("y"), tag("z"))
    assert kernel.name == "x+y+z"
    drawn = kernel.sample("a", 6000, np.random.default_rng(2))
    assert chisquare([drawn.count(f"a {name}") for name in "xyz"]).pvalue > 1e-4


def test_topic_worlds_kernels_pass_the_audit():
    task = load_task("topic", {"train": 1, "validation": 1, "calibration": 1, "test": 100})
    for names in ("synonyms", "wording", ["synonyms", "wording"]):
        assert audit(task.perturbation(names), task["test"]["text"], task.p_star) == 1


def test_audit_counts_changed_labels():
    """The kernel cycles through a, b, c, d; the judge calls a and b class 0, c class 1 and d class 2."""
    label = lambda texts: np.eye(3)[[{"a": 0, "b": 0, "c": 1, "d": 2}[text] for text in texts]]
    step = Perturbation.of_text("step", lambda text, rng: "abcd"[("abcd".index(text) + 1) % 4])
    assert audit(step, ["a", "b", "c", "d"], label, k=3) == 1 / 4  # only a -> b keeps its label
    assert audit(step, ["a"], label) == 1 and audit(step, ["c"], label) == 0
    # one of two variants keeps it: the rate is the exact share over the variants drawn
    either = perturb.given({"a": ["b", "c"]})
    drawn = variants(["a"], either, 50, seed=4)[0]
    assert audit(either, ["a"], label, k=50, seed=4) == pytest.approx(drawn.count("b") / 50, abs=1e-15)


def test_contractions_are_inverse():
    for (long, short), lower in product(text_kernels._CONTRACTIONS, (str, str.upper)):
        assert text_kernels._swap_words(text_kernels._SHORT)(lower(long)) == short
        # "it's been" is no "it is been": only contractions of one meaning are spelled out
        assert text_kernels._swap_words(text_kernels._LONG)(lower(short)) == (lower(short) if short.endswith("'s") else long)


def test_texts_of_one_length_draw_apart():
    rows = variants([f"text {i}" for i in range(10, 50)], KERNELS["framing"], 1)
    frames = {re.sub(r"text \d+", "", row[0]) for row in rows}
    assert len(frames) > 5  # of ten; fewer has probability < 1e-8


def test_a_lone_full_stop_is_not_emptied():
    assert all(variant.strip() for variant in variants(["."], KERNELS["surface"], 200)[0])


def test_audit_knows_options_by_their_text():
    def label(questions):
        return np.array([[float(option == "right") for option in options] for _, *options in questions])

    questions = [(f"q{i}", "wrong", "right", "other") for i in range(20)]
    assert audit(OPTION_ORDER, questions, label) == 1
    assert audit(Perturbation("swap", lambda x, rng: (x[0], "right", "right", "other")), questions, label) == 0
