"""`python -m sua.study.download --profile P`: the data sets and models of a profile, for machines without internet."""

from __future__ import annotations

import argparse
import sys
from typing import Mapping

from .. import paths
from ..models.load import HUB_REVISIONS
from ..tasks.hub import HUB_SETS, HUB_TASKS, MULTI_NLI, SNLI, from_hub
from .run import load_profile


def download(profile: str) -> None:
    """Fetch every hub data set and model of a profile's experiments into data/hub; what is there stays as it is."""
    from huggingface_hub import snapshot_download

    target = paths.root() / "data" / "hub"
    names, models = zip(*_settings(load_profile(profile)))
    for source in dict.fromkeys(source for of_setting in names for name in of_setting for source in _sources(name)):
        for split in source.splits:
            file = target / "datasets" / source.hub_id / source.config / f"{split}.parquet"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                unfinished = file.with_suffix(".part")
                from_hub(source, split).to_parquet(unfinished)
                unfinished.replace(file)
            print(f"{source.hub_id} {split}: {file.relative_to(paths.root())}")
    for model in dict.fromkeys(model for model in models if "/" in model):
        folder = target / "models" / model
        try:
            snapshot_download(model, revision=HUB_REVISIONS.get(model, "main"), local_dir=folder,
                              allow_patterns=["*.json", "*.safetensors", "*.txt"])
        except Exception as error:
            raise paths.not_available("model", model, type(error).__name__) from error
        print(f"{model}: {folder.relative_to(paths.root())}")


def _settings(node):
    """(names of data sets, model) of everything in a profile that a model is set to, wherever it stands."""
    if isinstance(node, Mapping):
        if "model" in node:
            yield [node["task"]["name"]] if "task" in node else list(node["sets"]), node["model"]
        else:
            for value in node.values():
                yield from _settings(value)


def _sources(name):
    if name == "chaosnli":
        return SNLI, MULTI_NLI
    return tuple(known[name] for known in (HUB_TASKS, HUB_SETS) if name in known)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m sua.study.download", description="Fetch data sets and models.")
    parser.add_argument("--profile", required=True)
    try:
        download(parser.parse_args().profile)
    except paths.NotAvailableError as error:
        sys.exit(str(error))
