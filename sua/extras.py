"""What is installed with an extra only: which extra has a package, and the error that names it.

The core needs numpy, scipy, pyarrow, tqdm and filelock. Everything else comes with an extra of pyproject.toml.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

EXTRAS = {  # package -> the extra that brings it
    **dict.fromkeys(("torch", "transformers", "accelerate", "datasets", "pandas", "tokenizers"), "models"),
    **dict.fromkeys(("gguf", "peft"), "lm"), "openai": "api", "matplotlib": "report",
    **dict.fromkeys(("sklearn", "mapie"), "calibration"),
    **dict.fromkeys(("papermill", "nbformat", "seaborn", "yaml", "IPython", "ipywidgets"), "notebooks")}


def need(package: str) -> ModuleType:
    """The package or module, imported. ModuleNotFoundError with the line of pip that brings it, where it is absent."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise missing(error, package) from None


def missing(error: ModuleNotFoundError, what: str) -> ModuleNotFoundError:
    """The error to raise where `what` cannot be had for want of a package: of one in EXTRAS it names the remedy."""
    absent = (error.name or "").split(".")[0]
    if absent not in EXTRAS:
        return error
    return ModuleNotFoundError(f"{what} needs {absent}, which the core of sua does without: "
                               f"pip install 'sua[{EXTRAS[absent]}]'", name=error.name)
