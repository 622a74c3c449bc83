"""Files that are whole or not there: the one way in which sua writes what a later run reads."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, Iterator
from uuid import uuid4

UNFINISHED = ".unfinished"  # how the names of files and folders end that are being written
ABANDONED = 3600  # seconds without a byte, after which an unfinished file has lost its writer


@contextmanager
def whole(path) -> Iterator[BinaryIO]:
    """A file for bytes that appears at `path` when the block ends, at once and as a whole.

    Until then, and for good if the block raises or the process is killed, `path` stays what it was. Any number of
    threads and processes may write to one path at a time: the last to end wins. Missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent.resolve())
    unfinished = path.with_name(f".{uuid4().hex}{UNFINISHED}")
    try:
        with open(unfinished, "xb") as file:
            yield file
        put(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path, text: str) -> None:
    """Write a text in UTF-8, as `whole` does."""
    with whole(path) as file:
        file.write(text.encode())


def put(new: Path, path: Path) -> None:
    """Move the finished file or folder `new` to `path`, in the place of what is there.

    Its bytes are on the disk before its name is. A kill leaves the old or the new, never a mixture; of a folder for
    an instant neither, since no system call exchanges two.
    """
    old = path.with_name(f".{path.name}.old")
    for part in (new, *(new.rglob("*") if new.is_dir() else ())):
        _sync(part)
    if new.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        with suppress(FileNotFoundError):
            os.replace(path, old)
    os.replace(new, path)
    _sync(path.parent)
    if path.is_dir():
        shutil.rmtree(old, ignore_errors=True)


def _sync(path):
    with suppress(OSError):  # some file systems do not know it for folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@cache
def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder, once in a process: a look at each writing would be slow."""
    for left in folder.glob(f".*{UNFINISHED}"):
        with suppress(FileNotFoundError):  # another process was faster
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def json_lines(path) -> list:
    """The values of a file with one JSON text in each line. ValueError names file and line of what is none."""
    values = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error}): {line[:80]!r}. Mend it, or fetch the file "
                             "again") from None
    return values
