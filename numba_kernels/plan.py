"""What a packed model computes: a list of operations over values, checked before anything runs.

Values are numbered; each operation reads some and writes one (``delta`` two). Arrays are referred to by name, numbers
stand in the plan itself.

    op          in                                        attributes
    item        a list of graphs                          index
    source      features (or codes)                       the first of a pair
    destination features (or codes), graph                the second of a pair; on a block, the first rows
    quantize    float                                     quantizer, columns
    delta       float, state or null                      quantizer, columns; writes codes and the new state
    dequantize  codes
    linear      codes                                     weight
    aggregate   graph, codes, edge weight or null, own codes or null
    degree      float or state, graph                     side, power, plus
    check_in_degrees   graph
    bias        float                                     bias
    relu        float
    combine     floats                                    coefficients

Edge weights given as int8 are whole numbers that sums over neighbours take in integers; others are taken as float32.

A quantizer has ``bits`` (1, 2, 3, 4, 8), ``granularity`` and, per tensor or channel, ``scale``, ``zero_point``,
``offset``, and under "shift" ``reach``; per row ``alpha``, ``half_grid``, ``range_qmax``, ``divisor``, ``shift`` (see
dgl_lowbit.quant).
A weight has ``bits``, ``shape`` (K, M), ``codes`` (M rows of K codes, packed without padding), ``scale``,
``zero_point``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .layout import dense_bytes

INPUT_KINDS = ("features", "graph", "edge_weight", "unused")


class PlanError(ValueError):
    """A plan that does not describe a runnable model."""


@dataclass
class Plan:
    """A packed model's computation.

    Parameters
    ----------
    inputs : list of dict
        ``name``, ``kind`` (features, graph, edge_weight or unused), ``value`` and ``optional``, in calling order.
    ops : list of dict
        See the module's table.
    outputs : list of int
        Values returned.
    arrays : dict of str to numpy.ndarray
    returns_tuple : bool
        Whether several outputs, or one, come as a tuple.

    Raises
    ------
    PlanError
        When anything in it does not fit.
    """

    inputs: list
    ops: list
    outputs: list
    arrays: dict
    returns_tuple: bool = False
    kinds: dict = field(default_factory=dict, repr=False)
    columns: dict = field(default_factory=dict, repr=False)
    quantizers: dict = field(default_factory=dict, repr=False)  # of values that are codes

    def __post_init__(self):
        try:
            self._check()
        except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
            raise PlanError(f"the plan is malformed: {error!r}.") from error

    # -- arrays -----------------------------------------------------------------------------------------
    def numbers(self, value, lengths) -> np.ndarray:
        """A float32 array given by name or as a number, whose length must be among ``lengths``."""
        array = self.arrays[value] if isinstance(value, str) else np.array([value], np.float32)
        if array.dtype != np.float32 or array.ndim != 1 or (lengths and len(array) not in lengths):
            raise PlanError(f"expected float32 numbers of length {lengths}, got {array.dtype} {array.shape}.")
        if not np.isfinite(array).all():
            raise PlanError("an array holds NaN or infinity.")
        return array

    # -- checks -----------------------------------------------------------------------------------------
    def _check(self):
        for entry in self.inputs:
            self._require(isinstance(entry["name"], str), f"{entry['name']!r} is no name of an input")
            self._require(entry["kind"] in INPUT_KINDS, f"unknown input kind {entry['kind']!r}")
            self._define(entry["value"], entry["kind"], None)
        for op in self.ops:
            check = _CHECKS.get(op["op"])
            self._require(check is not None, f"unknown operation {op['op']!r}")
            check(self, op, *op["in"])
        self._require(bool(self.outputs), "no outputs")
        for value in self.outputs:
            self._expect(value, "float")

    @staticmethod
    def _require(condition, message):
        if not condition:
            raise PlanError(f"the plan is malformed: {message}.")

    def _define(self, value, kind, columns):
        self._require(isinstance(value, int) and value not in self.kinds, f"value {value!r} written twice")
        self.kinds[value], self.columns[value] = kind, columns

    def _expect(self, value, *kinds):
        self._require(value in self.kinds, f"value {value!r} read before it is written")
        self._require(self.kinds[value] in kinds, f"value {value} is {self.kinds[value]}, not {' or '.join(kinds)}")
        return self.columns[value]

    def _expect_columns(self, value, columns, *kinds):
        have = self._expect(value, *kinds)
        self._require(have in (None, columns), f"value {value} has {have} columns where {columns} are read")

    def _check_item(self, op, graphs):
        self._expect(graphs, "graph")
        self._require(isinstance(op["index"], int) and op["index"] >= 0, "item needs an index")
        self._define(op["out"], "graph", None)

    def _check_view(self, op, value, graph=None):
        columns = self._expect(value, "features", "float", "codes")
        if op["op"] == "destination":
            self._expect(graph, "graph")
        kind = self.kinds[value]
        self._define(op["out"], "float" if kind == "features" else kind, columns)
        self.quantizers[op["out"]] = self.quantizers.get(value)

    def _check_quantize(self, op, value):
        self._expect_columns(value, op["columns"], "features", "float")
        self._check_quantizer(op["quantizer"], op["columns"])
        self._define(op["out"], "codes", op["columns"])
        self.quantizers[op["out"]] = op["quantizer"]

    def _check_quantizer(self, quantizer, columns):
        self._require(isinstance(columns, int) and columns > 0, f"{columns!r} columns")
        self._require(quantizer["bits"] in (1, 2, 3, 4, 8), f"{quantizer['bits']!r} bits")
        if quantizer["granularity"] == "row":
            for name in ("alpha", "range_qmax", "divisor", "shift"):
                self._require(np.isfinite(np.float32(quantizer[name])), f"{name} is not a number")
            self._require(quantizer["range_qmax"] > 0 and quantizer["divisor"] > 0, "an empty grid")
        else:
            is_shift = quantizer["granularity"] == "shift"
            self._require(not is_shift or 0 <= np.float32(quantizer["reach"]) < np.inf, "reach is not a number")
            lengths = (1, columns) if quantizer["granularity"] == "channel" else (1,)
            for name in ("scale", "zero_point", "offset"):
                array = self.numbers(quantizer[name], lengths)
                self._require(name != "scale" or (array > 0).all(), "a scale is not positive")

    def _check_delta(self, op, value, state):
        self._require(op["quantizer"]["granularity"] != "row", "delta coding has no scale per row")
        self._check_quantize(op, value)
        if state is not None:
            self._expect_columns(state, op["columns"], "state")
        self._define(op["state"], "state", op["columns"])

    def _check_dequantize(self, op, value):
        self._define(op["out"], "float", self._expect(value, "codes"))

    def _check_linear(self, op, value):
        weight = op["weight"]
        K, M = weight["shape"]
        self._expect_columns(value, K, "codes")
        self._require(
            self.quantizers[value]["granularity"] != "channel", "inputs with a scale per channel cannot be multiplied"
        )
        self._require(min(K, M) > 0 and weight["bits"] in (1, 2, 4, 8), "a weight of no size or unknown bits")
        codes = self.arrays[weight["codes"]]
        self._require(
            codes.dtype == np.uint8 and codes.shape == (M, dense_bytes(K, weight["bits"])),
            "weight codes do not fit",
        )
        self._require(K * 255 * ((1 << weight["bits"]) - 1) < 2**31, f"{K} inputs overflow an int32 sum")
        for name in ("scale", "zero_point"):
            self.numbers(weight[name], (1, M))
        self._define(op["out"], "float", M)

    def _check_aggregate(self, op, graph, codes, edge_weight, own):
        self._expect(graph, "graph")
        columns = self._expect(codes, "codes")
        self._require(
            self.quantizers[codes]["granularity"] != "row", "messages with a scale per row cannot be summed as codes"
        )
        if edge_weight is not None:
            self._expect(edge_weight, "edge_weight")
        if own is not None:
            self._expect_columns(own, columns, "codes")
            self._require(self.quantizers[own] == self.quantizers[codes], "codes of different grids are summed")
        self._define(op["out"], "float", columns)

    def _check_degree(self, op, value, graph):
        self._expect(graph, "graph")
        self._require(op["side"] in ("in", "out"), f"side {op['side']!r}")
        self._require(op["power"] in (-1, -0.5, 0.5) and op["plus"] in (0, 1), "unknown degree norm")
        self._define(op["out"], "float", self._expect(value, "features", "float", "state"))

    def _check_in_degrees(self, op, graph):
        self._expect(graph, "graph")

    def _check_bias(self, op, value):
        columns = self._expect(value, "float")
        self.numbers(op["bias"], (1, columns))
        self._define(op["out"], "float", columns)

    def _check_relu(self, op, value):
        self._define(op["out"], "float", self._expect(value, "features", "float"))

    def _check_combine(self, op, *values):
        self._require(len(values) == len(op["coefficients"]) > 0, "combine needs a coefficient a value")
        for coefficient in op["coefficients"]:
            is_number = isinstance(coefficient, (int, float)) and np.isfinite(np.float32(coefficient))
            self._require(is_number, f"{coefficient!r} is no coefficient")
        known = {self._expect(value, "features", "float") for value in values} - {None}
        self._require(len(known) <= 1, f"combine of widths {sorted(known)}")
        self._define(op["out"], "float", known.pop() if known else None)


_CHECKS = {
    "item": Plan._check_item,
    "source": Plan._check_view,
    "destination": Plan._check_view,
    "quantize": Plan._check_quantize,
    "delta": Plan._check_delta,
    "dequantize": Plan._check_dequantize,
    "linear": Plan._check_linear,
    "aggregate": Plan._check_aggregate,
    "degree": Plan._check_degree,
    "check_in_degrees": Plan._check_in_degrees,
    "bias": Plan._check_bias,
    "relu": Plan._check_relu,
    "combine": Plan._check_combine,
}
