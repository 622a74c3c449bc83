"""The command: `sua score`, `sua scores` and `sua lm-eval`, for saved predictions without a line of Python."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path

import numpy as np

from . import files
from .inputs import expect, unknown_name
from .outputs import from_lm_eval
from .predictions import Predictions
from .report import FIRST, item_rows, report_html
from .scores import SCORES, score



def _score(options):
    expect(options.score in SCORES, lambda: unknown_name("score", options.score, SCORES))
    predictions = Predictions.load(options.predictions)
    calibration = Predictions.load(options.calibration) if options.calibration else None
    out = Path(options.out) if options.out else None
    expect(out is None or out.suffix in (".csv", ".html"), f"--out {options.out}: give a name that ends in .csv, a "
           "table, or in .html, a report")
    if out is not None and out.suffix == ".html":
        report_html(predictions, out, score=options.score, calibration=calibration)
        return print(f"report: {out}")
    fitted = "calibration" in SCORES[options.score].needs
    expect(calibration is not None or not fitted, f"score {options.score!r} is fitted: give --calibration, a file of "
           "labelled predictions of other items")
    values = score(predictions, options.score, **({"calibration": calibration} if fitted else {}))
    rows = item_rows(predictions, {options.score: values})
    if out is not None:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        files.write_text(out, text.getvalue())
        return print(f"table: {out}")
    first = [rows[i] for i in np.argsort(-values, kind="stable")[:FIRST]]
    _print([list(first[0]), *([f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row.values()]
                              for row in first)])
    if len(rows) > len(first):
        print(f"The {len(first)} of {len(rows)} items that are most likely wrong; --out table.csv has all.")


def _print(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _scores(options):
    _print([["score", "passes", "needs"], *([name, entry.passes, ", ".join(entry.needs)]
                                            for name, entry in SCORES.items())])


def _lm_eval(options):
    predictions = from_lm_eval(options.folders, task=options.task, per_character=options.per_character)
    print(f"{len(predictions)} questions, {len(options.folders)} runs: {predictions.save(options.out)}")


def main(arguments=None) -> int:
    """Run a command; 0 if it did what was asked, 1 with the reason on stderr if not."""
    parser = argparse.ArgumentParser(prog="sua", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="command")
    add = commands.add_parser("score", help="score saved predictions: a table, a csv file or a report")
    add.add_argument("predictions", help="a file that Predictions.save wrote")
    add.add_argument("--score", default="msp", help="a name that `sua scores` lists (default: %(default)s)")
    add.add_argument("--calibration", help="a file of labelled predictions of other items, for scores that are fitted")
    add.add_argument("--out", help="a file to write, .csv or .html, in the place of printing")
    add.set_defaults(run=_score)
    commands.add_parser("scores", help="list the scores and what each needs").set_defaults(run=_scores)
    add = commands.add_parser("lm-eval", help="predictions from runs of lm-evaluation-harness with --log_samples")
    add.add_argument("folders", nargs="+", help="a folder per prompt, few-shot draw or option order; the first is x")
    add.add_argument("--out", required=True, help="the file of predictions to write, .parquet")
    add.add_argument("--task", help="which task, where a folder holds several")
    add.add_argument("--per-character", action="store_true", help="log-likelihoods by length, as for acc_norm")
    add.set_defaults(run=_lm_eval)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"sua: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
