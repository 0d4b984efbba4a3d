"""What torch's and DGL's functions, methods and modules are in a packed model.

Each entry records one on a :class:`~dgl_lowbit.deploy.trace.Walk`: ``record(walk, node, *args, **kwargs)`` with the
arguments of the call, as ``torch.fx`` has them. It returns the recorded value, or None for arguments that have no
packed form.
"""

from __future__ import annotations

import operator

import dgl.nn
import torch
import torch.nn.functional as F
from torch import fx, nn

from ..nn.arguments import Role, roles
from .values import Value


class Rows:
    """The number of rows of a value, or of a graph's nodes on one side."""

    def __init__(self, graph=None):
        self.graph = graph


class Shape:
    """The shape of a value."""


def relation(graph, etype):
    """The edges of one type, as a graph of its own."""
    return graph[etype]


def destination(feat, graph):
    """Features of the destination nodes: on a block the first rows."""
    return feat[: graph.num_dst_nodes()] if graph.is_block else feat


# -- functions ------------------------------------------------------------------------------------------
def _relu(walk, node, x, inplace=False):
    return walk.recorder.relu(walk.floats(node, x))


def _mapped(function, name=None, default=0.0):
    """A function of numbers, whose parameter, if it has one, is called ``name``."""

    def record(walk, node, x, *args, inplace=False, **kwargs):
        parameter = args[0] if args else kwargs.pop(name, default)
        return None if kwargs or len(args) > 1 else walk.recorder.map(walk.floats(node, x), function, parameter)

    return record


def _softmax(function):
    def record(walk, node, x, dim=None, _stacklevel=3, dtype=None):
        return walk.recorder.map(walk.floats(node, x), function) if dim in (1, -1) and dtype is None else None

    return record


def _normalize(walk, node, x, p=2.0, dim=1, eps=1e-12, out=None):
    return walk.recorder.map(walk.floats(node, x), "normalize", eps) if p == 2 and dim in (1, -1) else None


def _dropout(walk, node, x, p=0.5, training=True, inplace=False):
    if training:
        walk.fail(node, "dropout that is active in evaluation (pass training=self.training)")
    return walk.value(x)


def _add(walk, node, x, y, *, alpha=1):
    return walk.sum(node, (1, x), (alpha, y))


def _subtract(walk, node, x, y, *, alpha=1):
    return walk.sum(node, (1, x), (-alpha, y))


def _multiply(walk, node, x, y):
    if isinstance(x, (int, float)):
        x, y = y, x
    if isinstance(x, fx.Node) and isinstance(y, fx.Node):
        return walk.recorder.multiply(walk.floats(node, x), walk.floats(node, y))
    return walk.sum(node, (y, x)) if isinstance(y, (int, float)) and y != 0 else None


def _divide(walk, node, x, y):
    return walk.sum(node, (1 / y, x)) if isinstance(y, (int, float)) and y != 0 else None


def _negative(walk, node, x):
    return walk.sum(node, (-1, x))


def _cat(walk, node, tensors, dim=0):
    if dim not in (1, -1) or not isinstance(tensors, (list, tuple)):
        return None
    return walk.recorder.concatenate([walk.floats(node, x) for x in tensors])


def _maximum(walk, node, x, y):
    return walk.recorder.larger(walk.floats(node, x), walk.floats(node, y))


def _mean(walk, node, x, dim=None, keepdim=False):
    """Over heads."""
    value = walk.floats(node, x)
    return walk.recorder.head_mean(value) if dim in (1, (1,), [1], -2) and value.heads else None


def _flatten(walk, node, x, start_dim=0, end_dim=-1):
    return walk.recorder.merge_heads(walk.floats(node, x)) if start_dim == 1 and end_dim in (-1, 2) else None


def _squeeze(walk, node, x, dim=None):
    value = walk.floats(node, x)
    return walk.recorder.merge_heads(value) if dim in (1, -2) and value.heads == 1 else None


def _view(walk, node, x, *shape):
    shape = shape[0] if len(shape) == 1 else shape
    if not isinstance(shape, (list, tuple)) or len(shape) != 2:
        return None
    rows, columns = (walk.value(size) for size in shape)
    whole = isinstance(rows, Rows) and columns == -1
    return walk.recorder.merge_heads(walk.floats(node, x)) if whole else None


def _get_attribute(walk, node, x, name):
    return Shape() if name == "shape" else None


def _size(walk, node, x, dim=None):
    return Shape() if dim is None else Rows() if dim == 0 else None


def _item(walk, node, x, index):
    value = walk.value(x)
    if isinstance(value, Shape):
        return Rows() if index == 0 else None
    if isinstance(value, dict):
        return value.get(index)
    if isinstance(index, int) and isinstance(value, Value) and value.kind == "graph":
        return walk.recorder.item(value, index)
    if (
        isinstance(index, slice)
        and isinstance(walk.value(index.stop), Rows)
        and walk.value(index.stop).graph is not None
    ):
        return walk.recorder.destination(walk.floats(node, x), walk.value(index.stop).graph)
    return None


def _destination_rows(walk, node, graph):
    return Rows(walk.value(graph))


def _relation(walk, node, graph, etype):
    return walk.recorder.relation(walk.value(graph), etype)


def _destination(walk, node, feat, graph):
    return walk.recorder.destination(walk.floats(node, feat), walk.value(graph))


FUNCTIONS = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_), _relu),
    **dict.fromkeys((F.dropout, torch.dropout), _dropout),
    **dict.fromkeys((operator.add, operator.iadd, torch.add), _add),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub), _subtract),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul), _multiply),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div), _divide),
    **dict.fromkeys((operator.neg, torch.neg), _negative),
    **dict.fromkeys((torch.cat, torch.concat), _cat),
    F.elu: _mapped("elu", "alpha", 1.0),
    F.leaky_relu: _mapped("leaky_relu", "negative_slope", 0.01),
    **dict.fromkeys((torch.sigmoid, F.sigmoid), _mapped("sigmoid")),
    **dict.fromkeys((torch.tanh, F.tanh), _mapped("tanh")),
    **dict.fromkeys((F.softmax, torch.softmax), _softmax("softmax")),
    **dict.fromkeys((F.log_softmax, torch.log_softmax), _softmax("log_softmax")),
    F.normalize: _normalize,
    torch.maximum: _maximum,
    torch.mean: _mean,
    torch.flatten: _flatten,
    torch.squeeze: _squeeze,
    torch.reshape: _view,
    getattr: _get_attribute,
    operator.getitem: _item,
    relation: _relation,
    destination: _destination,
}
METHODS = {
    **dict.fromkeys(("relu", "relu_"), _relu),
    **dict.fromkeys(("add", "add_"), _add),
    "sub": _subtract,
    "mul": _multiply,
    "div": _divide,
    "neg": _negative,
    "sigmoid": _mapped("sigmoid"),
    "tanh": _mapped("tanh"),
    "softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"),
    "mean": _mean,
    "flatten": _flatten,
    "squeeze": _squeeze,
    **dict.fromkeys(("view", "reshape"), _view),
    "size": _size,
    **dict.fromkeys(("num_dst_nodes", "number_of_dst_nodes"), _destination_rows),
}


# -- modules --------------------------------------------------------------------------------------------
def _batch_norm(walk, node, module, x):
    if module.running_mean is None:
        walk.fail(node, "BatchNorm without running statistics, which depends on the batch in evaluation,")
    scale = (module.running_var + module.eps).rsqrt()
    scale = scale if module.weight is None else scale * module.weight
    bias = -module.running_mean * scale
    return walk.recorder.affine(walk.matrix(node, x), scale, bias if module.bias is None else bias + module.bias)


def _layer_norm(walk, node, module, x):
    if len(module.normalized_shape) != 1:
        walk.fail(node, "LayerNorm over several dimensions")
    value = walk.recorder.map(walk.matrix(node, x), "standardise", module.eps)
    return value if module.weight is None else walk.recorder.affine(value, module.weight, module.bias)


def _prelu(walk, node, module, x):
    if module.num_parameters != 1:
        walk.fail(node, "PReLU with a slope for each channel")
    return walk.recorder.map(walk.floats(node, x), "leaky_relu", module.weight.item())


def _module_map(function, name=None):
    def record(walk, node, module, x):
        parameter = getattr(module, name) if name else 0.0
        return walk.recorder.map(walk.floats(node, x), function, parameter)

    return record


def _module_softmax(function):
    return lambda walk, node, module, x: _softmax(function)(walk, node, x, module.dim)


def _jumping_knowledge(walk, node, module, values):
    if module.mode == "lstm":
        walk.fail(node, "JumpingKnowledge with a recurrent network (lstm)")
    values = [walk.matrix(node, value) for value in values]
    return walk.recorder.concatenate(values) if module.mode == "cat" else walk.recorder.larger(*values)


def _pooling(reduce):
    def record(walk, node, module, graph, x):
        return walk.recorder.readout(walk.value(graph), walk.matrix(node, x), reduce)

    return record


def _unchanged(walk, node, module, x):
    return walk.value(x)


MODULES = {
    **dict.fromkeys(
        (nn.Dropout, nn.Dropout1d, nn.AlphaDropout, nn.Identity, dgl.nn.pytorch.utils.Identity), _unchanged
    ),
    nn.ReLU: lambda walk, node, module, x: _relu(walk, node, x),
    nn.ELU: _module_map("elu", "alpha"),
    nn.LeakyReLU: _module_map("leaky_relu", "negative_slope"),
    nn.PReLU: _prelu,
    nn.Sigmoid: _module_map("sigmoid"),
    nn.Tanh: _module_map("tanh"),
    nn.Softmax: _module_softmax("softmax"),
    nn.LogSoftmax: _module_softmax("log_softmax"),
    nn.BatchNorm1d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.Flatten: lambda walk, node, module, x: _flatten(walk, node, x, module.start_dim, module.end_dim),
    dgl.nn.JumpingKnowledge: _jumping_knowledge,
    dgl.nn.SumPooling: _pooling("sum"),
    dgl.nn.AvgPooling: _pooling("mean"),
    dgl.nn.MaxPooling: _pooling("max"),
}
# What the arguments of those are that take a graph, as low-bit layers say of theirs.
GRAPH_MODULES = dict.fromkeys(
    (dgl.nn.SumPooling, dgl.nn.AvgPooling, dgl.nn.MaxPooling), roles(graph=Role.GRAPH, feat=Role.FEATURES)
)
