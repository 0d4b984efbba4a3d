"""What passes unrounded of protected nodes: values, gradients, and what is computed anew."""

import dgl.nn.functional
import dgl.ops
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.quant import Quantizer, make_quantizer
from dgl_lowbit.quant.sparse import SparseFeatures
from tests.conftest import features
from tests.nn.layers import IN, LAYERS, OUT, arguments, graph_for, parts
from tests.nn.own_modules import WAYS, Calls, OwnGAT, OwnGCN, by_own_message, updated
from tests.nn.protected import PROTECT, low_bit
from tests.nn.test_recompute import agree

# -- what passes ------------------------------------------------------------------------------------------------------
NAMES = [name for name in LAYERS if name not in ("linear", "gine", "gine_alone")]


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_all_of_whose_nodes_are_protected_is_the_float_layer(name):
    """Weights in float32, what nodes have and send in 2 bits: outputs and gradients are DGL's, ranges have none."""
    args, _ = arguments(name, graph_for(name))
    torch.manual_seed(0)
    config = lowbit.QuantConfig(2, weights=32, states=2, outputs=2, protect=(1, 1))
    check_is_float(LAYERS[name].build(lowbit.nn), LAYERS[name].build(lowbit.nn, config=config), args)


def check_is_float(plain, layer, args):
    layer.load_state_dict(plain.state_dict(), strict=False)
    found = []
    for module in (plain.train(), layer.train()):
        given = [_leaf(arg) for arg in args]
        outputs = parts(module(*given))
        torch.manual_seed(1)
        sum((part * torch.randn(part.shape)).sum() for part in outputs).backward()
        leaves = [part for arg in given for part in _tensors(arg)]
        weights = [p for n, p in module.named_parameters() if "quantizers" not in n and "_0." not in n]
        found.append([*outputs, *(x.grad for x in (*leaves, *weights))])
    for ours, theirs in zip(*reversed(found)):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    scale = max(part.abs().max() for part in found[0] if part is not None)
    for name, parameter in layer.named_parameters():
        if "drift" in name and parameter.grad is not None:
            assert parameter.grad.abs().max() < 1e-4 * scale, name


def _tensors(arg):
    if isinstance(arg, (tuple, list)):
        return [part for one in arg for part in _tensors(one)]
    if isinstance(arg, dict):
        return _tensors(list(arg.values()))
    return [arg] if isinstance(arg, torch.Tensor) and arg.requires_grad else []


def _leaf(arg):
    if isinstance(arg, tuple):
        return tuple(map(_leaf, arg))
    if isinstance(arg, dict):
        return {key: _leaf(part) for key, part in arg.items()}
    is_floating = isinstance(arg, torch.Tensor) and arg.is_floating_point()
    return arg.clone().requires_grad_() if is_floating else arg


def by_products(graph, rows):
    """Attention by the products of neighbours' rows."""
    weights = dgl.nn.functional.edge_softmax(graph, dgl.ops.u_dot_v(graph, rows, rows))
    return dgl.ops.u_mul_e_sum(graph, rows, weights)


@pytest.mark.parametrize("passes", [*WAYS.values(), by_products])
def test_message_passing_of_ones_own_passes_protected_nodes(passes, graph):
    call = graph, features(graph, IN)
    check_own(OwnGCN(IN, OUT, passes), call)


@pytest.mark.filterwarnings("ignore::dgl_lowbit.FloatModuleWarning")
def test_attention_of_ones_own_passes_protected_nodes(graph):
    plain = OwnGAT(IN, OUT)
    plain.dropout.p = 0.0
    check_own(plain, (graph, features(graph, IN)))


def check_own(plain, call):
    options = {"weights": 32, "scores": 2, "attention": 2, "bits": 2}
    check_is_float(plain, low_bit(plain, *call, protect=(1, 1), **options), call)


@pytest.mark.parametrize("passes", [updated, by_own_message])
def test_messages_of_protected_nodes_pass_and_the_others_are_rounded(passes, graph, masks):
    feat = features(graph, IN)
    model = low_bit(Calls(passes), graph, feat)
    total = model(graph, feat)
    (mask,) = masks
    sources, targets = graph.edges()
    mask = mask if len(mask) == graph.num_edges() else mask[sources]
    assert all(len(mask[sources == node].unique()) <= 1 for node in graph.nodes())
    (quantizer,) = (module for module in model.modules() if isinstance(module, Quantizer))
    rounded = quantizer.eval()(feat)[sources]
    messages = torch.where(mask.view(-1, 1), feat[sources], rounded)
    torch.testing.assert_close(total, torch.zeros_like(feat).index_add(0, targets, messages))


def test_graphs_that_a_model_keeps_are_met_where_messages_pass(graph, masks):
    model = low_bit(Calls(lambda feat: updated(graph, feat)), features(graph, IN))
    model(features(graph, IN))
    assert [len(mask) for mask in masks] == [graph.num_nodes()]


@pytest.mark.parametrize("granularity", ["tensor", "channel", "row", "shift"])
@pytest.mark.parametrize("quantizer", ["qlr", "bt*"])
def test_protected_rows_pass_and_the_others_are_as_without(granularity, quantizer):
    torch.manual_seed(0)
    x, mask = 3 * torch.randn(60, 20), torch.rand(60) < 0.4
    x[mask] *= 5  # beyond the range
    q = make_quantizer(quantizer, 4, granularity=granularity, channels=20).train()
    q.observe(x[~mask])
    upstream, results = torch.randn(60, 20), []
    for rows, protected in ((x, mask), (x[~mask], None)):
        q.zero_grad()
        given = rows.clone().requires_grad_()
        codes = q.quantized(given, protected=protected)
        value = codes.centered * codes.scale
        value.backward(upstream if protected is not None else upstream[~mask])
        results.append((value.detach(), given.grad, q.drift.grad.clone()))
    (value, grad, of_range), (others, grad_of_others, of_range_of_others) = results
    torch.testing.assert_close(value[mask], x[mask])
    torch.testing.assert_close(grad[mask], upstream[mask])
    assert torch.equal(value[~mask], others) and torch.equal(grad[~mask], grad_of_others)
    torch.testing.assert_close(of_range, of_range_of_others, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("grid", ["affine", "half"])  # zeros stay zeros, or do not
def test_sparse_rows_pass_as_dense_ones(grid):
    torch.manual_seed(0)
    dense, mask = torch.rand(30, 9) * (torch.rand(30, 9) < 0.3), torch.rand(30) < 0.5
    q = make_quantizer("qlr", 2, granularity="row", grid=grid).train()
    expected = q.quantized(dense, protected=mask)
    got = q.quantized(SparseFeatures.from_dense(dense), protected=mask).centered
    got = got.to_dense() if isinstance(got, SparseFeatures) else got
    torch.testing.assert_close(got, expected.centered)


def test_ranges_are_those_of_rows_that_are_not_protected():
    x, mask = torch.randn(50, 6), torch.arange(50) < 20
    x[mask] *= 100
    for granularity in ("tensor", "channel", "shift"):
        free, alone = (make_quantizer("qlr", 4, granularity=granularity, channels=6).train() for _ in range(2))
        free.quantized(x, protected=mask)
        alone.quantized(x[~mask])
        assert torch.equal(free.low, alone.low) and torch.equal(free.high, alone.high)
    everyone = make_quantizer("qlr", 4).train()
    everyone.quantized(x, protected=torch.ones(50, dtype=torch.bool))
    assert everyone.high == x.max()


# -- what checkpointing computes anew
@pytest.mark.parametrize("name", ["graphconv", "sage_mean", "gat", "gin_sum", "rel"])
def test_checkpointing_recomputes_with_the_same_nodes(name):
    args, _ = arguments(name, graph_for(name))
    for part in args[1:]:
        if part.is_floating_point():
            part.requires_grad_()
    torch.manual_seed(0)
    layer = LAYERS[name].build(lowbit.nn, config=lowbit.QuantConfig(4, protect=PROTECT))
    if hasattr(layer, "feat_drop"):
        layer.feat_drop = nn.Dropout(0.3)
    assert agree(layer, lambda layer, run: parts(_seeded(run(layer), *args)), number=3)


def test_checkpointed_parts_of_a_model_have_the_nodes_of_its_forward(graph):
    torch.manual_seed(0)
    call = graph, features(graph, IN).requires_grad_()
    parts = nn.ModuleList([dgl.nn.SAGEConv(IN, 8, "mean", feat_drop=0.3), dgl.nn.GraphConv(8, OUT)])

    class Runs(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts, self.run = parts, lambda module: module

        def forward(self, graph, feat):
            return self.run(self.parts[1])(graph, F.relu(self.run(self.parts[0])(graph, feat)))

    def step(model, run):
        model.run = run
        return [_seeded(model, *call)]

    assert agree(low_bit(Runs(), *call), step, number=3)


def _seeded(module, *args):
    torch.manual_seed(5)
    return module(*args)


def test_few_masks_are_remembered_and_pickles_of_before_train():
    q = make_quantizer("qlr", 2, granularity="tensor").train()
    for _ in range(20):
        q.quantized(torch.randn(30, 4), protected=torch.rand(30) < 0.5)
    assert 0 < len(q._protected._latest) <= 4
    state = {name: value for name, value in vars(q).items() if name != "_protected"}
    older = type(q).__new__(type(q))
    older.__setstate__(state)
    assert older.train()(torch.randn(5, 4)).shape == (5, 4)
