"""Message passing, edge softmax and readouts in the plan: sums of codes by kernels, everything else edge by edge.

The arguments of these calls are a graph, or None, and operands as DGL passes them; what else there is to say stands in
the :class:`~dgl_lowbit.nn.message_passing.Call` that owns them.
"""

from __future__ import annotations

import math

from dgl.base import ALL, is_all

from ...nn.message_passing import coded
from ..capture.recording import TensorRef
from .arrays import array_rule
from .forms import Batch, Floats, Scores
from .rules import rule

_ENDS = {"u": "take_source", "v": "take_destination", 0: "take_source", 2: "take_destination"}


@rule("spmm")
def _spmm(t, call, graph, left, right):
    of = call.owner
    fused = _sum_of_codes(t, call, graph, left, right) if of.site is not None and "messages" in of.site else None
    return None if fused is None else Floats(fused)


@array_rule("spmm")
def _sum_of_messages(t, call, graph, left, right):
    messages = _at_edges(t, call, graph, left, right, ("u", "e"))
    return t.array_function("reduce_edges", t.graph(graph), messages, call.owner.reduce)


def _sum_of_codes(t, call, graph, left, right):
    """Sums of codes over neighbours, where kernels know the messages; None elsewhere."""
    of = call.owner
    if of.op not in ("copy_lhs", "mul") or of.reduce not in ("sum", "max") or not t.has_columns(left):
        return None
    weights, weighted = t.form(right), of.op == "mul"
    attends = weighted and isinstance(weights, Scores) and weights.are_normalised and "attention" in of.site
    if weighted and (of.reduce != "sum" or not (attends or t.is_edge_weight(right))):
        return None
    edges = t.graphs[graph.number]
    with t.recorder.at(_name(of), of.site):
        x = t.floats(left, call)
        codes = t.recorder.quantize(of.site["messages"], x)
        if of.reduce == "max":
            sums = t.recorder.maximum(edges, codes)
        elif attends:
            attention = t.recorder.attention_of(weights, t.shape(right)[1], of.site["attention"])
            sums = t.recorder.attend(edges, codes, attention)
        else:
            sums = t.recorder.aggregate(edges, codes, t.edge_weight(right, call) if weighted else None)
    return t.recorder.with_heads(sums, x.heads)


def _name(of):
    return f"{of.module.site_name(of.name)} ({type(of.module).__name__})"


def _operands(t, call, *refs):
    """The operands of a call as arguments of array functions, rounded to the grids that code them."""
    of = call.owner
    groups = {} if of.site is None else coded(of, "attention" in of.site)
    component_of = {number: component for component, numbers in groups.items() for number in numbers}
    return [
        ref
        if not isinstance(ref, TensorRef)
        else t.rounded(ref, call, of.site[component_of[number]])
        if number in component_of and not of.site[component_of[number]].format.is_float
        else t.argument(ref, call)
        for number, ref in enumerate(refs)
    ]


def _at_edges(t, call, graph, left, right, ends):
    """What a function of two operands gives for every edge."""
    of, parts = call.owner, []
    for ref, operand, end, unread in zip(
        (left, right), _operands(t, call, left, right), ends, ("copy_rhs", "copy_lhs")
    ):
        if isinstance(ref, TensorRef) and of.op != unread:
            parts.append(t.array_function(_ENDS[end], t.graph(graph), operand) if end in _ENDS else operand)
    if len(parts) == 1:
        return parts[0]
    if of.op == "dot":
        return t.array_function("sum", t.array_function("mul", *parts), -1, True)
    return t.array_function(of.op, *parts)


@rule("sddmm")
def _sddmm(t, call, graph, left, right):
    of = call.owner
    ends = of.details["targets"]
    if of.op == "add" and ends in (("u", "v"), (0, 2)) and of.site is not None and "scores" in of.site:
        shape = t.shape(left)
        if t.shape(right)[1:] == shape[1:] and t.has_columns(left) and math.prod(shape[2:]) == 1:
            with t.recorder.at(_name(of), of.site):
                codes = [t.recorder.quantize(of.site["scores"], t.floats(ref, call)) for ref in (left, right)]
            return Scores(graph, *codes)
    return None


@array_rule("sddmm")
def _edge_values(t, call, graph, left, right):
    return _at_edges(t, call, graph, left, right, call.owner.details["targets"])


@rule("edge_softmax")
def _edge_softmax(t, call, graph, logits):
    form, details = t.form(logits), call.owner.details
    if isinstance(form, Scores) and details.get("norm_by", "dst") == "dst" and form.graph == graph:
        return Scores(graph, form.left, form.right, form.slope, are_normalised=True)
    return None


@array_rule("edge_softmax")
def _softmax_of_edges(t, call, graph, logits):
    details = call.owner.details
    if not is_all(details.get("eids", ALL)):
        t.fail(call, "an edge softmax over some of the edges")
    return t.array_function("edge_softmax", t.graph(graph), t.argument(logits, call), details.get("norm_by", "dst"))


# -- readouts -------------------------------------------------------------------------------------------
@rule("batch_num_nodes")
def _batch(t, call, graph, ntype=None):
    return Batch(graph) if ntype is None else None


@rule("cumsum")
def _offsets(t, call, x, dim=None, dtype=None):
    form = t.form(x)
    return Batch(form.graph, "offsets") if isinstance(form, Batch) and form.stage == "padded" else None


@rule("segment_reduce")
def _segment_reduce(t, call, graph, x, offsets):
    of = call.owner
    segments = t.form(offsets)
    if isinstance(segments, Batch) and segments.stage == "offsets" and t.has_columns(x) and len(t.shape(x)) == 2:
        return Floats(t.recorder.readout(t.graphs[segments.graph.number], t.floats(x, call), of.reduce))
    return None
