"""Functions of torch and DGL that array functions have under another name, or with other arguments."""

from __future__ import annotations

from typing import Any

import torch

from ..capture.recording import Size, TensorRef
from .forms import Constant

# By the name of the function, without underscores.
NAMES = {
    **dict.fromkeys(("iadd", "radd"), "add"),
    **dict.fromkeys(("isub", "subtract"), "sub"),
    **dict.fromkeys(("imul", "rmul", "multiply"), "mul"),
    **dict.fromkeys(("truediv", "itruediv", "divide", "true_divide"), "div"),
    **dict.fromkeys(("floordiv", "ifloordiv"), "floor_divide"),
    **dict.fromkeys(("view", "reshape_as", "view_as"), "reshape"),
    **dict.fromkeys(("concat", "concatenate"), "cat"),
    **dict.fromkeys(("swapaxes", "swapdims"), "transpose"),
    **dict.fromkeys(("and", "iand"), "bitwise_and"),
    **dict.fromkeys(("or", "ior"), "bitwise_or"),
    **dict.fromkeys(("xor", "ixor"), "bitwise_xor"),
    "negative": "neg",
    "absolute": "abs",
    "ipow": "pow",
    "matmul": "matmul",
    "rmatmul": "rmatmul",
    "invert": "bitwise_not",
    "mod": "remainder",
    "greater": "gt",
    "less": "lt",
    "not_equal": "ne",
    "greater_equal": "ge",
    "less_equal": "le",
    "logit_sigmoid": "logsigmoid",
    "log_sigmoid": "logsigmoid",
    "fill": "fill",
    "moveaxis": "movedim",
    "arccos": "acos",
}
# Arguments that say how and where, not what.
IGNORED = frozenset(
    ("inplace", "_stacklevel", "out", "device", "layout", "requires_grad", "non_blocking", "copy", "memory_format")
)
DTYPES = {
    **dict.fromkeys((torch.float32, torch.float64, torch.float16, torch.bfloat16), "float32"),
    **dict.fromkeys((torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8), "int64"),
    torch.bool: "bool",
}
ARRAY_RULES: dict[str, Any] = {}


def array_rule(*names: str):
    """Decorator: how functions of these names are written with array functions; returns an argument, or several."""

    def register(function):
        ARRAY_RULES.update(dict.fromkeys(names, function))
        return function

    return register


@array_rule("reshape")
def _reshape(t, call, x, *shape):
    if len(shape) == 1 and isinstance(shape[0], TensorRef):  # as another tensor
        return t.array_function("reshape_as", t.argument(x, call), t.argument(shape[0], call))
    shape = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    return t.array_function("reshape", t.argument(x, call), [t.encoded(size, call) for size in shape])


@array_rule("rtruediv", "rdiv")
def _divided(t, call, x, y):
    return t.array_function("div", t.encoded(y, call), t.argument(x, call))


@array_rule("rsub")
def _subtracted(t, call, x, y, alpha=1):
    return t.array_function("sub", t.encoded(y, call), t.argument(x, call), alpha=alpha)


@array_rule("rpow")
def _power(t, call, x, y):
    return t.array_function("pow", t.encoded(y, call), t.argument(x, call))


@array_rule("rmatmul")
def _product(t, call, x, y):
    return t.array_function("matmul", t.argument(y, call), t.argument(x, call))


@array_rule("float", "double", "half", "long", "int", "bool", "to", "type", "type_as", "bfloat16", "as_tensor")
def _to(t, call, x, *args, **kwargs):
    return t.array_function("to", t.argument(x, call), DTYPES[t.recording.dtypes[call.out.number]])


@array_rule("T", "mT", "H", "adjoint")
def _transposed(t, call, x):
    return t.array_function("transpose", t.argument(x, call), -2, -1)


@array_rule("new", "new_zeros", "new_ones", "new_empty", "zeros", "ones", "empty")
def _made(t, call, *args, size=None, dtype=None, **ignored):
    sizes = list(args[1:] if call.name.startswith("new") else args) if size is None else [size]
    sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    return _filled_with(t, call, sizes, 1 if call.name.endswith("ones") else 0)


def _filled_with(t, call, sizes, value):
    """An array of a shape, of which the first size may be a number that a tensor holds."""
    kind, of_tensor = DTYPES[t.recording.dtypes[call.out.number]], bool(sizes) and isinstance(sizes[0], TensorRef)
    shape = [t.encoded(size, call) for size in ([1, *sizes[1:]] if of_tensor else sizes)]
    array = t.array_function("full", shape, t.encoded(value, call), dtype=kind)
    return t.array_function("repeat_interleave", array, t.argument(sizes[0], call), 0) if of_tensor else array


@array_rule("new_full")
def _full(t, call, x, size, fill_value, dtype=None, **ignored):
    return _filled_with(t, call, size, fill_value)


@array_rule("full")
def _full_of(t, call, size, fill_value, dtype=None, **ignored):
    return _filled_with(t, call, size if isinstance(size, (tuple, list)) else [size], fill_value)


@array_rule("tensor", "as_tensor", "scalar_tensor")
def _of_numbers(t, call, data, dtype=None, **ignored):
    """Numbers in lists, sizes and tensors of one number among them."""
    kind = DTYPES[t.recording.dtypes[call.out.number]]

    def written(part):
        if isinstance(part, TensorRef):
            return t.array_function("to", t.argument(part, call), kind)
        if isinstance(part, (tuple, list)):
            return t.array_function("stack", [written(each) for each in part])
        return t.array_function("full", [], t.encoded(part, call), dtype=kind)

    return written(data)


@array_rule("empty_like")
def _like(t, call, x, **ignored):
    return t.array_function("zeros_like", t.argument(x, call))


@array_rule("fill", "zero")
def _filled(t, call, x, value=0):
    return t.array_function("full_like", t.argument(x, call), t.encoded(value, call))


@array_rule("copy")
def _copied(t, call, x, source, non_blocking=False):
    return t.array_function("expand_as", t.argument(source, call), t.argument(x, call))


@array_rule("dropout", "feature_dropout", "alpha_dropout", "dropout1d")
def _dropout(t, call, x, p=0.5, training=True):
    return None if training and p else t.argument(x, call)


@array_rule("detach", "contiguous", "data", "cpu")
def _unchanged(t, call, x):
    return t.argument(x, call)


@array_rule("rrelu")
def _random_relu(t, call, x, lower=1 / 8, upper=1 / 3, training=False):
    return None if training else t.array_function("leaky_relu", t.argument(x, call), (lower + upper) / 2)


@array_rule("norm")
def _norm(t, call, x, p="fro", dim=None, keepdim=False, dtype=None):
    return t.array_function("norm", t.argument(x, call), 2 if p in ("fro", None) else p, t.encoded(dim, call), keepdim)


@array_rule("nonzero")
def _nonzero(t, call, x, as_tuple=False):
    places = t.array_function("nonzero", t.argument(x, call))
    if not as_tuple:
        return places
    return [t.array_function("getitem", places, [{"slice": [None, None, None]}, k]) for k in range(len(call.out))]


@array_rule("diag")
def _diagonal(t, call, x, diagonal=0):
    if len(t.shape(x)) != 2:
        return None
    return t.array_function("diagonal", t.argument(x, call), diagonal)


@array_rule("embedding")
def _embedding(t, call, indices, weight, *how, **ignored):
    return t.array_function("embedding", t.argument(indices, call), t.argument(weight, call))


@array_rule("edges")
def _edges(t, call, graph, form="uv", order="eid"):
    if order not in ("eid", None):
        t.fail(call, f"edges in the order {order!r}")
    parts = []
    if form in ("uv", "all"):
        parts += t.array_functions("edges", 2, t.graph(graph))
    if form in ("eid", "all"):
        parts.append(t.array_function("arange", {"size": t.size(Size("edges", graph), call)}))
    return parts


@array_rule("in_degrees", "out_degrees")
def _degrees(t, call, graph, nodes=None):
    degrees = t.array_function(call.name, t.graph(graph))
    return degrees if nodes is None else t.array_function("index_select", degrees, 0, t.encoded(nodes, call))


@array_rule("batch_num_nodes", "batch_num_edges")
def _batch(t, call, graph, kind=None):
    return t.array_function(call.name, t.graph(graph))


@array_rule("segment_reduce")
def _segment_reduce(t, call, graph, x, offsets):
    ends, starts = (
        t.array_function("getitem", t.argument(offsets, call), {"slice": bounds})
        for bounds in ([1, None, None], [None, -1, None])
    )
    return t.array_function(
        "segment_reduce", t.array_function("sub", ends, starts), t.argument(x, call), call.owner.reduce
    )


@array_rule("segment_mm")
def _segment_mm(t, call, graph, x, weight, seglen):
    return t.array_function("segment_mm", *_factors(t, call, x, weight), t.argument(seglen, call))


@array_rule("gather_mm")
def _gather_mm(t, call, graph, x, weight, rows=None, types=None):
    x, weight = _factors(t, call, x, weight)
    x = x if rows is None else t.array_function("index_select", x, 0, t.argument(rows, call))
    return t.array_function("gather_mm", x, weight, t.argument(types, call))


def _factors(t, call, x, weight):
    """Rows and matrices by type, rounded to the grids of the call's quantisers."""
    site, matrices = call.owner.site, t.form(weight)
    if site is None or "inputs" not in site or not isinstance(matrices, Constant):
        return t.argument(x, call), t.argument(weight, call)
    count, width, out = matrices.tensor.shape
    centered, scale = site["weights"].split(matrices.tensor.float().transpose(0, 1).reshape(width, count * out))
    rounded = (centered * scale).view(width, count, out).transpose(0, 1)
    return t.rounded(x, call, site["inputs"]), {"array": t.recorder.constants.array(rounded)}
