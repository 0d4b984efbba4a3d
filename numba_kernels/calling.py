"""Calling a model with arrays by the names of its arguments, as command lines and servers do."""

from __future__ import annotations

import numpy as np

from .given import checked_nodes
from .graph import Graph, GraphError
from .model import PackedModel
from .prepared import Prepared

_ARRAYS = ("features", "array", "edge_weight", "edge_types")


class Call:
    """A model with a graph of one set of nodes, and arrays.

    Parameters
    ----------
    model : PackedModel
    graph : Graph
        Wherever the model takes a graph, or blocks.
    given : numpy.ndarray, or dict of str to numpy.ndarray
        The one array that the model needs, or several by the names of arguments; parts of an argument, by node type or
        (source, destination), are named ``argument/part``.

    Raises
    ------
    GraphError
        When they are not those that the model takes, or it takes graphs of several types.
    """

    def __init__(self, model: PackedModel, graph: Graph, given):
        self.model, self.graph, self.given = model, graph, given
        plan, blocks = model.plan, model.blocks_read()
        typed = {op["in"][0] for op in plan.ops if op["op"] == "relation"}
        self.arguments: dict = {}
        for entry in plan.inputs:
            name, kind, value = entry["name"], entry["kind"], entry["value"]
            if kind == "graph":
                if "key" in entry or value in typed:
                    raise GraphError(f"{name} is of several types; call such a model from Python, with a dict.")
                self.arguments[name] = [graph] * blocks[value] if value in blocks else graph
            elif kind not in _ARRAYS:
                self.arguments.setdefault(name, entry.get("constant"))
        self.arguments.update(_by_argument(plan, given))
        self._prepared: Prepared | None = None
        self._chooses = not blocks and "nodes" not in self.arguments  # rows of results, by the model itself

    def prepare(self):
        """Run the model once, and keep for later runs what it makes of the arrays alone; returns the result."""
        if self._chooses:
            self._prepared = self.model.prepare(**self.arguments)
        return self.run()

    def run(self, nodes: np.ndarray | None = None):
        """What the model returns, of some nodes if any are named.

        Parameters
        ----------
        nodes : (n,) integers, or a mask of N bools, optional
            In any order; one that is named twice comes twice. Default: all that it returns.

        Raises
        ------
        GraphError
            As a model's call, for numbers that are no nodes, and for nodes of a model that does not return a row each.
        """
        if nodes is not None:
            nodes = self.check_nodes(nodes)
        if self._prepared is not None:
            return self._prepared(nodes)
        if nodes is None:
            return self.model(**self.arguments)
        if self._chooses:
            return self.model(**self.arguments, nodes=nodes)
        result = self.model(**self.arguments)
        return _mapped(result, lambda rows: self._rows(rows)[nodes])

    def run_to(self, path, batch_size: int, folder=None, most_memory: int | None = None) -> None:
        """Write what the model returns to an ``.npy`` file, layer by layer; see :meth:`PackedModel.inference`.

        Raises
        ------
        GraphError, ArrayFileError, StatesError, OSError
            As that.
        """
        self.model.inference(
            **self.arguments, batch_size=batch_size, out=path, folder=folder, most_memory=most_memory, progress=True
        )

    def check_nodes(self, nodes: np.ndarray) -> np.ndarray:
        """Numbers of nodes, (n,) int64, of integers or a mask; GraphError for what names no nodes of the graph."""
        return checked_nodes(nodes, self.graph.num_dst)

    def _rows(self, rows):
        if len(rows) != self.graph.num_dst:
            raise GraphError(
                f"the model returns {len(rows)} row(s), not one for each of {self.graph.num_dst} nodes; ask for all."
            )
        return rows


def needed(plan) -> list[str]:
    """The names of the arrays that a model cannot do without."""
    names = [entry["name"] for entry in plan.inputs if entry["kind"] in _ARRAYS and not entry["optional"]]
    return list(dict.fromkeys(names))


def num_nodes(given) -> int | None:
    """The rows of the first array that has any: the nodes of a graph that does not say how many it has."""
    arrays = given.values() if isinstance(given, dict) else [given]
    return next((len(array) for array in arrays if array.ndim == 2), None)


def _by_argument(plan, given):
    """Arrays by argument; those with parts as tuples or dicts."""
    names = needed(plan)
    known = {entry["name"] for entry in plan.inputs if entry["kind"] in _ARRAYS}
    if not isinstance(given, dict):
        if len(names) != 1:
            raise GraphError(
                f"the model takes {', '.join(names) or 'no array'}, got one array; name them, in an .npz file."
            )
        given = {names[0]: given}
    values: dict = {}
    for place, array in given.items():
        name, is_part, part = place.partition("/")
        if name in values and not (is_part and isinstance(values[name], dict)):
            raise GraphError(f"{name} is given whole and in parts; give either {name}, or {name}/… for each part.")
        if is_part:
            values.setdefault(name, {})[part] = array
        else:
            values[name] = array
    missing, unknown = [name for name in names if name not in values], [name for name in values if name not in known]
    if missing or unknown:
        raise GraphError(
            f"the model takes {', '.join(sorted(known))}, of which {', '.join(names)} must be given; "
            f"got {', '.join(given) or 'nothing'}."
        )
    return {name: _parts(value) for name, value in values.items()}


def _parts(value):
    if isinstance(value, dict) and set(value) == set(map(str, range(len(value)))):
        return tuple(value[str(number)] for number in range(len(value)))
    return value


def _mapped(result, function):
    if isinstance(result, dict):
        return {name: function(rows) for name, rows in result.items()}
    return tuple(map(function, result)) if isinstance(result, tuple) else function(result)
