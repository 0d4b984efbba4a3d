"""What tests of layers against DGL's and against dense matrices share."""

import dgl
import pytest
import torch

import dgl_lowbit as lowbit

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
