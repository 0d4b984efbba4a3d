"""Layers that propagate without weights, and relations, in the place of DGL's; see test_dgl_contract.py."""

import dgl
import dgl.nn
import pytest
import torch
from dgl import DGLError
from dgl.base import DGLWarning
from torch import nn

import dgl_lowbit as lowbit
from tests.conftest import bipartite, block, homogeneous
from tests.nn.comparing import any_ids, close, dense, low_bit_and_off, pair, path, with_parameters_of
from tests.nn.layers import arguments, frames_are_empty, make

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
