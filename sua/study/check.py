"""`make check`: is a fresh run of a profile what the committed one is?

On the processor type and versions of the committed MANIFEST.json every file has to be byte-identical. Elsewhere three
rules hold, and which of them decided is printed:

generated : tasks of the generated worlds, whose models train in float64: every metric within 1e-4, and the same words
    in every table and in the ledger, with numbers that differ by at most one in the last digit.
inference : models that nothing here has trained: every metric within 1e-4.
trained : pretrained models trained here in float32 or bf16. Training amplifies rounding much like a new seed does, so
    each mean over seeds may move as far as two trainings lie apart anywhere in the committed results of that metric.

Figures are compared by their data (<name>.json beside each), executed notebooks by the files that they write: what is
printed in them has no rule of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd

from .. import paths
from ..tasks.worlds import WORLDS
from .report import COLUMNS, NOT_AVAILABLE

EXACT = 1e-4
_NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")


def check(profile: str, revision: str = "HEAD") -> list[str]:
    """Differences between figures/<profile> as it is now and as committed, a line each; empty if there are none."""
    folder = paths.figures(profile)
    fresh = {file.name: file.read_bytes() for file in folder.glob("*") if file.is_file()}
    names = _git("ls-tree", "--name-only", f"{revision}:figures/{profile}").decode().split()
    committed = {name: _git("show", f"{revision}:figures/{profile}/{name}") for name in names}
    platforms = _platform(fresh), _platform(committed)
    if None in platforms:
        return [f"figures/{profile} has no MANIFEST.json that can be read (fresh: {platforms[0] is not None}, "
                f"committed: {platforms[1] is not None}): run `make reproduce PROFILE={profile}` and commit"]
    both = sorted(set(fresh) & set(committed) - {"MANIFEST.json"})
    differences = [f"{name}: only in the {'fresh' if name in fresh else 'committed'} results"
                   for name in sorted(set(fresh) ^ set(committed))]
    if platforms[0] == platforms[1]:
        print(f"check {profile}: same processor type and versions, every file byte by byte")
        differences += [f"{name}: differs" for name in both if fresh[name] != committed[name]]
    try:
        moved, rules = compare_metrics(fresh.get("metrics.csv", b""), committed.get("metrics.csv", b""))
    except (ValueError, LookupError, TypeError) as error:
        return [*differences, f"metrics.csv: missing or damaged ({error})"]
    print(f"check {profile}: metrics by rule: " + ", ".join(f"{rule} {n}" for rule, n in sorted(rules.items())))
    if "trained" not in rules:
        for name in both:
            if name.endswith((".md", ".json")):
                ours, theirs = (content[name].decode(errors="replace") for content in (fresh, committed))
                differences += [f"{name}: {line}" for line in compare_text(ours, theirs)]
    return differences + moved


def compare_metrics(fresh: bytes, committed: bytes) -> tuple[list[str], dict[str, int]]:
    """One line per mean over seeds of metrics.csv that is missing, new or further off than its rule allows, and how
    many means each rule judged."""
    fresh, committed = _read(fresh), _read(committed)
    spread = committed.groupby(KEY)["value"].agg(np.ptp).groupby("metric").max()
    spread = spread.where(spread > 0, spread.get("accuracy"))  # one training alone: as far as accuracies lie apart
    old, new = (frame.groupby(KEY)["value"].mean() for frame in (committed, fresh))
    lines = [f"metrics.csv {_told(row)}: only in one of the results"
             for row in new.index.symmetric_difference(old.index)]
    rules = {}
    for row in new.index.intersection(old.index):
        named = dict(zip(KEY, row))
        rule = rule_of(named)
        rules[rule] = rules.get(rule, 0) + 1
        allowed = max(EXACT, spread[named["metric"]]) if rule == "trained" else EXACT
        if np.isnan(new[row]) != np.isnan(old[row]) or abs(new[row] - old[row]) > allowed + 1e-9:
            lines.append(f"metrics.csv {_told(row)}: fresh {new[row]:.6g}, committed {old[row]:.6g}, rule {rule}, "
                         f"allowed {allowed:.3g}")
    return lines, rules


KEY = [column for column in COLUMNS[:-1] if column != "seed"]


def rule_of(row) -> str:
    """ "generated", "inference" or "trained": by what rule a row of metrics.csv is compared on another processor."""
    if re.split("[ :]", row["task"])[0] in WORLDS:
        return "generated"
    asked_as_it_is = row["training"] in ("", "zero-shot", row["model"])
    return "inference" if asked_as_it_is else "trained"


def compare_text(fresh: str, committed: str) -> list[str]:
    """The first place where two texts differ in more than the last digit of their numbers, as a list of one line."""
    for number, (ours, theirs) in enumerate(zip(fresh.splitlines(), committed.splitlines()), 1):
        if ours != theirs and not _alike(ours, theirs):
            return [f"line {number} is {ours.strip()[:200]!r}, committed {theirs.strip()[:200]!r}"]
    if fresh.count("\n") != committed.count("\n"):
        return [f"{fresh.count(chr(10))} lines, committed {committed.count(chr(10))}"]
    return []


def _alike(ours, theirs):
    if _NUMBER.sub("#", ours) != _NUMBER.sub("#", theirs):
        return False
    return all(abs(float(a) - float(b)) <= 1.001 * max(_unit(a), _unit(b))
               for a, b in zip(_NUMBER.findall(ours), _NUMBER.findall(theirs)))


def _unit(number):
    """One in the last digit of a printed number; 0 for a whole one."""
    mantissa, _, exponent = number.partition("e")
    digits = len(mantissa.partition(".")[2])
    return 10.0 ** (int(exponent or 0) - digits) if digits else 0


def _told(row):
    return "/".join(map(str, row))


def _read(content):
    return pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values={"value": [NOT_AVAILABLE]})


def _platform(files):
    """Machine and threads of every stage but for its packages; None where MANIFEST.json is missing or damaged."""
    try:
        stages = json.loads(files["MANIFEST.json"])["stages"].values()
        return [[{**stage["machine"], "packages_mib": None}, stage["threads"]] for stage in stages]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _git(*arguments) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=paths.root(), capture_output=True)
    return done.stdout if done.returncode == 0 else b""


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sua.study.check", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", required=True, help="a file in notebooks/profiles, without .yaml")
    differences = check(parser.parse_args(arguments).profile)
    print("\n".join(differences) or "no difference")
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())
