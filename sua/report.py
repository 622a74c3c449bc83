"""A page about saved predictions: one HTML file that needs no network, for a desk or a phone."""

from __future__ import annotations

import io
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from . import files, metrics
from .decide.abstention import AbstentionRule
from .decide.certificates import error_floor, misalignment_test
from .decide.removable import removable_risk
from .extras import need
from .inputs import expect
from .predictions import Predictions
from .scores import SCORES, available, score as score_of

FIRST = 20  # items to look at first
MOST_POINTS = 2000  # of a scatter plot; more make a large file and no other picture
LEAST = 1e-4  # nats; smaller S and H are drawn there, as a logarithm has no place for 0
COMPARED = ("msp", "entropy", "orbit_msp", "orbit_entropy", "disagreement", "sensitivity", "sua", "sua_repaired")
LEAST_ITEMS = 3  # a third of them chooses the cells of the misalignment test, the others are tested
WIDTH = 60  # characters of a text in the table

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; color: #1a1a1a;
  background: #fff; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.5rem; }}
h2 {{ font-size: 1.2rem; margin-top: 2.2rem; border-top: 1px solid #ccc; padding-top: 1rem; }}
h3 {{ font-size: 1rem; margin-bottom: .3rem; }} h3 code {{ font-weight: normal; color: #555; }}
.wide {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: .9rem; overflow-wrap: normal; }}
th, td {{ padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }}
th:first-child, td:first-child, td.text {{ text-align: left; }} td.text {{ white-space: normal; min-width: 14rem; }}
.plots {{ display: flex; flex-wrap: wrap; gap: 1rem; }} figure {{ margin: 0; flex: 1 1 22rem; max-width: 29rem; }}
figure svg {{ width: 100%; height: auto; }} figcaption, .note {{ font-size: .85rem; color: #555; }}
.said {{ background: #f4f4f4; padding: .6rem .9rem; margin: .6rem 0; white-space: pre-line; }}
</style>
</head>
<body><article>
{body}
</article></body>
</html>
"""


def report_html(predictions: Predictions, path: Path | str, labels: Sequence | None = None, *,
                score: str | None = None, calibration: Predictions | None = None, texts: Sequence[str] | None = None,
                risk: float = 0.1, delta: float = 0.1) -> Path:
    """Write a page on what these predictions allow to say: one self-contained HTML file; its path is returned.

    Without labels: the certificates (sua.error_floor, sua.misalignment_test, sua.removable_risk), which need variants,
    the plane of S and H, and the 20 items to look at first. With labels also accuracy, calibration error, AUROC of the
    scores, an abstention rule fitted on a random half of the items and tried on the other, risk-coverage and
    reliability.

    labels : (N,) class indices, where `predictions` hold none.
    score : a name of sua.SCORES that ranks the items, higher = more likely wrong; by default "sua_repaired" with
        calibration items, "orbit_msp" with variants, else "msp".
    calibration : labelled Predictions of other items, for scores that are fitted.
    texts : N texts to show beside the ids.
    risk, delta : what the rule promises: an error rate of at most `risk` among the answered items, broken with
        probability at most `delta`.

    The same arguments give the same bytes. ModuleNotFoundError without matplotlib (the extra `report`); ValueError for
    labels, texts or a score that do not fit.
    """
    need("matplotlib")
    if labels is not None:
        predictions = replace(predictions, labels=labels)
    expect(texts is None or len(texts) == len(predictions), lambda: f"texts has {len(texts)} entries, the predictions "
           f"{len(predictions)}: give one text per item")
    varied = predictions.perturbed is not None
    name = score or ("sua_repaired" if calibration is not None and varied else "orbit_msp" if varied else "msp")

    def given(which):
        return {"calibration": calibration} if "calibration" in SCORES[which].needs else {}

    chosen = score_of(predictions, name, **(given(name) if name in SCORES else {}))
    values = {other: score_of(predictions, other, **given(other)) for other in available(predictions, calibration)
              if other in COMPARED} | {name: chosen}
    parts = [_head(predictions, name), _without_labels(predictions)]
    if predictions.labels is not None:
        parts.append(_with_labels(predictions, values, name, risk, delta))
    parts += [_plots(predictions, values, name), _items(predictions, values, name, texts)]
    files.write_text(path, PAGE.format(title=escape(_title(predictions)), body="\n".join(parts)))
    return Path(path)


def _title(predictions):
    facts = [str(predictions.meta[key]) for key in ("task", "model") if predictions.meta.get(key)]
    return "Report: " + (" · ".join(facts) or f"{len(predictions)} items")


def _head(predictions, name):
    n, classes = predictions.probs.shape
    k = "no variants" if predictions.perturbed is None else f"{predictions.perturbed.shape[1]} variants of each"
    labels = "no labels" if predictions.labels is None else "labels"
    return (f"<h1>{escape(_title(predictions))}</h1>\n<p>{n:,} items, up to {classes} classes, {k}, {labels}. Items "
            f"are ranked by <code>{escape(name)}</code>: higher means more likely wrong. Entropies and divergences "
            "are in nats.</p>")


def _said(title, name, certificate):
    return f'<h3>{title} <code>{name}</code></h3>\n<div class="said">{escape(str(certificate))}</div>'


def _without_labels(predictions):
    head = "<h2>What can be said without labels</h2>\n"
    if predictions.perturbed is None:
        return head + ("<p>Nothing can be certified from one answer per item. With variants that keep the meaning "
                       "(<code>sua.predict(model, texts, perturbation)</code>) errors, calibration and removable risk "
                       "have bounds.</p>")
    said = [_said("How many answers are wrong at least", "sua.error_floor", error_floor(predictions)),
            _said("What averaging over the variants gains", "sua.removable_risk", removable_risk(predictions))]
    if len(predictions) >= LEAST_ITEMS:
        test = misalignment_test(predictions, kind="top_label")
        said.insert(1, _said("How far confidence is off at least", "sua.misalignment_test", test))
    return head + "\n".join(said)


def _with_labels(predictions, values, name, risk, delta):
    rows = [("accuracy", f"{metrics.accuracy(predictions):.3f}")]
    if predictions.perturbed is not None:
        rows.append(("right on the item and on all variants", f"{metrics.robust_accuracy(predictions):.3f}"))
    rows.append(("expected calibration error, 15 bins", f"{metrics.ece(predictions):.3f}"))
    wrong, text = predictions.is_error, ["<h2>What can be said with labels</h2>", _table(["", "value"], rows)]
    if 0 < wrong.sum() < len(wrong):
        auroc = {other: metrics.auroc(wrong, column) for other, column in values.items()}
        ranked = sorted(auroc, key=lambda other: -auroc[other])
        text += ["<p>How well each score puts wrong answers above right ones: 1 is perfect, 0.5 is guessing.</p>",
                 _table(["score", "AUROC"], [(other, f"{auroc[other]:.3f}") for other in ranked])]
    else:
        text.append(f"<p>{'No' if not wrong.any() else 'Every'} answer is wrong, so that there is nothing to rank.</p>")
    return "\n".join([*text, _rule(predictions, values[name], name, risk, delta)])


def _rule(predictions, values, name, risk, delta):
    order = np.random.default_rng(0).permutation(len(predictions))
    fitted, tried = order[:len(order) // 2], order[len(order) // 2:]
    wrong = predictions.is_error
    if not len(fitted):
        return ""
    rule = AbstentionRule.fit(values[fitted], wrong[fitted], risk=risk, delta=delta)
    answered = rule.accept(values[tried])
    found = (f"Of the {len(tried)} others it answers {answered.mean():.1%}, and {wrong[tried][answered].mean():.1%} of "
             "these are wrong." if answered.any() else f"Of the {len(tried)} others it answers none.")
    return (f"<p>An abstention rule on <code>{escape(name)}</code>, from {len(fitted)} of these items, drawn at "
            f"random: at most {risk:.0%} of its answers shall be wrong, with confidence {1 - delta:.0%}. {found}</p>\n"
            + _said("The rule", "sua.AbstentionRule", rule))


def _table(head, rows, texts=()):
    """A table of escaped cells; `texts` are the columns that may break into lines."""
    def line(tag, cells):
        return "<tr>" + "".join(
            f"<{tag}{' class=text' if tag == 'td' and i in texts else ''}>{escape(str(cell))}</{tag}>"
            for i, cell in enumerate(cells)) + "</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return f'<div class="wide"><table>\n<thead>{line("th", head)}</thead>\n<tbody>{body}</tbody>\n</table></div>'


def item_rows(predictions: Predictions, values: Mapping[str, np.ndarray]) -> list[dict]:
    """A row per item, in their order: id, answer, its probability, the named scores, and label and error if known."""
    confidence = predictions.probs[np.arange(len(predictions)), predictions.answers]
    names = predictions.meta.get("label_names")

    def named(classes):
        return [names[i] if names else int(i) for i in classes]

    columns = {"id": predictions.ids.tolist(), "answer": named(predictions.answers),
               "confidence": confidence.round(6).tolist(),
               **{name: np.asarray(column, dtype=float).round(6).tolist() for name, column in values.items()}}
    if predictions.labels is not None:
        columns |= {"label": named(predictions.labels), "wrong": predictions.is_error.astype(int).tolist()}
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def _items(predictions, values, name, texts):
    first = np.argsort(-values[name], kind="stable")[:FIRST]
    shown = {other: values[other] for other in dict.fromkeys([name, "entropy", "sensitivity"]) if other in values}
    rows = item_rows(predictions.subset(first), {other: column[first] for other, column in shown.items()})
    if texts is not None:
        rows = [{"id": row.pop("id"), "text": _cut(str(texts[i])), **row} for i, row in zip(first, rows)]
    cells = [[f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row.values()] for row in rows]
    head = list(rows[0])
    return (f"<h2>The {len(rows)} items to look at first</h2>\n<p>Those with the highest <code>{escape(name)}</code>."
            "</p>\n" + _table(head, cells, texts=[head.index("text")] if texts is not None else ()))


def _cut(text):
    return text if len(text) <= WIDTH else text[:WIDTH - 1] + "…"


def _plots(predictions, values, name):
    drawn = []
    if predictions.perturbed is not None:
        drawn.append((_plane, "Entropy H and sensitivity S: an item above the line has a positive SUA = S − H, it is "
                      "surer than it is stable."))
    if predictions.labels is None:
        drawn.append((_histogram, f"How the items spread along {name}."))
    else:
        drawn += [(_risk_coverage, "Error rate among the answered items, when those with the lowest score are answered "
                   "first: the lower the better."),
                  (_reliability, "Share of right answers by confidence, in bins of equal size. On the diagonal the "
                   "model is calibrated.")]
    figures = "\n".join(f"<figure>{_svg(draw, predictions, values, name)}<figcaption>{escape(caption)}</figcaption>"
                        "</figure>" for draw, caption in drawn)
    return f'<h2>Pictures</h2>\n<div class="plots">\n{figures}\n</div>'


def _svg(draw, *arguments):
    """A drawing as the text of an SVG element; the same numbers give the same text."""
    matplotlib = need("matplotlib")
    figure = need("matplotlib.figure").Figure(figsize=(4.2, 3.4), layout="constrained")
    # the salt names an element by its content, and each figure needs names of its own
    with matplotlib.rc_context({"svg.hashsalt": draw.__name__, "svg.fonttype": "none", "font.size": 9,
                                "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False}):
        draw(figure.subplots(), *arguments)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


def _plane(axes, predictions, values, name):
    some = np.sort(np.random.default_rng(0).permutation(len(predictions))[:MOST_POINTS])
    h, s = (np.maximum(score_of(predictions, which), LEAST)[some] for which in ("entropy", "sensitivity"))
    kinds = [("item", np.ones(len(some), bool), "o")]
    if predictions.labels is not None:
        wrong = predictions.is_error[some]
        kinds = [("right", ~wrong, "o"), ("wrong", wrong, "x")]
    for label, rows, marker in kinds:
        axes.scatter(h[rows], s[rows], s=14, alpha=0.5, marker=marker, linewidths=0 if marker == "o" else 0.9,
                     label=label)
    ends = [min(h.min(), s.min()) / 1.5, max(h.max(), s.max()) * 1.5]
    axes.plot(ends, ends, color="black", linewidth=1, label="SUA = 0")
    axes.set(xlabel="entropy H (nats)", ylabel="sensitivity S (nats)", xscale="log", yscale="log")
    axes.legend(fontsize=8)


def _histogram(axes, predictions, values, name):
    axes.hist(values[name], bins=min(30, max(5, len(predictions) // 5)))
    axes.set(xlabel=name, ylabel="items")


def _risk_coverage(axes, predictions, values, name):
    for other in dict.fromkeys([name, "entropy", "sua"]):
        if other in values:
            risk = metrics.selective_risk(predictions.is_error, values[other])
            coverage = np.arange(1, len(risk) + 1) / len(risk)
            some = np.unique(np.linspace(0, len(risk) - 1, MOST_POINTS // 4).astype(int))
            axes.plot(coverage[some], risk[some], label=other, linewidth=2 if other == name else 1)
    axes.set(xlabel="share of items answered", ylabel="error rate among answered", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


def _reliability(axes, predictions, values, name):
    confidence, right = predictions.probs.max(-1), ~predictions.is_error
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(10, len(confidence)))
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    axes.plot([confidence[part].mean() for part in parts], [right[part].mean() for part in parts], "o-", markersize=4)
    axes.set(xlabel="confidence", ylabel="share of right answers", xlim=(0, 1.02), ylim=(-0.02, 1.02))
