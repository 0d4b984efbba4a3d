"""Sums and maxima of codes over in-neighbours."""

from __future__ import annotations

import numpy as np

from ...arrays.segments import reduce_segments
from ...fixed_point import Multiplier, are_halves
from ...graph import GraphError
from ...kernels import quads
from ...kernels.fields import Edges
from ...kernels.gather import Gather, GatherFixed, HubParts, gather, gather_fixed, hub_parts
from ...kernels.largest import GatherEdges, Largest, LargestWeighted, gather_edges, largest, largest_weighted
from ...kernels.silence import LISTED, GatherSent, gather_sent
from ...kernels.weighted import EDGES, GatherFloats, GatherProducts, gather_floats, gather_products
from ...layout import AHEAD
from ...spec import MOST_HALVINGS, CodedRows, FixedGrid, IntegerGrid, OwnGrid, ShiftGrid
from ..attributes import UNIT, choice
from .registry import Operation, operation


def edges_of(stage, graph) -> Edges:
    """Where the in-neighbours of a graph of the plan stand."""
    return Edges(stage.graph_array(graph, "indptr"), stage.sources(graph))


def refuse_overflow(graph, most: int) -> None:
    """Raise GraphError where the sum over a node's in-neighbours, and itself, of up to ``most`` could exceed int32."""
    if (graph.max_in_degree + 1) * most >= 2**31:
        raise GraphError(f"a node of in-degree {graph.max_in_degree} overflows an int32 sum of up to {most} an edge.")


def bytes_at_a_time(grid) -> int:
    """How many bytes of a packed row are summed at a time: 16, 32 or 64; 0 for few columns, one in a byte."""
    return 0 if grid.columns <= 16 and grid.bits < 8 else min(grid.width, 64)


@operation("aggregate", optional={"reduce": choice("sum", "max"), "unit": UNIT})
class Aggregate(Operation):
    """The sum, or the maximum, of codes of the in-neighbours, weighted or not; sums may take a row's own code along.

    With a unit plain sums are fixed-point numbers, see :mod:`numba_kernels.fixed_point`.
    """

    gathers = (0,)
    reads_sources = (1,)

    def check(self, plan, op, graph, codes, edge_weight, own):
        plan.expect(graph, "graph")
        columns, reduce = plan.expect(codes, "codes", "changes"), op.get("reduce", "sum")
        grid, is_plain = plan.grids[codes], edge_weight is None and reduce == "sum"
        plan.require(not isinstance(grid, OwnGrid), "messages with a scale per row cannot be summed as codes")
        if reduce == "max":
            plan.require(own is None and not isinstance(grid, ShiftGrid), "no maximum of these")
        if plan.kinds[codes] == "changes":
            plan.require(is_plain and own is None and "unit" not in op, "changes are only summed as they are")
        if "unit" in op:
            is_plain &= type(grid) in (FixedGrid, IntegerGrid)
            plan.require(is_plain and are_halves(grid.zero_point), "no fixed-point sum of these")
            _multiplier(grid, op["unit"])
        if edge_weight is not None:
            plan.expect(edge_weight, "edge_weight")
        if own is not None:
            plan.expect_columns(own, columns, "codes")
            plan.require(plan.grids[own] == grid, "codes of different grids are summed")
        plan.define(op["out"], "float", columns)

    def resolve(self, resolver, op):
        graph, codes, own = resolver.graph(op["in"][0]), resolver.one(op["in"][1]), resolver.one(op["in"][3])
        resolver.expect_nodes(graph.num_src, "source nodes", codes)
        if own is not None:
            resolver.expect_nodes(graph.num_dst, "destination nodes", own)
        resolver.names[op["out"]] = op["out"]
        reads = [codes, own, *resolver.made_weight(op, 2)]
        resolver.emit(op, reads, [op["out"]], resolver.columns[codes], graph.num_dst)

    def emit(self, stage, op):
        value, own, *_ = op.reads
        graph, _, weight, _ = op.spec["in"]
        kind = stage.edge_weight_kinds.get(weight)
        codes = stage.places.gathered(value, graph)
        own = None if own is None else stage.places.codes(own)
        if op.spec.get("reduce") == "max":
            if kind is None:
                stage.add(largest, (codes.grid.bits,), Largest(*_sums(stage, op, codes)))
            else:
                fields = *_sums(stage, op, codes), stage.edge_weight(graph, weight, np.float32)
                stage.add(largest_weighted, (codes.grid.bits,), LargestWeighted(*fields))
        elif kind is not None:
            if codes.is_shifted:
                raise GraphError("messages with a power of two each are summed without edge weights.")
            self._emit_weighted(stage, op, codes, own, graph, weight, kind)
        elif codes.is_shifted:
            stage.check(graph, lambda graph, most=codes.grid.top << MOST_HALVINGS: refuse_overflow(graph, most))
            own_fields = (0, 0) if own is None else (own.packed, own.powers)
            self._emit_products(stage, op, codes, True, codes.powers, *own_fields)
        else:
            most = 2 * codes.grid.top + 1 if "unit" in op.spec else codes.grid.top
            stage.check(graph, lambda graph: refuse_overflow(graph, most))
            self._emit_plain(stage, op, codes, own, graph)
        stage.costs_edges(graph, codes.grid)

    def _emit_weighted(self, stage, op, codes, own, graph, weight, kind):
        grid, own = codes.grid, 0 if own is None else own.packed
        at = stage.edge_weight(graph, weight)
        if kind == "int8":
            stage.check_weighted(graph, weight, grid.top, refuse_overflow)
            self._emit_products(stage, op, codes, False, at, own, 0)
        else:
            stage.check(graph, lambda graph, most=grid.top: refuse_overflow(graph, most))
            fields = *_sums(stage, op, codes), grid.exact_sum, at, own
            stage.add(gather_floats, (grid.bits,), GatherFloats(*fields))

    def _emit_products(self, stage, op, codes, by_node, weights, own, own_weights):
        grid = codes.grid
        words = stage.area("words", EDGES + 4 * (grid.width * 8 // grid.bits))
        variant = grid.bits, quads.bytes_at_a_time(grid.bits, grid.width), by_node, own != 0
        stage.add(gather_products, variant, GatherProducts(*_sums(stage, op, codes), weights, own, own_weights, words))

    def _emit_plain(self, stage, op, codes, own, graph):
        grid, lanes, hubs = codes.grid, bytes_at_a_time(codes.grid), (0, 0, 0, 0)
        if codes.sent != 0:
            lists = stage.area("listed", 4 * (LISTED + AHEAD + 16)), stage.area_of_rows("ends", 4)
            fields = GatherSent(*_sums(stage, op, codes), grid.exact_sum, codes.sent, *lists)
            stage.add(gather_sent, (grid.bits, lanes), fields)
            return
        if stage.has_hubs(graph):
            array = stage.graph_array
            partials = stage.hub_partials(graph, grid)
            parts = array(graph, "starts"), array(graph, "stops"), array(graph, "indices")
            packed = stage.places.codes(op.reads[0]).packed
            fields = HubParts(grid.columns, packed, grid.width, *parts, partials)
            stage.add_before(graph, hub_parts, (grid.bits, lanes), fields)
            hubs = array(graph, "nodes"), stage.graph_number(graph, "num_hubs"), array(graph, "first_parts"), partials
        sums, own, unit = _sums(stage, op, codes), 0 if own is None else own.packed, op.spec.get("unit")
        variant = grid.bits, lanes, own != 0, stage.has_hubs(graph)
        if unit is None:
            stage.add(gather, variant, Gather(*sums, grid.exact_sum, own, *hubs))
            return
        multiplied = stage.multiplied(op.writes[0], lambda: _multiplier(grid.spec, unit), op.columns)
        stage.add(gather_fixed, variant, GatherFixed(*sums, stage.at(grid.twice_zero), own, *hubs, multiplied))

    def reference(self, plan, op, graph, codes, edge_weight, own):
        weights = None if edge_weight is None else graph.edge_weights(edge_weight)
        if op.get("reduce") == "max":
            return _largest_reference(graph, codes, weights)
        own_weights = 1
        if codes.unit is not None:
            weights = codes.powers()[graph.indices]
            own_weights = 1 if own is None else own.powers()
            codes = CodedRows(codes.codes, codes.unit, codes.zero)
        if codes.sent is not None:
            weights = codes.sent[graph.indices].astype(np.int8)
        if weights is None or weights.dtype == np.int8:
            total, count = sum_codes(graph, codes.codes, weights)
            if own is not None:
                total, count = total + (own.codes.T.astype(np.int64) * own_weights).T, count + own_weights
            centered = total - codes.zero.astype(np.float64) * count[:, None]
            if "unit" in op:
                multiplier = _multiplier(plan.grids[op["in"][1]], op["unit"])
                return multiplier.times((2 * centered).astype(np.int64), count[:, None])
            centered = centered.astype(np.float32)
        else:
            target = np.repeat(np.arange(graph.num_dst), graph.in_degrees)
            centered = np.zeros((graph.num_dst, codes.codes.shape[1]), np.float32)
            messages = codes.codes.astype(np.float32) - codes.zero
            np.add.at(centered, target, weights[:, None] * messages[graph.indices])
            if own is not None:
                centered += own.codes.astype(np.float32) - own.zero
        return centered * codes.scale


def _multiplier(grid, unit):
    return Multiplier.of_sums(grid.scale, grid.most_steps, unit)


def _sums(stage, op, codes):
    """The first fields of all sums: where to, columns, totals, messages, edges."""
    slot = stage.at_slot(stage.hold(op.writes[0], stage.new_slot()))
    totals = stage.area("totals", 4 * (codes.grid.width * 8 // codes.grid.bits + AHEAD + 1))
    operand = codes.operand()
    if codes.is_shifted:  # what weighted sums are multiples of
        operand = operand._replace(per_row=0, scale=stage.at(codes.grid.unit), zero=stage.at(codes.grid.zero))
    return slot, op.columns, totals, operand, edges_of(stage, op.spec["in"][0])


def sum_codes(graph, codes: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sums over in-neighbours of the rows of ``codes``, (N_dst, columns), and of 1, (N_dst,), int64.

    With ``weights``, (E,) int8, each edge counts as often as its weight says.
    """
    weights = np.ones(graph.num_edges, np.int64) if weights is None else weights.astype(np.int64)
    total, count = np.zeros((graph.num_dst, codes.shape[1]), np.int64), np.zeros(graph.num_dst, np.int64)
    target = np.repeat(np.arange(graph.num_dst), graph.in_degrees)
    np.add.at(total, target, weights[:, None] * codes[graph.indices])
    np.add.at(count, target, weights)
    return total, count


def _largest_reference(graph, codes, weights):
    values = (codes.codes.astype(np.float32) - codes.zero) * codes.scale
    messages = values[graph.indices] if weights is None else values[graph.indices] * weights[:, None].astype(np.float32)
    return reduce_segments(messages, graph.indptr, "max")


@operation("aggregate_edges")
class AggregateEdges(Operation):
    """Sums over in-neighbours of max(node + edge, 0), codes of one grid whose zero points are whole halves."""

    gathers = (0, 1)
    reads_sources, reads_edges = (1,), (2,)

    def check(self, plan, op, graph, nodes, edges):
        plan.expect(graph, "graph")
        columns, grid = plan.expect(nodes, "codes"), plan.grids[nodes]
        plan.expect_columns(edges, columns, "codes")
        plan.require(grid == plan.grids[edges], "codes of different grids are summed")
        plan.require(type(grid) is FixedGrid, "sums with edges need a fixed scale")
        twice = 2 * grid.zero_point.astype(np.float64)
        plan.require((twice == np.rint(twice)).all(), "sums with edges need zero points of whole halves")
        plan.define(op["out"], "float", columns)

    def resolve(self, resolver, op):
        graph, nodes, edges = resolver.graph(op["in"][0]), resolver.one(op["in"][1]), resolver.one(op["in"][2])
        resolver.expect_nodes(graph.num_src, "source nodes", nodes)
        resolver.expect_nodes(graph.num_edges, "edges", edges)
        resolver.names[op["out"]] = op["out"]
        resolver.emit(op, [nodes, edges], [op["out"]], resolver.columns[nodes], graph.num_dst)

    def emit(self, stage, op):
        graph = op.spec["in"][0]
        codes, edge_codes = stage.places.gathered(op.reads[0], graph), stage.places.codes(op.reads[1])
        stage.check(graph, lambda graph, most=2 * codes.grid.top: refuse_overflow(graph, most))
        fields = *_sums(stage, op, codes), edge_codes.packed, stage.graph_array(graph, "edge_ids")
        stage.add(gather_edges, (codes.grid.bits,), GatherEdges(*fields))
        stage.costs_edges(graph, codes.grid)

    def reference(self, plan, op, graph, nodes, edges):
        target = np.repeat(np.arange(graph.num_dst), graph.in_degrees)
        order = slice(None) if graph.edge_ids is None else graph.edge_ids
        twice = np.rint(2 * nodes.zero).astype(np.int64)
        messages = nodes.codes[graph.indices].astype(np.int64) + edges.codes[order] - twice
        total = np.zeros((graph.num_dst, nodes.codes.shape[1]), np.int64)
        np.add.at(total, target, np.maximum(messages, 0))
        return total.astype(np.float32) * nodes.scale
