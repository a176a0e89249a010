"""Settings of the documentation site, `make docs`, made of the Markdown pages in this folder."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "docs" / "_ext"), str(ROOT / "tools")]

project = "sdd_fast"
author = "The sdd_fast developers"
project_copyright = author
version = release = re.findall(
    r'^__version__ = "(.+)"', (ROOT / "sdd_fast" / "__init__.py").read_text(encoding="utf-8"), re.M
)[0]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "repository_links",
    "api_reference",
]
# The tables of a page of results are in that page too.
exclude_patterns = ["_ext", "results/*/hqs*.md", "results/*/table*.md"]
suppress_warnings = ["myst.header"]  # the page's own headings begin where its subject asks for it

# Links between pages are to headings, as on GitHub; each is checked.
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]

# The tutorial is run while the site is built; a cell that fails is an error.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"

default_role = "py:obj"  # a name in a docstring is a link where it is one of ours
add_module_names = False
autodoc_typehints = "none"  # the docstrings give types, shapes and ranges in words
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"sdd_fast {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

linkcheck_timeout = 30
linkcheck_retries = 2
