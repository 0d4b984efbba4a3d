"""What follows from graphs alone: their relations, edges, degrees and batches; and what is read by them."""

from __future__ import annotations

from ..capture.recording import Size
from .forms import Batch, Degrees, Ends, Floats
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
    return rows_at(t, call, x, ends) if isinstance(ends, Ends) and dim == 0 else None


@rule("relation")
def _relation(t, call, graph, etype):
    return t.recorder.relation(t.graphs[graph.number], etype)


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
