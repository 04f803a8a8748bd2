"""Settings of the site: `sphinx-build -W --keep-going docs docs/_build/html`."""

import os
import sys
from pathlib import Path

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
