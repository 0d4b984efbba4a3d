"""The NumPy twin: every operation of a plan, one at a time, on unpacked codes.

Slow and plain; what the kernels compute is tested to equal it, integers exactly and float32 bit by bit (but for
float edge weights, whose sums round differently in another order, and exponentials and roots of rows).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .graph import Graph
from .kernels.fields import MOST_HALVINGS
from .kernels.requantise import SMALLEST_SCALE
from .packing import unpack
from .plan.plan import Plan


@dataclass
class ReferenceCodes:
    """Unpacked codes, (rows, columns) uint8, with scale and zero point that broadcast against them."""

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    unit: np.ndarray | None = None  # the scale that those of all rows are multiples of, by powers of two

    def values(self) -> np.ndarray:
        return (self.codes.astype(np.float32) - self.zero) * self.scale

    def powers(self) -> np.ndarray:
        """Scales in units, (rows,) int8."""
        return np.rint(self.scale[:, 0] / self.unit).astype(np.int8)

    def head(self, rows):
        scale, zero = (part[:rows] if part.ndim == 2 else part for part in (self.scale, self.zero))
        return ReferenceCodes(self.codes[:rows], scale, zero, self.unit)


def sum_codes(graph: Graph, codes: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sums over in-neighbours of the rows of ``codes``, (N_dst, columns), and of 1, (N_dst,), int64.

    With ``weights``, (E,) int8, each edge counts as often as its weight says.
    """
    weights = np.ones(graph.num_edges, np.int64) if weights is None else weights.astype(np.int64)
    total, count = np.zeros((graph.num_dst, codes.shape[1]), np.int64), np.zeros(graph.num_dst, np.int64)
    target = np.repeat(np.arange(graph.num_dst), graph.in_degrees)
    np.add.at(total, target, weights[:, None] * codes[graph.indices])
    np.add.at(count, target, weights)
    return total, count


def quantize(plan: Plan, quantizer: dict, values: np.ndarray, factor: np.ndarray | None = None) -> ReferenceCodes:
    """Codes of ``values · factor``, (rows, columns) float32, under a plan's quantizer."""
    if factor is not None:
        values = values * factor[:, None]
    if quantizer["granularity"] == "row":
        scale, zero, offset = _row_grids(quantizer, values)
    else:
        lengths = (1, values.shape[1])
        scale, zero, offset = (plan.numbers(quantizer[name], lengths) for name in ("scale", "zero_point", "offset"))
    unit = None
    if quantizer["granularity"] == "shift":
        reach = np.abs(values).max(1, keepdims=True, initial=0)
        halves = np.float32(quantizer["reach"]) * np.float32(2) ** -np.arange(1, MOST_HALVINGS + 1, dtype=np.float32)
        unit = scale * np.float32(2.0**-MOST_HALVINGS)
        scale = scale * np.float32(2) ** -(reach <= halves).sum(1, keepdims=True).astype(np.float32)
    place = np.rint(values * (np.float32(1) / scale) + offset)
    codes = np.clip(place, np.float32(0), np.float32((1 << quantizer["bits"]) - 1)).astype(np.uint8)
    return ReferenceCodes(codes, scale, zero, unit)


def attention(plan: Plan, op: dict, graph: Graph, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Codes of the attention of an ``attend`` operation, (E, heads) int64, for values (N, heads · D) of both ends."""
    heads, target = op["heads"], np.repeat(np.arange(graph.num_dst), graph.in_degrees)
    x = left[graph.indices] + right[target]
    x = np.maximum(x, np.float32(0)) + np.minimum(x, np.float32(0)) * np.float32(op["slope"])
    x = (x * plan.numbers(op["vector"], (1, x.shape[1]))).reshape(len(x), heads, left.shape[1] // heads).sum(-1)
    most = np.full((graph.num_dst, heads), -np.inf, np.float32)
    np.maximum.at(most, target, x)
    x = np.exp(x - most[target])
    total = np.zeros_like(most)
    np.add.at(total, target, x)
    return quantize(plan, op["quantizer"], x / total[target]).codes.astype(np.int64)


def map_rows(function: str, parameter: float, x: np.ndarray) -> np.ndarray:
    """The function of a ``map`` operation, of float32 rows."""
    parameter, zero, one = np.float32(parameter), np.float32(0), np.float32(1)
    if function == "leaky_relu":
        return np.maximum(x, zero) + np.minimum(x, zero) * parameter
    if function == "elu":
        return np.maximum(x, zero) + parameter * (np.exp(np.minimum(x, zero)) - one)
    if function == "sigmoid":
        return one / (one + np.exp(np.minimum(-x, np.float32(88))))
    if function == "tanh":
        return np.tanh(x)
    wide = x.astype(np.float64)
    if function == "standardise":
        centered = wide - wide.mean(1, keepdims=True)
        result = centered / np.sqrt((centered**2).mean(1, keepdims=True) + float(parameter))
    elif function == "normalize":
        result = wide / np.maximum(np.sqrt((wide**2).sum(1, keepdims=True)), float(parameter))
    else:
        wide = wide - wide.max(1, keepdims=True, initial=-np.inf)
        total = np.exp(wide).sum(1, keepdims=True)
        result = np.exp(wide) / total if function == "softmax" else wide - np.log(total)
    return result.astype(np.float32)


def _row_grids(quantizer, values):
    alpha, qmax, divisor, shift = (np.float32(quantizer[n]) for n in ("alpha", "range_qmax", "divisor", "shift"))
    low, high = alpha * values.min(1, keepdims=True), alpha * values.max(1, keepdims=True)
    if quantizer["half_grid"]:
        scale = np.maximum(abs(low), abs(high)) * (np.float32(2) / (qmax + np.float32(1)))
        scale = np.maximum(scale, SMALLEST_SCALE)
        zero = np.full_like(scale, qmax / np.float32(2))
    else:
        low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
        scale = np.maximum((high - low) / qmax, SMALLEST_SCALE)
        zero = np.rint(-low / scale)
    return scale * divisor, zero / divisor, (zero + shift) / divisor


def run(plan: Plan, inputs: dict) -> dict:
    """Every value of ``plan`` by number, for ``inputs`` by number: float32 arrays (or pairs), Graphs, edge weights."""
    values = {None: None, **inputs}
    for op in plan.ops:
        arguments = [values[value] for value in op["in"]]
        result = _OPS[op["op"]](plan, op, *arguments)
        if op["op"] == "delta":
            values[op["out"]], values[op["state"]] = result
        elif "out" in op:
            values[op["out"]] = result
    return values


def _each(function):
    def mapped(plan, op, value, *others):
        if isinstance(value, tuple):
            return tuple(function(plan, op, part, *others) for part in value)
        return function(plan, op, value, *others)

    return mapped


def _quantize(plan, op, values):
    return quantize(plan, op["quantizer"], values)


def _delta(plan, op, values, state):
    state = np.zeros_like(values) if state is None else state
    codes = quantize(plan, op["quantizer"], values - state)
    return codes, state + codes.values()


def _linear(plan, op, codes):
    spec = op["weight"]
    K, M = spec["shape"]
    weight = unpack(plan.arrays[spec["codes"]], spec["bits"], K).T.astype(np.int64)
    scale, zero = (plan.numbers(spec[name], (1, M)) for name in ("scale", "zero_point"))
    total = codes.codes.astype(np.int64) @ weight
    x_zero, w_zero = codes.zero.astype(np.float64), zero.astype(np.float64)
    row_sums = codes.codes.sum(1, keepdims=True, dtype=np.int64)
    centered = total - (x_zero * weight.sum(0) + w_zero * (row_sums - K * x_zero))
    return centered.astype(np.float32) * codes.scale * scale


def _aggregate(plan, op, graph, codes, edge_weight, own):
    if op.get("reduce") == "max":
        return _largest(graph, codes)
    weights = None if edge_weight is None else graph.edge_weights(edge_weight)
    own_weights = 1
    if codes.unit is not None:
        weights = codes.powers()[graph.indices]
        own_weights = 1 if own is None else own.powers()
        codes = ReferenceCodes(codes.codes, codes.unit, codes.zero)
    if weights is None or weights.dtype == np.int8:
        total, count = sum_codes(graph, codes.codes, weights)
        if own is not None:
            total, count = total + (own.codes.T.astype(np.int64) * own_weights).T, count + own_weights
        centered = (total - codes.zero.astype(np.float64) * count[:, None]).astype(np.float32)
    else:
        target = np.repeat(np.arange(graph.num_dst), graph.in_degrees)
        centered = np.zeros((graph.num_dst, codes.codes.shape[1]), np.float32)
        messages = codes.codes.astype(np.float32) - codes.zero
        np.add.at(centered, target, weights[:, None] * messages[graph.indices])
        if own is not None:
            centered += own.codes.astype(np.float32) - own.zero
    return centered * codes.scale


def _aggregate_edges(plan, op, graph, nodes, edges):
    target = np.repeat(np.arange(graph.num_dst), graph.in_degrees)
    order = slice(None) if graph.edge_ids is None else graph.edge_ids
    twice = np.rint(2 * nodes.zero).astype(np.int64)
    messages = nodes.codes[graph.indices].astype(np.int64) + edges.codes[order] - twice
    total = np.zeros((graph.num_dst, nodes.codes.shape[1]), np.int64)
    np.add.at(total, target, np.maximum(messages, 0))
    return total.astype(np.float32) * nodes.scale


def _attend(plan, op, graph, codes, left, right):
    coded = attention(plan, op, graph, left.values(), right.values())
    per_head = codes.codes.shape[1] // op["heads"]
    weights, target = np.repeat(coded, per_head, 1), np.repeat(np.arange(graph.num_dst), graph.in_degrees)
    total, count = np.zeros((2, graph.num_dst, codes.codes.shape[1]), np.int64)
    np.add.at(total, target, weights * codes.codes[graph.indices])
    np.add.at(count, target, weights)
    scale = plan.numbers(op["quantizer"]["scale"], (1,))
    return (total - codes.zero.astype(np.float64) * count).astype(np.float32) * (scale * codes.scale)


def _largest(graph, codes):
    target = np.repeat(np.arange(graph.num_dst), graph.in_degrees)
    total = np.zeros((graph.num_dst, codes.codes.shape[1]), np.int64)
    np.maximum.at(total, target, codes.codes[graph.indices])
    has_edges = (graph.in_degrees > 0)[:, None]
    return (total - codes.zero.astype(np.float64) * has_edges).astype(np.float32) * codes.scale


def _stack(plan, op, *parts):
    scale = np.concatenate([part.scale for part in parts]) if parts[0].scale.ndim == 2 else parts[0].scale
    return ReferenceCodes(np.concatenate([part.codes for part in parts]), scale, parts[0].zero, parts[0].unit)


def _readout(plan, op, graph, values):
    starts, result = graph.batch_starts, []
    reduce = {"sum": np.sum, "mean": np.mean, "max": np.max}[op["reduce"]]
    for first, last in zip(starts[:-1], starts[1:]):
        empty = np.zeros(values.shape[1], np.float32)
        result.append(reduce(values[first:last], axis=0) if last > first else empty)
    return np.array(result, np.float32).reshape(len(starts) - 1, values.shape[1])


def _head_sums(plan, op, values):
    weighted = values * plan.numbers(op["vector"], (1, values.shape[1]))
    return weighted.reshape(len(values), op["heads"], values.shape[1] // op["heads"]).sum(-1)


def _head_mean(plan, op, values):
    return values.reshape(len(values), op["heads"], values.shape[1] // op["heads"]).mean(1)


def _degree(plan, op, values, graph, edge_weight=None):
    if edge_weight is not None:
        return values
    return values * graph.degree_factor(op["side"], op["power"], op["plus"])[:, None]


def _combine(plan, op, *terms):
    total = None
    for coefficient, term in zip(op["coefficients"], terms):
        term = term if coefficient == 1 else np.float32(coefficient) * term
        total = term if total is None else total + term
    return total


def _destination(plan, op, value, graph):
    if isinstance(value, tuple):
        return value[1]
    if not graph.is_block:
        return value
    return value.head(graph.num_dst) if isinstance(value, ReferenceCodes) else value[: graph.num_dst]


_OPS = {
    "item": lambda plan, op, graphs: graphs[op["index"]],
    "source": lambda plan, op, value: value[0] if isinstance(value, tuple) else value,
    "destination": _destination,
    "quantize": _each(_quantize),
    "delta": _delta,
    "dequantize": lambda plan, op, codes: codes.values(),
    "linear": _each(_linear),
    "aggregate": _aggregate,
    "stack": _stack,
    "aggregate_edges": _aggregate_edges,
    "attend": _attend,
    "readout": _readout,
    "relation": lambda plan, op, graphs: graphs[tuple(op["etype"])],
    "edges_by_type": lambda plan, op, graph, types: graph.by_type(types, op["count"]),
    "edge_norm": lambda plan, op, graph, weights: None if weights is None else graph.normed(weights),
    "scale": lambda plan, op, values: values * plan.numbers(op["scale"], (1, values.shape[1])),
    "map": lambda plan, op, values: map_rows(op["function"], op["parameter"], values),
    "head_sums": _head_sums,
    "head_mean": _head_mean,
    "concat": lambda plan, op, *values: np.concatenate(values, axis=1),
    "maximum": lambda plan, op, *values: np.maximum.reduce(values),
    "degree": _degree,
    "check_in_degrees": lambda plan, op, graph: None,
    "bias": lambda plan, op, values: values + plan.numbers(op["bias"], (1, values.shape[1])),
    "relu": lambda plan, op, values: np.maximum(values, np.float32(0)),
    "combine": _combine,
}
