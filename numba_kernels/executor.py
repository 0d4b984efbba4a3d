"""Runs a plan's stages on packed codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import gemm, rows, spmm
from .graph import Graph, GraphError, row_bounds
from .layout import row_bytes
from .packing import unpack
from .plan import Plan
from .requantise import ROW_AFFINE, ROW_HALF, STATIC, Epilogue, Operand, Target
from .schedule import schedule

_NO_VECTOR = np.empty(0, np.float32)
_NO_MATRIX = np.empty((0, 0), np.float32)
_NO_CODES = np.empty((0, 0), np.uint8)
_NO_SUMS = np.empty(0, np.int32)


@dataclass
class Codes:
    """A packed matrix: an :class:`~numba_kernels.requantise.Operand` and its number of columns."""

    operand: Operand
    columns: int

    def __len__(self):
        return len(self.operand.packed)

    def head(self, rows: int) -> Codes:
        """The first ``rows`` rows, without a copy."""
        o = self.operand
        per_row = o.row_step == 1
        return Codes(
            o._replace(
                packed=o.packed[:rows],
                sums=o.sums[:rows],
                scale=o.scale[:rows] if per_row else o.scale,
                zero=o.zero[:rows] if per_row else o.zero,
            ),
            self.columns,
        )

    def codes(self) -> np.ndarray:
        """Unpacked codes, (rows, columns) uint8."""
        return unpack(self.operand.packed, self.operand.bits, self.columns)


@dataclass
class Weight:
    """A weight as the product kernel reads it."""

    tiles: np.ndarray  # 1-D int8, see gemm.tile_weight
    inputs: int
    scale: np.ndarray  # (M,) float32
    zero: np.ndarray  # (M,) float32
    sums: np.ndarray  # (M,) int64

    @classmethod
    def of(cls, plan: Plan, spec: dict) -> Weight:
        K, M = spec["shape"]
        codes = unpack(plan.arrays[spec["codes"]], spec["bits"], K).T
        tiles, shift = gemm.tile_weight(codes)
        scale, zero = (_spread(plan.numbers(spec[name], (1, M)), M) for name in ("scale", "zero_point"))
        sums = codes.sum(axis=0, dtype=np.int64) - shift * K
        return cls(tiles, K, scale, zero - np.float32(shift), sums)


class _TargetBuilder:
    """Makes the :class:`Target` and :class:`Codes` of one quantize operation for any number of rows."""

    def __init__(self, plan, op):
        quantizer, self.columns = op["quantizer"], op["columns"]
        bits = quantizer["bits"]
        self.bits = 4 if bits == 3 else bits
        self.levels = np.array([self.bits, (1 << bits) - 1], np.int64)
        self.per_row = quantizer["granularity"] == "row"
        self.ranges = np.zeros(4, np.float32)
        if self.per_row:
            self.mode = ROW_HALF if quantizer["half_grid"] else ROW_AFFINE
            self.ranges[:] = [quantizer[name] for name in ("alpha", "range_qmax", "divisor", "shift")]
            self.scale = self.zero = self.inverse = self.offset = np.zeros(1, np.float32)
        else:
            self.mode = STATIC
            arrays = [plan.numbers(quantizer[n], (1, self.columns)) for n in ("scale", "zero_point", "offset")]
            width = max(map(len, arrays))
            self.scale, self.zero, self.offset = (_spread(array, width) for array in arrays)
            self.inverse = np.float32(1) / self.scale
        self.column_step = int(len(self.scale) > 1)

    @property
    def scratch(self) -> int:
        return row_bytes(self.columns, self.bits) * 8 // self.bits

    def build(self, rows, factor) -> tuple[Target, Codes]:
        packed = np.empty((rows, row_bytes(self.columns, self.bits)), np.uint8)
        sums = np.empty(rows, np.int32)
        scale, zero = (np.empty((2, rows), np.float32)) if self.per_row else (self.scale, self.zero)
        target = Target(
            packed, sums, scale, zero, factor, self.inverse, self.offset, self.levels, self.mode, self.ranges
        )
        operand = Operand(packed, self.bits, sums, scale, zero, int(self.per_row), self.column_step)
        return target, Codes(operand, self.columns)


def _no_target():
    return Target(
        _NO_CODES, _NO_SUMS, _NO_VECTOR, _NO_VECTOR, _NO_VECTOR, _NO_VECTOR, _NO_VECTOR,
        np.zeros(2, np.int64), STATIC, np.zeros(4, np.float32),
    )  # fmt: skip


class Executor:
    """Runs ``plan``; holds what is derived from it once: stages, weights in the kernels' layout, targets."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.stages = schedule(plan)
        self.weights, self.targets = {}, {}
        for stage in self.stages:
            if stage.kind == "linear":
                self.weights[stage.op["out"]] = Weight.of(plan, stage.op["weight"])
            for op in [*stage.targets, *([stage.op] if stage.kind == "delta" else [])]:
                self.targets[op["out"]] = _TargetBuilder(plan, op)
        self.last_reader = {value: n for n, stage in enumerate(self.stages) for value in stage.reads}

    def run(self, inputs: dict) -> list:
        """Output arrays for ``inputs``: values by number — float32 arrays (or pairs), Graphs, edge weights."""
        values = {None: None, **inputs}
        for n, stage in enumerate(self.stages):
            getattr(self, f"_run_{stage.kind}")(stage, values)
            for value in stage.reads:
                if self.last_reader[value] == n and value not in self.plan.outputs:
                    values.pop(value, None)  # an epilogue's inner values never were there
        return [values[value] for value in self.plan.outputs]

    # -- kernels ----------------------------------------------------------------------------------------
    def _run_linear(self, stage, values):
        weight = self.weights[stage.op["out"]]

        def launch(codes, finishing):
            gemm.gemm(
                row_bounds(len(codes)),
                codes.operand,
                weight.tiles,
                weight.inputs,
                weight.scale,
                weight.zero,
                weight.sums,
                *finishing,
            )

        self._each(stage, values, values[stage.op["in"][0]], lambda codes: len(weight.scale), launch)

    def _run_rows(self, stage, values):
        def launch(matrix, finishing):
            rows.finish(row_bounds(len(matrix)), matrix, *finishing)

        self._each(stage, values, values[stage.source], lambda matrix: matrix.shape[1], launch)

    def _run_aggregate(self, stage, values):
        graph, codes, edge_weight, own = (values[value] for value in stage.op["in"])
        if len(_one(codes)) != graph.num_src:
            raise GraphError(f"expected a row for each of {graph.num_src} source nodes, got {len(codes)} rows.")
        if own is not None and len(own) != graph.num_dst:
            raise GraphError(f"expected a row for each of {graph.num_dst} destination nodes, got {len(own)} rows.")
        degree = int(graph.in_degrees.max(initial=0)) + 1
        top = (1 << codes.operand.bits) - 1
        if degree * top >= 2**31:
            raise GraphError(
                f"a node of in-degree {degree - 1} overflows an int32 sum of {codes.operand.bits}-bit codes."
            )
        finishing, results = self._finishing(stage, values, graph.num_dst, codes.columns)
        spmm.spmm(
            graph.bounds, graph.indptr, graph.indices, graph.edge_weights(edge_weight), codes.operand,
            _NO_CODES if own is None else own.operand.packed, codes.columns, *finishing,
        )  # fmt: skip
        values.update(results)

    def _run_delta(self, stage, values):
        op, builder = stage.op, self.targets[stage.op["out"]]
        matrix, state = _one(values[op["in"][0]]), values[op["in"][1]]
        factor = self._factor(op.get("factors", [None])[0], values, len(matrix))
        if matrix.shape[1] != builder.columns:
            raise GraphError(f"expected features of width {builder.columns}, got {matrix.shape[1]}.")
        if state is None:
            state = np.zeros_like(matrix)
        if state.shape != matrix.shape:
            raise GraphError(f"a change of {_shape(matrix)} values against {_shape(state)}.")
        target, codes = builder.build(len(matrix), _NO_VECTOR)
        rows.delta_encode(
            row_bounds(len(matrix)), matrix, factor, state, builder.scratch, target,
            builder.scale, builder.zero, builder.column_step,
        )  # fmt: skip
        values[op["out"]], values[op["state"]] = codes, state

    def _run_dequantize(self, stage, values):
        codes = values[stage.op["in"][0]]
        out = np.empty((len(codes), codes.columns), np.float32)
        rows.dequantize(row_bounds(len(codes)), codes.operand, out)
        values[stage.value] = out

    # -- epilogues and targets --------------------------------------------------------------------------
    def _each(self, stage, values, source, columns, launch):
        """Launch on ``source``, or on each part of a pair; ``columns`` tells the width that comes of a part."""

        def run(part):
            finishing, results = self._finishing(stage, values, len(part), columns(part))
            launch(part, finishing)
            return results

        if isinstance(source, tuple):
            first, second = map(run, source)
            values.update({value: (first[value], second[value]) for value in first})
        else:
            values.update(run(source))

    def _finishing(self, stage, values, count, columns):
        """Arguments every kernel ends with, and the values it will have written."""
        epilogue = stage.epilogue
        residual = _NO_MATRIX
        if "combine" in epilogue:
            other = [v for v in epilogue["combine"]["in"] if v in values and v != stage.value]
            residual = _one(values[other[0]])
            if residual.shape != (count, columns):
                raise GraphError(f"a sum of {count} × {columns} values with {_shape(residual)}.")
        bias = _NO_VECTOR
        if "bias" in epilogue:
            bias = _spread(self.plan.numbers(epilogue["bias"]["bias"], (1, columns)), columns)
        row_scale = self._factor(epilogue.get("degree"), values, count)
        results, targets, scratch = {}, [], 1
        for op in stage.targets:
            builder = self.targets[op["out"]]
            if builder.columns != columns:
                raise GraphError(f"expected features of width {builder.columns}, got {columns}.")
            target, results[op["out"]] = builder.build(count, self._factor(op.get("factors", [None])[0], values, count))
            targets.append(target)
            scratch = max(scratch, builder.scratch)
        targets += [_no_target()] * (2 - len(targets))
        out = _NO_MATRIX
        if stage.keeps_float:
            out = results[stage.value] = np.empty((count, columns), np.float32)
        finish = Epilogue(row_scale, bias, residual, "relu" in epilogue)
        return (scratch, finish, out, *targets), results

    def _factor(self, op, values, count):
        if op is None:
            return _NO_VECTOR
        graph = values[op["in"][1]]
        factor = graph.degree_factor(op["side"], op["power"], op["plus"])
        if len(factor) != count:
            side = "source" if op["side"] == "out" else "destination"
            raise GraphError(f"expected a row for each of {len(factor)} {side} nodes, got {count} rows.")
        return factor

    # -- views and plain NumPy --------------------------------------------------------------------------
    def _run_combine(self, stage, values):
        op, total = stage.op, None
        factors = op.get("factors", [None] * len(op["in"]))
        for coefficient, value, factor in zip(op["coefficients"], op["in"], factors):
            term = _one(values[value])
            if factor is not None:
                term = term * self._factor(factor, values, len(term))[:, None]
            if coefficient != 1:
                term = np.float32(coefficient) * term
            if total is not None and total.shape != term.shape:
                raise GraphError(f"a sum of {_shape(total)} values with {_shape(term)}.")
            total = term if total is None else total + term
        values[stage.value] = total

    @staticmethod
    def _run_item(stage, values):
        graphs, index = values[stage.op["in"][0]], stage.op["index"]
        if isinstance(graphs, Graph) or index >= len(graphs):
            raise GraphError(f"the model reads graph {index} of a list of blocks; pass a list with at least that many.")
        values[stage.value] = graphs[index]

    @staticmethod
    def _run_source(stage, values):
        value = values[stage.op["in"][0]]
        values[stage.value] = value[0] if isinstance(value, tuple) else value

    @staticmethod
    def _run_destination(stage, values):
        value, graph = (values[v] for v in stage.op["in"])
        if isinstance(value, tuple):
            value = value[1]
        elif graph.is_block:
            value = value.head(graph.num_dst) if isinstance(value, Codes) else value[: graph.num_dst]
        values[stage.value] = value

    @staticmethod
    def _run_check_in_degrees(stage, values):
        if (values[stage.op["in"][0]].in_degrees == 0).any():
            raise GraphError(
                "There are 0-in-degree nodes in the graph, whose output would be invalid. Add self-loops with "
                "`dgl.add_self_loop(g)`, or construct the layer with allow_zero_in_degree=True to let zeros through."
            )


def _spread(numbers, length):
    """A writable copy of ``numbers``, (1,) or (length,), as (length,): kernels are compiled for one kind of array."""
    return np.array(np.broadcast_to(numbers, length))


def _one(value):
    if isinstance(value, tuple):
        raise GraphError("the model reads one array of features here, got a pair (source, destination).")
    return value


def _shape(value):
    return " × ".join(map(str, value.shape))
