"""Encoders of transformers with a head: `EncoderClassifier`, with batched, deduplicated, length-sorted inference, and
`EncoderChoice`, which scores the options of a question.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from .. import files
from ..inputs import Input, distinct, expect_seed, whole
from .common import KNOWN, known_rows, on_device, padded, progress, quiet, wide, within_memory

MAX_LENGTH = 128


class EncoderClassifier:
    """A Hugging Face sequence classifier with its tokenizer.

    Equal inputs are computed once; batches are sorted by length, so that little is padding; a batch that does not
    fit into memory is halved. Results do not depend on batch size, order or padding beyond float rounding.
    With `cache`, a folder for this model's weights alone, outputs are kept and not computed twice.

    batch_size : inputs per forward pass. max_length : tokens at which a row is cut. ValueError for either below 1.
    """

    rows_per_input = 1  # rows of the network's batch that one input takes
    adapter_task = "SEQ_CLS"  # what peft calls this kind of model

    def __init__(self, model: "transformers.PreTrainedModel", tokenizer: "transformers.PreTrainedTokenizerBase",
                 batch_size: int = 64, max_length: int = MAX_LENGTH, name: str | None = None,
                 cache: Path | None = None):
        self.model, self.tokenizer = model.eval(), tokenizer
        self.batch_size = whole("batch_size", batch_size, 1, "give at least 1")
        self.max_length = whole("max_length", max_length, 1, "give at least 1")
        self.cache = cache
        self.name = name or type(model).__name__

    @property
    def dtype(self) -> str:
        """In what the network computes, such as "float32"."""
        return str(self.model.dtype).removeprefix("torch.")

    def encode(self, inputs: Sequence[Input]) -> dict[str, list[list[int]]]:
        """Unpadded token lists by name ("input_ids", ...), `rows_per_input` of them for each input, in order."""
        return self._tokens([(x,) if isinstance(x, str) else tuple(x) for x in inputs])

    def _tokens(self, rows):
        """Unpadded token lists by name, of tuples of one or two texts. ValueError for others, or where sizes differ."""
        if (sizes := {len(row) for row in rows}) not in ({1}, {2}):
            raise ValueError(f"inputs of {', '.join(map(str, sorted(sizes)))} texts: a classifier reads texts or "
                             "pairs, not both; a question with its options needs a multiple-choice model "
                             "(EncoderChoice)")
        if new := [row for row in dict.fromkeys(rows) if row not in self._known]:
            tokens = self.tokenizer(*map(list, zip(*new)), truncation=True, max_length=self.max_length)
            self._known.update((row, dict(zip(tokens, of_row))) for row, of_row in zip(new, zip(*tokens.values())))
        found = [self._known[row] for row in rows]
        if len(self._known) > KNOWN:
            self._known.clear()
        return {name: [of_row[name] for of_row in found] for name in found[0]}

    @cached_property
    def _known(self):
        return known_rows(self.tokenizer, self.max_length, self.tokenizer.truncation_side,
                          *self.tokenizer.model_input_names)

    def class_logits(self, logits: "torch.Tensor") -> "torch.Tensor":
        """(n, C) tensor of the classes' logits, from the network's (n * rows_per_input, W)."""
        return logits

    def forward(self, model: "torch.nn.Module", batch: Mapping, **options: bool) -> "transformers.utils.ModelOutput":
        """The network's output on a padded batch; `model` is this classifier's own, or what training wraps it in."""
        return model(**batch, **options)

    def predict_proba(self, inputs: Sequence[Input]) -> np.ndarray:
        """(N, C) float64 probabilities. ValueError for an empty input, naming its position."""
        return self._collect("probs", inputs, lambda batch: {"probs": self._probs(batch)})["probs"]

    def outputs(self, inputs: Sequence[Input]) -> dict[str, np.ndarray]:
        """What one pass gives: "probs" (N, C), "logits" (N, C), and "features" (N, D), the last hidden state at the
        first token, which the head reads."""
        return self._collect("outputs", inputs, self._outputs)

    def dropout_proba(self, inputs: Sequence[Input], passes: int, seed: int = 0) -> np.ndarray:
        """(N, T, C) probabilities of T = `passes` stochastic passes with dropout on (Gal and Ghahramani, ICML 2016).

        Equal inputs get equal draws. The draws follow from the seed, the batch size and the set of inputs, whatever
        its order; torch's own generator is left as it was. ValueError for passes < 1 or a negative seed.
        """
        import torch

        whole("passes", passes, 1, "dropout needs at least one stochastic pass")
        expect_seed(seed)

        def read(batch):
            return {"probs": torch.stack([self._probs(batch) for _ in range(passes)], 1)}

        return self._collect(f"dropout {passes} {seed}", inputs, read, seed)["probs"]

    def _probs(self, batch):
        return self.class_logits(wide(self.forward(self.model, batch).logits)).softmax(-1).double()

    def _outputs(self, batch):
        out = self.forward(self.model, batch, output_hidden_states=True)
        logits, first = self.class_logits(wide(out.logits)), wide(out.hidden_states[-1][:, 0])
        return {"probs": logits.softmax(-1).double(), "logits": logits, "features": self._features(first, logits)}

    def _features(self, first, logits):
        return first

    def _batches(self, encoded, unique, size):
        """The inputs' places, batch by batch; those of a set do not depend on its order."""
        rows, r = encoded["input_ids"], self.rows_per_input

        def key(i):
            return max(map(len, rows[i * r:(i + 1) * r])), unique[i]

        order = sorted(range(len(unique)), key=key, reverse=True)  # running out of memory shows at once
        return [order[start:start + size] for start in range(0, len(order), size)]

    def _collect(self, what, inputs, read, dropout_seed=None):
        """{name: (N, ...) array} of what `read` gets from each batch, computed once or found in the cache as `what`."""
        unique, where = distinct(inputs)
        if not self.cache:
            rows = self._rows(unique, read, dropout_seed)
        else:
            digest = hashlib.sha256(repr((what, self.max_length, unique)).encode()).hexdigest()[:24]
            file = Path(self.cache) / f"{digest}.npz"
            rows = _kept(file, len(unique))
            if rows is None:
                rows = self._rows(unique, read, dropout_seed)
                with files.whole(file) as unfinished:
                    np.savez(unfinished, **rows)
        return {name: values[where] for name, values in rows.items()}

    def _rows(self, unique, read, dropout_seed):
        import torch

        encoded, r = self.encode(unique), self.rows_per_input
        device = next(self.model.parameters()).device
        was_training = self.model.training

        def forward(batch_size):
            found, batches = {}, self._batches(encoded, unique, batch_size)
            with (torch.inference_mode(), torch.random.fork_rng(enabled=dropout_seed is not None),
                  progress(total=len(unique), desc=f"predict {self.name}") as bar):
                if dropout_seed is not None:
                    torch.manual_seed(dropout_seed)
                for chosen in batches:
                    batch = {name: [values[i * r + j] for i in chosen for j in range(r)]
                             for name, values in encoded.items()}
                    for name, values in read(padded(self.tokenizer, batch, device)).items():
                        found.setdefault(name, []).append(values.cpu().numpy())
                    bar.update(len(chosen))
            back = np.argsort(np.concatenate(batches))
            return {name: np.concatenate(parts)[back] for name, parts in found.items()}

        try:
            self.model.train(dropout_seed is not None)
            for module in self.model.modules():
                if hasattr(module, "running_mean"):  # normalisation over the batch is no dropout
                    module.eval()
            return within_memory(forward, self.batch_size)
        finally:
            self.model.train(was_training)

    def save(self, folder: Path | str) -> Path:
        """Weights as safetensors, config and tokenizer, in `folder`; `load_model(folder)` reads them."""
        import transformers

        with quiet(transformers):
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return Path(folder)


class EncoderChoice(EncoderClassifier):
    """Multiple choice with C = `choices` options: the network scores each (question, option) pair, and the softmax
    runs over the options. An input is a tuple (question, option_1, ..., option_C).

    model : a sequence classifier with one output. `features` are those of the chosen option's row.
    ValueError for another model or number of options.
    """

    def __init__(self, model: "transformers.PreTrainedModel", tokenizer: "transformers.PreTrainedTokenizerBase",
                 choices: int, **options: object):
        super().__init__(model, tokenizer, **options)
        if model.config.num_labels != 1:
            raise ValueError(f"the model has num_labels = {model.config.num_labels}: multiple choice scores one pair "
                             "at a time, so load it with load_model(..., choice=True)")
        if choices < 2:
            raise ValueError(f"choices = {choices}: a multiple-choice question needs at least two options")
        self.rows_per_input = model.config.sua_choices = choices  # in the config, so that load_model finds it

    def encode(self, inputs: Sequence[Input]) -> dict[str, list[list[int]]]:
        for i, example in enumerate(inputs):
            if isinstance(example, str) or len(example) != 1 + self.rows_per_input:
                raise ValueError(f"inputs[{i}] = {example!r} is not a question with {self.rows_per_input} options: "
                                 f"give a tuple (question, option_1, ..., option_{self.rows_per_input})")
        return self._tokens([(question, option) for question, *options in inputs for option in options])

    def class_logits(self, logits: "torch.Tensor") -> "torch.Tensor":
        return logits.reshape(-1, self.rows_per_input)

    def _features(self, first, logits):
        return first.unflatten(0, logits.shape)[range(len(logits)), logits.argmax(-1)]


def _kept(file, n):
    """{name: (n, ...) array} of a file of the cache, or None: what is absent or damaged is computed anew."""
    try:
        with np.load(file) as saved:
            rows = dict(saved)
    except Exception:  # numpy and zipfile raise many kinds on bytes that they did not write
        return None
    return rows if "probs" in rows and {len(values) for values in rows.values()} == {n} else None


def wrapped(model, tokenizer, choices, **options) -> EncoderClassifier:
    """The model as an EncoderChoice with so many options, or as an EncoderClassifier where `choices` is None."""
    options |= {"choices": choices} if choices else {}
    return (EncoderChoice if choices else EncoderClassifier)(on_device(model), tokenizer, **options)
