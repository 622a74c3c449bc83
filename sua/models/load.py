"""Where weights come from: a folder, a mirror or the hub."""

from __future__ import annotations

import warnings
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from .. import paths
from ..extras import need
from ..inputs import expect
from ..sources import pin
from .choice import ChoiceLM
from .common import on_device, quiet
from .encoder import EncoderClassifier, wrapped
from .packaged import PACKAGED, from_package, told_origin


def load_model(source: Path | str, n_classes: int | None = None, seed: int = 0, *, choice: bool = False,
               causal: bool = False, dtype: str | None = None, train_layers: int | None = None, packaged: bool = False,
               **options: object) -> EncoderClassifier:
    """A sequence classifier by hub id or folder; a model without a trained head gets a seeded new one.

    source : a folder, or a hub id looked up in $SUA_MIRROR/models, data/hub/models, then the hub at its pinned
    revision, or, said in a warning, at "main" (safetensors only; code that comes with a model never runs); where the
    hub does not answer, SmolLM2-135M-Instruct comes from a package (`sua.models.packaged`).
    n_classes : width of a new head. choice : an EncoderChoice with n_classes options instead; a saved one is
    recognised. causal : a ChoiceLM instead; a saved one is recognised, and its answers, score and template are the
    default. dtype : of the weights; by default "float64" for a model that was saved in it, as the tiny ones are,
    "bfloat16" for a causal model on a GPU, or, unless ChoiceLM.save wrote it, on a processor that is fast in it
    (`fast_in_bfloat16`), else "float32", whose probabilities hold to about 1e-5 on every processor; "float64" has the
    same digits on all, at twice the time. train_layers : leave only the last so many transformer layers, pooler and
    head trainable. packaged : take a package's weights before all others, where there is one, which are the same for
    everybody. options : of EncoderClassifier or ChoiceLM. Runs on the GPU where there is one.
    Raises NotAvailableError if no place has the model; ValueError if it has fewer layers, has no tokenizer, or needs
    code of its own.
    """
    folder = Path(source) if Path(source).is_dir() else None
    if packaged and not folder and str(source) in PACKAGED:
        with suppress(paths.NotAvailableError):  # the hub may answer
            folder = from_package(str(source))
    folder = folder or paths.in_mirror("models", str(source))
    width = 1 if choice else n_classes
    read = partial(_read, seed=seed, causal=causal, dtype=dtype, head={} if width is None else {"num_labels": width})
    if folder:
        model, tokenizer, causal = read(folder)
    else:
        try:
            model, tokenizer, causal = read(source, revision=_revision(str(source)))
        except OSError as error:
            if str(source) not in PACKAGED:
                raise paths.not_available("model", str(source), type(error).__name__) from error
            folder = from_package(str(source))
            model, tokenizer, causal = read(folder)
    origin = told_origin(Path(folder)) if folder else None
    if train_layers is not None:
        _freeze(model, train_layers)
    options = {"name": str(source), **options}
    if causal:
        chooser = ChoiceLM(on_device(model), tokenizer, **getattr(model.config, "sua_choice_lm", {}) | options)
        chooser.origin = origin
        return chooser
    choices = choice and n_classes or getattr(model.config, "sua_choices", None)
    if choice and not choices:
        raise ValueError(f"{source} was not saved as a multiple-choice model: give n_classes, the number of options")
    return wrapped(model, tokenizer, choices, **options)


@cache
def _revision(source):
    """The pinned revision of a hub model; of one without, "main", which is said once."""
    revision = pin(source)
    if revision == "main":
        said = f"model {source!r} is not in sua.sources and has no pinned revision: the hub's main of today is taken"
        paths.tell_runner("notes", said)
        warnings.warn(f"{said}; for results that stay, keep a copy of it below data/hub/models", stacklevel=3)
    return revision


def _read(place, *, seed, causal, dtype, head, **where):
    """(model, tokenizer, whether it is causal) of a folder or hub id; OSError where it is not to be had."""
    torch, transformers = need("torch"), need("transformers")
    where["trust_remote_code"] = False
    no_tokenizer = (f"{place} has no tokenizer files, so that every word would be unknown: save its tokenizer there, "
                    "tokenizer.save_pretrained(folder)")
    torch.manual_seed(seed)  # the new head
    try:
        with quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(place, **where)
            causal |= hasattr(config, "sua_choice_lm")
            auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSequenceClassification
            model = auto.from_pretrained(place, dtype=getattr(torch, dtype or _default_dtype(config, causal)),
                                         use_safetensors=True, **where, **({} if causal else head))
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, **where)
    except ValueError as error:
        expect("trust_remote_code" not in str(error), f"{place} needs code that comes with it, and such code never "
               "runs here: take a model whose architecture transformers has")
        expect("backend tokenizer" not in str(error), no_tokenizer)
        raise
    # without its files, transformers makes a tokenizer that knows its special tokens, some a single mark besides
    expect(len(tokenizer.get_vocab().keys() - {*tokenizer.all_special_tokens}) > 1, no_tokenizer)
    return model, tokenizer, causal


def _default_dtype(config, causal):
    import torch

    if config.dtype == torch.float64:
        return "float64"
    quick = torch.cuda.is_available() or fast_in_bfloat16() and not hasattr(config, "sua_choice_lm")
    return "bfloat16" if causal and quick else "float32"


@cache
def fast_in_bfloat16() -> bool:
    """Whether the processor multiplies matrices of bfloat16 faster than of float32: it has AMX or AVX-512 for it, and
    torch is not told to do without."""
    import torch

    flags = Path("/proc/cpuinfo")
    listed = flags.read_text(encoding="utf-8").split() if flags.exists() else []
    wide_vectors = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return wide_vectors and not {"amx_bf16", "avx512_bf16"}.isdisjoint(listed)


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
