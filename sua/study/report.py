"""Results on disk: what a stage writes, figures and tables that are the same file when the numbers are the same."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Iterable, Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter

from .. import metrics, paths
from ..predictions import Predictions
from ..scores import SCORES, available, score

COLUMNS = ["task", "model", "training", "score", "metric", "seed", "value"]
NOT_AVAILABLE = "n/a"
STYLE = {"figure.figsize": (6, 3.2), "figure.dpi": 110, "savefig.dpi": 200, "savefig.bbox": "tight", "font.size": 9,
         "axes.titlesize": 10, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False,
         "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 8, "svg.hashsalt": "sua",
         "pdf.fonttype": 42}


class Stage:
    """Where one notebook writes and what it may read.

    Under the runner this is the stage's own folder; by hand it is build/scratch/<name>, so that trying things in a
    notebook never touches results. Trained models and earlier stages are those of the profile either way.
    ImportError if the sua that runs is another checkout's than the notebook's.
    """

    def __init__(self, name: str, profile: str):
        import seaborn

        own, running = paths.root() / "sua", Path(__file__).parents[1]
        if own.is_dir() and not own.samefile(running):
            raise ImportError(f"this notebook is of {own.parent}, but its kernel imports {running}: open it by `make "
                              f"lab`, start Jupyter with PYTHONPATH={own.parent}, or run python -m pip install "
                              f"--no-deps -e . in {own.parent}")
        self.name, self.profile = name, profile
        self.folder = paths.stage_folder() or paths.root() / "build" / "scratch" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rows: list[dict] = []
        self._captions: dict[str, str] = {}
        matplotlib.rcParams.update(STYLE)
        matplotlib.rcParams["axes.prop_cycle"] = matplotlib.cycler(color=seaborn.color_palette("colorblind"))

    @property
    def models(self) -> Path:
        """Folder of trained models, shared by the notebooks of a profile."""
        return paths.build(self.profile) / "models"

    @property
    def is_interactive(self) -> bool:
        """Whether a person has the notebook open: not under the runner."""
        return paths.stage_folder() is None

    def exists(self, stage: str, file: str) -> bool:
        """Whether an earlier stage of this profile has made the file."""
        return (paths.build(self.profile) / stage / file).exists()

    def upstream(self, stage: str, file: str) -> Path:
        """A file that an earlier stage has made. FileNotFoundError that says how to make it."""
        path = paths.build(self.profile) / stage / file
        if not path.exists():
            raise FileNotFoundError(f"{stage} has not made {file} for profile {self.profile!r} yet: run `make "
                                    f"reproduce PROFILE={self.profile}`, or "
                                    f"python -m sua.study.run {stage} --profile {self.profile}")
        return path

    def record(self, rows: Iterable[Mapping], **common) -> None:
        """Collect rows of metrics.csv; `common` fills the columns that all of them share."""
        for row in rows:
            row = {"score": "", **common, **row}
            if set(row) != set(COLUMNS):
                raise ValueError(f"a row of metrics.csv needs exactly {COLUMNS}, got {sorted(row)}")
            self._rows.append(row)

    def save_metrics(self) -> pd.DataFrame:
        """Write what was recorded to metrics.csv, long and sorted, to five decimals; NaN becomes "n/a"."""
        frame = pd.DataFrame(self._rows, columns=COLUMNS).sort_values(COLUMNS[:-1], ignore_index=True).round(5)
        write_csv(frame, self.folder / "metrics.csv")
        return frame

    def save_facts(self, facts: Mapping) -> None:
        """Write findings that are no metric of a model (theory checks, diagnoses) to facts.json."""
        text = json.dumps(facts, indent=1, sort_keys=True, default=_plain)
        (self.folder / "facts.json").write_text(text + "\n", encoding="utf-8")

    def save_figure(self, figure, name: str, caption: str) -> None:
        """Write <name>.pdf and .png without dates, <name>.json, what they show, and the caption to captions.json."""
        figure.savefig(self.folder / f"{name}.pdf", metadata={"CreationDate": None})
        figure.savefig(self.folder / f"{name}.png", metadata={"Software": None})
        shown = json.dumps([_shown(axes) for axes in figure.axes], indent=1)
        (self.folder / f"{name}.json").write_text(shown + "\n", encoding="utf-8")
        self._captions[name] = caption
        text = json.dumps(self._captions, indent=1, sort_keys=True)
        (self.folder / "captions.json").write_text(text + "\n", encoding="utf-8")

    def save_table(self, frame: pd.DataFrame, name: str, caption: str) -> pd.DataFrame:
        """Write <name>.csv, .md and .tex from one formatted frame of strings and return it."""
        frame = frame.astype(str)
        write_csv(frame, self.folder / f"{name}.csv")
        (self.folder / f"{name}.md").write_text(markdown(frame, caption), encoding="utf-8")
        (self.folder / f"{name}.tex").write_text(latex(frame, caption, name), encoding="utf-8")
        return frame

    def save_ledger(self, frame: pd.DataFrame, caption: str) -> None:
        """Write the claim ledger to claims.json and claims.md, and its short form without evidence to verdicts.md."""
        text = frame.to_json(orient="records", indent=1, force_ascii=False)
        (self.folder / "claims.json").write_text(text + "\n", encoding="utf-8")
        (self.folder / "claims.md").write_text(markdown(frame, caption), encoding="utf-8")
        short = markdown(frame[["id", "claim", "verdict"]], caption)
        (self.folder / "verdicts.md").write_text(short, encoding="utf-8")


def evaluate(predictions: Predictions, calibration: Predictions | None = None, scores: Iterable[str] = SCORES
             ) -> list[dict]:
    """Rows {score, metric, value}: the model's own metrics (score empty), then every score's failure metrics.

    Scores that need calibration are fitted on `calibration` and left out without it. A ranking metric without both
    errors and right answers is "n/a".
    """
    means = {"sua_positive": score(predictions, "sua_positive"), "sensitivity": score(predictions, "sensitivity"),
             "entropy": score(predictions, "entropy")}
    rows = [{"score": "", "metric": name, "value": metric(predictions)}
            for name, metric in metrics.MODEL_METRICS.items()]
    rows += [{"score": "", "metric": name, "value": float(values.mean())} for name, values in means.items()]
    for name, values in score_all(predictions, calibration, scores).items():
        for metric, function in metrics.SCORE_METRICS.items():
            try:
                value = function(predictions.is_error, values)
            except metrics.SingleClassError:
                value = np.nan
            rows.append({"score": name, "metric": metric, "value": value})
    return rows


def score_all(predictions: Predictions, calibration: Predictions | None = None, scores: Iterable[str] = SCORES
              ) -> dict[str, np.ndarray]:
    """{name: (N,)} of every score whose fields are there; those that need calibration only if `calibration` has errors
    and right answers."""
    fit = calibration if calibration is not None and len(np.unique(calibration.is_error)) == 2 else None
    names = [name for name in available(predictions, fit) if name in set(scores)]
    return {name: score(predictions, name, **({"calibration": fit} if "calibration" in SCORES[name].needs else {}))
            for name in names}


def read_metrics(*files: Path) -> pd.DataFrame:
    """Long sorted metrics of several stages; empty scores stay empty strings, "n/a" becomes NaN in `value`."""
    frames = [pd.read_csv(file, keep_default_na=False, na_values={"value": [NOT_AVAILABLE]}) for file in files]
    return pd.concat(frames, ignore_index=True).sort_values(COLUMNS[:-1], ignore_index=True)


def mean_sd(values: pd.Series) -> str:
    """"mean ± sd" over seeds (sample standard deviation), or why there is none."""
    values = values.dropna()
    if values.empty:
        return f"{NOT_AVAILABLE} (single class)"
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Twelve significant digits, NaN as "n/a"."""
    frame.to_csv(path, index=False, float_format="%.12g", lineterminator="\n", na_rep=NOT_AVAILABLE)


def markdown(frame: pd.DataFrame, caption: str) -> str:
    """The caption and a pipe table; pipes in cells are escaped."""
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.values.tolist()]
    lines = ("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)
    return "\n".join([caption, "", *lines, ""])


_TEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "≥": r"$\geq$", "λ": r"$\lambda$", "<": r"\textless{}",
        ">": r"\textgreater{}", "∞": r"$\infty$", "▲": r"$\uparrow$",
        "▼": r"$\downarrow$", **{c: "\\" + c for c in "&%$#_{}"}, "^": r"\^{}", "~": r"\~{}"}


def latex(frame: pd.DataFrame, caption: str, label: str) -> str:
    """A booktabs table with escaped cells."""
    def tex(cell):
        return "".join(_TEX.get(character, character) for character in str(cell))

    def line(cells):
        return " & ".join(map(tex, cells)) + r" \\"

    return "\n".join([
        r"\begin{table}", r"\centering\small", rf"\caption{{{tex(caption)}}}", rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{'l' * len(frame.columns)}}}", r"\toprule", line(frame.columns), r"\midrule",
        *map(line, frame.values.tolist()), r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


MOST_POINTS = 100


def _shown(axes):
    """What a panel draws, as numbers: of each line, group of points or bar at most MOST_POINTS, and the mean of all."""
    artists = [line.get_xydata() for line in axes.lines]
    artists += [np.asarray(group.get_offsets()) for group in axes.collections]
    artists += [np.array([patch.get_window_extent().transformed(axes.transData.inverted()).extents])
                for patch in axes.patches]
    artists += [np.atleast_2d(image.get_array()) for image in axes.images]
    return {"title": axes.get_title(), "artists": [_some_points(np.ma.filled(points, np.nan)) for points in artists]}


def _some_points(points):
    chosen = points[::math.ceil(len(points) / MOST_POINTS)] if len(points) else points
    return {"points": len(points), "mean": _digits(points.mean(0)) if len(points) else [], "some": _digits(chosen)}


def _digits(values):
    """Nested lists of numbers to four digits; null for what is not finite."""
    return [_digits(row) for row in values] if np.ndim(values) > 1 else [
        float(f"{value:.4g}") if np.isfinite(value) else None for value in values]


def _plain(value):
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


LEAST = 1e-4  # nats; smaller S and H are drawn there, as a logarithm has no place for 0


def plot_sh_plane(axes, predictions: Predictions, title: str) -> None:
    """Errors and right answers in the plane of entropy and sensitivity, both on log axes from LEAST nats on, with the
    line SUA = 0; in the corners the share of the inputs on either side of it, and how many of these are wrong."""
    h, s = (np.maximum(score(predictions, name), LEAST) for name in ("entropy", "sensitivity"))
    wrong, above = predictions.is_error, score(predictions, "sua") > 0
    axes.scatter(h[~wrong], s[~wrong], s=8, alpha=0.4, linewidths=0, label="right")
    axes.scatter(h[wrong], s[wrong], s=14, alpha=0.6, marker="x", linewidths=0.7, label="wrong")
    xlim = _reach(axes.get_xlim(), axes.get_autoscalex_on(), h)
    ylim = _reach(axes.get_ylim(), axes.get_autoscaley_on(), s)
    axes.plot([LEAST, 100], [LEAST, 100], color="black", linewidth=1, label="SUA = 0")
    axes.set(title=title, xlabel="entropy H (nats, log scale)", ylabel="sensitivity S (nats, log scale)", xscale="log",
             yscale="log", xlim=xlim, ylim=ylim)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    for name, side, x, y, align in (("> 0", above, 0.02, 0.98, ("left", "top")),
                                    ("≤ 0", ~above, 0.98, 0.02, ("right", "bottom"))):
        told = f", {wrong[side].mean():.0%} of them wrong" if side.any() else ""
        axes.text(x, y, f"SUA {name}: {side.mean():.0%} of the inputs{told}", transform=axes.transAxes, fontsize=7,
                  ha=align[0], va=align[1], bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1})


def _reach(limits, is_first, values):
    """Limits of a log axis, wide enough for a label or two, that hold these values, and those of panels that share it
    and were drawn before."""
    high = values.max() * 1.5
    low = min(values.min() / 1.5, high / 50)
    return (low, high) if is_first else (min(low, limits[0]), max(high, limits[1]))


def plot_reliability(axes, models: Mapping[str, Iterable[Predictions]], title: str, bins: int = 10) -> None:
    """Share of right answers by confidence, in bins of equal mass, for each name; its runs are pooled."""
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    for (name, runs), style in zip(models.items(), ("o-", "s--", "^:")):
        runs = list(runs)
        confidence = np.concatenate([p.probs.max(-1) for p in runs])
        right = np.concatenate([~p.is_error for p in runs])
        parts = np.array_split(np.argsort(confidence, kind="stable"), bins)
        axes.plot([confidence[part].mean() for part in parts], [right[part].mean() for part in parts], style,
                  markersize=3, linewidth=1, label=name)
    axes.set(title=title, xlabel="confidence")


def plot_auroc(axes, rows: pd.DataFrame, title: str, marked: Iterable[str] = ()) -> None:
    """AUROC of every score with its interval (columns score, auroc, low, high); `marked` scores as orange diamonds."""
    rows = rows.dropna(subset="auroc")
    if rows.empty:
        axes.text(0.5, 0.5, NOT_AVAILABLE, transform=axes.transAxes, ha="center")
    spread = np.abs(rows[["low", "high"]].to_numpy().T - rows["auroc"].to_numpy())
    axes.errorbar(rows["auroc"], rows["score"], xerr=spread, fmt="none", ecolor="gray", elinewidth=1)
    is_marked = rows["score"].isin(list(marked))
    for part, marker, color in ((rows[~is_marked], "o", "C0"), (rows[is_marked], "D", "C3")):
        axes.scatter(part["auroc"], part["score"], s=18, marker=marker, color=color, zorder=3)
    axes.axvline(0.5, color="black", linewidth=0.8)
    axes.set(title=title, xlabel="AUROC")


def plot_llm_gains(axes, rows: pd.DataFrame) -> None:
    """AUROC of SUA less that of the entropy, with its interval, against the share of items with SUA > 0: a mark a
    setting (columns setting, template, SUA > 0, sua gain, sua gain_low, sua gain_high, sua p). A gain above 0 whose p,
    corrected for the number of settings, is below .05 has its setting's name."""
    for (template, cell), marker in zip(rows.groupby("template"), "osD"):
        name = {"base": "base model", "chat_v1": "chat, template 1", "chat_v2": "chat, template 2"}[template]
        spread = np.abs(cell[["sua gain_low", "sua gain_high"]].to_numpy().T - cell["sua gain"].to_numpy())
        axes.errorbar(cell["SUA > 0"], cell["sua gain"], yerr=spread, fmt=marker, markersize=4, elinewidth=0.6,
                      label=name)
    for row in rows[(rows["sua gain"] > 0) & (rows["sua p"] < 0.05)].to_dict("records"):
        side = "right" if row["SUA > 0"] > 0.5 else "left"
        axes.annotate(row["setting"], (row["SUA > 0"], row["sua gain"]), xytext=(-6 if side == "right" else 6, 4),
                      ha=side, textcoords="offset points", fontsize=7)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="share of items with SUA > 0", ylabel="AUROC of SUA less AUROC of H", xlim=(-0.03, 1.03))
    axes.legend(loc="lower right")


def plot_risk_coverage(axes, runs: Iterable[tuple[np.ndarray, Mapping[str, np.ndarray]]], title: str) -> None:
    """Risk-coverage curves, mean over runs: error rate among the accepted, as more of the lowest scores are accepted.

    runs : (is_error (N,), {score name: (N,)}) per seed.
    """
    runs = list(runs)
    styles = ["-", "--", "-.", ":", (0, (5, 1)), "-"]
    for style, name in zip(styles * 3, runs[0][1]):
        risk = np.mean([metrics.selective_risk(is_error, scores[name]) for is_error, scores in runs], axis=0)
        coverage, ours = np.arange(1, len(risk) + 1) / len(risk), name == "sua_repaired"
        enough = coverage >= 0.02  # the error rate among fewer is noise
        axes.plot(coverage[enough], risk[enough], linestyle=style, linewidth=2 if ours else 1.4, label=name,
                  color="black" if ours else None)
    axes.set(title=title, xlabel="coverage (share of inputs answered)", ylabel="error rate among answered", xlim=(0, 1))
    axes.set_ylim(bottom=0, auto=True)  # panels that share the axis may reach higher
