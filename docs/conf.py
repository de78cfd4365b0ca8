"""Sphinx configuration; `make docs` builds the site into docs/_build/html."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "ntm-rl"
release = version = installed_version("ntm-rl")
author = copyright = "the ntm-rl developers"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "option_tables",
    "watch_pages",
]
exclude_patterns = ["_build", "pages"]
html_theme = "furo"
html_title = "ntm-rl"
nitpicky = False
highlight_language = "bash"  # of blocks without a language

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings put code between single backticks.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "forward"}
