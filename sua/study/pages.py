"""Pages that show committed results, never typed ones: `python -m sua.study.pages` fills the marked blocks of
README.md, figures/README.md and the page of promises.
"""

from __future__ import annotations

import json
import math
import re
import sys
from typing import Mapping

import pandas as pd

from .. import files, paths
from .download import needed
from .report import markdown

PAGES = ("README.md", "figures/README.md", "notebooks/site/promises.md")
_BLOCK = re.compile(r"(<!-- begin (?:(times|silent) )?(\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render_page(text: str) -> str:
    """A page with every block `<!-- begin figures/... -->` filled: from that file of the project, or of MANIFEST.json
    with `costs`; and every block `<!-- begin times cpu -->` or `<!-- begin silent cpu -->` with the `times` of that
    profile's committed run, or with what it leaves unanswered (`silent`)."""
    def filled(block):
        if block[2]:
            return block[1] + {"times": times, "silent": silent}[block[2]](block[3]) + block[4]
        file = paths.root() / block[3]
        text = file.read_text(encoding="utf-8")
        return block[1] + (costs(json.loads(text)) if file.name == "MANIFEST.json" else text) + block[4]

    return _BLOCK.sub(filled, text)


def times(profile: str) -> str:
    """How long each notebook of a profile took in its committed run, as a table with a total.

    A stage that found models or predictions of an earlier try did not do all its work: it has no time here, and there
    is no total.
    """
    manifest = paths.figures(profile) / "MANIFEST.json"
    stages = json.loads(manifest.read_text(encoding="utf-8"))["stages"] if manifest.exists() else {}
    stages = {name: made for name, made in stages.items() if made}
    seconds = {name: made["seconds"] if made.get("uncached") else None for name, made in stages.items()}
    rows = [{"notebook": name, "time": _duration(spent)} for name, spent in seconds.items()]
    if stages and None not in seconds.values():
        rows.append({"notebook": "all", "time": _duration(sum(seconds.values()))})
    on = {f"{made['machine']['device']} ({made['machine']['processor']}), "
          f"{made['threads'] or 'all'} thread{'s' * (made['threads'] != 1)}" for made in stages.values()}
    measured = "; ".join(sorted(on)) or "not yet measured"
    return markdown(pd.DataFrame(rows, columns=["notebook", "time"]), f"Profile {profile}: {measured}.")


def _duration(seconds):
    if seconds is None:
        return "not measured"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def costs(manifest: Mapping) -> str:
    """What a profile's run took, in a line: time of all stages in turn, memory, disk, downloads and machine."""
    stages = manifest["stages"].values()
    one = next(iter(stages))
    on = one["machine"]["processor"] if one["machine"]["device"] == "cpu" else one["machine"]["device"]
    fetched = sum(file.bytes for source in needed(manifest["profile"]) for file in source.files.values()) / 2**20
    took = [f"{max(stage['peak_memory_mib'] for stage in stages) / 1024:.1f} GiB of memory",
            f"{fetched:.0f} MiB of downloads"]
    if disk := one["machine"].get("packages_mib"):
        took.insert(1, f"{disk / 1024:.1f} GiB of disk for the packages")
    if all(stage.get("uncached") for stage in stages):  # some may have found models of an earlier run
        took.insert(0, f"{math.ceil(sum(stage['seconds'] for stage in stages) / 60)} minutes, one stage at a time")
    return (f"The committed results of profile `{manifest['profile']}` took {', '.join(took[:-1])} and {took[-1]} on: "
            f"{on}.\n")


def silent(profile: str) -> str:
    """Where the rules of a profile's first promise answer nothing, by msp and by any score, in a sentence: from
    table4_coverage for the models trained here, from table6 for the recorded language models."""
    tables = paths.figures(profile)
    coverage = pd.read_csv(tables / "table4_coverage.csv", index_col="score").fillna("0")
    risk, delta = re.fullmatch(r".*, risk (\S+), delta (\S+)", coverage.columns[0]).groups()
    first = coverage.loc[:, coverage.columns.str.endswith(f", risk {risk}, delta {delta}")]
    answers = first.map(lambda cell: float(cell.split()[0]))
    cells = [name.split(",")[0].replace(" / ", "/") for name in answers.columns[answers.max() == 0]]
    llms = pd.read_csv(tables / "table6.csv")
    mute = llms.loc[llms["answered"] == 0, "accuracy"]
    accuracies = f" (accuracies {mute.min():.2f} to {mute.max():.2f})" if len(mute) else ""
    of_trainings = f"{(answers.loc['msp'] == 0).sum()} of {answers.shape[1]} trainings of the profile {profile}"
    return (f"At a risk of {float(risk):.0%}, delta {delta}, the rule by `msp` answers nothing for {of_trainings} and "
            f"for {len(mute)} of {len(llms)} settings of language models{accuracies}; none of {len(answers)} scores "
            f"answers anything for {', '.join(cells) or 'no training'}.\n")


def main() -> int:
    for page in (paths.root() / name for name in PAGES):
        files.write_text(page, render_page(page.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
