"""Models: probabilities depend on their input alone; empty input, memory, missing weights; real ones end to end."""

import json
import re
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sua import CallableModel, EncoderClassifier, load_model, load_task, metrics, predict, score
from sua.models import Model, encode, tiny_encoder
from sua.paths import NotAvailableError

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
        batched = with_batch_size(encoder, size).predict_proba([texts[i] for i in order])
        np.testing.assert_allclose(batched, alone[order], rtol=0, atol=1e-5)


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


def test_tiny_encoder_follows_its_seed():
    rows = [tiny_encoder(TEXTS, 3, seed=seed).predict_proba(TEXTS) for seed in (0, 0, 1)]
    assert (rows[0] == rows[1]).all() and (rows[0] != rows[2]).any() and rows[0].shape == (len(TEXTS), 3)


def test_tiny_encoder_reads_words_in_any_case_and_pairs(tiny):
    assert (tiny.predict_proba(["A Film"]) == tiny.predict_proba(["a film"])).all()
    assert tiny.predict_proba([("a film", "the sea"), ("it", "people")]).shape == (2, 3)
    unknown = encode(tiny.tokenizer, ["a zeppelin film"], 128)["input_ids"][0]
    assert tiny.tokenizer.convert_ids_to_tokens(unknown) == ["[CLS]", "a", "[UNK]", "film", "[SEP]"]
    pair = encode(tiny.tokenizer, [("a", "film")], 128)
    assert tiny.tokenizer.convert_ids_to_tokens(pair["input_ids"][0]) == ["[CLS]", "a", "[SEP]", "film", "[SEP]"]


def test_long_texts_are_cut_at_the_maximum(tiny):
    assert len(encode(tiny.tokenizer, ["film " * 500], 128)["input_ids"][0]) == 128
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
        return SimpleNamespace(logits=torch.stack([total / 50, torch.zeros_like(total)], 1))


def test_a_batch_that_does_not_fit_is_halved(tiny):
    texts = [" ".join(["film"] * n) for n in range(1, 41)]
    roomy, tight = Small(10**6), Small(5)
    expected = EncoderClassifier(roomy, tiny.tokenizer).predict_proba(texts)
    rows = EncoderClassifier(tight, tiny.tokenizer, batch_size=32).predict_proba(texts)
    np.testing.assert_array_equal(rows, expected)
    assert [size for size in tight.sizes if size > 5] == [32, 16, 8] and tight.sizes[3:] == [4] * 10


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
