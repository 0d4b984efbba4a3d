"""Sums over neighbours of packed codes: a fraction of the bytes that sums of floats read."""

from __future__ import annotations

import dgl
import torch

from ..quant import fused
from ..quant.format import QParams
from ..quant.quantized import Quantized
from ..quant.ste import straight_through
from .graphs import GraphCache

# Numbers that a sum reads, edges times columns, from which packing the codes first pays.
_LEAST = 1 << 20
_graphs = GraphCache()


class _SumOfCodes(torch.autograd.Function):
    """Σ (code − zero_point) over in-neighbours; its gradient is summed by DGL over out-neighbours."""

    @staticmethod
    def forward(ctx, x, scale, zero_point, offset, qmax, margin, clip_gradient, graph):
        ctx.save_for_backward(x, scale, offset, margin)
        ctx.qmax, ctx.clip_gradient, ctx.index = qmax, clip_gradient, graph._graph
        return fused.sum_of_codes(_graphs.get(graph, _prepare), x, QParams(scale, zero_point, offset), qmax)

    @staticmethod
    def backward(ctx, grad):
        grad = dgl.backend.gspmm(ctx.index.reverse(), "copy_lhs", "sum", grad.contiguous(), None)
        return *straight_through(ctx, grad, *ctx.saved_tensors), *[None] * 6


def can_sum_packed(graph: dgl.DGLGraph, codes: Quantized) -> bool:
    """Whether :func:`sum_packed` serves ``codes`` on ``graph``, and pays."""
    if codes.source is None or codes.source[0].dim() != 2:
        return False
    x, params, qmax, *_ = codes.source
    edges = graph.num_edges()
    if edges * x.shape[1] < _LEAST or edges * qmax >= 2**31 or graph.device.type != "cpu" or len(x) >= 2**31:
        return False
    layout = fused.layout_of(x, params.scale)
    if layout is None or layout.kind == "row" or not x.is_contiguous():
        return False
    return bool((2 * params.zero_point == (2 * params.zero_point).round()).all())  # what floats sum exactly


def sum_packed(graph: dgl.DGLGraph, codes: Quantized) -> torch.Tensor:
    """Sums of the centred codes of the in-neighbours, (N_dst, columns), those that DGL makes, to the bit.

    Parameters
    ----------
    graph : DGLGraph
    codes : Quantized
        (N_src, columns), for which :func:`can_sum_packed` is true.
    """
    x, params, *rest = codes.source
    return _SumOfCodes.apply(x, *params, *rest, graph)


def _prepare(graph):
    indptr, indices, _ = graph.adj_tensors("csc")
    return fused.kernels().prepare(indptr.numpy(), indices.numpy(), graph.num_src_nodes())
