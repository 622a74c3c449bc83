"""Where things are: the one module that knows folders, mirrors and build directories."""

from __future__ import annotations

import ast
import hashlib
import os
from pathlib import Path


class NotAvailableError(OSError):
    """A data set or model is in no mirror and the net does not give it; the message lists places and remedies."""


def root() -> Path:
    """The project's folder: the nearest parent of the working directory with notebooks/profiles, else that itself."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks" / "profiles").is_dir():
            return folder
    return here


def of_checkout(*parts: str) -> Path:
    """A file of the project's folder that no wheel holds, e.g. ("data", "llm_mcq.npz").

    NotAvailableError that says so where the working directory is in no checkout, or the checkout lacks the file.
    """
    path = root().joinpath(*parts)
    if not path.exists():
        raise NotAvailableError(
            f"{'/'.join(parts)} is part of the project's folder, not of the installed module, and {root()} has none: "
            "get a checkout of the project (git clone) and run in it, or in a folder below")
    return path


def build(profile: str) -> Path:
    """Everything that a profile's run makes and git ignores: executed notebooks, models, predictions."""
    return root() / "build" / profile


def figures(profile: str) -> Path:
    """The committed results of a profile."""
    return root() / "figures" / profile


def mirrors() -> list[Path]:
    """Local copies of hub data, in the order they are asked: the folders of $SUA_MIRROR, written like those of $PATH
    (":" between them, ";" on Windows), then data/hub."""
    named = filter(None, os.environ.get("SUA_MIRROR", "").split(os.pathsep))
    return [Path(name).expanduser().resolve() for name in named] + [root() / "data" / "hub"]


def code_digest(*modules: str) -> str:
    """Hash of what these modules of sua do, e.g. "scores/orbit": comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for name in modules:
        tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def in_mirror(*parts: str) -> Path | None:
    """The first mirror's folder or file `parts`, e.g. ("models", "org/name"), or None."""
    found = next((path for path in (mirror.joinpath(*parts) for mirror in mirrors()) if path.exists()), None)
    if found:
        tell_runner("mirrored", "/".join(parts))
    return found


def tell_runner(kind: str, line: str) -> None:
    """Leave a line for the manifest of the running stage: "mirrored" = what it read, "notes" = what a reader must know.
    """
    if stage_folder():
        with open(stage_folder() / f".{kind}", "a", encoding="utf-8") as lines:
            lines.write(line + "\n")


def stage_folder() -> Path | None:
    """Where the running stage writes; None outside of the runner."""
    return Path(os.environ["SUA_STAGE_DIR"]) if "SUA_STAGE_DIR" in os.environ else None


def not_available(what: str, name: str, reason: object, net: str = "the Hugging Face hub") -> NotAvailableError:
    """The one error for data that no place offers: its name, the places tried (last the `net`), both remedies."""
    tried = "".join(f"\n  - {mirror}" for mirror in mirrors())
    return NotAvailableError(
        f"{what} {name!r} is not available. Tried:{tried}\n  - {net} ({reason})\n"
        "Remedies: point SUA_MIRROR (or make ... MIRROR=dir) at a folder that holds it, or run "
        "`make download` on a machine with internet, which fills data/hub.")
