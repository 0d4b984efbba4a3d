"""A run for some nodes: which rows of its arguments it needs, and how many rows each of its stages."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..graph import Graph, GraphError
from ..plan.reach import EDGES, NODES, Reach
from ..subgraph import Limits, neighbourhood
from .coded import Coded, rows_of_codes
from .features import as_floats

# Up to what shares of a graph's nodes a part of it is cheaper than all of it: where features have to be encoded, and
# where their codes are at hand, so that it does not matter how many of them are read.
_ENCODED = Limits(nodes=0.85, last_nodes=0.85, edges=2.0)
_CODED = Limits(nodes=0.6, edges=2.0, edges_to_others=0.3)


class Part:
    """What outputs of some nodes follow from, for plans and arguments of which that can be told.

    Attributes
    ----------
    inputs : dict
        As those of the whole run: for its graph the part of it, of features the rows of its nodes and edges.
    codes : dict
        As those of the whole run, of these rows.
    places : (n,) int32
        Where rows of the nodes that were asked for stand in the outputs.
    """

    def __init__(self, reach: Reach, inputs: dict, coded: Coded, subgraph, places):
        self.graph, self.places = subgraph, places
        rows_of = {EDGES: lambda: subgraph.edges_there, NODES: lambda: subgraph.nodes}
        self.inputs = {**inputs, reach.graph: subgraph}
        for value, part in inputs.items():
            if value in reach.needs and part is not None:
                take = _shape_of if value in coded.unread else _taken
                self.inputs[value] = of_each(take, part, rows_of[reach.needs[value][0]]())
        self.codes = {}
        for name, codes in coded.codes.items():
            value = name[0] if isinstance(name, tuple) else name  # of a pair
            self.codes[name] = rows_of_codes(codes, rows_of[reach.needs[value][0]]())

    @classmethod
    def of(cls, reach: Reach, inputs: dict, nodes: np.ndarray, coded: Coded) -> Part | None:
        """The part for ``nodes``; None where the whole is cheaper, or has to run to see what does not fit."""
        graph = inputs.get(reach.graph)
        if reach.hops is None or not isinstance(graph, Graph) or graph.is_block or graph.num_src != graph.num_dst:
            return None
        rows = {NODES: graph.num_dst, EDGES: graph.num_edges}
        read = {value: needed for value, needed in reach.needs.items() if inputs.get(value) is not None}
        for value, (space, _) in read.items():
            for part in _parts(inputs[value]):
                if part.shape[0] != rows.get(space):
                    return None
        limits = _CODED if coded.unread.issuperset(read) else _ENCODED
        found = neighbourhood(graph, nodes, reach.hops, Limits(*(share * graph.num_dst for share in limits)))
        return None if found is None else cls(reach, inputs, coded, *found)

    def rows_to_run(self, run, cost) -> int:
        """How many rows of a stage are computed: those that the nodes follow from."""
        within = [(space, self.graph.within(hops)) for space, hops in cost.needs]
        needed = max(int(self.graph.indptr[count]) if space == EDGES else count for space, count in within)
        if not isinstance(cost.size, int):
            needed = run.graphs[cost.size[1]].hub_parts_within(needed)
        return min(run.rows(cost.size), needed)


def node_count(inputs: list[dict], given: dict) -> int:
    """How many nodes results have rows of, from arguments by value and the plan's ``inputs``.

    Raises
    ------
    GraphError
        Where they are not those of one set of nodes.
    """
    graphs = [given[entry["value"]] for entry in inputs if entry["kind"] == "graph"]
    if any(isinstance(graph, (list, dict)) or graph.is_block or graph.num_src != graph.num_dst for graph in graphs):
        raise GraphError(
            "nodes are chosen from graphs of one type of nodes and edges; blocks name theirs already, and of several "
            "types call the model on all and take the rows."
        )
    counts = {graph.num_dst for graph in graphs}
    if not graphs:
        features = [given[entry["value"]] for entry in inputs if entry["kind"] in ("features", "array")]
        counts = {part.shape[0] for value in features for part in _parts(value) if part.ndim}
    if len(counts) != 1:
        raise GraphError(f"nodes are chosen from one set of them, the arguments have {sorted(counts)} nodes.")
    return counts.pop()


def rows_at(output: np.ndarray, places, count: int) -> np.ndarray:
    """Rows of an output, which must have one for each of ``count`` nodes."""
    if output.ndim == 0 or len(output) != count:
        raise GraphError(
            f"nodes are chosen from results with a row for each of {count} nodes, the model returns shape "
            f"{output.shape}; call it without nodes."
        )
    return output[places]


def _parts(value):
    return value if isinstance(value, tuple) else () if value is None else (value,)


def of_each(function: Callable, value, *args):
    """A function of a value, or of both parts of a pair."""
    return tuple(function(part, *args) for part in value) if isinstance(value, tuple) else function(value, *args)


def _shape_of(array, rows):
    return np.zeros((len(rows), array.shape[1]), np.float32)  # nothing reads them: the system need not even make them


def _taken(array, rows):
    return as_floats(np.take(array, rows, axis=0))
