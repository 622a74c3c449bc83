"""Fetch what a profile needs into data/hub, for a machine without internet."""

from __future__ import annotations

import argparse
import sys
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Iterator, Mapping

from tqdm import tqdm

from .. import files, paths
from ..sources import SOURCES, Source
from ..tasks.hub import HUB_SETS, HUB_TASKS, MULTI_NLI, SNLI, from_hub
from .run import StageError, load_profile

WEIGHTS = ("*.json", "*.safetensors", "*.txt")  # of a model; no pickles, no code


def needed(profile: str) -> list[Source]:
    """The sources that a profile uses, in the table's order; a hub model outside the table comes last, unpinned."""
    content = load_profile(profile)
    named, packaged = set(_strings(content)), set(_packaged(content))
    known = [source for source in SOURCES if named & {*source.used_by}
             and not (source.kind == "model" and source.place in packaged)]
    others = sorted({model for model in _models(content) if "/" in model} - {source.place for source in known})
    return known + [Source("model", model, "main", "not stated", "", (model,)) for model in others]


def download(profile: str) -> None:
    """Fetch everything that a profile needs, the sizes said first; what is in data/hub stays as it is.

    Raises NotAvailableError for the first thing that is not to be had.
    """
    missing = {source: size for source in needed(profile) if (size := _bytes_missing(source))}
    for source, size in missing.items():
        print(f"{size / 1e6:10,.1f} MB  {source.kind} {source.place} (licence: {source.licence})")
    print(f"{sum(missing.values()) / 1e6:10,.1f} MB  to fetch into {_home()}", flush=True)
    for source in missing:
        {"data set": _data_set, "model": _model}.get(source.kind, _files)(source)


def _bytes_missing(source):
    if source.kind == "data set":
        return _bytes_of_set(source) if any(not file.exists() for _, _, file in _splits(source)) else 0
    if source.kind == "model":
        return _bytes_of_model(source)
    return sum(file.bytes for file in source.files.values() if not file.at_home.exists())


def _bytes_of_set(source):
    from datasets import load_dataset_builder
    from huggingface_hub import HfFileSystem

    with _asking_for(source):
        builders = [load_dataset_builder(source.place, config, revision=source.pin)
                    for config in {spec.config for spec, _, _ in _splits(source)}]
        return sum(HfFileSystem().size(file) for builder in builders
                   for files in builder.config.data_files.values() for file in files)


def _bytes_of_model(source):
    from huggingface_hub import HfApi

    with _asking_for(source):
        files = HfApi().model_info(source.place, revision=source.pin, files_metadata=True).siblings
    return sum(file.size for file in files if any(fnmatch(file.rfilename, pattern) for pattern in WEIGHTS)
               and _size(_home() / source.folder / file.rfilename) != file.size)


def _data_set(source):
    for spec, split, file in _splits(source):
        if not file.exists():
            with files.whole(file) as unfinished:
                from_hub(spec, split).to_parquet(unfinished)


def _model(source):
    from huggingface_hub import snapshot_download

    with _asking_for(source):
        snapshot_download(source.place, revision=source.pin, local_dir=_home() / source.folder,
                          allow_patterns=list(WEIGHTS))


def _files(source):
    missing = [file for file in source.files.values() if not file.at_home.exists()]
    with tqdm(total=sum(file.bytes for file in missing), unit="B", unit_scale=True, desc=source.place) as bar:
        for file in missing:
            file.fetch(bar)


def _splits(source) -> Iterator:
    """(spec, split, file in data/hub) of every split that the project uses of a data set."""
    for spec in (*HUB_TASKS.values(), *HUB_SETS.values(), SNLI, MULTI_NLI):
        if spec.hub_id == source.place:
            for split in spec.splits:
                yield spec, split, _home() / source.folder / spec.config / f"{split}.parquet"


def _size(file):
    return file.stat().st_size if file.exists() else 0


@contextmanager
def _asking_for(source):
    try:
        yield
    except Exception as error:  # whatever went wrong, the reader needs the same two remedies
        reason = f"revision {source.pin}: {type(error).__name__}"
        raise paths.not_available(source.kind, source.place, reason) from error


def _home():
    return paths.mirrors()[-1]


def _models(node):
    """Every `model` that stands anywhere in a profile."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from [value] if key == "model" else _models(value)


def _packaged(node):
    """Every model that a profile takes from a package, not from the hub."""
    if isinstance(node, Mapping):
        if node.get("packaged"):
            yield from node["models"]
        for value in node.values():
            yield from _packaged(value)


def _strings(node):
    """Every key and every text in a profile, however deep."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from (key, *_strings(value))
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m sua.study.download", description="Fetch what a profile needs.")
    parser.add_argument("--profile", required=True)
    try:
        download(parser.parse_args().profile)
    except (paths.NotAvailableError, StageError) as error:
        sys.exit(str(error))
