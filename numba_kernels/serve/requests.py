"""What a request says, checked against limits before anything is done."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..array_files import graph_of
from ..calling import Call, needed
from ..graph import GraphError
from .limits import Limits, RequestError

NPY = "application/x-npy"
_KEYS = ("nodes", "graph", "features")
_DTYPES = {"features": np.float32, "edge_weight": np.float32, "edge_types": np.int64}


def parse(body: bytes, loaded: Call, limits: Limits) -> tuple[Call, np.ndarray | None]:
    """What a request wants run, and of which nodes, None for all.

    Parameters
    ----------
    body : bytes
        A JSON object, or nothing. Of ``nodes``, a list of numbers; with a ``graph`` of its own, a dict of lists as
        :func:`~numba_kernels.array_files.graph_of` takes, and ``features``, a list of rows, or several arrays by the
        names of the model's arguments. What is left out is that of ``loaded``.

    Raises
    ------
    RequestError
        400 for what is no JSON object, 413 for too many nodes, 422 for what does not fit the model.
    """
    content = _object(body)
    unknown = [key for key in content if key not in _KEYS]
    if unknown:
        raise RequestError(422, f"a request is of {', '.join(_KEYS)}, got {unknown[0]!r:.80}.")
    try:
        call = _call(content, loaded, limits)
        nodes = content.get("nodes")
        if nodes is None:
            _refuse_beyond(call.graph.num_dst, limits, "the graph")
            return call, None
        nodes = _array(nodes, "nodes", np.int64)
        _refuse_beyond(nodes.size, limits, "the request")
        nodes = call.check_nodes(nodes)
    except GraphError as error:
        raise RequestError(422, str(error)) from error
    return call, nodes


def _object(body) -> dict[str, Any]:
    try:
        content = json.loads(body, object_pairs_hook=_without_doubles) if body else {}
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body must be JSON: {error}.") from error
    if not isinstance(content, dict):
        raise RequestError(
            400, f'the body must be a JSON object, as {{"nodes": [0, 1]}}, got {type(content).__name__}.'
        )
    return content


def _without_doubles(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def _call(content, loaded, limits):
    graph, given = content.get("graph"), content.get("features")
    if graph is None and given is None:
        return loaded
    if graph is None:
        graph = loaded.graph
    elif isinstance(graph, dict):
        graph = graph_of({name: _array(values, name, np.int64) for name, values in graph.items()})
        _refuse_beyond(max(graph.num_src, graph.num_dst), limits, "the graph")
    else:
        raise RequestError(422, f"graph must be an object of indptr and indices, got {type(graph).__name__}.")
    return Call(loaded.model, graph, loaded.given if given is None else _features(given, loaded.model.plan))


def _features(given, plan):
    if not isinstance(given, dict):
        names = needed(plan)
        given = {names[0] if len(names) == 1 else "features": given}
    kinds = {entry["name"]: entry["kind"] for entry in plan.inputs}
    return {
        place: _array(values, place, _DTYPES.get(kinds.get(place.partition("/")[0]))) for place, values in given.items()
    }


def _array(values, name, dtype):
    """Numbers in lists, as an array; whole ones where ``dtype`` is of whole numbers."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):  # lists of several lengths
        array = np.asarray(None)
    if array.size and array.dtype.kind not in ("iu" if dtype == np.int64 else "biuf"):
        numbers = "whole numbers" if dtype == np.int64 else "numbers"
        raise RequestError(422, f"{name} must be a list of {numbers}, or of such lists, all of one length.")
    if dtype == np.int64 and array.dtype == np.uint64:  # beyond int64
        raise RequestError(422, f"{name} must be below 2^63, got {array.max()}.")
    with np.errstate(over="ignore"):  # that numbers are finite is checked when they are read
        return array if dtype is None else array.astype(dtype)


def _refuse_beyond(count, limits, what):
    if count > limits.max_nodes:
        raise RequestError(413, f"{what} has {count:,} nodes, more than {limits.max_nodes:,}; ask for fewer.")
