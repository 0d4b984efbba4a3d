"""Arguments that may be left out: edge weights that a forward hands to its layers, whether they are given or not."""

from __future__ import annotations

import inspect
from typing import Any

import dgl
import torch
from torch import nn

from ...nn.arguments import Role
from .arguments import bound_arguments
from .recording import GraphRef, Recording, TensorRef, leaves
from .run import record


def with_optional(model: nn.Module, args: tuple, kwargs: dict) -> tuple[dict[str, Any], set[str]]:
    """The arguments of a forward by name, edge weights of 1 added that it would take, and the names that are optional.

    An argument whose default is None is optional where ``model`` does the same with and without it, but for handing it
    to layers.
    """
    arguments, optional = bound_arguments(model, args, kwargs), set()
    parameters = inspect.signature(model.forward).parameters
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters.values()):
        return arguments, optional
    graphs = [value for value in arguments.values() if isinstance(value, dgl.DGLGraph)]
    plain: Recording | None = None
    for name, parameter in parameters.items():
        value = arguments.get(name)
        if parameter.default is not None or not (value is None or isinstance(value, torch.Tensor)):
            continue
        if value is None and len(graphs) != 1:
            continue
        weight = torch.ones(graphs[0].num_edges()) if value is None else value
        try:
            plain = record(model, (), {**arguments, name: None})[0]
            weighted = record(model, (), {**arguments, name: weight})[0]
        except Exception:  # it does not run with, or not without: then it is no choice
            continue
        if _same_course(plain, weighted, name):
            arguments[name] = weight
            optional.add(name)
    return arguments, optional


def _same_course(plain, weighted, name):
    """Whether two recordings differ in nothing but an argument that layers are given in one of them."""
    number = next((entry.ref for entry in weighted.inputs if entry.path == (name,)), None)
    if number is None or len(plain.calls) != len(weighted.calls):
        return False
    same: dict[Any, Any] = {}
    for one, other in zip(plain.calls, weighted.calls):
        if (one.name, one.line) != (other.name, other.line):
            return False
        ones, others = (
            list(leaves((one.args, one.kwargs, one.out))),
            list(leaves((other.args, other.kwargs, other.out))),
        )
        if len(ones) != len(others):
            return False
        for a, b in zip(ones, others):
            if b == number:
                if a is not None or not _takes_weight(other, number):
                    return False
            elif isinstance(a, (TensorRef, GraphRef)):
                if same.setdefault(a, b) != b:
                    return False
            elif not (a is b or (type(a) is type(b) and a == b)):
                return False
    return True


def _takes_weight(call, ref):
    """Whether a call is of a layer that takes a tensor for the weights of edges."""
    if call.name != "layer":
        return False
    _, layer = call.owner
    bound = inspect.signature(layer.forward).bind(*call.args, **call.kwargs)
    return all(layer.arguments[name] is Role.EDGE_WEIGHT for name, value in bound.arguments.items() if value == ref)
