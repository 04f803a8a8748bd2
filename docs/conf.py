"""Settings of the site: `sphinx-build -W --keep-going docs docs/_build/html`."""

import os
import sys
from pathlib import Path

from docutils import nodes
from sphinx.ext.napoleon.docstring import GoogleDocstring

import modellock_jax

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "modellock_jax"
author = "The modellock_jax authors"
copyright = "The modellock_jax authors"
version = release = modellock_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "README.md"]
smartquotes = False  # they make one dash of the two before an option
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

# Docstrings write code as Markdown does, between single backticks.
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are stored with outputs, which the tests make anew
suppress_warnings = ["mystnb.unknown_mime_type"]

html_theme = "furo"
html_title = "modellock_jax"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def setup(app):
    app.connect("autodoc-skip-member", without_fields)
    app.connect("autodoc-process-docstring", tables)
    app.connect("doctree-read", dashes)


def without_fields(app, what, name, thing, skip, options):
    """Leave out the fields of a NamedTuple, which its docstring names."""
    return True if (thing.__doc__ or "").startswith("Alias for field number") else None


def dashes(app, doctree):
    """Set a dash between a parameter and what it is, which Sphinx leaves to smart quotes."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" \N{EN DASH} "))


def tables(app, what, name, thing, options, lines):
    """Write the tables of a docstring as reStructuredText has them."""
    made = []
    waiting = iter(lines)
    for line in waiting:
        while line.strip().startswith("| ") and not line.endswith("|"):  # a row of two lines
            line += f" {next(waiting).strip()}"
        if not line.strip().startswith("| "):
            made.append(line)
            continue
        indent, cells = line[: line.index("|")], line.strip().strip("|").split(" | ")
        if set(line) <= set("| -:"):
            continue
        if not made or not made[-1].startswith(f"{indent}     - "):
            made += ["", f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
        marks = ["   * - ", *["     - "] * (len(cells) - 1)]
        made += [f"{indent}{mark}{cell.strip()}" for mark, cell in zip(marks, cells)]
    lines[:] = made


# Napoleon takes what comes before a colon in a constant's or a property's docstring for its type.
GoogleDocstring._consume_inline_attribute = lambda self: ("", self._consume_to_end())
