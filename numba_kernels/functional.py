"""Single operations on packed codes, outside a model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .given import REAL, given_array
from .graph import Graph, GraphError
from .plan.resolve import Op
from .plan.schedule import schedule
from .run.assemble import assemble
from .run.coded import joined
from .run.codes import Codes
from .run.matrices import Grid, Weight
from .run.memory import Arena
from .run.one_run import Run
from .run.places import empty_codes
from .run.runtime import get_num_threads, running
from .spec import GridSpec

_ROWS = 1 << 14


def quantize(values: np.ndarray, grid: Grid) -> Codes:
    """Packed codes of numbers.

    Parameters
    ----------
    values : (rows, columns) float32 array
    grid : Grid
        How they are coded.

    Returns
    -------
    Codes

    Raises
    ------
    GraphError
        When the width is not the grid's, or a number is not finite.

    Examples
    --------
    >>> codes = quantize(np.array([[0.0, 0.4, 1.0]], np.float32), Grid(3, bits=2, scale=0.5))
    >>> codes.unpacked(), dequantize(codes)
    (array([[0, 1, 2]], dtype=uint8), array([[0. , 0.5, 1. ]], dtype=float32))
    """
    _expect(Grid, grid)
    values = np.ascontiguousarray(given_array(values, "values", REAL), np.float32)
    if values.ndim != 2 or values.shape[1] != grid.columns:
        raise GraphError(f"expected values of shape (rows, {grid.columns}), got {values.shape}.")
    op = Op("quantize", ["x"], ["out"], len(values), grid.columns, {"out": "out"}, [None])
    return _run([op], {}, {"out": grid}, features={"x": values})


def encoded(values, spec: GridSpec) -> Codes:
    """Codes, on the grid ``spec``, of anything that gives float rows for slices, some thousand rows at a time."""
    return joined(list(encoded_parts(values, spec)))


def encoded_parts(values, spec: GridSpec) -> Iterator[Codes]:
    """The same, a part of so many rows after another."""
    grid = Grid.of(spec, values.shape[1])
    for start in range(0, max(len(values), 1), _ROWS):
        yield quantize(values[start : start + _ROWS], grid)


def dequantize(codes: Codes) -> np.ndarray:
    """Numbers that codes stand for, (code − zero_point) · scale.

    Parameters
    ----------
    codes : Codes

    Returns
    -------
    numpy.ndarray
        (rows, columns) float32.
    """
    _expect(Codes, codes)
    return _run([Op("dequantize", ["x"], ["out"], *codes.shape, {})], {"x": codes})


def spmm(graph: Graph, codes: Codes, grid: Grid | None = None, edge_weight=None, out=None) -> np.ndarray | Codes:
    """Sums of ``codes``, messages of the source nodes, over in-neighbours.

    Parameters
    ----------
    graph : Graph
    codes : Codes
        One row a source node, one scale, or one a column, or powers of two of one.
    grid : Grid, optional
        How the sums are coded. Default: they are returned as float32.
    edge_weight : (E,) array, optional
        int8 weights are summed in integers; others are taken as float32, the slower path.
    out : (N_dst, columns) float32 array, optional
        Where float32 sums are written. Default: a new array.

    Returns
    -------
    numpy.ndarray or Codes
        (N_dst, columns) float32, or the codes of it.

    Raises
    ------
    GraphError
        When graph, codes and weights do not fit each other, or a sum could exceed int32.
    """
    graph = Graph.of(graph)
    _expect(Codes, codes)
    rows, columns = codes.shape
    if rows != graph.num_src:
        raise GraphError(f"expected a row for each of {graph.num_src} source nodes, got {rows} rows.")
    if codes.grid.per_row and not codes.is_shifted:
        raise GraphError("messages with a scale per row cannot be summed as codes.")
    spec = {"in": ["graph", "x", "weight", None]}
    ops = [Op("aggregate", ["x", None], ["sum"], graph.num_dst, columns, spec)]
    return _requantised(ops, "sum", {"x": codes}, grid, out, {"graph": graph}, {"weight": edge_weight})


def gemm(codes: Codes, weight: Weight, grid: Grid | None = None, out=None) -> np.ndarray | Codes:
    """Product of codes and a weight.

    Parameters
    ----------
    codes : Codes
        (rows, K), with one scale or one a row.
    weight : Weight
        (K, M).
    grid : Grid, optional
        How the product is coded. Default: it is returned as float32.
    out : (rows, M) float32 array, optional
        Where a float32 product is written. Default: a new array.

    Returns
    -------
    numpy.ndarray or Codes
        (rows, M) float32, or the codes of it.

    Raises
    ------
    GraphError
        When the shapes do not fit.
    """
    _expect(Codes, codes)
    _expect(Weight, weight)
    if weight.inputs * codes.grid.top * 128 >= 2**31:
        raise GraphError(f"{weight.inputs} inputs of {codes.grid.bits} bits may overflow an int32 sum.")
    if codes.shape[1] != weight.inputs:
        raise GraphError(f"expected {weight.inputs} columns, got {codes.shape[1]}.")
    if not codes.grid.is_uniform:
        raise GraphError("inputs with a scale per channel cannot be multiplied as codes.")
    spec = {"out": "product", "weight": {"shape": [weight.inputs, weight.columns]}}
    ops = [Op("linear", ["x"], ["product"], len(codes.packed), weight.columns, spec)]
    return _requantised(ops, "product", {"x": codes}, grid, out, weights={"product": weight})


def _expect(kind, value):
    if not isinstance(value, kind):
        raise TypeError(f"expected a numba_kernels.{kind.__name__}, got {type(value).__name__}.")


def _requantised(ops, value, values, grid, out, graphs=None, edge_weights=None, weights=None):
    op = ops[-1]
    if grid is None:
        is_array = isinstance(out, np.ndarray)
        fits = out is None or (is_array and out.shape == (op.rows, op.columns) and out.dtype == np.float32)
        if not fits or (out is not None and not (out.flags.c_contiguous and out.flags.writeable)):
            raise GraphError(f"out must be a writeable contiguous float32 array of shape ({op.rows}, {op.columns}).")
        return _run(ops, values, {}, graphs, edge_weights, weights, out=out)
    if out is not None:
        raise GraphError("out is for float32 results; with a grid the result is codes.")
    _expect(Grid, grid)
    if grid.columns != op.columns:
        raise GraphError(f"expected a grid of {op.columns} columns, got {grid.columns}.")
    coded = Op("quantize", [value], ["out"], op.rows, op.columns, {"out": "out"}, [None])
    return _run([*ops, coded], values, {"out": grid}, graphs, edge_weights, weights)


def _run(ops, values, grids=None, graphs=None, edge_weights=None, weights=None, features=None, out=None):
    """Run the operations, one stage, on ``values``, Codes by name; returns what the last of them writes."""
    (result,), last, grids = ops[-1].writes, ops[-1], grids or {}
    columns, rows = ({op.writes[0]: getattr(op, what) for op in ops} for what in ("columns", "rows"))
    planned = schedule(ops, [result], columns, rows)
    kept = {("grid", name): grid for name, grid in grids.items()}
    kept.update({("weight", name): weight for name, weight in (weights or {}).items()})
    given = {name: weight for name, weight in (edge_weights or {}).items() if weight is not None}
    run = Run(features or {}, graphs or {}, given)
    run.sizes += [last.rows]
    coded = {result: empty_codes(last.rows, grids[result])} if result in grids else {}
    run.codes, run.names = {**values, **coded}, {"x": "the array of values"}
    assembled = assemble(planned, None, kept, run)
    for check in assembled.checks:
        check(run)
    with running():
        run.begin(assembled, Arena(), get_num_threads(), out)
        run.execute()
    return coded[result] if coded else run.outputs[result]
