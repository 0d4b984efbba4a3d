"""A run for one partition of a graph: inner rows are computed here, rows of the halo come from other workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import GraphError
from ..layout import dense_bytes
from ..packing import pack, unpack
from ..partition import PartitionGraph, PartitionNodes
from ..plan.own_rows import refuse_mixed_rows
from ..plan.reach import EDGES, NODES, Reach
from .matrices import Grid
from .part import of_each

# Rows that are packed anew at a time.
_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class HaloCodes:
    """Codes that a stage has made, of which other workers read rows, and this one reads rows of theirs.

    Attributes
    ----------
    value : int
        The value of the plan.
    nodes : PartitionNodes
        What they have rows of.
    grid : Grid
    packed : (count, W) uint8 array
        The rows as they stand in memory; those behind the inner ones are undefined until they are :meth:`put`.
    powers : (count,) int8 array, optional
        Powers of two of the rows, where the grid has them.
    """

    value: int
    nodes: PartitionNodes
    grid: Grid
    packed: np.ndarray
    powers: np.ndarray | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of a row on its way: its codes without padding, and its power of two."""
        return dense_bytes(self.grid.columns, self.grid.bits) + (self.powers is not None)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Some inner rows as they are sent, (len(rows), row_bytes) uint8."""
        wire, dense = np.empty((len(rows), self.row_bytes), np.uint8), dense_bytes(self.grid.columns, self.grid.bits)
        for start in range(0, len(rows), _AT_A_TIME):
            part = slice(start, start + _AT_A_TIME)
            codes = self.packed[rows[part]]
            wire[part, :dense] = codes if dense == self.grid.width else self._packed_anew(codes, dense)
        if self.powers is not None:
            wire[:, -1] = self.powers[rows].view(np.uint8)
        return wire

    def put(self, wire: np.ndarray, first: int) -> None:
        """Write rows that were sent, (n, row_bytes) uint8, from the row ``first`` on."""
        fits = wire.dtype == np.uint8 and wire.shape[1:] == (self.row_bytes,)
        if not fits or not self.nodes.inner <= first <= len(self.packed) - len(wire):
            raise GraphError(
                f"expected rows of {self.row_bytes} bytes from row {first} on, got {wire.dtype} of shape {wire.shape}."
            )
        dense = dense_bytes(self.grid.columns, self.grid.bits)
        for start in range(0, len(wire), _AT_A_TIME):
            codes = wire[start : start + _AT_A_TIME, :dense]
            rows = slice(first + start, first + start + len(codes))
            self.packed[rows] = codes if dense == self.grid.width else self._packed_anew(codes, self.grid.width)
        if self.powers is not None:
            self.powers[first : first + len(wire)] = wire[:, -1].view(np.int8)

    def _packed_anew(self, codes, width):
        return pack(unpack(np.ascontiguousarray(codes), self.grid.bits, self.grid.columns), self.grid.bits, width)


class HaloRun:
    """What a run computes where its graphs are parts: inner rows; see :class:`~numba_kernels.run.part.Part`.

    Parameters
    ----------
    plan, reach
        What runs, and what is known of what it reads.
    inputs : dict
        By value: graphs that are parts; features of inner nodes, or of edges.
    exchange : callable
        ``exchange(codes)``, a list of :class:`HaloCodes`: every worker calls it after the same stages, and it puts the
        rows of the halo.

    Raises
    ------
    GraphError
        For plans that read rows of all nodes, and features that fit neither nodes nor edges.
    """

    def __init__(self, plan, reach: Reach, inputs: dict, exchange: Callable):
        refuse_mixed_rows(plan)
        self._exchange, self.codes = exchange, {}
        graphs = [part for value in inputs.values() for part in _graphs_in(value)]
        if not graphs:
            raise GraphError("an exchange is for partitions, the graph is a whole one; leave it out.")
        self.nodes = {nodes.name: nodes for graph in graphs for nodes in (graph.source_nodes, graph.target_nodes)}
        self._inner = {nodes.count: nodes.inner for nodes in self.nodes.values()}
        self.inputs, edges = dict(inputs), {graph.num_edges for graph in graphs}
        for entry in plan.inputs:
            value = entry["value"]
            space, _ = reach.needs.get(value, (NODES if entry.get("key") in self.nodes else None, 0))
            is_read = reach.hops is None or value in reach.needs
            if entry["kind"] == "features" and space != EDGES and is_read:
                others = set() if space == NODES else edges
                self.inputs[value] = of_each(self._of_nodes, inputs[value], entry, others)

    def _of_nodes(self, features, entry, edges):
        """Features of inner nodes with the shape that rows of the halo give them, or features of ``edges`` as they are.

        Where a plan does not say what they belong to, their number of rows does.
        """
        rows, key = features.shape[0], entry.get("key")
        fitting = [nodes for nodes in self.nodes.values() if nodes.inner == rows and key in (nodes.name, None)]
        if len(fitting) == 1 and rows not in edges:
            return _InnerRows(features, (fitting[0].count, features.shape[1]))
        if not fitting and rows in edges:
            return features
        known = ", ".join(f"{nodes.inner} of type {nodes.name!r}" for nodes in self.nodes.values())
        several = "may be those of several types of nodes, or of edges; pass a dict by type of nodes"
        problem = several if fitting else f"are others than its inner nodes, {known}"
        raise GraphError(f"the {rows} rows of {entry['name']} {problem}.")

    def rows_to_run(self, run, cost) -> int:
        """How many rows of a stage are computed: of those that nodes have, the inner ones."""
        rows = run.rows(cost.size)
        return self._inner.get(rows, rows) if isinstance(cost.size, int) else rows

    def after_stage(self, run, number: int) -> None:
        """Exchange the codes that a stage has made."""
        made = [_codes_of(run, *place) for place in run.assembled.read_by_others[number]]
        if made:
            self._exchange(made)

    def inner_rows(self, output: np.ndarray) -> np.ndarray:
        """The rows of an output that are computed here."""
        return output[: self._inner.get(len(output), len(output))]


class _InnerRows:
    """Features of inner nodes, with a shape that counts the halo, whose rows nothing reads."""

    def __init__(self, features, shape):
        self._features, self.shape = features, shape
        self.nbytes = features.nbytes

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        return self._features[rows]


def _codes_of(run, value, at, graph) -> HaloCodes:
    """The codes that stand in a run's memory ``at`` where a stage has made them, sources of a graph of the plan."""
    nodes = run.graphs[graph].source_nodes

    def memory(field, columns, dtype):
        address = run.assembled.program.references[field.place](run)
        return run.arena.view(address, nodes.count, columns, dtype)

    packed = memory(at.packed, at.grid.width, np.uint8)
    powers = memory(at.powers, 1, np.int8)[:, 0] if at.is_shifted else None
    return HaloCodes(value, nodes, at.grid, packed, powers)


def _graphs_in(value) -> list:
    """Graphs that an argument holds."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
    return [part for part in parts if isinstance(part, PartitionGraph)]
