"""Low-bit layers in the plan: their own statements, on the values that they are called with."""

from __future__ import annotations

import inspect

from ...nn import Linear
from ...nn.arguments import Role
from ..capture.recording import GraphRef, TensorRef, mapped
from ..values import Value
from .forms import Constant, Floats
from .rules import rule


@rule("layer")
def _layer(t, call, *args, **kwargs):
    name, layer = call.owner
    if isinstance(layer, Linear) and isinstance(args[0], TensorRef) and len(t.shape(args[0])) != 2:
        return _linear(t, call, args[0])
    bound = inspect.signature(layer.forward).bind(*args, **kwargs)
    for argument, value in bound.arguments.items():
        role = layer.arguments[argument]
        if role is Role.FEATURES and isinstance(value, tuple) and value in t.pairs:
            bound.arguments[argument] = t.pairs[value]
        elif role in _READ_AS:
            bound.arguments[argument] = mapped(value, lambda leaf, role=role: _READ_AS[role](t, leaf, call))
        elif isinstance(value, TensorRef):  # the layer says why it takes none but constants
            form = t.form(value)
            bound.arguments[argument] = form.tensor if isinstance(form, Constant) else form
    result = t.recorder.layer(name, layer, bound, _inside(t, call))
    return tuple(map(Floats, result)) if isinstance(result, tuple) else Floats(result)


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
    Role.EDGE_TYPES: lambda t, leaf, call: t.edge_weight(leaf, call) if isinstance(leaf, TensorRef) else leaf,
}
