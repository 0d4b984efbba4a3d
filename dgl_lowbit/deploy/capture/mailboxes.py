"""Reduce functions over mailboxes, run edge by edge.

DGL gives a reduce function the messages of all nodes of one in-degree at a time, (nodes, in-degree, …). Here it is
given all messages at once, as rows of edges that only look like that: what it computes of each message is computed of
rows, and what it reduces over the second dimension is reduced over the edges of each node. These are functions that
are recorded as any others.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import dgl
import torch
from dgl.udf import NodeBatch

from numba_kernels.arrays.rows import ALONG_DIM, BY_NUMBER

from ...nn.message_passing import Call
from ...quant.evaluation import aside
from ..errors import FreezeError
from .lines import line
from .recording import leaves, mapped

_DEGREE = 3  # of every node, as far as a reduce function can see
_OPERATORS = {"radd": "add", "rsub": "sub", "rmul": "mul", "truediv": "div", "rtruediv": "div", "rpow": "pow"}
_AS_IT_IS = ("linear", "contiguous", "clone", "detach", "dropout")
_TOLERANCE = 1e-3


class Mailbox(torch.Tensor):
    """Messages, ``rows`` (E, …) by the edges of ``graph``, that look like (nodes, in-degree, …)."""

    @staticmethod
    def __new__(cls, rows: torch.Tensor, graph: Any):
        shape = graph.num_dst_nodes(), _DEGREE, *rows.shape[1:]
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=rows.dtype, device=rows.device)

    def __init__(self, rows, graph):
        self.rows, self.graph = rows, graph

    __torch_function__: Any = torch._C._disabled_torch_function_impl  # a capture asks first

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise _refusal(str(function))


class InDegree:
    """The in-degree of each node, where a reduce function asks how many messages it has; a number to it."""

    def __init__(self, numbers: torch.Tensor):
        self.numbers = numbers  # (N, 1, …), as what is reduced meets them

    def __array_ufunc__(self, function, method, *args, **kwargs):
        if method != "__call__" or kwargs or not hasattr(torch, function.__name__):
            return NotImplemented
        return self._of(getattr(torch, function.__name__), *args)

    def __float__(self):
        raise _refusal("an in-degree as a number of Python")

    __int__ = __index__ = __bool__ = __float__

    @staticmethod
    def _of(function, *args):
        result = function(*(arg.numbers if isinstance(arg, InDegree) else arg for arg in args))
        return result if any(isinstance(arg, torch.Tensor) for arg in args) else InDegree(result)


for _name in ("add", "sub", "mul", "truediv", "pow"):
    _function = getattr(operator, _name)
    setattr(InDegree, f"__{_name}__", lambda x, y, f=_function: InDegree._of(f, x, y))
    setattr(InDegree, f"__r{_name}__", lambda x, y, f=_function: InDegree._of(f, y, x))


class _Largest(NamedTuple):
    """What ``max`` and ``min`` over a dimension return."""

    values: torch.Tensor
    indices: None = None


def reduced(capture: Any, call: Call, run: Callable) -> dict:
    """What the reduce function of ``call`` gives, computed edge by edge; ``run()`` computes it DGL's way.

    Raises
    ------
    FreezeError
        When the function computes what is not of each message, or of all messages of a node, by itself.
    """
    graph, function, messages = call.graph, call.details["func"], call.operands[0]
    (ntype,) = graph.dsttypes
    boxes = {key: Mailbox(message, graph) for key, message in messages.items()}
    nodes = torch.arange(graph.num_dst_nodes(), device=graph.device)
    results = function(NodeBatch(graph, nodes, ntype, dict(graph.dstdata), msgs=boxes))
    results = {key: _without_isolated(value, graph) for key, value in results.items()}
    capture.depth += 1
    try:
        expected = run()
        if not all(_is_close(value, expected[key]) for key, value in results.items()):
            raise _refusal("numbers that depend on the in-degree, or on the order of messages,")
    finally:
        capture.depth -= 1
    return results


def boxes_in(tree: Any) -> list[Mailbox]:
    """The mailboxes among arguments."""
    return [leaf for leaf in leaves(tree) if isinstance(leaf, Mailbox)]


def by_edge(capture: Any, function: Callable, name: str, args: tuple, kwargs: dict) -> Any:
    """``function`` of arguments with mailboxes among them: a mailbox, or a tensor with a row for each node."""
    box, plain = boxes_in((args, kwargs))[0], name.strip("_")
    plain = _OPERATORS.get(plain, plain)
    takes_two = plain in ("max", "min") and len(args) > 1 and isinstance(args[1], torch.Tensor)
    if plain in BY_NUMBER or plain in _AS_IT_IS or takes_two:
        return _on_rows(function, box, args, kwargs)
    if plain in _RULES:
        return _RULES[plain](function, box, *args, **kwargs)
    dims = (1, *((2,) if plain == "transpose" else ())) if plain in _ALONG else None
    if dims is None:
        raise _refusal(name)
    given = list(args) + [kwargs.pop(key) for key in ("dim", "dim0", "dim1", "start_dim", "axis") if key in kwargs]
    if len(given) > 1 and given[1] in (1, (1,), [1], 1 - box.dim()) and plain in _OVER_MESSAGES:
        return _over_messages(capture, plain, box, *given[2:], **kwargs)
    for place in dims:
        if place >= len(given):
            raise _refusal(f"{name} of all dimensions")
        given[place] = _one_less(given[place], box.dim() + (plain == "unsqueeze"), name)
    return _on_rows(function, box, tuple(given), kwargs)


def _on_rows(function, box, args, kwargs):
    """``function`` of rows; what has a row for each node is taken to the edges."""
    args, kwargs = mapped((args, kwargs), lambda leaf: _rows(leaf, box) if isinstance(leaf, torch.Tensor) else leaf)
    return Mailbox(function(*args, **kwargs), box.graph)


def _rows(tensor, box):
    """``tensor`` as it meets rows of edges."""
    if isinstance(tensor, Mailbox):
        return tensor.rows
    if tensor.dim() <= box.dim() - 2:
        return tensor
    is_of_nodes = tensor.dim() == box.dim() and len(tensor) == len(box)
    if is_of_nodes and (tensor.shape[1] == 1 or tensor.stride(1) == 0):  # as it is, or expanded over messages
        return tensor[:, 0][box.graph.all_edges(form="uv", order="eid")[1]]
    if tensor.dim() == box.dim() and tensor.shape[:2] == (1, 1):
        return tensor[0]
    raise _refusal(f"a tensor of shape {tuple(tensor.shape)} beside messages,")


def _one_less(dims, ndim, name):
    """Dimensions of a mailbox as those of its rows."""
    several = isinstance(dims, (tuple, list))
    shifted = [dim if dim < 0 else dim - 1 for dim in (dims if several else (dims,))]
    if not all(dim >= 1 or 1 < -dim + 1 <= ndim - 1 for dim in shifted):
        raise _refusal(f"{name} over dimension {dims}")
    return shifted if several else shifted[0]


def _size(function, box, _, dim=None):
    return InDegree(_degrees(box)) if dim in (1, 1 - box.dim()) else function(box, dim)


def _reshape(function, box, _, *shape):
    shape = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    kept = len(shape) > 1 and (isinstance(shape[1], InDegree) or shape[1] == _DEGREE)
    if shape[0] not in (len(box), -1) or not kept:
        raise _refusal(f"a shape of {tuple(shape)}")
    return Mailbox(box.rows.reshape(len(box.rows), *shape[2:]), box.graph)


def _getitem(function, box, _, index):
    index = index if isinstance(index, tuple) else (index,)
    if index[:1] != (Ellipsis,) and (len(index) < 2 or any(part != slice(None) for part in index[:2])):
        raise _refusal("some of the messages")
    return Mailbox(box.rows[index if index[0] is Ellipsis else index[1:]], box.graph)


def _matmul(function, box, one, other):
    if one is not box or isinstance(other, Mailbox) or other.dim() > 2 or box.dim() < 3:
        raise _refusal("a matrix product of messages")
    return Mailbox(function(box.rows, other), box.graph)


def _expand_as(function, box, tensor, like):
    """What every message of a node meets, expanded over them: that is what it is anyway."""
    return Mailbox(_rows(tensor, box).expand_as(box.rows), box.graph)


_RULES = {
    "size": _size,
    "expand_as": _expand_as,
    "reshape": _reshape,
    "view": _reshape,
    "getitem": _getitem,
    "matmul": _matmul,
}


# -- over all messages of a node --------------------------------------------------------------------------
def _over_messages(capture, name, box, *more, keepdim=False, **options):
    if more and isinstance(more[0], bool):  # as std(dim, unbiased, keepdim), or sum(dim, keepdim)
        options = {"unbiased": more[0], **options} if name in ("std", "var") else options
        keepdim = more[-1] if name not in ("std", "var") or len(more) > 1 else keepdim
    if options.keys() - {"unbiased", "correction", "_stacklevel", "dtype"} or options.get("dtype") is not None:
        raise _refusal(f"{name} with {options}")
    if name == "softmax":
        return Mailbox(
            _call(capture, "edge_softmax", box, lambda rows: dgl.ops.edge_softmax(box.graph, rows)), box.graph
        )
    if name in ("std", "var"):
        correction = options.get("correction", int(options.get("unbiased", True)))
        result = _variance(capture, box, correction)
        result = result.sqrt() if name == "std" else result
    elif name == "mean":
        result = _sum(capture, box, "sum") / _degrees(box)
    else:
        result = _sum(capture, box, name[1:] if name[0] == "a" else name)
    if keepdim:
        result = result.unsqueeze(1)
    else:
        result.is_zero_without_messages = True
    return _Largest(result) if name in ("max", "min") else result


def _variance(capture, box, correction):
    mean = (_sum(capture, box, "sum") / _degrees(box)).unsqueeze(1)
    squares = Mailbox((box.rows - _rows(mean, box)) ** 2, box.graph)
    return _sum(capture, squares, "sum") / (_degrees(box) - correction)


def _degrees(box):
    degrees = box.graph.in_degrees().clamp(min=1).to(box.rows.dtype)
    return degrees.reshape(-1, *[1] * (box.rows.dim() - 1))


def _sum(capture, box, reduce):
    def run(rows):
        return dgl.ops.gspmm(box.graph, "copy_rhs", reduce, None, rows)

    return _call(capture, "spmm", box, run, op="copy_rhs", reduce=reduce)


def _call(capture, kind, box, run, **fields):
    """Record a function of the rows of a mailbox, one of the kinds of calls over edges."""
    operands = (box.rows,) if kind == "edge_softmax" else (None, box.rows)

    def computed():
        with aside():  # it is no call of the model's own, and has no quantisers
            return run(box.rows)

    graph = capture.index(box.graph._graph)
    owner = Call(kind, operands, run, **fields)
    return capture.call(kind, computed, (graph, *operands), {}, owner=owner)


_OVER_MESSAGES = ("sum", "mean", "max", "min", "amax", "amin", "softmax", "std", "var")
_ALONG = {*ALONG_DIM, "unsqueeze", "squeeze", "transpose", "flatten"}


# -- results ------------------------------------------------------------------------------------------------
def _without_isolated(value, graph):
    """Zeros where nodes have no messages: a reduce function is not called for them."""
    if isinstance(value, Mailbox) or len(value) != graph.num_dst_nodes():
        raise _refusal("a result without a row for each node,")
    if getattr(value, "is_zero_without_messages", False):
        return value
    received = (graph.in_degrees() > 0).reshape(-1, *[1] * (value.dim() - 1))
    return torch.where(received, value, torch.zeros_like(value))


def _is_close(value, expected):
    scale = expected.abs().max() if expected.numel() else 0
    return value.shape == expected.shape and bool(((value - expected).abs() <= _TOLERANCE * scale).all())


def _refusal(what):
    return FreezeError(
        f"{what.removeprefix('aten.')} in a reduce function{line()} has no packed form: it may compute each message by "
        "itself, and sum, mean, max, min, softmax, std and var over all of a node's; or write it with dgl.function."
    )
