"""The arguments of a packed model: those of the captured forward that it reads."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from ...nn.arguments import Role
from ..capture.recording import GraphRef, Input, Size, TensorRef, leaves
from ..errors import FreezeError
from .forms import Array, EdgeNumbers, Floats
from .translator import Translator


def declare_inputs(translator: Translator, model: nn.Module, arguments: dict, optional: Collection = ()) -> None:
    """Give the plan its inputs, in the order of ``model.forward``; then what modules keep and graphs' frames hold.

    ``arguments`` are the example's by name; those in ``optional`` may be left out.
    """
    recording, read = translator.recording, _read(translator.recording)
    by_name: dict[Any, list[Input]] = {}
    kept, frames = [], []
    for entry in recording.inputs:
        if entry.ref not in read:
            continue
        if "frame" in entry.path:
            frames.append(entry)
        elif isinstance(entry.path[0], nn.Module):
            kept.append(entry)
        else:
            by_name.setdefault(entry.path[0], []).append(entry)
    for name, parameter in inspect.signature(model.forward).parameters.items():
        several = parameter.kind is inspect.Parameter.VAR_POSITIONAL
        for given in [one for one in arguments if one.startswith(f"{name}_")] if several else [name]:
            if given in by_name:
                _declare(translator, given, by_name.pop(given), given in optional)
            elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                _declare_unread(translator, given, arguments[given])
    for name, entries in by_name.items():
        _declare(translator, name, entries, False)
    for entry in kept:
        translator.graphs[entry.ref.number] = translator.recorder.input(kept_name(entry.path), "graph")
    for entry in frames:
        place = entry.path.index("frame")
        side, kind, key = entry.path[place + 1 :]
        is_kept = isinstance(entry.path[0], nn.Module)
        graph = [kept_name(entry.path[:place])] if is_kept else list(entry.path[:place])
        _declare_tensor(translator, frame_name(entry.path), entry, (), False)
        translator.recorder.inputs[-1]["frame"] = [graph, side, list(kind) if side == "edge" else kind, key]


def kept_name(path: Sequence) -> str:
    """What an input is called that a module keeps: the attribute."""
    return ".".join(map(str, path[1:]))


def frame_name(path: Sequence) -> str:
    """What a tensor in the frame of a graph is called."""
    place = path.index("frame")
    graph = ".".join(str(part) if not isinstance(part, nn.Module) else "" for part in path[:place]).lstrip(".")
    side, kind, key = path[place + 1 :]
    names = {"src": "srcdata", "dst": "dstdata", "edge": "edata"}
    kind = ":".join(kind) if isinstance(kind, tuple) else kind
    return f"{graph}.{names[side]}[{kind}][{key}]"


def _read(recording):
    """References that calls, sizes or the output read, and the graphs that tensors among them are given in."""
    read = set(leaves(recording.output))
    for call in recording.calls:
        for leaf in leaves((call.args, call.kwargs)):
            read.add(leaf.ref if isinstance(leaf, Size) else leaf if isinstance(leaf, (TensorRef, GraphRef)) else None)
    sizes = [
        size for entry in recording.inputs if entry.ref in read for size in recording.shapes.get(entry.ref.number, ())
    ]
    return read | {size.ref for size in sizes if isinstance(size, Size)}


def _declare_unread(translator, name, value):
    """An argument that is not read, or a number or flag that the plan has built in."""
    if value is None or isinstance(value, (bool, int, float, str)):
        translator.recorder.constant(name, value)
    else:
        translator.recorder.input(name, "unused", optional=True)


def _declare(translator, name, entries, optional):
    recorder = translator.recorder
    parts = [entry for entry in entries if isinstance(entry.ref, GraphRef) and len(entry.path) == 2]
    for entry in parts:
        if not isinstance(entry.path[1], int):
            translator.graphs[entry.ref.number] = recorder.input(name, "graph", optional, entry.path[1])
    lists = [entry for entry in parts if isinstance(entry.path[1], int)]
    if lists:
        graphs = recorder.input(name, "graph")
        for entry in lists:
            translator.graphs[entry.ref.number] = recorder.item(graphs, entry.path[1])
    pair = tuple(entry.ref for entry in entries if entry.path[1:] in ((0,), (1,)))
    if len(entries) == 2 and _are_a_pair(translator, pair):
        translator.pairs[pair] = recorder.input(name, "features", optional)
        return
    for entry in entries:
        if entry in parts:
            continue
        if len(entry.path) > 2:
            raise FreezeError(f"{name} holds values within values; hand them to forward as arguments of their own.")
        if isinstance(entry.ref, GraphRef):
            translator.graphs[entry.ref.number] = recorder.input(name, "graph")
        else:
            _declare_tensor(translator, name, entry, entry.path[1:], optional)


def _are_a_pair(translator, pair):
    """Whether two tensors are read by layers alone, as features of sources and of destinations."""
    if len(pair) != 2 or not all(isinstance(ref, TensorRef) and _kind(translator, ref) == "features" for ref in pair):
        return False
    for call in translator.recording.calls:
        arguments = (*call.args, *call.kwargs.values())
        if any(leaf in pair for leaf in leaves(arguments)) and (call.name != "layer" or pair not in arguments):
            return False
    return not any(leaf in pair for leaf in leaves(translator.recording.output))


def _declare_tensor(translator, name, entry, key, optional):
    kind = _kind(translator, entry.ref)
    value = translator.recorder.input(name, kind, optional, *key)
    forms = {"features": Floats, "edge_weight": EdgeNumbers, "edge_types": EdgeNumbers}
    translator.forms[entry.ref.number] = forms[kind](value) if kind in forms else Array(value.number)


def _kind(translator, ref):
    shape, roles = translator.shape(ref), _roles(translator.recording, ref)
    if Role.EDGE_TYPES in roles:
        return "edge_types"
    single = bool(shape) and all(size == 1 for size in shape[1:])
    of_edges = Role.EDGE_WEIGHT in roles or (single and isinstance(shape[0], Size) and shape[0].of == "edges")
    if single and of_edges and Role.FEATURES not in roles and translator.is_float(ref):
        return "edge_weight"
    return "features" if translator.is_float(ref) and len(shape) == 2 and not isinstance(shape[1], Size) else "array"


def _roles(recording, ref):
    """As what layers take a tensor."""
    roles = set()
    for call in recording.calls:
        if call.name == "layer":
            _, layer = call.owner
            bound = inspect.signature(layer.forward).bind(*call.args, **call.kwargs)
            roles |= {layer.arguments[name] for name, value in bound.arguments.items() if ref in leaves(value)}
    return roles
