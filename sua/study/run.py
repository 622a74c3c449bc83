"""Strict notebook runner: `python -m sua.study.run NOTEBOOK --profile P` executes one stage, or says why it need not.

A stage is a notebook, its section of notebooks/profiles/P.yaml and what it writes. It counts as done only if every
code cell completed and every declared output is there; then a manifest records inputs, outputs and machine, and the
folder moves to build/P/NOTEBOOK in one step. A stage whose inputs and outputs have not changed is not run again.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path

import nbformat
import yaml

from .. import files, paths
from . import executed

RECORDED = ("sua", "numpy", "scipy", "torch", "transformers", "datasets", "papermill", "matplotlib")
EXECUTED, MANIFEST = "notebook.ipynb", "manifest.json"
PATIENCE = 600  # seconds in which a kernel has to start and to hand over an output, on a machine that is busy too


class StageError(RuntimeError):
    """A stage that may not run, or did not end well; the message says what to do."""


def notebooks() -> list[Path]:
    """The numbered notebooks in their order."""
    return sorted((paths.root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def load_profile(profile: str) -> dict:
    """notebooks/profiles/<profile>.yaml: `settings` and one section of parameters per notebook.

    StageError for an unknown profile, or a file that is no YAML or has something else than a mapping in a section.
    """
    try:
        file = paths.of_checkout("notebooks", "profiles") / f"{profile}.yaml"
    except paths.NotAvailableError as error:
        raise StageError(str(error)) from None
    if not file.exists():
        known = ", ".join(sorted(other.stem for other in file.parent.glob("*.yaml")))
        raise StageError(f"unknown profile {profile!r}; known: {known}")
    try:
        content = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, ValueError) as error:
        raise StageError(f"{file.relative_to(paths.root())} is no YAML: {error}") from None
    for name, part in {"the whole": content, **(content if isinstance(content, dict) else {})}.items():
        if not isinstance(part, dict):
            raise StageError(f"{file.relative_to(paths.root())}: {name} is {part!r:.80}, expected `key: value` lines")
    return content


class StageRun:
    """One notebook under one profile: what it takes, what it makes, and whether that is up to date."""

    def __init__(self, name: str, profile: str):
        self.name, self.profile = Path(name).stem, profile
        content = load_profile(profile)
        self.source = paths.root() / "notebooks" / f"{self.name}.ipynb"
        if not self.source.exists():
            raise StageError(f"unknown notebook {name!r}; known: {', '.join(nb.stem for nb in notebooks())}")
        self.folder = paths.build(profile) / self.name
        self.staging = self.folder.with_name(f".{self.name}.new")
        self.settings = content.get("settings", {})
        self.notebook = nbformat.read(self.source, as_version=4)
        declared = self.notebook.metadata.get("sua", {})
        self.needs, self.outputs = declared.get("needs", []), declared.get("outputs", [])
        self.parameters = {"profile": profile, **self._checked_parameters(content.get(self.name))}

    def _checked_parameters(self, given):
        cells = [cell for cell in self.notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        if len(cells) != 1:
            raise StageError(f"{self.source.name} has {len(cells)} cells tagged `parameters`, expected one: tag the "
                             "cell that assigns the defaults")
        known = {target.id for node in ast.parse(cells[0].source).body if isinstance(node, ast.Assign)
                 for target in node.targets} - {"profile"}
        if given is None and known:
            raise StageError(f"profile {self.profile!r} has no section {self.name!r}: add it with {sorted(known)}")
        given = given or {}
        if unknown := set(given) - known:
            raise StageError(f"unknown parameters for {self.name}: {sorted(unknown)}; its parameters cell knows "
                             f"{sorted(known)}")
        if missing := known - set(given):
            raise StageError(f"missing parameters for {self.name} in profile {self.profile!r}: {sorted(missing)}")
        return given

    def inputs(self, mirrored: list[str]) -> dict[str, str]:
        """Everything the result depends on, as {name: sha256}."""
        root = paths.root()
        package = Path(__file__).parents[1]
        code = sorted("/".join(file.relative_to(package).with_suffix("").parts) for file in package.rglob("*.py")
                      if file != Path(__file__))
        data = [file for file in (root / "data").glob("*") if file.is_file()]
        cells = json.dumps([(cell.cell_type, cell.source) for cell in self.notebook.cells])
        found = {f"notebooks/{self.name}.ipynb": _sha(cells.encode()),
                 "parameters": _sha(json.dumps(self.parameters, sort_keys=True, default=str).encode())}
        found |= {f"sua/{module}.py": paths.code_digest(module) for module in code}
        found |= {f"data/{file.name}": _sha(file.read_bytes()) for file in sorted(data)}
        for stage in self.needs:
            manifest = read_manifest(paths.build(self.profile) / stage) or {"outputs": {}}
            made = {name: sha for name, sha in manifest["outputs"].items() if name != EXECUTED}
            found[f"stage {stage}"] = _sha(json.dumps(made, sort_keys=True).encode())
        for name in mirrored:
            place = paths.in_mirror(*name.split("/"))
            files = sorted(file for file in place.rglob("*") if file.is_file()) if place and place.is_dir() else [place]
            found[f"mirror {name}"] = _sha(b"".join(file.read_bytes() for file in files)) if place else ""
        return found

    def why(self, folder: Path | None = None) -> str | None:
        """Why the stage would run; None if what `folder` holds is up to date."""
        folder = folder or self.folder
        manifest = read_manifest(folder)
        if manifest is None:
            return "its manifest.json is damaged" if (folder / MANIFEST).exists() else "it has not been run"
        now = self.inputs([name[7:] for name in manifest["inputs"] if name.startswith("mirror ")])
        changed = [name for name in {**manifest["inputs"], **now} if manifest["inputs"].get(name) != now.get(name)]
        if changed:
            return f"changed: {', '.join(sorted(changed))}"
        spoiled = [name for name, sha in manifest["outputs"].items()
                   if not (folder / name).exists() or _sha((folder / name).read_bytes()) != sha]
        if spoiled:
            return f"output missing or edited: {', '.join(spoiled)}"
        return None

    def run(self) -> None:
        """Execute, check, write the manifest, move into place. Raises StageError; failures stay in build/P/failed."""
        for needed in self.needs:
            if reason := StageRun(needed, self.profile).why():
                raise StageError(f"{self.name} needs {needed}, but {reason}: run `make reproduce PROFILE="
                                 f"{self.profile}`, or python -m sua.study.run {needed} --profile {self.profile}")
        if read_manifest(self.staging) and not self.why(self.staging):
            return self._into_place()  # killed after the last line of work: only the move is left
        uncached = self._finds_nothing_kept()
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(parents=True)
        start = time.time()
        try:
            self._execute()
            self._check()
        except Exception as error:
            failed = paths.build(self.profile) / "failed" / self.name
            shutil.rmtree(failed, ignore_errors=True)
            failed.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.staging, failed)
            (failed / "traceback.txt").write_text(f"{error}\n", encoding="utf-8")
            kept = failed.relative_to(paths.root())
            raise StageError(f"{self.name} failed; notebook and traceback are kept in {kept}\n{error}") from error
        self._write_manifest(time.time() - start, uncached)
        self._into_place()

    def _finds_nothing_kept(self) -> bool:
        """Whether this is the stage's first try since build/P was empty, so that its time is that of all its work."""
        tried = paths.build(self.profile) / ".tried"
        tried.parent.mkdir(parents=True, exist_ok=True)
        if tried.exists():
            names = tried.read_text(encoding="utf-8").splitlines()
        else:  # of what lies there nobody knows when it was made
            names = ["*"] if any(not file.name.startswith((".", "site")) for file in tried.parent.iterdir()) else []
        with open(tried, "a", encoding="utf-8") as lines:
            lines.write("".join(f"{name}\n" for name in [*({"*"} & {*names}), self.name]))
        return not {"*", self.name} & {*names}

    def _execute(self):
        import papermill

        threads = self.settings.get("threads")
        environment = {"SUA_STAGE_DIR": str(self.staging),  # a notebook runs in its own folder: no relative mirrors
                       "SUA_MIRROR": os.pathsep.join(map(str, paths.mirrors()[:-1])), "PYTHONPATH": str(paths.root()),
                       "PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false",
                       **({"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {})}
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            papermill.execute_notebook(self.source, self.staging / EXECUTED, parameters=self.parameters,
                                       kernel_name="python3", cwd=self.source.parent, progress_bar=False,
                                       language="python", extra_arguments=["--IPKernelApp.log_level=50"],
                                       start_timeout=PATIENCE, iopub_timeout=PATIENCE)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})

    def _check(self):
        executed = nbformat.read(self.staging / EXECUTED, as_version=4)
        for number, cell in enumerate(executed.cells, 1):
            if cell.cell_type == "code" and cell.source.strip():
                status = cell.metadata.get("papermill", {}).get("status")
                if cell.execution_count is None or status != "completed":
                    raise StageError(f"cell {number} did not complete (status {status}): a notebook must run to its "
                                     f"end without exit(). The cell begins: {cell.source.strip().splitlines()[0]!r}")
        if missing := [name for name in self.outputs if not (self.staging / name).exists()]:
            raise StageError(f"declared outputs are missing: {', '.join(missing)}")

    def _write_manifest(self, seconds, uncached):
        mirrored, notes = self._told("mirrored"), self._told("notes")
        outputs = sorted(file for file in self.staging.rglob("*") if file.is_file())
        usage = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        manifest = {
            "stage": self.name, "profile": self.profile, "parameters": self.parameters, "git": _git(),
            "inputs": self.inputs(mirrored), "notes": notes,
            "outputs": {str(file.relative_to(self.staging)): _sha(file.read_bytes()) for file in outputs},
            "machine": machine(), "threads": self.settings.get("threads"),
            "seconds": round(seconds, 1), "uncached": uncached, "peak_memory_mib": round(usage / 1024),
        }
        files.write_text(self.staging / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True, default=str) + "\n")

    def _told(self, kind):
        lines = self.staging / f".{kind}"
        told = sorted(set(lines.read_text(encoding="utf-8").splitlines())) if lines.exists() else []
        lines.unlink(missing_ok=True)
        return told

    def _into_place(self):
        files.put(self.staging, self.folder)

    def publish(self) -> None:
        """Make figures/<profile> anew, all files or none: the declared outputs, the executed notebooks of this stage
        and of those that it needs, one MANIFEST.json of all stages."""
        target = paths.figures(self.profile)
        new = target.with_name(f".{target.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        for name, content in self._results().items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(content)
        files.put(new, target)

    def is_published(self) -> bool:
        """Whether figures/<profile> holds what `publish` would write, byte by byte, and nothing else."""
        target = paths.figures(self.profile)
        return self._results() == {str(file.relative_to(target)): file.read_bytes()
                                   for file in target.rglob("*") if file.is_file()}

    def _results(self):
        """{name: content} of all that is published."""
        stages = {stage: read_manifest(paths.build(self.profile) / stage) for stage in [*self.needs, self.name]}
        text = json.dumps({"profile": self.profile, "stages": stages}, indent=1, sort_keys=True) + "\n"
        results = {"MANIFEST.json": text.encode(), **{name: (self.folder / name).read_bytes() for name in self.outputs}}
        for stage in stages:
            results |= executed.published(paths.build(self.profile) / stage, stage)
        return results


def read_manifest(folder: Path) -> dict | None:
    """The manifest of a finished stage; None where there is none, or one that `_write_manifest` did not write."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    tables = isinstance(manifest, dict) and [manifest.get(name) for name in ("inputs", "outputs", "machine")]
    return manifest if tables and all(isinstance(table, dict) for table in tables) else None


def machine() -> dict:
    """What the numbers may depend on: processor, device, Python and the versions that compute."""
    import torch

    listed = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = dict(reversed([map(str.strip, line.split(":", 1)) for line in listed if ":" in line]))
    return {"system": platform.system(), "machine": platform.machine(), "python": platform.python_version(),
            "processor": " ".join(cpu.get(key, "") for key in ("model name", "cpu family", "model")).strip()
                         or platform.processor(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "packages_mib": _installed_mib(), "versions": {name: version(name) for name in RECORDED}}


@cache
def _installed_mib():
    """Disk that the environment's packages take, by their own lists of files."""
    return round(sum(file.size or 0 for package in distributions() for file in package.files or ()) / 2**20)


def _git():
    def git(*arguments):
        done = subprocess.run(["git", *arguments], cwd=paths.root(), capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain", "--", ":!figures", ":!README.md")
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes) if changes is not None else None}


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sua.study.run", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", nargs="?", help="a numbered notebook, e.g. 03_sua_tr_training")
    parser.add_argument("--profile", required=True, help="a file in notebooks/profiles, without .yaml")
    parser.add_argument("--explain", action="store_true", help="only say why each stage would run")
    options = parser.parse_args(arguments)
    try:
        if options.explain:
            load_profile(options.profile)  # says where there is no checkout
            for notebook in notebooks():
                stage = StageRun(notebook.stem, options.profile)
                print(f"{stage.name}: {stage.why() or 'up to date'}")
            return 0
        if not options.notebook:
            parser.error("name a notebook, or give --explain")
        return _run(StageRun(options.notebook, options.profile))
    except StageError as error:
        print(f"sua.study.run: {error}", file=sys.stderr)
        return 1


def _run(stage):
    from filelock import FileLock

    order = [notebook.stem for notebook in notebooks()]
    title = f"[{order.index(stage.name) + 1}/{len(order)}] {stage.name} ({stage.profile})"
    paths.build(stage.profile).mkdir(parents=True, exist_ok=True)
    with FileLock(paths.build(stage.profile) / f".{stage.name}.lock"):
        reason = stage.why()
        if reason:
            print(f"{title}: {reason}", flush=True)
            start = time.time()
            stage.run()
            print(f"{title}: done in {time.time() - start:.0f} s", flush=True)
        else:
            print(f"{title}: up to date", flush=True)
        if stage.name == order[-1] and stage.settings.get("publish") and (reason or not stage.is_published()):
            stage.publish()
            print(f"results are in {paths.figures(stage.profile).relative_to(paths.root())}/", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
