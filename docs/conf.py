"""Settings of Sphinx; ``make -C docs html`` builds the pages."""

import re
import sys
from pathlib import Path

from docutils.nodes import SkipNode, Text, entry
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.addnodes import download_reference, pending_xref
from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import gallery

import dgl_lowbit

project = "dgl-lowbit"
copyright = "the dgl-lowbit authors, Apache-2.0"
version = release = dgl_lowbit.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "tables", "tutorials/index.rst"]  # which pages include
html_theme = "furo"
html_title = "dgl-lowbit"
html_static_path = ["_static"]
html_css_files = ["pages.css"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say them
numpydoc_show_class_members = False

html_math_renderer = "mathml"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "../tutorials",
    "gallery_dirs": "tutorials",
    "filename_pattern": r"(?<!distributed_sage)\.py$",  # whose processes are for the tests to start
    "within_subsection_order": "gallery.order",
    "reset_argv": "gallery.argv",
    "reset_modules": ("matplotlib",),
    "capture_repr": (),
    "image_srcset": ["2x"],
    "show_signature": False,
    "write_computation_times": False,
}


def write_formula(translator, node):
    """A formula as MathML, which browsers draw themselves: no script, no network, no LaTeX."""
    is_block = node.tagname == "math_block"
    try:
        formula = tex2mathml(node.astext(), as_block=is_block)
    except MathError as error:
        logging.getLogger(__name__).warning("%s in %r", error, node.astext(), location=node)
        raise SkipNode from error
    translator.body.append(f'<div class="math">{formula}</div>' if is_block else formula)
    raise SkipNode


def link_pages(app, doctree):
    """Let links of Markdown pages to ``tutorials/NAME.py`` lead to the page that is made of it."""
    page = app.env.docname
    for link in [] if page.startswith("tutorials/") else list(doctree.findall(download_reference)):
        path = Path(link["reftarget"])
        if path.parent.name == "tutorials" and path.stem in gallery.ORDER:
            target = {"refdomain": "std", "reftype": "doc", "reftarget": f"/tutorials/{path.stem}", "refdoc": page}
            link.replace_self(pending_xref("", *link.children, refexplicit=True, refwarn=True, **target))


def keep_figures_whole(app, doctree):
    """Let no line break inside "84.6 ± 0.7", "100.00 %" and "7.1 ms" in tables."""
    for cell in doctree.findall(entry):
        for text in list(cell.findall(Text)):
            text.parent.replace(text, Text(re.sub(r"(?<=\d) (?=[±%]|ms\b)|(?<=±) (?=\d)", "\u00a0", text)))


def setup(app):
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
    app.connect("doctree-read", link_pages)
    app.connect("doctree-read", keep_figures_whole)
    app.connect("builder-inited", gallery.write_notebooks, priority=900)  # after sphinx-gallery, whose is 500
