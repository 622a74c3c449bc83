"""Builds the site of a profile: `python notebooks/site/build.py --profile P` writes build/P/site.

Its sources are laid out in build/P/site-src as in the repository, so that the README's links hold: README, executed
notebooks, tables and figures, one page per module, and what the manifests say about the run. Nothing is executed.
"""

import argparse
import inspect
import json
import pkgutil
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

import nbformat
import pandas as pd
from sphinx.cmd.build import main as sphinx

import sua
from sua import paths, sources
from sua.study import executed, report, run

# pages of the repository as they are; never the assignments' notebooks, which hold solutions
PAGES = {"Teaching": ("notebooks/assignments/README", "notebooks/assignments/INSTRUCTOR"),
         "Reference": ("notebooks/site/promises",)}


def write(path: Path, *blocks: str) -> None:
    """Blocks of text with an empty line between them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def toctree(pages, *options: str) -> str:
    return "\n".join(["```{toctree}", *options, *pages, "```"])


def add_notebooks(source: Path, profile: str) -> list[str]:
    """The executed notebooks. The cell of defaults goes: the injected one says what was run."""
    for stage in run.notebooks():
        notebook = nbformat.read(paths.build(profile) / stage.stem / run.EXECUTED, as_version=4)
        notebook.cells = [cell for cell in notebook.cells if "parameters" not in cell.metadata.get("tags", [])]
        write(source / "notebooks" / stage.name, nbformat.writes(notebook))
    return [f"notebooks/{stage.stem}" for stage in run.notebooks()]


def add_results(source: Path, profile: str) -> list[str]:
    """This profile's tables and figures as its run made them, then those committed for other profiles."""
    folders = {profile: paths.build(profile) / run.notebooks()[-1].stem}
    for folder in sorted((paths.root() / "figures").glob("[!.]*/")):
        folders.setdefault(folder.name, folder)
    for name, folder in folders.items():
        target = source / "figures" / name
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.ipynb", "*.json", "*.pdf"))
        tables = sorted(target.glob("*.md"))
        for table in tables:
            caption, content = table.read_text(encoding="utf-8").split("\n", 1)
            title = re.split(r"[:.,;](?![^(]*\))", caption)[0]  # not inside of parentheses
            if number := re.fullmatch(r"table(\d+)_?(.*)", table.stem):
                title = f"Table {' '.join(filter(None, number.groups()))} · {title}"
            others = [f"[{file.suffix[1:]}]({file.name})" for file in sorted(target.glob(f"{table.stem}.[!m]*"))]
            write(table, f"# {title} ({name})", caption, content, " · ".join(others))
        captions = folder / "captions.json"
        captions = json.loads(captions.read_text(encoding="utf-8")) if captions.exists() else {}
        figures = [f"![{figure.stem}]({figure.name})\n\n{captions.get(figure.stem, '')}"
                   for figure in sorted(target.glob("[!0-9]*.png"))]
        for stage in run.notebooks() if name == profile else ():  # the pictures that the README shows
            for file, content in executed.published(paths.build(profile) / stage.stem, stage.stem).items():
                if file.endswith(".png"):
                    (target / file).write_bytes(content)
        write(target / "index.md", f"# Tables and figures ({name})", toctree(table.stem for table in tables), *figures)
    return [f"figures/{name}/index" for name in folders]


def add_modules(source: Path) -> list[str]:
    """One page per module, in the words of its docstrings."""
    summaries = {}
    for _, title, _ in pkgutil.walk_packages(sua.__path__, "sua."):
        page = title.removeprefix("sua.")
        write(source / f"api/{page}.rst", f"{title}\n{'=' * len(title)}", f".. automodule:: {title}\n   :members:")
        first = inspect.getdoc(import_module(title)).split("\n\n")[0].replace("\n", " ")
        summaries[page] = f"- [`{title}`]({page}.rst): {first}"
    write(source / "api/index.md", "# Modules", "\n".join(summaries.values()), toctree(summaries, ":hidden:"))
    return ["api/index"]


def add_sources(source: Path) -> list[str]:
    """The one table of sources: what is fetched from where, at which pin, under which licence."""
    write(source / "sources.md", "# Where data and weights come from",
          report.markdown(sources.table(), "Every source, what it gives and what needs it. `make download PROFILE=...` "
                          "fetches what a profile needs; generated worlds and `data/` need nothing."))
    return ["sources"]


def add_status(source: Path, profile: str, manifests: dict[str, dict]) -> list[str]:
    """What the manifests say: time, memory, machine and versions of every stage, and whether it is up to date."""
    stages = pd.DataFrame([{
        "stage": name, "seconds": made["seconds"], "peak memory (MiB)": made["peak_memory_mib"],
        **{key: made["machine"][key] for key in ("device", "processor", "capability", "system", "python")},
        "threads": made["threads"], "notes": "; ".join(made["notes"]),
        "commit": f"{made['git']['commit']}"[:12] + (", with changes" if made["git"]["dirty"] else ""),
        "state": run.StageRun(name, profile).why() or "up to date"} for name, made in manifests.items()])
    versions = pd.DataFrame({name: made["machine"]["versions"] for name, made in manifests.items()})
    write(source / "status.md", f"# How these results were made ({profile})",
          report.markdown(stages, "Every stage, and whether it would run again."),
          report.markdown(versions.rename_axis("package").reset_index(), "The versions it ran with."))
    return ["status"]


def keep_links_that_hold(page: Path) -> None:
    """Links to what is no part of the site become their text; code is left alone."""
    def kept(found):
        target = found[2] and found[2].split("#")[0]
        return found[0] if not target or "://" in target or (page.parent / target).is_file() else found[1]

    text = re.sub(r"```.*?```|(?<!!)\[([^\]]+)\]\(([^)\s]+)\)|`[^`]*`", kept, page.read_text(encoding="utf-8"),
                  flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", required=True, help="a profile whose notebooks have been run")
    profile = parser.parse_args(arguments).profile
    build = paths.build(profile)
    manifests = {stage.stem: run.read_manifest(build / stage.stem) for stage in run.notebooks()}
    if missing := [name for name, manifest in manifests.items() if manifest is None]:
        print(f"site: not run yet with profile {profile!r}: {', '.join(missing)}; run `make reproduce "
              f"PROFILE={profile}` first", file=sys.stderr)
        return 1
    source, site = build / "site-src", build / "site"
    for folder in (source, site):
        shutil.rmtree(folder, ignore_errors=True)
    text = lambda page: (paths.root() / f"{page}.md").read_text(encoding="utf-8")
    groups = {"Notebooks": add_notebooks(source, profile), "Results": add_results(source, profile),
              "Teaching": [], "Reference": add_modules(source) + add_sources(source) + add_status(source, profile, manifests)}
    pages = [(title, page) for title in PAGES for page in PAGES[title] if (paths.root() / f"{page}.md").exists()]
    for title, page in pages:
        groups[title].append(page)
        write(source / f"{page}.md", text(page))
    trees = (toctree(pages, ":hidden:", f":caption: {title}") for title, pages in groups.items() if pages)
    write(source / "index.md", text("README"), *trees)
    for page in ("index", *(page for _, page in pages)):
        keep_links_that_hold(source / f"{page}.md")
    failed = sphinx(["-qW", "--keep-going", f"-c{Path(__file__).parent}", f"-d{source / '.doctrees'}", str(source),
                     str(site)])
    shutil.rmtree(build / "jupyter_execute", ignore_errors=True)  # the outputs' images, which the site has by now
    print("site: see the warnings above" if failed else f"site: {(site / 'index.html').relative_to(paths.root())}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
