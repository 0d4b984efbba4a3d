"""The arguments of a model, by kind, as its run reads them; each is refused with a GraphError that names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .arrays import as_array
from .codebook import Codewords
from .errors import GraphError
from .given import given_array, refuse_unread, whole_number
from .graph import Graph
from .run.coded import slice_of, values_of
from .run.codes import Codes
from .run.features import as_floats, mapped_in
from .run.part import of_each


def graphs(value, name: str, folder=None):
    """A Graph; a list of them for blocks; a dict of them by (source type, edge type, destination type).

    Those that are made stand in files of ``folder``, where there is one.
    """
    if isinstance(value, dict):
        return {_edge_type(key, name): _graph(part, f"{name}[{key!r}]", folder) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        if not value:
            raise GraphError(f"{name} is an empty list; pass a graph, or a block for each layer.")
        if all(map(is_graph, value)):
            return [graphs(part, name, folder) for part in value]
    return _graph(value, name, folder)


def _graph(value, name, folder):
    try:
        return Graph.of(value, folder)
    except GraphError as error:
        raise GraphError(f"{name}: {error}") from error


def is_graph(value) -> bool:
    """Whether a part of a list is a graph of its own, not one half of a pair (indptr, indices)."""
    if isinstance(value, (list, tuple)):
        return len(value) == 2 and all(isinstance(part, (list, tuple)) or getattr(part, "ndim", 0) for part in value)
    return isinstance(value, (Graph, dict)) or hasattr(value, "tocoo")


def _edge_type(key, name):
    if not isinstance(key, (tuple, list)) or len(key) != 3 or not all(isinstance(part, str) for part in key):
        raise GraphError(
            f"the keys of {name} must be (source type, edge type, destination type), three strings, got {key!r}."
        )
    return tuple(key)


def features(value, name: str):
    """(nodes, width) float32, or Codes, or a pair of them."""
    return of_each(lambda part: part if isinstance(part, Codes) else as_floats(part), coded_features(value, name))


def coded_features(value, name: str):
    """(nodes, width) floats as they are, or Codes, or a pair of them."""
    if isinstance(value, tuple):
        return tuple(_matrix(part, name) for part in _pair(value, name))
    return _matrix(value, name)


def float_features(value, name: str):
    """The same, codes decoded."""
    return of_each(lambda part: values_of(part) if isinstance(part, Codes) else part, coded_features(value, name))


def _pair(value, name):
    if len(value) != 2:
        raise GraphError(f"{name} must be one array or a pair (source, destination), got {len(value)}.")
    return value


def _matrix(value, name):
    if isinstance(value, Codes):
        return value
    if isinstance(value, Codewords):
        return value.values()
    if not hasattr(value, "dtype") and not hasattr(value, "__array_interface__"):
        raise GraphError(
            f"{name} must be an array or a tuple of two (source, destination), got {type(value).__name__}."
        )
    array = given_array(value, name)
    if array.dtype.kind != "f":
        raise GraphError(f"{name} must be floating point, got {array.dtype}; convert it to float32.")
    if array.ndim != 2:
        raise GraphError(f"{name} must have shape (nodes, width), got {array.shape}; reshape it.")
    return array


def lazy_features(value, name: str):
    """What gives float rows for slices, or a pair of such."""
    if isinstance(value, tuple):
        return tuple(lazy_features(part, name) for part in _pair(value, name))
    if isinstance(value, (Codes, Codewords)):
        return _Decoded(value)
    refuse_unread(value, name)
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", ())
    if getattr(dtype, "kind", None) != "f" or len(shape) != 2 or not hasattr(value, "__getitem__"):
        raise GraphError(f"{name} must be a floating point array of shape (nodes, width), got {type(value).__name__}.")
    return _Rows(value, tuple(whole_number(size, f"a size of {name}", 0) for size in shape))


class _Rows:
    """What gives float rows for slices, ``given``, of a shape that is read once.

    ``written`` says which state of a file it is mapped from, if it is from one.
    """

    def __init__(self, given, shape):
        self.given, self.shape = given, shape
        self.nbytes = 4 * shape[0] * shape[1]

    @property
    def written(self):
        mapped = mapped_in(self.given)
        if mapped is None or mapped.filename is None:
            return None
        state = Path(mapped.filename).stat()
        return state.st_size, state.st_mtime_ns

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        return self.given[rows]


class _Decoded:
    """Codes as what gives float rows for slices."""

    def __init__(self, codes):
        self._codes, self.shape = codes, codes.shape
        self.nbytes = codes.packed.nbytes

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        return slice_of(self._codes, rows).values()


def any_array(value, name: str) -> np.ndarray:
    """An array of any dimensions, float32, int64 or bool."""
    try:
        return as_array(given_array(value, name))
    except TypeError as error:
        raise GraphError(f"{name} must be an array of numbers: {error}") from error


def _as_given(value, name):
    return value


def _unread(value, name):
    return None


def whole_floats(value, name: str):
    """(nodes, width) float32, or a pair of them, codes decoded."""
    return of_each(as_floats, float_features(value, name))


def _is_constant(value, constant):
    return type(value) is type(constant) and value == constant


def _part(value, key, name):
    """An entry of an argument that is a dict, or a tuple or list."""
    if isinstance(key, str):
        if not isinstance(value, dict) or key not in value:
            raise GraphError(f"{name} must be a dict with an entry {key!r}, got {_described(value)}.")
    elif not isinstance(value, (tuple, list)) or len(value) <= key:
        raise GraphError(f"{name} must be a tuple with an entry {key}, got {_described(value)}.")
    return value[key]


def _described(value):
    if isinstance(value, dict):
        return f"one with {', '.join(map(str, value))}"
    return repr(value) if isinstance(value, (bool, int, float, str)) else type(value).__name__


def bound(inputs: list, args: tuple, kwargs: dict):
    """The ``inputs`` of a plan, each with what a call gives for it; TypeError where it gives others."""
    names = list(dict.fromkeys(entry["name"] for entry in inputs if "frame" not in entry))
    by_keyword = [entry["name"] for entry in inputs if "frame" in entry]
    unknown = [name for name in kwargs if name not in (*names[len(args) :], *by_keyword)]
    if len(args) > len(names) or unknown:
        raise TypeError(f"the model takes ({', '.join(names)}), got {len(args)} positional and {list(kwargs)}.")
    given = {**dict(zip(names, args)), **kwargs}
    for entry in inputs:
        name, key = entry["name"], entry.get("key")
        if name not in given and not entry["optional"]:
            raise TypeError(f"the model takes ({', '.join(names)}), and {name} is missing.")
        value = given.get(name)
        if entry["kind"] == "constant" and name in given and not _is_constant(value, entry["constant"]):
            raise TypeError(
                f"{name} is {entry['constant']!r} in this model, got {_described(value)}; freeze it with another."
            )
        yield entry, value if key is None else _part(value, key, name)


# What a value of each kind of the plan's inputs is read with.
READ = {
    "array": any_array,
    "graph": graphs,
    "features": features,
    "edge_weight": _as_given,  # checked against its graph
    "edge_types": _as_given,  # likewise
    "constant": _unread,
    "unused": _unread,
}
