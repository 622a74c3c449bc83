"""Kernels keep what they promise on any text, are functions of (seed, input) alone, and the audit counts right."""

import hashlib
import json
import re
import time
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import chisquare

from sua import load_task, perturb, worlds
from sua.inputs import inputs
from sua.perturb import (KERNELS, OPTION_ORDER, Perturbation, audit, mixture, repeats, synonyms, text as text_kernels,
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
        spelled = lower(short) if short.endswith("'s") else long
        assert text_kernels._swap_words(text_kernels._LONG)(lower(short)) == spelled


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


def test_draws_are_those_that_models_were_trained_on():
    """Recorded draws: a digest of four variants of each of 60 inputs, and the first of them to read."""
    recorded = json.loads((Path(__file__).parents[1] / "fixtures" / "draws.json").read_text(encoding="utf-8"))
    for name in worlds.WORLDS:
        task = load_task(name, {"train": 1, "validation": 1, "calibration": 1, "test": 60})
        for kernel in (*task.kernels, *KERNELS):
            drawn = variants(inputs(task["test"]), task.perturbation(kernel), 4, seed=3)
            said = recorded.pop(f"{name}/{kernel}")
            assert json.loads(json.dumps(drawn[0][0])) == said["first"]
            assert hashlib.sha256(json.dumps(drawn).encode()).hexdigest()[:16] == said["digest"], (name, kernel)
    assert not recorded


@pytest.mark.parametrize("text", ["\u0130t is fine", "\u0131t is", "It i\u017f", "DO NOT panic, \u0130t i\u017f."])
def test_letters_that_only_case_folding_knows_pass_the_surface_kernel(text):
    drawn = KERNELS["surface"].sample(text, 200, np.random.default_rng(0))
    assert all(variant.strip() for variant in drawn) and len(set(drawn)) > 1


@pytest.mark.parametrize("name", ALL)
@given(text=st.text(min_size=1).filter(str.strip), seed=SEEDS)
def test_any_text_has_variants(name, text, seed):
    assert all(variant.strip() for variant in variants([text], ALL[name], 3, seed)[0])


@given(st.text(" .,!a\n\t\x1c\x85\u2003", max_size=12))
def test_quick_changes_are_those_of_the_plain_patterns(text):
    assert text_kernels._without_stop(text) == (re.sub(r"\s*\.\s*$", "", text) or text)
    assert text_kernels._SURFACE[6](text) == re.sub(r"\s+([,.;:!?])", r"\1", text)


def seconds(change, text):
    def once():
        start = time.process_time()  # other processes on the machine do not count
        change(text, np.random.default_rng(0))
        return time.process_time() - start
    return min(once() for _ in range(3))


def surface_change(i):
    def change(text, rng):
        return text_kernels._SURFACE[i](text)
    return change


@pytest.mark.parametrize("change", [text_kernels._typo, KERNELS["framing"].rewrite, SYNONYMS.rewrite,
                                    *map(surface_change, range(8))], ids=lambda change: change.__qualname__)
@pytest.mark.parametrize("unit, n", [(" ", 3000), (" .", 3000), ("words ", 8000), ("a", 3000)])
def test_time_grows_as_the_text_does(change, unit, n):
    """16 times the length: about 16 times the time where it is linear, 256 where it is quadratic."""
    assert seconds(change, 16 * n * unit + "x") < 80 * max(seconds(change, n * unit + "x"), 1e-5)


def test_a_rate_is_a_probability():
    for rate in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"rate = {rate}: give a probability"):
            synonyms(GROUPS, rate)


@pytest.mark.parametrize("given, said", [({"k": 1.5}, "K = 1.5: draw"), ({"k": "4"}, "K = '4': draw"),
                                         ({"k": None}, "K = None: draw"), ({"k": float("nan")}, "K = nan: draw"),
                                         ({"k": -1}, "K = -1: draw"), ({"k": 2, "seed": -1}, "seed = -1: give"),
                                         ({"k": 2, "seed": None}, "seed = None: give")])
def test_counts_and_seeds_are_whole_numbers(given, said):
    with pytest.raises(ValueError, match=said):
        variants(["a text"], KERNELS["typos"], **given)
    drawn = variants(["a text"], KERNELS["typos"], 2, 3)
    assert variants(["a text"], KERNELS["typos"], np.int64(2), np.int64(3)) == drawn


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("given", [None, 3, 1.5, b"x", (), ("a", None), " ", ("a", "")])
def test_what_is_not_text_is_refused_with_its_place(name, given):
    with pytest.raises(ValueError, match=re.escape(f"inputs[1] = {given!r} is empty or not text")):
        variants(["a text", given], ALL[name], 2)


def test_lists_and_strings_of_numpy_are_drawn_as_what_they_say():
    assert variants(np.array(["a good film"]), KERNELS["typos"], 5) == variants(["a good film"], KERNELS["typos"], 5)
    assert variants([["a film", "it is"]], KERNELS["typos"], 5) == variants([("a film", "it is")], KERNELS["typos"], 5)


@pytest.mark.parametrize("options", ["ab", "abc", "abcd", "aab", "aabb", "aaa"])
def test_orders_are_all_drawn_before_one_comes_again(options):
    x = ("q", *options)
    others = {("q", *order) for order in permutations(options)} - {x}
    for seed in range(20):
        drawn = variants([x], OPTION_ORDER, 2 * len(others) + 1, seed)[0]
        if not others:
            assert drawn == [x]
            continue
        assert {*drawn[:len(others)]} == others and drawn[:len(others)] == drawn[len(others):-1]
        assert drawn[-1] == drawn[0]


def test_orders_are_drawn_uniformly():
    drawn = [variants([("q", *"abc")], OPTION_ORDER, 2, seed)[0] for seed in range(2000)]
    pairs = [drawn.count([("q", *first), ("q", *second)]) for first, second in
             permutations([order for order in permutations("abc") if order != tuple("abc")], 2)]
    assert sum(pairs) == 2000 and chisquare(pairs).pvalue > 1e-4


def test_repeats_are_counted():
    assert repeats(["a", "b"], [["a", "c", "c", "a"], ["c", "d", "c", "c"]]) == (2, 1 + 2)
    assert repeats(["a"], [["b", "c"]]) == (0, 0)


def test_a_group_without_members_is_named():
    with pytest.raises(ValueError, match="gives no variants of 'a'"):
        variants(["a"], perturb.given({"a": []}), 1)


def kl(a, b):
    return sum(p * np.log(p / q) for p, q in ((a, b), (1 - a, 1 - b)) if p > 0)


def test_an_audit_has_an_interval_and_the_judges_own_flips():
    """30 inputs, of which the kernel changes six: kept = .8; ends of the interval by another root finder."""
    texts = [f"{'flip' if i < 6 else 'keep'} {i}" for i in range(30)]
    shout = Perturbation.of_text("shout", lambda text, rng: text + "!")
    def judge(asked):
        return np.eye(2)[[int(text.startswith("flip") and text.endswith("!")) for text in asked]]
    found = audit(shout, texts, judge, k=2)
    assert found == float(found) == 0.8 and found.judge_flips == 0 and (found.n, found.k) == (30, 2)
    assert (found.copies, found.repeats) == (0, 30)
    def excess(m):
        return 30 * kl(0.8, m) - np.log(2 / 0.05)
    np.testing.assert_allclose(found.interval, (brentq(excess, 1e-9, 0.8), brentq(excess, 0.8, 1 - 1e-9)), atol=1e-8)
    # nothing flips: (1 - high flips)^N = .025, as for Clopper and Pearson
    np.testing.assert_allclose(found.judge_interval, (0, 1 - 0.025 ** (1 / 30)), atol=1e-8)
    for part in ("80.0%", "30 inputs", "30 an earlier variant", "Asked twice", "same="):
        assert part in found.reading
    assert json.dumps(found) == "0.8"


def test_an_audits_interval_covers_the_true_share():
    """Variants of one input flip together; the true share is 0.7, and misses have probability .05 at most."""
    rng, missed = np.random.default_rng(5), 0
    stay = Perturbation.of_text("stay", lambda text, rng: text + "!")
    for _ in range(200):
        flips = dict(zip(map(str, range(40)), rng.random(40) < 0.3))
        found = audit(stay, list(flips), lambda asked: np.eye(2)[[int(x[-1] == "!" and flips[x[:-1]]) for x in asked]])
        missed += not found.interval[0] <= 0.7 <= found.interval[1]
    assert missed <= 18  # P(Bin(200, .05) > 18) = .005


def test_an_audit_sees_a_judge_that_changes_its_mind_and_one_that_errs_on_rewordings():
    calls = iter(range(3))
    moody = audit(KERNELS["framing"], ["a text", "b text"], lambda asked: np.eye(2)[[next(calls) % 2] * len(asked)])
    assert moody == 1 and moody.judge_flips == 1 and "contradicts itself in 100.0%" in moody.reading
    same = Perturbation.of_text("same", lambda text, rng: text + " same")
    changed = Perturbation.of_text("changed", lambda text, rng: text + " changed")
    texts = [f"{i}" for i in range(100)]
    def judge(asked):
        return np.eye(2)[[int("changed" in x or "same" in x and x[0] == "1") for x in asked]]
    found = audit(changed, texts, judge, same=same)
    assert found == 0 and found.judge_flips == pytest.approx(0.11) and found.same == "same"
    assert "Under same, which keeps the meaning, it flips in 11.0%" in found.reading
    assert "this kernel changes labels" in found.reading
    assert "may explain" in audit(same, texts, judge, same=same).reading


@pytest.mark.parametrize("judge, said", [
    (lambda asked: np.full((2, len(asked)), 0.5), r"shape \(2, 10\) for 10 inputs"),
    (lambda asked: np.full(len(asked), 0.5), "return one row per input"),
    (lambda asked: np.full((len(asked), 2), np.nan), "judge's output.*nan")])
def test_an_audit_refuses_what_is_no_row_per_input(judge, said):
    with pytest.raises(ValueError, match=said):
        audit(KERNELS["framing"], ["a text", "b text"], judge)
    with pytest.raises(ValueError, match="inputs is empty"):
        audit(KERNELS["framing"], [], judge)
