"""Sums over in-neighbours weighted with attention."""

from __future__ import annotations

import math

import numpy as np

from ...arrays.segments import reduce_segments
from ...graph import GraphError
from ...kernels.attend import Attend, Attention, Scratch, attention, sizes_of_scratch
from ...kernels.quads import bytes_at_a_time
from ...spec import FixedGrid, from_json
from ..attributes import COUNT, DICT, NUMBER, NUMBERS
from ..sizes import single
from .neighbours import edges_of
from .registry import Operation, operation

# Kernels make LeakyReLU of a number and its magnitude, whose multiples cancel: with larger slopes too much of them.
MOST_SLOPE = 64


def _check_attention(plan, op, graph, left, right, edge_weight, kind):
    """Check what attention follows from, values of ``kind`` among it; returns the grid that codes it."""
    plan.expect(graph, "graph")
    if edge_weight is not None:
        plan.expect(edge_weight, "edge_weight")
    width, heads = plan.expect(left, kind), op["heads"]
    plan.expect_columns(right, width, kind)
    plan.require(width % heads == 0, f"{heads} heads")
    plan.numbers(op["vector"], (1, width))
    grid = plan.grid(op["quantizer"], 1)
    plan.require(type(grid) is FixedGrid, "attention with other scales")
    return grid


@operation("attend", heads=COUNT, slope=NUMBER, vector=NUMBERS, quantizer=DICT)
class AttendNeighbours(Operation):
    """Sums of codes times coded attention: softmax of Σ vector · LeakyReLU(source + destination), a head
    (arXiv:1710.10903), times the weights of edges where they are given."""

    gathers = (0, 1)
    reads_sources = (1, 2)

    def check(self, plan, op, graph, codes, left, right, edge_weight=None):
        columns = plan.expect(codes, "codes")
        grid = _check_attention(plan, op, graph, left, right, edge_weight, "codes")
        plan.require(columns % op["heads"] == 0, f"{op['heads']!r} heads")
        for value in (codes, left, right):
            plan.require(type(plan.grids[value]) is FixedGrid, "attention with other scales")
        plan.require(grid.zero_point[0] == grid.offset[0] == 0, "attention is unsigned")
        plan.require(abs(op["slope"]) <= MOST_SLOPE, f"a slope of {op['slope']!r}, of at most {MOST_SLOPE} in size")
        plan.define(op["out"], "float", columns, grid)

    def resolve(self, resolver, op):
        graph, (codes, left, right) = resolver.graph(op["in"][0]), map(resolver.one, op["in"][1:4])
        resolver.expect_nodes(graph.num_src, "source nodes", codes, left)
        resolver.expect_nodes(graph.num_dst, "destination nodes", right)
        resolver.names[op["out"]] = op["out"]
        reads = [codes, left, right, *resolver.made_weight(op, 4)]
        resolver.emit(op, reads, [op["out"]], resolver.columns[codes], graph.num_dst)

    def emit(self, stage, op):
        graph = op.spec["in"][0]
        codes, left = (stage.places.gathered(value, graph) for value in op.reads[:2])
        heads, grid = op.spec["heads"], stage.grid(op.writes[0])
        width, top, scale = left.grid.columns, grid.top, float(grid.scale[0])
        weight = op.spec["in"][4] if len(op.spec["in"]) > 4 else None
        is_weighted = weight in stage.edge_weight_kinds
        stage.check(graph, lambda graph: refuse_overflow(graph, top, 0 if is_weighted else scale))
        vector = stage.padded(op.spec["out"], op.spec["vector"], width)
        softmax = Attention(heads, width, vector, np.float32(op.spec["slope"]), top, scale, math.lcm(16, heads))
        slot = stage.at_slot(stage.hold(op.writes[0], stage.new_slot()))
        sizes = sizes_of_scratch(codes.grid.width * 8 // codes.grid.bits, width, heads)
        scratch = Scratch(*(stage.area(name, size) for name, size in sizes._asdict().items()))
        operands = codes.operand(), left.operand(), stage.places.operand(op.reads[2])
        lanes, is_aligned = (
            bytes_at_a_time(codes.grid.bits, codes.grid.width),
            heads == 1 or op.columns // heads % 16 == 0,
        )
        blocks = 0 if width == heads else 1 if 16 % (width // heads) == 0 else 2
        variant = codes.grid.bits, lanes, left.grid.bits, blocks, is_aligned, is_weighted
        edges, weights = edges_of(stage, graph), stage.edge_weight(graph, weight, np.float32) if is_weighted else 0
        stage.add(attention, variant, Attend(slot, op.columns, edges, weights, *operands, softmax, scratch))
        stage.costs_edges(graph, codes.grid, times=10)

    def reference(self, plan, op, graph, codes, left, right, edge_weight=None):
        numbers = plan.numbers(op["vector"], ()), plan.grids[op["out"]]
        coded = _coded_attention(op, *numbers, graph, left.values(), right.values(), edge_weight)
        per_head = codes.codes.shape[1] // op["heads"]
        weights, target = np.repeat(coded, per_head, 1), np.repeat(np.arange(graph.num_dst), graph.in_degrees)
        total, count = np.zeros((2, graph.num_dst, codes.codes.shape[1]), np.int64)
        np.add.at(total, target, weights * codes.codes[graph.indices])
        np.add.at(count, target, weights)
        scale = plan.grids[op["out"]].scale
        return (total - codes.zero.astype(np.float64) * count).astype(np.float32) * (scale * codes.scale)


@operation("attention", heads=COUNT, slope=NUMBER, vector=NUMBERS, quantizer=DICT)
class AttentionOfEdges(Operation):
    """The attention that :class:`AttendNeighbours` sums with, of decoded scores: an array (E, heads, 1) by edge ids."""

    gathers = reads_sources = None

    def check(self, plan, op, graph, left, right, edge_weight):
        grid = _check_attention(plan, op, graph, left, right, edge_weight, "float")
        plan.define(op["out"], "array", None, grid)

    def resolve(self, resolver, op):
        graph, *scores, weight = op["in"]
        given = {**op, "in": [graph, *scores, weight if weight in resolver.edge_weights else None]}
        names = {value: resolver.one(value) for value in (*scores, *resolver.made_weight(op, 3))}
        resolver.call(given, names, list(names), [op["out"]])

    def run(self, op, reader):
        graph, left, right, weight = op["in"]
        vector = reader.constant(op["vector"]) if isinstance(op["vector"], str) else np.float32(op["vector"])
        grid = from_json(op["quantizer"], 1, reader.constant)
        weights = None if weight is None else reader.array(weight)
        return [_by_edge(op, vector, grid, single(reader.graphs[graph]), *map(reader.array, (left, right)), weights)]

    def reference(self, plan, op, *values):
        return _by_edge(op, plan.numbers(op["vector"], ()), plan.grids[op["out"]], *values)


def _by_edge(op, vector, grid, graph, left, right, edge_weight):
    """Values of coded attention, (E, heads, 1) float32 by edge ids."""
    coded = _coded_attention(op, vector, grid, graph, left, right, edge_weight)
    values = np.empty((*coded.shape, 1), np.float32)
    centered = coded[:, :, None].astype(np.float32) - grid.zero_point
    values[slice(None) if graph.edge_ids is None else graph.edge_ids] = centered * grid.scale
    return values


def _coded_attention(op, vector, grid, graph, left, right, edge_weight):
    """Codes of attention, (E, heads) int64 in the order of ``indices``, of values (N, heads · D) of both ends."""
    heads, target = op["heads"], np.repeat(np.arange(graph.num_dst), graph.in_degrees)
    x = left[graph.indices] + right[target]
    x = np.maximum(x, np.float32(0)) + np.minimum(x, np.float32(0)) * np.float32(op["slope"])
    x = (x * vector).reshape(len(x), heads, left.shape[1] // heads).sum(-1)
    x = np.exp(x - reduce_segments(x, graph.indptr, "max")[target])
    x = x / reduce_segments(x, graph.indptr, "sum")[target]
    if edge_weight is not None:
        x *= graph.edge_weights(edge_weight)[:, None]
    return grid.code(x).codes.astype(np.int64)


def refuse_overflow(graph, top: int, scale: float) -> None:
    """Raise GraphError where a node's codes of attention, up to ``top``, could add up to more than int32 holds.

    Their ``scale`` is 0 where edges have weights. Without them attention adds up to 1, and a code is at most half a
    step above it: the codes add up to at most min(top · degree, 1 / scale + degree / 2).
    """
    degree = graph.max_in_degree
    if min(top * degree, 1 / scale + degree / 2 if scale else math.inf) >= 2**31:
        raise GraphError(f"codes of attention of a node of in-degree {degree} overflow an int32 sum.")
