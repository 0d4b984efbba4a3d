"""What a forward may read: its arguments, by name, and what its modules keep."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import dgl
import torch
from torch import nn

from ...quant.sparse import SparseFeatures
from ..errors import FreezeError
from .recording import leaves, mapped


def bound_arguments(model: nn.Module, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The arguments of ``model.forward`` by name, those left out at their defaults."""
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise FreezeError(
            f"the example does not fit {type(model).__name__}.forward{signature}: {error}; call freeze(model, *args) "
            "with what the model is called with."
        ) from error
    bound.apply_defaults()
    values: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            values.update(value)
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            values.update({f"{name}_{place}": part for place, part in enumerate(value)})
        else:
            values[name] = value
    return values


def split(model: nn.Module, arguments: dict[str, Any]) -> tuple[tuple, dict]:
    """Arguments by name as those of a call: by place as far as ``model.forward`` has names for them."""
    args, kwargs = [], dict(arguments)
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            args += [kwargs.pop(given) for given in list(kwargs) if given.startswith(f"{name}_")]
        elif parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            args.append(kwargs.pop(name))
    return tuple(args), kwargs


def distinct(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments of a call, with copies where a graph or tensor stands among them a second time.

    Two arguments that happen to be the same are still two.
    """
    seen: set[int] = set()

    def once(leaf):
        if isinstance(leaf, (torch.Tensor, dgl.DGLGraph)):
            known_by = id(leaf._graph if isinstance(leaf, dgl.DGLGraph) else leaf)
            if known_by in seen:
                return leaf.clone()
            seen.add(known_by)
        return leaf

    return mapped(args, once), mapped(kwargs, once)


def named_arguments(model: nn.Module, args: tuple, kwargs: dict) -> list[tuple[tuple, Any]]:
    """Tensors and graphs among the arguments, each with its path: the name, then keys and places."""
    return list(_walk((), bound_arguments(model, args, kwargs)))


def graphs_of_modules(model: nn.Module) -> list[tuple[tuple, dgl.DGLGraph]]:
    """Graphs that modules keep as attributes, each with the path (module, attribute, …)."""
    found = []
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if not name.startswith("_"):
                for path, leaf in _walk((name,), value):
                    if isinstance(leaf, dgl.DGLGraph):
                        found.append(((module, *path), leaf))
    return found


def on_cpu(model: nn.Module, args: tuple, kwargs: dict) -> tuple[nn.Module, tuple, dict]:
    """A model and what it is called with, copies on the CPU where some of it is elsewhere.

    Packed models run on the CPU, and what a model is captured on there is compared with it.
    """
    held = [*model.parameters(), *model.buffers(), *(graph for _, graph in graphs_of_modules(model))]
    if all(leaf.device.type == "cpu" for leaf in [*held, *filter(_is_placed, leaves((args, kwargs)))]):
        return model, args, kwargs

    def moved(leaf):
        leaf = leaf.detach() if isinstance(leaf, torch.Tensor) else leaf
        return leaf.to("cpu") if _is_placed(leaf) else leaf

    kept = [leaf for module in model.modules() for leaf in leaves(vars(module)) if _is_placed(leaf)]
    memo = {id(leaf): moved(leaf) for leaf in kept if not isinstance(leaf, nn.Parameter)}  # the rest copies as it is
    return copy.deepcopy(model, memo).cpu(), mapped(args, moved), mapped(kwargs, moved)


def _is_placed(leaf):
    return isinstance(leaf, (torch.Tensor, dgl.DGLGraph, SparseFeatures))


def dense(tree: Any) -> Any:
    """``tree`` with features that are kept as their non-zeros made dense."""
    if isinstance(tree, (tuple, list)) and not hasattr(tree, "_fields"):
        return type(tree)(map(dense, tree))
    if isinstance(tree, dict):
        return {key: dense(part) for key, part in tree.items()}
    return tree.to_dense() if isinstance(tree, SparseFeatures) else tree


def _walk(path: tuple, value: Any) -> Iterator[tuple[tuple, Any]]:
    if isinstance(value, (torch.Tensor, dgl.DGLGraph)):
        yield path, value
    elif isinstance(value, (list, tuple)):
        for place, part in enumerate(value):
            yield from _walk((*path, place), part)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _walk((*path, key), part)
