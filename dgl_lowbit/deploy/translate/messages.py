"""Message passing, edge softmax and readouts in the plan: sums of codes by kernels, everything else edge by edge.

The arguments of these calls are a graph, or None, and operands as DGL passes them; what else there is to say stands in
the :class:`~dgl_lowbit.nn.message_passing.Call` that owns them.
"""

from __future__ import annotations

import math

from dgl.base import ALL, is_all

from ...nn.message_passing import coded
from ..capture.recording import Size, TensorRef
from .arrays import array_rule
from .forms import Floats, Scores
from .rules import rule

_ENDS = {"u": "take_source", "v": "take_destination", 0: "take_source", 2: "take_destination"}


@rule("spmm")
def _spmm(t, call, graph, left, right):
    of = call.owner
    fused = _sum_of_codes(t, call, graph, left, right) if of.site is not None and "messages" in of.site else None
    return None if fused is None else Floats(fused)


@array_rule("spmm")
def _sum_of_messages(t, call, graph, left, right):
    messages = _at_edges(t, call, t.graph(graph), left, right, ("u", "e"))
    return t.array_function("reduce_edges", t.graph(graph), messages, call.owner.reduce)


def _sum_of_codes(t, call, graph, left, right):
    """Sums of codes over neighbours, where kernels know the messages; None elsewhere."""
    of = call.owner
    if of.op not in ("copy_lhs", "mul") or of.reduce not in ("sum", "max") or not t.has_columns(left):
        return None
    weights, weighted = t.form(right), of.op == "mul"
    attends = isinstance(weights, Scores) and weights.are_normalised and "attention" in of.site and of.reduce == "sum"
    if weighted and not (attends or t.is_edge_weight(right)):
        return None
    edges = t.graphs[graph.number]
    with t.recorder.at(_name(of), of.site):
        x = t.floats(left, call)
        codes = t.recorder.quantize(of.site["messages"], x)
        if weighted and attends:
            attention = t.recorder.attention_of(edges, weights, t.shape(right)[1], of.site["attention"])
            sums = t.recorder.attend(edges, codes, attention)
        else:
            weight = None
            if weighted:
                rounded = _operands(t, call, left, right)[1] if "attention" in of.site else None
                weight = t.edge_weight(right, call, rounded)
            sums = (t.recorder.largest if of.reduce == "max" else t.recorder.aggregate)(edges, codes, weight)
    return t.recorder.with_heads(sums, x.heads)


def _name(of):
    return f"{of.module.site_name(of.name)} ({type(of.module).__name__})"


def _operands(t, call, *refs):
    """The operands of a call as arguments of array functions, rounded to the grids that code them."""
    of = call.owner
    groups = {} if of.site is None else coded(of, "attention" in of.site)
    quantizers = {number: of.site[component] for component, numbers in groups.items() for number in numbers}

    def operand(number, ref):
        quantizer = quantizers.get(number)
        if not isinstance(ref, TensorRef) or quantizer is None or quantizer.format.is_float:
            return t.encoded(ref, call)
        return t.rounded(ref, call, quantizer)

    return [operand(number, ref) for number, ref in enumerate(refs)]


def _at_edges(t, call, edges, left, right, ends):
    """What a function of two operands gives for every edge of ``edges``, a graph as an argument."""
    of, parts = call.owner, []
    for ref, operand, end, unread in zip(
        (left, right), _operands(t, call, left, right), ends, ("copy_rhs", "copy_lhs")
    ):
        if isinstance(ref, TensorRef) and of.op != unread:
            parts.append(t.array_function(_ENDS[end], edges, operand) if end in _ENDS else operand)
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
    return _at_edges(t, call, t.graph(graph), left, right, call.owner.details["targets"])


@rule("edge_softmax")
def _edge_softmax(t, call, graph, logits):
    form, details = t.form(logits), call.owner.details
    plain = details.get("norm_by", "dst") == "dst" and is_all(details.get("eids", ALL))
    if plain and isinstance(form, Scores) and form.graph == graph:
        return Scores(graph, form.left, form.right, form.slope, are_normalised=True)
    return None


@array_rule("edge_softmax")
def _softmax_of_edges(t, call, graph, logits):
    details = call.owner.details
    if not is_all(details.get("eids", ALL)):
        t.fail(call, "an edge softmax over some of the edges")
    return t.array_function("edge_softmax", t.graph(graph), t.argument(logits, call), details.get("norm_by", "dst"))


# -- graphs of several edge types -----------------------------------------------------------------------
@array_rule("spmm_hetero")
def _sum_by_type(t, call, graph, left, right):
    """For each node type the sum, or the largest, of what its edge types bring."""
    of, whole, results = call.owner, t.recording.graphs[graph.number], {}
    for number, etype in enumerate(whole.canonical_etypes):
        source, _, target = (whole.get_ntype_id(part) if n != 1 else None for n, part in enumerate(etype))
        messages = _of_type(t, call, graph, etype, left[source], right[number], ("u", "e"))
        if messages is not None:
            edges = {"value": t.graph_of(Size("edges", graph, etype=etype)).number}
            reduced = t.array_function("reduce_edges", edges, messages, of.reduce)
            together = {"sum": "add", "max": "maximum", "min": "minimum"}[of.reduce]
            before = results.get(target)
            results[target] = reduced if before is None else t.array_function(together, before, reduced)
    return [results[number] for number, out in enumerate(call.out) if isinstance(out, TensorRef)]


@array_rule("sddmm_hetero")
def _edge_values_by_type(t, call, graph, left, right):
    """For each edge type its values."""
    whole, ends = t.recording.graphs[graph.number], call.owner.details["targets"]
    values = []
    for number, etype in enumerate(whole.canonical_etypes):
        types = {"u": whole.get_ntype_id(etype[0]), "e": number, "v": whole.get_ntype_id(etype[2])}
        one, other = (part[types[end]] if part else None for part, end in zip((left, right), ends))
        values.append(_of_type(t, call, graph, etype, one, other, ends))
    return [value for value, out in zip(values, call.out) if isinstance(out, TensorRef)]


def _of_type(t, call, graph, etype, left, right, ends):
    """The values of one type's edges; None where the type has no operands."""
    of = call.owner
    needed = [ref for ref, unread in ((left, "copy_rhs"), (right, "copy_lhs")) if of.op != unread]
    if not all(isinstance(ref, TensorRef) for ref in needed):
        return None
    edges = {"value": t.graph_of(Size("edges", graph, etype=etype)).number}
    return _at_edges(t, call, edges, left, right, ends)
