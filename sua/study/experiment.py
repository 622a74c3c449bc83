"""Experiments: one setting (task, model, training, kernels) run over objectives and seeds, on several cores.

A setting is plain data, as a profile writes it:

    {task: {name: topic, sizes: {...}}, model: tiny, training: {epochs: 20, ...}, perturbation: [synonyms, wording]}

where `training` holds arguments of `sua.train`.

Every run trains a model (or finds it in the cache), lets it see each split and K variants of each input, and saves
these Predictions; everything afterwards works from the files.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partialmethod
from pathlib import Path
from typing import Callable, Mapping, Sequence

import numpy as np

from ..divergences import FLOOR
from ..perturb import Perturbation, given
from ..predict import predict
from ..predictions import Predictions
from ..tasks.hub import SNLI, labelled_rows
from ..tasks.load import load_task
from ..tasks.recorded import advglue, checklist_groups
from ..tasks.task import Task
from ..training.objectives import Objective

SPLITS = ("validation", "calibration", "test")


@dataclass(frozen=True)
class Run:
    """One model of an experiment: `training` names it, `objective` and the setting make it.

    full : also keep logits, features and `dropout` stochastic passes, which the scores of a table need.
    attacks : kernels that training did not draw from, by which the test inputs are perturbed too; or ("advglue",) for
        the attacks of Adversarial GLUE on this task, which bring their own inputs.
    beside : names in BESIDE, sets that bring their own inputs, whose answers are saved under that name.
    probe : log the entropy on ambiguous and on clear test inputs after each epoch, for a task that knows them.
    start : the run whose model training goes on from, for an objective that teaches what a model says.
    """

    experiment: str
    setting: Mapping
    training: str
    objective: Objective
    seed: int
    k: int = 8
    samples: int = 0
    full: bool = False
    dropout: int = 0
    attacks: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    probe: bool = False
    splits: tuple[str, ...] = SPLITS
    start: Run | None = None

    def file(self, folder: Path, split: str) -> Path:
        """Where the predictions on a split are; "attack" is the test split under unseen kernels, or what they bring."""
        return Path(folder) / f"{self.experiment}-{self.training}-{self.seed}-{split}.parquet"


def world_setting(world: str, train: int, epochs: int, learning_rate: float, model: str = "tiny",
                  perturbation: Sequence[str] = ("synonyms", "wording")) -> dict:
    """The setting of a generated world in small steps on few inputs, where training methods differ most."""
    return {"task": {"name": world, "sizes": {"train": train, "validation": 200, "calibration": 500, "test": 1000}},
            "model": model, "perturbation": list(perturbation),
            "training": {"epochs": epochs, "batch_size": 8, "learning_rate": learning_rate, "compute_k": 4}}


def varied(setting: Mapping, objective: Objective, changes: Mapping) -> tuple[dict, Objective]:
    """Setting and objective with `changes` to fields of the objective, of the setting's training, or its perturbation.

    learning_rate_scale multiplies the setting's own learning rate. ValueError for a name that is none of these.
    """
    changes = dict(changes)
    if scale := changes.pop("learning_rate_scale", None):
        changes["learning_rate"] = scale * setting["training"]["learning_rate"]
    own = {name: changes[name] for name in changes if name in {f.name for f in fields(Objective)}}
    training = {name: changes[name] for name in changes if name in setting["training"]}
    rest = {name: changes[name] for name in changes if name == "perturbation"}
    if unknown := set(changes) - set(own) - set(training) - set(rest):
        raise ValueError(f"unknown changes {sorted(unknown)}; an objective has {[f.name for f in fields(Objective)]}, "
                         f"this training {list(setting['training'])}, and there is perturbation")
    return {**setting, **rest, "training": {**setting["training"], **training}}, replace(objective, **own)


@lru_cache(maxsize=4)
def _task(spec: str) -> Task:
    return load_task(**json.loads(spec))


def task_of(setting: Mapping) -> Task:
    """The task that a setting names; loaded once per process."""
    return _task(json.dumps(setting["task"], sort_keys=True))


def kernel_of(setting: Mapping, names: Sequence[str] | None = None) -> Perturbation:
    """The kernel of that name, or the setting's own; made once per process, so that its variants are drawn once."""
    names = setting["perturbation"] if names is None else names
    return _kernel(json.dumps(setting["task"], sort_keys=True), names if isinstance(names, str) else tuple(names))


@lru_cache(maxsize=16)
def _kernel(spec, names):
    return _task(spec).perturbation(names)


def trained(run: Run, cache: Path | str) -> "tuple[EncoderClassifier, list[dict]]":
    """(model, training log) of a run; found in the cache if it was trained before."""
    from ..training.trainer import train

    task = task_of(run.setting)
    probes = {name: task["test"].select(np.flatnonzero(np.array(task["test"]["ambiguous"]) == ambiguous))
              for name, ambiguous in (("ambiguous", True), ("clear", False))} if run.probe else None
    start = run.start and trained(run.start, cache)[0]
    return train(run.setting["model"], task, run.objective, kernel_of(run.setting), run.seed, cache=cache,
                 probes=probes, start=start, **run.setting["training"])


CHECKLIST_TEXTS = 1000  # of more groups, whose tests take turns


def _checklist():
    """Pairs of texts that people wrote to have one label: x, and one of the others of its group."""
    groups = {x: others for x, row in checklist_groups().items() if (others := [text for text in row if text != x])}
    groups = dict(list(groups.items())[:CHECKLIST_TEXTS])
    return {"data": list(groups), "perturbation": given(groups), "k": 1}


BESIDE = {"checklist": _checklist, "snli": lambda: {"data": labelled_rows(SNLI, "validation")[0]}}  # for `predict`


def execute(run: Run, folder: Path | str, cache: Path | str) -> list[dict]:
    """Train, predict on every split and save; returns the training log, each entry with the run's names."""
    classifier, log = trained(run, cache)
    task = task_of(run.setting)
    kernel = kernel_of(run.setting)
    facts = {"task": run.experiment, "training": run.training, "training_seed": run.seed,
             **({"truth": "exact"} if task.p_star else {})}
    for split in run.splits:
        keep = run.full and split != "validation"
        predict(classifier, task[split], kernel, run.k, samples=run.samples, internals=keep,
                dropout=run.dropout if keep else 0, meta={**facts, "split": split}).save(run.file(folder, split))
    if run.attacks and "test" in run.splits:
        own = run.attacks == ("advglue",)
        data, attack = (advglue(task.name), None) if own else (task["test"], kernel_of(run.setting, run.attacks))
        predict(classifier, data, attack, run.k, meta={**facts, "split": "attack"}).save(run.file(folder, "attack"))
    for name in run.beside:
        predict(classifier, **BESIDE[name](), meta={**facts, "split": name}).save(run.file(folder, name))
    return [{"experiment": run.experiment, "training": run.training, "seed": run.seed, **entry} for entry in log]


def execute_all(runs: Sequence[Run], folder: Path | str, cache: Path | str, workers: int = 1) -> list[dict]:
    """`execute` for every run, in `workers` processes; all logs, in the order of the runs.

    A model that was trained before is found in the cache, so an interrupted call goes on where it was.
    """
    logs = in_processes(execute, [(run, folder, cache) for run in runs], workers, "experiments")
    return [entry for of_run in logs for entry in of_run]


def in_processes(function: Callable, jobs: Sequence[tuple], workers: int, desc: str) -> list:
    """[function(*job) for job in jobs] in `workers` processes of one thread each, under one bar.

    Give one worker, which is this process, where models share a GPU. ValueError for fewer.
    """
    from ..models.common import progress

    if workers < 1:
        raise ValueError(f"workers = {workers}: give at least one")
    with progress(total=len(jobs), desc=desc) as bar:
        if workers == 1 or len(jobs) == 1:
            found = []
            for job in jobs:
                found.append(function(*job))
                bar.update()
            return found
        with ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn"), _prepare_worker,
                                 (os.getpid(),)) as pool:
            waiting = [pool.submit(function, *job) for job in jobs]
            for future in waiting:
                future.add_done_callback(lambda _: bar.update())
            try:
                return [future.result() for future in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _prepare_worker(parent):
    import torch
    from tqdm import tqdm

    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)  # the parent shows one bar for all
    torch.set_num_threads(1)

    def end_with_parent():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # a killed parent cannot tell its workers to stop

    threading.Thread(target=end_with_parent, daemon=True).start()


def saved(runs: Mapping[object, Run], folder: Path | str, split: str) -> dict[object, Predictions]:
    """{key: what the run's model answered on the split}, as `execute_all` saved it; for "attack" see `Run.file`."""
    return {key: Predictions.load(run.file(folder, split)) for key, run in runs.items()}


def select(candidates: Mapping[str, Sequence[Run]], folder: Path | str, cache: Path | str, workers: int = 1
           ) -> dict[str, tuple[int, list]]:
    """For each method the candidate of least validation loss: {method: (index, [loss of each])}.

    The loss is the mean log-loss over the inputs and their variants: it sees accuracy, robustness and calibration
    alike. Every method needs the same number of candidates, so that none has more chances to be lucky.
    """
    counts = {name: len(runs) for name, runs in candidates.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"methods have different numbers of candidates: {counts}; give each as many")
    execute_all([run for runs in candidates.values() for run in runs], folder, cache, workers)
    losses = {name: [orbit_log_loss(p) for p in saved(dict(enumerate(runs)), folder, "validation").values()]
              for name, runs in candidates.items()}
    return {name: (int(np.argmin(values)), values) for name, values in losses.items()}


def orbit_log_loss(predictions: Predictions) -> float:
    """Mean -ln p(label) over the inputs and their variants, nats."""
    of_label = np.take_along_axis(predictions.orbit, predictions.require("labels")[:, None, None], -1)
    return float(-np.log(np.maximum(of_label, FLOOR)).mean())
