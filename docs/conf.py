"""Sphinx settings: pages in Markdown, the reference from the docstrings. `make docs` builds with warnings as errors."""

import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

from dnabert2_jax.version import __version__

project = "dnabert2_jax"
author = "The dnabert2_jax developers"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.apidoc"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".py": "myst-nb"}
# Notebooks are text without results. DNABERT2_RUN_NOTEBOOKS=1 runs them, as the workflow that publishes the site does, in
# minutes; otherwise their pages show text and code. Their cells call the command, which is beside this interpreter.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache" if os.environ.get("DNABERT2_RUN_NOTEBOOKS") else "off"
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
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
exclude_patterns = ["conf.py", "reference/modules.rst"]
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
