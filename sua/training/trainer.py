"""Training on an `Objective`: the trainer, and `train` with its cache, resumption and equal compute.

One forward pass takes the clean rows and their variants in one padding; variants are drawn afresh in every epoch.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Mapping

import numpy as np
import torch
import transformers
from datasets import Dataset
from filelock import FileLock

from .. import files, paths, scores
from ..inputs import expect, inputs
from ..models.common import progress, quiet, wide
from ..models.encoder import EncoderClassifier
from ..models.load import fast_in_bfloat16, load_model
from ..models.tiny import tiny_encoder, tiny_llama
from ..perturb import Perturbation, variants
from ..tasks.task import Task
from .data import VariantData, needed_perturbation, teacher_answers
from .objectives import ADVERSARIAL, OBJECTIVES, Objective, adversarial_logits

# Part of the key under which trained models are kept. Raise it with any change of the code after which a training ends
# in other weights; tests/training/test_golden.py notices such a change.
RECIPE = 1
PROBED = 20  # training inputs whose variants tell one kernel from another
SAVE_EVERY = 10  # seconds between checkpoints; most tiny models train in less and need none


class SUATrainer(transformers.Trainer):
    """transformers.Trainer on an `Objective`: one forward pass over the clean rows and their variants.

    data : a Task split. With args.max_steps the items are one endless shuffled stream in full batches, of like length
    if args.train_sampling_strategy is "group_by_length". teacher : (N, C) answers to it of a model that does not change
    (`teacher_answers`). probes : named splits. Logs task, sensitivity, entropy and sua_positive, means over the steps
    and processes since the last entry, and entropy_<name>, the mean entropy (nats) of p on each probe, beside the loss.
    Raises FloatingPointError on a loss that is not finite, with the step, the terms and the items of the batch.
    """

    def __init__(self, classifier: EncoderClassifier, args: transformers.TrainingArguments, data: Dataset,
                 objective: Objective = OBJECTIVES["erm"], perturbation: Perturbation | None = None,
                 probes: Mapping[str, Dataset] | None = None, teacher: np.ndarray | None = None,
                 **options: object):
        grouped = args.train_sampling_strategy == "group_by_length"
        args.remove_unused_columns, args.train_sampling_strategy = False, "sequential"  # the data shuffle themselves
        per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        train = VariantData(data, classifier, objective, perturbation, args.seed, max(args.max_steps, 0) * per_step,
                            teacher)
        if grouped:
            train.group_by_length(args.train_batch_size)
        super().__init__(model=classifier.model, args=args, train_dataset=train, data_collator=train.collate,
                         processing_class=classifier.tokenizer, **options)
        self.classifier, self.objective, self.model_accepts_loss_kwargs = classifier, objective, False
        self.probes = {name: inputs(split) for name, split in (probes or {}).items()}
        self._sums, self._steps = {}, 0

    def compute_loss(self, model: torch.nn.Module, batch: Mapping, return_outputs: bool = False,
                     num_items_in_batch: int | None = None) -> torch.Tensor | tuple[torch.Tensor, dict]:
        batch, objective = dict(batch), self.objective
        labels, items = batch.pop("labels", None), batch.pop("items")  # (B,) each
        reference, columns = batch.pop("reference", None), batch.pop("columns", None)  # (B, C), (V, K, C)

        def forward():
            return self.classifier.class_logits(wide(self.classifier.forward(model, batch).logits))

        # logits : (B, C) at the items. variants : (V, K, C) at the variants of the first V of them
        if objective.variants in ADVERSARIAL:
            logits, variants = adversarial_logits(objective, forward, self.model.get_input_embeddings(), batch, labels)
        elif objective.k:
            rows = forward()  # (B + V K, C)
            clean = 0 if objective.on_variants_alone else len(items)
            logits, variants = rows[:clean], rows[clean:].unflatten(0, (-1, objective.k))
            if columns is not None:  # options in the order of the item
                variants = variants.gather(-1, columns)
            logits = logits if clean else variants[:, 0]
        else:
            logits, variants = forward(), None

        if reference is not None:  # a batch may have fewer options than the longest question
            reference = reference[:, :logits.shape[-1]]
        loss, terms = objective(logits, variants, labels, reference)
        terms = {name: value.detach() for name, value in terms.items()}
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss.item()} at step {self.state.global_step}, terms "
                f"{ {name: value.item() for name, value in terms.items()} }, items {items.tolist()}: lower the "
                "learning rate, clip gradients or look at these items")

        # for the log: sums of the terms since its last entry
        self._sums = {name: self._sums.get(name, 0) + value for name, value in terms.items()}
        self._steps += 1
        return (loss, {"logits": logits}) if return_outputs else loss

    def floating_point_ops(self, batch: Mapping) -> int:
        return 0  # nobody reads this count, and in a tiny model it takes as long as the optimizer

    def log(self, logs: dict[str, float], *args: object, **kwargs: object) -> None:
        if self._steps and "loss" in logs:
            means = self.accelerator.reduce(torch.stack([*self._sums.values()]) / self._steps, "mean")
            logs |= dict(zip(self._sums, means.tolist()))
            logs |= {f"entropy_{name}": float(scores.entropy(self.classifier.predict_proba(probe)).mean())
                     for name, probe in self.probes.items()}
            self._sums, self._steps = {}, 0
        super().log(logs, *args, **kwargs)


def train(model: str, task: Task, objective: Objective, perturbation: Perturbation | None = None, seed: int = 0, *,
          epochs: int = 3, batch_size: int = 32, compute_k: int | None = None, learning_rate: float = 5e-5,
          probes: Mapping[str, Dataset] | None = None, lora: Mapping | None = None, arguments: Mapping | None = None,
          cache: Path | str | None = None, start: EncoderClassifier | None = None, **model_options: object
          ) -> tuple[EncoderClassifier, list[dict]]:
    """Train a model on task["train"] and return (EncoderClassifier, log); resumes what was interrupted.

    model : "tiny" (a two-layer BERT from scratch), "tiny_llama", or what `load_model` takes, with causal=True for a
    causal model whose options are the task's label names; model_options go to either, such as dtype: by default the
    tiny ones train in float64, which makes their numbers the same on every processor, others in float32.
    epochs, batch_size : there are epochs * ceil(N / batch_size) optimizer steps, whatever the objective.
    compute_k : equal compute for all objectives. A step has batch_size * (compute_k + 1) rows, so that an objective of
    fewer passes per item sees more items, and more often. None: batch_size items, over all processes, per step.
    probes : named splits whose mean entropy the log follows.
    lora : fields of peft.LoraConfig, e.g. {"r": 8}; the adapters are merged at the end. Needs the extra `lm`.
    arguments : further transformers.TrainingArguments. {"bf16": True} trains in mixed precision where that is fast, on
    GPUs and on processors with bf16 instructions, in about half the time; elsewhere it is left out.
    {"train_sampling_strategy": "group_by_length"} puts items of like length into one batch: a few long texts among
    short ones no longer make every batch long.
    log : one dict of loss terms at each of `epochs` equally spaced points.
    start : a trained classifier of the same architecture and vocabulary, from whose weights training goes on. It is
    also the frozen teacher of an objective with that target; without it the teacher is the model as it was loaded.
    cache : a folder; the finished model is kept there and found again under a hash of its recipe: data, what the kernel
    draws, initial weights, objective, arguments, versions, and the number RECIPE. Moving or renaming code changes none.
    Two processes that ask for the same model train it once; those of one `accelerate launch` train it together.
    Raises ValueError for epochs or batch_size < 1, and where an objective without labels or with a teacher would start
    from random weights.
    """
    for argument, value in (("epochs", epochs), ("batch_size", batch_size)):
        expect(value >= 1, f"{argument} = {value}: give at least 1")
    perturbation = needed_perturbation(perturbation, objective)
    expect(start is not None or not objective.from_trained or model not in ("tiny", "tiny_llama"), lambda: "objective "
           f"{objective.name!r} teaches what a model says, and {model!r} starts from random weights: give a trained "
           "one as start")
    if arguments and arguments.get("bf16") and not (torch.cuda.is_available() or fast_in_bfloat16()):
        arguments = {**arguments, "bf16": False}
    classifier = _untrained(model, task, seed, model_options)
    if start is not None:
        _go_on_from(classifier, start)
    drawn = perturbation and variants(inputs(task["train"])[:PROBED], perturbation, 2)
    recipe = {
        "recipe": RECIPE,
        "model": model,
        "model_options": model_options,
        "weights": _weights_digest(classifier.model),
        "task": task.name,
        "data": task.digest,
        "objective": asdict(objective),
        "perturbation": perturbation and [perturbation.name, _digest(drawn)],
        "seed": seed,
        "epochs": epochs,
        "batch_size": batch_size,
        "compute_k": compute_k,
        "learning_rate": learning_rate,
        "lora": lora,
        "arguments": arguments,
        "probes": {name: _digest(inputs(split)) for name, split in (probes or {}).items()},
        "versions": [torch.__version__, transformers.__version__],
        "threads": torch.get_num_threads(),
    }
    per_epoch = math.ceil(len(task["train"]) / batch_size)
    items = batch_size if compute_k is None else max(1, round(batch_size * (compute_k + 1) / objective.passes))
    args = transformers.TrainingArguments(**{
        "seed": seed, "data_seed": seed, "max_steps": epochs * per_epoch, "logging_steps": per_epoch,
        "save_steps": per_epoch, "save_strategy": "no" if cache is None else "steps", "save_total_limit": 2,
        "learning_rate": learning_rate, "weight_decay": 0.01, "warmup_steps": 0.1, "lr_scheduler_type": "linear",
        "use_cpu": not torch.cuda.is_available(), "dataloader_pin_memory": torch.cuda.is_available(),
        "report_to": [], "disable_tqdm": True, **(arguments or {})})
    parts = max(1, args.n_gpu) * args.world_size * args.gradient_accumulation_steps
    args.per_device_train_batch_size = max(1, round(items / parts))
    teacher = partial(_teacher, start or classifier, task["train"], objective, perturbation, seed, args.should_save)
    fit = partial(_fit, classifier, args, task, objective, perturbation, probes, lora, teacher)
    if cache is None:
        with tempfile.TemporaryDirectory() as folder:
            return classifier, fit(folder)
    digest = _digest(json.dumps(recipe, sort_keys=True, default=str))
    folder = Path(cache) / f"{task.name}-{Path(model).name}-{objective.name}-seed{seed}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    paths.tell_runner("notes", f"{classifier.name} trains and answers in {classifier.dtype}")
    paths.tell_runner("notes", f"{folder.name}: {len(task['train'])} training rows, {args.max_steps} steps of {items} "
                      "items")
    with _one_training(folder, args):
        if _finished(folder) is None:
            log = fit(folder / "checkpoints")
            if args.should_save:
                with quiet(transformers):
                    classifier.save(folder / ".model")
                files.put(folder / ".model", folder / "model")
                files.write_text(folder / "recipe.json", json.dumps(recipe, indent=1, sort_keys=True, default=str))
                files.write_text(folder / "log.json", json.dumps(log))  # last, so that its presence means finished
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    trained = load_model(folder / "model", name=classifier.name, batch_size=classifier.batch_size,
                         max_length=classifier.max_length, cache=folder / "probabilities")
    return trained, _finished(folder)


def _finished(folder):
    """The log of a finished training, or None; a damaged one makes it train again."""
    try:
        log = json.loads((folder / "log.json").read_bytes())
        return log if isinstance(log, list) else None
    except (FileNotFoundError, ValueError):
        return None


def _digest(value):
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _weights_digest(model):
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def _one_training(folder, args):
    """The main process holds the folder's lock; the others of its launch enter and leave with it."""
    with FileLock(folder / "lock") if args.should_save else nullcontext():
        args.distributed_state.wait_for_everyone()
        yield
        args.distributed_state.wait_for_everyone()


def _untrained(model, task, seed, options):
    known = [text for split in task.splits.values() for text in inputs(split)]  # words only, no labels
    if model == "tiny_llama":
        return tiny_llama(known, None if task.is_multiple_choice else task.label_names, seed, **options)
    if task.is_multiple_choice and not options.get("causal"):
        options = {"choice": True, **options}
    if model == "tiny":
        return tiny_encoder(known, task.n_classes, seed, **options)
    if options.get("causal") and not task.is_multiple_choice:
        options = {"answers": task.label_names, **options}
    if options.get("causal") and not torch.cuda.is_available():  # small steps are lost in bfloat16
        options = {"dtype": "float32", **options}
    return load_model(model, task.n_classes, seed, **options)


def _go_on_from(classifier, start):
    try:
        classifier.model.load_state_dict(start.model.state_dict())
    except RuntimeError as error:
        raise ValueError(f"start = {start.name!r} has other weights than the model to train: train it by the same "
                         f"model, options and task ({str(error).splitlines()[-1].strip()})") from None


def _teacher(model, split, objective, perturbation, seed, is_keeper, folder):
    """The teacher's answers, or None; a resumed training finds those that it began with."""
    if objective.target != "teacher":
        return None
    file = Path(folder) / "teacher.npy"
    if file.exists():
        return np.load(file)
    answers = teacher_answers(model, split, objective, perturbation, seed)
    if is_keeper:
        with files.whole(file) as unfinished:
            np.save(unfinished, answers)
    return answers


def _fit(classifier, args, task, objective, perturbation, probes, lora, teacher, folder):
    args.output_dir = str(folder)
    answers = teacher(folder)
    if lora is not None:
        import peft

        classifier.model = peft.get_peft_model(classifier.model, peft.LoraConfig(
            task_type=classifier.adapter_task, **lora))
    trainer = SUATrainer(classifier, args, task["train"], objective, perturbation, probes, answers, callbacks=[
        _CompleteCheckpoints(), _Bar(f"train {task.name} {objective.name} seed {args.seed}")])
    trainer.remove_callback(transformers.PrinterCallback)
    with quiet(transformers):
        trainer.train(resume_from_checkpoint=_CompleteCheckpoints.last(folder))
    classifier.model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    if lora is not None:
        classifier.model = classifier.model.merge_and_unload()
    classifier.model.eval()
    return [{**entry, "epoch": entry["step"] / args.logging_steps}
            for entry in trainer.state.log_history if "loss" in entry]


class _CompleteCheckpoints(transformers.TrainerCallback):
    """Marks each checkpoint once all its files are written: a kill in between leaves it unmarked and unused.

    A single process leaves out those that come within SAVE_EVERY seconds of the last, and the one at the end, where the
    model itself is saved; several processes would have to agree on the time.
    """

    def on_train_begin(self, args, state, control, **_):
        self.last_saved = time.monotonic()

    def on_step_end(self, args, state, control, **_):
        early = time.monotonic() - self.last_saved < SAVE_EVERY
        if args.world_size == 1 and (early or state.global_step >= state.max_steps):
            control.should_save = False

    def on_save(self, args, state, control, **_):
        args.distributed_state.wait_for_everyone()
        self.last_saved = time.monotonic()
        Path(args.output_dir, f"checkpoint-{state.global_step}", "complete").touch()

    @staticmethod
    def last(folder) -> str | None:
        complete = sorted(Path(folder).glob("checkpoint-*/complete"), key=lambda file: int(file.parent.name[11:]))
        for broken in set(Path(folder).glob("checkpoint-*")) - {file.parent for file in complete}:
            shutil.rmtree(broken, ignore_errors=True)
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
