"""Costs as ratios within one run, so that they hold on any machine: `python tests/bench.py [name ...]`.

Each benchmark returns rows (what, ratio, accepted): medians over interleaved repetitions, `accepted` None for
information only. The exit status is 1 if a ratio exceeds what is accepted.
"""

import sys
import tempfile
import time
from statistics import median

import torch
import torch.nn.functional as F
import transformers

import sua
from sua.models import tiny_encoder
from sua.tasks import inputs
from sua.training import SUATrainer

SIZES = {"train": 320, "validation": 1, "calibration": 1, "test": 1}


def seconds(*actions, repetitions=15):
    """Median seconds of each action, taken in turns, after one turn to warm up."""
    spent = [[] for _ in actions]
    for turn in range(repetitions + 1):
        for times, action in zip(spent, actions):
            start = time.perf_counter()
            action()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                times.append(time.perf_counter() - start)
    return [median(times) for times in spent]


def peak_bytes(action):
    """Most bytes in tensors that were alive at once during the action, beyond those before it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        action()
    alive = peak = 0
    for event in sorted((e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"),
                        key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def objective_step():
    """A step of an objective over plain cross-entropy on the same (K+1)B rows: forward, backward, AdamW."""
    task = sua.load_task("topic", SIZES)
    rows = []
    for name in ("sua_tr", "sua_tr_repaired"):
        classifier = tiny_encoder(inputs(task["train"]), task.n_classes, hidden=128, layers=4)
        with tempfile.TemporaryDirectory() as folder:
            args = transformers.TrainingArguments(folder, use_cpu=not torch.cuda.is_available(), report_to=[])
            trainer = SUATrainer(classifier, args, task["train"], sua.OBJECTIVES[name], task.perturbation("synonyms"))
        batch = trainer.train_dataset.collate([trainer.train_dataset[i] for i in range(32)])
        batch = {key: value.to(args.device) for key, value in batch.items()}
        features = {key: value for key, value in batch.items() if key not in ("labels", "items")}
        labels = torch.cat([batch["labels"], batch["labels"].repeat_interleave(4)])
        model, optimizer = classifier.model.train(), torch.optim.AdamW(classifier.model.parameters())

        def step(loss):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        ours = lambda: step(trainer.compute_loss(model, batch))
        plain = lambda: step(F.cross_entropy(model(**features).logits, labels))
        (time_ours, time_plain), memory = seconds(ours, plain), peak_bytes(ours) / peak_bytes(plain)
        rows += [(f"{name}: step time", time_ours / time_plain, 1.10), (f"{name}: peak memory", memory, 1.10)]
    return rows


def equal_compute():
    """Whole trainings at compute_k = 4, drawing and tokenising variants included, over those of plain fine-tuning."""
    task = sua.load_task("topic", SIZES)
    names = ("erm", "augment", "r_drop", "adversarial", "sua_tr", "sua_tr_repaired")
    run = lambda name: lambda: sua.train("tiny", task, sua.OBJECTIVES[name], task.perturbation("synonyms"), epochs=1,
                                         compute_k=4, hidden=128, layers=4)
    erm, *others = seconds(*map(run, names), repetitions=3)
    return [(f"{name}: training time", other / erm, None) for name, other in zip(names[1:], others)]


BENCHMARKS = {"objective_step": objective_step, "equal_compute": equal_compute}

if __name__ == "__main__":
    failed = False
    for chosen in sys.argv[1:] or BENCHMARKS:
        print(f"{chosen}: {BENCHMARKS[chosen].__doc__}")
        for what, ratio, accepted in BENCHMARKS[chosen]():
            failed |= accepted is not None and ratio > accepted
            print(f"  {what:36s} {ratio:6.3f}" + (f"  (accepted: {accepted:.2f})" if accepted else ""), flush=True)
    sys.exit(failed)
