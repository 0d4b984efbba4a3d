"""HeteroGraphConv in the place of DGL's; see test_dgl_contract.py."""

import dgl
import dgl.nn
import pytest
import torch
from dgl import DGLError
from torch import nn

import dgl_lowbit as lowbit
from tests.nn.comparing import any_ids, close, low_bit_and_off
from tests.nn.layers import frames_are_empty, hetero


def weighted_sum(parts, node_type):
    return sum((i + 1) * part for i, part in enumerate(parts)) + len(node_type)


def convolutions(namespace, canonical, **options):
    torch.manual_seed(0)
    by_type = {
        ("author", "cites", "author"): namespace.GraphConv(2, 3, **options),
        ("author", "writes", "paper"): namespace.GraphConv(2, 4, **options),
        ("venue", "prints", "paper"): namespace.GraphConv(3, 4, **options),
    }
    return by_type if canonical else {name: layer for (_, name, _), layer in by_type.items()}


def typed(graph):
    torch.manual_seed(1)
    return {
        name: torch.randn(graph.num_src_nodes(name), width)
        for name, width in (("author", 2), ("paper", 4), ("venue", 3))
    }


def without_edges(graph):
    for kind in graph.canonical_etypes:
        graph = dgl.remove_edges(graph, graph.edges(form="eid", etype=kind), etype=kind)
    return graph


@low_bit_and_off
@any_ids
@pytest.mark.parametrize(
    ("aggregate", "canonical"),
    [("sum", False), ("max", True), ("min", False), ("mean", True), ("stack", False), ("stack", True),
     (weighted_sum, False)],
)  # fmt: skip
def test_heterographconv_joins_what_edge_types_bring(options, idtype, aggregate, canonical):
    graph = hetero().astype(idtype)
    parent = dgl.nn.HeteroGraphConv(convolutions(dgl.nn, canonical), aggregate)
    seeds = {"author": [0, 1, 2, 3], "paper": [4, 1, 0, 6, 7], "venue": []}
    seeds = {name: torch.tensor(nodes, dtype=idtype) for name, nodes in seeds.items()}
    sampled = dgl.to_block(dgl.in_subgraph(graph, seeds), seeds)
    feats = typed(sampled)
    assert sampled.num_src_nodes("venue") > 0 == sampled.num_dst_nodes("venue")
    destinations = {name: value[: sampled.num_dst_nodes(name)] for name, value in feats.items()}
    calls = [(graph, typed(graph)), (sampled, feats), (sampled, (feats, destinations))]
    for where, inputs in [*calls, (without_edges(graph), typed(graph))]:
        layer = lowbit.nn.HeteroGraphConv(convolutions(lowbit.nn, canonical), aggregate, **options)
        got, expected = layer(where, inputs), parent(where, inputs)
        assert set(got) == set(expected) == {"author", "paper"}
        stacked = {"author": (1,), "paper": (2,)} if aggregate == "stack" else {"author": (), "paper": ()}
        for name, width in (("author", 3), ("paper", 4)):
            assert got[name].shape == (where.num_dst_nodes(name), *stacked[name], width)
            close(got[name], expected[name], options)
            assert options or torch.equal(got[name], expected[name])
        assert frames_are_empty(where)
        assert all(conv._allow_zero_in_degree for conv in layer.mods.values())
        assert all(conv.is_low_bit == bool(options) for conv in layer.mods.values())


def test_heterographconv_gives_its_config_to_layers_that_have_none():
    mine = lowbit.nn.GraphConv(2, 3, config=lowbit.QuantConfig(2))
    layer = lowbit.nn.HeteroGraphConv(
        {"cites": mine, "writes": lowbit.nn.GraphConv(2, 4)}, config=lowbit.QuantConfig(8)
    )
    assert [conv.config.bits for conv in layer.mods.values()] == [2, 8]
    assert layer.mod_dict["writes"] is layer.mods["writes"]
    with pytest.raises(DGLError, match="Invalid cross type aggregator"):
        lowbit.nn.HeteroGraphConv({}, "median")


@low_bit_and_off
def test_heterographconv_runs_where_a_type_has_no_nodes(options):
    graph = hetero()
    layer = lowbit.nn.HeteroGraphConv(convolutions(lowbit.nn, False), **options)
    layer(graph, typed(graph))
    seeds = {"author": torch.tensor([0, 1])}
    sampled = dgl.to_block(dgl.in_subgraph(graph, seeds), seeds)
    got = layer(sampled, typed(sampled))
    assert sampled.num_src_nodes("venue") == 0 and sampled.num_dst_nodes("paper") == 0
    assert got["author"].shape == (2, 3) and got["paper"].shape == (0, 4)


class Counter(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width, self.seen = width, []

    def forward(self, graph, feat, first=None, *, second=None):
        self.seen.append((first, second))
        return torch.zeros(graph.num_dst_nodes(), self.width)


def test_heterographconv_passes_more_arguments_by_edge_type():
    graph, modules = hetero(), {"cites": Counter(3), "writes": Counter(4), "prints": Counter(4)}
    layer = lowbit.nn.HeteroGraphConv(modules)
    layer(graph, typed(graph), mod_args={"cites": (1,), "writes": (2,)}, mod_kwargs={"prints": {"second": "x"}})
    assert [module.seen for module in modules.values()] == [[(1, None)], [(2, None)], [(None, "x")]]


@low_bit_and_off
def test_heterographconv_hands_edge_weights_on(options):
    graph = hetero()
    weight = torch.rand(graph.num_edges("writes"))
    layer = lowbit.nn.HeteroGraphConv(convolutions(lowbit.nn, False, **options))
    parent = dgl.nn.HeteroGraphConv(convolutions(dgl.nn, False))
    keywords = {"mod_kwargs": {"writes": {"edge_weight": weight}}}
    got, expected = layer(graph, typed(graph), **keywords), parent(graph, typed(graph), **keywords)
    close(got["paper"], expected["paper"], options)
    assert not torch.equal(got["paper"], layer(graph, typed(graph))["paper"])
