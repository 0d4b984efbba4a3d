"""Our layers in the place of DGL's: what DGL 1.1.3's own tests of these layers ask for, and equality with them."""

import dgl
import dgl.nn
import pytest
import torch
from dgl import DGLError
from torch import nn

import dgl_lowbit as lowbit
from tests.conftest import bipartite, block, homogeneous, isolated
from tests.nn.comparing import any_ids, close, dense, low_bit_and_off, pair, path, with_parameters_of
from tests.nn.layers import (
    CASES,
    GRAPHS,
    LAYERS,
    WEIGHTED_CASES,
    arguments,
    frames_are_empty,
    make,
    parts,
    same,
)

# -- every layer ------------------------------------------------------------------------------------------------------


@any_ids
@pytest.mark.parametrize(("name", "where"), CASES)
def test_off_is_the_parent_for_both_kinds_of_ids(name, where, idtype):
    graph = GRAPHS[where]().astype(idtype)
    args, _ = arguments(name, graph)
    got, expected = make(name)(*args), make(name, namespace=dgl.nn)(*args)
    assert same(got, expected)
    assert LAYERS[name].row is None or got.shape == (graph.num_dst_nodes(), *LAYERS[name].row)
    assert frames_are_empty(graph)


@pytest.mark.parametrize(("name", "where"), WEIGHTED_CASES)
def test_off_is_the_parent_with_edge_weights(name, where):
    graph = GRAPHS[where]()
    args, keywords = arguments(name, graph, weighted=True)
    got, expected = make(name)(*args, **keywords), make(name, namespace=dgl.nn)(*args, **keywords)
    assert torch.equal(got, expected) and frames_are_empty(graph)


@pytest.mark.parametrize(
    ("name", "where", "weighted"), [*((*case, False) for case in CASES), *((*case, True) for case in WEIGHTED_CASES)]
)
def test_8_bits_keep_the_shapes_and_come_close(name, where, weighted):
    graph = GRAPHS[where]().astype(torch.int32)
    args, keywords = arguments(name, graph, weighted)
    got, expected = make(name, bits=8)(*args, **keywords), make(name, namespace=dgl.nn)(*args, **keywords)
    for ours, theirs in zip(parts(got), parts(expected)):
        close(ours, theirs, options=True)
    assert len(parts(got)) == len(parts(expected)) and frames_are_empty(graph)


@pytest.mark.parametrize("name", [n for n, entry in LAYERS.items() if hasattr(make(n), "reset_parameters")])
@pytest.mark.parametrize("bits", [None, 8])
def test_parameters_can_be_drawn_anew(name, bits):
    layer, graph = make(name, bits), GRAPHS[LAYERS[name].graphs[0]]()
    args, _ = arguments(name, graph)
    layer(*args)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    layer.reset_parameters()
    changed = {key for key, value in layer.state_dict().items() if not torch.equal(value, before[key])}
    weights = {key for key, value in before.items() if "quantizers" not in key and value.dim() > 1}
    assert changed and weights <= changed and not any("quantizers" in key for key in changed)
    layer(*args)


NEEDS_NEIGHBOURS = {
    "GraphConv": lambda **kw: lowbit.nn.GraphConv(5, 2, **kw),
    "GATConv": lambda **kw: lowbit.nn.GATConv(5, 2, 3, **kw),
    "GATv2Conv": lambda **kw: lowbit.nn.GATv2Conv(5, 2, 3, **kw),
    "SGConv": lambda **kw: lowbit.nn.SGConv(5, 2, 2, **kw),
    "GCN2Conv": lambda **kw: lowbit.nn.GCN2Conv(5, 1, **kw),
}


@low_bit_and_off
@pytest.mark.parametrize("name", NEEDS_NEIGHBOURS)
def test_nodes_without_in_neighbours_are_refused_until_allowed(name, options):
    graph = isolated()
    layer = NEEDS_NEIGHBOURS[name](**options)
    feats = (pair(graph, 5)[0],) * (2 if name == "GCN2Conv" else 1)
    with pytest.raises(DGLError, match="0-in-degree nodes in the graph"):
        layer(graph, *feats)
    layer.set_allow_zero_in_degree(True)
    assert layer(graph, *feats).isfinite().all()
    NEEDS_NEIGHBOURS[name](allow_zero_in_degree=True, **options)(graph, *feats)


# -- GraphConv and EdgeWeightNorm -------------------------------------------------------------------------------------


@low_bit_and_off
@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 5), (3, 2, 4, 5)])
@pytest.mark.parametrize("out", [1, 2, 8])
def test_graphconv_sums_whole_feature_grids(options, shape, out):
    graph, feat = path(), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    layer = lowbit.nn.GraphConv(5, out, norm="none", **options)
    nn.init.normal_(layer.bias)
    expected = torch.einsum("ij,j...->i...", dense(graph), feat @ layer.weight) + layer.bias
    close(layer(graph, feat), expected, options)
    assert frames_are_empty(graph)


@low_bit_and_off
@any_ids
@pytest.mark.parametrize("norm", ["none", "both", "right", "left"])
@pytest.mark.parametrize("out", [2, 6])
def test_graphconv_takes_a_weight_from_outside(options, idtype, norm, out):
    for graph in (homogeneous().astype(idtype), bipartite().astype(idtype)):
        layer = lowbit.nn.GraphConv(5, out, norm=norm, weight=False, bias=False, **options)
        weight, (feat, _), edge_weight = torch.randn(5, out), pair(graph, 5), torch.rand(graph.num_edges())
        adjacency = dense(graph, edge_weight)
        outgoing, incoming = graph.out_degrees().clamp(min=1), graph.in_degrees().clamp(min=1)
        scale = {"none": (0, 0), "both": (-0.5, -0.5), "right": (0, -1), "left": (-1, 0)}[norm]
        adjacency = incoming[:, None].float() ** scale[1] * adjacency * outgoing.float() ** scale[0]
        close(layer(graph, feat, weight=weight, edge_weight=edge_weight), adjacency @ (feat @ weight), options)
        assert torch.equal(layer(graph, feat, weight=weight), layer(graph, pair(graph, 5, 3), weight=weight))
        assert layer.weight is None


@low_bit_and_off
@pytest.mark.parametrize("norm", ["none", "both", "right"])
def test_graphconv_and_gcn_sage_agree_with_the_dense_layers_of_dgl(options, norm):
    torch.manual_seed(0)
    for graph in (homogeneous(), bipartite()):
        feats = pair(graph, 5)
        layer, reference = lowbit.nn.GraphConv(5, 2, norm=norm, **options), dgl.nn.DenseGraphConv(5, 2, norm=norm)
        reference.weight.data, reference.bias.data = layer.weight.data, layer.bias.data
        close(layer(graph, feats[0]), reference(dense(graph), feats[0]), options)
        layer, reference = lowbit.nn.SAGEConv(5, 2, "gcn", **options), dgl.nn.DenseSAGEConv(5, 2)
        reference.fc.weight.data, reference.fc.bias.data = layer.fc_neigh.weight.data, layer.bias.data
        feats = feats if graph.num_src_nodes() != graph.num_dst_nodes() else feats[0]
        close(layer(graph, feats), reference(dense(graph), feats), options)


@any_ids
@pytest.mark.parametrize("make_graph", [homogeneous, bipartite, block])
def test_edge_weight_norm_divides_by_the_sums_at_both_ends(make_graph, idtype):
    graph = make_graph().astype(idtype)
    weight = 0.1 + torch.rand(graph.num_edges())
    source, target = (ends.long() for ends in graph.edges(order="eid"))
    adjacency = dense(graph, weight)
    sent, received = adjacency.sum(0)[source], adjacency.sum(1)[target]
    expected = {"none": weight, "right": weight / received, "both": weight / (sent * received).sqrt()}
    for norm, value in expected.items():
        torch.testing.assert_close(lowbit.nn.EdgeWeightNorm(norm)(graph, weight), value)
    assert lowbit.nn.EdgeWeightNorm is dgl.nn.EdgeWeightNorm
    offset = lowbit.nn.EdgeWeightNorm("right", eps=2.0)(graph, weight)
    torch.testing.assert_close(offset, weight / (received + 2))
    assert frames_are_empty(graph)


def test_edge_weight_norm_refuses_vectors_and_weights_that_are_not_positive(graph):
    with pytest.raises(DGLError, match="only defined on scalar edge weight"):
        lowbit.nn.EdgeWeightNorm()(graph, torch.rand(graph.num_edges(), 2))
    with pytest.raises(DGLError, match="Non-positive edge weight"):
        lowbit.nn.EdgeWeightNorm()(graph, torch.zeros(graph.num_edges()))


@low_bit_and_off
@pytest.mark.parametrize("norm", ["none", "both", "right"])
def test_normed_weights_serve_a_graphconv_without_norm(options, norm, graph):
    weight, (feat, _) = 0.1 + torch.rand(graph.num_edges()), pair(graph, 5)
    normed = lowbit.nn.EdgeWeightNorm(norm)(graph, weight)
    layer = lowbit.nn.GraphConv(5, 2, norm="none", **options)
    close(layer(graph, feat, edge_weight=normed), dense(graph, normed) @ feat @ layer.weight, options)


@pytest.mark.parametrize("name", ["appnp", "sg", "tag", "gcn2"])
@pytest.mark.parametrize("bits", [None, 8])
def test_propagation_refuses_weights_that_are_not_positive(name, bits, graph):
    args, keywords = arguments(name, graph, weighted=True)
    keywords["edge_weight"][3] = 0
    with pytest.raises(DGLError, match="Non-positive edge weight"):
        make(name, bits)(*args, **keywords)


# -- SAGEConv ---------------------------------------------------------------------------------------------------------


@low_bit_and_off
@any_ids
@pytest.mark.parametrize("how", ["mean", "pool", "gcn", "lstm"])
@pytest.mark.parametrize("out", [1, 2])
def test_sageconv_takes_pairs_with_and_without_edges(options, idtype, how, out):
    empty = dgl.heterograph({("u", "e", "v"): ([], [])}, {"u": 5, "v": 3})
    for graph in (bipartite().astype(idtype), empty.astype(idtype)):
        own = 10 if how == "gcn" else 4
        torch.manual_seed(0)
        layer = lowbit.nn.SAGEConv((10, own), out, how, **options)
        torch.manual_seed(0)
        parent = dgl.nn.SAGEConv((10, own), out, how)
        feats = pair(graph, 10, own)
        close(layer(graph, feats), parent(graph, feats), options)
        assert layer(graph, feats).shape == (graph.num_dst_nodes(), out)


# -- attention --------------------------------------------------------------------------------------------------------


def sums_of_attention(graph, attention):
    totals = torch.zeros(graph.num_dst_nodes(), *attention.shape[1:])
    return totals.index_add(0, graph.edges(order="eid")[1].long(), attention)


@low_bit_and_off
@any_ids
@pytest.mark.parametrize("cls", ["GATConv", "GATv2Conv"])
@pytest.mark.parametrize(("out", "heads"), [(1, 4), (5, 1)])
def test_attention_has_a_number_for_each_edge_and_head(options, idtype, cls, out, heads):
    for graph in (homogeneous().astype(idtype), block().astype(idtype), bipartite().astype(idtype)):
        torch.manual_seed(0)
        layer = getattr(lowbit.nn, cls)(5, out, heads, **options)
        feat = pair(graph, 5)[0] if graph.is_block or graph.is_homogeneous else pair(graph, 5)
        h, attention = layer(graph, feat, get_attention=True)
        assert h.shape == (graph.num_dst_nodes(), heads, out)
        assert attention.shape == (graph.num_edges(), heads, 1) and (attention >= 0).all()
        totals = sums_of_attention(graph, attention)
        torch.testing.assert_close(totals, torch.ones_like(totals), rtol=0, atol=0.05 if options else 1e-5)
        assert torch.equal(layer(graph, feat), h) and frames_are_empty(graph)
        residual = getattr(lowbit.nn, cls)(5, out, heads, residual=True, **options)
        assert residual(graph, feat).shape == h.shape


@low_bit_and_off
def test_gat_weighs_what_its_attention_gives(options):
    graph = bipartite()
    layer, feats = lowbit.nn.GATConv(5, 2, 4, **options), pair(graph, 5)
    plain, ones = layer(graph, feats), layer(graph, feats, edge_weight=torch.ones(graph.num_edges()))
    assert torch.equal(plain, ones)
    weight = torch.randn(graph.num_edges(), generator=torch.Generator().manual_seed(0))
    _, attention = layer.eval()(graph, feats, get_attention=True)
    layer = lowbit.nn.GATConv(5, 2, 4, **options)
    _, weighted = layer(graph, feats, edge_weight=weight, get_attention=True)
    parent = with_parameters_of(layer, dgl.nn.GATConv(5, 2, 4))
    _, expected = parent(graph, feats, edge_weight=weight, get_attention=True)
    close(weighted, expected, options)
    assert attention.shape == weighted.shape and not torch.equal(attention, weighted)


@low_bit_and_off
@pytest.mark.parametrize("shape", [(40, 5), (40, 2, 5), (40, 3, 2, 5)])
def test_gat_takes_grids_of_features(options, shape, graph):
    feat = torch.randn(shape)
    layer = lowbit.nn.GATConv(5, 2, 4, **options)
    parent = with_parameters_of(layer, dgl.nn.GATConv(5, 2, 4))
    for got, expected in zip(layer(graph, feat, get_attention=True), parent(graph, feat, get_attention=True)):
        assert got.shape[:-2] == (len(got), *shape[1:-1])
        close(got, expected, options)


@pytest.mark.parametrize("cls", ["GATConv", "GATv2Conv"])
def test_low_bit_attention_of_a_grid_is_that_of_its_columns(cls, graph):
    layer, feat = getattr(lowbit.nn, cls)(5, 2, 4, config=lowbit.QuantConfig(8)), torch.randn(40, 3, 5)
    lowbit.calibrate(layer, graph, feat).eval()
    columns = [layer(graph, feat[:, n]) for n in range(3)]
    torch.testing.assert_close(layer(graph, feat), torch.stack(columns, 1))


# -- GIN and GINE -----------------------------------------------------------------------------------------------------


@low_bit_and_off
@pytest.mark.parametrize("how", ["sum", "mean", "max"])
def test_gin_adds_a_share_of_its_own(options, how):
    graph = bipartite()
    source, own = pair(graph, 5)
    layer = lowbit.nn.GINConv(None, how, init_eps=0.5, **options)
    present = dense(graph) > 0
    expected = {
        "sum": dense(graph) @ source,
        "mean": dense(graph) @ source / graph.in_degrees()[:, None],
        "max": torch.stack([source[row].amax(0) for row in present]),
    }[how]
    close(layer(graph, (source, own)), 1.5 * own + expected, options)
    assert layer(graph, (source, own)).shape == own.shape
    assert "eps" not in dict(layer.named_parameters()) and "eps" in dict(layer.named_buffers())
    assert "eps" in dict(lowbit.nn.GINConv(None, how, learn_eps=True, **options).named_parameters())


@low_bit_and_off
def test_gin_knows_three_aggregators(options):
    with pytest.raises(KeyError, match="median not recognized"):
        lowbit.nn.GINConv(None, "median", **options)


@low_bit_and_off
def test_gine_rectifies_the_sum_of_node_and_edge(options):
    graph = bipartite()
    (source, own), edge = pair(graph, 5), torch.randn(graph.num_edges(), 5)
    layer = lowbit.nn.GINEConv(nn.Linear(5, 12), init_eps=0.5, **options)
    ends = graph.edges(order="eid")
    received = torch.zeros_like(own).index_add(0, ends[1], (source[ends[0]] + edge).relu())
    close(layer(graph, (source, own), edge), layer.apply_func(1.5 * own + received), options)
