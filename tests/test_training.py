"""Objectives against hand-made logits, resumption against an uninterrupted run, and what a bad batch reports."""

import json

import numpy as np
import pytest
import torch

from sua import OBJECTIVES, Objective, Predictions, load_task, scores, train
from sua.training import SUATrainer, VariantData

SIZES = {"train": 40, "validation": 10, "calibration": 10, "test": 10}


@pytest.fixture(scope="module")
def task():
    return load_task("topic", SIZES)


@pytest.mark.parametrize("divergence", scores.DIVERGENCES)
def test_objective_equals_its_formula_in_numpy(divergence):
    rng = np.random.default_rng(0)
    b, k, c, a, lam, consistency, alignment = 6, 3, 4, 0.3, 0.7, 0.5, 2.0
    clean, variants = rng.normal(size=(b, c)) * 3, rng.normal(size=(b, k, c)) * 3
    labels = rng.integers(c, size=b)
    objective = Objective(k=k, augment=a, consistency=consistency, alignment=alignment, lam=lam, divergence=divergence)
    loss, terms = objective(torch.tensor(clean), torch.tensor(variants), torch.tensor(labels))

    softmax = lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    p, q = softmax(clean), softmax(variants)
    ce = lambda dist: -np.log(np.take_along_axis(dist, labels.reshape(-1, *[1] * (dist.ndim - 1)), -1)).mean()
    predictions = Predictions(probs=p, perturbed=q)
    s = scores.sensitivity(predictions, divergence)
    positive = scores.sua_positive(predictions, lam, divergence)
    expected = (1 - a) * ce(p) + a * ce(q) + consistency * s.mean() + alignment * positive.mean()
    assert loss.item() == pytest.approx(expected, abs=1e-10)
    assert terms["sensitivity"].item() == pytest.approx(s.mean(), abs=1e-10)
    assert terms["sua_positive"].item() == pytest.approx(positive.mean(), abs=1e-10)


def test_gradients_of_the_printed_objective():
    torch.manual_seed(0)
    clean = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    variants = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    objective = Objective(k=2, consistency=1.0, alignment=1.0, lam=0.1)
    assert torch.autograd.gradcheck(lambda x, y: objective(x, y, torch.tensor([0, 1, 3]))[0], (clean, variants))


@pytest.mark.parametrize("wrong, said", [
    (dict(augment=1.5, k=1), "augment = 1.5"), (dict(consistency=-1.0, k=1), "-1.0"),
    (dict(divergence="l2"), "'l2'"), (dict(k=4), "come together"), (dict(alignment=1.0), "come together")])
def test_objective_refuses(wrong, said):
    with pytest.raises(ValueError, match=said):
        Objective(**wrong)


def test_a_batch_is_clean_rows_then_variants_item_by_item(task):
    from sua.models import tiny_encoder

    kernel = task.perturbation("synonyms")
    tokenizer = tiny_encoder(task["train"]["text"], 4).tokenizer
    data = VariantData(task["train"], tokenizer, kernel, k=3, max_length=32, seed=5)
    data.set_epoch(2)
    batch = data.collate([data[4], data[7]])
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in batch["input_ids"]]
    drawn = [kernel.sample(task["train"][i]["text"], 3, np.random.default_rng([5, 2, i])) for i in (4, 7)]
    unknown_as_token = lambda text: tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)
    assert texts == [unknown_as_token(t) for t in
                     [task["train"][4]["text"], task["train"][7]["text"], *drawn[0], *drawn[1]]]
    assert batch["labels"].tolist() == [task["train"][4]["label"], task["train"][7]["label"]]


def test_resumed_training_ends_in_the_same_weights(task, tmp_path, monkeypatch):
    options = dict(objective=OBJECTIVES["sua_tr"], perturbation=task.perturbation("synonyms"), seed=3, epochs=3,
                   batch_size=16, learning_rate=1e-3)
    whole, log = train("tiny", task, cache=tmp_path / "whole", **options)

    class Killed(BaseException):
        pass

    original = SUATrainer.compute_loss

    def killed_in_epoch_two(self, *args, **kwargs):
        if self.state.global_step == 4:
            raise Killed
        return original(self, *args, **kwargs)

    monkeypatch.setattr(SUATrainer, "compute_loss", killed_in_epoch_two)
    with pytest.raises(Killed):
        train("tiny", task, cache=tmp_path / "killed", **options)
    (folder,) = (tmp_path / "killed").iterdir()
    assert (folder / "checkpoints" / "checkpoint-3" / "complete").exists()
    (folder / "checkpoints" / "checkpoint-4").mkdir()  # half-written when the kill came: must be ignored
    steps = []
    monkeypatch.setattr(SUATrainer, "compute_loss", lambda self, *a, **k: steps.append(self.state.global_step) or
                        original(self, *a, **k))
    resumed, resumed_log = train("tiny", task, cache=tmp_path / "killed", **options)
    assert steps == [3, 4, 5, 6, 7, 8]
    assert not (folder / "checkpoints").exists()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    assert [entry["task"] for entry in resumed_log] == [entry["task"] for entry in log]


def test_a_finished_model_is_not_trained_again(task, tmp_path, monkeypatch):
    first, _ = train("tiny", task, OBJECTIVES["erm"], epochs=1, cache=tmp_path)
    monkeypatch.setattr(SUATrainer, "train", lambda *a, **k: pytest.fail("trained again"))
    again, log = train("tiny", task, OBJECTIVES["erm"], epochs=1, cache=tmp_path)
    text = task["test"]["text"]
    assert np.array_equal(first.predict_proba(text), again.predict_proba(text))
    (recipe,) = tmp_path.glob("*/recipe.json")
    assert json.loads(recipe.read_text())["data"] == task.digest


def test_a_loss_that_is_not_finite_names_step_terms_and_items(task):
    with pytest.raises(FloatingPointError, match=r"step \d+, terms .*task.*, items \[\d+"):
        train("tiny", task, OBJECTIVES["erm"], epochs=2, learning_rate=1e30)


def test_objectives_that_use_variants_need_a_perturbation(task):
    with pytest.raises(ValueError, match="give a perturbation"):
        train("tiny", task, OBJECTIVES["sua_tr"], epochs=1)
