"""SUA-TR: training that lowers task loss, sensitivity and misalignment together, and the baselines beside it.

For a clean input x with label y and K variants x'_k the loss of an `Objective` is

    (1 - a) CE(x, y) + a mean_k CE(x'_k, y) + consistency * S + alignment * mean (S - lambda H)_+

S = mean_k D(p, q_k) and H in nats; the last mean runs over the batch (paper, section 5.2).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from filelock import FileLock

from . import paths
from .models import EncoderClassifier, encode, load_model, progress, quiet, tiny_encoder
from .perturb import Perturbation
from .tasks import Task, inputs

torch_divergences = {
    "kl": lambda p, q: (p.exp() * (p - q)).sum(-1),
    "reverse_kl": lambda p, q: (q.exp() * (q - p)).sum(-1),
    "js": lambda p, q: _entropy(torch.logaddexp(p, q) - np.log(2)) - (_entropy(p) + _entropy(q)) / 2,
    "tv": lambda p, q: (p.exp() - q.exp()).abs().sum(-1) / 2,
}


def _entropy(log_p):
    return -(log_p.exp() * log_p).sum(-1)


@dataclass(frozen=True)
class Objective:
    """Weights of the loss's terms. Calling it on logits gives the loss and its terms.

    k : variants per item; 0 needs none. augment : a in [0, 1], the share of the task loss that the variants carry.
    consistency, alignment : weights of S and of (S - lam H)_+. divergence : "kl", "reverse_kl", "js" or "tv".
    ValueError for weights out of range or an unknown divergence.
    """

    k: int = 0
    augment: float = 0.0
    consistency: float = 0.0
    alignment: float = 0.0
    lam: float = 1.0
    divergence: str = "kl"

    def __post_init__(self):
        if not 0 <= self.augment <= 1:
            raise ValueError(f"augment = {self.augment}: give a share in [0, 1]")
        if min(self.consistency, self.alignment, self.lam) < 0:
            raise ValueError(f"{self}: consistency, alignment and lam must not be negative")
        if self.divergence not in torch_divergences:
            raise ValueError(f"divergence = {self.divergence!r}; known: {', '.join(torch_divergences)}")
        if (self.k > 0) != bool(self.augment or self.consistency or self.alignment):
            raise ValueError(f"{self}: variants (k > 0) and a term that uses them come together")

    def __call__(self, logits, variant_logits, labels):
        """logits (B, C), variant_logits (B, K, C), labels (B,) -> (loss, {term: scalar})."""
        log_p = F.log_softmax(logits, -1)
        terms = {"task": F.nll_loss(log_p, labels)}
        entropy = _entropy(log_p)
        if self.k:
            log_q = F.log_softmax(variant_logits, -1)
            on_variants = F.nll_loss(log_q.flatten(0, 1), labels.repeat_interleave(self.k))
            terms["task"] = (1 - self.augment) * terms["task"] + self.augment * on_variants
            s = torch_divergences[self.divergence](log_p[:, None], log_q).mean(1)
            terms |= {"sensitivity": s.mean(), "sua_positive": (s - self.lam * entropy).relu().mean()}
        loss = terms["task"] + sum(weight * terms[name] for name, weight in
                                   (("sensitivity", self.consistency), ("sua_positive", self.alignment)) if weight)
        return loss, {**terms, "entropy": entropy.mean()}


OBJECTIVES: dict[str, Objective] = {
    "erm": Objective(),
    "augment": Objective(k=4, augment=0.8),  # x and its four variants weigh the same
    "sua_tr": Objective(k=4, consistency=1.0, alignment=1.0),
}


class VariantData(torch.utils.data.Dataset):
    """Items with k fresh variants each epoch, a function of (seed, epoch, item) alone, so that a resumed run draws
    what the uninterrupted one would have drawn."""

    def __init__(self, split, tokenizer, perturbation: Perturbation | None, k: int, max_length: int, seed: int):
        self.inputs, self.labels = inputs(split), list(split["label"])
        self.tokenizer, self.perturbation, self.k = tokenizer, perturbation, k
        self.max_length, self.seed, self.epoch = max_length, seed, 0

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, i):
        rng = np.random.default_rng([self.seed, self.epoch, i])
        drawn = self.perturbation.sample(self.inputs[i], self.k, rng) if self.k else []
        encoded = encode(self.tokenizer, [self.inputs[i], *drawn], self.max_length)
        return {"item": i, "label": self.labels[i], "encoded": encoded}

    def collate(self, items):
        """Clean rows first, then the variants item by item, in one padding: one forward pass of (K+1)B rows."""
        rows = [(item["encoded"], 0) for item in items]
        rows += [(item["encoded"], 1 + j) for item in items for j in range(self.k)]
        batch = {name: [encoded[name][j] for encoded, j in rows] for name in items[0]["encoded"]}
        return {**self.tokenizer.pad(batch, return_tensors="pt"),
                "labels": torch.tensor([item["label"] for item in items]),
                "items": torch.tensor([item["item"] for item in items])}


class SUATrainer(transformers.Trainer):
    """transformers.Trainer on an `Objective`: one forward pass over the clean rows and their variants.

    data : a Task split. Logs task, sensitivity, entropy and E(SUA)_+ beside the loss.
    Raises FloatingPointError on a loss that is not finite, with the step, the terms and the items of the batch.
    """

    def __init__(self, classifier: EncoderClassifier, args: transformers.TrainingArguments, data,
                 objective: Objective = OBJECTIVES["erm"], perturbation: Perturbation | None = None, **options):
        args.remove_unused_columns = False
        train = VariantData(data, classifier.tokenizer, perturbation, objective.k, classifier.max_length, args.seed)
        super().__init__(model=classifier.model, args=args, train_dataset=train, data_collator=train.collate,
                         processing_class=classifier.tokenizer, **options)
        self.objective, self.model_accepts_loss_kwargs = objective, False
        self._sums, self._steps = {}, 0

    def compute_loss(self, model, batch, return_outputs=False, num_items_in_batch=None):
        batch = dict(batch)
        labels, items = batch.pop("labels"), batch.pop("items")
        outputs = model(**batch)
        logits = outputs.logits.float()
        b = len(labels)
        loss, terms = self.objective(logits[:b], logits[b:].unflatten(0, (b, -1)) if self.objective.k else None, labels)
        terms = {name: value.detach() for name, value in terms.items()}
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss.item()} at step {self.state.global_step}, terms "
                f"{ {name: value.item() for name, value in terms.items()} }, items {items.tolist()}: lower the "
                "learning rate, clip gradients or look at these items")
        self._sums = {name: self._sums.get(name, 0) + value for name, value in terms.items()}
        self._steps += 1
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, *args, **kwargs):
        if self._steps and "loss" in logs:
            logs |= {name: float(value) / self._steps for name, value in self._sums.items()}
            self._sums, self._steps = {}, 0
        super().log(logs, *args, **kwargs)


def train(model: str, task: Task, objective: Objective, perturbation: Perturbation | None = None, seed: int = 0, *,
          epochs: int = 3, batch_size: int = 32, learning_rate: float = 5e-5, cache=None, **model_options):
    """Train a model on task["train"] and return (EncoderClassifier, log); resumes what was interrupted.

    model : "tiny" (a two-layer BERT from scratch) or what `load_model` takes. log : one dict of loss terms per epoch.
    cache : a folder; the finished model is kept there under a hash of everything it depends on and found again.
    Two processes that ask for the same model train it once.
    """
    if objective.k and perturbation is None:
        raise ValueError(f"the objective uses k = {objective.k} variants per item: give a perturbation to draw them")
    recipe = {"model": model, "task": task.name, "data": task.digest, "objective": asdict(objective), "seed": seed,
              "perturbation": perturbation.name if objective.k else None, "epochs": epochs, "batch_size": batch_size,
              "learning_rate": learning_rate, "model_options": model_options,
              "code": paths.code_digest("training", "models", "perturb", "worlds"),
              "versions": [torch.__version__, transformers.__version__], "threads": torch.get_num_threads()}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()[:16]
    classifier = _untrained(model, task, seed, model_options)
    if cache is None:
        with tempfile.TemporaryDirectory() as folder:
            return _fit(classifier, task, objective, perturbation, seed, epochs, batch_size, learning_rate, folder)
    folder = Path(cache) / f"{task.name}-{Path(model).name}-{_title(objective)}-seed{seed}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "log.json").exists():
            classifier, log = _fit(classifier, task, objective, perturbation, seed, epochs, batch_size,
                                   learning_rate, folder / "checkpoints")
            classifier.save(folder / "model")
            (folder / "recipe.json").write_text(json.dumps(recipe, indent=1, sort_keys=True, default=str))
            unfinished = folder / ".log.json"
            unfinished.write_text(json.dumps(log))
            os.replace(unfinished, folder / "log.json")  # last, so that its presence means finished
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    trained = load_model(folder / "model", name=classifier.name, batch_size=classifier.batch_size,
                         max_length=classifier.max_length, cache=folder / "probabilities")
    return trained, json.loads((folder / "log.json").read_text())


def _title(objective):
    return next((name for name, known in OBJECTIVES.items() if known == objective), "custom")


def _untrained(model, task, seed, options):
    if model == "tiny":
        known = [text for split in task.splits.values() for text in inputs(split)]  # words only, no labels
        return tiny_encoder(known, task.n_classes, seed, **options)
    return load_model(model, task.n_classes, seed, **options)


def _fit(classifier, task, objective, perturbation, seed, epochs, batch_size, learning_rate, folder):
    args = transformers.TrainingArguments(
        output_dir=str(folder), seed=seed, data_seed=seed, num_train_epochs=epochs, learning_rate=learning_rate,
        per_device_train_batch_size=batch_size, weight_decay=0.01, warmup_steps=0.1, lr_scheduler_type="linear",
        logging_strategy="epoch", save_strategy="epoch", save_total_limit=2, report_to=[], disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available())
    trainer = SUATrainer(classifier, args, task["train"], objective, perturbation, callbacks=[
        _CompleteCheckpoints(), _Bar(f"train {task.name} {_title(objective)} seed {seed}")])
    trainer.remove_callback(transformers.PrinterCallback)
    with quiet(transformers):
        trainer.train(resume_from_checkpoint=_CompleteCheckpoints.last(folder))
    classifier.model.eval()
    return classifier, [entry for entry in trainer.state.log_history if "loss" in entry]


class _CompleteCheckpoints(transformers.TrainerCallback):
    """Marks each checkpoint once all its files are written: a kill in between leaves it unmarked and unused."""

    def on_save(self, args, state, control, **_):
        Path(args.output_dir, f"checkpoint-{state.global_step}", "complete").touch()

    @staticmethod
    def last(folder) -> str | None:
        complete = sorted(Path(folder).glob("checkpoint-*/complete"), key=lambda file: int(file.parent.name[11:]))
        for broken in set(Path(folder).glob("checkpoint-*")) - {file.parent for file in complete}:
            shutil.rmtree(broken)
        return str(complete[-1].parent) if complete else None


class _Bar(transformers.TrainerCallback):
    def __init__(self, title):
        self.title = title

    def on_train_begin(self, args, state, control, **_):
        self.bar = progress(total=state.max_steps, desc=self.title)
        self.bar.update(state.global_step)

    def on_step_end(self, args, state, control, **_):
        self.bar.update()

    def on_train_end(self, args, state, control, **_):
        self.bar.close()

