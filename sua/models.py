"""Models: anything with `predict_proba(inputs) -> (N, C)` probabilities, and two ways to get one.

`EncoderClassifier` wraps a Hugging Face sequence classifier with batched, deduplicated, length-sorted inference,
`EncoderChoice` one that scores the options of a question;
`CallableModel` wraps a function, for instance a client of an API. `load_model` finds weights in a mirror or the hub.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Callable, Protocol, Sequence, runtime_checkable

import numpy as np
from tqdm import tqdm

from . import paths
from .perturb import Input
from .predict import distributions
from .sources import pin

MAX_LENGTH = 128


@runtime_checkable
class Model(Protocol):
    """What every score needs of a model."""

    def predict_proba(self, inputs: Sequence[Input]) -> np.ndarray:
        """(N, C) probabilities, row i for inputs[i], columns in a fixed label order."""


class CallableModel:
    """A model from a function: inputs (list of texts or tuples) -> (N, C) probabilities.

    batch_size : how many inputs one call gets. Equal inputs are sent once. The function's output is checked:
    ValueError if it does not return one finite, normalised row per input.
    """

    def __init__(self, function: Callable[[list[Input]], Sequence], batch_size: int = 64, name: str = "callable"):
        self.function, self.batch_size, self.name = function, batch_size, name

    def predict_proba(self, inputs: Sequence[Input]) -> np.ndarray:
        unique, where = distinct(inputs)
        return self._rows(unique)[where]

    def _rows(self, unique):
        batches = [unique[i:i + self.batch_size] for i in range(0, len(unique), self.batch_size)]
        rows = []
        for batch in progress(batches, self.name):
            values = distributions(f"output of model {self.name!r}", self.function(list(batch)), ndim=2)
            if values.shape != (len(batch), width := (rows or [values])[0].shape[1]):
                raise ValueError(f"model {self.name!r} returned shape {values.shape} for {len(batch)} inputs and "
                                 f"{width} classes: return one row of class probabilities per input, in their order")
            rows.append(values)
        return np.concatenate(rows)


class EncoderClassifier:
    """A Hugging Face sequence classifier with its tokenizer.

    Equal inputs are computed once; batches are sorted by length, so that little is padding; a batch that does not
    fit into memory is halved. Results do not depend on batch size, order or padding beyond float rounding.
    With `cache`, a folder for this model's weights alone, outputs are kept and not computed twice.

    batch_size : inputs per forward pass. max_length : tokens at which a row is cut.
    """

    rows_per_input = 1  # rows of the network's batch that one input takes
    adapter_task = "SEQ_CLS"  # what peft calls this kind of model

    def __init__(self, model, tokenizer, batch_size: int = 64, max_length: int = MAX_LENGTH, name: str | None = None,
                 cache: Path | None = None):
        self.model, self.tokenizer = model.eval(), tokenizer
        self.batch_size, self.max_length, self.cache = batch_size, max_length, cache
        self.name = name or type(model).__name__

    def encode(self, inputs: Sequence[Input]) -> dict[str, list[list[int]]]:
        """Unpadded token lists by name ("input_ids", ...), `rows_per_input` of them for each input, in order."""
        return encode(self.tokenizer, inputs, self.max_length)

    def class_logits(self, logits):
        """(n, C) tensor of the classes' logits, from the network's (n * rows_per_input, W)."""
        return logits

    def forward(self, model, batch, **options):
        """The network's output on a padded batch; `model` is this classifier's own, or what training wraps it in."""
        return model(**batch, **options)

    def predict_proba(self, inputs: Sequence[Input]) -> np.ndarray:
        """(N, C) float64 probabilities. ValueError for an empty input, naming its position."""
        return self._collect("probs", inputs, lambda batch: {"probs": self._probs(batch)})["probs"]

    def outputs(self, inputs: Sequence[Input]) -> dict[str, np.ndarray]:
        """What one pass gives: "probs" (N, C), "logits" (N, C), and "features" (N, D), the last hidden state at the
        first token, which the head reads."""

        def read(batch):
            out = self.forward(self.model, batch, output_hidden_states=True)
            logits, first = self.class_logits(out.logits.float()), out.hidden_states[-1][:, 0].float()
            return {"probs": logits.softmax(-1).double(), "logits": logits, "features": self._features(first, logits)}

        return self._collect("outputs", inputs, read)

    def dropout_proba(self, inputs: Sequence[Input], passes: int, seed: int = 0) -> np.ndarray:
        """(N, T, C) probabilities of T = `passes` stochastic passes with dropout on (Gal and Ghahramani, ICML 2016).

        Equal inputs get equal draws. The draws follow from the seed, the batch size and the set of inputs, whatever
        its order; torch's own generator is left as it was. ValueError for passes < 1.
        """
        import torch

        if passes < 1:
            raise ValueError(f"passes = {passes}: dropout needs at least one stochastic pass")
        read = lambda batch: {"probs": torch.stack([self._probs(batch) for _ in range(passes)], 1)}
        return self._collect(f"dropout {passes} {seed}", inputs, read, seed)["probs"]

    def _probs(self, batch):
        return self.class_logits(self.forward(self.model, batch).logits.float()).softmax(-1).double()

    def _features(self, first, logits):
        return first

    def _batches(self, encoded, unique, size):
        """The inputs' places, batch by batch; those of a set do not depend on its order."""
        rows, r = encoded["input_ids"], self.rows_per_input
        key = lambda i: (max(map(len, rows[i * r:(i + 1) * r])), unique[i])
        order = sorted(range(len(unique)), key=key, reverse=True)  # running out of memory shows at once
        return [order[start:start + size] for start in range(0, len(order), size)]

    def _collect(self, what, inputs, read, dropout_seed=None):
        """{name: (N, ...) array} of what `read` gets from each batch, computed once or found in the cache as `what`."""
        unique, where = distinct(inputs)
        if not self.cache:
            rows = self._rows(unique, read, dropout_seed)
        else:
            digest = hashlib.sha256(repr((what, self.max_length, unique)).encode()).hexdigest()[:24]
            file = self.cache / f"{digest}.npz"
            if not file.exists():
                self.cache.mkdir(parents=True, exist_ok=True)
                unfinished = self.cache / f".{digest}.{os.getpid()}.npz"
                np.savez(unfinished, **self._rows(unique, read, dropout_seed))
                os.replace(unfinished, file)
            with np.load(file) as saved:
                rows = dict(saved)
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

    def save(self, folder) -> Path:
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

    def __init__(self, model, tokenizer, choices: int, **options):
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
        pairs = [(question, option) for question, *options in inputs for option in options]
        return encode(self.tokenizer, pairs, self.max_length)

    def class_logits(self, logits):
        return logits.reshape(-1, self.rows_per_input)

    def _features(self, first, logits):
        return first.unflatten(0, logits.shape)[range(len(logits)), logits.argmax(-1)]


def load_model(source, n_classes: int | None = None, seed: int = 0, *, choice: bool = False, causal: bool = False,
               dtype: str | None = None, train_layers: int | None = None, **options) -> EncoderClassifier:
    """A sequence classifier by hub id or folder; a model without a trained head gets a seeded new one.

    source : a folder, or a hub id looked up in $SUA_MIRROR/models, data/hub/models, then the hub at its pinned
    revision (safetensors only, no remote code). n_classes : width of a new head. choice : an EncoderChoice with
    n_classes options instead; a saved one is recognised. causal : a ChoiceLM instead; a saved one is recognised, and
    its answers, score and template are the default. dtype : of the weights, "float32" by default; that of a causal
    model on a GPU is "bfloat16". train_layers : leave only the last so many transformer layers, pooler and head
    trainable. options : of EncoderClassifier or ChoiceLM. Runs on the GPU where there is one.
    Raises NotAvailableError if no place has the model; ValueError if it has fewer layers.
    """
    import torch
    import transformers

    folder = Path(source) if Path(source).is_dir() else paths.in_mirror("models", str(source))
    where = {} if folder else {"revision": pin(str(source))}
    width = 1 if choice else n_classes
    head = {} if width is None or causal else {"num_labels": width}
    torch.manual_seed(seed)  # the new head
    try:
        with quiet(transformers):
            causal |= folder is not None and hasattr(transformers.AutoConfig.from_pretrained(folder), "sua_choice_lm")
            auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSequenceClassification
            dtype = dtype or ("bfloat16" if causal and torch.cuda.is_available() else "float32")
            model = auto.from_pretrained(folder or source, dtype=getattr(torch, dtype), use_safetensors=True,
                                         trust_remote_code=False, **where, **head)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder or source, trust_remote_code=False, **where)
    except OSError as error:
        if folder:
            raise
        raise paths.not_available("model", str(source), type(error).__name__) from error
    if train_layers is not None:
        _freeze(model, train_layers)
    options = {"name": str(source), **options}
    if causal:
        from .causal import ChoiceLM

        return ChoiceLM(on_device(model), tokenizer, **getattr(model.config, "sua_choice_lm", {}) | options)
    choices = choice and n_classes or getattr(model.config, "sua_choices", None)
    if choice and not choices:
        raise ValueError(f"{source} was not saved as a multiple-choice model: give n_classes, the number of options")
    return _wrap(model, tokenizer, choices, **options)


def _wrap(model, tokenizer, choices, **options):
    options |= {"choices": choices} if choices else {}
    return (EncoderChoice if choices else EncoderClassifier)(on_device(model), tokenizer, **options)


def on_device(model):
    """The model on the GPU where there is one."""
    import torch

    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _freeze(model, train_layers):
    """No gradients in the encoder but for its last `train_layers` layers and its pooler; the head keeps its own."""
    import torch

    lists = [module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList)]
    layers = max(lists, key=len, default=[])
    if not 0 <= train_layers <= len(layers):
        raise ValueError(f"train_layers = {train_layers}: {type(model).__name__} has {len(layers)} transformer layers; "
                         "give a number from 0 (the head alone) to that")
    model.base_model.requires_grad_(False)
    for part in (*layers[len(layers) - train_layers:], getattr(model.base_model, "pooler", None)):
        if part is not None:
            part.requires_grad_(True)


def tiny_encoder(texts: Sequence[Input], n_classes: int, seed: int = 0, hidden: int = 48, layers: int = 2,
                 dropout: float = 0.1, choice: bool = False) -> EncoderClassifier:
    """An untrained two-layer BERT with a word-level vocabulary of `texts`: trains in seconds on one core.

    Words not in `texts` become [UNK]. choice : an EncoderChoice with n_classes options.
    Everything follows from the arguments; nothing is downloaded.
    """
    import torch
    import transformers
    from tokenizers import processors

    tokenizer = word_tokenizer(texts, processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
                               cls_token="[CLS]", sep_token="[SEP]")
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=2 * hidden, max_position_embeddings=MAX_LENGTH, num_labels=1 if choice else n_classes,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=0, initializer_range=hidden ** -0.5)
    torch.manual_seed(seed)
    model = transformers.BertForSequenceClassification(config)
    return _wrap(model, tokenizer, n_classes if choice else None, name="tiny-bert")


def word_tokenizer(texts: Sequence[Input], post_processor, **special):
    """A tokenizer whose tokens are [PAD], [UNK], the special ones, and the lower-case words of `texts`."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", **special}
    words = sorted({word for text in texts for part in ([text] if isinstance(text, str) else text)
                    for word in part.lower().split()})
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*special.values(), *words])}, "[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    core.post_processor = post_processor
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, **special)


def encode(tokenizer, inputs: Sequence[Input], max_length: int) -> dict:
    """Unpadded token ids of texts or pairs. ValueError where their number of texts differs or exceeds two."""
    rows = [(x,) if isinstance(x, str) else x for x in inputs]
    if (sizes := {len(row) for row in rows}) not in ({1}, {2}):
        raise ValueError(f"inputs of {', '.join(map(str, sorted(sizes)))} texts: a classifier reads texts or pairs, "
                         "not both; a question with its options needs a multiple-choice model (EncoderChoice)")
    return dict(tokenizer(*map(list, zip(*rows)), truncation=True, max_length=max_length))


def padded(tokenizer, batch, device="cpu") -> dict:
    """Tensors by name of token lists, padded to the longest; the tokenizer's own way takes three times as long."""
    import torch

    return {name: torch.from_numpy(np.array(rows)).to(device) for name, rows in tokenizer.pad(batch).items()}


def within_memory(run: Callable, size: int):
    """run(size), with half the size as often as a batch of that size does not fit into memory."""
    from accelerate.utils.memory import should_reduce_batch_size

    while True:
        try:
            return run(size)
        except RuntimeError as error:
            if size == 1 or not should_reduce_batch_size(error):
                raise
        size //= 2  # outside of the handler, whose traceback holds on to the tensors


def progress(iterable=None, desc=None, total=None):
    """A bar for anything longer than five seconds; on the terminal itself while the runner executes a notebook."""
    file = sys.__stderr__ if paths.stage_folder() else sys.stderr
    return tqdm(iterable, desc=desc, total=total, delay=5, leave=False, file=file,
                mininterval=0.5 if file.isatty() or not paths.stage_folder() else 30)


def distinct(inputs):
    """The distinct inputs in order of appearance, and the (N,) place of each input among them."""
    inputs = list(inputs)
    if not inputs:
        raise ValueError("inputs is empty: give at least one text")
    for i, example in enumerate(inputs):
        parts = example if isinstance(example, tuple) else (example,)
        if not all(isinstance(part, str) and part.strip() for part in parts):
            raise ValueError(f"inputs[{i}] = {example!r} is empty or not text: remove the row, or give its text")
    index = {example: i for i, example in enumerate(dict.fromkeys(inputs))}
    return list(index), np.array([index[example] for example in inputs])


class quiet:
    """Silences the notice about a new head and the loading bar, which say nothing the caller did not ask for."""

    def __init__(self, transformers):
        self.logging = transformers.utils.logging

    def __enter__(self):
        self.level = self.logging.get_verbosity()
        self.logging.set_verbosity_error()
        self.logging.disable_progress_bar()

    def __exit__(self, *_):
        self.logging.set_verbosity(self.level)
        self.logging.enable_progress_bar()
