"""Tables in four formats that agree, and files that do not change when numbers do not."""

import json
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sua import Predictions
from sua.study import report
from sua.study.report import COLUMNS, Stage


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.setenv("SUA_STAGE_DIR", str(tmp_path / "stage"))
    return Stage("01_a", "p")


ROW = {"task": "t", "model": "m", "training": "erm", "score": "", "metric": "accuracy", "seed": 0, "value": 0.5}


def test_metrics_are_long_sorted_and_say_where_there_is_no_number(stage):
    stage.record([{"metric": "auroc", "value": np.nan, "score": "sua"}, {"metric": "accuracy", "value": 1 / 3}],
                 task="t", model="m", training="erm", seed=1)
    stage.save_metrics()
    file = stage.folder / "metrics.csv"
    assert file.read_text().splitlines() == [",".join(COLUMNS), "t,m,erm,,accuracy,1,0.33333",
                                             "t,m,erm,sua,auroc,1,n/a"]
    frame = report.read_metrics(file, file)
    assert len(frame) == 4 and frame["value"].isna().sum() == 2 and set(frame["score"]) == {"", "sua"}
    with pytest.raises(ValueError, match="needs exactly"):
        stage.record([{"metric": "auroc", "value": 1}], task="t")


def test_a_table_says_the_same_in_every_format(stage):
    frame = pd.DataFrame({"name": ["a_b", "50 % & more"], "auroc": ["0.500 ± 0.1", "n/a | none"]})
    stage.save_table(frame, "table9", "Caption with 5 %.")
    assert pd.read_csv(stage.folder / "table9.csv", keep_default_na=False).equals(frame)
    lines = (stage.folder / "table9.md").read_text().splitlines()
    assert lines[0] == "Caption with 5 %." and lines[4] == "| a_b | 0.500 ± 0.1 |"
    assert lines[5] == r"| 50 % & more | n/a \| none |"
    tex = (stage.folder / "table9.tex").read_text()
    assert r"a\_b & 0.500 $\pm$ 0.1 \\" in tex and r"50 \% \& more & n/a | none \\" in tex
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == 1


def test_the_same_figure_is_the_same_file(stage):
    for name in ("one", "two"):
        figure, axes = plt.subplots()
        axes.plot([0, 1], [1, 0])
        stage.save_figure(figure, name, f"caption {name}")
        plt.close(figure)
    for suffix in ("pdf", "png"):
        assert (stage.folder / f"one.{suffix}").read_bytes() == (stage.folder / f"two.{suffix}").read_bytes()
    assert json.loads((stage.folder / "captions.json").read_text()) == {"one": "caption one", "two": "caption two"}


def test_what_is_tried_by_hand_stays_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SUA_STAGE_DIR", raising=False)
    assert Stage("01_a", "p").folder == tmp_path / "build" / "scratch" / "01_a"
    with pytest.raises(FileNotFoundError, match="make reproduce PROFILE=p"):
        Stage("01_a", "p").upstream("00_b", "metrics.csv")


def test_one_class_leaves_ranking_metrics_without_a_number():
    p = Predictions(probs=[[0.9, 0.1]] * 4, perturbed=[[[0.8, 0.2]] * 2] * 4, labels=[0] * 4)
    rows = {(row["score"], row["metric"]): row["value"] for row in report.evaluate(p, scores=["entropy"])}
    assert np.isnan(rows["entropy", "auroc"]) and rows["", "accuracy"] == 1 and rows["entropy", "aurc"] == 0


def test_a_figure_leaves_what_it_shows_as_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("SUA_STAGE_DIR", str(tmp_path))
    figure, (left, right) = plt.subplots(1, 2)
    left.plot(np.arange(1000), np.arange(1000) / 3)
    left.scatter([1.0, np.nan], [2.0, 3.0])
    right.bar([0, 1], [0.25, 0.5], width=1)
    right.set_title("bars")
    Stage("01_a", "p").save_figure(figure, "fig", "caption")
    first, second = json.loads((tmp_path / "fig.json").read_text())
    line, points = first["artists"]
    assert line["points"] == 1000 and line["mean"] == [499.5, 166.5] and len(line["some"]) == 100
    assert line["some"][1] == [10, 3.333] and points["some"] == [[1, 2], [None, 3]]
    assert second["title"] == "bars" and second["artists"][1]["some"] == [[0.5, 0, 1.5, 0.5]]
    plt.close()


def test_a_notebook_does_not_run_another_checkouts_sua(tmp_path, monkeypatch):
    for folder in ("notebooks/profiles", "sua"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks")
    said = f"of {re.escape(str(tmp_path))}, but its kernel imports .*make lab.*PYTHONPATH"
    with pytest.raises(ImportError, match=said):
        report.Stage("01_a", "p")
    (tmp_path / "sua").rmdir()
    (tmp_path / "sua").symlink_to(report.Path(report.__file__).parents[1])
    assert report.Stage("01_a", "p").folder == tmp_path / "build/scratch/01_a"


def test_a_reliability_diagram_shows_the_share_of_right_answers_in_bins_of_equal_mass():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 4000)
    right = rng.random(4000) < confidence  # calibrated by construction
    p = Predictions(probs=np.column_stack([confidence, 1 - confidence]), labels=np.where(right, 0, 1))
    axes = plt.figure().subplots()
    report.plot_reliability(axes, {"model": [p.subset(slice(0, 1000)), p.subset(slice(1000, None))]}, "title", bins=5)
    x, y = axes.lines[1].get_data()
    order = np.argsort(confidence)
    np.testing.assert_allclose(x, confidence[order].reshape(5, 800).mean(1), atol=1e-12)
    np.testing.assert_allclose(y, right[order].reshape(5, 800).mean(1), atol=1e-12)
    assert np.abs(np.subtract(x, y)).max() < 5 * 0.5 / np.sqrt(800)
    plt.close()


def test_an_auroc_plot_marks_the_scores_asked_for_and_leaves_out_what_does_not_exist():
    rows = pd.DataFrame({"score": ["a", "b", "c"], "auroc": [0.6, np.nan, 0.8], "low": [0.5, np.nan, 0.7],
                         "high": [0.7, np.nan, 0.9]})
    axes = plt.figure().subplots()
    report.plot_auroc(axes, rows, "title", marked=["c"])
    circles, diamonds = axes.collections[-2:]
    assert circles.get_offsets()[:, 0].tolist() == [0.6] and diamonds.get_offsets()[:, 0].tolist() == [0.8]
    report.plot_auroc(axes, rows[1:2], "nothing to show")
    assert [text.get_text() for text in axes.texts] == ["n/a"]
    plt.close()


def test_the_plane_tells_how_many_errors_are_above_its_line():
    # S = KL(p, q): 0 on the first two, above H on the last two, of which one is wrong
    sure, unsure = [0.99, 0.01], [0.5, 0.5]
    p = Predictions(probs=[unsure, sure, sure, sure], perturbed=[[unsure], [sure], [sure[::-1]], [sure[::-1]]],
                    labels=[0, 0, 0, 1])
    figure, (left, right) = plt.subplots(1, 2, sharex=True)
    report.plot_sh_plane(left, p, "title")
    assert [text.get_text() for text in left.texts] == ["SUA > 0: 50% of the inputs, 50% of them wrong",
                                                        "SUA ≤ 0: 50% of the inputs, 0% of them wrong"]
    assert left.get_ylim()[0] < report.LEAST < 4 < left.get_ylim()[1]  # S of 0 and of 4.5 nats
    narrow = replace(p, probs=np.array([[0.5, 0.5]] * 4))
    report.plot_sh_plane(right, narrow, "shares the axis")
    assert right.get_xlim() == left.get_xlim() and left.get_xlim()[0] < 0.056  # H of `sure`
    plt.close()


def test_gains_of_language_models_are_marked_by_template_and_named_where_they_are_certain():
    rows = pd.DataFrame({"setting": ["a", "b", "c"], "template": ["base", "chat_v1", "chat_v1"],
                         "SUA > 0": [0.0, 0.9, 0.3], "sua gain": [-0.5, 0.2, 0.1],
                         "sua gain_low": [-0.6, 0.1, -0.1], "sua gain_high": [-0.4, 0.3, 0.3],
                         "sua p": [0.0, 0.01, 0.2]})
    axes = plt.figure().subplots()
    report.plot_llm_gains(axes, rows)
    assert [text.get_text() for text in axes.texts] == ["b"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["base model", "chat, template 1"]
    plt.close()


def test_score_all_takes_what_the_fields_allow():
    rng = np.random.default_rng(1)

    def make(labels, **more):
        return Predictions(probs=rng.dirichlet(np.ones(3), 8), labels=labels, ids=rng.permutation(9000)[:8], **more)

    plain = make([0, 1, 2, 0, 1, 2, 0, 1])
    assert "entropy" in report.score_all(plain) and "sensitivity" not in report.score_all(plain)
    varied = make([0] * 8, perturbed=rng.dirichlet(np.ones(3), (8, 2)))
    assert "sensitivity" in report.score_all(varied) and "sua_signed" not in report.score_all(varied)
    calibration = replace(varied, labels=np.where(np.arange(8) < 4, varied.answers, (varied.answers + 1) % 3),
                          ids=np.arange(9000, 9008))
    assert "sua_signed" in report.score_all(varied, calibration)
    certain = replace(calibration, labels=calibration.answers)  # no errors: nothing can be fitted
    assert "sua_signed" not in report.score_all(varied, certain)
    scored = report.score_all(varied, calibration, ["entropy", "sua_signed", "mahalanobis"])
    assert list(scored) == ["entropy", "sua_signed"]
