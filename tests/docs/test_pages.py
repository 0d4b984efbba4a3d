"""What the pages show runs, and what they point at is there."""

import functools
import importlib
import re
from unittest import mock

import dgl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit import quant
from dgl_lowbit.experiments import data
from dgl_lowbit.nn import base
from tests.docs.pages import DOCS, PAGES, REFERENCE, ROOT, anchors, left_out, links, name, program

SLOW = ("docs/relatives.md", "docs/which_bits.md")
# Blocks that do not run, by page.
LEFT_OUT = {
    "docs/guides/distributed_inference.md": 1, "docs/guides/minibatches.md": 1, "docs/guides/stores.md": 1,
    "docs/relatives.md": 4,
}  # fmt: skip


def cases():
    """Pages with blocks, those that take long marked as slow."""
    runnable = [page for page in PAGES if program(page)]
    return [pytest.param(p, id=name(p), marks=pytest.mark.slow if name(p) in SLOW else ()) for p in runnable]


class GCN(nn.Module):
    def __init__(self, in_feats, classes):
        super().__init__()
        self.conv1, self.conv2 = dgl.nn.GraphConv(in_feats, 16), dgl.nn.GraphConv(16, classes)

    def forward(self, graph, feat):
        return self.conv2(graph, F.relu(self.conv1(graph, feat)))


@pytest.fixture
def namespace(tmp_path, monkeypatch, small_planted):
    """What blocks find: modules, the embedded graph of a fraction of its size, and a model of it."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    graph = dgl.add_self_loop(data.load_graph("planted"))
    modules = {"dgl": dgl, "torch": torch, "nn": nn, "F": F, "np": np, "lowbit": lowbit}
    feat, label = graph.ndata["feat"], graph.ndata["label"]
    model = functools.partial(GCN, feat.shape[1], data.num_classes(graph))
    # What pages register is gone after them.
    with mock.patch.dict(base.LAYERS), mock.patch.dict(quant._QUANTIZERS):
        yield {**modules, "__name__": "page", "graph": graph, "feat": feat, "label": label, "GCN": model}


@pytest.mark.parametrize("page", cases())
def test_blocks_run(page, namespace):
    exec(compile(program(page), str(page), "exec"), namespace)


def test_blocks_that_do_not_run_are_counted():
    assert {name(page): len(left_out(page)) for page in PAGES if left_out(page)} == LEFT_OUT


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_point_at_something(page):
    missing = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            missing.append(target)
    assert not missing


def test_every_page_is_in_a_table_of_contents():
    listed = {ROOT / "docs/index.md"}
    for page in DOCS:
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            listed |= {(page.parent / line).with_suffix(".md") for line in tree.split("\n") if not line.startswith(":")}
    assert set(DOCS) <= listed


@pytest.mark.parametrize("module", REFERENCE)
def test_the_reference_leaves_out_what_stands_elsewhere(module):
    text = REFERENCE[module].read_text(encoding="utf-8")
    left = {name.strip() for names in re.findall(r":exclude-members: (.*)", text) for name in names.split(",")}
    elsewhere = {
        *re.findall(r"^\.\. auto\w+:: (\w+)$", text, re.MULTILINE),
        *(lowbit.__all__ if module != "dgl_lowbit" else ()),
    }
    assert f".. automodule:: {module}\n   :members:\n   :imported-members:\n" in text
    assert left & set(importlib.import_module(module).__all__) <= elsewhere


def test_messages_on_the_page_of_errors_are_those_of_the_sources():
    folders = (ROOT / "dgl_lowbit", ROOT / "numba_kernels")
    sources = "".join(file.read_text(encoding="utf-8") for folder in folders for file in folder.rglob("*.py"))
    sources = re.sub(r'"\s*f?"', "", sources)
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| (?!message|---)(?:warning: )?(.+?) \| ", page, re.MULTILINE)
    pieces = [piece.strip("`. ") for message in messages for piece in re.split(r"\*[^*]+\*|…|`", message)]
    assert len(messages) > 30
    assert [piece for piece in pieces if len(piece) > 12 and piece not in sources] == []
