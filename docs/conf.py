"""How Sphinx builds the documentation; `tox -e docs` does it with warnings as errors."""

from importlib.metadata import version as installed_version

project = "nfkeep"
copyright = "The nfkeep authors. GPL-2.0-or-later"
release = installed_version("nfkeep")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

html_theme = "alabaster"
html_theme_options = {"description": "netfilter's state, kept", "fixed_sidebar": True}
exclude_patterns = ["_build"]

default_role = "code"  # docstrings write names in single backquotes
autodoc_member_order = "bysource"
autodoc_typehints = "description"
