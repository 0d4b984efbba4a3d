"""Operations on graphs and edge weights, done before any stage."""

from __future__ import annotations

from ...graph import Graph, GraphError
from ..attributes import COUNT, STRING, integer, several
from .registry import Operation, operation


class _Before(Operation):
    is_before = True

    def prepare(self, op, graphs, edge_weights, types):
        graphs[op["out"]] = self.reference(None, op, *(graphs.get(v, types.get(v)) for v in op["in"]))


# A list is made of one graph where blocks are not given.
_MOST_BLOCKS = 1024


@operation("item", index=integer(0, _MOST_BLOCKS - 1))
class Item(_Before):
    """One of a list of graphs."""

    reads_sources = None

    def check(self, plan, op, graphs):
        plan.expect(graphs, "graph")
        plan.define(op["out"], "graph", None)

    def reference(self, plan, op, graphs):
        if not isinstance(graphs, list) or op["index"] >= len(graphs):
            raise GraphError(
                f"the model reads graph {op['index']} of a list of blocks; pass a list with at least that many."
            )
        return graphs[op["index"]]


@operation("relation", etype=several(STRING, 3))
class Relation(_Before):
    """The edges of one type."""

    reads_sources = None

    def check(self, plan, op, graph):
        plan.expect(graph, "graph")
        plan.define(op["out"], "graph", None)

    def reference(self, plan, op, graph):
        etype = tuple(op["etype"])
        if not isinstance(graph, dict) or etype not in graph:
            known = ", ".join(map(str, graph)) if isinstance(graph, dict) else "one type"
            raise GraphError(f"the model reads edges of type {etype}, the graph has {known}.")
        return graph[etype]


@operation("edges_by_type", count=COUNT)
class EdgesByType(_Before):
    """A graph with each source once for each edge type."""

    def check(self, plan, op, graph, types):
        plan.expect(graph, "graph")
        plan.expect(types, "edge_types")
        plan.define(op["out"], "graph", None)

    def reference(self, plan, op, graph, types):
        if not isinstance(graph, Graph):
            raise GraphError("the model reads edge types of one graph here; pass a single graph.")
        return graph.by_type(types, op["count"])


@operation("edge_norm")
class EdgeNorm(_Before):
    """Edge weights over the roots of their sums at both ends; none where none are given."""

    def check(self, plan, op, graph, edge_weight):
        plan.expect(graph, "graph")
        plan.expect(edge_weight, "edge_weight")
        plan.define(op["out"], "edge_weight", None)

    def prepare(self, op, graphs, edge_weights, types):
        graph, weight = op["in"]
        if weight in edge_weights:
            edge_weights[op["out"]] = graphs[graph].normed(edge_weights[weight])

    def reference(self, plan, op, graph, weights):
        return None if weights is None else graph.normed(weights)


@operation("check_in_degrees")
class CheckInDegrees(_Before):
    """Refuses graphs with nodes that receive nothing."""

    out = None

    def check(self, plan, op, graph):
        plan.expect(graph, "graph")

    def prepare(self, op, graphs, edge_weights, types):
        if getattr(graphs[op["in"][0]], "has_zero_in_degree", False):
            raise GraphError(
                "There are 0-in-degree nodes in the graph, whose output would be invalid. Add self-loops with "
                "`dgl.add_self_loop(g)`, or construct the layer with allow_zero_in_degree=True to let zeros through."
            )

    def reference(self, plan, op, graph):
        return None
