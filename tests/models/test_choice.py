"""Causal models over options: equal to whole texts one by one, whatever is shared, packed, padded and cut."""

import doctest
import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from sua import OBJECTIVES, CallableModel, Objective, Task, load_model, load_task, predict, train
from sua.models import choice, forest
from sua.models.choice import ABSENT, ChoiceLM
from sua.models.tiny import tiny_llama
from sua.paths import NotAvailableError
from sua.perturb import KERNELS, OPTION_ORDER, Perturbation, instructions, on_first, option_columns, variants
from sua.tasks import inputs
from sua.training.data import VariantData, teacher_answers
from sua.training.trainer import SUATrainer

WORDS = "the film is a slow , funny and unforgettable mess about people who live beside the sea".split()
PARAGRAPH = " ".join(WORDS * 3)
SENTENCES = [" ".join(WORDS), "Answer: the sea", "people live beside the sea and the film",
             "A. funny B. slow C. a mess"]


@cache
def byte_level(bos, merged=False):
    """Byte-level BPE; `merged` has tokens across spaces, so that prompt and option share one."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not merged)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(SENTENCES * 4, trainers.BpeTrainer(
        vocab_size=400, show_progress=False, special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if bos:
        core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="<s>")


@cache
def words():
    return tiny_llama([*SENTENCES, "Answer: A B C D E F G H A. B. C. D. E. F. G. H."]).tokenizer


TOKENIZERS = {"words": words, "bytes": lambda: byte_level(False), "bytes with BOS": lambda: byte_level(True),
              "across words": lambda: byte_level(False, True)}
SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "max_position_embeddings": 512}
FAMILIES = {"llama": (transformers.LlamaConfig, {"intermediate_size": 64, "num_key_value_heads": 2}),
            "gpt2": (transformers.GPT2Config, {}),
            "qwen": (transformers.Qwen2Config, {"intermediate_size": 64, "num_key_value_heads": 2,
                                                "tie_word_embeddings": True})}


@cache
def network(family):
    torch.manual_seed(0)
    config, extra = FAMILIES[family]
    lm = transformers.AutoModelForCausalLM.from_config(config(vocab_size=400, **SHAPE, **extra)).eval()
    with torch.no_grad():  # steep, so that inputs differ by far more than rounding
        for weight in lm.parameters():
            weight *= 6 if weight.ndim > 1 else 1
    return lm


def one_by_one(chooser, example):
    """[ln p of each token of each option], from the whole text of one option at a time."""
    question, *options = example
    scored = list("ABCDEFGH"[:len(options)]) if chooser.score == "letter" else options
    listing = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCDEFGH", options))
    prompt = chooser.template.format(question, question=question, options=listing)
    ids = [chooser.tokenizer(text)["input_ids"] for text in (prompt, *(f"{prompt} {option}" for option in scored))]
    begin = next((i for i, column in enumerate(zip(*ids)) if len(set(column)) > 1), min(map(len, ids)))
    found = []
    for row in ids[1:]:
        log_p = chooser.model(torch.tensor([row])).logits[0].double().log_softmax(-1)
        found.append(torch.stack([log_p[t - 1, row[t]] for t in range(begin, len(row))]))
    return found


def expected(chooser, examples):
    mean = chooser.score == "mean"
    with torch.no_grad():
        rows = [[float(x.mean() if mean else x.sum()) for x in one_by_one(chooser, example)] for example in examples]
    return np.array([row + [ABSENT] * (max(map(len, rows)) - len(row)) for row in rows])


PHRASES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
QUESTIONS = st.tuples(st.sampled_from(["", PARAGRAPH + " ", "the film is a "]), PHRASES,
                      st.lists(PHRASES, min_size=2, max_size=8)).map(lambda x: (x[0] + x[1], *x[2]))


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(examples=st.lists(QUESTIONS, min_size=1, max_size=10), size=st.sampled_from([1, 3, 64]),
       side=st.sampled_from(["left", "right"]), score=st.sampled_from(["sum", "mean", "letter"]))
def test_options_equal_whole_texts_one_by_one(family, tokenizer, examples, size, side, score):
    chooser = ChoiceLM(network(family), TOKENIZERS[tokenizer](), score=score, batch_size=size)
    chooser.tokenizer.padding_side = side
    found, wanted = chooser.outputs(examples), expected(chooser, examples)
    np.testing.assert_allclose(found["logits"], wanted, rtol=1e-6, atol=2e-4)
    np.testing.assert_allclose(found["probs"], softmax(wanted, -1), atol=1e-4)
    assert (found["probs"][wanted == ABSENT] == 0).all()


def test_the_worked_example_of_a_plan_is_what_it_computes():
    example, = doctest.DocTestFinder().find(forest._plan, "_plan", globs=vars(forest).copy())
    assert doctest.DocTestRunner().run(example) == (0, 9)


def test_inputs_that_share_less_then_more_then_all():
    chooser = ChoiceLM(network("llama"), words(), template="{question} is")
    starts = [PARAGRAPH, f"{PARAGRAPH} the sea", f"{PARAGRAPH} the film is slow", f"{PARAGRAPH} the film is funny"]
    asked = [(text, "slow", "a mess") for text in starts] + [(PARAGRAPH, "funny people", "slow", "the sea")]
    np.testing.assert_allclose(chooser.outputs(asked)["logits"], expected(chooser, asked), rtol=1e-6, atol=2e-4)


def test_the_test_above_can_fail():
    chooser = ChoiceLM(network("llama"), byte_level(False))
    rows = chooser.outputs([("the film is", "slow", "a mess"), ("the sea is", "slow", "a mess")])["logits"]
    assert np.abs(rows[0] - rows[1]).max() > 0.1 and np.abs(rows[:, 0] - rows[:, 1]).min() > 0.1


def test_a_token_across_the_boundary_is_scored_for_every_option():
    """The scores of two options differ as ln p of the two whole texts does."""
    chooser = ChoiceLM(network("gpt2"), byte_level(False, True), template="{question} Answer:")
    example, whole = ("people live beside", "the sea", "a mess"), []
    row = chooser.encode([example])
    trunk = row["token_type_ids"][0].count(0)
    assert trunk < len(chooser.tokenizer("people live beside Answer:")["input_ids"])
    for option in example[1:]:
        ids = torch.tensor([chooser.tokenizer(f"people live beside Answer: {option}")["input_ids"]])
        with torch.no_grad():
            log_p = chooser.model(ids).logits.log_softmax(-1)
        whole.append(float(log_p[:, :-1].gather(2, ids[:, 1:, None]).sum()))
    logits = chooser.outputs([example])["logits"][0]
    assert logits[0] - logits[1] == pytest.approx(whole[0] - whole[1], abs=1e-4)


def test_answers_are_the_options_of_every_text_and_pair():
    options = dict(model=network("qwen"), tokenizer=byte_level(True))
    brought, fixed = ChoiceLM(**options), ChoiceLM(**options, answers=["slow", "a funny mess"])
    texts = ["the film is", "people live beside the sea"]
    np.testing.assert_allclose(fixed.predict_proba(texts),
                               brought.predict_proba([(text, "slow", "a funny mess") for text in texts]), atol=1e-6)
    np.testing.assert_allclose(fixed.predict_proba([tuple(texts)]), fixed.predict_proba(["\n".join(texts)]), atol=1e-6)
    apart = ChoiceLM(**options, answers=fixed.answers, template="{1} and {0}\nAnswer:")
    np.testing.assert_allclose(apart.predict_proba([tuple(texts)]),
                               fixed.predict_proba([f"{texts[1]} and {texts[0]}"]), atol=1e-6)
    as_dict = [{"question": text, "choices": ["slow", "a funny mess"]} for text in texts]
    np.testing.assert_allclose(brought.predict_proba(as_dict), fixed.predict_proba(texts), atol=1e-6)


def test_what_encodes_alike_tokenises_once(monkeypatch):
    """Another model with an equal tokenizer finds the rows; any other setting makes its own, and both are right."""
    asked, texts = ["the film is", "people live beside the sea"], []
    tokens = choice._tokens
    monkeypatch.setattr(choice, "_tokens", lambda tokenizer, new: texts.extend(new) or tokens(tokenizer, new))
    make = lambda seed=0, known=asked, answers=("slow", "a mess"), **given: tiny_llama(known, answers, seed, **given)
    fresh = lambda chooser: chooser.encode(asked)
    first = fresh(make(template="{question} is"))
    assert len(texts) == 6
    same = make(1, template="{question} is")
    assert fresh(same) == first and len(texts) == 6
    first["input_ids"][0].clear()  # what a caller does to its batch reaches nobody
    assert fresh(same) == fresh(make(template="{question} is")) != first and len(texts) == 6
    others = [make(template="{question} :"), make(template="{question} is", answers=("slow", "a film")),
              make(template="{question} is", known=["a film"]), make(template="{question} is", max_length=4)]
    for number, other in enumerate(others, 1):
        found = fresh(other)
        assert len(texts) == 6 + 6 * number
        for ids, kinds, text in zip(found["input_ids"], found["token_type_ids"], asked):
            prompt = other.tokenizer(other.template.format(question=text))["input_ids"]
            room = other.max_length + 1 - max(kinds.count(1), kinds.count(2))
            assert ids[:kinds.count(0)] == prompt[:1] + prompt[1:][-(room - 1):]


@pytest.fixture
def tokens_read(monkeypatch):
    """How many tokens, padding among them, each forward pass of the network reads."""
    read, lm = [], network("llama")
    forward = lm.forward

    def counted(*ids, **x):  # whole texts come as ids
        read.extend([x["inputs_embeds"].shape[:2].numel()] if not ids else [])
        return forward(*ids, **x)

    monkeypatch.setattr(lm, "forward", counted)
    return read


def test_what_inputs_and_options_share_is_read_once(tokens_read):
    chooser = ChoiceLM(network("llama"), words(), template="{question} Answer:")
    endings = ["the sea", "a film", "people", "the film and the sea", "a mess", "who live", "slow", "funny"]
    asked = [(f"{PARAGRAPH} {ending}", "a slow mess", "funny people", "the sea") for ending in endings]
    chooser.predict_proba([*asked, asked[0]])
    # per variant its words, "Answer:", and 2 + 1 + 1 words of options: their last is predicted, not read
    own = sum(len(ending.split()) + 1 + 4 for ending in endings)
    context = 1 + len(PARAGRAPH.split())
    assert context + own - 8 <= tokens_read[0] <= context + own and len(tokens_read) == 1
    tokens_read.clear()
    backwards = " ".join(PARAGRAPH.split()[::-1])
    other = [(f"{backwards} {ending}", "a slow mess", "funny people", "the sea") for ending in endings]
    chooser.batch_size = 8 * 3
    chooser.predict_proba([x for pair in zip(asked, other) for x in pair])  # each paragraph has its batch
    assert sum(tokens_read) <= 2 * (context + own) and len(tokens_read) == 2
    tokens_read.clear()
    single = [(" ".join(WORDS[i:i + 5]), "sea", "film", "mess", "people") for i in range(8)]
    chooser.predict_proba(single)  # nothing but [BOS] alike: the prompts alone, options of one token cost nothing
    assert 8 * 6 < tokens_read[0] <= 8 * 7


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(examples=st.lists(QUESTIONS, min_size=1, max_size=6), long=st.booleans(), share=st.booleans())
def test_no_batch_reads_more_than_whole_texts_would(examples, long, share, tokens_read):
    """At most the tokens of each text but its last, all padded to the longest; the values are right in training too."""
    chooser = ChoiceLM(network("llama"), words(), template="{question} is")
    asked = [(question, *(f"{option} {PARAGRAPH}" if long else option for option in options))
             for question, *options in dict.fromkeys(examples)]
    batch = chooser.tokenizer.pad(chooser.encode(asked), return_tensors="pt")
    texts = chooser.tokenizer([f"{question} is {option}" for question, *options in asked for option in options])
    tokens_read.clear()
    with torch.inference_mode():
        chooser.model.train(not share)
        logits = chooser.class_logits(chooser.forward(chooser.model, batch).logits)
        chooser.model.eval()
    if share:
        assert tokens_read[0] <= len(texts["input_ids"]) * (max(map(len, texts["input_ids"])) - 1)
    np.testing.assert_allclose(logits, expected(chooser, asked), rtol=1e-6, atol=2e-4)


def test_a_batch_holds_as_many_texts_as_asked_of_about_one_length(monkeypatch):
    chooser = ChoiceLM(network("llama"), words(), template="{question} is", batch_size=6)
    rng, sizes = np.random.default_rng(0), []
    forward = chooser.forward
    monkeypatch.setattr(chooser, "forward", lambda model, batch, **x: sizes.append(
        batch["attention_mask"].sum(1).tolist()) or forward(model, batch, **x))
    of_length = lambda n: " ".join(rng.choice(WORDS, n))
    single = [(of_length(n), "slow", "mess", "sea") for n in rng.permutation(np.arange(1, 13))]
    chooser.predict_proba(single)
    assert sizes == [[n + 5 for n in lengths] for lengths in (range(12, 6, -1), range(6, 0, -1))]
    sizes.clear()
    chooser.predict_proba([(question, "slow sea", *options) for question, _, *options in single])
    assert [len(batch) for batch in sizes] == [2] * 6 and sizes[0] == [12 + 6, 11 + 6]
    sizes.clear()
    chooser.batch_size = 1
    chooser.predict_proba(single[:2])
    assert [len(batch) for batch in sizes] == [1, 1]


def test_a_pair_and_a_text_that_read_alike_come_together():
    chooser = ChoiceLM(network("llama"), words(), answers=["slow", "a mess"])
    one, other = chooser.predict_proba(["the film\nis", ("the film", "is")])
    assert (one == other).all()


def test_stochastic_passes_share_nothing_between_inputs_and_give_their_gradients(tokens_read):
    chooser = ChoiceLM(network("llama"), words(), template="{question} Answer:")
    asked = [(f"{PARAGRAPH} {ending}", "a slow mess", "the sea") for ending in ("the sea", "a film")]
    batch = chooser.tokenizer.pad(chooser.encode(asked), return_tensors="pt")
    chooser.model.train()
    loss = chooser.class_logits(chooser.forward(chooser.model, batch).logits).softmax(-1)[:, 0].sum()
    gradients = torch.autograd.grad(loss, list(chooser.model.parameters()))
    chooser.model.eval()
    assert 2 <= tokens_read[0] / len(PARAGRAPH.split()) < 3  # but the two options of an input share what it drops
    chooser.model.forward = type(chooser.model).forward.__get__(chooser.model)
    naive = sum(torch.stack([x.sum() for x in one_by_one(chooser, example)]).softmax(-1)[0] for example in asked)
    for ours, theirs in zip(gradients, torch.autograd.grad(naive, list(chooser.model.parameters())), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-3)


def test_features_are_the_last_hidden_state_of_the_prompt():
    chooser = ChoiceLM(network("qwen"), byte_level(True), batch_size=2)
    asked = [(question, "slow", "a mess") for question in ("the film is", PARAGRAPH, "people", PARAGRAPH + " is")]
    for example, features in zip(asked, chooser.outputs(asked)["features"]):
        ids = torch.tensor([chooser.tokenizer(f"{example[0]}\nAnswer:")["input_ids"]])
        with torch.no_grad():
            hidden = chooser.model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
        np.testing.assert_allclose(features, hidden, atol=1e-4)


@pytest.mark.parametrize("bos", [False, True])
def test_a_long_prompt_loses_its_beginning(bos):
    chooser = ChoiceLM(network("gpt2"), byte_level(bos), max_length=40)
    asked = [(PARAGRAPH * 2, "slow and funny", "a mess"), (PARAGRAPH, "sea", "mess")]
    encoded = chooser.encode(asked)
    for example, ids, kinds in zip(asked, encoded["input_ids"], encoded["token_type_ids"]):
        whole = chooser.tokenizer(f"{example[0]}\nAnswer:")["input_ids"]
        longest = max(kinds.count(1), kinds.count(2))
        kept = 40 - longest + 1 - bos
        assert ids[:kinds.count(0)] == whole[:bos] + whole[-kept:]
    assert np.isfinite(chooser.outputs(asked)["logits"]).all()
    assert ChoiceLM(network("gpt2"), byte_level(bos), max_length=10**6).max_length == 512
    with pytest.raises(ValueError, match="has no token left before its options.*max_length = 40"):
        chooser.predict_proba([("the film", "slow", PARAGRAPH)])


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    chooser = ChoiceLM(network("llama"), words(), batch_size=16)
    asked = [(" ".join(np.random.default_rng(i).choice(WORDS, 9)), "sea", "mess") for i in range(16)]
    wanted, forward, rows = chooser.predict_proba(asked), chooser.model.forward, []

    def tight(**x):
        rows.append(x["inputs_embeds"].shape[:2].numel())
        if rows[-1] > 60:
            raise RuntimeError("CUDA out of memory.")
        return forward(**x)

    monkeypatch.setattr(chooser.model, "forward", tight)
    np.testing.assert_allclose(chooser.predict_proba(asked), wanted, atol=1e-5)
    assert rows[0] > rows[1] > 60 >= max(rows[2:])


@pytest.mark.parametrize("answers, bad, said", [
    (None, "a film", r"inputs\[1\] = 'a film' is not a question with options: give a tuple"),
    (None, ("a film", "it"), r"inputs\[1\].*is not a question with options"),
    (None, ("a film", "it", ""), r"inputs\[1\].*is empty or not text"),
    (("a", "b"), ("a film", "it", "is"), r"inputs\[1\].*an input is a text or a pair"),
], ids=str)
def test_inputs_of_another_form_are_named(answers, bad, said):
    chooser = ChoiceLM(network("llama"), words(), answers=answers)
    with pytest.raises(ValueError, match=said):
        chooser.predict_proba([("a film", "it", "is") if answers is None else "a film", bad])


def test_what_a_model_over_options_cannot_be():
    for options, said in (({"score": "median"}, "score = 'median'; known: sum, mean, letter"),
                          ({"answers": ["a", "a"]}, "answers = .*at least two, all different"),
                          ({"template": "{text} is"}, "template = '{text} is' has a field that nothing fills")):
        with pytest.raises(ValueError, match=said):
            ChoiceLM(network("llama"), words(), **options)
    mamba = transformers.MambaForCausalLM(transformers.MambaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1))
    with pytest.raises(ValueError, match="MambaForCausalLM.*attn_implementation='sdpa'"):
        ChoiceLM(mamba, words())
    letters = ChoiceLM(network("llama"), words(), score="letter")
    with pytest.raises(ValueError, match=r"inputs\[0\] has 27 options, there are 26 letters"):
        letters.predict_proba([("a film", *map(str, range(27)))])


def test_half_precision_gives_the_same_up_to_its_rounding(monkeypatch):
    """Inputs of different lengths, so that rows end in padding, which sees something too: else it may become nan."""
    chooser = ChoiceLM(network("llama"), byte_level(True), batch_size=3 * 2)
    asked = [(PARAGRAPH, "slow", "a mess"), (PARAGRAPH[50:], "slow", "a funny mess"), ("people", "slow", "sea")]
    forward, masks = chooser.model.forward, []
    monkeypatch.setattr(chooser.model, "forward", lambda **x: masks.append(x["attention_mask"]) or forward(**x))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = chooser.outputs(asked)["logits"]
    np.testing.assert_allclose(rounded, chooser.outputs(asked)["logits"], rtol=0.05, atol=0.1)
    assert len(masks[0]) > 1 and (masks[0] == 0).any(-1).all()


def test_a_window_of_attention_bounds_the_length():
    config = transformers.MistralConfig(vocab_size=400, sliding_window=64, intermediate_size=64, num_key_value_heads=2,
                                        **SHAPE)
    assert ChoiceLM(transformers.MistralForCausalLM(config), words()).max_length == 64


def test_the_cache_knows_score_template_and_answers(tmp_path):
    asked = [("the film is", "slow", "a funny mess"), ("people live", "beside the sea", "slow")]
    for options in ({}, {"score": "mean"}, {"score": "letter"}, {"template": "{question} is"}):
        chooser = ChoiceLM(network("qwen"), byte_level(True), **options)
        fresh = chooser.predict_proba(asked)
        chooser.cache = tmp_path
        for _ in range(2):
            np.testing.assert_array_equal(chooser.predict_proba(asked), fresh)
    assert len(list(tmp_path.iterdir())) == 3  # sum and mean share one


@pytest.mark.parametrize("ask", [lambda model, x: {"probs": model.predict_proba(x)}, lambda model, x: model.outputs(x),
                                 lambda model, x: {"probs": model.dropout_proba(x, 2)}])
def test_sum_and_mean_share_one_pass(ask, tmp_path, monkeypatch):
    asked = [("the film is", "slow", "a funny mess"), ("people live", "beside the sea", "slow")]
    models = {score: ChoiceLM(network("qwen"), byte_level(True), score=score) for score in ("sum", "mean")}
    apart = {score: ask(model, asked) for score, model in models.items()}
    ask(ChoiceLM(network("qwen"), byte_level(True), cache=tmp_path), asked)
    monkeypatch.setattr(ChoiceLM, "forward", lambda *given, **options: pytest.fail("a second pass"))
    for score, model in models.items():
        model.cache = tmp_path
        for name, values in ask(model, asked).items():
            np.testing.assert_array_equal(values, apart[score][name])
    assert np.abs(apart["sum"]["probs"] - apart["mean"]["probs"]).max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_models_are_recognised_with_their_settings(family, tmp_path):
    saved = ChoiceLM(network(family), byte_level(True), answers=["slow", "a mess"], score="mean",
                     template="{question} is")
    loaded = load_model(saved.save(tmp_path))
    assert isinstance(loaded, ChoiceLM) and loaded.template == "{question} is" and loaded.score == "mean"
    assert (loaded.predict_proba(SENTENCES) == saved.predict_proba(SENTENCES)).all()
    assert list(tmp_path.glob("*.safetensors")) and load_model(tmp_path, score="sum").score == "sum"


@pytest.mark.parametrize("gpu, fast, dtype", [(False, False, torch.float32), (False, True, torch.bfloat16),
                                              (True, False, torch.bfloat16)])
def test_the_hub_is_asked_for_safe_weights(tmp_path, monkeypatch, gpu, fast, dtype):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SUA_MIRROR", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("sua.models.load.fast_in_bfloat16", lambda: fast)
    asked = {}

    def offline(source, **options):
        asked.update(options)
        raise OSError

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *_, **__: transformers.LlamaConfig())
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", offline)
    with pytest.raises(NotAvailableError):
        load_model("lab/absent", causal=True)
    assert asked == {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False, "revision": "main"}


@pytest.fixture(scope="module")
def colours():
    """Which of the options was named?"""
    rng = np.random.default_rng(0)
    options = [list(rng.permutation(["red", "green", "blue", "light blue"])[:3]) for _ in range(60)]
    labels = rng.integers(3, size=60)
    texts = [f"{('say', 'tell', 'name')[i % 3]} {row[y]}" for i, (row, y) in enumerate(zip(options, labels))]
    split = Dataset.from_dict({"text": texts, "options": options, "label": labels})
    kernel = Perturbation("opening", lambda x, rng: (f"{rng.choice(['say', 'tell', 'name'])} "
                                                     f"{x[0].split(maxsplit=1)[1]}", *x[1:]))
    return Task("colours", DatasetDict(train=split), ("A", "B", "C")), kernel


@pytest.mark.parametrize("objective", ["erm", "r_drop", "adversarial", "sua_tr"])
def test_it_trains_through_the_same_code(colours, objective, tmp_path):
    task, kernel = colours
    trained, _ = train("tiny_llama", task, OBJECTIVES[objective], kernel, epochs=12, batch_size=15, learning_rate=1e-2,
                       cache=tmp_path)
    asked = inputs(task["train"])
    assert isinstance(trained, ChoiceLM)
    assert (trained.predict_proba(asked).argmax(-1) == task["train"]["label"]).mean() > 0.8
    predictions = predict(trained, task["train"], kernel, k=3, internals=True, dropout=2)
    assert predictions.perturbed.shape == (60, 3, 3)
    assert predictions.features.shape == (60, trained.model.config.hidden_size)


def test_it_distils_its_orbit_over_reordered_options_of_several_numbers(colours, tmp_path):
    """The teacher's answer is in the order of each input's own options, and absent ones stay at 0."""
    task, _ = colours
    fewer = [row[:2 + i % 2] for i, row in enumerate(task["train"]["options"])]
    split = task["train"].remove_columns(["options", "label"]).add_column("options", fewer)
    task = Task("colours", DatasetDict(train=split), ("A", "B", "C"))
    begun = tiny_llama(inputs(split))
    teacher = teacher_answers(begun, split, OBJECTIVES["distil"], OPTION_ORDER)
    assert teacher.shape == (60, 3) and (teacher[::2, 2] == 0).all() and (teacher[1::2] > 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two options have one other order
        assert teacher == pytest.approx(predict(begun, split, OPTION_ORDER, k=8).orbit.mean(1), abs=1e-12)
    sharp = replace(OBJECTIVES["distil"], power=2.0)
    for rows in (split, split.select(range(0, 60, 2))):  # of all, or of two options alone
        of = Task("colours", DatasetDict(train=rows), ("A", "B", "C"))
        _, log = train("tiny_llama", of, sharp, OPTION_ORDER, epochs=1, batch_size=15, start=tiny_llama(inputs(rows)))
        assert np.isfinite(log[0]["loss"]) and log[0]["sensitivity"] > 0


def test_lora_is_merged_into_the_model(colours, tmp_path):
    task, _ = colours
    options = dict(epochs=1, batch_size=15, learning_rate=1e-2, lora={"r": 2})
    trained, _ = train("tiny_llama", task, OBJECTIVES["erm"], cache=tmp_path, **options)
    start = tiny_llama(inputs(task["train"])).model.state_dict()
    end = trained.model.state_dict()
    assert start.keys() == end.keys()
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed == {name for name in start if name.endswith(("q_proj.weight", "v_proj.weight"))}


def test_batches_for_training_hold_one_row_per_input(colours):
    task, kernel = colours
    chooser = tiny_llama(inputs(task["train"]))
    batch = VariantData(task["train"], chooser, OBJECTIVES["sua_tr"], kernel, seed=0)
    rows = batch.collate([batch[0], batch[1]])
    assert len(rows["input_ids"]) == 2 * (1 + OBJECTIVES["sua_tr"].k)
    logits = chooser.class_logits(chooser.forward(chooser.model, rows).logits)
    assert logits.shape == (10, 3) and logits.requires_grad


def test_training_sees_reordered_options_in_their_own_order(colours, tmp_path):
    """Sums do not feel the order of options: mapped back, the variants' outputs are those of x."""
    task, _ = colours
    chooser = tiny_llama(inputs(task["train"]), dropout=0)
    args = transformers.TrainingArguments(tmp_path, report_to=[], use_cpu=True)
    trainer = SUATrainer(chooser, args, task["train"], Objective(k=3, consistency=1.0), OPTION_ORDER)
    batch = trainer.train_dataset.collate([trainer.train_dataset[i] for i in (0, 1)])
    trainer.compute_loss(chooser.model.train(), batch)
    assert trainer._sums["sensitivity"] < 1e-9 and (batch["columns"] != torch.arange(3)).any()


def test_slow_tokenizers_give_the_same_rows(monkeypatch):
    chooser = ChoiceLM(network("llama"), byte_level(True))
    asked = [("the film is", "slow", "a funny mess"), ("people live", "beside the sea", "slow")]
    fast = chooser.encode(asked)
    monkeypatch.setattr(type(chooser.tokenizer), "is_fast", False)
    monkeypatch.setattr(type(chooser.tokenizer), "backend_tokenizer", None, raising=False)
    assert chooser.encode(asked) == fast


def test_a_tiny_llama_learns_a_world_and_follows_its_seed():
    task = load_task("topic", {"train": 400, "validation": 1, "calibration": 1, "test": 200}, ambiguity=0.0)
    trained, _ = train("tiny_llama", task, OBJECTIVES["erm"], epochs=4, batch_size=20, learning_rate=5e-3)
    assert (trained.predict_proba(task["test"]["text"]).argmax(-1) == task["test"]["label"]).mean() > 0.8
    rows = [tiny_llama(SENTENCES, ("slow", "funny"), seed).predict_proba(SENTENCES) for seed in (0, 0, 1)]
    assert (rows[0] == rows[1]).all() and (rows[0] != rows[2]).any()


TEMPLATES = ["{question}", "Please answer: {question}", "{question} (choose one)"]


def test_instructions_are_redrawn_uniformly_and_exchangeably():
    kernel, rng = instructions(TEMPLATES), np.random.default_rng(0)
    written = [template.format(question="what is {it}?\nsay") for template in TEMPLATES]
    for text in written:
        drawn = [kernel.rewrite(text, rng) for _ in range(600)]
        assert set(drawn) == set(written)
        assert all(abs(drawn.count(other) - 200) < 60 for other in written)
    assert on_first(kernel).rewrite((written[1], "a", "b"), rng)[1:] == ("a", "b")


def test_texts_that_no_template_wrote():
    with pytest.raises(ValueError, match="'a film' is written in none of the templates"):
        instructions(TEMPLATES[1:]).rewrite("a film", np.random.default_rng(0))
    with pytest.raises(ValueError, match="template 'Answer' needs the field {question} once"):
        instructions(["Answer"])


def test_reordered_options_give_probabilities_in_their_own_order():
    """Each option's probability depends on its text alone, so in x's order no variant may differ."""
    strength = {"red": 1.0, "green": 2.0, "blue": 5.0}
    model = CallableModel(lambda batch: [[strength[option] / sum(map(strength.get, x[1:])) for option in x[1:]]
                                         for x in batch])
    found = predict(model, [("which", "red", "blue", "green"), ("what", "green", "red", "blue")], OPTION_ORDER, k=5)
    np.testing.assert_allclose(found.perturbed, np.repeat(found.probs[:, None], 5, 1))
    assert found.n_classes is None
    drawn = variants([("which", "red", "blue", "green")], OPTION_ORDER, 200)[0]
    assert len(set(drawn)) == 5 and all(sorted(x) == sorted(drawn[0]) for x in drawn)


def test_equal_options_keep_their_own_order():
    columns = option_columns([[("q", "a", "b", "a"), ("p", "b", "a", "a"), ("q", "a", "b", "c")]], 4)
    assert columns.tolist() == [[[0, 1, 2, 3], [1, 0, 2, 3], [0, 1, 2, 3]]]  # other options stay where they are
    assert option_columns([["a", "b"]], 2).tolist() == option_columns([[("a", "b"), ("b", "a")]], 2).tolist()
    for bad in ("text", ("premise", "hypothesis")):
        with pytest.raises(ValueError, match="has no options to reorder"):
            OPTION_ORDER.rewrite(bad, np.random.default_rng(0))


def test_a_task_with_options_knows_their_order_as_a_kernel(colours):
    task, _ = colours
    x = inputs(task["train"])[0]
    for variant in variants([x], task.perturbation(["option_order", "framing"]), 20)[0]:
        assert sorted(variant[1:]) == sorted(x[1:]) and (variant[0] == x[0] or variant[1:] == x[1:])
    assert "option_order" not in KERNELS


def test_letters_feel_the_order_of_options_and_sums_do_not():
    x = ("the film is", "slow", "a mess", "funny")
    moved = {}
    for score in ("sum", "letter"):
        found = predict(ChoiceLM(network("llama"), byte_level(True), score=score), [x], OPTION_ORDER, k=5)
        moved[score] = np.abs(found.perturbed - found.probs[:, None]).max()
    assert moved["sum"] < 1e-4 and moved["letter"] > 0.1


def test_predictions_know_how_many_options_each_question_has():
    chooser = ChoiceLM(network("llama"), byte_level(True))
    found = predict(chooser, [("the film is", "slow", "a mess", "funny"), ("people live", "slow", "beside the sea")],
                    OPTION_ORDER, k=3)
    assert found.n_classes.tolist() == [3, 2] and (found.orbit[1, :, 2] == 0).all() and found.probs[0].min() > 0
    np.testing.assert_allclose(found.perturbed, np.repeat(found.probs[:, None], 3, 1), atol=1e-4)


def test_prompts_of_a_chat():
    """The turn of a user and the beginning of a reply stand around the prompt; the first token comes once."""
    tokenizer = byte_level(True)
    plain = ChoiceLM(network("qwen"), tokenizer, template="{question}")
    with pytest.raises(ValueError, match="no chat template"):
        ChoiceLM(network("qwen"), tokenizer, chat=True)
    tokenizer.chat_template = ("{{ bos_token }}{% for turn in messages %}[{{ turn.role }}] {{ turn.content }}\n"
                               "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}")
    try:
        chat = ChoiceLM(network("qwen"), tokenizer, template="{question}", chat=True)
        asked = [("the film is", "slow", "a funny mess")]
        turned = [("[user] the film is\n[assistant]", "slow", "a funny mess")]
        assert chat.encode(asked) == plain.encode(turned)
        np.testing.assert_array_equal(chat.predict_proba(asked), plain.predict_proba(turned))
        assert not np.allclose(chat.predict_proba(asked), plain.predict_proba(asked))
    finally:
        tokenizer.chat_template = None


def test_the_head_of_a_model_in_16_bits_computes_in_float32(monkeypatch):
    """Its logits are products of float32, and what is scored, where no gradient flows; the model is left as it was."""
    config, extra = FAMILIES["llama"]
    torch.manual_seed(0)
    lm = transformers.AutoModelForCausalLM.from_config(config(vocab_size=400, **SHAPE, **extra))
    lm, hidden = lm.to(torch.bfloat16).eval(), torch.randn(5, SHAPE["hidden_size"], dtype=torch.bfloat16)
    with torch.inference_mode():
        hooks = choice._precise(lm)
        exact = lm.lm_head(hidden)
        assert exact.dtype == torch.float32 and torch.equal(exact, hidden.float() @ lm.lm_head.weight.float().T)
        [hook.remove() for hook in hooks]
        rounded = lm.lm_head(hidden)
        assert rounded.dtype == torch.bfloat16 and not torch.equal(rounded.float(), exact)
        assert choice._precise(network("qwen")) == []  # float32 as it is
    assert choice._precise(lm) == []
    chooser = ChoiceLM(lm, byte_level(True), template="{question}")
    found = chooser.predict_proba([("the film is", "slow", "a mess")])
    assert found.tobytes() == chooser.predict_proba([("the film is", "slow", "a mess")]).tobytes()
    assert not lm.lm_head._forward_hooks and not lm.lm_head._forward_pre_hooks
    monkeypatch.setattr(choice, "_precise", lambda model: [])
    assert abs(found - chooser.predict_proba([("the film is", "slow", "a mess")])).max() > 0
