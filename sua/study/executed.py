"""Executed notebooks as they are published: with what they show, without what another run would show otherwise."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from pathlib import Path

import nbformat

from .. import paths

# the picture at the top of each published notebook, and of README.md: the stage's figure of that name
PICTURES = {"01_theory_checks": "theory_12_removable", "02_ambiguity_collapse": "collapse_detection",
            "03_sua_tr_training": "training_curves", "04_baselines": "llms", "05_tables": "fig1"}
COLOURS = 96  # of a plot's picture; more are not seen, and cost bytes
SHOWN = ("image/png", "text/html", "text/markdown", "text/latex", "text/plain")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_BAR = re.compile(r"\d+%\|.*\| *\d+/\d+ \[")
_STYLED = re.compile(r"\bT_[0-9a-f]{5}(?=[_\" ])")  # pandas draws a name for every styled table


def published(folder: Path, name: str) -> dict[str, bytes]:
    """{file name: content} of the executed notebook in a stage's folder: name.ipynb, and the picture at its top.

    Kept are text, tables and pictures. Times, ids of the runner, stderr and bars, widgets, addresses in memory and the
    folder of this checkout are not, and the cell of defaults goes: the injected one says what was run.
    """
    notebook = nbformat.read(folder / "notebook.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if "parameters" not in cell.metadata.get("tags", [])]
    made = {}
    picture = folder / f"{PICTURES.get(name)}.png"
    if picture.exists():
        caption = json.loads((folder / "captions.json").read_text(encoding="utf-8")).get(picture.stem, "")
        made[f"{name}.png"] = small(picture.read_bytes())
        cells.insert(1, nbformat.v4.new_markdown_cell(f"![{picture.stem}]({name}.png)\n\n{caption}", id="picture"))
    kept = [_cell(cell) for cell in cells]
    info = {key: notebook.metadata[key] for key in ("kernelspec",) if key in notebook.metadata}
    clean = nbformat.v4.new_notebook(cells=kept, metadata={**info, "language_info": {"name": "python"}})
    return {f"{name}.ipynb": (nbformat.writes(clean).rstrip("\n") + "\n").encode(), **made}


def _cell(cell):
    tags = cell.metadata.get("tags", [])
    if cell.cell_type != "code":
        return nbformat.v4.new_markdown_cell(cell.source, id=cell.id)
    new = nbformat.v4.new_code_cell(_plain(cell.source), id="parameters" if "injected-parameters" in tags else cell.id,
                                    execution_count=cell.execution_count)
    for output in filter(None, map(_output, cell.outputs)):
        last = new.outputs[-1] if new.outputs else None
        if output.output_type == "stream" and last is not None and last.output_type == "stream":
            last["text"] += output.text  # the kernel cuts what is printed where it likes
        else:
            new.outputs.append(output)
    return new


def _output(output):
    """What is kept of an output, or None."""
    if output.output_type == "stream":
        keep = output.name == "stdout" and "\r" not in output.text
        return nbformat.v4.new_output("stream", name="stdout", text=_plain(output.text)) if keep else None
    if output.output_type not in ("display_data", "execute_result"):
        return None
    data = {kind: _plain(value) if kind != "image/png" else base64.b64encode(small(base64.b64decode(value))).decode()
            for kind, value in output.data.items() if kind in SHOWN}
    if _BAR.search(data.get("text/plain", "")):
        return None
    if "image/png" in data:
        data.pop("text/plain", None)  # "<Figure size 600x320 with 1 Axes>"
    more = {"execution_count": output.execution_count} if output.output_type == "execute_result" else {}
    return nbformat.v4.new_output(output.output_type, data=data, **more) if data else None


def _plain(text):
    """Without places of this machine: the checkout's folder is ".", addresses of objects go, and a styled table is
    named by its content."""
    text = _ADDRESS.sub("", text.replace(str(paths.root()), "."))
    content = hashlib.sha256(_STYLED.sub("", text).encode()).hexdigest()
    return _STYLED.sub(f"T_{content[:5]}", text)


def small(png: bytes) -> bytes:
    """The picture with at most COLOURS colours and nothing beside its pixels; the same bytes for the same pixels."""
    from PIL import Image

    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A") if "A" in image.getbands() else None)
        flat.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return file.getvalue()
