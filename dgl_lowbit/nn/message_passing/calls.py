"""What is called over edges: one record for every kind, and which of its operands are coded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from dgl.base import ALL

from .site import Site

# How a site is named after the kind of its call, as users write it. Which of the last two runs depends on sizes.
SITE_NAMES = {
    "spmm": "update_all",
    "spmm_hetero": "update_all",
    "sddmm": "apply_edges",
    "sddmm_hetero": "apply_edges",
    "edge_softmax": "edge_softmax",
    "edge_softmax_hetero": "edge_softmax",
    "segment_reduce": "segment_reduce",
    "segment_mm": "segment_mm",
    "gather_mm": "segment_mm",
    "udf_reduce": "reduce",
}


@dataclass(frozen=True)
class Call:
    """A call of a function over edges (or segments), as a handler receives it.

    Attributes
    ----------
    kind : str
        Key of :data:`SITE_NAMES`, and the name of the handler's method.
    graph : HeteroGraphIndex, DGLGraph or None
        Of DGL: the index of the graph; the graph itself where a user's function reduces; None for segments.
    op, reduce : str or None
        DGL's names: ``copy_lhs``, ``mul``, ``dot`` …; ``sum``, ``max``, ``min`` (DGL divides sums for means itself).
    operands : tuple
        As DGL passes them: tensors, (rows, …), or None. Of a graph of several types each is a tuple of these, by
        node type or edge type.
    original : callable
        DGL's function, of the operands alone: ``call.original(*call.operands)`` is what would have run.
    details : mapping
        Other arguments by name: ``targets`` of ``sddmm``; ``norm_by``, ``eids``; ``offsets``; ``types``, the number of
        the matrix of each row of a product (and ``seglen``, or ``rows``: which rows); ``func``.
    module : torch.nn.Module or None
        Innermost low-bit module whose forward makes the call.
    name : str or None
        Name of the site in ``module``: kind and number of the call since its forward was entered.
    site : Site or None
        Quantisers of the call. None where nothing is coded: within a layer of ours, in float modules, before they
        were made.
    """

    kind: str
    operands: tuple
    original: Callable
    graph: Any = None
    op: str | None = None
    reduce: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    module: Any = None
    name: str | None = None
    site: Site | None = None

    @property
    def is_plain_sum(self) -> bool:
        """Whether rows are summed as they are."""
        return self.reduce == "sum" and self.op in (None, "copy_lhs", "copy_rhs")


def tensors_of(operand) -> list[torch.Tensor]:
    """The tensors of an operand: itself, or those by type."""
    parts = operand if isinstance(operand, (tuple, list)) else (operand,)
    return [part for part in parts if part is not None]


def coded(call: Call, attention: bool) -> dict[str, tuple[int, ...]]:
    """Which operands of ``call`` are coded: their numbers, by the component whose quantiser codes them together.

    ``attention`` says whether the edge operand of a weighted sum came from an edge softmax.
    """
    groups = _CODED.get(call.kind, lambda call, attention: {})(call, attention)
    chosen = [x for numbers in groups.values() for number in numbers for x in tensors_of(call.operands[number])]
    return groups if chosen and all(x.is_floating_point() for x in chosen) else {}


def _coded_in_sum(call, attention):
    if call.op == "copy_rhs":
        return {"messages": (1,)}
    if call.op in ("add", "sub"):
        return {"messages": (0, 1)}
    return {"messages": (0,), "attention": (1,)} if call.op == "mul" and attention else {"messages": (0,)}


def _coded_on_edges(call, attention):
    scales_edges = "e" in call.details["targets"] and call.op in ("mul", "div")
    if call.op in ("copy_lhs", "copy_rhs") or scales_edges:
        return {}  # what is sent along edges, which the sum that follows codes
    return {"scores": (0,) if call.op == "div" else (0, 1)}  # a divisor that rounds to 0 would divide by it


def _coded_in_product(call, attention):
    return {"inputs": (0,), "weights": (1,)}


_CODED: dict[str, Callable] = {
    "spmm": _coded_in_sum,
    "spmm_hetero": _coded_in_sum,
    "sddmm": _coded_on_edges,
    "sddmm_hetero": _coded_on_edges,
    "segment_mm": _coded_in_product,
    "gather_mm": _coded_in_product,
}


# -- from the arguments of DGL's functions ----------------------------------------------------------------
def read(kind: str, original: Callable, *args, **kwargs) -> dict[str, Any]:
    """The fields of a :class:`Call` that the arguments of ``original`` say."""
    return {"kind": kind, **_READERS[kind](original, *args, **kwargs)}


def _spmm(original, gidx, op, reduce_op, lhs_data, rhs_data):
    return {
        "graph": gidx, "op": op, "reduce": reduce_op, "operands": (lhs_data, rhs_data),
        "original": lambda lhs, rhs: original(gidx, op, reduce_op, lhs, rhs),
    }  # fmt: skip


def _spmm_hetero(original, g, op, reduce_op, lhs_len, *data):
    return {
        "graph": g, "op": op, "reduce": reduce_op, "operands": (data[:lhs_len], data[lhs_len:]),
        "original": lambda lhs, rhs: original(g, op, reduce_op, lhs_len, *lhs, *rhs),
    }  # fmt: skip


def _sddmm(original, gidx, op, lhs_data, rhs_data, lhs_target="u", rhs_target="v"):
    return {
        "graph": gidx, "op": op, "operands": (lhs_data, rhs_data), "details": {"targets": (lhs_target, rhs_target)},
        "original": lambda lhs, rhs: original(gidx, op, lhs, rhs, lhs_target, rhs_target),
    }  # fmt: skip


def _sddmm_hetero(original, g, op, lhs_len, lhs_target="u", rhs_target="v", *data):
    return {
        "graph": g, "op": op, "operands": (data[:lhs_len], data[lhs_len:]),
        "details": {"targets": (lhs_target, rhs_target)},
        "original": lambda lhs, rhs: original(g, op, lhs_len, lhs_target, rhs_target, *lhs, *rhs),
    }  # fmt: skip


def _edge_softmax(original, gidx, logits, eids=ALL, norm_by="dst"):
    return {
        "graph": gidx, "operands": (logits,), "details": {"eids": eids, "norm_by": norm_by},
        "original": lambda logits: original(gidx, logits, eids, norm_by),
    }  # fmt: skip


def _edge_softmax_hetero(original, gidx, eids, norm_by, *logits):
    return {
        "graph": gidx, "operands": (logits,), "details": {"eids": eids, "norm_by": norm_by},
        "original": lambda logits: original(gidx, eids, norm_by, *logits),
    }  # fmt: skip


def _segment_reduce(original, op, x, offsets):
    return {
        "reduce": op, "operands": (x,), "details": {"offsets": offsets},
        "original": lambda x: original(op, x, offsets),
    }  # fmt: skip


def _segment_mm(original, A, B, seglen_A):
    types = torch.arange(len(B), device=B.device).repeat_interleave(torch.as_tensor(seglen_A, device=B.device))
    return {
        "operands": (A, B), "details": {"seglen": seglen_A, "types": types},
        "original": lambda A, B: original(A, B, seglen_A),
    }  # fmt: skip


def _gather_mm(original, A, B, idx_A=None, idx_B=None):
    return {
        "operands": (A, B), "details": {"rows": idx_A, "types": idx_B},
        "original": lambda A, B: original(A, B, idx_A, idx_B),
    }  # fmt: skip


def _udf_reduce(original, graph, func, msgdata, **options):
    return {
        "graph": graph, "operands": (msgdata,), "details": {"func": func, **options},
        "original": lambda msgdata: original(graph, func, msgdata, **options),
    }  # fmt: skip


_READERS: dict[str, Callable] = {
    "spmm": _spmm,
    "spmm_hetero": _spmm_hetero,
    "sddmm": _sddmm,
    "sddmm_hetero": _sddmm_hetero,
    "edge_softmax": _edge_softmax,
    "edge_softmax_hetero": _edge_softmax_hetero,
    "segment_reduce": _segment_reduce,
    "segment_mm": _segment_mm,
    "gather_mm": _gather_mm,
    "udf_reduce": _udf_reduce,
}
