"""The caller's graph, whatever is raised while a layer is at work on it."""

import dgl
import pytest
import torch

from dgl_lowbit.smoothness import dirichlet_energy
from tests.conftest import features, homogeneous
from tests.nn.layers import LAYERS, arguments, frames_are_empty, graph_for, make, ready

# Fields that DGL's users have, and layers use.
NAMES = ("h", "m", "neigh", "w", "l", "r", "a", "e", "s", "d")


class InterruptedWorkError(Exception):
    pass


def interrupt(*args, **kwargs):
    raise InterruptedWorkError


def fields(graph):
    """The tensors on a graph's nodes and edges, by type and name."""
    frames = {("node", name): graph.nodes[name].data for name in graph.ntypes} if not graph.is_block else {}
    frames.update({"source": graph.srcdata, "destination": graph.dstdata} if graph.is_block else {})
    frames.update({kind: graph.edges[kind].data for kind in graph.canonical_etypes})
    return {(kind, name): value for kind, frame in frames.items() for name, value in frame.items()}


def with_fields(graph):
    """``graph`` with a tensor of the caller's under every name that layers write to."""
    for name in graph.ntypes if not graph.is_block else ():
        for field in NAMES:
            graph.nodes[name].data[field] = torch.full((graph.num_nodes(name), 1), 7.0)
    for kind in graph.canonical_etypes:
        for field in NAMES:
            graph.edges[kind].data[field] = torch.full((graph.num_edges(kind), 1), 7.0)
    return graph


@pytest.mark.parametrize("method", ["update_all", "apply_edges"])
@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("name", [name for name, entry in LAYERS.items() if entry.takes_graph])
def test_an_error_in_message_passing_leaves_the_callers_frames(name, bits, method, monkeypatch):
    layer, args, keywords = ready(name, bits)
    for graph in (args[0], with_fields(args[0])):
        before = fields(graph)
        with monkeypatch.context() as patch:
            patch.setattr(dgl.DGLGraph, method, interrupt)
            if method == "update_all":  # what it comes to
                patch.setattr(dgl.ops.spmm, "gspmm_internal", interrupt)
            try:
                layer(graph, *args[1:], **keywords)
            except InterruptedWorkError:
                pass
            else:
                assert method == "apply_edges"
        after = fields(graph)
        assert after.keys() == before.keys() and all(after[key] is before[key] for key in before)


@pytest.mark.parametrize("operation", ["copy_u_sum", "u_sub_v"])
def test_an_error_in_an_energy_leaves_the_callers_frames(operation, monkeypatch):
    graph = homogeneous()
    feat = features(graph, 3).requires_grad_(operation == "u_sub_v")
    monkeypatch.setattr(dgl.ops, operation, interrupt)
    with pytest.raises(InterruptedWorkError):
        dirichlet_energy(graph, feat)
    assert frames_are_empty(graph)


def test_an_error_of_a_quantiser_between_two_sums_leaves_the_callers_frames(monkeypatch):
    layer, graph = make("gat", bits=4), graph_for("gat")
    (_, feat), _ = arguments("gat", graph)
    monkeypatch.setattr(layer.quantizers["attention"], "quantized", interrupt)
    with pytest.raises(InterruptedWorkError):
        layer(graph, feat)
    assert frames_are_empty(graph)
