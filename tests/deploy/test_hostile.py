"""Tensors and options that a packed model cannot compute with are refused with DGLError, naming what to write."""

import dgl
import numpy as np
import pytest
import torch

import dgl_lowbit as lowbit
from dgl_lowbit.nn import GATConv


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: x.to("meta"), "x is on the meta device"),
        (lambda x: torch.nested.nested_tensor([x[:3], x[3:]]), r"x is a nested tensor; pass one .*torch\.cat"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), r"quantised tensor; pass x\.dequantize\(\)"),
        (lambda x: x.to_sparse(), r"x must be a dense tensor.*x\.to_dense\(\)"),
        (lambda x: x.to(torch.complex64), "x must be floating point"),
        (lambda x: x.long(), "x must be floating point.*convert it to float32"),
        (lambda x: x[0], r"x must have shape \(nodes, width\)"),
        (lambda x: np.ma.masked_array(x.numpy(), x.numpy() > 1), r"x is masked.*x\.filled"),
        (lambda x: x.double() * 1e39, "x holds NaN or infinity"),
    ],
)
@pytest.mark.parametrize("in_batches", [False, True])
def test_tensors(packed, graph, feat, make, words, in_batches):
    run = packed.inference if in_batches else packed
    with pytest.raises(dgl.DGLError, match="x " if in_batches else words):
        run(graph, make(feat))


def test_weights_of_edges(packed, graph, feat):
    weights = torch.ones(graph.num_edges())
    for wrong in (weights.to("meta"), torch.quantize_per_tensor(weights, 0.1, 0, torch.quint8), weights.to_sparse()):
        with pytest.raises(dgl.DGLError, match="edge_weight"):
            packed(graph, feat, edge_weight=wrong)


def test_tensors_that_are_views(packed, graph, feat):
    """Negated, conjugated and imaginary views, small floats, and tensors that ask for gradients hold numbers too."""
    expected = packed(graph, feat)
    both = torch.view_as_complex(torch.stack([feat, -feat], -1)).conj()
    for same in (torch._neg_view(-feat), both.real, both.imag, feat.clone().requires_grad_(), feat.double()):
        assert torch.equal(packed(graph, same), expected)
    for dtype in (torch.bfloat16, torch.float16, torch.float8_e4m3fn):
        assert torch.equal(packed(graph, feat.to(dtype)), packed(graph, feat.to(dtype).float()))


def test_what_results_are_written_to(packed, graph, feat):
    shape = graph.num_nodes(), 3
    for out in (torch.empty(shape, device="meta"), torch.empty(shape, requires_grad=True), torch.empty(shape).double()):
        with pytest.raises(dgl.DGLError, match="out"):
            packed.inference(graph, feat, out=out)
    out = torch.empty(shape)
    packed.inference(graph, feat, out=out)
    assert torch.equal(out, packed(graph, feat))


@pytest.mark.parametrize(("layer", "grows"), [("SAGEConv", True), ("GATConv", False)])
def test_features_beyond_1e38(layer, grows, graph, feat):
    """A layer that is handed infinity refuses, packed as in training; where numbers stay finite both agree."""
    more = {"aggregator_type": "mean"} if layer == "SAGEConv" else {"num_heads": 1}
    model = torch.nn.ModuleList(getattr(dgl.nn, layer)(12, 12, **more) for _ in range(2))
    model = lowbit.calibrate(lowbit.quantize(_Chain(model), lowbit.QuantConfig(2)), graph, feat).eval()
    packed, feat = lowbit.freeze(model), feat / feat.abs().max()
    for size in (1e30, 1e38, 3.4e38)[: 3 if grows else 2]:
        try:
            expected = model(graph, feat * size).detach()
        except dgl.DGLError:
            expected = torch.full((1,), torch.nan)
        if expected.isfinite().all():
            torch.testing.assert_close(packed(graph, feat * size), expected, rtol=1e-4, atol=0)
        else:
            with pytest.raises(dgl.DGLError, match="grow beyond float32"):
                packed(graph, feat * size)
    assert bool(expected.isfinite().all()) != grows


class _Chain(torch.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, graph, x):
        for layer in self.layers:
            x = layer(graph, x).flatten(1)
        return x


def test_attention_has_a_code_for_none():
    """The codes of "bt*" are moved by their skewness, and those of attention must not be."""
    for make in (
        lambda: lowbit.QuantConfig(2, quantizer="bt*", attention=8),
        lambda: GATConv(4, 4, 1, config=lowbit.QuantConfig(2, quantizer="bt*")),
        lambda: lowbit.quantize(dgl.nn.GATv2Conv(4, 4, 1), lowbit.QuantConfig(2, quantizer="bt*")),
    ):
        with pytest.raises(ValueError, match=r"'bt\*' moves the codes of attention.*'bt', or attention=32"):
            make()
    for config in (lowbit.QuantConfig(2, quantizer="bt*", attention=32), lowbit.QuantConfig(2, quantizer="bt")):
        assert GATConv(4, 4, 1, config=config).is_low_bit


def test_arguments_in_another_order(packed, graph, feat):
    with pytest.raises(dgl.DGLError, match=r"^g must be a DGLGraph, got a Tensor; the model takes \(g, x"):
        packed(feat, graph)
    with pytest.raises(dgl.DGLError, match="^g: a graph is a numba_kernels.Graph"):
        packed(None, feat)


class OfTypes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = dgl.nn.HeteroGraphConv({
            "likes": dgl.nn.SAGEConv((8, 6), 4, "mean"),
            "liked": dgl.nn.SAGEConv((6, 8), 4, "mean"),
        })  # fmt: skip

    def forward(self, graph, nodes):
        return self.conv(graph, nodes)


def test_rows_and_widths_of_a_type_are_said_of_it():
    ends = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])
    graph = dgl.heterograph({("user", "likes", "item"): ends, ("item", "liked", "user"): ends[::-1]})
    nodes = {"user": torch.randn(3, 8), "item": torch.randn(2, 6)}
    model = lowbit.calibrate(lowbit.quantize(OfTypes(), lowbit.QuantConfig(4)), graph, nodes)
    packed = lowbit.freeze(model, graph, nodes)
    for name, wrong, words in [
        ("user", torch.randn(30, 8), r"^nodes\['user'\]: expected .*3.*, got 30"),
        ("item", torch.randn(20, 6), r"^nodes\['item'\]: expected .*2.*, got 20"),
        ("item", torch.randn(2, 7), r"^nodes\['item'\]: expected features of width 6, got 7"),
        ("user", torch.full((3, 8), torch.nan), r"^nodes\['user'\] holds NaN"),
    ]:
        with pytest.raises(dgl.DGLError, match=words):
            packed(graph, {**nodes, name: wrong})
