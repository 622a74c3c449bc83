"""What models of torch share: padding, batches that fit into memory, the device, and quiet progress."""

from __future__ import annotations

import hashlib
import sys
from functools import lru_cache
from typing import Callable

import numpy as np
from tqdm import tqdm

from .. import paths

KNOWN = 100_000  # inputs whose rows are kept


def padded(tokenizer, batch, device="cpu") -> dict:
    """Tensors by name of token lists, padded to the longest; the tokenizer's own way takes three times as long."""
    import torch

    return {name: torch.from_numpy(np.array(rows)).to(device) for name, rows in tokenizer.pad(batch).items()}


def known_rows(tokenizer, *settings) -> dict:
    """{input: its row of tokens}, empty at first; models that encode alike share it, such as those that a study trains
    one after another, and training asks for many inputs in every epoch. Whoever fills it keeps it below KNOWN."""
    if not tokenizer.is_fast:
        return {}
    return _kept(hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).digest(), *settings)


@lru_cache(maxsize=4)
def _kept(*settings):
    return {}


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


def wide(tensor):
    """The tensor in float32, in which a softmax is safe; float64 stays as it is."""
    import torch

    return tensor if tensor.dtype == torch.float64 else tensor.float()


def on_device(model):
    """The model on the GPU where there is one."""
    import torch

    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def progress(iterable=None, desc=None, total=None):
    """A bar for anything longer than five seconds; on the terminal itself while the runner executes a notebook."""
    file = sys.__stderr__ if paths.stage_folder() else sys.stderr
    return tqdm(iterable, desc=desc, total=total, delay=5, leave=False, file=file,
                mininterval=0.5 if file.isatty() or not paths.stage_folder() else 30)


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
