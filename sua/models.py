"""Models: anything with `predict_proba(inputs) -> (N, C)` probabilities, and two ways to get one.

`EncoderClassifier` wraps a Hugging Face sequence classifier with batched, deduplicated, length-sorted inference;
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

HUB_REVISIONS = {"sentence-transformers/all-MiniLM-L6-v2": "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"}
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
        return _unique_rows(inputs, self._rows)

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
    """

    def __init__(self, model, tokenizer, batch_size: int = 64, max_length: int = MAX_LENGTH, name: str | None = None,
                 cache: Path | None = None):
        self.model, self.tokenizer = model.eval(), tokenizer
        self.batch_size, self.max_length, self.cache = batch_size, max_length, cache
        self.name = name or type(model).__name__

    def predict_proba(self, inputs: Sequence[Input]) -> np.ndarray:
        """(N, C) float64 probabilities. ValueError for an empty input, naming its position."""
        return _unique_rows(inputs, self._cached_rows if self.cache else self._rows)

    def _cached_rows(self, unique):
        digest = hashlib.sha256(repr((self.max_length, unique)).encode()).hexdigest()[:24]
        file = self.cache / f"{digest}.npy"
        if not file.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            unfinished = self.cache / f".{digest}.{os.getpid()}.npy"
            np.save(unfinished, self._rows(unique))
            os.replace(unfinished, file)
        return np.load(file)

    def _rows(self, unique):
        import torch
        from accelerate.utils.memory import should_reduce_batch_size

        encoded = encode(self.tokenizer, unique, self.max_length)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        order = np.argsort(lengths, kind="stable")[::-1]  # longest first: running out of memory shows at once
        device = next(self.model.parameters()).device
        was_training = self.model.training
        self.model.eval()

        def forward(batch_size):
            rows = [None] * len(unique)
            with torch.inference_mode(), progress(total=len(unique), desc=f"predict {self.name}") as bar:
                for start in range(0, len(order), batch_size):
                    chosen = order[start:start + batch_size]
                    batch = {name: [values[i] for i in chosen] for name, values in encoded.items()}
                    batch = self.tokenizer.pad(batch, return_tensors="pt").to(device)
                    logits = self.model(**batch).logits.float()
                    for i, row in zip(chosen, logits.softmax(-1).double().cpu().numpy()):
                        rows[i] = row
                    bar.update(len(chosen))
            return np.stack(rows)

        size = self.batch_size
        try:
            while True:
                try:
                    return forward(size)
                except RuntimeError as error:
                    if size == 1 or not should_reduce_batch_size(error):
                        raise
                size //= 2  # outside of the handler, whose traceback holds on to the tensors
        finally:
            self.model.train(was_training)

    def save(self, folder) -> Path:
        """Weights as safetensors, config and tokenizer, in `folder`; `load_model(folder)` reads them."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return Path(folder)


def load_model(source, n_classes: int | None = None, seed: int = 0, **options) -> EncoderClassifier:
    """A sequence classifier by hub id or folder; a model without a trained head gets a seeded new one.

    source : a folder, or a hub id looked up in $SUA_MIRROR/models, data/hub/models, then the hub at its pinned
    revision (safetensors only, no remote code). n_classes : width of a new head. options : of EncoderClassifier.
    Runs on the GPU where there is one.
    Raises NotAvailableError if no place has the model.
    """
    import torch
    import transformers

    folder = Path(source) if Path(source).is_dir() else paths.in_mirror("models", str(source))
    where = {} if folder else {"revision": HUB_REVISIONS.get(str(source), "main")}
    head = {} if n_classes is None else {"num_labels": n_classes}
    torch.manual_seed(seed)  # the new head
    try:
        with quiet(transformers):
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder or source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **where, **head)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder or source, trust_remote_code=False, **where)
    except OSError as error:
        if folder:
            raise
        raise paths.not_available("model", str(source), type(error).__name__) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return EncoderClassifier(model.to(device), tokenizer, **{"name": str(source), **options})


def tiny_encoder(texts: Sequence[Input], n_classes: int, seed: int = 0, hidden: int = 64, layers: int = 2,
                 dropout: float = 0.1) -> EncoderClassifier:
    """An untrained two-layer BERT with a word-level vocabulary of `texts`: trains in seconds on one core.

    Words not in `texts` become [UNK]. Everything follows from the arguments; nothing is downloaded.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = sorted({word for text in texts for part in ([text] if isinstance(text, str) else text)
                    for word in part.lower().split()})
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=2 * hidden, max_position_embeddings=MAX_LENGTH, num_labels=n_classes,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    torch.manual_seed(seed)
    model = transformers.BertForSequenceClassification(config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return EncoderClassifier(model.to(device), tokenizer, name="tiny-bert")


def encode(tokenizer, inputs: Sequence[Input], max_length: int) -> dict:
    """Unpadded token ids of texts or pairs."""
    texts = [x if isinstance(x, str) else x[0] for x in inputs]
    pairs = None if isinstance(inputs[0], str) else [x[1] for x in inputs]
    return dict(tokenizer(texts, pairs, truncation=True, max_length=max_length))


def progress(iterable=None, desc=None, total=None):
    """A bar for anything longer than five seconds; on the terminal itself while the runner executes a notebook."""
    file = sys.__stderr__ if paths.stage_folder() else sys.stderr
    return tqdm(iterable, desc=desc, total=total, delay=5, leave=False, file=file,
                mininterval=0.5 if file.isatty() or not paths.stage_folder() else 30)


def _unique_rows(inputs, compute):
    inputs = list(inputs)
    if not inputs:
        raise ValueError("inputs is empty: give at least one text")
    for i, example in enumerate(inputs):
        parts = example if isinstance(example, tuple) else (example,)
        if not all(isinstance(part, str) and part.strip() for part in parts):
            raise ValueError(f"inputs[{i}] = {example!r} is empty or not text: remove the row, or give its text")
    index = {example: i for i, example in enumerate(dict.fromkeys(inputs))}
    rows = compute(list(index))
    return rows[[index[example] for example in inputs]]


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
