"""The report: one file that loads nothing, says what the functions say, and fits a desk and a phone."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

import sua
from sua import metrics


class Content(HTMLParser):
    """The text of a page, its tables as rows of cells, and whatever it would load."""

    def __init__(self, page):
        super().__init__()
        self.words, self.tables, self.loads, self.in_cell = [], [], [], False
        self.feed(page)
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.in_cell = tag in ("td", "th")
        self.loads += [value for name, value in attributes if name in ("src", "href", "xlink:href", "srcset", "data")
                       and not value.startswith("#")] + [tag] * (tag in ("script", "link", "iframe", "object"))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])

    def handle_endtag(self, tag):
        self.in_cell = False

    def handle_data(self, data):
        self.words.append(data)
        if self.in_cell:
            self.tables[-1][-1].append(data)


def made(n=60, k=3, seed=0, **more):
    rng = np.random.default_rng(seed)
    probs, perturbed = rng.dirichlet(np.ones(3), n), rng.dirichlet(np.ones(3), (n, k)) if k else None
    return sua.Predictions(probs=probs, perturbed=perturbed, labels=rng.integers(0, 3, n),
                           ids=[f"item-{seed}-{i}" for i in range(n)], **more)


def read(path):
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"url\(\s*['\"]?(?!#)|@import", page)
    content = Content(page)
    assert content.loads == []
    return content


def test_it_says_what_the_functions_say(tmp_path):
    p, c = made(), made(seed=1)
    content = read(sua.report_html(p, tmp_path / "r.html", calibration=c))
    for certificate in (sua.error_floor(p), sua.misalignment_test(p, kind="top_label"), sua.removable_risk(p)):
        assert " ".join(str(certificate).split()) in content.text
    model, scores, items = content.tables
    assert model[1] == ["accuracy", f"{metrics.accuracy(p):.3f}"] and model[3][1] == f"{metrics.ece(p):.3f}"
    repaired = sua.score(p, "sua_repaired", calibration=c)
    assert ["sua_repaired", f"{metrics.auroc(p.is_error, repaired):.3f}"] in scores
    assert ["sua", f"{metrics.auroc(p.is_error, sua.score(p, 'sua')):.3f}"] in scores
    order = np.argsort(-repaired, kind="stable")[:20]
    assert [row[0] for row in items[1:]] == p.ids[order].tolist()
    assert [row[-1] for row in items[1:]] == [str(int(wrong)) for wrong in p.is_error[order]]


def test_the_rule_is_fitted_on_one_half_and_tried_on_the_other(tmp_path):
    rng = np.random.default_rng(0)
    top = rng.uniform(0.34, 1, 1000)
    probs = np.column_stack([top, (1 - top) / 2, (1 - top) / 2])
    p = sua.Predictions(probs=probs, labels=np.where(rng.random(1000) < top, 0, 1))
    content = read(sua.report_html(p, tmp_path / "r.html", risk=0.2))
    order = np.random.default_rng(0).permutation(1000)
    risk = sua.score(p, "msp")
    rule = sua.AbstentionRule.fit(risk[order[:500]], p.is_error[order[:500]], risk=0.2, delta=0.1)
    answered = rule.accept(risk[order[500:]])
    assert 0.2 < answered.mean() < 0.9
    wrong = p.is_error[order[500:]][answered].mean()
    assert f"Of the 500 others it answers {answered.mean():.1%}, and {wrong:.1%} of these are wrong." in content.text


def test_without_labels_or_variants_it_says_what_is_missing(tmp_path):
    bare = replace(made(k=0), labels=None)
    content = read(sua.report_html(bare, tmp_path / "r.html"))
    assert "Nothing can be certified" in content.text and "with labels" not in content.text
    assert len(content.tables) == 1 and "wrong" not in content.tables[0][0]
    labelled = read(sua.report_html(bare, tmp_path / "r.html", labels=bare.answers))
    assert "No answer is wrong" in labelled.text


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_items_are_no_error(n, tmp_path):
    content = read(sua.report_html(made(n), tmp_path / "r.html"))
    assert len(content.tables[-1]) == n + 1


def test_texts_are_shown_and_never_run(tmp_path):
    hostile = "<script>alert(1)</script> & \"quoted\" "
    p = replace(made(3), ids=["<b>", "2", "3"], meta={"model": "<img src=x>", "label_names": ["<i>", "b", "c"]})
    file = sua.report_html(p, tmp_path / "r.html", texts=[hostile, "short", "long " * 50])
    content = read(file)
    shown = {row[1] for row in content.tables[-1][1:]}
    assert {"short", ("long " * 50)[:59] + "…"} < shown and any("alert(1)" in text for text in shown)
    assert "<script" not in file.read_text(encoding="utf-8") and "<img" not in file.read_text(encoding="utf-8")


def test_the_same_numbers_are_the_same_bytes(tmp_path):
    first, second = (sua.report_html(made(), tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second and str(tmp_path).encode() not in first


def test_what_does_not_fit_is_refused(tmp_path):
    p = made(4)
    for said, more in {"texts has 1 entries": {"texts": ["one"]}, "unknown score 'supa'": {"score": "supa"},
                       "is fitted": {"score": "sua_repaired"}, "labels has shape": {"labels": [0]}}.items():
        with pytest.raises(ValueError, match=said):
            sua.report_html(p, tmp_path / "r.html", **more)
    assert not (tmp_path / "r.html").exists()


def test_a_browser_shows_it_on_a_desk_and_on_a_phone(tmp_path):
    from test_site import CHROMIUM, LAYOUT, Browser

    if CHROMIUM is None:
        pytest.skip("no chromium or google-chrome on the PATH")
    file = sua.report_html(made(), tmp_path / "r.html", texts=["word " * 40] * 60)
    browser = Browser(tmp_path)
    try:
        for width in (1280, 390):
            browser.resize(width)
            assert browser.open(file) == []
            page, window, out = browser.evaluate(LAYOUT)
            assert page <= window and not out
            measured = "[...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().height)"
            heights = browser.evaluate(measured)
            assert len(heights) == 3 and min(heights) > 150
    finally:
        browser.close()
