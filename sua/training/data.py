"""What a training sees: items in their order, each with the variants and the answers that its objective asks for."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from datasets import Dataset

from ..inputs import expect, has_options, inputs, option_columns
from ..models.common import padded
from ..models.encoder import EncoderClassifier
from ..models.orbit import OrbitModel
from ..perturb import Perturbation
from .objectives import OBJECTIVES, Objective

POOL = 50  # batches whose items are sorted by length together, where items are grouped


class VariantData(torch.utils.data.Dataset):
    """Training items in a shuffled order that changes with the epoch, each with the variants its objective asks for.

    Order and variants are functions of (seed, epoch, item) alone, so that a resumed run sees what the uninterrupted
    one would have seen. length : how many items to give; beyond the split's own number the next epochs follow.
    teacher : (N, C) what `teacher_answers` returns, for an objective with this target.
    ValueError if the objective needs a perturbation, distributions or a teacher that are not there.
    """

    def __init__(self, split: Dataset, classifier: EncoderClassifier, objective: Objective,
                 perturbation: Perturbation | None, seed: int, length: int | None = None,
                 teacher: np.ndarray | None = None):
        self.inputs, self.reference = inputs(split), None
        self.labels = split["label"][:] if objective.reads_labels else None
        if objective.target == "label_dist":
            expect("label_dist" in split.column_names, "the objective has target = 'label_dist', but the training "
                   "split has no column label_dist: take a task with known or voted distributions, or another target")
            self.reference = np.asarray(split["label_dist"][:])
        if objective.target == "teacher":
            expect(teacher is not None and len(teacher) == len(self.inputs), lambda: "the objective has target = "
                   f"'teacher', but teacher has {0 if teacher is None else len(teacher)} rows for {len(self.inputs)} "
                   "items: give what teacher_answers returns for this split, or use sua.train")
            self.reference = np.asarray(teacher)
        self.classifier, self.perturbation, self.seed = classifier, needed_perturbation(perturbation, objective), seed
        self.objective, self.length, self.epoch = objective, length or len(self.inputs), 0
        self._order = None, None
        self._batch, self._lengths = None, None

    def group_by_length(self, batch: int):
        """Batches of this size hold items of like length, so that little is padding; their order stays random."""
        self._batch = batch
        self._lengths = np.array([len(x) if isinstance(x, str) else sum(map(len, x)) for x in self.inputs])

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self):
        return self.length

    def __getitem__(self, position):
        further, place = divmod(position, len(self.inputs))
        epoch = self.epoch + further
        if self._order[0] != (epoch, further):
            shuffler = np.random.default_rng([self.seed, epoch, len(self.inputs)])
            order = shuffler.permutation(len(self.inputs))
            self._order = (epoch, further), self._grouped(order, further, shuffler) if self._batch else order
        return epoch, int(self._order[1][place])

    def _grouped(self, order, further, shuffler):
        """The order, sorted by length pool by pool and cut into batches, which are shuffled."""
        pools = np.split(order, range(POOL * self._batch, len(order), POOL * self._batch))
        order = np.concatenate([pool[np.argsort(self._lengths[pool], kind="stable")] for pool in pools])
        begun = -further * len(order) % self._batch  # items that complete the last batch of the epoch before
        batches = np.split(order, range(begun, len(order), self._batch))
        middle = [batches[1 + i] for i in shuffler.permutation(max(0, len(batches) - 2))]
        return np.concatenate([batches[0], *middle, *batches[1:][-1:]])

    def _variants(self, epoch, i):
        x, k = self.inputs[i], self.objective.k
        if self.perturbation:
            return _drawn(self.perturbation, x, k, self.seed, epoch, i)
        return [x] * k if self.objective.variants == "copies" else []

    def collate(self, items):
        """Clean rows first, then the variants item by item, in one padding: one forward pass of all rows."""
        chosen = [i for _, i in items]
        varied = items[:math.ceil(self.objective.share * len(items))]
        orbits = [[self.inputs[i], *self._variants(epoch, i)] for epoch, i in varied]
        clean = [] if self.objective.on_variants_alone else [self.inputs[i] for i in chosen]
        rows = clean + [variant for _, *variants in orbits for variant in variants]

        options = {}
        if has_options(rows[0]):  # a variant may have them in another order
            options["columns"] = torch.from_numpy(option_columns(orbits, max(map(len, rows)) - 1)[:, 1:])
        if self.reference is not None:
            options["reference"] = torch.from_numpy(self.reference[chosen])
        if self.labels is not None:
            options["labels"] = torch.tensor([self.labels[i] for i in chosen])
        return {
            **padded(self.classifier.tokenizer, self.classifier.encode(rows)),
            **options,
            "items": torch.tensor(chosen),
        }


@lru_cache(maxsize=50_000)  # a study trains many models on the same variants, one after another
def _drawn(perturbation, x, k, seed, epoch, i):
    return perturbation.sample(x, k, np.random.default_rng([seed, epoch, i]))


def needed_perturbation(perturbation, objective):
    """The perturbation if the objective draws from it. ValueError if it does and there is none, or for no objective."""
    expect(isinstance(objective, Objective), lambda: f"objective = {objective!r} is no Objective: give one of "
           f"sua.OBJECTIVES, such as sua.OBJECTIVES['erm']; known: {', '.join(OBJECTIVES)}")
    if not objective.k or objective.variants != "perturbed":
        return None
    if perturbation is None:
        raise ValueError(f"the objective uses k = {objective.k} variants per item: give a perturbation to draw them")
    return perturbation


def teacher_answers(model, split: Dataset, objective: Objective, perturbation: Perturbation, seed: int = 0
                    ) -> np.ndarray:
    """(N, C) the target "teacher": what the model says of each input of the split by the mean over its orbit. No label
    is read. Costs teacher_k + 1 passes per input, once."""
    return OrbitModel(model, perturbation, objective.teacher_k, objective.mean, seed).predict_proba(inputs(split))
