"""A comparison of training methods: the runs it takes, and its tables. Notebook 03 says what is compared, and why.

A training is a method, or "method: change" for an ablation of it. Runs and what they give are kept in mappings with
keys (experiment, training, seed).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from .. import metrics
from ..inputs import expect, inputs
from ..paths import NotAvailableError
from ..perturb import audit, given
from ..predictions import Predictions
from ..tasks.recorded import checklist_groups
from ..tasks.task import Task
from ..training.objectives import OBJECTIVES, Objective
from .experiment import Run, task_of, varied

START = "erm"  # what teaches, and is trained further, where a method needs a model that knows something
CHECKED_BY_PEOPLE = ("advglue", "option_order")  # attacks that people checked, the same options in another order


@dataclass(frozen=True)
class Comparison:
    """Experiments x methods x seeds, as a profile writes them.

    experiments : {experiment: setting}. methods : {name in OBJECTIVES: candidates}, each candidate the changes that
    `varied` takes. seeds : one training for each. k : variants per input that a trained model sees. only : {experiment:
    methods}, where not all are trained. attacks : {experiment: kernels} that no training drew from. beside :
    {experiment: sets of its own inputs} that its models are asked too. trial : share of a training's steps that a
    candidate gets.

    starts : {experiment: changes} of START, whose model of the same seed is what a method starts from that needs a
    trained one. Such a method trains as long again: it has twice the compute of the others, its teacher's answers on
    top.
    """

    experiments: Mapping[str, Mapping]
    methods: Mapping[str, Sequence[Mapping]]
    seeds: Sequence[int]
    k: int
    only: Mapping[str, Sequence[str]] = field(default_factory=dict)
    attacks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    starts: Mapping[str, Mapping] = field(default_factory=dict)
    beside: Mapping[str, Sequence[str]] = field(default_factory=dict)
    trial: float = 1.0

    def methods_of(self, experiment: str) -> list[str]:
        """The methods that are trained in an experiment: those of `only`, soft labels where the data have them."""
        columns = task_of(self.experiments[experiment])["train"].column_names
        return [name for name in self.methods if name in self.only.get(experiment, self.methods)
                and (OBJECTIVES[name].target != "label_dist" or "label_dist" in columns)]

    def pairs(self) -> list[tuple[str, str]]:
        """All (experiment, method) that are trained."""
        return [(experiment, method) for experiment in self.experiments for method in self.methods_of(experiment)]

    def candidates(self) -> dict[tuple[str, str], list[Run]]:
        """{(experiment, method): a run for each candidate}, with the first seed, looked at on validation inputs."""
        return {(experiment, method): [
                    self._on_trial(self._run(experiment, f"{method}~{i}", method, self.seeds[0], changes,
                                             splits=("validation",))) for i, changes in enumerate(self.methods[method])]
                for experiment, method in self.pairs()}

    def _on_trial(self, run):
        """The run with `trial` of its steps; its learning rate falls to 0 over these."""
        if self.trial == 1:
            return run
        training = run.setting["training"]
        steps = math.ceil(self.trial * training["epochs"] * math.ceil(
            len(task_of(run.setting)["train"]) / training["batch_size"]))
        arguments = {**training.get("arguments", {}), "max_steps": steps}
        return replace(run, setting={**run.setting, "training": {**training, "arguments": arguments}})

    def runs(self, chosen: Mapping[tuple[str, str], Mapping], scored: Sequence[str] = (),
             splits: Sequence[str] = ("calibration", "test"), **more) -> dict[tuple[str, str, int], Run]:
        """A run for every experiment, method and seed, with the changes that were chosen for (experiment, method).

        scored : methods of which logits, features and dropout passes are kept. splits : without the validation
        inputs, by which the strengths were chosen. more : further fields of Run.
        """
        return {(experiment, method, seed): self._run(
                    experiment, method, method, seed, chosen[experiment, method], full=method in scored,
                    attacks=tuple(self.attacks.get(experiment, ())), beside=tuple(self.beside.get(experiment, ())),
                    splits=tuple(splits), **more)
                for experiment, method in self.pairs() for seed in self.seeds}

    def ablations(self, chosen: Mapping[tuple[str, str], Mapping], ablations: Mapping[str, Mapping[str, Mapping]],
                  experiment: str) -> dict[tuple[str, str, int], Run]:
        """A run for every change {method: {title: changes}} to what was chosen in the experiment, and seed.

        ValueError for a method that is not trained there.
        """
        absent = [method for method in ablations if (experiment, method) not in chosen]
        expect(not absent, f"ablations of {absent} on {experiment!r}, where only "
                           f"{[method for name, method in chosen if name == experiment]} are trained")
        return {(experiment, f"{method}: {title}", seed): self._run(
                    experiment, f"{method}: {title}", method, seed, {**chosen[experiment, method], **changes},
                    attacks=tuple(self.attacks.get(experiment, ())), splits=("calibration", "test"))
                for method, listed in ablations.items() for title, changes in listed.items() for seed in self.seeds}

    def _run(self, experiment, training, method, seed, changes, **more):
        setting, objective = varied(self.experiments[experiment], OBJECTIVES[method], changes)
        start = (self._run(experiment, START, START, seed, self.starts.get(experiment, {})) if objective.from_trained
                 else None)
        return Run(experiment, setting, training, objective, seed, self.k, start=start, **more)


def differences(objective: Objective) -> str:
    """What distinguishes an objective from plain cross-entropy, e.g. "k = 4, augment = 0.8"."""
    plain = asdict(Objective())
    return ", ".join(f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
                     for name, value in asdict(objective).items() if value != plain[name])


def selection_table(methods: Mapping[str, Sequence[Mapping]], selected: Mapping[tuple[str, str], tuple[int, list]]
                    ) -> pd.DataFrame:
    """A row per candidate with its validation loss (nats), from what `select` returned; "yes" where it was chosen."""
    return pd.DataFrame([
        {"experiment": experiment, "method": method, "candidate": str(methods[method][i]), "validation log-loss": loss,
         "chosen": "yes" if i == index else ""}
        for (experiment, method), (index, losses) in selected.items() for i, loss in enumerate(losses)])


# --- measures ---

def preservation(name: str, task: Task, kinds: Sequence[str], judge: Callable, items: int) -> dict[str, float]:
    """{"texts:kernel": share of labels kept} by the judge, over the first test inputs; texts are called `name`.

    Kinds that people checked are left out. For SST-2 the kernels are asked about CheckList's texts too, beside the
    pairs that people made from these ("checklist:given"); where CheckList is not available, that is printed.
    """
    kernels = [task.perturbation(kind) for kind in kinds if kind not in CHECKED_BY_PEOPLE]
    texts = inputs(task["test"])[:items]
    kept = {f"{name}:{kernel.name}": audit(kernel, texts, judge) for kernel in kernels}
    if task.name == "sst2":
        try:
            groups = dict(list(checklist_groups().items())[:items])
        except NotAvailableError as error:
            print(error)
        else:
            kept |= {f"checklist:{kernel.name}": audit(kernel, list(groups), judge)
                     for kernel in [*kernels, given(groups)]}
    return kept


def parts(predictions: Predictions) -> dict[str, slice | np.ndarray]:
    """{title: rows}: all items under the task's name, and in a world the clear and the ambiguous ones apart."""
    name = predictions.meta["task"]
    if predictions.meta.get("truth") != "exact":
        return {name: slice(None)}
    ambiguous = predictions.require("label_dist").max(-1) < 1
    return {name: slice(None), f"{name} (clear)": ~ambiguous, f"{name} (ambiguous)": ambiguous}


def attack_accuracy(attacked: Predictions) -> float:
    """Share of items answered right on x and all attacked variants; of attacks that are items themselves, accuracy."""
    return metrics.accuracy(attacked) if attacked.perturbed is None else metrics.robust_accuracy(attacked)


def beside_measure(name: str, p: Predictions) -> dict[str, object]:
    """{"metric", "value"} of answers to a set of BESIDE: the accuracy; of groups without labels the share of variants
    that are answered like x."""
    if p.labels is not None:
        return {"metric": f"{name}_accuracy", "value": metrics.accuracy(p)}
    return {"metric": f"{name}_kept", "value": float((p.perturbed.argmax(-1) == p.answers[:, None]).mean())}


def interval_table(comparison: Comparison, measures: Mapping[str, tuple[Callable, Callable]],
                   references: Sequence[str], resamples: int) -> pd.DataFrame:
    """`metrics.intervals` of every measure in every experiment, for all methods against each reference trained there.

    measures : {name: (metric, argument)}; argument maps (experiment, method, seed) to what the metric takes. A measure
    that does not exist, because all answers are right or all wrong, is printed and left out.
    """
    rows = []
    for experiment in comparison.experiments:
        trained = comparison.methods_of(experiment)
        present = [method for method in references if method in trained]
        for name, (metric, argument) in (measures.items() if present else ()):
            cells = [{method: argument((experiment, method, seed)) for method in trained} for seed in comparison.seeds]
            try:
                found = metrics.intervals(cells, metric, present, resamples)
            except metrics.SingleClassError as error:
                print(f"{experiment}, {name}: n/a, {error}")
                continue
            rows += [{"task": experiment, "metric": name, "training": row.pop("name"), **row} for row in found]
    return pd.DataFrame(rows)


def for_new_training(values: Sequence[float], low: float, high: float, level: float = 0.95) -> tuple[float, float]:
    """Interval for the metric of one more training on new items, from `values` (S,) of S trainings on the same items.

    low, high : interval at `level` for the mean of these trainings, over items. The next training of a normal
    population lies within t_{S-1} sd sqrt(1 + 1/S) of the mean; the squares of this half-width and of that over items
    add, as for a sum of independent quantities (Zou & Donner, Statistics in Medicine, 2008). Chance among items that
    differs from training to training counts twice, so the interval is rather too wide. With three trainings it is five
    standard deviations to either side. (nan, nan) for one training, from which the next cannot be foretold.
    """
    values = np.asarray(values, dtype=np.float64)
    size, mean = len(values), values.mean()
    if size < 2:
        return np.nan, np.nan
    reach = student_t.ppf((1 + level) / 2, size - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / size)
    return mean - np.hypot(reach, mean - low), mean + np.hypot(reach, high - mean)


def new_training_table(intervals: pd.DataFrame, measures: Mapping[str, tuple[Callable, Callable]], seeds: Sequence[int]
                       ) -> pd.DataFrame:
    """`intervals` of `interval_table` with bounds that hold for a new training too, of both methods for a gain.

    The measures are shares: bounds of values are cut to [0, 1], those of gains to [-1, 1].
    """
    rows = []
    for row in intervals.drop(columns="p").to_dict("records"):
        values, others = (_by_seed(measures[row["metric"]], row["task"], row[name], seeds)
                          for name in ("training", "reference"))
        bounds = np.clip(for_new_training(values, row["low"], row["high"]), 0, 1)
        gains = np.clip(for_new_training(values - others, row["gain_low"], row["gain_high"]), -1, 1)
        rows.append({**row, "low": bounds[0], "high": bounds[1], "gain_low": gains[0], "gain_high": gains[1],
                     "trainings": len(seeds)})
    return pd.DataFrame(rows)


def _by_seed(measure, experiment, method, seeds):
    metric, argument = measure
    given_to = [argument((experiment, method, seed)) for seed in seeds]
    return np.array([metric(*(value if isinstance(value, tuple) else (value,))) for value in given_to])


def standings(gains: pd.DataFrame, reference: str, lower_is_better: Sequence[str] = ("ece_scaled",)) -> pd.DataFrame:
    """Per task and metric: the best rival of the reference, by how much it is ahead, and where the reference stands.

    gains : the rows of `interval_table` against this reference. It is "best", or "within the interval" of the best
    rival, or "behind" where the interval of the rival's gain is on the good side of 0. Soft labels know p* and do not
    compete.
    """
    rows = []
    for (task, metric), cell in gains.groupby(["task", "metric"], sort=False):
        sign = -1 if metric in lower_is_better else 1
        rivals = cell[~cell["training"].isin([reference, "soft_labels"])]
        best = rivals.loc[(sign * rivals["value"]).idxmax()]
        behind = best["gain_low"] > 0 if sign > 0 else best["gain_high"] < 0
        rows.append({"task": task, "metric": metric, "best rival": best["training"], "ahead by": sign * best["gain"],
                     "standing": "behind" if behind else "best" if sign * best["gain"] <= 0 else "within the interval"})
    return pd.DataFrame(rows)


# --- figures ---

STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))


def plot_curves(axes, curves: pd.DataFrame, experiment: str, trainings: Sequence[str], term: str) -> None:
    """A term of the training log by epoch, mean over seeds, one line for each training."""
    of_experiment = curves[curves["experiment"] == experiment]
    for i, training in enumerate(trainings):
        mean = of_experiment[of_experiment["training"] == training].groupby("epoch")[term].mean()
        axes.plot(mean.index, mean, linestyle=STYLES[i % len(STYLES)], marker=".", markersize=3, label=training)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch", title=experiment)
