"""The gallery of tutorials: their order, and what they are run with."""

import json
import os
import re
import shlex
from pathlib import Path

ORDER = (
    "quickstart",
    "two_bits",
    "deep_gcn",
    "serving",
    "allocation",
    "sampled_sage",
    "distributed_sage",
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


def readable(text, folder):
    """Prose of a notebook, which no Sphinx reads, with the titles of pages and the names of code for what links there.

    ``folder`` has the tutorials; the pages stand in the one above it.
    """
    text = re.sub(r":doc:`([^`]+)`", lambda link: f"*{_title(link[1], Path(folder))}*", text)
    return re.sub(r":\w+:`~?([^`]+)`", lambda link: f"`{link[1]}`", text)


def _title(target, folder):
    if not target.startswith("/"):
        lines = (folder.parent.parent / "tutorials" / f"{target}.py").read_text().splitlines()
        return lines[1]
    return (folder.parent / f"{target[1:]}.md").read_text().splitlines()[0].removeprefix("# ")


def write_notebooks(app):
    """Make the prose of the notebooks :func:`readable`, after sphinx-gallery has written them."""
    folder = Path(app.srcdir) / "tutorials"
    for path in folder.glob("*.ipynb"):
        notebook = json.loads(path.read_text())
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = [readable(part, folder) for part in cell["source"]]
        path.write_text(json.dumps(notebook, indent=1) + "\n")
