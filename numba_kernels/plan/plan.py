"""What a packed model computes: a list of operations over values, checked before anything runs.

Values are numbered; each operation reads some and writes one (``delta`` two). Arrays are referred to by name, numbers
stand in the plan itself.

    op          in                                        attributes
    item        a list of graphs                          index
    source      features (or codes)                       the first of a pair
    destination features (or codes), graph                the second of a pair; on a block, the first rows
    quantize    float, [graph]                            quantizer, columns; norm, which goes with the graph
    delta       float, state or null                      quantizer, columns; dead_zone; writes codes, or changes,
                                                          and the new state
    dequantize  codes
    linear      codes                                     weight; unit, where results are fixed-point
    stack       codes, of one quantizer                   one below the other
    aggregate   graph, codes or changes, edge weight or null, own codes or null   reduce (sum or max); unit
    aggregate_edges    graph, codes, codes of edges       sums of max(node + edge, 0)
    attend      graph, codes, codes of sources, codes of destinations, [edge weight]   heads, slope, vector, quantizer
    attention   graph, float, float, edge weight or null  the same; the attention that ``attend`` sums with, an array
    readout     graph, float                              reduce (sum, mean or max) over each graph of a batch
    relation    a graph of several edge types             etype
    edges_by_type      graph, edge types                  count
    edge_norm   graph, edge weight or null                over the roots of its sums at both ends
    degree      float or state, graph, [edge weight or null]   side, power, plus; nothing where the weight is given
    fixed_degree       float, graph                       unit, side, power, plus; of fixed-point numbers
    check_in_degrees   graph
    scale       float                                     scale
    bias        float                                     bias
    relu        float
    map         float                                     function, parameter
    head_sums   float                                     heads, vector
    head_mean   float                                     heads
    concat      floats
    maximum     floats
    multiply    floats                                    number by number
    combine     floats                                    coefficients
    call        arrays, floats, numbers of edges, graphs  function, args, kwargs; may write a list of arrays
    matrix      array                                     columns, rows
    edge_weight array                                     as weights of edges
    ahead       array                                     computed before the rest of the plan is laid out
    make_graph  sources, destinations, two numbers, arrays   a graph, made before the rest is laid out

Edge weights given as int8 are whole numbers that sums over neighbours take in integers; others are taken as float32.
``map`` is a function of numbers (leaky_relu, elu, sigmoid, tanh) or of rows (standardise, normalize, softmax,
log_softmax); its parameter is the slope, the factor of the exponential, or what keeps a divisor from 0. The slope of
``attend`` is at most 64 in size. An input with a ``key`` is that entry of a dict.

What a call's ``args`` and ``kwargs`` may be stands in :mod:`numba_kernels.arrays.kinds`, what ``rows`` may be in
:mod:`numba_kernels.plan.sizes`.

A quantizer is a grid of :mod:`numba_kernels.spec`. A weight has ``bits``, ``shape`` (K, M), ``codes`` (M rows of K
codes, packed without padding), ``scale``, ``zero_point``, and ``levels`` where codes stand for other whole numbers than
themselves. An input of which some columns are read has ``columns``: ``total``, and ``kept``, the name of a mask of a
bit each, see :mod:`numba_kernels.selected`. What each operation checks, computes and runs stands in
:mod:`numba_kernels.plan.ops`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..errors import LowBitError
from ..selected import unpacked_index
from ..spec import GridSpec, SpecError, from_json
from .attributes import ANY, BOOL, COUNT, INDEX, LIST, STRING, VALUE, choice, fault, frozen, record, several
from .ops import OPERATIONS

INPUT_KINDS = ("features", "graph", "edge_weight", "edge_types", "array", "constant", "unused")
_INPUT = {"name": STRING, "kind": choice(*INPUT_KINDS), "value": VALUE, "optional": BOOL}
_COLUMNS = record(total=COUNT, kept=STRING)
_INPUT_PARTS = {"key": STRING | INDEX, "frame": LIST, "constant": ANY, "columns": _COLUMNS}
# What a frame is: the graph's name and places in it, side, node or edge type, key.
_FRAME = (several(STRING | INDEX), choice("src", "dst", "edge"), STRING | several(STRING, 3), STRING)
_DTYPES = tuple(map(np.dtype, (np.uint8, np.float32, np.int64, np.bool_)))


class PlanError(LowBitError, ValueError):
    """A plan that does not describe a runnable model."""


@dataclass
class Plan:
    """A packed model's computation; what it is made of is copied, and does not change.

    Parameters
    ----------
    inputs : list of dict
        ``name``, ``kind`` (one of ``INPUT_KINDS``), ``value`` and ``optional``, in calling order.
    ops : list of dict
        See the module's table.
    outputs : list of int
        Values returned.
    arrays : dict of str to numpy.ndarray
        What operations name, of the shapes that they ask for.
    returns : "value", "tuple" or list of str
        Whether the one output comes by itself, outputs come as a tuple, or as a dict of these keys.
    heads : list of int
        For each output into how many heads its columns are split, 0 for a matrix.

    Attributes
    ----------
    kinds, columns, grids, makers, stacked, made
        What follows from these, by value; not to be given.

    Raises
    ------
    PlanError
        When anything in it does not fit.
    """

    inputs: list
    ops: list
    outputs: list
    arrays: dict
    returns: str | list = "value"
    heads: list = field(default_factory=list)
    kinds: dict = field(default_factory=dict, repr=False)
    columns: dict = field(default_factory=dict, repr=False)
    grids: dict = field(default_factory=dict, repr=False)  # of values that are codes, or computed with coded numbers
    makers: dict = field(default_factory=dict, repr=False)  # names of the operations that write values
    stacked: set = field(default_factory=set, repr=False)
    made: dict = field(default_factory=dict, repr=False)  # what checks have looked up in arrays, by what it is

    def __post_init__(self):
        try:
            self._parse()
            self._check()
        except PlanError:
            raise
        except SpecError as error:
            raise PlanError(f"the plan is malformed: {error}.") from error
        except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
            raise PlanError(f"the plan is malformed: {error!r}.") from error

    # -- arrays -----------------------------------------------------------------------------------------
    def numbers(self, value, lengths) -> np.ndarray:
        """A float32 array given by name or as a number, whose length must be among ``lengths``.

        Raises
        ------
        PlanError
            For an array of another dtype or length, or with NaN or infinity.
        """
        array = self.arrays[value] if isinstance(value, str) else np.array([value], np.float32)
        if array.dtype != np.float32 or array.ndim != 1 or (lengths and len(array) not in lengths):
            raise PlanError(f"expected float32 numbers of length {lengths}, got {array.dtype} {array.shape}.")
        if not np.isfinite(array).all():
            raise PlanError("an array holds NaN or infinity.")
        return array

    def grid(self, quantizer: dict, columns: int) -> GridSpec:
        """The grid that a quantizer of the plan describes."""
        return from_json(quantizer, columns, self.arrays.__getitem__)

    def columns_read(self, entry: dict) -> np.ndarray:
        """The columns, ascending, that the plan reads of an input that says which."""
        total, mask = entry["columns"]["total"], self.arrays[entry["columns"]["kept"]]
        fits = entry["kind"] == "features" and mask.dtype == np.uint8 and mask.shape == (-(-total // 8),)
        self.require(fits, "the columns of an input do not fit")
        index = unpacked_index(mask, total)
        self.require(0 < len(index) < total, "an input of which no columns, or all, are read")
        return index

    # -- checks -----------------------------------------------------------------------------------------
    def _parse(self):
        """Take frozen copies of all parts, of which nothing but the declared kinds is left."""
        for name in ("inputs", "ops", "outputs", "returns", "heads"):
            setattr(self, name, frozen(getattr(self, name)))
        self.heads = self.heads or (0,) * len(self.outputs)
        for entry in self.inputs:
            self.refuse(fault(entry, _INPUT, _INPUT_PARTS), "an input")
            parts = entry.get("frame", ())
            fits = len(parts) == len(_FRAME) and all(kind.accepts(part) for kind, part in zip(_FRAME, parts))
            self.require(not parts or fits, f"frame {parts!r} of an input")
            self.require(("constant" in entry) == (entry["kind"] == "constant"), "the constant of an input")
        for op in self.ops:
            self.require(isinstance(op, dict) and STRING.accepts(op["op"]), f"{op!r:.80} is no operation")
            self.require(op["op"] in OPERATIONS, f"unknown operation {op['op']!r:.80}")
            self.refuse(OPERATIONS[op["op"]].fault(op), op["op"])
        values, heads = several(VALUE), several(INDEX)
        self.require(values.accepts(self.outputs) and heads.accepts(self.heads), "outputs and heads are numbers")
        keys = several(STRING, len(self.outputs)).accepts(self.returns) and len({*self.returns}) == len(self.returns)
        self.require(keys or self.returns in ("value", "tuple"), f"returns {self.returns!r}")
        self.arrays = {name: self._array(name, array) for name, array in self.arrays.items()}

    def _array(self, name, array):
        known = isinstance(name, str) and isinstance(array, np.ndarray) and array.dtype in _DTYPES
        self.require(known, f"array {name!r} of {getattr(array, 'dtype', type(array).__name__)}")
        array = np.ascontiguousarray(array).view()
        array.flags.writeable = False
        return array

    def _check(self):
        self._checking = "input"
        for entry in self.inputs:
            count = None if "columns" not in entry else len(self.columns_read(entry))
            self.define(entry["value"], entry["kind"], count)
        for op in self.ops:
            self._checking = op["op"]
            OPERATIONS[op["op"]].check(self, op, *op["in"])
        self.require(bool(self.outputs) and len(self.heads) == len(self.outputs), "no outputs")
        self.require(self.returns != "value" or len(self.outputs) == 1, "outputs and what is returned differ")
        for value, heads in zip(self.outputs, self.heads):
            columns = self.expect(value, "float", "array")
            divides = columns is not None and heads > 0 and columns % heads == 0
            self.require(heads == 0 or divides, "heads do not divide the columns")

    @staticmethod
    def require(condition, message: str) -> None:
        """Raise PlanError unless ``condition`` holds."""
        if not condition:
            raise PlanError(f"the plan is malformed: {message}.")

    @classmethod
    def refuse(cls, fault: str | None, what: str) -> None:
        """Raise PlanError if there is a fault of something."""
        cls.require(fault is None, f"{what}: {fault}")

    def define(self, value, kind: str, columns: int | None, grid: GridSpec | None = None) -> None:
        """Declare a value that an operation writes."""
        self.require(value not in self.kinds, f"value {value!r} written twice")
        self.kinds[value], self.columns[value], self.makers[value] = kind, columns, self._checking
        if grid is not None:
            self.grids[value] = grid

    def expect(self, value, *kinds: str) -> int | None:
        """Columns of a value, None where not known, that must be of one of ``kinds``."""
        self.require(type(value) is int and value in self.kinds, f"value {value!r} read before it is written")
        self.require(self.kinds[value] in kinds, f"value {value} is {self.kinds[value]}, not {' or '.join(kinds)}")
        return self.columns[value]

    def expect_columns(self, value, columns: int, *kinds: str) -> None:
        """As :meth:`expect`, of a value that has ``columns``, where that is known."""
        have = self.expect(value, *kinds)
        self.require(have in (None, columns), f"value {value} has {have} columns where {columns} are read")
