"""What follows from graphs alone: their relations, edges, degrees and batches; and what is read by them."""

from __future__ import annotations

from ..capture.recording import Size, leaves
from .forms import Batch, Constant, Degrees, Ends, Floats
from .rules import is_number, rows_at, rule


@rule("require")
def _require(t, call, x, number):
    """What forward has asked of a graph holds on others too."""
    code = call.line.code if call.line else "forward"
    t.array_function("require", t.argument(x, call), t.encoded(number, call), code)
    return ()


@rule("edges")
def _edges(t, call, graph, form="uv", order="eid"):
    if form == "eid" or order not in ("eid", None):
        return None
    ends = [Ends(graph, "source"), Ends(graph, "destination")]
    return (
        ends
        if form == "uv"
        else [*ends, t.result(t.array_function("arange", {"size": t.size(Size("edges", graph), call)}))]
    )


@rule("index_select")
def _at_ends(t, call, x, dim, index):
    ends = t.form(index)
    if isinstance(ends, Constant) and dim == 1 and isinstance(t.form(x), Floats):
        return _of_input(t, call, x, ends.tensor)
    return rows_at(t, call, x, ends) if isinstance(ends, Ends) and dim == 0 else None


def _of_input(t, call, x, index):
    """Some columns of an argument, ascending, of which nothing else is read: the plan reads no others."""
    total, is_read_once = t.shape(x)[1], sum(x in leaves((c.args, c.kwargs)) for c in t.recording.calls) == 1
    is_argument = any(entry.ref == x for entry in t.recording.inputs) and x not in leaves(t.recording.output)
    if not (is_argument and is_read_once and index.dim() == 1 and 0 < len(index) < total and (index.diff() > 0).all()):
        return None
    return Floats(t.recorder.columns_of_input(t.form(x).value, index.cpu().numpy(), total))


@rule("relation")
def _relation(t, call, graph, etype):
    return t.recorder.relation(t.graphs[graph.number], etype)


# -- graphs that are made -------------------------------------------------------------------------------
@rule("make_graph")
def _make_graph(t, call, source, destination, num_src, num_dst):
    return _made(t, call, *(t.argument(end, call) for end in (source, destination)), num_src, num_dst)


def _made(t, call, source, destination, num_src, num_dst):
    """The graph of two arrays of nodes; numbers of nodes are sizes, or arrays."""
    ends = [t.array_function("to", end, "int64") for end in (source, destination)]
    counts = [
        count if isinstance(count, dict) else t.array_function("full", [], t.encoded(count, call), dtype="int64")
        for count in (num_src, num_dst)
    ]
    return t.recorder.make_graph(*(array["value"] for array in (*ends, *counts)))


@rule("reverse_graph")
def _reverse_graph(t, call, graph):
    source, destination = t.array_functions("edges", 2, t.graph(graph))
    return _made(t, call, destination, source, Size("dst_nodes", graph), Size("src_nodes", graph))


@rule("reachable")
def _reachable(t, call, first, *others):
    """What a path of relations leads to, each pair of nodes once."""
    ends = t.array_functions("distinct_edges", 2, t.graph(first))
    for relation in others:
        ends = t.array_functions("follow_edges", 2, *ends, t.graph(relation))
    last = others[-1] if others else first
    return _made(t, call, *ends, Size("src_nodes", first), Size("dst_nodes", last))


@rule("edge_subgraph")
def _edge_subgraph(t, call, graph, edges, keeps_nodes):
    """The chosen edges, between all nodes or between those at their ends."""
    chosen = t.argument(edges, call)
    ends = [t.array_function("index_select", end, 0, chosen) for end in t.array_functions("edges", 2, t.graph(graph))]
    _, kept, _ = call.out
    counts = [Size("src_nodes", graph), Size("dst_nodes", graph)]
    if keeps_nodes:
        nodes = [t.array_function("arange", {"size": t.size(count, call)}) for count in counts[: len(kept)]]
    elif len(kept) == 1:
        *ends, node, count = t.array_functions("relabel", 4, *ends)
        nodes, counts = [node], [count, count]
    else:
        t.fail(call, "an edge subgraph without some of the nodes of two types")
    made = _made(t, call, *ends, *counts)
    return [made, *map(t.result, nodes), t.result(chosen)]


@rule("node_subgraph")
def _node_subgraph(t, call, graph, *nodes):
    """The chosen nodes, and the edges between them."""
    chosen = [t.argument(part, call) for part in nodes]
    *ends, edges = t.array_functions("edges_between", 3, t.graph(graph), chosen[0], chosen[-1])
    counts = [t.array_function("numel", part) for part in chosen]
    made = _made(t, call, *ends, counts[0], counts[-1])
    return [made, *map(t.result, chosen), t.result(edges)]


# -- degrees --------------------------------------------------------------------------------------------
@rule("in_degrees", "out_degrees")
def _degrees(t, call, graph):
    """Of all nodes."""
    return Degrees(graph, call.name[: -len("_degrees")])


@rule("float", "to", "type", "type_as", "long", "int")
def _to(t, call, x, *args, **kwargs):
    form = t.form(x)
    if isinstance(form, (Batch, Ends)) or (isinstance(form, Degrees) and (form.power == 1 or t.is_float(call.out))):
        return form
    same = t.recording.dtypes[x.number] == t.recording.dtypes[call.out.number]
    return form if same and form is not None else None


@rule("clamp", "clamp_min")
def _clamp(t, call, x, min=None, max=None):
    form = t.form(x)
    if isinstance(form, Batch):
        return form if min == 1 else None
    harmless = max is None or (isinstance(max, Size) and max.of == "edges")
    if isinstance(form, Degrees) and form.power == 1 and min == 1 and harmless:
        return Degrees(form.graph, form.side, form.plus, 1, is_clamped=True)
    return None


@rule("pow")
def _power(t, call, x, exponent):
    form = t.form(x)
    return form.to_power(exponent) if isinstance(form, Degrees) and is_number(exponent) and _safe(form) else None


@rule("rsqrt", "sqrt", "reciprocal")
def _root(t, call, x):
    form = t.form(x)
    power = {"rsqrt": -0.5, "sqrt": 0.5, "reciprocal": -1}[call.name.strip("_")]
    return form.to_power(power) if isinstance(form, Degrees) and _safe(form) else None


@rule("rtruediv", "rdiv")
def _inverse(t, call, x, y):
    form = t.form(x)
    return form.to_power(-1) if isinstance(form, Degrees) and y == 1 and _safe(form) else None


def _safe(degrees):
    """Whether degrees of 0 count as 1, as kernels have it."""
    return degrees.is_clamped or degrees.plus == 1


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
