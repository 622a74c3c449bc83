"""Predictions: what is refused and how it is said, what is kept exactly, and the orbits that predict() asks for."""

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from scipy.stats import binom, chisquare

from sua import (CallableModel, Predictions, error_floor, load_task, numerical_floor, predict, predictions, score,
                 storage)
from sua.generation import Generations
from sua.inputs import as_inputs
from sua.models.tiny import tiny_encoder
from sua.perturb import KERNELS, OPTION_ORDER, Perturbation, given, instructions, on_first, variants

P = [[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]
OLD = ("probs", "perturbed", "labels", "label_dist", "clarified", "weights", "samples", "n_classes", "ids")  # schema 1
FIELDS = (*OLD, "logits", "features", "dropout", "members")


def dirichlet(rng, *shape):
    """Distributions over the last axis of `shape`."""
    return rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])


def full(seed=0, n=7, k=3, c=4, z=2):
    """Predictions with every optional field."""
    rng = np.random.default_rng(seed)
    options = rng.integers(2, c + 1, n)
    present = np.arange(c) < options[:, None]
    within = lambda p: (masked := p * (present[:, None] if p.ndim == 3 else present)) / masked.sum(-1, keepdims=True)
    return Predictions(
        probs=within(dirichlet(rng, n, c)), perturbed=within(dirichlet(rng, n, k, c)),
        labels=rng.integers(0, options), label_dist=within(dirichlet(rng, n, c)),
        clarified=within(dirichlet(rng, n, z, c)), weights=dirichlet(rng, n, z), samples=rng.integers(0, 2, (n, 5)),
        logits=rng.normal(size=(n, c)), features=rng.normal(size=(n, 6)), dropout=within(dirichlet(rng, n, 5, c)),
        members=within(dirichlet(rng, n, z, c)),
        n_classes=options, ids=[f"row {i}" for i in range(n)], meta={"task": "toy", "seed": seed, "nested": {"a": [1]}})


@pytest.mark.parametrize("given, said", [
    (dict(probs=[[0.5, 0.5], [0.5, 0.4]]), ["probs[1] sums to 0.9", "softmax", "renormalise"]),
    (dict(probs=[[0.5, 0.5], [np.nan, 1.0]]), ["probs[1, 0] = nan", "not a finite", "logits"]),
    (dict(probs=[[0.5, 0.5], [np.inf, 0.0]]), ["probs[1, 0] = inf", "not a finite"]),
    (dict(probs=[[0.5, 0.5], [1.25, -0.25]]), ["probs[1, 1] = -0.25", "negative", "give probabilities, not logits"]),
    (dict(probs=[0.5, 0.5]), ["probs has shape (2,)", "2 dimensions"]),
    (dict(probs=np.zeros((0, 2))), ["probs has shape (0, 2)", "empty"]),
    (dict(probs=[[0.5, 0.5], [1.0]]), ["probs", "rectangular", "pad absent options with 0", "n_classes"]),
    (dict(probs=[["a", "b"]]), ["probs", "'a'"]),
    (dict(probs=np.array(P, complex)), ["probs", "complex values", "rectangular array of numbers"]),
    (dict(probs=P, logits=[[1j, 0.5]] * 3), ["logits", "complex values"]),
    (dict(probs=P, perturbed=np.zeros((3, 0, 2))), ["perturbed has shape (3, 0, 2)", "K = 0", "draw at least one"]),
    (dict(probs=P, perturbed=P), ["perturbed has shape (3, 2)", "3 dimensions"]),
    (dict(probs=P, perturbed=[[p] for p in P[:2]]), ["perturbed has 2 rows", "probs has 3", "one entry per input"]),
    (dict(probs=P, perturbed=np.full((3, 1, 4), 0.25)), ["perturbed has 4 classes", "probs has 2", "label order"]),
    (dict(probs=P, perturbed=[[p, [0.5, 0.5]] for p in P[:2]] + [[[0.5, 0.5], [0.9, 0.2]]]),
     ["perturbed[2, 1] sums to 1.1"]),
    (dict(probs=P, perturbed=[[P[0]], [P[1]], [P[0], P[1]]]), ["perturbed", "rectangular"]),
    (dict(probs=P, labels=[0, 2, 1]), ["labels[1] = 2", "outside 0..1", "start at 0"]),
    (dict(probs=P, labels=[0, 1, -1]), ["labels[2] = -1", "outside 0..1"]),
    (dict(probs=P, labels=[0.0, 1.0, 0.0]), ["labels has dtype float64", "integer class indices"]),
    (dict(probs=P, labels=[True, False, True]), ["labels has dtype bool", "integer class indices"]),
    (dict(probs=P, labels=[0, 1]), ["labels has shape (2,)", "N = 3"]),
    (dict(probs=P, labels=[[0], [1], [0]]), ["labels has shape (3, 1)", "(N,)"]),
    (dict(probs=P, samples=[0, 1, 0]), ["samples has shape (3,)", "(N, M)"]),
    (dict(probs=P, samples=[[0], [1], [5]]), ["samples[2, 0] = 5", "outside 0..1"]),
    (dict(probs=P, samples=[[0, 1], [1], [1, 1]]), ["samples"]),
    (dict(probs=P, samples=np.zeros((3, 0), int)), ["samples has shape (3, 0)"]),
    (dict(probs=P, label_dist=[[0.5, 0.5]] * 2), ["label_dist has 2 rows"]),
    (dict(probs=P, label_dist=[[1.0, 0.0], [0.6, 0.6], [1.0, 0.0]]), ["label_dist[1] sums to 1.2"]),
    (dict(probs=P, weights=[[1.0]] * 3), ["weights needs clarified"]),
    (dict(probs=P, weights=[[0.5, 0.5]] * 3, clarified=[[p] for p in P]), ["weights needs clarified", "same number Z"]),
    (dict(probs=P, n_classes=[2, 3, 1]), ["n_classes[1] = 3", "outside 1..2"]),
    (dict(probs=P, n_classes=[2, 1, 1]), ["probs[1, 1] = 0.75", "n_classes[1] = 1", "absent options", "probability 0"]),
    (dict(probs=P, n_classes=[2, 2, 1], perturbed=[[p] for p in P[:2]] + [[[0.5, 0.5]]]),
     ["perturbed[2, 0, 1] = 0.5", "n_classes[2] = 1"]),
    (dict(probs=P, n_classes=[2, 2, 1], label_dist=[*P[:2], [0.5, 0.5]]),
     ["label_dist[2, 1] = 0.5", "n_classes[2] = 1"]),
    (dict(probs=P, n_classes=[2, 2, 1], labels=[0, 1, 1]), ["labels[2] = 1"]),
    (dict(probs=P, logits=np.zeros((3, 4))), ["logits has 4 classes", "probs has 2", "label order"]),
    (dict(probs=P, logits=np.zeros((2, 2))), ["logits has 2 rows", "one entry per input"]),
    (dict(probs=P, logits=[[0, 1], [0, -np.inf], [1, 0]]), ["logits[1, 1] = -inf", "not a finite"]),
    (dict(probs=P, features=[0.5] * 3), ["features has shape (3,)", "2 dimensions"]),
    (dict(probs=P, features=[[-1.0], [2.0], [np.nan]]), ["features[2, 0] = nan", "not a finite"]),
    (dict(probs=P, dropout=np.zeros((3, 0, 2))), ["dropout has shape (3, 0, 2)", "empty"]),
    (dict(probs=P, dropout=[[p] for p in P[:2]]), ["dropout has 2 rows"]),
    (dict(probs=P, dropout=[[P[0]], [[0.5, 0.6]], [P[0]]]), ["dropout[1, 0] sums to 1.1"]),
    (dict(probs=P, members=np.full((3, 2, 4), 0.25)), ["members has 4 classes"]),
    (dict(probs=P, members=[[p, [1.5, -0.5]] for p in P]), ["members[0, 1, 1] = -0.5", "negative"]),
    (dict(probs=P, n_classes=[2, 2, 1], dropout=[[p] for p in P[:2]] + [[[0.5, 0.5]]]),
     ["dropout[2, 0, 1] = 0.5", "n_classes[2] = 1"]),
    (dict(probs=P, n_classes=[2, 2, 1], members=[[p] for p in P[:2]] + [[[0.5, 0.5]]]),
     ["members[2, 0, 1] = 0.5", "n_classes[2] = 1"]),
    (dict(probs=P, ids=["a", "b"]), ["ids has shape (2,)", "one id per input"]),
    (dict(probs=P, ids=["a", "b\0", "c"]), ["ids[1] = 'b\\x00'", "NUL", "remove or replace"]),
    (dict(probs=P, ids=["a", "b", "c\ud800"]), ["ids[2] = 'c\\ud800'", "surrogate", "remove or replace"]),
    (dict(probs=P, ids=["a", None, "c"]), ["ids[1] = None", "give a string"]),
    (dict(probs=[[1.0], [1.0]]), ["one class only", "p and 1 - p"]),
    (dict(probs=P, meta={"a": 1, "when": {1, 2}}), ["meta['when']", "JSON", "give numbers, texts"]),
    (dict(probs=P, meta={"a": [np.float32(1)]}), ["meta['a']", "JSON", "float(x)"]),
    (dict(probs=P, meta={3: 1}), ["meta has the key 3", "give strings"]),
    (dict(probs=P, meta=["a"]), ["meta = ['a']", "give a dict"]),
], ids=lambda value: value[0][:44] if isinstance(value, list) else "")
def test_bad_input_is_named_with_its_remedy(given, said):
    with pytest.raises(ValueError) as error:
        Predictions(**given)
    for part in said:
        assert part in str(error.value)


def test_sums_within_tolerance_are_renormalised_and_exact_sums_left_alone():
    p = Predictions(probs=[[0.50004, 0.5], [0.1, 0.9]], perturbed=[[[0.3, 0.70005]], [[0.25, 0.75]]])
    np.testing.assert_allclose(p.probs[0], [0.50004 / 1.00004, 0.5 / 1.00004], rtol=1e-15)
    np.testing.assert_allclose(p.perturbed[0, 0], [0.3 / 1.00005, 0.70005 / 1.00005], rtol=1e-15)
    assert p.probs[1].tolist() == [0.1, 0.9] and p.probs.dtype == np.float64
    with pytest.raises(ValueError, match="sums to"):
        Predictions(probs=[[0.5002, 0.5]])


def test_half_precision_softmax_is_accepted():
    logits = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float16)
    half = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True, dtype=np.float16)
    near = half[np.abs(half.astype(float).sum(-1) - 1) < predictions.SUM_TOLERANCE]
    assert len(near) > 20
    np.testing.assert_allclose(Predictions(probs=near).probs.sum(-1), 1, rtol=0, atol=1e-15)


def test_construction_copies_what_it_is_given():
    given = np.array(P)
    predictions = Predictions(probs=given)
    given[:] = 0
    assert predictions.probs.tolist() == P


def test_derived_quantities_by_hand():
    p = Predictions(probs=[[0.4, 0.4, 0.2], [0.1, 0.2, 0.7]], labels=[0, 0],
                    perturbed=[[[0.1, 0.8, 0.1], [0.6, 0.2, 0.2]], [[0, 0.5, 0.5], [0, 0, 1]]])
    assert p.answers.tolist() == [0, 2] and p.is_error.tolist() == [False, True]
    assert p.perturbed_answers.tolist() == [[1, 0], [1, 2]]
    assert p.orbit.shape == (2, 3, 3) and p.orbit[1, 0].tolist() == p.probs[1].tolist()
    assert p.ids.tolist() == ["0", "1"] and len(p) == 2
    with pytest.raises(ValueError, match="hold no `samples`.*Predictions.*samples=.*sua.predict"):
        p.require("samples")


@pytest.mark.parametrize("seed", range(3))
def test_save_and_load_keep_every_bit(tmp_path, seed):
    before = full(seed)
    after = Predictions.load(before.save(tmp_path / "deep" / "p.parquet"))
    for name in FIELDS:
        ours, theirs = getattr(before, name), getattr(after, name)
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes(), name
    assert after.meta == before.meta
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["p.parquet"]


def test_files_of_schema_1_are_read(tmp_path):
    header = {"schema": 1, "meta": {"task": "old"}, "shapes": {"probs": [3, 2], "perturbed": [3, 1, 2], "ids": [3]}}
    table = pa.table({"probs": P, "perturbed": P[::-1], "ids": ["a", "b", "c"]})
    pq.write_table(table.replace_schema_metadata({"sua": json.dumps(header)}), tmp_path / "old.parquet")
    read = Predictions.load(tmp_path / "old.parquet")
    assert read.probs.tolist() == P and read.perturbed.tolist() == [[p] for p in P[::-1]] and read.dropout is None
    assert read.ids.tolist() == ["a", "b", "c"] and read.meta == {"task": "old"}
    assert json.loads(pq.read_schema(read.save(tmp_path / "new.parquet")).metadata[b"sua"])["schema"] == 3


def test_absent_fields_stay_absent(tmp_path):
    after = Predictions.load(Predictions(probs=P).save(tmp_path / "p.parquet"))
    assert [name for name in FIELDS if getattr(after, name) is not None] == ["probs", "ids"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = full().save(tmp_path / "p.parquet")
    before = path.read_bytes()

    def fail(table, where, **_):
        where.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        full(1).save(path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["p.parquet"]


def test_load_refuses_foreign_and_newer_files(tmp_path, monkeypatch):
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"probs": [0.5]}), foreign)
    with pytest.raises(ValueError, match="foreign.parquet was not written by Predictions.save"):
        Predictions.load(foreign)
    newer = storage.SCHEMA_VERSION + 1
    with monkeypatch.context() as patch:
        patch.setattr(storage, "SCHEMA_VERSION", newer)
        path = full().save(tmp_path / "newer.parquet")
    with pytest.raises(ValueError, match=f"schema {newer}.*update sua"):
        Predictions.load(path)


def same(ours, theirs):
    return ours.meta == theirs.meta and all(
        getattr(ours, name).tobytes() == getattr(theirs, name).tobytes() for name in FIELDS)


def test_no_flipped_bit_loads_as_another_content(tmp_path):
    before, path = full(), tmp_path / "p.parquet"
    whole, rng, refused = before.save(path).read_bytes(), np.random.default_rng(0), 0
    for place in rng.integers(8 * len(whole), size=300):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            assert same(Predictions.load(path), before), place  # the bit is one that says nothing
        except ValueError as error:
            assert type(error) is ValueError and str(path) in str(error)
            refused += 1
    assert refused > 150


def npz():
    file = io.BytesIO()
    np.savez(file, probs=P)
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"PAR1", b"some text\n", bytes(range(256)) * 40, npz()],
                         ids=["empty", "magic", "text", "bytes", "npz"])
def test_foreign_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "foreign.parquet"
    path.write_bytes(content)
    for kind in (Predictions, Generations):
        with pytest.raises(ValueError, match="foreign.parquet is damaged, cut or no file of Predictions.save") as error:
            kind.load(path)
        assert type(error.value) is ValueError
    with pytest.raises(FileNotFoundError):
        Predictions.load(tmp_path / "absent.parquet")


def test_a_file_that_was_cut_anywhere_is_refused(tmp_path):
    path = full().save(tmp_path / "p.parquet")
    whole = path.read_bytes()
    for length in np.linspace(1, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="p.parquet is damaged, cut") as error:
            Predictions.load(path)
        assert type(error.value) is ValueError


@pytest.mark.parametrize("header", ["null", "[]", "{}", "[" * 100_000, "\xff", '{"schema": "x"}',
                                    '{"schema": 2, "meta": {}, "shapes": 3}',
                                    '{"schema": 2, "meta": {}, "shapes": {"probs": [7, 7]}}',
                                    '{"schema": 2, "meta": {}, "shapes": {"labels": [3]}}',
                                    '{"schema": 3, "meta": {}, "shapes": {"probs": [3, 2]}}'],
                         ids=["null", "list", "empty", "deep", "bytes", "schema", "shapes", "shape", "field", "digest"])
def test_headers_that_save_did_not_write_are_refused(tmp_path, header):
    table, path = pa.table({"probs": P}), tmp_path / "p.parquet"
    pq.write_table(table.replace_schema_metadata({"sua": header.encode("latin-1")}), path)
    with pytest.raises(ValueError, match="p.parquet is damaged") as error:
        Predictions.load(path)
    assert type(error.value) is ValueError


def test_generations_are_no_predictions(tmp_path):
    answered = Generations(["q"], ["a"], [[-1.0]], [[0.5]])
    path = answered.save(tmp_path / "g.parquet")
    assert Generations.load(path).answers.tolist() == ["a"]
    with pytest.raises(ValueError, match="g.parquet holds no Predictions, but .*questions.*Generations.load"):
        Predictions.load(path)


@pytest.mark.parametrize("index", [[2, 0, 2], slice(1, None, 2), np.arange(7) % 3 == 0], ids=["list", "slice", "mask"])
def test_subset_takes_the_rows_of_every_field(index):
    whole, part = full(), full().subset(index)
    rows = np.arange(7)[index]
    for name in FIELDS:
        assert getattr(part, name).tolist() == [getattr(whole, name)[i].tolist() for i in rows], name
    assert part.meta == whole.meta


def test_sampled_answers_have_the_frequencies_of_p():
    p = np.array([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9], [1 / 3, 1 / 3, 1 / 3]])
    m = 20_000
    counts = (Predictions(probs=p).sample(m, seed=3).samples[:, :, None] == np.arange(3)).sum(1)
    assert min(chisquare(counts[i], m * p[i]).pvalue for i in range(3)) > 1e-4
    assert (np.abs(counts - m * p) <= binom.isf(1e-6, m, p) - m * p).all()


def test_sampling_never_draws_an_impossible_answer_and_follows_its_seed():
    p = Predictions(probs=[[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    drawn = p.sample(5000, seed=1)
    assert (drawn.samples[0] == 1).all() and set(drawn.samples[1].tolist()) == {0, 2}
    assert drawn.samples.tolist() == p.sample(5000, seed=1).samples.tolist() != p.sample(5000, seed=2).samples.tolist()
    for m in (0, 1.5, None, "2"):
        with pytest.raises(ValueError, match=f"m = {m!r}: .*at least one"):
            p.sample(m)


def test_members_are_the_probabilities_of_the_others_in_their_order():
    rng = np.random.default_rng(0)
    ours, first, second = (Predictions(probs=dirichlet(rng, 5, 3), ids=list("abcde")) for _ in range(3))
    together = ours.with_members([first, second])
    assert (together.members == np.stack([first.probs, second.probs], 1)).all() and (together.probs == ours.probs).all()
    for others, said in (([], "others is empty: an ensemble needs at least one"),
                         ([first, second.subset([1, 0, 2, 3, 4])], r"others\[1\] has other ids: predict the same rows"),
                         ([first.subset([0, 1])], r"others\[0\] has other ids"),
                         ([Predictions(probs=dirichlet(rng, 5, 2), ids=list("abcde"))], "2 classes, these have 3")):
        with pytest.raises(ValueError, match=said):
            ours.with_members(others)


def marker(n_classes):
    """A model whose probabilities say exactly which text it was given."""
    row = lambda text: np.eye(n_classes)[len(str(text)) % n_classes] * 0.5 + 0.5 / n_classes
    return CallableModel(lambda batch: np.array([row(text) for text in batch]), name="marker")


SUFFIX = Perturbation.of_text("suffix", lambda text, rng: text + "x" * int(rng.integers(1, 9)))


def test_predict_puts_every_variant_in_its_place():
    texts = ["a", "bbb", "cc", "a"]
    model, k, seed = marker(7), 4, 11
    result = predict(model, texts, SUFFIX, k, labels=[0, 1, 2, 3], seed=seed, meta={"split": "test"})
    drawn = variants(texts, SUFFIX, k, seed)
    np.testing.assert_array_equal(result.probs, model.predict_proba(texts))
    for i, row in enumerate(drawn):
        np.testing.assert_array_equal(result.perturbed[i], model.predict_proba(row))
    assert result.labels.tolist() == [0, 1, 2, 3]
    distinct = sum(len({*row}) for row in drawn)
    assert result.meta == {"model": "marker", "seed": seed, "perturbation": "suffix", "k": k, "split": "test",
                           "copies": 0, "repeats": 4 * k - distinct}
    assert (result.perturbed[0] == result.perturbed[3]).all()
    again = predict(model, texts, SUFFIX, k, seed=seed)
    assert (again.perturbed == result.perturbed).all()
    assert (predict(model, texts, SUFFIX, k, seed=seed + 1).perturbed != result.perturbed).any()


def test_predict_without_perturbation_with_pairs_and_with_samples():
    result = predict(marker(3), [("a", "b"), ("c", "dd")], samples=6)
    assert result.perturbed is None and result.samples.shape == (2, 6) and "k" not in result.meta
    with pytest.raises(ValueError, match="K = 0"):
        predict(marker(3), ["a"], SUFFIX, k=0)


def test_predict_takes_labels_distributions_and_ids_from_a_split():
    task = load_task("topic", {"train": 5, "validation": 5, "calibration": 5, "test": 30})
    model = CallableModel(task.p_star, name="exact")
    result = predict(model, task["test"], task.perturbation(["synonyms", "wording"]), k=3)
    assert result.labels.tolist() == list(task["test"]["label"])
    assert result.ids.tolist() == list(task["test"]["id"])
    np.testing.assert_allclose(result.label_dist, task["test"]["label_dist"], atol=1e-15)
    np.testing.assert_allclose(result.probs, result.label_dist, atol=1e-15)
    np.testing.assert_allclose(result.perturbed, np.repeat(result.label_dist[:, None], 3, 1), atol=1e-15)


def spelled_out(pairs, z=2):
    """A split of three inputs with z clarifications each."""
    columns = {"id": ["i", "j", "k"], "text": ["a", "bb", "ccc"], "label": [0, 1, 2],
               "clarified": [[text + "!" * (1 + i) for i in range(z)] for text in ("a", "bb", "ccc")],
               "weights": [[1 / z] * z, [1.0] + [0.0] * (z - 1), [1 / z] * z]}
    if pairs:
        columns |= {"text_pair": list("xyz"), "clarified_pair": [[x + "?" * i for i in range(z)] for x in "xyz"]}
    return Dataset.from_dict(columns)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("k", [None, 3])
def test_predict_asks_for_clarifications_in_the_same_pass(pairs, k):
    split, model, asked = spelled_out(pairs), marker(7), []
    counted = CallableModel(lambda batch: asked.extend(batch) or model.predict_proba(batch), batch_size=1000)
    result = predict(counted, split, SUFFIX if k else None, k or 8, seed=3)
    inputs = list(zip(split["text"], split["text_pair"])) if pairs else list(split["text"])
    for i, row in enumerate(split["clarified"]):
        spelled = list(zip(row, split["clarified_pair"][i])) if pairs else list(row)
        np.testing.assert_array_equal(result.clarified[i], model.predict_proba(spelled))
    np.testing.assert_array_equal(result.probs, model.predict_proba(inputs))
    assert result.weights.tolist() == list(split["weights"]) and (result.perturbed is None) == (k is None)
    assert k is None or (result.perturbed == predict(model, inputs, SUFFIX, k, seed=3).perturbed).all()
    assert len(asked) == len(set(asked))  # x itself was asked once


def test_predict_refuses_clarifications_of_varying_number():
    split = spelled_out(False).to_dict() | {"clarified": [["a", "b"], ["c"], ["d", "e"]]}
    with pytest.raises(ValueError, match="row 1 has 1 clarifications, row 0 has 2: give every row the same number"):
        predict(marker(7), Dataset.from_dict(split))


def test_predict_keeps_internals_and_dropout_of_a_model_that_has_them():
    encoder, split = tiny_encoder(["a bb ccc a! bb! ccc! a!! bb!! ccc!!"], 3), spelled_out(False)
    plain, result = (predict(encoder, split, SUFFIX, 2, seed=5, **more) for more in
                     ({}, {"internals": True, "dropout": 4}))
    out = encoder.outputs(list(split["text"]))
    np.testing.assert_allclose(result.logits, out["logits"], atol=1e-6)
    np.testing.assert_allclose(result.features, out["features"], atol=1e-5)
    np.testing.assert_allclose(result.dropout, encoder.dropout_proba(list(split["text"]), 4, seed=5), atol=1e-6)
    for name in ("probs", "perturbed", "clarified"):
        np.testing.assert_allclose(getattr(result, name), getattr(plain, name), atol=1e-6)
    assert plain.logits is plain.features is plain.dropout is None and result.features.dtype == np.float64


def test_predict_without_internals_to_keep():
    result = predict(marker(3), ["a", "bb"], internals=True)
    assert result.logits is None and result.features is None
    with pytest.raises(ValueError, match="dropout = 2, but CallableModel has no dropout_proba.*set dropout=0"):
        predict(marker(3), ["a"], dropout=2)


def test_predict_orders_variants_of_a_choice_with_internals():
    questions = [("a bb", "ccc", "a"), ("bb", "a", "ccc ccc")]
    encoder = tiny_encoder(questions, 2, choice=True)
    swap = Perturbation("other question", lambda x, rng: (f"{x[0]} bb", *x[1:]))
    result = predict(encoder, questions, swap, 2, internals=True)
    np.testing.assert_allclose(result.probs, encoder.predict_proba(questions), atol=1e-6)
    swapped = encoder.predict_proba([swap.rewrite(x, None) for x in questions])
    np.testing.assert_allclose(result.perturbed, swapped[:, None].repeat(2, 1), atol=1e-6)
    assert result.logits.shape == (2, 2) and result.features.shape == (2, encoder.model.config.hidden_size)


HALVES = CallableModel(lambda inputs: np.full((len(inputs), 2), 0.5))


@pytest.mark.parametrize("model, data, perturbation, told", [
    (HALVES, "a good film", None, r"inputs is one str: give a list of texts"),
    (HALVES, {"text": ["a", "b"]}, None, r"inputs is one dict: give a list of texts"),
    (HALVES, pd.DataFrame({"text": ["a", "b"]}), None, r"inputs is one DataFrame.*frame\['text'\]"),
    (HALVES, ["a", " "], "kernel", r"inputs\[1\] = ' ' is empty or not text"),
    (HALVES, ["a", float("nan")], "kernel", r"inputs\[1\] = nan is empty or not text"),
    (HALVES, [{"question": "a", "id": 3}], None, r"inputs\[0\] has the keys \['id', 'question'\]: give"),
    (HALVES, None, None, "inputs is one NoneType: give a list"),
    (HALVES, [None], "kernel", r"inputs\[0\] = None is empty or not text"),
    (HALVES, [()], None, r"inputs\[0\] = \(\) is empty or not text"),
    (HALVES, [[]], "kernel", r"inputs\[0\] = \(\) is empty or not text"),
    (HALVES, [("a", 3)], "kernel", r"inputs\[0\] = \('a', 3\) is empty or not text"),
    (HALVES, [], None, "inputs is empty"),
    (HALVES, [{"question": "a", "choices": "Paris"}], None, r"inputs\[0\]\['choices'\] = 'Paris': give a list"),
    (HALVES, [{"question": "a", "choices": {"A": "Paris", "B": "Rome"}}], None, "'choices'.*'Rome'.*: give a list"),
    (HALVES, [{"question": "a", "choices": ["Paris"]}], None, "'choices'.*at least two"),
    (HALVES, [{"question": "a", 3: 4}], None, r"has the keys \['3', 'question'\]"),
    (HALVES, Dataset.from_dict({"sentence": ["a"]}), None, "no column 'text', only sentence: rename"),
    (HALVES, DatasetDict({"test": Dataset.from_dict({"text": ["a"]})}), None, "one DatasetDict: .* or one split"),
    (HALVES, ["a", ("a", "b", "c", "d")], None, r"inputs\[1\] is a question with 3 options.*knows 2 classes"),
    (HALVES, ["a"], "typos", r"perturbation = 'typos' is no kernel: give one"),
    (lambda inputs: [[0.5, 0.5]], ["a"], None, r"no predict_proba\(inputs\): wrap a function as sua.CallableModel"),
])
def test_predict_names_what_it_cannot_read(model, data, perturbation, told):
    kernel = KERNELS["typos"] if perturbation == "kernel" else perturbation
    with pytest.raises(ValueError, match=told):
        predict(model, data, kernel, k=2)


def test_a_question_may_be_a_dict():
    model = CallableModel(lambda inputs: np.array([[0.7, 0.3, 0.0] if len(x) == 3 else [0.2, 0.3, 0.5]
                                                   for x in inputs]))
    given = [{"question": "q", "choices": ["a", "b"], "id": 7}, {"question": "r", "choices": ["a", "b", "c"]}]
    p = predict(model, given, OPTION_ORDER, k=2)
    same = predict(model, [("q", "a", "b"), ("r", "a", "b", "c")], OPTION_ORDER, k=2)
    assert p.n_classes.tolist() == [2, 3] and (p.perturbed == same.perturbed).all()


def test_a_whole_task_is_no_split():
    task = load_task("topic", {"train": 2, "validation": 2, "calibration": 2, "test": 2})
    with pytest.raises(ValueError, match=r"inputs is the whole task 'topic': give one of its splits.*task\['test'\]"):
        predict(HALVES, task)
    with pytest.raises(ValueError, match=r"no split 0.*write task\['train'\]"):
        task[0]


class Returns:
    """A model that gives what it is told to, unchecked; `outputs` and `dropout_proba` too."""

    name = "mine"

    def __init__(self, rows):
        self.predict_proba = self._rows = rows

    def outputs(self, inputs):
        return {"probs": np.full((len(inputs), 2), 0.5), "features": self._rows(inputs)}

    def dropout_proba(self, inputs, passes, seed):
        return np.moveaxis(np.full((len(inputs), passes, 2), 0.5), 1, 2)


@pytest.mark.parametrize("rows, said", [
    (lambda inputs: np.full((2, len(inputs)), 0.5), r"'mine' returned shape \(2, 12\) for 12 inputs: return one"),
    (lambda inputs: np.full((4, 2), 0.5), r"shape \(4, 2\) for 12 inputs"),
    (lambda inputs: np.full(24, 0.5), r"shape \(24,\) for 12 inputs"),
    (lambda inputs: np.full((12, 2, 1), 0.5), r"shape \(12, 2, 1\) for 12"),
    (lambda inputs: [[0.5, 0.5]] * 11 + [[1.0]], "rows of several lengths for 12 inputs")])
def test_rows_are_counted_before_they_are_put_in_their_places(rows, said):
    texts, two = ["a", "bb", "ccc", "dddd"], Perturbation.of_text("two", lambda text, rng: text + "x")
    with pytest.raises(ValueError, match=said):
        predict(Returns(rows), texts, two, k=2)
    with pytest.raises(ValueError, match=said):
        predict(Returns(rows), texts, two, k=2, internals=True)


def test_dropout_passes_are_counted():
    half = Returns(lambda inputs: np.full((len(inputs), 2), 0.5))
    with pytest.raises(ValueError, match=r"dropout_proba of model 'mine' returned shape \(1, 2, 3\) for 1 inputs"):
        predict(half, ["a"], dropout=3)


@pytest.mark.parametrize("given, said", [
    ({"samples": -1}, "samples = -1: give a whole number, 0 for none"), ({"samples": 1.5}, "samples = 1.5"),
    ({"dropout": -2}, "dropout = -2: give"), ({"seed": -1}, "seed = -1: give"), ({"seed": 0.5}, "seed = 0.5: give"),
    ({"perturbation": SUFFIX, "k": -1}, "K = -1: draw"), ({"perturbation": SUFFIX, "k": 2.0}, "K = 2.0: draw")])
def test_predict_takes_whole_counts_and_seeds(given, said):
    with pytest.raises(ValueError, match=said):
        predict(HALVES, ["a"], **given)


def test_lists_of_other_inputs_have_other_ids():
    model = marker(3)
    first, second = (predict(model, data, SUFFIX, 2, labels=[0, 1] * 10) for data in
                     ([f"a{i}" for i in range(20)], [f"b{i}" for i in range(20)]))
    assert not {*first.ids} & {*second.ids} and len({*first.ids}) == 20
    assert score(second, "sua_signed", calibration=first).shape == (20,)
    # equal inputs, equal ids, whatever the list they are in and the kind of string
    assert predict(model, ["x", np.str_("a3"), ["p", "q"]]).ids[1] == first.ids[3]
    with pytest.raises(ValueError) as error:
        score(second, "sua_signed", calibration=second)
    assert f"share 20 ids ({str(min(second.ids))!r}, ...)" in str(error.value)
    assert "different ids: sua.predict(..., ids=[...])" in str(error.value)
    named = predict(model, ["x", "y"], ids=["first", 2])
    assert named.ids.tolist() == ["first", "2"]
    assert predict(model, spelled_out(False), ids=[7, 8, 9]).ids.tolist() == ["7", "8", "9"]
    with pytest.raises(ValueError, match=r"ids has shape \(1,\), expected \(2,\)"):
        predict(model, ["x", "y"], ids=["one"])


def test_texts_are_kept_as_plain_strings():
    """numpy's strings are written otherwise, and draws follow what is written."""
    kept = as_inputs([*np.array(["ab", "cd"]), np.array(["p", "q"]), ["r", np.str_("s")],
                      {"question": "t", "choices": ("u", "v")}])
    assert kept == ["ab", "cd", ("p", "q"), ("r", "s"), ("t", "u", "v")]
    assert all(type(part) is str for x in kept for part in (x if isinstance(x, tuple) else [x]))


def test_k_is_lowered_to_the_different_variants_that_there_are():
    """Copies of the one other order of two options would dilute every mean over the orbit."""
    two = [("q", "a", "b"), ("r", "c", "d")]
    with pytest.warns(UserWarning, match="'option_order': no input has more than 1 different.*K is 1, not 3: give k=1"):
        found = predict(HALVES, two, OPTION_ORDER, k=3)
    assert found.perturbed.shape == (2, 1, 2) and found.meta["k"] == 1
    assert found.meta["copies"] == found.meta["repeats"] == 0
    templates = instructions(["{question}", "Answer: {question}", "Say: {question}"])
    groups = given({"a": ["b", "c", "b"], "b": ["a", "c"]})
    model = CallableModel(lambda x: [[0.5, 0.5]] * len(x))
    for kernel, data in ((templates, ["a", "Say: b"]), (groups, ["a", "b"]),
                         (on_first(templates), [("q", "a", "b", "c"), ("r", "a", "b", "c")])):
        asked = model if isinstance(data[0], str) else CallableModel(lambda x: [[1, 0, 0]] * len(x))
        with pytest.warns(UserWarning, match="no input has more than 2 different variants, so K is 2, not 5"):
            assert predict(asked, data, kernel, k=5).perturbed.shape[1] == 2


def test_the_bounds_of_two_options_are_those_of_k_1():
    """A model that follows the place of an option: its answer flips in the other order, whatever k was asked for."""
    model = CallableModel(lambda inputs: [[0.9, 0.1]] * len(inputs))
    data = [(f"q{i}", "a", "b") for i in range(20)]
    with pytest.warns(UserWarning, match="K is 1, not 3"):
        floors = [error_floor(predict(model, data, OPTION_ORDER, k=k)) for k in (1, 3)]
    assert floors[0] == floors[1] and floors[0].plain == 0.5


def test_orders_that_cannot_differ_are_told():
    model, three = marker(3), [("q", "a", "b"), ("r", "a", "b", "c")]
    with pytest.warns(UserWarning, match="of 6 variants 0 equal.*2 an earlier.*give a smaller k"):
        predict(CallableModel(lambda x: [[1, 0, 0]] * len(x)), three, OPTION_ORDER, k=3)
    with pytest.warns(UserWarning, match="of 4 variants 4 equal their input.*changes none of these inputs"):
        predict(model, ["a b", "c d"], KERNELS["typos"], k=2)


@pytest.mark.filterwarnings("error")
def test_orders_that_differ_pass_in_silence():
    found = predict(CallableModel(lambda x: [[1, 0, 0]] * len(x)), [("q", "a", "b", "c")], OPTION_ORDER, k=5)
    assert found.meta["repeats"] == found.meta["copies"] == 0
    assert predict(HALVES, [("q", "a", "b")], OPTION_ORDER, k=1).meta["repeats"] == 0


def test_concatenate_is_the_inverse_of_subset():
    whole = full()
    parts = [whole.subset([0, 1, 2]), whole.subset([3]), whole.subset([4, 5, 6])]
    together = Predictions.concatenate(iter(parts))
    for name in FIELDS:
        assert (getattr(together, name) == getattr(whole, name)).all(), name
    assert together.meta == whole.meta
    a, b = Predictions(probs=P, meta={"task": "t", "seed": 1}), Predictions(probs=P, meta={"task": "t", "seed": 2})
    assert Predictions.concatenate([a, b]).meta == {"task": "t"} and len(Predictions.concatenate([a, b])) == 6
    one = Predictions(probs=P, n_classes=[2, 2, 1])
    assert Predictions.concatenate([a, one]).n_classes.tolist() == [2, 2, 2, 2, 2, 1]


@pytest.mark.parametrize("parts, said", [
    ([], "parts is empty"),
    ([Predictions(P, labels=[0, 1, 0]), Predictions(P)], r"parts\[1\] holds no `labels`, but others do"),
    ([Predictions(P), Predictions(np.full((3, 4), 0.25))], r"probs of parts\[1\] has shape \(3, 4\), that of parts"),
    ([Predictions(P, [[p] for p in P]), Predictions(P, [[p, p] for p in P])], r"perturbed of parts\[1\].*same classes")
])
def test_parts_that_do_not_fit_are_named(parts, said):
    with pytest.raises(ValueError, match=said):
        Predictions.concatenate(parts)


@pytest.mark.parametrize("field, way", [("logits", "internals=True"), ("features", "internals=True"),
                                        ("dropout", "dropout=T"), ("members", "with_members"),
                                        ("perturbed", "perturbation"), ("clarified", "clarifications")])
def test_a_missing_field_names_what_fills_it(field, way):
    with pytest.raises(ValueError, match=f"hold no `{field}`.*{way}"):
        Predictions(P).require(field)
    if field == "logits":
        with pytest.raises(ValueError, match="internals=True"):
            score(Predictions(P), "energy")


def test_meta_is_copied():
    facts = {"seed": 1}
    p = Predictions(P, meta=facts)
    facts["seed"] = 2
    assert p.meta == {"seed": 1}


@pytest.mark.parametrize("size", [0, -1, 1.5, "8", None])
def test_a_batch_holds_at_least_one_input(size):
    with pytest.raises(ValueError, match=f"batch_size = {size!r}: give at least 1"):
        CallableModel(len, batch_size=size)


@pytest.mark.parametrize("given, said", [({"batch_size": 0}, "batch_size = 0"), ({"max_length": 0}, "max_length = 0")])
def test_an_encoders_sizes_are_at_least_one(given, said):
    small = tiny_encoder(["a b"], 2)
    with pytest.raises(ValueError, match=said):
        type(small)(small.model, small.tokenizer, **given)
    with pytest.raises(ValueError, match="seed = -1"):
        small.dropout_proba(["a"], 2, seed=-1)


def test_the_numerical_floor_is_what_other_batches_change():
    """A model whose answer depends on the size of its batch, by a number that is known."""
    class Rounding:
        def predict_proba(self, inputs):
            return np.tile([0.5, 0.5] if len(inputs) == 8 else [0.6, 0.4], (len(inputs), 1))

    texts = [f"text {i}" for i in range(8)]
    floor = numerical_floor(Rounding(), texts + texts[:3])  # the copies are asked once
    assert floor.mean == pytest.approx(0.1) and floor.largest == pytest.approx(0.1)
    assert floor.sensitivity == pytest.approx(-0.5 * np.log(0.6 * 0.4) - np.log(2))
    assert str(floor).startswith("the same input in other batches: |dp| 0.1 on average, 0.1 at most; S 0.02")
    exact = numerical_floor(CallableModel(lambda batch: [[0.3, 0.7]] * len(batch)), texts)
    assert exact == (0, 0, 0) and str(exact).endswith("|dp| below 1e-9")  # float64 too: no digit of the processor's
    with pytest.raises(ValueError, match="1 distinct inputs: give at least two"):
        numerical_floor(Rounding(), ["a", "a"])
    with pytest.raises(ValueError, match="repeats = 0"):
        numerical_floor(Rounding(), texts, repeats=0)
