"""Formulations: which prompts come out, that they read back, that no draw repeats, that pairs are exchangeable."""

from fractions import Fraction

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sua import CallableModel, GenerativeLM, RemoteLM, load_task, paths, perturb, predict
from sua.inputs import lettered
from sua.models.choice import ChoiceLM
from sua.models.letters import letter_prompt
from sua.models.tiny import tiny_llama
from sua.perturb import OPTION_ORDER, TYPOS, Perturbation, audit, formulations, mixture, on_first, variants

FILE = yaml.safe_load((paths.root() / "data" / "prompts.yaml").read_text(encoding="utf-8"))
PIECES = ["a", "fine", "film", "{", "{0}", "}", "'quoted'", '"so"', "A.", "no\nnews", "50%", "\\d", ".*", "(x)",
          "Text:"]
WORDS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map(" ".join)
QUESTION = ("Which is largest?", "the Sun", "the Moon", "the Earth")
EXAMPLES = {"sentiment": "a fine film", "topic": "a song", "nli": ("It rains .", "It is wet ."),
            "yes_no": ("Ice is cold .", "is ice cold"), "choice_likelihood": QUESTION, "choice_letter": QUESTION,
            "open": "What floats?"}


def test_the_file_gives_the_kinds():
    assert set(EXAMPLES) == set(FILE)


def test_prompts_are_as_written():
    (asked,) = formulations("sentiment").ask(["a fine film"])
    assert asked == ("Decide whether the sentiment of this sentence is positive or negative.\n\nSentence: a fine film\n"
                     "Sentiment:", "negative", "positive")
    world = formulations("topic", ("sport", "music"))  # answers in the order of the task's labels
    assert world.ask(["a song"], "topic-list") == [(
        "Choose the topic of the text from this list.\n\nA. Sport\nB. Music\n\nText: a song\nName of the topic:",
        "Sport", "Music")]
    assert formulations("choice_letter").ask([QUESTION]) == [("Which is largest?\n{options}\nAnswer:", *QUESTION[1:])]
    assert formulations("open").ask(["Why?"], "open-brief") == ["Q: Why?\nA (short):"]
    assert formulations("nli").ask([("p", "h")], "nli-claim-first")[0][0].startswith("Claim: h\nEvidence: p\n")


@pytest.mark.parametrize("kind", FILE)
def test_notes_and_priors_are_kept(kind):
    forms = formulations(kind)
    for row in FILE[kind]["seen"] + FILE[kind]["unseen"]:
        prompt = forms[row["id"]]
        assert (prompt.template, prompt.note, prompt.prior) == (row["template"], row["note"], row["prior"])
        assert prompt.answers == (tuple(row["answers"]) if "answers" in row else None)


@pytest.mark.parametrize("kind", FILE)
def test_an_orbit_has_every_formulation_once(kind):
    forms = formulations(kind)
    for which in ("seen", "unseen", "all"):
        kernel, m = forms.kernel(which), len(forms.prompts(which))
        (orbit,) = forms.orbits([EXAMPLES[kind]], which)
        assert [forms.read(x) for x in orbit] == [(prompt, EXAMPLES[kind]) for prompt in forms.prompts(which)]
        (drawn,) = variants([orbit[0]], kernel, m - 1)
        assert kernel.others(orbit[0]) == m - 1 and {orbit[0], *drawn} == set(orbit) and len({*drawn}) == m - 1
        (twice,) = variants([orbit[0]], kernel, 2 * (m - 1))
        assert twice == drawn * 2
    seen = forms.ask([EXAMPLES[kind]])[0]  # of another set, all of this one are others
    assert forms.kernel("unseen").others(seen) == len(forms.unseen)


class Outcome:
    """A generator whose next whole number is given."""

    def __init__(self, value):
        self.value = value

    def integers(self, n):
        self.n = n
        return self.value


@pytest.mark.parametrize("kind", FILE)
def test_pairs_are_exchangeable(kind):
    forms = formulations(kind)
    (orbit,) = forms.orbits([EXAMPLES[kind]])
    chance = {}
    for x in orbit:
        for value in range(len(orbit) - 1):
            rng = Outcome(value)
            pair = x, forms.kernel().rewrite(x, rng)
            chance[pair] = chance.get(pair, 0) + Fraction(1, len(orbit) * rng.n)
    assert sum(chance.values()) == 1 and all(chance[b, a] == p for (a, b), p in chance.items())


@pytest.mark.parametrize("kind", FILE)
@given(data=st.data())
def test_what_is_asked_reads_back(kind, data):
    forms = formulations(kind)
    n = {"nli": 2, "yes_no": 2}.get(kind, 1)
    texts = tuple(data.draw(WORDS) for _ in range(n))
    x = texts + QUESTION[1:] if kind.startswith("choice") else texts if n > 1 else texts[0]
    for prompt in forms.prompts("all"):
        try:
            (asked,) = forms.ask([x], prompt.id)
        except ValueError as error:
            assert "holds words of the formulation" in str(error)
            continue
        assert forms.read(asked) == (prompt, x) and forms.raw([asked]) == [x]


def test_what_could_be_read_in_two_ways_is_refused():
    with pytest.raises(ValueError, match="'nli-relation', so that it could be read back in two ways"):
        formulations("nli").ask([("it rains\nHypothesis: it pours", "it is wet")])
    with pytest.raises(ValueError, match="'letter-plain'"):
        formulations("choice_letter").ask([("What does {options} stand for?", "a list", "a field")])


@pytest.mark.parametrize("call, said", [
    (lambda: formulations("sentimental"), "unknown kind of formulations 'sentimental': did you mean 'sentiment'"),
    (lambda: formulations("topic", ("sport", "musik")), "unknown label of 'topic' 'musik': did you mean 'music'"),
    (lambda: formulations("open")["open-plane"], "unknown formulation 'open-plane': did you mean 'open-plain'"),
    (lambda: formulations("open").kernel("new"), "unknown set of formulations 'new'"),
    (lambda: formulations("nli").ask(["one text"]), "'one text' cannot be asked as 'nli': give a pair of texts"),
    (lambda: formulations("choice_letter").ask([("Why?", "a")]), r"give a tuple \(question, option_1"),
    (lambda: variants(["raw"], formulations("open").kernel(), 2), "'raw' is asked in none of the formulations")])
def test_errors_say_what_to_do(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="give file="):
        formulations("open", file=tmp_path / "prompts.yaml")


def test_formulations_compose_with_kernels_of_the_text():
    forms = formulations("sentiment")
    shout = Perturbation.of_text("shout", lambda text, rng: text.upper())
    (asked,) = forms.ask(["a fine film"])
    (drawn,) = variants([asked], forms.kernel(then=shout), 8)
    assert forms.raw(drawn) == ["A FINE FILM"] * 8
    assert {forms.read(x)[0] for x in drawn} == {*forms.seen[1:]}  # still each formulation once
    letters = formulations("choice_letter")
    (drawn,) = variants(letters.ask([QUESTION]), letters.kernel(then=on_first(TYPOS)), 8)
    for question, *options in letters.raw(drawn):
        assert question != QUESTION[0] and tuple(options) == QUESTION[1:]
    names = {prompt.id for prompt in letters.seen}
    both = variants(letters.ask([QUESTION]), mixture(letters.kernel(), OPTION_ORDER), 400)[0]
    assert {letters.read(x)[0].id for x in both} == names
    assert forms.kernel(then=shout).name == "formulations of sentiment + shout"


def test_options_are_mapped_back_under_another_order():
    letters = formulations("choice_letter")
    given = {"the Sun": 0.5, "the Moon": 0.3, "the Earth": 0.2}
    model = CallableModel(lambda batch: [[given[option] for option in options] for _, *options in batch])
    p = predict(model, letters.ask([QUESTION]), letters.kernel(then=OPTION_ORDER), k=8)
    np.testing.assert_array_equal(p.perturbed, np.broadcast_to([0.5, 0.3, 0.2], p.perturbed.shape))
    orders = {x[1:] for x in variants(letters.ask([QUESTION]), letters.kernel(then=OPTION_ORDER), 8)[0]}
    assert len(orders) > 1


def test_answers_keep_their_places_whatever_their_words():
    """A formulation's answers are in label order: so is what the model says of them."""
    forms = formulations("nli")
    model = CallableModel(lambda batch: [[0.6, 0.3, 0.1] for _ in batch])
    p = predict(model, forms.ask([EXAMPLES["nli"]]), forms.kernel(), k=8)
    np.testing.assert_array_equal(p.orbit, np.broadcast_to([0.6, 0.3, 0.1], p.orbit.shape))


def test_a_world_says_that_formulations_keep_the_label():
    task = load_task("topic", {"train": 0, "validation": 0, "calibration": 0, "test": 30})
    forms = formulations("topic", task.label_names)
    found = audit(forms.kernel(), forms.ask(task["test"]["text"]), lambda asked: task.p_star(forms.raw(asked)), k=8)
    assert found == 1 and found.copies == found.repeats == 0


def words(*more):
    return tiny_llama([prompt.template for kind in FILE for prompt in formulations(kind).prompts("all")]
                      + [text for x in EXAMPLES.values() for text in ([x] if isinstance(x, str) else x)] + list(more))


@pytest.mark.parametrize("kind, score", [("topic", "sum"), ("choice_likelihood", "mean"), ("choice_letter", "letter")])
def test_choice_models_take_the_prompt_as_it_stands(kind, score):
    """As a model whose own template is the formulation, for texts that it may fill in."""
    tiny, forms = words(lettered("abc")), formulations(kind)
    asked = ChoiceLM(tiny.model, tiny.tokenizer, template="{question}", score=score)
    for prompt in forms.seen:
        own = ChoiceLM(tiny.model, tiny.tokenizer, template=prompt.template, answers=prompt.answers, score=score)
        if "{options}" in prompt.template and prompt.answers:
            own.template = prompt.template.replace("{options}", lettered(prompt.answers))
        x = EXAMPLES[kind]
        np.testing.assert_allclose(asked.predict_proba(forms.ask([x], prompt.id)), own.predict_proba([x]), rtol=1e-12)


def test_generative_models_take_the_prompt_as_it_stands():
    tiny, forms = words(), formulations("open")
    whole = GenerativeLM(tiny.model, tiny.tokenizer, template="{question}", max_new_tokens=3)
    asked = whole.generate(forms.ask(["What floats?"]), forms.kernel(), k=8, m=2, p_true=False)
    assert {forms.read(x)[0] for x in asked.variants[0]} == {*forms.seen[1:]}
    own = GenerativeLM(tiny.model, tiny.tokenizer, template=forms.seen[0].template, max_new_tokens=3)
    assert own.generate(["What floats?"], m=0, p_true=False).answers == asked.answers


def test_remote_models_take_the_prompt_as_it_stands():
    (asked,) = formulations("choice_letter").ask([QUESTION])
    prompt = letter_prompt(asked[0], asked[1:], "{question}")
    assert prompt == "Which is largest?\nA. the Sun\nB. the Moon\nC. the Earth\nAnswer:"
    remote = RemoteLM("http://127.0.0.1:9/v1", "m", template="{question}")
    assert remote._request(asked)["messages"][0]["content"] == prompt
    with pytest.raises(ValueError, match="has no {options}"):
        remote._request(formulations("choice_likelihood").ask([QUESTION])[0])
    labelled = RemoteLM("http://127.0.0.1:9/v1", "m")  # its own template lists what a formulation calls the labels
    content = labelled._request(formulations("sentiment").ask(["a fine film"])[0])["messages"][0]["content"]
    assert "Sentence: a fine film\nSentiment:\n\nA. negative\nB. positive\n" in content
