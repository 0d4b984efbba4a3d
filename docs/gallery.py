"""The gallery of tutorials: their order, what they are run with, and links that lead to their pages."""

import os
import shlex
from pathlib import Path

from sphinx.addnodes import download_reference, pending_xref

ORDER = (
    "quickstart",
    "two_bits",
    "deep_gcn",
    "serving",
    "allocation",
    "sampled_sage",
    "own_parts",
    "porting",
    "heterograph",
    "link_prediction",
    "graph_classification",
    "post_training",
)


def order(filename):
    """The place of a tutorial; ValueError for one that has none."""
    return ORDER.index(Path(filename).stem)


def argv(gallery_conf, script_vars):
    """Options that all tutorials run with, as in ``make html TUTORIALS="--epochs 5"``."""
    return shlex.split(os.environ.get("TUTORIALS", ""))


def link_pages(app, doctree):
    """Let links of Markdown pages to ``tutorials/NAME.py`` lead to the page that is made of it."""
    page = app.env.docname
    for link in [] if page.startswith("tutorials/") else list(doctree.findall(download_reference)):
        path = Path(link["reftarget"])
        if path.parent.name == "tutorials" and path.stem in ORDER:
            target = {"refdomain": "std", "reftype": "doc", "reftarget": f"/tutorials/{path.stem}", "refdoc": page}
            link.replace_self(pending_xref("", *link.children, refexplicit=True, refwarn=True, **target))


def setup(app):
    app.connect("doctree-read", link_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
