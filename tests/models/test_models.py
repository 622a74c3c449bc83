"""Models: probabilities depend on their input alone; empty input, memory, missing weights; real ones end to end."""

import io
import json
import re
import sys
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import binomtest, chisquare

from sua import CallableModel, EncoderClassifier, load_model, load_task, metrics, predict, score
from sua.models.encoder import EncoderChoice
from sua.models.tiny import tiny_encoder
from sua.paths import NotAvailableError
from sua.predictions import Model

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["a film", "the", "a long and winding film about the sea and the people who live beside it", "the sea the sea",
         "people live", "it", "a film about a film about a film"]


@pytest.fixture(scope="module")
def tiny():
    return tiny_encoder(TEXTS, 3)


@cache
def minilm(mirror):
    encoder = load_model(MINILM, n_classes=2)
    with torch.no_grad():  # the new head is near zero: a steeper one makes differences show
        encoder.model.classifier.weight *= 30
    return encoder


def with_batch_size(encoder, size):
    return EncoderClassifier(encoder.model, encoder.tokenizer, batch_size=size, max_length=encoder.max_length)


SENTENCES = st.lists(st.integers(1, 50).flatmap(lambda n: st.lists(
    st.sampled_from("the film is a slow , funny and unforgettable antidisestablishmentarian mess .".split()),
    min_size=n, max_size=n)).map(" ".join), min_size=2, max_size=6, unique=True)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=SENTENCES, data=st.data())
def test_padding_batch_size_and_order_do_not_move_a_real_encoder(mirror, texts, data):
    encoder = minilm(mirror)
    alone = with_batch_size(encoder, 1).predict_proba(texts)  # no padding at all
    order = data.draw(st.permutations(range(len(texts))))
    for size in (1, 3, 64):
        batched = with_batch_size(encoder, size).outputs([texts[i] for i in order])
        np.testing.assert_allclose(batched["probs"], alone[order], rtol=0, atol=1e-5)


def test_pairs_and_lengths_of_a_real_encoder(mirror):
    encoder = minilm(mirror)
    assert encoder.model.dtype == torch.float32 and encoder.name == MINILM
    pairs = [("a film", "the sea"), ("the sea", "a film"), ("a film " * 60, "it is good " * 60), ("good", "bad")]
    alone = with_batch_size(encoder, 1).predict_proba(pairs)
    np.testing.assert_allclose(encoder.predict_proba(pairs), alone, rtol=0, atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3  # both texts, and their order, are read
    # the test above can fail: padding without its mask moves these probabilities by far more than 1e-5
    ids = encoder.tokenizer(["good", "a film " * 40], padding=True, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        unmasked = encoder.model(ids, attention_mask=torch.ones_like(ids)).logits.softmax(-1)[0].numpy()
    assert np.abs(unmasked - encoder.predict_proba(["good"])[0]).max() > 1e-3


def test_a_new_head_follows_its_seed(mirror):
    first, again, other = (load_model(MINILM, n_classes=3, seed=seed).model.classifier.weight for seed in (0, 0, 1))
    assert first.shape[0] == 3 and torch.equal(first, again) and not torch.equal(first, other)


def test_probabilities_are_the_softmax_of_the_logits(tiny):
    batch = tiny.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = tiny.model.eval()(**batch).logits.double().softmax(-1).numpy()
    np.testing.assert_allclose(tiny.predict_proba(TEXTS), expected, atol=1e-6)
    assert isinstance(tiny, Model) and isinstance(CallableModel(len), Model)


@pytest.mark.parametrize("size", [1, 2, 64])
def test_duplicates_are_computed_once_and_rows_stay_in_place(tiny, size, monkeypatch):
    alone = {text: tiny.predict_proba([text])[0] for text in TEXTS}
    seen, forward = [], tiny.model.forward
    monkeypatch.setattr(tiny.model, "forward", lambda **batch: seen.append(len(batch["input_ids"])) or forward(**batch))
    asked = [TEXTS[i] for i in np.random.default_rng(0).integers(len(TEXTS), size=50)]
    rows = with_batch_size(tiny, size).predict_proba(asked)
    assert sum(seen) == len(set(asked)) and max(seen) <= size
    np.testing.assert_allclose(rows, [alone[text] for text in asked], atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_dropout_is_off_and_the_mode_is_given_back(tiny, training):
    tiny.model.train(training)
    assert (tiny.predict_proba(TEXTS) == tiny.predict_proba(TEXTS)).all()
    assert tiny.model.training is training
    tiny.model.eval()


QUESTIONS = [("what is on the sea", "a film", "people", "it"),
             ("who live beside it", "the people", "the sea", "a film"),
             ("what is winding", "it", "a long film about the people who live beside the sea", "people"),
             ("what is on the sea", "people", "a film", "it")]


def steep(encoder):
    """Weights large enough that inputs differ by far more than rounding."""
    with torch.no_grad():
        for weight in encoder.model.parameters():
            weight *= 2 if weight.ndim > 1 else 1
    return encoder


@pytest.fixture(scope="module")
def classifier():
    return steep(tiny_encoder(TEXTS, 3))


@pytest.fixture(scope="module")
def chooser():
    return steep(tiny_encoder([*QUESTIONS, *TEXTS], 3, choice=True))


def test_outputs_come_from_one_pass_and_equal_the_models_own(classifier, monkeypatch):
    inputs = [*TEXTS, TEXTS[2]]
    with torch.inference_mode():
        batch = classifier.tokenizer(inputs, padding=True, return_tensors="pt")
        hidden = classifier.model.bert(**batch).last_hidden_state[:, 0]
        logits = classifier.model.classifier(classifier.model.bert(**batch).pooler_output)
    probs, rows, forward = classifier.predict_proba(inputs), [], classifier.model.forward
    monkeypatch.setattr(classifier.model, "forward", lambda **x: rows.append(len(x["input_ids"])) or forward(**x))
    out = classifier.outputs(inputs)
    assert rows == [len(TEXTS)] and np.ptp(probs, axis=0).max() > 0.1
    np.testing.assert_allclose(out["probs"], probs, atol=1e-6)
    np.testing.assert_allclose(out["features"], hidden, atol=1e-5)
    np.testing.assert_allclose(out["logits"], logits, atol=1e-5)


@pytest.mark.parametrize("fixture, inputs", [("classifier", TEXTS), ("chooser", QUESTIONS)])
def test_outputs_do_not_depend_on_batch_size_and_order(fixture, inputs, request):
    encoder, order = request.getfixturevalue(fixture), np.random.default_rng(1).permutation(len(inputs))
    alone = [encoder.outputs([x]) for x in inputs]
    for size in (1, 2, 64):
        encoder.batch_size = size
        together = encoder.outputs([inputs[i] for i in order])
        for name, rows in together.items():
            np.testing.assert_allclose(rows, [alone[i][name][0] for i in order], atol=1e-5, err_msg=name)
        stochastic = encoder.dropout_proba(inputs, 3, seed=1)
        moved = encoder.dropout_proba([inputs[i] for i in order], 3, seed=1)
        np.testing.assert_allclose(moved, stochastic[order], atol=1e-5)


@pytest.mark.parametrize("fixture, inputs", [("classifier", TEXTS), ("chooser", QUESTIONS)])
def test_dropout_passes_differ_follow_their_seed_and_leave_no_trace(fixture, inputs, request):
    encoder = request.getfixturevalue(fixture)
    state, inputs = torch.get_rng_state(), [*inputs, inputs[0]]
    first, again, other = (encoder.dropout_proba(inputs, 4, seed) for seed in (0, 0, 1))
    assert first.shape == (len(inputs), 4, 3) and np.abs(first - other).max() > 0.01
    np.testing.assert_allclose(again, first, atol=1e-5)
    assert np.ptp(first, axis=1).max(1).min() > 1e-3 and (first[0] == first[-1]).all()
    np.testing.assert_allclose(first.sum(-1), 1, atol=1e-6)
    assert torch.equal(torch.get_rng_state(), state) and not any(m.training for m in encoder.model.modules())
    with pytest.raises(ValueError, match="passes = 0.*at least one"):
        encoder.dropout_proba(inputs, 0)


def test_without_dropout_every_pass_is_the_plain_one():
    encoder = steep(tiny_encoder(TEXTS, 3, dropout=0))
    plain = encoder.predict_proba(TEXTS)
    np.testing.assert_allclose(encoder.dropout_proba(TEXTS, 3), np.stack([plain] * 3, 1), atol=1e-5)
    for module in encoder.model.modules():  # attention's own dropout counts as well
        if isinstance(module, transformers.models.bert.modeling_bert.BertSelfAttention):
            module.dropout.p = 0.5
    assert np.abs(encoder.dropout_proba(TEXTS, 3) - plain[:, None]).max() > 0.01


class Coin(torch.nn.Module):
    """Logit 0 is 1, or 0 or 2 where its dropout of one half is on; a batch norm that must not learn stands beside."""

    def __init__(self):
        super().__init__()
        self.dropout, self.norm = torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(1)

    def forward(self, input_ids, **_):
        one = self.norm(torch.ones(len(input_ids), 1, device=input_ids.device))
        return SimpleNamespace(logits=torch.cat([self.dropout(torch.ones_like(one)), one * 0], 1))


def test_dropout_has_its_frequency_and_is_all_that_is_on(tiny):
    coin, texts = Coin(), [" ".join(["film"] * n) for n in range(1, 41)]
    probs = EncoderClassifier(coin, tiny.tokenizer, batch_size=7).dropout_proba(texts, 50)[..., 0]
    kept = np.isclose(probs, 1 / (1 + np.exp(-2)))
    assert (kept | np.isclose(probs, 0.5)).all()
    assert binomtest(int(kept.sum()), kept.size, 0.5).pvalue > 1e-4
    # each row flips its own coins, in every batch: their counts spread as those of independent ones do
    assert chisquare(kept.sum(1), np.full(40, kept.sum() / 40)).pvalue > 1e-4 and len({*map(bytes, kept)}) == 40
    assert coin.norm.running_mean.item() == 0 and coin.norm.num_batches_tracked.item() == 0


def test_choice_equals_pairs_one_by_one(chooser):
    assert isinstance(chooser, EncoderChoice) and chooser.rows_per_input == 3
    logits, features = np.zeros((4, 3)), np.zeros((4, 3, chooser.model.config.hidden_size))
    for i, (question, *options) in enumerate(QUESTIONS):
        for j, option in enumerate(options):
            batch = chooser.tokenizer(question, option, return_tensors="pt")
            with torch.inference_mode():
                logits[i, j] = chooser.model(**batch).logits.item()
                features[i, j] = chooser.model.bert(**batch).last_hidden_state[0, 0]
    out = chooser.outputs(QUESTIONS)
    np.testing.assert_allclose(out["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(out["probs"], softmax(logits, -1), atol=1e-5)
    np.testing.assert_allclose(out["features"], features[range(4), logits.argmax(1)], atol=1e-5)
    np.testing.assert_allclose(chooser.predict_proba(QUESTIONS), out["probs"], atol=1e-6)
    assert np.ptp(logits, axis=1).min() > 0.01


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=st.permutations(range(3)))
def test_choice_is_equivariant_to_the_order_of_options(chooser, order):
    moved = chooser.predict_proba([(x[0], *(x[1 + j] for j in order)) for x in QUESTIONS])
    np.testing.assert_allclose(moved, chooser.predict_proba(QUESTIONS)[:, order], atol=1e-5)


def test_encoded_rows_of_a_choice(chooser):
    ids = chooser.encode(QUESTIONS)["input_ids"]
    text = lambda row: " ".join(chooser.tokenizer.convert_ids_to_tokens(row))
    assert len(ids) == 12 and text(ids[5]) == "[CLS] who live beside it [SEP] a film [SEP]"
    assert chooser.class_logits(torch.arange(12.0)[:, None]).tolist() == np.arange(12.0).reshape(4, 3).tolist()


@pytest.mark.parametrize("bad", ["a film", ("a film", "it", "people"), ("a film", *"abcd")], ids=len)
def test_a_choice_needs_all_its_options(chooser, classifier, bad):
    with pytest.raises(ValueError, match=re.escape(f"inputs[1] = {bad!r} is not a question with 3 options: give a")):
        chooser.predict_proba([QUESTIONS[0], bad])
    with pytest.raises(ValueError, match="2, 4 texts: a classifier reads texts or pairs.*EncoderChoice"):
        classifier.predict_proba([QUESTIONS[0], ("a film", "it")])


def test_choice_models_are_saved_recognised_and_checked(chooser, classifier, tmp_path):
    loaded = load_model(chooser.save(tmp_path / "choice"))
    assert isinstance(loaded, EncoderChoice) and loaded.rows_per_input == 3
    assert (loaded.predict_proba(QUESTIONS) == chooser.predict_proba(QUESTIONS)).all()
    fewer = load_model(tmp_path / "choice", 2, choice=True)  # the scores stay, the softmax runs over two
    np.testing.assert_allclose(fewer.outputs([QUESTIONS[0][:3]])["logits"],
                               chooser.outputs(QUESTIONS)["logits"][:1, :2], atol=1e-5)
    assert type(load_model(classifier.save(tmp_path / "plain"))) is EncoderClassifier
    with pytest.raises(ValueError, match=r"num_labels = 3.*load_model\(\.\.\., choice=True\)"):
        EncoderChoice(classifier.model, classifier.tokenizer, 3)
    with pytest.raises(ValueError, match="choices = 1.*at least two"):
        EncoderChoice(chooser.model, chooser.tokenizer, 1)


def test_a_real_encoder_becomes_a_choice_model(mirror):
    new = load_model(MINILM, n_classes=4, choice=True)
    assert new.rows_per_input == 4 and new.model.classifier.weight.shape[0] == 1
    questions = [("what is it", "a film", "the sea", "a dog", "people " * 60), ("who", "they", "we", "you", "it")]
    alone = np.concatenate([new.predict_proba([question]) for question in questions])
    np.testing.assert_allclose(new.predict_proba(questions), alone, atol=1e-5)
    with pytest.raises(ValueError, match="MiniLM-L6-v2 was not saved as a multiple-choice.*give n_classes"):
        load_model(MINILM, choice=True)


@pytest.mark.parametrize("train_layers", [0, 1, 2])
def test_frozen_layers_get_no_gradient(tmp_path, classifier, train_layers):
    encoder = load_model(classifier.save(tmp_path / "model"), train_layers=train_layers)
    batch = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    encoder.model(**batch).logits.square().sum().backward()
    trained = {name for name, weight in encoder.model.named_parameters() if weight.grad is not None}
    wanted = ("classifier", "bert.pooler", *(f"bert.encoder.layer.{i}." for i in range(2 - train_layers, 2)))
    assert trained == {name for name, _ in encoder.model.named_parameters() if name.startswith(wanted)}
    assert (encoder.predict_proba(TEXTS) == classifier.predict_proba(TEXTS)).all()


def test_more_layers_than_there_are_cannot_be_trained(mirror):
    weights = load_model(MINILM, 2, train_layers=1).model.bert.encoder.named_parameters()
    assert {name.split(".")[1] for name, weight in weights if weight.requires_grad} == {"5"}
    for bad in (7, -1):
        with pytest.raises(ValueError, match=f"train_layers = {bad}: BertForSequenceClassification has 6 transformer"):
            load_model(MINILM, 2, train_layers=bad)


def test_tiny_encoder_follows_its_seed():
    rows = [tiny_encoder(TEXTS, 3, seed=seed).predict_proba(TEXTS) for seed in (0, 0, 1)]
    assert (rows[0] == rows[1]).all() and (rows[0] != rows[2]).any() and rows[0].shape == (len(TEXTS), 3)


def test_tiny_encoder_reads_words_in_any_case_and_pairs(tiny):
    assert (tiny.predict_proba(["A Film"]) == tiny.predict_proba(["a film"])).all()
    assert tiny.predict_proba([("a film", "the sea"), ("it", "people")]).shape == (2, 3)
    unknown = tiny.encode(["a zeppelin film"])["input_ids"][0]
    assert tiny.tokenizer.convert_ids_to_tokens(unknown) == ["[CLS]", "a", "[UNK]", "film", "[SEP]"]
    pair = tiny.encode([("a", "film")])
    assert tiny.tokenizer.convert_ids_to_tokens(pair["input_ids"][0]) == ["[CLS]", "a", "[SEP]", "film", "[SEP]"]


def test_rows_of_tokens_do_not_depend_on_what_was_asked_before(tiny, monkeypatch):
    def plain(texts):
        return dict(tiny.tokenizer(texts, truncation=True, max_length=tiny.max_length))

    another = tiny_encoder(TEXTS, 3, seed=1)  # shares what is known
    assert tiny.encode(TEXTS[:3]) == plain(TEXTS[:3])
    assert another.encode(TEXTS[::-1]) == plain(TEXTS[::-1])
    assert tiny.encode([TEXTS[1], TEXTS[1]]) == plain([TEXTS[1], TEXTS[1]])
    longer = tiny_encoder([*TEXTS, "zeppelin"], 3)  # has another vocabulary
    assert longer.encode(["zeppelin"]) != tiny.encode(["zeppelin"])
    monkeypatch.setattr("sua.models.encoder.KNOWN", 3)
    assert tiny.encode(TEXTS) == plain(TEXTS) and not tiny._known


def test_long_texts_are_cut_at_the_maximum(tiny):
    assert len(tiny.encode(["film " * 500])["input_ids"][0]) == 128
    assert (tiny.predict_proba(["film " * 500]) == tiny.predict_proba(["film " * 126])).all()


def test_saved_weights_load_exactly(tiny, tmp_path):
    loaded = load_model(tiny.save(tmp_path / "model"))
    assert (loaded.predict_proba(TEXTS) == tiny.predict_proba(TEXTS)).all()
    for name, weight in tiny.model.state_dict().items():
        assert torch.equal(weight, loaded.model.state_dict()[name]), name
    assert load_model(tmp_path / "model", batch_size=5, name="mine").batch_size == 5
    assert (tmp_path / "model" / "model.safetensors").exists()


class Small(torch.nn.Module):
    """Fits `capacity` rows into its memory; logits are the sum of the ids."""

    def __init__(self, capacity, message="CUDA out of memory."):
        super().__init__()
        self.weight, self.capacity, self.message, self.sizes = torch.nn.Parameter(torch.ones(1)), capacity, message, []

    def forward(self, input_ids, attention_mask, **_):
        self.sizes.append(len(input_ids))
        if len(input_ids) > self.capacity:
            raise RuntimeError(self.message)
        total = (input_ids * attention_mask).sum(1).float()
        return SimpleNamespace(logits=torch.stack([total / 50, torch.zeros_like(total)], 1),
                               hidden_states=[input_ids[..., None] * total[:, None, None]])


def test_a_batch_that_does_not_fit_is_halved(tiny):
    texts = [" ".join(["film"] * n) for n in range(1, 41)]
    roomy, tight = Small(10**6), Small(5)
    expected = EncoderClassifier(roomy, tiny.tokenizer).predict_proba(texts)
    rows = EncoderClassifier(tight, tiny.tokenizer, batch_size=32).predict_proba(texts)
    np.testing.assert_array_equal(rows, expected)
    assert [size for size in tight.sizes if size > 5] == [32, 16, 8] and tight.sizes[3:] == [4] * 10
    outputs, passes = (getattr(EncoderClassifier(Small(5), tiny.tokenizer, 32), name) for name in
                       ("outputs", "dropout_proba"))
    np.testing.assert_array_equal(passes(texts, 2), np.stack([expected, expected], 1))
    for name, values in EncoderClassifier(roomy, tiny.tokenizer).outputs(texts).items():
        np.testing.assert_array_equal(outputs(texts)[name], values)


def test_other_failures_are_not_swallowed(tiny):
    broken, tiniest = Small(0, "shapes do not match"), Small(0)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        EncoderClassifier(broken, tiny.tokenizer).predict_proba(TEXTS)
    assert len(broken.sizes) == 1
    with pytest.raises(RuntimeError, match="batch size|out of memory"):
        EncoderClassifier(tiniest, tiny.tokenizer, batch_size=2).predict_proba(TEXTS)
    assert tiniest.sizes == [2, 1]


@pytest.mark.parametrize("bad", ["", "  \n", None, 3, ("a", ""), ("a", None)], ids=repr)
def test_an_empty_input_is_named_by_its_position(tiny, bad):
    said = rf"inputs\[2\] = {re.escape(repr(bad))} is empty or not text: remove the row"
    for model in (tiny, CallableModel(lambda batch: [[1.0]] * len(batch))):
        with pytest.raises(ValueError, match=said):
            model.predict_proba(["a", "b", bad])
        with pytest.raises(ValueError, match="inputs is empty: give at least one"):
            model.predict_proba([])


def test_callable_model_sends_equal_inputs_once_in_batches():
    calls = []

    def function(batch):
        calls.append(batch)
        return [[1 / len(text), 1 - 1 / len(text)] for text in batch]

    texts = ["aa", "bbbb", "aa", "c", "dddd", "c", "ee"]
    rows = CallableModel(function, batch_size=2).predict_proba(texts)
    np.testing.assert_allclose(rows[:, 0], [1 / len(text) for text in texts])
    assert calls == [["aa", "bbbb"], ["c", "dddd"], ["ee"]]


@pytest.mark.parametrize("returned, said", [
    ([0.5, 0.5], r"'mine' .*shape \(2,\)"),
    ([[0.5, 0.5]], r"'mine' .*shape \(1, 2\) for 2 inputs.*: return one row"),
    ([[[0.5, 0.5]] * 2] * 2, r"'mine' .*shape \(2, 2, 2\)"),
    ([[0.5, 0.5], [1.0]], "'mine'"),
    ([[0.5, 0.5], [np.nan, 1.0]], "'mine'.*nan"),
    ([[0.5, 0.5], [0.7, 0.7]], "'mine'.*1.4"),
    ([[0.5, 0.5], [-0.5, 1.5]], "'mine'.*-0.5"),
], ids=["vector", "too few", "3-d", "ragged", "nan", "not normalised", "negative"])
def test_callable_models_output_is_checked(returned, said):
    with pytest.raises(ValueError, match=said):
        CallableModel(lambda batch: returned, name="mine").predict_proba(["a", "b"])


def test_callable_models_batches_must_agree_on_the_classes():
    with pytest.raises(ValueError, match="'mine'"):
        CallableModel(lambda batch: [[1.0] + [0.0] * len(batch[0])], 1, "mine").predict_proba(["a", "bb"])


def test_a_model_that_no_place_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUA_MIRROR", str(tmp_path / "mirror"))

    def offline(source, **options):
        assert source == "lab/absent" and options["trust_remote_code"] is False and options["revision"] == "main"
        raise OSError("We couldn't connect")

    monkeypatch.setattr(transformers.AutoModelForSequenceClassification, "from_pretrained", offline)
    with pytest.raises(NotAvailableError) as error:
        load_model("lab/absent")
    for part in ("model 'lab/absent'", str(tmp_path / "mirror"), str(tmp_path / "data" / "hub"), "OSError",
                 "SUA_MIRROR", "make download"):
        assert part in str(error.value)


def test_the_hub_is_asked_for_pinned_safe_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SUA_MIRROR", raising=False)
    asked = {}

    def offline(source, **options):
        asked.update(options)
        raise OSError

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *_, **__: transformers.BertConfig())
    monkeypatch.setattr(transformers.AutoModelForSequenceClassification, "from_pretrained", offline)
    with pytest.raises(NotAvailableError):
        load_model(MINILM, n_classes=4)
    assert re.fullmatch("[0-9a-f]{40}", asked["revision"]) and asked["num_labels"] == 4
    assert asked["use_safetensors"] is True and asked["trust_remote_code"] is False and asked["dtype"] == torch.float32


def test_the_cache_gives_identical_rows_without_computing(tmp_path, monkeypatch):
    first = tiny_encoder(TEXTS, 3)
    first.cache = tmp_path / "outputs"
    asked = [*TEXTS, TEXTS[0]]
    rows = first.predict_proba(asked)
    assert (rows == tiny_encoder(TEXTS, 3).predict_proba(asked)).all()
    monkeypatch.setattr(first.model, "forward", lambda **batch: pytest.fail("computed again"))
    assert (first.predict_proba(asked) == rows).all()
    assert len(list(first.cache.iterdir())) == 1  # nothing half-written is left
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        first.predict_proba(["another film"])


def test_the_cache_keeps_each_kind_of_output_apart(tmp_path, monkeypatch):
    encoder = tiny_encoder(TEXTS, 3)
    ask = lambda: [encoder.predict_proba(TEXTS), *encoder.outputs(TEXTS).values(), encoder.dropout_proba(TEXTS, 2),
                   encoder.dropout_proba(TEXTS, 2, seed=1), encoder.dropout_proba(TEXTS, 3)]
    fresh = ask()
    encoder.cache = tmp_path
    ask()
    monkeypatch.setattr(encoder.model, "forward", lambda **batch: pytest.fail("computed again"))
    for kept, computed in zip(ask(), fresh, strict=True):
        assert kept.dtype == computed.dtype
        np.testing.assert_allclose(kept, computed, atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 5


def damages(content):
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    foreign = io.BytesIO()
    np.savez(foreign, other=[1.0])
    return b"", content[:-20], content[:len(content) // 2], bytes(flipped), b"some text", foreign.getvalue()


def test_a_damaged_cache_is_computed_anew(tmp_path):
    encoder = tiny_encoder(TEXTS, 3)
    encoder.cache = tmp_path
    rows = encoder.predict_proba(TEXTS)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in damages(whole):
        file.write_bytes(damaged)
        assert (encoder.predict_proba(TEXTS) == rows).all()
        assert file.read_bytes() == whole


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_has_at_least_one_input(tiny, size):
    for build in (lambda: with_batch_size(tiny, size), lambda: CallableModel(lambda batch: batch, batch_size=size)):
        with pytest.raises(ValueError, match=f"batch_size = {size}: give at least 1"):
            build()


OWN_CODE = """
from pathlib import Path
Path(__file__).with_name("it-ran").touch()
import transformers
class Config(transformers.BertConfig): model_type = "own"
class Model(transformers.BertForSequenceClassification): config_class = Config
class Tokenizer(transformers.BertTokenizer): pass
"""


def saved_with_code(tiny, folder, architecture):
    """A saved model whose files name code in its folder; with `architecture`, one that only this code has."""
    tiny.save(folder)
    (folder / "own.py").write_text(OWN_CODE)
    config, special = (json.loads((folder / name).read_text()) for name in ("config.json", "tokenizer_config.json"))
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Model"}
    if architecture:
        config |= {"model_type": "own", "architectures": ["Model"]}
    special |= {"auto_map": {"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


@pytest.mark.parametrize("architecture", [True, False])
def test_code_in_a_models_folder_never_runs(tiny, tmp_path, monkeypatch, architecture):
    folder = saved_with_code(tiny, tmp_path / "model", architecture)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))  # to the question whether the code may run
    if architecture:
        with pytest.raises(ValueError, match="model needs code that comes with it, and such code never runs"):
            load_model(folder)
    else:
        assert (load_model(folder).predict_proba(TEXTS) == tiny.predict_proba(TEXTS)).all()
    assert sys.stdin.read() == "y\n" * 9 and not list(tmp_path.rglob("it-ran"))


@pytest.mark.parametrize("kind", ["bert", "t5", "llama"])
def test_a_model_without_tokenizer_files_is_refused(tiny, tmp_path, kind):
    if kind == "bert":
        tiny.save(tmp_path)
        assert (load_model(tmp_path).predict_proba(TEXTS) == tiny.predict_proba(TEXTS)).all()
        for file in tmp_path.glob("tokenizer*"):
            file.unlink()
    else:
        small = {"vocab_size": 99, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                 "intermediate_size": 8, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2,
                 "pad_token_id": 0, "eos_token_id": 1}
        config = transformers.AutoConfig.for_model(kind, **small)
        transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} has no tokenizer files, so that every word would be unknown"):
        load_model(tmp_path)


def test_a_revision_that_is_not_pinned_is_said_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SUA_MIRROR", raising=False)
    monkeypatch.setenv("SUA_STAGE_DIR", str(tmp_path))
    asked = []

    def offline(source, **options):
        asked.append(options["revision"])
        raise OSError

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    with pytest.warns(UserWarning, match="'lab/unpinned' .*no pinned revision: the hub's main of today") as said:
        for source in ("lab/unpinned", "lab/unpinned", MINILM):
            with pytest.raises(NotAvailableError):
                load_model(source)
    assert len(said) == 1 and asked[:2] == ["main", "main"] and len(asked[2]) == 40
    assert len((tmp_path / ".notes").read_text().splitlines()) == 1


@cache
def average_word_vectors(folder):
    """The forward pass that the model's own description gives."""
    weights, vocabulary = dict(np.load(folder / "weights.npz")), json.loads((folder / "vocab.json").read_text())

    def probabilities(text):
        ids = [1] + [vocabulary.get(word, 2) for word in re.split(r"[^\w']+", text.lower()) if word]
        ids = (ids + [0] * 256)[:256]
        hidden = weights["dense_w"] @ weights["embedding"][ids].mean(0) + weights["dense_b"]
        logits = weights["out_w"] @ np.maximum(hidden, 0) + weights["out_b"]
        exp = np.exp(logits - logits.max())
        return exp / exp.sum()

    return CallableModel(lambda batch: [probabilities(text) for text in batch], name="avgwordvec-sst2")


def test_a_real_pretrained_model_end_to_end(mirror):
    model = average_word_vectors(mirror / "models" / "local" / "avgwordvec-sst2")
    task = load_task("sst2", {"train": 1, "validation": 1, "calibration": 400, "test": 1821})
    kernel = task.perturbation("typos")
    p = predict(model, task["test"], kernel, k=3)
    assert metrics.accuracy(p) == pytest.approx(0.825, abs=0.0005)  # its description says 82.5 % and .74, .64
    auroc = {name: metrics.auroc(p.is_error, score(p, name)) for name in ("entropy", "msp", "margin", "disagreement")}
    assert auroc["entropy"] == pytest.approx(0.74, abs=0.01)
    assert auroc["msp"] == pytest.approx(auroc["entropy"], abs=1e-3)  # both fall with max p where C = 2
    assert auroc["disagreement"] > 0.52
    assert metrics.robust_accuracy(p) < metrics.accuracy(p)
    calibration = predict(model, task["calibration"], kernel, k=3)
    signed = metrics.auroc(p.is_error, score(p, "sua_signed", calibration=calibration))
    assert signed > auroc["disagreement"]
    assert 0 < metrics.aurc(p.is_error, score(p, "entropy")) < p.is_error.mean()
    assert metrics.selective_accuracy(p.is_error, score(p, "entropy")) > metrics.accuracy(p)
