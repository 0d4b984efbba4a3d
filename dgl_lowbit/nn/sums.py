"""Sums over neighbours of codes: packed, a fraction of the bytes that sums of floats read, or exact in floats."""

from __future__ import annotations

import functools

import dgl
import torch

from numba_kernels.spec import MOST_HALVINGS

from ..graphs.cache import GraphCache
from ..quant import fused_sums, passes
from ..quant.format import QParams
from ..quant.products import finished
from ..quant.quantized import Quantized
from ..quant.remade import Origin
from ..quant.scaled import made_of
from ..quant.ste import centered_codes, differentiable, range_ends
from ..quant.stochastic import new_seed

# Numbers that a sum reads, edges times columns, from which packing the codes first pays.
_LEAST = 1 << 20
# Whole numbers that float32 holds; what centred codes are multiples of, as parts of 1: a half, or, where every node has
# a power of two of its own, a half of the smallest of them.
_EXACT, _HALVES, _PARTS = 1 << 24, 2, 2 << MOST_HALVINGS
_in_neighbours, _out_neighbours = GraphCache(), GraphCache()


class _SumOfCodes(torch.autograd.Function):
    """Sums, their stand-in, and the packed codes that they are made of, empty where these have a NaN."""

    @staticmethod
    def forward(ctx, x, times, product, scale, zero_point, offset, after, qmax, margin, clip_gradient, graph, bits):
        params = QParams(scale, zero_point, offset)
        out, packed = torch.empty(graph.num_dst_nodes(), x.shape[1]), fused_sums.packed(product, params, qmax)
        if packed is None:
            out.fill_(torch.nan)
        else:
            fused_sums.sum_of_codes(_in_neighbours.get(graph, _by_target), packed, params, qmax, after, out)
        ctx.save_for_backward(x, times, scale, zero_point, offset, after)
        ctx.qmax, ctx.margin, ctx.clip_gradient = qmax, margin, clip_gradient
        ctx.index, ctx.bits = graph._graph, bits
        ctx.out_neighbours = _out_neighbours.get(graph, _by_source) if any(ctx.needs_input_grad) else None
        packed = torch.empty(0, dtype=torch.uint8) if packed is None else packed
        ctx.mark_non_differentiable(packed)
        ctx.set_materialize_grads(False)
        return out, torch.zeros(()).expand(out.shape), packed

    @staticmethod
    def backward(ctx, *grads):
        grad = functools.reduce(torch.add, [part for part in grads if part is not None])
        x, times, *params, after = ctx.saved_tensors
        if torch.is_grad_enabled():

            def summed(x, times, _, *params):
                centered = centered_codes(x * times, QParams(*params), ctx.qmax, ctx.margin, ctx.clip_gradient)
                total = dgl.backend.gspmm(ctx.index, "copy_lhs", "sum", centered, None)
                return finished(total * params[0], after)

            return *differentiable(ctx, summed, (x, times, None, *params), grad), *[None] * 6
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_scale = fused_sums.gradients_of_sum(
            ctx.out_neighbours, grad, after, x, times, QParams(*params), ctx.qmax, *range_ends(ctx.qmax, ctx.margin),
            grad_x, ctx.clip_gradient, new_seed() if ctx.bits == 8 else None,
        )  # fmt: skip
        return grad_x, None, None, grad_scale, *[None] * 8


def can_sum_packed(graph: dgl.DGLGraph, codes: Quantized) -> bool:
    """Whether :func:`sum_packed` serves ``codes`` on ``graph``, and pays."""
    if codes.source is None or codes.source[0].dim() != 2:
        return False
    x, params, qmax, *_ = codes.source
    edges = graph.num_edges()
    if edges * x.shape[1] < _LEAST or edges * qmax >= 2**31 or graph.device.type != "cpu" or len(x) >= 2**31:
        return False
    formats = graph.formats()  # those that a graph is restricted to have or can have
    if not {"csc", "csr"} <= {*formats["created"], *formats["not created"]}:
        return False
    layout = passes.layout_of(x, params.scale)
    if layout is None or layout.kind == "row" or not x.is_contiguous():
        return False
    return bool((2 * params.zero_point == (2 * params.zero_point).round()).all())  # what floats sum exactly


def sum_packed(
    graph: dgl.DGLGraph, codes: Quantized, after: torch.Tensor | None = None, gradients: int = 32
) -> torch.Tensor:
    """Sums of the values of the in-neighbours' codes, (N_dst, columns): those that DGL's sums make, to the bit.

    What is kept of them for gradients is the packed codes, see :mod:`~dgl_lowbit.quant.remade`.

    Parameters
    ----------
    graph : DGLGraph
    codes : Quantized
        (N_src, columns), for which :func:`can_sum_packed` is true.
    after : torch.Tensor, optional
        Constants, (N_dst,), that the sums are multiplied by.
    gradients : int
        Bits of what crosses edges in the backward pass, see :mod:`~dgl_lowbit.quant.stochastic`: 8, or 32 for float32.
    """
    x, params, qmax, *rest = codes.source
    after = torch.ones(()) if after is None else after
    out, stand_in, packed = _SumOfCodes.apply(*made_of(x), x.detach(), *params, after, qmax, *rest, graph, gradients)
    if not packed.numel():
        return out
    sources, params = _in_neighbours.get(graph, _by_target), QParams(*(part.detach() for part in params))

    def rows(kept, start, out):
        fused_sums.sum_of_codes(sources, kept[0], QParams(*kept[1:4]), qmax, kept[4], out, start)

    return Origin(stand_in, (packed, *params, after), rows).remember(out)


def exactly_summed(messages: torch.Tensor, weight: float) -> torch.Tensor:
    """``messages``, in float64 where float32 might not hold a sum of them exactly, as packed models compute it.

    Parameters
    ----------
    messages : torch.Tensor
        Centred codes.
    weight : float
        Of the most that one sum takes: how many messages, or the sum of the codes that they are multiplied with.
    """
    return messages if float32_holds_sums(messages, weight) else messages.double()


def float32_holds_sums(messages: torch.Tensor, weight: float) -> bool:
    """Whether float32 holds every sum of ``messages`` exactly; of what, :func:`exactly_summed` says."""
    most = weight * float(messages.detach().abs().max()) if messages.numel() else 0.0
    if most * _PARTS < _EXACT:
        return True
    twice = messages.detach() * _HALVES
    return most * _HALVES < _EXACT and torch.equal(twice, twice.round())


def _by_target(graph):
    indptr, indices, _ = graph.adj_tensors("csc")
    return passes.kernels().prepare(indptr.numpy(), indices.numpy(), graph.num_src_nodes())


def _by_source(graph):
    indptr, indices, _ = graph.adj_tensors("csr")
    return passes.kernels().prepare(indptr.numpy(), indices.numpy(), graph.num_dst_nodes())
