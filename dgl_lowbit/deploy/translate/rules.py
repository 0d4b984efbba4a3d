"""What kernels know of torch's and DGL's functions.

Each rule takes the translator, the call, and the call's arguments. It returns the form of the result, or None where
kernels do not know the function so called: then it is left to array functions.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ..capture.recording import Size, TensorRef
from .forms import Batch, Constant, Degrees, EdgeNumbers, Ends, Floats, Nowhere, Scores

RULES: dict[str, Any] = {}


def rule(*names: str):
    """Decorator: the rule of functions of these names."""

    def register(function):
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def is_number(x) -> bool:
    """Whether an argument is a finite number."""
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)


def columns_of(t, x, like):
    """A constant as a number, or a tensor with a number for each column of ``like``; None if it is neither."""
    form = t.form(x)
    if is_number(x):
        return torch.tensor(float(x))
    if not isinstance(form, Constant) or not form.tensor.is_floating_point():
        return None
    tensor, trailing = form.tensor, t.shape(like)[1:]
    if tensor.dim() > len(trailing) and tensor.shape[0] != 1:
        return None
    if tensor.numel() == 1:
        return tensor.reshape(())
    if any(isinstance(size, Size) for size in trailing):
        return None
    try:
        return tensor.reshape(tensor.shape[-len(trailing) :]).expand(trailing).reshape(-1)
    except RuntimeError:
        return None


def _alike(t, x, y):
    return isinstance(t.form(x), Floats) and isinstance(t.form(y), Floats) and t.shape(x) == t.shape(y)


# -- arithmetic -----------------------------------------------------------------------------------------
@rule("add")
def _add(t, call, x, y, alpha=1):
    if isinstance(t.form(x), Degrees) or isinstance(t.form(y), Degrees):
        return _more_degrees(t, x, y, alpha)
    if not is_number(alpha):
        return None
    if _alike(t, x, y):
        return Floats(t.recorder.combine((1.0, t.form(x).value), (alpha, t.form(y).value)))
    if not isinstance(t.form(x), Floats):
        x, y, first, second = y, x, alpha, 1.0
    else:
        first, second = 1.0, alpha
    return _affine(t, x, y, first, second)


def _affine(t, x, y, first, second):
    """first · x + second · y, of floats and a constant."""
    if not isinstance(t.form(x), Floats):
        return None
    columns = columns_of(t, y, x)
    if columns is None:
        return None
    value = t.form(x).value if first == 1 else t.recorder.combine((first, t.form(x).value))
    return Floats(t.recorder.bias(value, second * columns))


def _more_degrees(t, x, y, alpha):
    degrees, other = (t.form(x), y) if isinstance(t.form(x), Degrees) else (t.form(y), x)
    plain = degrees.power == 1 and not degrees.is_clamped
    return Degrees(degrees.graph, degrees.side, degrees.plus + other) if plain and other == 1 and alpha == 1 else None


@rule("sub")
def _subtract(t, call, x, y, alpha=1):
    if not is_number(alpha):
        return None
    if _alike(t, x, y):
        return Floats(t.recorder.combine((1.0, t.form(x).value), (-alpha, t.form(y).value)))
    return _affine(t, x, y, 1.0, -alpha) or _affine(t, y, x, -alpha, 1.0)


@rule("rsub")
def _subtract_from(t, call, x, y, alpha=1):
    return _subtract(t, call, y, x) if alpha == 1 else None


@rule("mul")
def _multiply(t, call, x, y):
    if not isinstance(t.form(x), Floats):
        x, y = y, x
    if not isinstance(t.form(x), Floats):
        return None
    if isinstance(t.form(y), Degrees):
        return _by_degrees(t, x, y, t.form(y))
    if _alike(t, x, y):
        return Floats(t.recorder.multiply(t.form(x).value, t.form(y).value))
    columns = columns_of(t, y, x)
    if columns is None or (columns.dim() == 0 and columns == 0):
        return None
    if columns.dim() == 0:
        return Floats(t.recorder.combine((columns.item(), t.form(x).value)))
    return Floats(t.recorder.affine(t.form(x).value, columns, None))


@rule("div")
def _divide(t, call, x, y, rounding_mode=None):
    if rounding_mode is not None:
        return None
    if isinstance(t.form(y), Batch):
        return t.mean_readout(x)
    if isinstance(t.form(y), Degrees):
        if is_number(x) and x == 1:
            return t.form(y).to_power(-1)
        return _by_degrees(t, x, y, t.form(y).to_power(-1)) if isinstance(t.form(x), Floats) else None
    if not isinstance(t.form(x), Floats):
        return None
    columns = columns_of(t, y, x)
    if columns is None or not torch.isfinite(1 / columns).all():
        return None
    return _multiply_columns(t, x, 1 / columns)


def _multiply_columns(t, x, columns):
    value = t.form(x).value
    if columns.dim() == 0:
        return Floats(t.recorder.combine((columns.item(), value)))
    return Floats(t.recorder.affine(value, columns, None))


def _by_degrees(t, x, degrees, form):
    """Rows times their degree to a power."""
    of_rows = len(t.shape(degrees)) == len(t.shape(x)) and all(size == 1 for size in t.shape(degrees)[1:])
    if not of_rows or form.power not in (-1, -0.5, 0.5) or not (form.is_clamped or form.plus):
        return None
    value = t.recorder.scale_by_degree(t.form(x).value, t.graphs[form.graph.number], form.side, form.power, form.plus)
    return Floats(value)


@rule("neg")
def _negative(t, call, x):
    return Floats(t.recorder.combine((-1.0, t.form(x).value))) if isinstance(t.form(x), Floats) else None


@rule("maximum", "max")
def _maximum(t, call, x, y):
    return Floats(t.recorder.larger(t.form(x).value, t.form(y).value)) if _alike(t, x, y) else None


# -- functions of numbers and of rows -------------------------------------------------------------------
@rule("relu")
def _relu(t, call, x, inplace=False):
    return Floats(t.recorder.relu(t.form(x).value)) if isinstance(t.form(x), Floats) else None


def _map(t, x, function, parameter=0.0):
    if not isinstance(t.form(x), Floats):
        return None
    return Floats(t.recorder.map(t.form(x).value, function, float(parameter)))


@rule("elu")
def _elu(t, call, x, alpha=1.0, inplace=False):
    return _map(t, x, "elu", alpha)


@rule("leaky_relu")
def _leaky_relu(t, call, x, negative_slope=0.01, inplace=False):
    form = t.form(x)
    if isinstance(form, Scores) and form.slope == 1 and not form.are_normalised:
        return Scores(form.graph, form.left, form.right, negative_slope)
    return _map(t, x, "leaky_relu", negative_slope)


@rule("prelu")
def _prelu(t, call, x, weight):
    form = t.form(weight)
    single = isinstance(form, Constant) and form.tensor.numel() == 1
    return _map(t, x, "leaky_relu", form.tensor.item()) if single else None


@rule("sigmoid")
def _sigmoid(t, call, x):
    return _map(t, x, "sigmoid")


@rule("tanh")
def _tanh(t, call, x):
    return _map(t, x, "tanh")


def _rows(t, x, dim):
    return isinstance(t.form(x), Floats) and len(t.shape(x)) == 2 and dim in (1, -1)


@rule("softmax")
def _softmax(t, call, x, dim=None, _stacklevel=3, dtype=None):
    return _map(t, x, "softmax") if dtype is None and _rows(t, x, dim) else None


@rule("log_softmax")
def _log_softmax(t, call, x, dim=None, _stacklevel=3, dtype=None):
    return _map(t, x, "log_softmax") if dtype is None and _rows(t, x, dim) else None


@rule("normalize")
def _normalize(t, call, x, p=2.0, dim=1, eps=1e-12, out=None):
    return _map(t, x, "normalize", eps) if p == 2 and _rows(t, x, dim) else None


@rule("dropout", "feature_dropout", "alpha_dropout", "dropout1d")
def _dropout(t, call, x, p=0.5, training=True, inplace=False):
    return t.form(x) if not training or p == 0 else None


@rule("detach", "contiguous", "clone", "data", "cpu")
def _unchanged(t, call, x, memory_format=None):
    return t.form(x)


@rule("batch_norm")
def _batch_norm(t, call, x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if training or running_mean is None:
        t.fail(call, "BatchNorm without running statistics, which depends on the batch in evaluation,")
    if not isinstance(t.form(x), Floats) or len(t.shape(x)) != 2:
        return None
    mean, variance = t.form(running_mean).tensor, t.form(running_var).tensor
    scale = (variance + eps).rsqrt() * (1 if weight is None else t.form(weight).tensor)
    shift = -mean * scale + (0 if bias is None else t.form(bias).tensor)
    return Floats(t.recorder.affine(t.form(x).value, scale, shift))


@rule("layer_norm")
def _layer_norm(t, call, x, normalized_shape, weight=None, bias=None, eps=1e-5):
    if not isinstance(t.form(x), Floats) or len(t.shape(x)) != 2 or len(normalized_shape) != 1:
        return None
    value = t.recorder.map(t.form(x).value, "standardise", eps)
    if weight is not None:
        value = t.recorder.affine(value, t.form(weight).tensor, None if bias is None else t.form(bias).tensor)
    return Floats(value)


def rows_at(t, call, x, ends):
    """Rows of nodes for each edge."""
    return t.result(t.array_function(f"take_{ends.which}", t.graph(ends.graph), t.argument(x, call)))


# -- shapes ---------------------------------------------------------------------------------------------
@rule("cat")
def _cat(t, call, tensors, dim=0):
    forms = [t.form(x) for x in tensors]
    if len(forms) == 2 and isinstance(forms[0], Constant) and isinstance(forms[1], Batch):
        padded = forms[0].tensor.tolist() == [0] and forms[1].stage == "sizes"
        return Batch(forms[1].graph, "padded") if padded else None
    fits = dim in (1, -1) and all(isinstance(form, Floats) and not form.value.heads for form in forms)
    return Floats(t.recorder.concatenate([form.value for form in forms])) if fits else None


@rule("mean")
def _mean(t, call, x, dim=None, keepdim=False, dtype=None):
    """Over heads."""
    form = t.form(x)
    over_heads = dim in (1, (1,), [1], -2) and isinstance(form, Floats) and form.value.heads
    return Floats(t.recorder.head_mean(form.value)) if over_heads and not keepdim and dtype is None else None


@rule("sum")
def _sum(t, call, x, dim=None, keepdim=False, dtype=None):
    """Over the columns of each head."""
    form = t.form(x)
    if not (isinstance(form, Floats) and form.value.heads and dim in (-1, 2, (-1,), [-1]) and dtype is None):
        return None
    _, heads, width = t.shape(x)
    value, vector = t.weighted(x) or (form.value, torch.ones(heads, width))
    sums = t.recorder.head_sums(value, vector.reshape(heads, width), heads)
    return Floats(t.recorder.with_heads(sums, heads if keepdim else 0))


@rule("flatten", "reshape", "squeeze", "unsqueeze", "unflatten", "getitem")
def _reshape(t, call, x, *args, **kwargs):
    """What changes the shape of rows alone, or chooses the first rows of a block."""
    if not isinstance(call.out, TensorRef) or not isinstance(x, TensorRef):
        return None
    if call.name == "__getitem__" and isinstance(t.form(args[0]), Ends):
        return rows_at(t, call, x, t.form(args[0]))
    form, shape, result = t.form(x), t.shape(x), t.shape(call.out)
    if isinstance(form, Batch):
        return form if form.stage == "sizes" and [size for size in result if size != 1] == list(shape) else None
    if isinstance(form, Degrees):
        trailing = [size for size in result if size != 1]
        return form if len(trailing) == 1 and result[0] == shape[0] else None
    if isinstance(form, EdgeNumbers):
        return form if result[0] == shape[0] and all(size == 1 for size in result[1:]) else None
    if not isinstance(form, Floats):
        return None
    if call.name == "__getitem__":
        return _first_rows(t, x, *args)
    if len(result) not in (2, 3) or result[0] != shape[0] or any(isinstance(size, Size) for size in result[1:]):
        return None
    return Floats(t.recorder.with_heads(form.value, result[1] if len(result) == 3 else 0))


def _first_rows(t, x, index):
    stop = index.stop if isinstance(index, slice) else None
    if not isinstance(stop, Size) or stop.of != "dst_nodes" or index.start not in (None, 0) or index.step is not None:
        return None
    plain = stop.times == 1 and stop.plus == 0
    return Floats(t.recorder.destination(t.form(x).value, t.graph_of(stop))) if plain else None


@rule("isinf", "isnan")
def _infinite(t, call, x):
    """Kernels make finite numbers: what replaces others leaves them."""
    return Nowhere() if isinstance(t.form(x), Floats) else None


@rule("masked_fill")
def _masked_fill(t, call, x, mask, value):
    return t.form(x) if isinstance(t.form(mask), Nowhere) else None
