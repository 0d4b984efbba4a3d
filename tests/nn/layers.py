"""The layers and their variants: how each is built, what it is called with, and the graphs it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import dgl
import dgl.nn
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from tests import conftest
from tests.conftest import features

IN, OUT, HEADS, TYPES = 12, 5, 3, 4


def hetero():
    """Three edge types; papers receive from two of them, venues from none."""
    generator = torch.Generator().manual_seed(2)
    counts = {"author": 11, "paper": 8, "venue": 4}

    def edges(count, source, target):
        return tuple(torch.randint(counts[name], (count,), generator=generator) for name in (source, target))

    return dgl.heterograph(
        {
            ("author", "cites", "author"): edges(30, "author", "author"),
            ("author", "writes", "paper"): edges(25, "author", "paper"),
            ("venue", "prints", "paper"): edges(12, "venue", "paper"),
        },
        num_nodes_dict=counts,
    )


GRAPHS = {**conftest.GRAPHS, "hetero": hetero}
ONE_NODE_SET = ("homogeneous", "isolated", "one_node", "zero_edges")
ANY = (*ONE_NODE_SET, "block", "bipartite")


@dataclass(frozen=True)
class Layer:
    """A layer in one of its variants.

    ``build(namespace, **options)`` takes ``dgl.nn`` or ``dgl_lowbit.nn`` and, for the latter, ``config``;
    ``arguments(graph)`` gives what follows the graph in a call.
    """

    build: Callable
    arguments: Callable
    # Names in GRAPHS.
    graphs: tuple = ANY
    # Which of the arguments have a row for each edge.
    per_edge: tuple = ()
    # Keyword and shape of a weight for each edge, where the layer takes one.
    weight: str | None = None
    weight_width: tuple = ()
    takes_graph: bool = True
    # Shape of an output row; None where the outputs are several.
    row: tuple | None = (OUT,)


def linear(namespace, *sizes, **options):
    """torch's linear layer beside DGL's layers, ours beside ours."""
    return (nn.Linear if namespace is dgl.nn else namespace.Linear)(*sizes, **options)


def mlp(namespace, **options):
    return nn.Sequential(linear(namespace, IN, 7, **options), nn.ReLU(), linear(namespace, 7, OUT, **options))


def _node_features(graph):
    return (features(graph, IN),)


def _pair_features(graph):
    """Destination nodes with a width of their own, 7."""
    generator = torch.Generator().manual_seed(3)
    return (
        (
            torch.randn(graph.num_src_nodes(), IN, generator=generator),
            torch.randn(graph.num_dst_nodes(), 7, generator=generator),
        ),
    )


def _two_features(graph):
    return features(graph, IN), features(graph, IN, seed=1)


def _edge_features(graph):
    generator = torch.Generator().manual_seed(4)
    return features(graph, IN), torch.randn(graph.num_edges(), IN, generator=generator)


def _edge_types(graph):
    generator = torch.Generator().manual_seed(5)
    return features(graph, IN), torch.randint(TYPES, (graph.num_edges(),), generator=generator)


def _typed_features(graph):
    generator, widths = torch.Generator().manual_seed(6), {"author": 6, "paper": 5, "venue": 3}
    return ({name: torch.randn(graph.num_nodes(name), width, generator=generator) for name, width in widths.items()},)


def _appnp(namespace, messages="delta", **options):
    layer = namespace.APPNPConv(3, 0.2, **options)
    layer.messages = messages
    return layer


def _hetero(namespace, aggregate="sum", **options):
    convolutions = {
        "cites": namespace.GraphConv(6, 4, **options),
        "writes": namespace.SAGEConv((6, 5), 4, "mean", **options),
        "prints": namespace.GraphConv(3, 4, **options),
    }
    return namespace.HeteroGraphConv(convolutions, aggregate, **options)


def _rel(regularizer, **more):
    return Layer(
        lambda ns, **kw: ns.RelGraphConv(IN, 6, TYPES, regularizer, **more, **kw),
        _edge_types,
        (*ONE_NODE_SET, "block"),
        per_edge=(1,),
        weight="norm",
        weight_width=(1,),
        row=(6,),
    )


def _weighted(build, **more):
    return Layer(build, _node_features, **{"weight": "edge_weight", **more})


ZERO = {"allow_zero_in_degree": True}
LAYERS = {
    "graphconv": _weighted(lambda ns, **kw: ns.GraphConv(IN, OUT, activation=F.relu, **ZERO, **kw)),
    "graphconv_wide": _weighted(lambda ns, **kw: ns.GraphConv(IN, 20, norm="right", **ZERO, **kw), row=(20,)),
    "sage_mean": _weighted(lambda ns, **kw: ns.SAGEConv(IN, OUT, "mean", **kw)),
    "sage_gcn": _weighted(lambda ns, **kw: ns.SAGEConv(IN, OUT, "gcn", **kw)),
    "sage_pool": _weighted(lambda ns, **kw: ns.SAGEConv(IN, OUT, "pool", **kw)),
    # Slow where degrees are many.
    "sage_lstm": _weighted(lambda ns, **kw: ns.SAGEConv(IN, OUT, "lstm", **kw), graphs=("block", *ONE_NODE_SET[1:])),
    "gat": _weighted(lambda ns, **kw: ns.GATConv(IN, OUT, HEADS, **ZERO, **kw), row=(HEADS, OUT)),
    "gat_residual": _weighted(
        lambda ns, **kw: ns.GATConv(IN, OUT, HEADS, residual=True, activation=F.elu, **ZERO, **kw), row=(HEADS, OUT)
    ),
    "gat_identity": _weighted(lambda ns, **kw: ns.GATConv(IN, 4, 3, residual=True, **ZERO, **kw), row=(3, 4)),
    "gat_pair": Layer(
        lambda ns, **kw: ns.GATConv((IN, 7), OUT, HEADS, residual=True, **ZERO, **kw),
        _pair_features,
        ("block", "bipartite"),
        weight="edge_weight",
        row=(HEADS, OUT),
    ),
    "gatv2": Layer(lambda ns, **kw: ns.GATv2Conv(IN, OUT, HEADS, **ZERO, **kw), _node_features, row=(HEADS, OUT)),
    "gatv2_shared": Layer(
        lambda ns, **kw: ns.GATv2Conv(IN, OUT, HEADS, residual=True, share_weights=True, **ZERO, **kw),
        _node_features,
        row=(HEADS, OUT),
    ),
    "gatv2_pair": Layer(
        lambda ns, **kw: ns.GATv2Conv((IN, 7), OUT, HEADS, residual=True, bias=False, **ZERO, **kw),
        _pair_features,
        ("block", "bipartite"),
        row=(HEADS, OUT),
    ),
    **{
        f"gin_{how}": _weighted(
            lambda ns, how=how, **kw: ns.GINConv(mlp(ns, **kw), how, 0.3, learn_eps=True, activation=torch.tanh, **kw)
        )
        for how in ("sum", "mean", "max")
    },
    "gin_alone": _weighted(lambda ns, **kw: ns.GINConv(init_eps=0.3, **kw), row=(IN,)),
    "gine": Layer(
        lambda ns, **kw: ns.GINEConv(mlp(ns, **kw), 0.3, learn_eps=True, **kw), _edge_features, per_edge=(1,)
    ),
    "gine_alone": Layer(lambda ns, **kw: ns.GINEConv(**kw), _edge_features, per_edge=(1,), row=(IN,)),
    "appnp": _weighted(_appnp, graphs=ONE_NODE_SET, row=(IN,)),
    "appnp_direct": _weighted(lambda ns, **kw: _appnp(ns, messages="direct", **kw), graphs=ONE_NODE_SET, row=(IN,)),
    "sg": _weighted(lambda ns, **kw: ns.SGConv(IN, OUT, 2, **ZERO, **kw), graphs=ONE_NODE_SET),
    "tag": _weighted(lambda ns, **kw: ns.TAGConv(IN, OUT, activation=F.relu, **kw), graphs=ONE_NODE_SET),
    "cheb": Layer(
        lambda ns, **kw: ns.ChebConv(IN, OUT, 3, **kw), lambda graph: (features(graph, IN), [1.7]), ONE_NODE_SET
    ),
    "gcn2": Layer(
        lambda ns, **kw: ns.GCN2Conv(IN, 2, 0.2, **ZERO, **kw),
        _two_features,
        ONE_NODE_SET,
        weight="edge_weight",
        row=(IN,),
    ),
    "gcn2_two": Layer(
        lambda ns, **kw: ns.GCN2Conv(
            IN, 2, 0.2, project_initial_features=False, bias=False, activation=F.relu, **ZERO, **kw
        ),
        _two_features,
        ONE_NODE_SET,
        weight="edge_weight",
        row=(IN,),
    ),
    "rel": _rel(None, activation=torch.tanh),
    "rel_basis": _rel("basis", num_bases=2, self_loop=False),
    "rel_bdd": _rel("bdd", num_bases=3, layer_norm=True, bias=False),
    "hetero": Layer(_hetero, _typed_features, ("hetero",), row=None),
    "linear": Layer(lambda ns, **kw: linear(ns, IN, OUT, **kw), _node_features, ("homogeneous",), takes_graph=False),
}

# Every variant on every graph that it takes.
CASES = [(name, graph) for name, entry in LAYERS.items() for graph in entry.graphs]
WEIGHTED_CASES = [case for case in CASES if LAYERS[case[0]].weight]


def make(name: str, bits: int | None = None, namespace=lowbit.nn) -> nn.Module:
    """The layer from a fixed seed: DGL's, or ours with quantisation off (``bits`` None) or on."""
    torch.manual_seed(0)
    config = {} if bits is None else {"config": lowbit.QuantConfig(bits)}
    return LAYERS[name].build(namespace, **config)


def arguments(name: str, graph, weighted: bool = False) -> tuple[tuple, dict]:
    """Positional and keyword arguments of a call on ``graph``."""
    entry, keywords = LAYERS[name], {}
    if weighted:
        generator = torch.Generator().manual_seed(7)
        shape = (graph.num_edges(), *entry.weight_width)
        keywords[entry.weight] = 0.1 + torch.rand(shape, generator=generator)
    return ((graph,) if entry.takes_graph else ()) + entry.arguments(graph), keywords


def parts(output) -> list[torch.Tensor]:
    """An output as a list of tensors, by node type where there are several."""
    return [output[key] for key in sorted(output)] if isinstance(output, dict) else [output]


def same(output, expected) -> bool:
    """Whether two outputs are equal to the last bit."""
    return len(parts(output)) == len(parts(expected)) and all(map(torch.equal, parts(output), parts(expected)))


def frames_are_empty(graph) -> bool:
    """Whether nothing was left on the nodes and edges of ``graph`` but what sampling put there."""
    frames = [graph.nodes[name].data for name in graph.ntypes] if not graph.is_block else [graph.srcdata, graph.dstdata]
    frames += [graph.edges[kind].data for kind in graph.canonical_etypes]
    return all(set(frame) <= {dgl.NID, dgl.EID} for frame in frames)


def permuted(graph):
    """``graph`` with the edges of every type in another order, and the order of the last type."""
    torch.manual_seed(8)
    edges = {}
    for kind in graph.canonical_etypes:
        source, target = graph.edges(etype=kind)
        order = torch.randperm(len(source))
        edges[kind] = source[order], target[order]
    return dgl.heterograph(edges, {name: graph.num_nodes(name) for name in graph.ntypes}), order


def graph_for(name):
    return GRAPHS[LAYERS[name].graphs[0]]()


def ready(name, bits, weighted=False):
    """A layer with ranges, in evaluation mode, and a call's arguments."""
    layer = make(name, bits)
    args, keywords = arguments(name, graph_for(name), weighted)
    lowbit.calibrate(layer, *args, **keywords)
    return layer.eval(), args, keywords
