"""Our layers in the place of DGL's: what DGL 1.1.3's own tests of these layers ask for, and equality with them."""

import dgl
import dgl.nn
import pytest
import torch
from dgl import DGLError
from dgl.base import DGLWarning
from torch import nn

import dgl_lowbit as lowbit
from tests.conftest import bipartite, block, homogeneous, isolated
from tests.nn.layers import (
    CASES,
    GRAPHS,
    LAYERS,
    WEIGHTED_CASES,
    arguments,
    frames_are_empty,
    hetero,
    make,
    parts,
    same,
)

CONFIGS = {"off": {}, "8 bits": {"config": lowbit.QuantConfig(8)}}
IDS = [torch.int32, torch.int64]
low_bit_and_off = pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
any_ids = pytest.mark.parametrize("idtype", IDS, ids=["int32", "int64"])


def path(idtype=torch.int64):
    """Three nodes in a row, edges both ways."""
    return dgl.graph(([0, 1, 1, 2], [1, 0, 2, 1])).astype(idtype)


def dense(graph, edge_weight=None):
    """Rows receive: A[i, j] is the weight of the edges from j to i."""
    source, target = graph.edges(order="eid")
    values = torch.ones(graph.num_edges()) if edge_weight is None else edge_weight
    size = graph.num_dst_nodes(), graph.num_src_nodes()
    return torch.zeros(size).index_put((target.long(), source.long()), values, accumulate=True)


def close(got, expected, options):
    """Equal up to rounding: of float32, or, at 8 bits, of codes."""
    assert got.shape == expected.shape
    share = 0.05 if options else 1e-5
    assert (got - expected).abs().max() <= share * expected.abs().max() + 1e-5


def with_parameters_of(layer, parent):
    """DGL's layer with what ours has learned, ranges aside."""
    parent.load_state_dict({k: v for k, v in layer.state_dict().items() if "quantizers" not in k})
    return parent


def pair(graph, *widths):
    torch.manual_seed(1)
    return torch.randn(graph.num_src_nodes(), widths[0]), torch.randn(graph.num_dst_nodes(), widths[-1])


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


@pytest.mark.parametrize("shape", [(40, 5), (40, 2, 5), (40, 3, 2, 5)])
def test_gat_takes_feature_grids_in_float_and_refuses_them_low_bit(shape, graph):
    feat = torch.randn(shape)
    torch.manual_seed(0)
    layer = lowbit.nn.GATConv(5, 2, 4)
    torch.manual_seed(0)
    expected, attention = dgl.nn.GATConv(5, 2, 4)(graph, feat, get_attention=True)
    got = layer(graph, feat, get_attention=True)
    assert torch.equal(got[0], expected) and torch.equal(got[1], attention)
    assert expected.shape == (*shape[:-1], 4, 2)
    if len(shape) > 2:
        for cls in (lowbit.nn.GATConv, lowbit.nn.GATv2Conv):
            with pytest.raises(DGLError, match=r"features of shape \(N, D\)"):
                cls(5, 2, 4, config=lowbit.QuantConfig(8))(graph, feat)


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


# -- propagation ------------------------------------------------------------------------------------------------------


def smooth(graph):
    norm = graph.in_degrees().clamp(min=1)[:, None].float() ** -0.5
    return norm * dense(graph) * norm.T


@low_bit_and_off
@any_ids
@pytest.mark.parametrize("out", [1, 2])
def test_tagconv_multiplies_powers_of_the_adjacency(options, idtype, out):
    graph = path(idtype)
    torch.manual_seed(0)
    layer, (feat, _) = lowbit.nn.TAGConv(5, out, **options), pair(graph, 5)
    nn.init.normal_(layer.lin.bias)
    once = smooth(graph) @ feat
    expected = torch.cat([feat, once, smooth(graph) @ once], 1) @ layer.lin.weight.t() + layer.lin.bias
    close(layer(graph, feat), expected, options)
    assert frames_are_empty(graph)


@low_bit_and_off
@any_ids
def test_sgconv_keeps_what_it_first_propagated_when_cached(options, idtype):
    graph = homogeneous().astype(idtype)
    feat, _ = pair(graph, 5)
    layer = lowbit.nn.SGConv(5, 2, 3, cached=True, **options)
    first = layer(graph, feat)
    assert torch.equal(first, layer(graph, feat + 1)) and first.shape == (graph.num_nodes(), 2)
    anew = lowbit.nn.SGConv(5, 2, 3, **options)
    assert not torch.equal(anew(graph, feat), anew(graph, feat + 1))


@low_bit_and_off
def test_appnp_starts_from_every_step_anew(options, graph):
    feat, _ = pair(graph, 5)
    layer = lowbit.nn.APPNPConv(10, 0.1, **options)
    h, outgoing = feat, graph.out_degrees()[:, None].float() ** -0.5
    for _ in range(10):
        h = 0.9 * graph.in_degrees()[:, None].float() ** -0.5 * (dense(graph) @ (outgoing * h)) + 0.1 * feat
    close(layer(graph, feat), h, options)
    grid = feat.view(-1, 5, 1).expand(-1, 5, 3)
    assert lowbit.nn.APPNPConv(10, 0.1, **options)(graph, grid).shape == grid.shape


@low_bit_and_off
def test_appnp_drops_edges_in_training_only(options, graph):
    feat, _ = pair(graph, 5)
    layer = lowbit.nn.APPNPConv(3, 0.1, edge_drop=0.5, **options)
    first, second = layer(graph, feat), layer(graph, feat)
    assert not torch.equal(first, second)
    layer.eval()
    assert torch.equal(layer(graph, feat), layer(graph, feat))


@low_bit_and_off
@any_ids
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_gcn2conv_mixes_the_initial_features_in(options, idtype, bias, shared):
    graph = homogeneous().astype(idtype)
    torch.manual_seed(0)
    layer = lowbit.nn.GCN2Conv(5, 2, alpha=0.5, lambda_=1.5, bias=bias, project_initial_features=shared, **options)
    if bias:
        nn.init.normal_(layer.bias)
    feat, initial = pair(graph, 5)
    beta = torch.log(torch.tensor(1.5 / 2 + 1))
    received = smooth(graph) @ feat
    second = layer.weight1 if shared else layer.weight2
    expected = (1 - beta) * (0.5 * received + 0.5 * initial)
    expected = expected + beta * (0.5 * received @ layer.weight1 + 0.5 * initial @ second)
    close(layer(graph, feat, initial), expected + (layer.bias if bias else 0), options)
    assert bias == (layer.bias is not None) and shared == (layer.weight2 is None)
    assert "in=5" in repr(layer)


@low_bit_and_off
@any_ids
@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("out", [1, 2])
def test_chebconv_agrees_with_the_dense_layer_of_dgl(options, idtype, k, out):
    graph = dgl.to_bidirected(dgl.to_simple(homogeneous()))
    torch.manual_seed(0)
    layer, reference = lowbit.nn.ChebConv(5, out, k, None, **options), dgl.nn.DenseChebConv(5, out, k)
    nn.init.normal_(layer.linear.bias)
    reference.W.data = layer.linear.weight.data.t().reshape(k, 5, out)
    reference.bias.data = layer.linear.bias.data
    feat, _ = pair(graph, 5)
    for largest in (2.0, 1.4):
        fresh = lowbit.nn.ChebConv(5, out, k, None, **options)
        fresh.load_state_dict(layer.state_dict())
        close(fresh(graph.astype(idtype), feat, [largest]), reference(dense(graph), feat, largest), options)


@low_bit_and_off
def test_chebconv_has_an_eigenvalue_for_each_graph_of_a_batch(options):
    graphs = [dgl.to_bidirected(dgl.to_simple(homogeneous(seed))) for seed in (0, 1)]
    layer, feats = lowbit.nn.ChebConv(5, 2, 3, **options), [pair(graph, 5)[0] for graph in graphs]
    parent = with_parameters_of(layer, dgl.nn.ChebConv(5, 2, 3))
    together = dgl.batch(graphs)
    for largest in ([1.3, 1.9], torch.tensor([1.3, 1.9]), torch.tensor([[1.3], [1.9]])):
        expected = torch.cat([parent(*one) for one in zip(graphs, feats, ([1.3], [1.9]))])
        close(layer(together, torch.cat(feats), largest), expected, options)
    with pytest.warns(DGLWarning, match="lambda_max is not provided"):
        by_default = layer(together, torch.cat(feats))
    assert torch.equal(by_default, layer(together, torch.cat(feats), [2.0, 2.0]))


@pytest.mark.parametrize("name", ["appnp", "sg", "tag", "cheb", "gcn2"])
@pytest.mark.parametrize("make_graph", [block, bipartite])
def test_low_bit_propagation_stays_within_one_set_of_nodes(name, make_graph):
    args, _ = arguments(name, homogeneous())
    with pytest.raises(DGLError, match="propagates within one set of nodes"):
        make(name, bits=8)(make_graph(), *args[1:])


# -- RelGraphConv -----------------------------------------------------------------------------------------------------


def related(idtype):
    """A graph, types of its edges, and the same with edges sorted by type."""
    graph = homogeneous().astype(idtype)
    types = torch.arange(graph.num_edges()) % 5
    ordered, order = torch.sort(types, stable=True)
    source, target = graph.edges(order="eid")
    return graph, types, dgl.graph((source[order], target[order]), num_nodes=40), ordered, order


@low_bit_and_off
@any_ids
@pytest.mark.parametrize(
    ("regularizer", "bases", "out"),
    [(None, None, 1), (None, None, 8), ("basis", 2, 1), ("basis", 2, 8), ("basis", None, 8), ("bdd", 2, 8),
     ("bdd", None, 10)],
)  # fmt: skip
def test_relgraphconv_takes_sorted_edges_and_norms(options, idtype, regularizer, bases, out):
    graph, types, ordered_graph, ordered, order = related(idtype)
    torch.manual_seed(0)
    layer = lowbit.nn.RelGraphConv(10, out, 5, regularizer, bases, **options)
    torch.manual_seed(0)
    parent = dgl.nn.RelGraphConv(10, out, 5, regularizer, bases)
    (feat, _), norm = pair(graph, 10), torch.rand(graph.num_edges(), 1)
    got = layer(graph, feat, types)
    assert got.shape == (40, out)
    close(got, parent(graph, feat, types), options)
    torch.testing.assert_close(layer(ordered_graph, feat, ordered, presorted=True), got, rtol=1e-4, atol=1e-4)
    close(layer(graph, feat, types, norm), parent(graph, feat, types, norm), options)
    again = layer(ordered_graph, feat, ordered, norm[order], presorted=True)
    torch.testing.assert_close(again, layer(graph, feat, types, norm), rtol=1e-4, atol=1e-4)
    assert bases is not None or regularizer is None or layer.linear_r.num_bases == 5
    assert frames_are_empty(graph)


@low_bit_and_off
def test_relgraphconv_wants_widths_that_divide_into_blocks(options):
    with pytest.raises(ValueError, match="divisible by num_bases"):
        lowbit.nn.RelGraphConv(10, 7, 5, "bdd", 5, **options)
    with pytest.raises(ValueError, match="Supported regularizer options"):
        lowbit.nn.RelGraphConv(10, 7, 5, "sum", 5, **options)


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (torch.zeros(3, dtype=torch.long), r"etypes as \d+ integers, got shape \(3,\)"),
        (torch.zeros(235), r"etypes as \d+ integers"),
        (torch.full((235,), 5), "below num_rels=5, got 5 to 5"),
        (torch.full((235,), -1), "below num_rels=5, got -1 to -1"),
    ],
)
def test_low_bit_relgraphconv_refuses_types_that_are_none(types, message, graph):
    assert graph.num_edges() == 235
    layer = lowbit.nn.RelGraphConv(10, 2, 5, config=lowbit.QuantConfig(8))
    with pytest.raises(DGLError, match=message):
        layer(graph, torch.rand(40, 10), types)


# -- HeteroGraphConv --------------------------------------------------------------------------------------------------


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
