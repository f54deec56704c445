"""Sphinx's settings for this folder: ``make docs`` writes the site to docs/_build/html."""

from sb3_trpo_ext import __version__

project = "sb3_trpo_ext"
author = "sb3_trpo_ext contributors"
project_copyright = author
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "description"  # beside each parameter; a signature with all of them fills a screen
autodoc_typehints_description_target = "documented"

html_theme = "furo"
html_title = f"{project} {release}"
copybutton_prompt_text = "$ "


def setup(app):
    """In docstrings a bar is a condition, as in π(·|s), and not the mark of a substitution."""
    app.connect("autodoc-process-docstring", keep_bars)


def keep_bars(app, what, name, obj, options, lines):
    lines[:] = [line.replace("·|", r"·\|") for line in lines]
