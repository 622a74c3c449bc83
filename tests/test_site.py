"""The site: a small one is built from a notebook that the runner has executed, then read as a visitor would; with
SUA_SITE=<profile> in the environment that profile's is read too.
"""

import functools
import importlib.util
import itertools
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import websocket

import sua
from sua.study import run

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SOLUTION = "temperature_of_least_loss = float(grid[losses.argmin()])"

NOTEBOOK = [
    ("markdown", "# Title\n\nOf $S-H$.\n\n$$\\mathrm{SUA}(x)=S(x)-\\lambda H(x)$$"),
    ("parameters", "size = 3"),
    ("code", "import sys\nfrom pathlib import Path\nimport os\nimport matplotlib.pyplot as plt\nimport pandas as pd\n"
             "print('in ' + 'progress', file=sys.stderr)\n"
             "wide = pd.DataFrame([range(60)] * size, columns=[f'column_{i}' for i in range(60)])\nwide"),
    ("code", "from IPython.display import display\n"
             "view = {'application/vnd.jupyter.widget-view+json': {'model_id': 'a', 'version_major': 2},"
             " 'text/plain': 'FloatSlider()'}\ndisplay(view, raw=True)"),
    ("code", "folder = Path(os.environ['SUA_STAGE_DIR'])\nfigure, axis = plt.subplots()\naxis.plot([1, 2])\n"
             "figure.savefig(folder / 'fig1.png')\n"
             "(folder / 'captions.json').write_text('{\"fig1\": \"A line.\"}')\n"
             "(folder / 'table1_parts.md').write_text('Ablations, mean.\\n\\n| a |\\n| --- |\\n| 1 |\\n')\n"
             "(folder / 'table1_parts.csv').write_text('a\\n1\\n')\nplt.show()")]
README = """# Small

See [the first](notebooks/01_first.ipynb), [a table](figures/tiny/table1_parts.md), [`data/`](data), `a["b"](c)`.

![A line](figures/tiny/fig1.png)

```python
RULES["first"](text)
```
"""


def cell(kind, source):
    if kind == "markdown":
        return nbformat.v4.new_markdown_cell(source)
    return nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"] if kind == "parameters" else []})


def build(project, profile):
    """build.py in another project's folder, the network out of reach."""
    away = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}
    return subprocess.run([sys.executable, ROOT / "notebooks/site/build.py", "--profile", profile], cwd=project,
                          env={**os.environ, **away, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A project of one notebook, run and built: (folder of its site, what the build printed)."""
    project = tmp_path_factory.mktemp("project")
    notebook = nbformat.v4.new_notebook(cells=[cell(*each) for each in NOTEBOOK], metadata={
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    assignment = nbformat.v4.new_notebook(cells=[
        cell("code", f"def f(grid, losses):\n    ### BEGIN SOLUTION\n    {SOLUTION}\n    ### END SOLUTION")])
    for name, content in {
            "notebooks/01_first.ipynb": nbformat.writes(notebook),
            "notebooks/profiles/tiny.yaml": "01_first: {size: 5}\n", "README.md": README,
            "notebooks/assignments/INSTRUCTOR.md": "# For instructors\n\n[Solutions](source/a1/a1.ipynb).\n",
            "notebooks/assignments/source/a1/a1.ipynb": nbformat.writes(assignment),
            "notebooks/site/promises.md": (ROOT / "notebooks/site/promises.md").read_text(encoding="utf-8")}.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(content, encoding="utf-8")
    (project / "data").symlink_to(ROOT / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        run.StageRun("01_first", "tiny").run()
    built = build(project, "tiny")
    return project / "build/tiny/site", built.stdout + built.stderr


@pytest.fixture(params=["tiny", "profile"])
def site(request):
    """The small site, and that of the profile that SUA_SITE names."""
    if request.param == "tiny":
        return request.getfixturevalue("tiny")[0]
    profile = os.environ.get("SUA_SITE") or pytest.skip("SUA_SITE=<profile> reads a built site too")
    folder = ROOT / "build" / profile / "site"
    return folder if folder.exists() else pytest.skip(f"no site: run `make site PROFILE={profile}`")


class Page(HTMLParser):
    """What a page refers to: `loads` without a click, `links` with one; its anchors and its text."""

    def __init__(self, file):
        super().__init__()
        self.loads, self.links, self.anchors, self.words = [], [], set(), []
        self.feed(file.read_text(encoding="utf-8"))
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        if "src" in given:
            self.loads.append(given["src"])
        if "href" in given:
            (self.links if tag == "a" else self.loads).append(given["href"])

    def handle_data(self, data):
        self.words.append(data)


@functools.cache
def pages(folder):
    return {file: Page(file) for file in sorted(folder.rglob("*.html")) if "_static" not in file.parts}


def test_the_build_is_quiet_and_shows_what_was_run(tiny):
    folder, printed = tiny
    assert printed.strip() == "site: build/tiny/site/index.html"
    assert not (folder.parent / "jupyter_execute").exists()
    first = pages(folder)[folder / "notebooks/01_first.html"].text
    assert "size = 5" in first and "size = 3" not in first  # the parameters of the run, not the defaults
    assert "FloatSlider()" in first and "column_59" in first and "in progress" not in first
    assert any("_images" in source for source in pages(folder)[folder / "notebooks/01_first.html"].loads)
    index = pages(folder)[folder / "index.html"]
    assert 'RULES["first"](text)' in index.text and 'a["b"](c)' in index.text
    assert "data" in index.text and "data" not in index.links
    assert {"notebooks/01_first.html", "figures/tiny/table1_parts.html"} <= set(index.links)
    assert "Table 1 parts · Ablations (tiny)" in pages(folder)[folder / "figures/tiny/table1_parts.html"].text
    assert "A line." in pages(folder)[folder / "figures/tiny/index.html"].text
    status = pages(folder)[folder / "status.html"].text
    report, before = pages(folder)[folder / "report.html"], pages(folder)[folder / "report_example.html"]
    assert "report.html" in before.links and "Yi-34B-Chat" in report.text and not report.loads
    manifest = run.read_manifest(folder.parent / "01_first")
    for shown in ("up to date", str(manifest["seconds"]), str(manifest["peak_memory_mib"]),
                  manifest["machine"]["versions"]["numpy"], manifest["machine"]["device"]):
        assert shown in status
    page = pages(folder)[folder / "api/divergences.html"].text
    assert "Shannon entropy -sum p ln p over the last axis" in page
    modules = {".".join(file.relative_to(ROOT / "sua").with_suffix("").parts).removesuffix(".__init__")
               for file in (ROOT / "sua").rglob("*.py")} - {"__init__"}
    documented = {file.stem for file in (folder / "api").glob("*.html")} - {"index"}
    assert {"scores", "scores.registry"} < modules == documented


@pytest.fixture(scope="module")
def builder():
    """notebooks/site/build.py as a module."""
    spec = importlib.util.spec_from_file_location("site_build", ROOT / "notebooks/site/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_modules_have_their_pages_before_any_notebook_was_run(builder, tmp_path, monkeypatch, capsys):
    for name, content in {"notebooks/01_first.ipynb": nbformat.writes(nbformat.v4.new_notebook()), "README.md": README,
                          "notebooks/profiles/tiny.yaml": "settings: {publish: true}\n01_first: {}\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "data").symlink_to(ROOT / "data")
    told = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builder, "sphinx", lambda arguments: told.extend(arguments))
    assert not builder.main(["--profile", "tiny"])
    assert capsys.readouterr().out.splitlines() == [
        "site: without 01_first, not run with profile 'tiny': `make reproduce PROFILE=tiny` first",
        "site: build/tiny/site/index.html"]
    assert (tmp_path / "build/tiny/site-src/api/scores.registry.rst").is_file()
    assert not any("announcement" in argument for argument in told)  # what is published is no toy


def test_every_name_of_the_pages_can_be_written_as_it_stands(tiny):
    names = set()
    for file, page in pages(tiny[0]).items():
        names |= {name for name in page.anchors if name.startswith("sua.") and "-" not in name}
    modules = {name for _, name, _ in pkgutil.walk_packages(sua.__path__, "sua.")}
    names -= {f"module-{name}" for name in modules} | modules
    for name in modules:
        importlib.import_module(name)
    assert {"sua.Predictions.concatenate", "sua.perturb.Audit", "sua.study.report.Stage"} < names
    assert "sua.predict" in pages(tiny[0])[tiny[0] / "api/predict.html"].anchors
    for name in names:
        eval(name, {"sua": sua})
    shown = pages(tiny[0])[tiny[0] / "api/index.html"].text
    assert all(f"sua.{name}" in shown for name in sua.__all__)


def test_toy_runs_carry_a_banner(tiny):
    assert all("Toy run: the profile tiny" in page.text for file, page in pages(tiny[0]).items()
               if file.name not in ("search.html", "genindex.html", "report.html"))


def test_code_cells_fold_and_what_was_run_does_not(tiny):
    text = (tiny[0] / "notebooks/01_first.html").read_text(encoding="utf-8")
    folded = 'hide above-input">'
    assert text.count(folded) == 3 and text.index("size") < text.index(folded)


@pytest.mark.parametrize("caption, title", [
    ("Ablations, mean.", "Ablations"),
    ("Failure prediction (topic: 1000 items, nli: 9). AUROC", "Failure prediction (topic: 1000 items, nli: 9)"),
    ("Risk at .2 (all (K = 8: each) and x, y). End", "Risk at .2 (all (K = 8: each) and x, y)"),
    ("No stop", "No stop"), ("Ends.", "Ends"), (":) first: second", ":) first")])
def test_a_title_is_cut_at_no_sign_inside_of_a_word_or_parentheses(caption, title, builder):
    assert builder.title_of(caption) == title


def test_nothing_comes_from_elsewhere_and_no_link_is_broken(site):
    for file, page in pages(site).items():
        assert not [source for source in page.loads if urlsplit(source).scheme not in ("", "data")
                    or source.startswith("//")], file
        for target in (*page.loads, *page.links):
            parts = urlsplit(target)
            if parts.scheme:
                continue
            aim = Path(os.path.normpath(file.parent / unquote(parts.path))) if parts.path else file
            assert aim.is_file(), f"{file.name}: {target}"
            if parts.fragment and aim in pages(site):
                assert unquote(parts.fragment) in pages(site)[aim].anchors | {""}, f"{file.name}: {target}"
    styles = "".join(file.read_text(encoding="utf-8") for file in site.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", styles)


def test_no_solution_gets_into_the_site(site):
    """Nor into its search index or the sources that can be downloaded."""
    squeezed = lambda text: re.sub(r"\s+|\\n|[\"',]", "", text)
    sources = site.parents[2] / "notebooks/assignments/source"
    cells = [each.source for file in sources.rglob("*.ipynb") for each in nbformat.read(file, as_version=4).cells]
    solutions = [found for text in cells for found in re.findall(r"### BEGIN SOLUTION\n(.*?)### END", text, re.DOTALL)]
    texts = [*(page.text for page in pages(site).values()),
             *(file.read_text(encoding="utf-8") for pattern in ("_sources/**/*.*", "searchindex.js")
               for file in site.glob(pattern) if file.is_file())]
    everything = squeezed("".join(texts))
    assert not [text for text in solutions if len(squeezed(text)) > 40 and squeezed(text) in everything]
    assert site.parents[1].name != "tiny" or SOLUTION in "".join(solutions)


class Browser:
    """A headless Chromium by its DevTools protocol."""

    def __init__(self, profile):
        self.process = subprocess.Popen(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
             "--remote-allow-origins=*", f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port, deadline = profile / "DevToolsActivePort", time.time() + 30
        while not (port.exists() and port.read_text().strip()):
            assert self.process.poll() is None and time.time() < deadline, "the browser does not start"
            time.sleep(0.05)
        listed = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port.read_text().split()[0]}/json"))
        self.socket = websocket.create_connection(
            next(tab["webSocketDebuggerUrl"] for tab in listed if tab["type"] == "page"), timeout=30)
        self.numbers, self.events = itertools.count(1), []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")

    def do(self, method, **parameters):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv())).get("id") != number:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def evaluate(self, script):
        result = self.do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def resize(self, width):
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600)

    def open(self, file, query=""):
        """Load the page to its end, with its maths; the errors that it reports."""
        self.events.clear()
        self.do("Page.navigate", url=file.as_uri() + query)
        self.evaluate("new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', done))"
                      ".then(() => window.MathJax && MathJax.startup.promise).then(() => 0)")
        is_error = {"Runtime.exceptionThrown": lambda event: True, "Network.loadingFailed": lambda event: True,
                    "Log.entryAdded": lambda event: event["entry"]["level"] in ("error", "warning"),
                    "Runtime.consoleAPICalled": lambda event: event["type"] in ("error", "warning", "assert")}
        return [event["params"] for event in self.events
                if is_error.get(event.get("method"), lambda event: False)(event["params"])]

    def close(self):
        self.do("Browser.close")
        self.process.wait(30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no chromium or google-chrome on the PATH")
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


# widths of page and window; what sticks out of the window although nothing in the article scrolls around it
LAYOUT = """(() => {
    const room = document.documentElement.clientWidth, end = element => element.getBoundingClientRect().right;
    const held = element => element.tagName != 'ARTICLE' && (
        (/auto|scroll|hidden/.test(getComputedStyle(element).overflowX) && end(element) <= room + 1)
        || held(element.parentElement));
    const out = [...document.querySelectorAll('article *')].filter(each => end(each) > room + 1 && !held(each));
    return [document.documentElement.scrollWidth, room, out.map(element => element.outerHTML.slice(0, 90))];
})()"""


def test_a_browser_shows_every_page_on_a_desk_and_on_a_phone(site, browser):
    for file in pages(site):
        browser.resize(1280)
        assert browser.open(file) == [], file
        broken = "[...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
        assert browser.evaluate(broken) == [], file
        maths, rendered, wrong = browser.evaluate(
            "['.math', 'mjx-container', '[data-mml-node=merror]'].map(s => document.querySelectorAll(s).length)")
        assert (rendered, wrong) == (maths, 0), file
        assert maths or "01_" not in file.name
        for width in (1280, 390):
            browser.resize(width)
            page, window, out = browser.evaluate(LAYOUT)
            assert page <= window and not out, (file, width, out)


def test_the_search_finds_pages_without_a_network(tiny, browser):
    assert browser.open(tiny[0] / "search.html", "?q=Shannon") == []
    found = browser.evaluate("""new Promise(done => {
        const look = setInterval(() => {
            const links = [...document.querySelectorAll('#search-results li a')].map(link => link.getAttribute('href'));
            if (links.length) { clearInterval(look); done(links); }
        }, 50);
        setTimeout(() => done([]), 20000);
    })""")
    assert any(link.startswith("api/divergences.html") for link in found), found


def test_the_browser_test_can_fail(browser, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<meta name='viewport' content='width=device-width'><article><img src='none.png'>"
                   "<p style='width: 900px'>wide</p></article><script>console.error('no')</script>")
    browser.resize(390)
    assert len(browser.open(bad)) >= 2
    page, window, out = browser.evaluate(LAYOUT)
    assert window == 390 and any("wide" in element for element in out)
