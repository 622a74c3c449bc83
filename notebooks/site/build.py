"""Builds the site of a profile: `python notebooks/site/build.py --profile P` writes build/P/site.

Its sources are laid out in build/P/site-src as in the repository, so that the README's links hold: README, executed
notebooks, tables and figures, one page per module, and what the manifests say about the run. Nothing is executed:
notebooks that have not been run are left out, and the build says so.
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
from typing import Iterable

import nbformat
import pandas as pd
from sphinx.cmd.build import main as sphinx

import sua
from sua import paths, recorded, sources
from sua.study import baselines, executed, report, run

# pages of the repository as they are; never the assignments' notebooks, which hold solutions
PAGES = {"Using it": ("notebooks/site/concepts", "notebooks/site/how_to"),
         "Teaching": ("notebooks/assignments/README", "notebooks/assignments/INSTRUCTOR"),
         "Reference": ("notebooks/site/promises",)}


def write(path: Path, *blocks: str) -> None:
    """Blocks of text with an empty line between them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def toctree(pages, *options: str) -> str:
    return "\n".join(["```{toctree}", *options, *pages, "```"])


def add_notebooks(source: Path, profile: str, stages: Iterable[str]) -> list[str]:
    """The executed notebooks. The cell of defaults goes: the injected one says what was run, and stays unfolded."""
    for stage in stages:
        notebook = nbformat.read(paths.build(profile) / stage / run.EXECUTED, as_version=4)
        notebook.cells = [cell for cell in notebook.cells if "parameters" not in cell.metadata.get("tags", [])]
        for cell in notebook.cells:
            tags = cell.metadata.setdefault("tags", [])
            if cell.cell_type == "code" and "injected-parameters" not in tags:
                tags.append("hide-input")
        write(source / f"notebooks/{stage}.ipynb", nbformat.writes(notebook))
    return [f"notebooks/{stage}" for stage in stages]


def title_of(caption: str) -> str:
    """A caption up to its first stop, comma or colon that ends a word outside of parentheses."""
    depth = 0
    for i, (character, after) in enumerate(zip(caption, [*caption[1:], " "])):
        depth += (character == "(") - (character == ")")
        if character in ":.,;" and after.isspace() and depth <= 0:
            return caption[:i]
    return caption


def toy_banner(profile: str) -> str:
    """What stands above every page of a profile whose results are not published; nothing for the others."""
    if run.load_profile(profile).get("settings", {}).get("publish"):
        return ""
    return (f"Toy run: the profile {profile} only shows that every cell runs. Its numbers, tables and figures mean "
            "nothing; those of other profiles are under Tables and figures.")


def add_results(source: Path, profile: str) -> list[str]:
    """This profile's tables and figures as its run made them, then those committed for other profiles."""
    made = paths.build(profile) / run.notebooks()[-1].stem
    folders = {profile: made} if run.read_manifest(made) else {}
    for folder in sorted((paths.root() / "figures").glob("[!.]*/")):
        folders.setdefault(folder.name, folder)
    for name, folder in folders.items():
        target = source / "figures" / name
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.ipynb", "*.json", "*.pdf"))
        tables = sorted(target.glob("*.md"))
        for table in tables:
            caption, content = table.read_text(encoding="utf-8").split("\n", 1)
            title = title_of(caption)
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
    """One page per module, in the words of its docstrings. A name that a package exports is called as it is written
    there: sua.predict, and not sua.predict.predict, since sua.predict is the function."""
    modules = [name for _, name, _ in pkgutil.walk_packages(sua.__path__, "sua.")]
    summaries = {}
    for module in modules:
        page, exported = module.removeprefix("sua."), _exported(module)
        other = [f"   :exclude-members: {', '.join(exported)}"] if exported else []
        other += ["   :no-index:"] if module in (f"{place}.{name}" for name, place in exported.items()) else []
        write(source / f"api/{page}.rst", f"{module}\n{'=' * len(module)}",
              "\n".join([f".. automodule:: {module}", "   :members:", *other]),
              *(_as_exported(name, place) for name, place in exported.items()))
        first = inspect.getdoc(import_module(module)).split("\n\n")[0].replace("\n", " ")
        summaries[page] = f"- [`{module}`]({page}.rst): {first}"
    write(source / "api/index.md", "# Modules", "After `import sua`, each of these can be written as it stands:",
          "\n".join(map(_listed, sua.__all__)), "Module by module:", "\n".join(summaries.values()),
          toctree(summaries, ":hidden:"))
    return ["api/index"]


def _exported(module):
    """{name: "sua" or the module's package} of its own documented classes and functions that can be had there."""
    found = {}
    for name, value in vars(import_module(module)).items():
        if getattr(value, "__module__", None) == module and not name.startswith("_") and inspect.getdoc(value):
            package = module.rpartition(".")[0]
            places = ("sua", *[package] * (not hasattr(import_module(package), "__all__")))  # its page has them by then
            place = next((place for place in places if getattr(import_module(place), name, None) is value), None)
            found |= {name: place} if place and (inspect.isclass(value) or inspect.isfunction(value)) else {}
    return found


def _as_exported(name, place):
    is_class = inspect.isclass(getattr(import_module(place), name))
    return f".. auto{'class' if is_class else 'function'}:: {place}::{name}" + ("\n   :members:" if is_class else "")


def _listed(name):
    """A line about a public name: what a function or class does, where a module is described, what else it is."""
    value = getattr(sua, name)
    if inspect.ismodule(value):
        return f"- `sua.{name}`: the module [`{value.__name__}`]({value.__name__.removeprefix('sua.')}.rst)"
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return f"- `sua.{name}`: {f'a table of {len(value)} entries' if isinstance(value, dict) else repr(value)}"
    first = inspect.getdoc(value).split("\n\n")[0].replace("\n", " ")
    return f"- [`sua.{name}`]({value.__module__.removeprefix('sua.')}.rst): {first}"


def add_report(source: Path) -> list[str]:
    """The report on a recorded language model, a file of its own, and a page that says what it is."""
    name = "Yi-34B-Chat, template 1"
    held, tested = baselines.split_items(recorded.llms()[name])
    of_item = tested.meta["subject"]
    sua.report_html(tested, source / "extra" / "report.html", calibration=held,
                    texts=[f"a question of {of_item[item].replace('_', ' ')}" for item in tested.ids])
    write(source / "report_example.md", "# A report on saved predictions",
          "`sua.report_html(predictions, \"report.html\")`, or `sua score p.parquet --out report.html` from a shell, "
          "writes one file that needs no network: what can be certified without labels, what with them, and which items "
          f"to look at first. <a href=\"report.html\">The report on {name}</a>, one of the recorded language models, "
          f"asked {len(tested)} questions of MMLU under three prompts, is such a file; {len(held)} more calibrate.")
    return ["report_example"]


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
    parser.add_argument("--profile", required=True, help="the profile whose run is shown")
    profile = parser.parse_args(arguments).profile
    build = paths.build(profile)
    manifests = {stage.stem: run.read_manifest(build / stage.stem) for stage in run.notebooks()}
    missing = [name for name, manifest in manifests.items() if manifest is None]
    manifests = {name: manifest for name, manifest in manifests.items() if manifest}
    source, site = build / "site-src", build / "site"
    for folder in (source, site):
        shutil.rmtree(folder, ignore_errors=True)

    def text(page):
        return (paths.root() / f"{page}.md").read_text(encoding="utf-8")

    reference = add_modules(source) + add_sources(source)
    reference += add_status(source, profile, manifests) if manifests else []
    groups = {"Using it": [], "Notebooks": add_notebooks(source, profile, manifests),
              "Results": add_results(source, profile), "Teaching": [], "Reference": reference}
    pages = [(title, page) for title in PAGES for page in PAGES[title] if (paths.root() / f"{page}.md").exists()]
    for title, page in pages:
        groups[title].append(page)
        write(source / f"{page}.md", text(page))
    groups["Using it"] += add_report(source)
    trees = (toctree(pages, ":hidden:", f":caption: {title}") for title, pages in groups.items() if pages)
    write(source / "index.md", text("README"), *trees)
    for page in ("index", *(page for _, page in pages)):
        keep_links_that_hold(source / f"{page}.md")
    banner = toy_banner(profile)
    told = [f"-Dhtml_extra_path={source / 'extra'}"]
    if banner:
        told.append(f"-Dhtml_theme_options.announcement={banner}")
    failed = sphinx(["-qW", "--keep-going", *told, f"-c{Path(__file__).parent}", f"-d{source / '.doctrees'}",
                     str(source), str(site)])
    shutil.rmtree(build / "jupyter_execute", ignore_errors=True)  # the outputs' images, which the site has by now
    if missing:
        print(f"site: without {', '.join(missing)}, not run with profile {profile!r}: `make reproduce "
              f"PROFILE={profile}` first")
    print("site: see the warnings above" if failed else f"site: {(site / 'index.html').relative_to(paths.root())}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
