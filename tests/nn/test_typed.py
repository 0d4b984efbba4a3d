"""Messages by edge type, taken for the nodes that send them, against all products of all nodes."""

import dgl
import pytest
import torch

import dgl_lowbit as lowbit
from dgl_lowbit.nn import typed
from dgl_lowbit.nn.ops import Quantized, TorchOps
from dgl_lowbit.quant import QLRQuantizer
from tests.conftest import block, homogeneous

TYPES, IN, OUT = 5, 6, 4


def all_products(ops, graph, codes, weight_quantizer, weights, quantizer, edge_types, edge_weight):
    """The same sum over a block with every source node once for each type."""
    together = weights.transpose(0, 1).reshape(IN, TYPES * OUT)
    products = ops.product(codes, weight_quantizer, together).split(OUT, dim=1)
    messages = Quantized(*quantizer.split(torch.cat(products)))
    source, target = graph.edges(order="eid")
    ends = source + edge_types * graph.num_src_nodes(), target
    counts = {"num_src_nodes": TYPES * graph.num_src_nodes(), "num_dst_nodes": graph.num_dst_nodes()}
    return ops.aggregate(dgl.create_block(ends, **counts), messages, edge_weight)


@pytest.mark.parametrize("make", [homogeneous, block])
@pytest.mark.parametrize("weights_granularity", ["channel", "tensor"])
@pytest.mark.parametrize("messages_granularity", ["channel", "tensor", "shift"])
def test_it_is_the_sum_over_all_products(make, weights_granularity, messages_granularity):
    graph, runs = make(), []
    for aggregate in (TorchOps.aggregate_by_type, all_products):
        torch.manual_seed(0)
        feat, weights = torch.randn(graph.num_src_nodes(), IN), torch.randn(TYPES, IN, OUT)
        edge_types = torch.randint(TYPES - 1, (graph.num_edges(),))  # one type has no edges
        edge_weight = torch.rand(graph.num_edges())
        feat, weights = feat.requires_grad_(), weights.requires_grad_()
        of_weights = {"granularity": weights_granularity, "channels": TYPES * OUT, "axis": 1}
        quantizers = [
            QLRQuantizer(4, granularity="row"),
            QLRQuantizer(4, **of_weights),
            QLRQuantizer(4, granularity=messages_granularity, channels=OUT),
        ]
        ops, (inputs, of_weights, messages) = TorchOps(), quantizers
        codes = ops.quantize(inputs.train(), feat)
        total = aggregate(ops, graph, codes, of_weights.train(), weights, messages.train(), edge_types, edge_weight)
        total.square().sum().backward()
        runs.append((total, feat.grad, weights.grad, *(q.drift.grad for q in quantizers), messages.low))
    for got, expected in zip(*runs):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(runs[0][0], runs[1][0])


def test_a_sample_of_many_products_has_their_extremes(monkeypatch):
    torch.manual_seed(0)
    codes, weights = Quantized(torch.randn(500, IN), torch.ones(())), torch.randn(TYPES, IN, OUT)
    products = typed.TypedProducts(codes, QLRQuantizer(32), weights)
    whole = products.sample()
    assert torch.equal(whole, products.at(torch.arange(500 * TYPES))) and len(whole) == 500 * TYPES
    monkeypatch.setattr(typed, "_MOST_OBSERVED", 2000)
    some = products.sample()
    assert some.numel() <= 1000 + OUT + 2 * OUT * OUT
    assert torch.equal(some.amax(0), whole.amax(0)) and torch.equal(some.amin(0), whole.amin(0))


def test_memory_follows_edges_not_relations(monkeypatch):
    """Tensors of a training step, by the bytes that autograd keeps: no more with 400 relations than with 4."""
    monkeypatch.setattr(typed, "_MOST_OBSERVED", 1)
    kept = []
    for relations in (4, 400):
        torch.manual_seed(0)
        graph = dgl.rand_graph(1000, 300)
        layer = lowbit.nn.RelGraphConv(8, 8, relations, self_loop=False, config=lowbit.QuantConfig(4))
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            layer(graph, torch.randn(1000, 8), torch.randint(relations, (300,)))
        kept.append(max(sizes))
    assert kept[1] <= max(kept[0], 8 * 8 * 400)  # the weights themselves are 8 × 8 a relation
