"""Sphinx settings of the site that build.py makes: nothing is executed, nothing comes from the network."""

import importlib.util
import re
from pathlib import Path

project = "sua"
smartquotes = False
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]

html_theme = "sphinx_book_theme"
html_title = "Sensitivity-Uncertainty Alignment"
html_theme_options = {"home_page_in_toc": True, "use_fullscreen_button": False, "navbar_persistent": [],
                      "footer_content_items": []}
html_context = {"default_mode": "auto"}  # light or dark as the reader's system is

nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars
nb_ipywidgets_js = {}  # would come from a CDN; of a widget its text is shown
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 80

# MathJax with SVG output and all TeX extensions is one file: it needs no font and loads nothing more
mathjax_path = "tex-svg-full.js"
_package = importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations[0]
html_css_files = ["site.css"]
html_static_path = [str(Path(_package, "static", "mathjax", mathjax_path)), *html_css_files]
html_use_index = html_domain_indices = False  # the search finds more

_ENTRY = re.compile(r'["\w][\w\\", .]* : ')


def plain_docstrings(app, what, name, obj, options, lines):
    """Docstrings are plain text: `code`, **bold**, underlined headings, and `name : meaning` entries of a list."""
    text = re.sub(r"^(\w+)\n-+$", r"\n**\1**\n", "\n".join(lines), flags=re.MULTILINE)
    text = re.sub(r"(?<!\S)(\*\*\w[^*]*\*\*)|`([^`]+)`|([*|_\\`])", lambda found: (
        found[1] or (rf"\ ``{found[2]}``\ " if found[2] else "\\" + found[3])), text)
    lines[:], indent = [], ""
    for line in text.split("\n"):
        if _ENTRY.match(line):
            indent = "  "
            lines += ["", f"* {line}"]
        else:
            indent = indent if line else ""
            lines.append(indent + line.strip())


def setup(app):
    app.connect("autodoc-process-docstring", plain_docstrings)
    # the fields of a named tuple are explained by its class
    app.connect("autodoc-skip-member", lambda *given: True if type(given[3]).__name__ == "_tuplegetter" else None)
