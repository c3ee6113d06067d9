"""Sphinx configuration: MyST pages, an API reference from the docstrings."""

from latex2mathml.converter import convert

from slq import __version__

project = "slq"
author = "The slq developers"
copyright = "2026, The slq developers"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"slq {release}"
html_show_sourcelink = False

myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
myst_disable_syntax = ["code"]  # indented blocks would be shown as code but never run

default_role = "autolink"  # `name` in a docstring links where there is something to link to
autosummary_generate = True
autodoc_typehints = "none"  # the docstrings give types, with shapes
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the class template lists them


def mathml(display):
    """A visitor that writes a formula as MathML: browsers draw it without a script from elsewhere."""

    def visit(writer, node):
        from docutils.nodes import SkipNode

        source = node.astext().replace("{aligned}", "{align*}")  # the name that the converter knows
        block = "block" if display else "inline"
        writer.body.append(f'<div class="math">{convert(source, block)}</div>' if display else convert(source, block))
        raise SkipNode

    return visit


def setup(app):
    app.add_html_math_renderer("mathml", (mathml(False), None), (mathml(True), None))
