import functools
import time

import dgl
import pytest
import torch
from torch import nn

from dgl_lowbit.experiments import data
from dgl_lowbit.experiments.data import DatasetUnavailableError, load_graph, num_classes
from dgl_lowbit.experiments.planted import planted_graph


def test_planted_graph_is_of_coras_size_and_always_the_same():
    graph, again = load_graph(), load_graph("planted")
    assert graph.num_nodes() == 2708 and num_classes(graph) == 7 and 9_000 < graph.num_edges() < 15_000
    feat = graph.ndata["feat"]
    assert feat.shape == (2708, 1433) and feat.dtype == torch.float32
    torch.testing.assert_close(feat.sum(1), torch.ones(2708))
    assert torch.equal(feat, again.ndata["feat"]) and torch.equal(graph.edges()[0], again.edges()[0])
    source, target = graph.edges()
    assert graph.has_edges_between(target, source).all() and (source != target).all()


def test_drawn_splits_are_disjoint_balanced_and_seeded():
    graph = load_graph(seed=3)
    masks = torch.stack([graph.ndata[f"{part}_mask"] for part in ("train", "val", "test")])
    assert (masks.sum(0) == 1).all() and masks.sum(1)[:2].tolist() == [140, 210]
    assert graph.ndata["label"][masks[0]].bincount().tolist() == [20] * 7
    assert torch.equal(masks[0], load_graph(seed=3).ndata["train_mask"])
    assert not torch.equal(masks[0], load_graph(seed=4).ndata["train_mask"])


def test_planted_graphs_by_number(monkeypatch):
    monkeypatch.setattr(data, "planted_graph", functools.partial(planted_graph, num_nodes=420))
    first, zeroth, other = (load_graph(name) for name in ("planted", "planted:0", "planted:7"))
    assert torch.equal(first.ndata["feat"], zeroth.ndata["feat"])
    assert not torch.equal(first.ndata["feat"], other.ndata["feat"])
    for name in ("planted:", "planted:-1", "planted:x", "cora:1"):
        with pytest.raises(ValueError, match=f"graph must be one of planted, cora, .*got '{name}'"):
            load_graph(name)


def test_planted_features_alone_are_weak():
    graph = load_graph()
    feat, label, train = (graph.ndata[key] for key in ("feat", "label", "train_mask"))
    torch.manual_seed(0)
    model = nn.Linear(1433, 7)
    optimizer = torch.optim.Adam(model.parameters(), 0.05, weight_decay=5e-4)
    best = 0
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(feat[train]), label[train]).backward()
        optimizer.step()
        best = max(best, (model(feat).argmax(1) == label)[graph.ndata["test_mask"]].float().mean().item())
    assert 0.3 < best < 0.65


def test_amazons_bags_of_words_have_length_1(monkeypatch):
    graph = dgl.rand_graph(200, 400)
    words = (torch.rand(200, 30) < 0.3).float()
    words[0] = 0
    graph.ndata.update(feat=words, label=torch.arange(200) % 2)
    monkeypatch.setattr(data, "_load", lambda dataset: graph.clone())
    feat = load_graph("amazon-computer").ndata["feat"]
    assert torch.equal(feat > 0, words > 0)
    torch.testing.assert_close(feat.norm(dim=1), words.any(1).float())
    assert torch.equal(load_graph("coauthor-cs").ndata["feat"], words)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="graph must be one of planted, cora, .*got 'coral'"):
        load_graph("coral")


def test_no_cache_and_no_network_is_one_quick_line(tmp_path, monkeypatch):
    monkeypatch.setenv("DGL_DOWNLOAD_DIR", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    start = time.monotonic()
    for name in ("citeseer", "amazon-photo"):
        with pytest.raises(DatasetUnavailableError, match="DGL_DOWNLOAD_DIR"):
            load_graph(name)
    assert time.monotonic() - start < 30  # DGL's own retries take minutes
