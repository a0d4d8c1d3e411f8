"""Sphinx settings: pages in Markdown, the reference from the docstrings. `make docs` builds with warnings as errors."""

import re

from sphinx.application import Sphinx

from dnabert2_jax.version import __version__

project = "dnabert2_jax"
author = "The dnabert2_jax developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.apidoc"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"dnabert2_jax {__version__}"
html_show_sphinx = False

# Every module gets a page, so that none can be forgotten; docs/reference/ is made by the build.
apidoc_modules = [
    {
        "path": "../dnabert2_jax",
        "destination": "reference",
        "separate_modules": True,
        "module_first": True,
        "automodule_options": {"members", "show-inheritance"},
    }
]
exclude_patterns = ["reference/modules.rst"]
autodoc_default_options = {"ignore-module-all": True}  # what a package only hands on is described where it is defined
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # as fields of the class, attributes would be there twice

# A role in a docstring (:class:`...`) that names nothing is an error; types of other packages in signatures are not, nor are
# type variables, private names and names that a package hands on.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!dnabert2_jax)[a-z_'].*"),
    ("py:.*", r"dnabert2_jax\..*\.(_\w+|[A-Z]|Run|AnySequences)"),
    ("py:.*", r"dnabert2_jax\.kernels\.attention\.\w+"),
]


def prepare_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Make plain prose of what reStructuredText and napoleon would take for syntax."""
    for at, line in enumerate(lines):
        # |i - j| is a distance here, never a substitution; literals keep their bars.
        lines[at] = re.sub(r"``.*?``|\|", lambda found: found[0] if len(found[0]) > 1 else r"\|", line)
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # a first line such as "Slots: ..." would be read as a type and its description


def setup(app: Sphinx) -> None:
    """Run before napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)
