"""Low-bit layers in the plan: their own statements, on the values that they are called with."""

from __future__ import annotations

import functools
import inspect
import itertools

from ...nn import Linear
from ...nn.arguments import Role
from ..capture.recording import GraphRef, Size, TensorRef, leaves, mapped
from ..values import Value
from .forms import Array, Constant, Floats
from .rules import rule


@rule("layer")
def _layer(t, call, *args, **kwargs):
    _, layer = call.owner
    bound = inspect.signature(layer.forward).bind(*args, **kwargs)
    first = next(iter(bound.arguments.values()))
    if isinstance(layer, Linear) and isinstance(first, TensorRef) and len(t.shape(first)) != 2:
        return _linear(t, call, first)
    features = [name for name in bound.arguments if layer.arguments[name] is Role.FEATURES]
    given = [leaf for name in features for leaf in leaves(bound.arguments[name]) if isinstance(leaf, TensorRef)]
    middle = {t.shape(leaf)[1:-1] for leaf in given}
    if not any(middle):
        return _as_forms(_written(t, call, bound, _READ_AS[Role.FEATURES]))
    (between, *more), inner = middle, [own.name for recording in call.inner for own in recording.calls]
    if more or any(isinstance(size, Size) for size in between) or "layer" in inner:
        t.fail(call, f"{type(layer).__name__} of features of more than two dimensions, or of several sizes of them,")
    places = itertools.product(*map(range, between))
    parts = [_written(t, call, bound, functools.partial(_slice, place)) for place in places]
    return _side_by_side(t, call, parts)


def _written(t, call, bound, read):
    """What a layer makes of its arguments; ``read`` makes values of features."""
    name, layer = call.owner
    given, read_as = bound.arguments.copy(), {**_READ_AS, Role.FEATURES: read}
    for argument, value in given.items():
        role = layer.arguments[argument]
        if role is Role.FEATURES and isinstance(value, tuple) and value in t.pairs:
            given[argument] = t.pairs[value]
        elif role in read_as:
            given[argument] = mapped(value, lambda leaf, role=role: read_as[role](t, leaf, call))
        elif isinstance(value, TensorRef):  # the layer says why it takes none but constants
            form = t.form(value)
            given[argument] = form.tensor if isinstance(form, Constant) else form
    return t.recorder.layer(name, layer, inspect.BoundArguments(bound.signature, given), _inside(t, call))


def _as_forms(result):
    """The forms of what a layer makes."""
    if isinstance(result, tuple):
        return tuple(map(_as_forms, result))
    return Array(result.number) if result.kind == "array" else Floats(result)


def _slice(place, t, leaf, call):
    """The features at one place of the dimensions between the first and the last."""
    if not isinstance(leaf, TensorRef):
        return leaf
    rows, *_, width = t.shape(leaf)
    array = t.array_function("getitem", t.argument(leaf, call), [{"slice": [None, None, None]}, *place])
    return t.recorder.matrix(array, t.size(rows, call), width, 0)


def _side_by_side(t, call, parts):
    """Results at every place of the dimensions between, together as arrays."""
    results = []
    for ref, values in zip(leaves(call.out), zip(*map(leaves, parts))):
        stacked = t.array_function("stack", [{"value": value.number} for value in values], 1)
        results.append(t.result(t.array_function("reshape", stacked, [-1, *t.shape(ref)[1:]])))
    return results[0] if isinstance(call.out, TensorRef) else results


def _linear(t, call, ref):
    """A linear layer on rows in several dimensions: on the rows of the last."""
    name, layer = call.owner
    *leading, width = t.shape(ref)
    flat = t.array_function("reshape", t.argument(ref, call), [-1, width])
    x = t.recorder.matrix(flat, t.product(leading, call), width, 0)
    bound = inspect.signature(layer.forward).bind(x)
    result = t.recorder.layer(name, layer, bound, _inside(t, call))
    shape = [t.encoded(size, call) for size in leading] if len(leading) > 1 else [-1]
    return t.result(t.array_function("reshape", {"value": result.number}, [*shape, t.shape(call.out)[-1]]))


def _inside(t, call):
    """What writes what a layer applies to tensors, in the order in which it does."""
    recordings = iter(call.inner)

    def write(x: Value) -> Value:
        recording = next(recordings)
        inner = type(t)(t.recorder, recording)
        inner.forms.update({entry.ref.number: Floats(x) for entry in recording.inputs})
        inner.run()
        return inner.floats(recording.output, call)

    return write


_READ_AS = {
    Role.GRAPH: lambda t, leaf, call: t.graphs[leaf.number] if isinstance(leaf, GraphRef) else leaf,
    Role.FEATURES: lambda t, leaf, call: t.floats(leaf, call) if isinstance(leaf, TensorRef) else leaf,
    Role.EDGE_WEIGHT: lambda t, leaf, call: t.edge_weight(leaf, call) if isinstance(leaf, TensorRef) else leaf,
    Role.EDGE_TYPES: lambda t, leaf, call: t.edge_types(leaf, call) if isinstance(leaf, TensorRef) else leaf,
}
