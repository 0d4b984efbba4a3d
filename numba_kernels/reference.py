"""The NumPy twin: every operation of a plan, one at a time, on unpacked codes.

Slow and plain; what the kernels compute is tested to equal it, integers exactly and float32 bit by bit (but for
float edge weights, whose sums round differently in another order).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .graph import Graph
from .packing import unpack
from .plan import Plan
from .program import MOST_HALVINGS
from .requantise import SMALLEST_SCALE


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


def _degree(plan, op, values, graph):
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
    "degree": _degree,
    "check_in_degrees": lambda plan, op, graph: None,
    "bias": lambda plan, op, values: values + plan.numbers(op["bias"], (1, values.shape[1])),
    "relu": lambda plan, op, values: np.maximum(values, np.float32(0)),
    "combine": _combine,
}
