"""Views: the source and the destination side of features."""

from __future__ import annotations

from ...spec import CodedRows
from .registry import Operation, operation


class _View(Operation):
    def check(self, plan, op, value):
        columns, kind = plan.expect(value, "features", "float", "codes"), plan.kinds[value]
        plan.define(op["out"], "float" if kind == "features" else kind, columns, plan.grids.get(value))


@operation("source")
class Source(_View):
    """The first of a pair."""

    def resolve(self, resolver, op):
        name = resolver.names[op["in"][0]]
        resolver.names[op["out"]] = name[0] if resolver.is_pair(name) else name

    def reference(self, plan, op, value):
        return value[0] if isinstance(value, tuple) else value


@operation("destination")
class Destination(_View):
    """The second of a pair; on a block, the first rows."""

    def check(self, plan, op, value, graph):
        plan.expect(graph, "graph")
        super().check(plan, op, value)

    def resolve(self, resolver, op):
        name, graph = resolver.names[op["in"][0]], resolver.graph(op["in"][1])
        if resolver.is_pair(name):
            name = name[1]
        elif graph.is_block and resolver.rows[name] != graph.num_dst:
            name = resolver.first(name, graph)
        resolver.names[op["out"]] = name

    def reference(self, plan, op, value, graph):
        if isinstance(value, tuple):
            return value[1]
        if not graph.is_block:
            return value
        return value.first(graph.num_dst) if isinstance(value, CodedRows) else value[: graph.num_dst]
