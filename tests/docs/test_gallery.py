"""What notebooks of tutorials say where pages have links."""

import importlib.util
import json
import re
from types import SimpleNamespace

import pytest

from tests.docs.pages import ROOT

TUTORIALS = sorted((ROOT / "tutorials").glob("*.py"))


@pytest.fixture(scope="module")
def gallery():
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "docs/gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_prose_of_notebooks_names_pages_by_their_titles(gallery, path):
    text = path.read_text()
    readable = gallery.readable(text, ROOT / "docs/tutorials")
    assert path.stem in gallery.ORDER and not re.search(r":\w+:`", readable)
    assert ("*Accuracy*" in readable) == (":doc:`/accuracy`" in text)


def test_notebooks_are_written_over(gallery, tmp_path):
    folder = tmp_path / "docs/tutorials"
    folder.mkdir(parents=True)
    (folder.parent / "speed.md").write_text("# Speed\n\nText.\n")
    cells = [("markdown", "See :doc:`/speed` and\n:class:`~dgl_lowbit.nn.Ops`."), ("code", "x = ':doc:`/speed`'")]
    cells = [{"cell_type": kind, "source": [text]} for kind, text in cells]
    (folder / "a.ipynb").write_text(json.dumps({"cells": cells}))
    gallery.write_notebooks(SimpleNamespace(srcdir=folder.parent))
    prose, code = (cell["source"][0] for cell in json.loads((folder / "a.ipynb").read_text())["cells"])
    assert prose == "See *Speed* and\n`dgl_lowbit.nn.Ops`." and code == cells[1]["source"][0]
