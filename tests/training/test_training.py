"""Objectives against their formulas in numpy, training against itself: resumed, accumulated, on two processes."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict

from sua import OBJECTIVES, Objective, Predictions, load_task, predict, scores, train
from sua.divergences import geometric_mean
from sua.models.load import load_model
from sua.models.tiny import tiny_encoder
from sua.perturb import Perturbation
from sua.tasks import Task, inputs
from sua.theory import LAMBDA_JS
from sua.training.objectives import DIVERGENCES, OF_ORBIT, adversarial_logits
from sua.training.data import VariantData, teacher_answers
from sua.training.trainer import SUATrainer

SIZES = {"train": 40, "validation": 10, "calibration": 10, "test": 10}
VAT = Objective(k=1, variants="vat", consistency=1.0)
TV = Objective(k=4, augment=0.8, consistency=0.5, to_mean=True, divergence="tv", alignment=2.0, lam=0.3,
               batch_level=True)
PARTIAL = Objective(k=4, share=0.5, augment=0.6, consistency=0.7, alignment=1.3, lam=0.2, confidence_penalty=0.3)
JS = Objective(k=4, augment=0.8, consistency=1.0, to_mean=True, divergence="js", alignment=1.0, lam=LAMBDA_JS,
               batch_level=True, smoothing=0.1, confidence_penalty=0.3)
SHARP = Objective(k=2, share=0.5, augment=2 / 3, target="orbit", mean="geometric", power=3.0, label_weight=0.3,
                  smoothing=0.1)
HALF_P_STAR = Objective(target="label_dist", label_weight=0.5)
EXTRA = {"vat": VAT, "tv": TV, "partial": PARTIAL, "js": JS, "sharp": SHARP, "half_p_star": HALF_P_STAR}


@pytest.fixture(scope="module")
def task():
    return load_task("topic", SIZES)


@pytest.fixture(scope="module")
def synonyms(task):
    return task.perturbation("synonyms")


def same_weights(first, second):
    theirs = second.model.state_dict()
    return all(torch.equal(weight, theirs[name]) for name, weight in first.model.state_dict().items())


# --- objectives ---

def formula(name, p, q, y, dist):
    """The loss of each method by hand, of distributions p (B, C), q (B, K, C), labels y, soft labels dist."""
    c, k, half, quarter = p.shape[1], q.shape[1], *(np.arange(len(p)) < share * len(p) for share in (1 / 2, 1 / 4))
    one_hot = np.eye(c)[y]
    smooth = lambda t, s: (1 - s) * t + s / c
    ce = lambda t, r: -(t * np.log(r)).sum(-1)
    h = lambda r: -(r * np.log(r)).sum(-1)
    kl = lambda a, b: (a * np.log(a / b)).sum(-1)
    plus = lambda gap: np.maximum(gap, 0)
    rows = np.concatenate([p[:, None], q], 1)
    mean = rows.mean(1)
    over_rows = lambda t: np.mean([ce(t, rows[:, j]).mean() for j in range(k + 1)])
    both = lambda t: (ce(t, p) + ce(t, q[:, 0])).mean() / 2
    s_kl = lambda: kl(p[:, None], q).mean(1)
    s_tv = lambda: np.abs(p[:, None] - q).sum(-1).mean(1) / 2
    s_js = lambda: (h((p[:, None] + q) / 2) - h(p)[:, None] / 2 - h(q) / 2).mean(1)
    generalised_js = lambda: h(mean) - h(rows).mean(1)
    where_varied = lambda varied, t: np.where(varied, np.mean([ce(t, rows[:, j]) for j in range(k + 1)], 0), ce(t, p))
    normalised = lambda r: r / r.sum(-1, keepdims=True)
    cubed = lambda: normalised(np.where(half[:, None], np.prod(rows, 1) ** (3 / (k + 1)), p ** 3))
    votes = lambda: np.array([max(range(c), key=lambda y: ((r.argmax(-1) == y).sum(), r[:, y].mean())) for r in rows])
    return {
        "erm": lambda: ce(one_hot, p).mean(),
        "label_smoothing": lambda: ce(smooth(one_hot, 0.1), p).mean(),
        "confidence_penalty": lambda: (ce(one_hot, p) - 0.1 * h(p)).mean(),
        "soft_labels": lambda: ce(dist, p).mean(),
        "augment": lambda: over_rows(one_hot),
        "augment_smoothed": lambda: over_rows(smooth(one_hot, 0.1)),
        "consistency": lambda: (ce(one_hot, p) + s_kl()).mean(),
        "alignment": lambda: (ce(one_hot, p) + plus(s_kl() - h(p))).mean(),
        "r_drop": lambda: both(one_hot) + (kl(p, q[:, 0]) + kl(q[:, 0], p)).mean() / 4,
        "adversarial": lambda: both(one_hot),
        "vat": lambda: (ce(one_hot, p) + kl(p, q[:, 0])).mean(),
        "sua_tr": lambda: (ce(one_hot, p) + s_kl() + plus(s_kl() - h(p))).mean(),
        "augment_share_smoothed": lambda: (where_varied(quarter, smooth(one_hot, 0.1)) - 0.3 * h(p)).mean(),
        "paft": lambda: ce(one_hot[:, None], q).mean(),
        "distil": lambda: over_rows(dist),
        "sua_tr_repaired": lambda: over_rows(0.8 * one_hot + 0.2 * mean),
        "distil_labels": lambda: over_rows(one_hot / 2 + dist / 2),
        "half_p_star": lambda: ce(one_hot / 2 + dist / 2, p).mean(),
        "swarm": lambda: over_rows(mean),
        "consensus": lambda: over_rows(np.eye(c)[votes()]),
        "clean_answer": lambda: ce(p[:, None], q).mean(),
        "sharp": lambda: where_varied(half, smooth(0.3 * one_hot + 0.7 * cubed(), 0.1)).mean(),
        "js": lambda: (over_rows(smooth(one_hot, 0.1)) + generalised_js().mean() - 0.3 * h(p).mean()
                       + plus(s_js().mean() - 1.5 * np.log2(4 / 3) * h(p).mean())),
        "tv": lambda: (over_rows(one_hot) + 0.5 * np.abs(rows - mean[:, None]).sum(-1).mean() / 2
                       + 2 * plus(s_tv().mean() - 0.3 * h(p).mean())),
        "partial": lambda: (np.where(half, 0.4 * ce(one_hot, p) + 0.6 * ce(one_hot[:, None], q).mean(1),
                                     ce(one_hot, p)) - 0.3 * h(p)).mean()
                           + (0.7 * s_kl() + 1.3 * plus(s_kl() - 0.2 * h(p)))[half].mean(),
    }[name]()


def softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


@pytest.mark.parametrize("sharpness", [1.0, 4.0])  # the second makes both positive parts positive
@pytest.mark.parametrize("name", [*OBJECTIVES, *EXTRA])
def test_objective_equals_its_formula_in_numpy(name, sharpness):
    rng = np.random.default_rng(0)
    objective = {**OBJECTIVES, **EXTRA}[name]
    b, c = 6, 4
    clean, variants = (rng.normal(size=shape) * sharpness for shape in ((b, c), (b, objective.k, c)))
    labels, dist = rng.integers(c, size=b), rng.dirichlet(np.ones(c), b)
    varied = math.ceil(b * objective.share)
    given = [torch.tensor(values) for values in (clean, variants[:varied], labels, dist)]
    loss, terms = objective(*given[:2], given[2] if objective.reads_labels else None, given[3])
    p, q = softmax(clean), softmax(variants)
    assert loss.item() == pytest.approx(formula(name, p, q, labels, dist), abs=1e-10)
    assert terms["entropy"].item() == pytest.approx(scores.entropy(p).mean(), abs=1e-10)
    if objective.k and objective.divergence != "symmetric_kl":
        s = scores.sensitivity(Predictions(probs=p, perturbed=q).subset(slice(varied)), objective.divergence)
        assert terms["sensitivity"].item() == pytest.approx(s.mean(), abs=1e-10)
    if sharpness > 1 and objective.alignment:
        assert terms["sua_positive"] > 0


@pytest.mark.parametrize("name", scores.DIVERGENCES)
def test_divergences_equal_those_of_the_scores(name):
    p, q = np.random.default_rng(1).dirichlet(np.ones(5), (2, 20))
    ours = DIVERGENCES[name](torch.tensor(p).log(), torch.tensor(q).log())
    assert ours.numpy() == pytest.approx(scores.DIVERGENCES[name](p, q), abs=1e-12)


@pytest.mark.parametrize("name", [*OBJECTIVES, *EXTRA])
def test_gradients(name):
    torch.manual_seed(0)
    objective = {**OBJECTIVES, **EXTRA}[name]
    clean = (2 * torch.randn(3, 4, dtype=torch.float64)).requires_grad_()
    variants = (2 * torch.randn(math.ceil(3 * objective.share), objective.k, 4, dtype=torch.float64)).requires_grad_()
    dist = torch.rand(3, 4, dtype=torch.float64).softmax(-1)
    labels = torch.tensor([0, 1, 3])
    fixed, given = objective, dist
    if objective.target in OF_ORBIT:  # no gradient flows through the target: the same loss, with it as a constant
        given = objective._target(*(x.detach().log_softmax(-1) for x in (clean, variants)), labels, None)
        fixed = replace(objective, target="label_dist", label_weight=0.0, power=1.0, mean="arithmetic", smoothing=0.0)
    loss = lambda x, *rest: fixed(x, rest[0] if rest else None, labels, given)[0]
    rows = (clean, variants) if objective.k else (clean,)
    assert torch.autograd.gradcheck(loss, rows)
    ours = torch.autograd.grad(objective(clean, variants, labels, dist)[0], rows, allow_unused=True)
    for one, other in zip(ours, torch.autograd.grad(loss(*rows), rows, allow_unused=True)):
        assert (one is other is None) or torch.allclose(one, other, atol=1e-12)


def test_swarm_distillation_has_the_gradient_of_all_pairs():
    """Mean KL(q_i, q_j) over pairs i != j of the orbit, each q_i held fixed, is what Zhou et al. minimise."""
    torch.manual_seed(0)
    orbit = torch.randn(3, 5, 4, dtype=torch.float64).requires_grad_()
    log = orbit.log_softmax(-1)
    pairs = DIVERGENCES["kl"](log.detach()[:, :, None], log[:, None]).sum((1, 2)).mean() / (5 * 4)
    ours = OBJECTIVES["swarm"](orbit[:, 0], orbit[:, 1:], None)[0]
    of_pairs, of_ours = (torch.autograd.grad(loss, orbit)[0] for loss in (pairs, ours))
    assert torch.allclose(of_pairs, 5 / 4 * of_ours, atol=1e-14) and of_ours.abs().max() > 1e-3


def test_the_target_of_the_orbit_is_consistency_and_labels_in_one():
    """CE(a e_y + (1 - a) m, q) = a CE(e_y, q) + (1 - a) (KL(m, q) + H(m)): no lambda, and no term to please."""
    rng = np.random.default_rng(0)
    rows, labels = softmax(rng.normal(size=(4, 3, 5))), rng.integers(5, size=4)
    mean = rows.mean(1)
    objective = Objective(k=2, augment=2 / 3, target="orbit", label_weight=0.25)
    loss, _ = objective(torch.tensor(rows[:, 0]).log(), torch.tensor(rows[:, 1:]).log(), torch.tensor(labels))
    label = -np.log(rows[np.arange(4), :, labels]).mean()
    assert loss.item() == pytest.approx(0.25 * label + 0.75 * (
        scores.entropy(mean) + scores.entropy(mean) - scores.entropy(rows).mean(1) + np.array([
            [(m * np.log(m / r)).sum() - (r * np.log(r / m)).sum() for r in of] for m, of in zip(mean, rows)]).mean(1)
    ).mean(), abs=1e-12)


@pytest.mark.parametrize("wrong, said", [
    (dict(augment=1.5, k=1), "augment = 1.5"), (dict(consistency=-1.0, k=1), "-1.0"), (dict(lam=np.nan), "lam = nan"),
    (dict(divergence="l2"), "'l2'"), (dict(variants="noise"), "'noise'"), (dict(k=4), "come together"),
    (dict(alignment=1.0), "come together"), (dict(k=2, variants="fgm", augment=0.5), "k = 1"),
    (dict(k=2, augment=0.5, to_mean=True), "weights are 0"),
    (dict(k=2, augment=0.5, batch_level=True), "weights are 0"),
    (dict(k=2, consistency=1.0, to_mean=True), "'kl' with to_mean"), (dict(share=0.5), "share"),
    (dict(share=0.0, k=1, augment=0.5), "share"),
    (dict(share=0.5, k=1, variants="fgm", augment=0.5), "shifts it has to be 1"),
    (dict(target="gold"), "'gold'"), (dict(mean="median"), "'median'"), (dict(target="orbit"), "come together"),
    (dict(label_weight=0.5), "another target"), (dict(label_weight=2.0, target="label_dist"), "a share in"),
    (dict(power=2.0), "target is 'labels'"), (dict(target="label_dist", mean="geometric"), "'label_dist'"),
    (dict(k=1, consistency=1.0, target="clean"), "for the variants"),
    (dict(target="teacher", teacher_k=0), "at least one"),
    (dict(k=1, augment=0.5, variants="fgm", target="teacher"), "take 'vat'")])
def test_objective_refuses(wrong, said):
    with pytest.raises(ValueError, match=said):
        Objective(**wrong)


def test_names_and_passes():
    assert OBJECTIVES["sua_tr"].name == "sua_tr"
    ablation = Objective(k=4, consistency=0.5, to_mean=True, divergence="js")
    assert ablation.name == "k4-consistency0.5-to_mean-divergence_js"
    passes = {name: objective.passes for name, objective in {**OBJECTIVES, "vat": VAT}.items()}
    assert [passes[name] for name in ("erm", "adversarial", "r_drop", "vat", "sua_tr")] == [1, 2, 2, 3, 5]
    assert [passes[name] for name in ("paft", "clean_answer", "distil", "augment_share_smoothed")] == [1, 5, 2, 1.25]
    unread = {name for name, objective in OBJECTIVES.items() if not objective.reads_labels}
    assert unread == {"soft_labels", "distil", "swarm", "consensus", "clean_answer"}
    from_trained = {name for name, objective in OBJECTIVES.items() if objective.from_trained}
    assert from_trained == unread - {"soft_labels"} | {"distil_labels"}


# --- batches ---

def test_a_batch_is_clean_rows_then_variants_item_by_item(task, synonyms):
    classifier = tiny_encoder(task["train"]["text"], 4)
    objective = Objective(k=3, augment=0.5, target="label_dist")
    data = VariantData(task["train"], classifier, objective, synonyms, seed=5, length=100)
    data.set_epoch(2)
    for positions, epoch in (((4, 7), 2), ((44, 47), 3)):  # the next epoch follows in another order
        batch = data.collate([data[position] for position in positions])
        items = batch["items"].tolist()
        drawn = [synonyms.sample(task["train"][i]["text"], 3, np.random.default_rng([5, epoch, i])) for i in items]
        unknown_as_token = lambda text: classifier.tokenizer.decode(classifier.tokenizer(text)["input_ids"])
        texts = [classifier.tokenizer.decode(row).replace(" [PAD]", "") for row in batch["input_ids"]]
        clean = [task["train"][i]["text"] for i in items]
        assert texts == [unknown_as_token(text) for text in [*clean, *drawn[0], *drawn[1]]]
        assert "labels" not in batch  # p* is all that is learned
        assert batch["reference"].numpy() == pytest.approx(np.array(task["train"][items]["label_dist"]))
    orders = [[data[start + i][1] for i in range(40)] for start in (0, 40)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(40)) and orders[0] != orders[1]


@pytest.mark.parametrize("n, size", [(40, 7), (40, 8), (5, 8), (400, 3)])
def test_batches_of_like_length_in_a_random_order(n, size):
    """The k-th shortest of a pool has length k: a batch within an epoch is a run of one pool's sorted lengths."""
    lengths = np.random.default_rng(0).permutation(n) + 1
    split = Dataset.from_dict({"text": ["x" * length for length in lengths], "label": [0] * n})
    def stream(seed=0, count=4 * n):
        data = VariantData(split, None, OBJECTIVES["erm"], None, seed, length=4 * n)
        data.group_by_length(size)
        return [data[position] for position in range(count)]
    drawn = stream()
    for epoch in range(4):
        assert sorted(i for e, i in drawn if e == epoch) == list(range(n))  # nothing lost, nothing twice
    whole = [batch for batch in np.array(drawn)[:4 * n // size * size].reshape(-1, size, 2) if len({*batch[:, 0]}) == 1]
    if n <= 50 * size:  # one pool
        assert all(np.ptp(lengths[batch[:, 1]]) == size - 1 for batch in whole)
    plain = VariantData(split, None, OBJECTIVES["erm"], None, 0, length=4 * n)
    waste = [sum(lengths[[order[i][1] for i in range(at, at + size)]].max() for at in range(0, 4 * n - size, size))
             for order in (drawn, plain)]
    assert n < 40 or waste[0] < 0.85 * waste[1]
    assert n < 40 or [int(lengths[batch[0, 1]]) for batch in whole] != sorted(lengths[batch[0, 1]] for batch in whole)
    assert stream() == drawn and (n < 40 or stream(seed=1) != drawn)


def test_an_objective_by_its_name_alone_names_the_table(task):
    with pytest.raises(ValueError, match=r"objective = 'erm' is no Objective: .*sua.OBJECTIVES\['erm'\]; known: erm"):
        train("tiny", task, "erm")


def test_grouping_by_length_is_an_argument(task):
    train_on = partial(train, "tiny", task, OBJECTIVES["erm"], epochs=1, batch_size=8)
    by_length = {"train_sampling_strategy": "group_by_length"}
    logs = [train_on(arguments=arguments)[1] for arguments in (None, by_length, by_length)]
    assert logs[1] == logs[2] != logs[0]


def test_a_share_of_the_batch_has_variants(task, synonyms):
    data = VariantData(task["train"], tiny_encoder(task["train"]["text"], 4), PARTIAL, synonyms, seed=5)
    rows = [len(data.collate([data[i] for i in range(size)])["input_ids"]) for size in (1, 2, 3, 8)]
    assert rows == [1 + 4, 2 + 4, 3 + 8, 8 + 16] and PARTIAL.passes == 3


def test_copies_repeat_the_input(task):
    classifier = tiny_encoder(task["train"]["text"], 4)
    data = VariantData(task["train"], classifier, OBJECTIVES["r_drop"], None, seed=0)
    batch = data.collate([data[0], data[1]])
    assert torch.equal(batch["input_ids"][:2], batch["input_ids"][2:])
    assert batch["labels"].tolist() == [task["train"][i]["label"] for i in batch["items"].tolist()]


def test_on_variants_alone_the_input_itself_does_not_pass(task, synonyms):
    classifier = tiny_encoder(task["train"]["text"], 4)
    data = VariantData(task["train"], classifier, OBJECTIVES["paft"], synonyms, seed=0)
    batch = data.collate([data[0], data[1]])
    drawn = [synonyms.sample(data.inputs[i], 1, np.random.default_rng([0, 0, i]))[0] for i in batch["items"].tolist()]
    assert classifier.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True) == \
        classifier.tokenizer.batch_decode(classifier.tokenizer(drawn)["input_ids"], skip_special_tokens=True)


@pytest.mark.parametrize("objective", [OBJECTIVES["adversarial"], VAT], ids=lambda o: o.variants)
def test_adversarial_shift_has_its_length_and_does_the_most_harm(objective):
    """On a linear network the worst shift of a given length is known: along the gradient of the logit's gap."""
    torch.manual_seed(0)
    embedding, weight = torch.nn.Embedding(9, 5).double(), torch.randn(2, 5).double()
    batch = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    labels, mask = torch.tensor([0, 1]), batch["attention_mask"][..., None]
    forward = lambda: (embedding(batch["input_ids"]) * mask).sum(1) @ weight.T
    logits, shifted = adversarial_logits(objective, forward, embedding, batch, labels)
    words = embedding(batch["input_ids"]) * mask
    tokens, gap = batch["attention_mask"].sum(1), (weight[1] - weight[0]).norm()
    moved = 0.1 * words.norm(dim=(1, 2)) * tokens.sqrt() * gap  # |r| spread evenly over the tokens
    change = ((shifted[:, 0] - logits) @ torch.tensor([-1.0, 1.0]).double()) * torch.tensor([1, -1])
    assert torch.allclose(change if objective.variants == "fgm" else change.abs(), moved, rtol=1e-4)
    assert not embedding._forward_hooks


# --- training ---

@pytest.mark.parametrize("options", [
    dict(objective=OBJECTIVES["sua_tr"]), dict(objective=OBJECTIVES["erm"], compute_k=2),
    dict(objective=OBJECTIVES["adversarial"], lora={"r": 2})], ids=["sua_tr", "compute_k", "lora"])
def test_interrupted_training_ends_in_the_same_weights(task, synonyms, tmp_path, monkeypatch, options):
    options = dict(perturbation=synonyms, seed=3, epochs=3, batch_size=16, learning_rate=1e-3, **options)
    whole, log = train("tiny", task, cache=tmp_path / "whole", **options)
    monkeypatch.setattr("sua.training.trainer.SAVE_EVERY", 0)
    original = SUATrainer.compute_loss

    def interrupted_in_epoch_two(self, *args, **kwargs):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(SUATrainer, "compute_loss", interrupted_in_epoch_two)
    with pytest.raises(KeyboardInterrupt):
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
    assert same_weights(whole, resumed)
    assert [entry["task"] for entry in resumed_log] == [entry["task"] for entry in log]
    assert [entry["epoch"] for entry in log] == [1, 2, 3]


@pytest.mark.parametrize("seconds, saved", [(0, [1, 2, 3]), (6, [2]), (10, [3]), (100, [])])
def test_checkpoints_keep_their_distance_and_the_end_needs_none(task, tmp_path, monkeypatch, seconds, saved):
    """Four steps seconds apart by a clock of our own, each the end of an epoch."""
    clock, written = iter(range(0, 1000, 4)), []
    monkeypatch.setattr("sua.training.trainer.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("sua.training.trainer.SAVE_EVERY", seconds)
    original = SUATrainer._save_checkpoint
    monkeypatch.setattr(SUATrainer, "_save_checkpoint", lambda self, *a, **k: written.append(self.state.global_step) or
                        original(self, *a, **k))
    train("tiny", task, OBJECTIVES["erm"], epochs=4, batch_size=len(task["train"]), cache=tmp_path)
    assert written == saved


def test_a_finished_model_is_not_trained_again(task, tmp_path, monkeypatch):
    first, _ = train("tiny", task, OBJECTIVES["erm"], epochs=1, cache=tmp_path)
    monkeypatch.setattr(SUATrainer, "train", lambda *a, **k: pytest.fail("trained again"))
    again, log = train("tiny", task, OBJECTIVES["erm"], epochs=1, cache=tmp_path)
    text = task["test"]["text"]
    assert np.array_equal(first.predict_proba(text), again.predict_proba(text))
    (recipe,) = tmp_path.glob("topic-tiny-erm-seed0-*/recipe.json")
    assert json.loads(recipe.read_text())["data"] == task.digest


@pytest.mark.parametrize("fast", [True, False])
def test_mixed_precision_only_where_it_is_fast(task, tmp_path, monkeypatch, fast):
    monkeypatch.setattr("sua.training.trainer.fast_in_bfloat16", lambda: fast)
    train("tiny", task, OBJECTIVES["erm"], epochs=1, cache=tmp_path, dtype="float32", arguments={"bf16": True})
    (recipe,) = tmp_path.glob("*/recipe.json")
    assert json.loads(recipe.read_bytes())["arguments"] == {"bf16": fast or torch.cuda.is_available()}


def test_equal_compute(task, synonyms, monkeypatch):
    """Whatever the objective: the same number of steps, and of rows in every one of them."""
    rows, original = [], SUATrainer.compute_loss

    def counted(self, model, batch, *args, **kwargs):
        handle = self.model.register_forward_pre_hook(
            lambda module, args, kwargs: rows[-1].append(len(kwargs["input_ids"])), with_kwargs=True)
        rows[-1].append(0)
        try:
            return original(self, model, batch, *args, **kwargs)
        finally:
            handle.remove()

    monkeypatch.setattr(SUATrainer, "compute_loss", counted)
    for name in ("erm", "r_drop", "adversarial", "sua_tr"):
        rows.append([])
        train("tiny", task, OBJECTIVES[name], synonyms, epochs=2, batch_size=16, compute_k=4)
        steps = np.add.reduceat(rows[-1], np.flatnonzero(np.array(rows[-1]) == 0))
        assert steps.tolist() == [80] * 6, name  # 2 epochs of ceil(40 / 16) steps, 16 * (4 + 1) rows


@pytest.mark.parametrize("name", ["erm", "sua_tr", "r_drop"])
def test_accumulated_gradients_equal_those_of_the_whole_batch(task, synonyms, name):
    """Not so for batch-level terms, whose positive part is taken of each part's mean."""
    options = dict(epochs=2, batch_size=16, learning_rate=1e-3, dropout=0.0)
    logs = [train("tiny", task, OBJECTIVES[name], synonyms, arguments=arguments, **options)[1]
            for arguments in ({}, {"gradient_accumulation_steps": 2})]
    for whole, parts in zip(*logs):
        assert [parts[key] for key in ("loss", "task", "entropy", "grad_norm")] == pytest.approx(
            [whole[key] for key in ("loss", "task", "entropy", "grad_norm")], abs=1e-6)


@pytest.mark.parametrize("arguments, tolerance", [
    ({"activation_checkpointing": True}, 1e-6), ({"bf16": True}, 1e-3),
    ({"torch_compile": True, "torch_compile_backend": "eager"}, 1e-6)], ids=["checkpointing", "bf16", "compile"])
@pytest.mark.parametrize("objective", [replace(JS, smoothing=0.0, confidence_penalty=0.0), OBJECTIVES["adversarial"]],
                         ids=["js", "adversarial"])
def test_arguments_of_the_trainer_change_the_cost_and_not_the_result(task, synonyms, objective, arguments, tolerance):
    options = dict(epochs=1, batch_size=16, learning_rate=1e-3, dropout=0.0, layers=1)
    logs = [train("tiny", task, objective, synonyms, arguments=more, **options)[1] for more in ({}, arguments)]
    assert logs[1][0]["loss"] == pytest.approx(logs[0][0]["loss"], abs=tolerance)
    assert logs[1][0]["sensitivity"] == pytest.approx(logs[0][0]["sensitivity"], abs=tolerance)


def test_two_processes_have_the_loss_curve_of_one_with_the_doubled_batch(task, synonyms, tmp_path):
    """Two processes of eight items against one of sixteen, launched as `accelerate launch` does, over gloo. Item-level
    terms: the positive part of a batch-level one is taken in each process."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import sua
task = sua.load_task("topic", {SIZES!r})
sua.train("tiny", task, sua.OBJECTIVES["sua_tr"], task.perturbation("synonyms"), epochs=3, batch_size=16,
          learning_rate=1e-2, dropout=0.0, cache={str(tmp_path / "cache")!r}, probes={{"test": task["test"]}})
""")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launch, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "cache").iterdir()
    two = json.loads((folder / "log.json").read_text())
    _, one = train("tiny", task, OBJECTIVES["sua_tr"], synonyms, epochs=3, batch_size=16, learning_rate=1e-2,
                   dropout=0.0, probes={"test": task["test"]})
    assert len(two) == len(one) == 3 and one[2]["loss"] < one[0]["loss"] - 0.01
    for ours, theirs in zip(two, one):
        for key in ("loss", "task", "sensitivity", "entropy", "sua_positive", "entropy_test"):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-5), key


def test_a_damaged_log_trains_again_to_the_same_end(task, tmp_path):
    options = dict(epochs=1, batch_size=16, cache=tmp_path)
    first, log = train("tiny", task, OBJECTIVES["erm"], **options)
    (file,) = tmp_path.glob("*/log.json")
    for damaged in (b"", b'[{"loss": 1', b"null", b"\xff"):
        file.write_bytes(damaged)
        again, read = train("tiny", task, OBJECTIVES["erm"], **options)
        assert same_weights(first, again)
        assert [entry["loss"] for entry in read] == [entry["loss"] for entry in log]


@pytest.mark.parametrize("argument", ["epochs", "batch_size"])
def test_a_training_has_at_least_one_epoch_and_one_item_in_a_batch(task, argument):
    with pytest.raises(ValueError, match=f"{argument} = 0: give at least 1"):
        train("tiny", task, OBJECTIVES["erm"], **{argument: 0})


def test_probes_follow_the_entropy_and_leave_the_training_alone(task, synonyms):
    options = dict(perturbation=synonyms, epochs=2, batch_size=16, learning_rate=1e-2)
    plain, _ = train("tiny", task, OBJECTIVES["sua_tr"], **options)
    probed, log = train("tiny", task, OBJECTIVES["sua_tr"], probes={"test": task["test"]}, **options)
    assert same_weights(plain, probed)
    final = scores.entropy(probed.predict_proba(task["test"]["text"])).mean()
    assert log[1]["entropy_test"] == pytest.approx(final, abs=1e-12) and abs(log[0]["entropy_test"] - final) > 1e-3


def test_multiple_choice_trains_through_the_same_code():
    """Which of three colours was named? The kernel changes the question's opening."""
    rng = np.random.default_rng(0)
    options = rng.permuted(np.tile(["red", "green", "blue"], (40, 1)), axis=1)
    labels = rng.integers(3, size=40)
    texts = [f"{('say', 'tell', 'name')[i % 3]} {row[y]}" for i, (row, y) in enumerate(zip(options, labels))]
    split = Dataset.from_dict({"text": texts, "options": options.tolist(), "label": labels})
    task = Task("colours", DatasetDict(train=split), ("A", "B", "C"))
    opening = lambda rng: rng.choice(["say", "tell", "name"])
    kernel = Perturbation("opening", lambda x, rng: (f"{opening(rng)} {x[0].split()[1]}", *x[1:]))
    objective = replace(JS, k=1, augment=0.5)
    classifier, log = train("tiny", task, objective, kernel, epochs=20, batch_size=20,
                            learning_rate=5e-3, dropout=0.0, probes={"train": split})
    assert (classifier.predict_proba(inputs(split)).argmax(-1) == labels).mean() > 0.9
    assert log[0]["entropy_train"] == pytest.approx(np.log(3), abs=0.1)

    data = VariantData(split, classifier, objective, kernel, seed=0)
    batch = data.collate([data[0], data[1]])
    words = [classifier.tokenizer.decode(row, skip_special_tokens=True).split(" ")[1:] for row in batch["input_ids"]]
    named = lambda i: [[texts[i].split()[1], option] for option in options[i]]
    first, second = batch["items"].tolist()
    assert words == named(first) + named(second) + named(first) + named(second)


def test_lora_trains_adapters_alone_and_is_saved_merged(task, synonyms, tmp_path):
    texts = [text for split in task.splits.values() for text in inputs(split)]
    start = tiny_encoder(texts, 4, seed=0).model.state_dict()
    trained, _ = train("tiny", task, OBJECTIVES["augment"], synonyms, epochs=2, batch_size=16, learning_rate=1e-2,
                       lora={"r": 4, "lora_alpha": 8}, cache=tmp_path)
    end = trained.model.state_dict()
    assert start.keys() == end.keys()
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    adapted = ("query.weight", "value.weight", "classifier.weight", "classifier.bias")
    assert changed == {name for name in start if name.endswith(adapted)}
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert torch.linalg.matrix_rank(end[query] - start[query], rtol=1e-4) == 4
    (folder,) = tmp_path.iterdir()
    text = task["test"]["text"]
    assert np.array_equal(load_model(folder / "model").predict_proba(text), trained.predict_proba(text))


def test_a_loss_that_is_not_finite_names_step_terms_and_items(task):
    with pytest.raises(FloatingPointError, match=r"step \d+, terms .*task.*, items \[\d+"):
        train("tiny", task, OBJECTIVES["erm"], epochs=2, learning_rate=1e300)


def test_objectives_that_use_variants_need_a_perturbation(task):
    with pytest.raises(ValueError, match="give a perturbation"):
        train("tiny", task, OBJECTIVES["sua_tr"], epochs=1)


def test_distributions_and_teachers_have_to_be_given(task, synonyms):
    args = (task["train"], tiny_encoder(task["train"]["text"], 4), OBJECTIVES["distil"], synonyms, 0)
    for teacher in (None, np.ones((3, 4)) / 4):
        with pytest.raises(ValueError, match=f"teacher has {0 if teacher is None else 3} rows for 40 items"):
            VariantData(*args, teacher=teacher)


def test_soft_labels_need_distributions(task):
    hard = Task("hard", DatasetDict({name: split.remove_columns("label_dist") for name, split in task.splits.items()}),
                task.label_names)
    with pytest.raises(ValueError, match="no column label_dist"):
        train("tiny", hard, OBJECTIVES["soft_labels"], epochs=1)


# --- teaching what a model says ---

OPTIONS = dict(epochs=2, batch_size=16, learning_rate=1e-2)


@pytest.fixture(scope="module")
def start(task):
    """A model that is sure of what it learned by heart, and so depends on the wording."""
    return train("tiny", task, OBJECTIVES["erm"], seed=7, **OPTIONS | {"epochs": 20})[0]


def shuffled_labels(task):
    """The task with the training labels in another order, and one without that column."""
    rows = task["train"]
    labels = np.random.default_rng(1).permutation(rows["label"])
    assert (labels != rows["label"]).any()
    others = (rows.remove_columns("label").add_column("label", labels.tolist()), rows.remove_columns("label"))
    return [Task(task.name, DatasetDict({**task.splits, "train": other}), task.label_names) for other in others]


@pytest.mark.parametrize("name", ["distil", "swarm"])
def test_without_labels_none_is_read(task, synonyms, start, name):
    """Shuffled labels, or none, give the same weights bit by bit."""
    given = dict(perturbation=synonyms, seed=7, start=start, **OPTIONS | {"epochs": 1})
    trained, _ = train("tiny", task, OBJECTIVES[name], **given)
    assert not same_weights(trained, start)
    for other in shuffled_labels(task):
        assert same_weights(train("tiny", other, OBJECTIVES[name], **given)[0], trained)
    if name == "distil":
        with_labels = replace(OBJECTIVES["distil"], label_weight=0.5)
        one, other = (train("tiny", of, with_labels, **given)[0] for of in (task, shuffled_labels(task)[0]))
        assert not same_weights(one, other)


def test_the_teacher_is_the_start_over_its_orbit(task, synonyms, start):
    texts, objective = task["train"]["text"], replace(OBJECTIVES["distil"], teacher_k=3)
    p = predict(start, task["train"], synonyms, 3, seed=5)
    assert teacher_answers(start, task["train"], objective, synonyms, 5) == pytest.approx(p.orbit.mean(1), abs=1e-12)
    geometric = teacher_answers(start, task["train"], replace(objective, mean="geometric"), synonyms, 5)
    assert geometric == pytest.approx(geometric_mean(p.orbit), abs=1e-12)
    still, _ = train("tiny", task, objective, synonyms, start=start, seed=7, **OPTIONS | {"learning_rate": 0.0})
    assert np.array_equal(still.predict_proba(texts), start.predict_proba(texts))  # it is where training begins


def test_distilling_lowers_what_theorem_16_measures(task, synonyms, start):
    """eps, the distance to the teacher's mean over formulations, falls; and its bound holds on training inputs."""
    after, _ = train("tiny", task, OBJECTIVES["distil"], synonyms, start=start, seed=7, **OPTIONS | {"epochs": 20})
    q, r = (predict(model, task["train"], synonyms, 8, seed=7) for model in (start, after))
    eps = lambda rows: ((rows - q.orbit.mean(1)[:, None]) ** 2).sum(-1).mean()
    brier = lambda rows: ((rows - np.eye(4)[q.labels][:, None]) ** 2).sum(-1).mean()
    assert eps(r.orbit) < eps(q.orbit) > 0.01
    assert np.sqrt(brier(r.orbit)) <= np.sqrt(brier(q.orbit) - eps(q.orbit)) + np.sqrt(eps(r.orbit)) + 1e-12


def test_a_resumed_training_finds_its_teacher(task, synonyms, start, tmp_path, monkeypatch):
    given = dict(objective=OBJECTIVES["distil"], perturbation=synonyms, seed=7, start=start, **OPTIONS)
    whole, _ = train("tiny", task, cache=tmp_path / "whole", **given)
    original = SUATrainer.compute_loss

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(SUATrainer, "compute_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train("tiny", task, cache=tmp_path / "killed", **given)
    (folder,) = (tmp_path / "killed").iterdir()
    kept = np.load(folder / "checkpoints" / "teacher.npy")
    assert np.array_equal(kept, teacher_answers(start, task["train"], OBJECTIVES["distil"], synonyms, 7))
    monkeypatch.setattr(SUATrainer, "compute_loss", original)
    monkeypatch.setattr("sua.training.trainer.teacher_answers", lambda *args: pytest.fail("asked again"))
    resumed, _ = train("tiny", task, cache=tmp_path / "killed", **given)
    assert same_weights(whole, resumed) and not (folder / "checkpoints").exists()


def test_another_start_is_another_training(task, synonyms, start, tmp_path):
    other, _ = train("tiny", task, OBJECTIVES["erm"], seed=8, **OPTIONS)
    given = dict(perturbation=synonyms, seed=7, cache=tmp_path, **OPTIONS)
    first, second = (train("tiny", task, OBJECTIVES["distil"], start=model, **given)[0] for model in (start, other))
    assert len([*tmp_path.iterdir()]) == 2 and not same_weights(first, second)


def test_what_to_start_from_is_said(task, synonyms, start):
    for model in ("tiny", "tiny_llama"):
        with pytest.raises(ValueError, match="'swarm' teaches what a model says.*give a trained one as start"):
            train(model, task, OBJECTIVES["swarm"], synonyms, **OPTIONS)
    with pytest.raises(ValueError, match="has other weights than the model to train"):
        train("tiny", task, OBJECTIVES["swarm"], synonyms, start=start, layers=1, **OPTIONS)


def test_lora_distils_into_adapters(task, synonyms, start):
    trained, _ = train("tiny", task, OBJECTIVES["distil"], synonyms, start=start, lora={"r": 2}, **OPTIONS)
    before, after = start.model.state_dict(), trained.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("query" in name or "value" in name or "classifier" in name for name in changed)
