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
    stack       codes, of one quantizer                   one below the other
    aggregate   graph, codes, edge weight or null, own codes or null   reduce (sum or max)
    aggregate_edges    graph, codes, codes of edges       sums of max(node + edge, 0)
    attend      graph, codes, codes of sources, codes of destinations  heads, slope, vector, quantizer
    readout     graph, float                              reduce (sum, mean or max) over each graph of a batch
    relation    a graph of several edge types             etype
    edges_by_type      graph, edge types                  count
    edge_norm   graph, edge weight or null                over the roots of its sums at both ends
    degree      float or state, graph, [edge weight or null]   side, power, plus; nothing where the weight is given
    check_in_degrees   graph
    scale       float                                     scale
    bias        float                                     bias
    relu        float
    map         float                                     function, parameter
    head_sums   float                                     heads, vector
    head_mean   float                                     heads
    concat      floats
    maximum     floats
    combine     floats                                    coefficients

Edge weights given as int8 are whole numbers that sums over neighbours take in integers; others are taken as float32.
``map`` is a function of numbers (leaky_relu, elu, sigmoid, tanh) or of rows (standardise, normalize, softmax,
log_softmax); its parameter is the slope, the factor of the exponential, or what keeps a divisor from 0. An input with a
``key`` is that entry of a dict.

A quantizer has ``bits`` (1, 2, 3, 4, 8), ``granularity`` and, per tensor or channel, ``scale``, ``zero_point``,
``offset``, and under "shift" ``reach``; per row ``alpha``, ``half_grid``, ``range_qmax``, ``divisor``, ``shift`` (see
dgl_lowbit.quant).
A weight has ``bits``, ``shape`` (K, M), ``codes`` (M rows of K codes, packed without padding), ``scale``,
``zero_point``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..layout import dense_bytes

INPUT_KINDS = ("features", "graph", "edge_weight", "edge_types", "unused")
MAPS = ("leaky_relu", "elu", "sigmoid", "tanh", "standardise", "normalize", "softmax", "log_softmax")
REDUCTIONS = ("sum", "mean", "max")


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
    returns : "value", "tuple" or list of str
        Whether the one output comes by itself, outputs come as a tuple, or as a dict of these keys.
    heads : list of int
        For each output into how many heads its columns are split, 0 for a matrix.

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
        self.heads = self.heads or [0] * len(self.outputs)
        for entry in self.inputs:
            self._require(isinstance(entry["name"], str), f"{entry['name']!r} is no name of an input")
            self._require(entry["kind"] in INPUT_KINDS, f"unknown input kind {entry['kind']!r}")
            self._define(entry["value"], entry["kind"], None)
        for op in self.ops:
            check = _CHECKS.get(op["op"])
            self._require(check is not None, f"unknown operation {op['op']!r}")
            check(self, op, *op["in"])
        self._require(bool(self.outputs) and len(self.heads) == len(self.outputs), "no outputs")
        keys = isinstance(self.returns, list) and len(self.returns) == len(self.outputs)
        self._require(keys or self.returns == "tuple" or len(self.outputs) == 1, "outputs and what is returned differ")
        for value, heads in zip(self.outputs, self.heads):
            columns = self._expect(value, "float")
            self._require(heads == 0 or (heads > 0 and columns % heads == 0), "heads do not divide the columns")

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

    def _check_stack(self, op, *values):
        columns, first = self._expect(values[0], "codes"), self.quantizers[values[0]]
        for value in values:
            self._expect_columns(value, columns, "codes")
            self._require(self.quantizers[value] == first and first["granularity"] != "row", "other grids are stacked")
        self._define(op["out"], "codes", columns)
        self.quantizers[op["out"]] = first

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
        reduce = op.get("reduce", "sum")
        self._require(reduce in ("sum", "max"), f"reduction {reduce!r}")
        if reduce == "max":
            self._require(own is None and self.quantizers[codes]["granularity"] != "shift", "no maximum of these")
        if edge_weight is not None:
            self._expect(edge_weight, "edge_weight")
        if own is not None:
            self._expect_columns(own, columns, "codes")
            self._require(self.quantizers[own] == self.quantizers[codes], "codes of different grids are summed")
        self._define(op["out"], "float", columns)

    def _check_aggregate_edges(self, op, graph, nodes, edges):
        self._expect(graph, "graph")
        columns, quantizer = self._expect(nodes, "codes"), self.quantizers[nodes]
        self._expect_columns(edges, columns, "codes")
        self._require(quantizer == self.quantizers[edges], "codes of different grids are summed")
        self._require(quantizer["granularity"] in ("tensor", "channel"), "sums with edges need a fixed scale")
        twice = 2 * self.numbers(quantizer["zero_point"], (1, columns)).astype(np.float64)
        self._require((twice == np.rint(twice)).all(), "sums with edges need zero points of whole halves")
        self._define(op["out"], "float", columns)

    def _check_attend(self, op, graph, codes, left, right):
        self._expect(graph, "graph")
        columns, width, heads = self._expect(codes, "codes"), self._expect(left, "codes"), op["heads"]
        self._expect_columns(right, width, "codes")
        for value in (codes, left, right):
            self._require(self.quantizers[value]["granularity"] in ("tensor", "channel"), "attention with other scales")
        self._require(
            isinstance(heads, int) and heads > 0 and columns % heads == width % heads == 0, f"{heads!r} heads"
        )
        self._require(np.isfinite(np.float32(op["slope"])), "slope is not a number")
        self.numbers(op["vector"], (1, width))
        self._check_quantizer(op["quantizer"], 1)
        fixed = op["quantizer"]["granularity"] == "tensor"
        self._require(
            fixed and op["quantizer"]["zero_point"] == op["quantizer"]["offset"] == 0, "attention is unsigned"
        )
        self._define(op["out"], "float", columns)

    def _check_readout(self, op, graph, value):
        self._expect(graph, "graph")
        self._require(op["reduce"] in REDUCTIONS, f"reduction {op['reduce']!r}")
        self._define(op["out"], "float", self._expect(value, "features", "float"))

    def _check_relation(self, op, graph):
        self._expect(graph, "graph")
        self._require(len(op["etype"]) == 3 and all(isinstance(part, str) for part in op["etype"]), "an edge type")
        self._define(op["out"], "graph", None)

    def _check_edges_by_type(self, op, graph, types):
        self._expect(graph, "graph")
        self._expect(types, "edge_types")
        self._require(isinstance(op["count"], int) and op["count"] > 0, "edges_by_type needs a count")
        self._define(op["out"], "graph", None)

    def _check_edge_norm(self, op, graph, edge_weight):
        self._expect(graph, "graph")
        self._expect(edge_weight, "edge_weight")
        self._define(op["out"], "edge_weight", None)

    def _check_degree(self, op, value, graph, edge_weight=None):
        self._expect(graph, "graph")
        if edge_weight is not None:
            self._expect(edge_weight, "edge_weight")
        self._require(op["side"] in ("in", "out"), f"side {op['side']!r}")
        self._require(op["power"] in (-1, -0.5, 0.5) and op["plus"] in (0, 1), "unknown degree norm")
        self._define(op["out"], "float", self._expect(value, "features", "float", "state"))

    def _check_in_degrees(self, op, graph):
        self._expect(graph, "graph")

    def _check_bias(self, op, value):
        columns = self._expect(value, "features", "float")
        self.numbers(op["bias"], (1, columns))
        self._define(op["out"], "float", columns)

    def _check_scale(self, op, value):
        columns = self._expect(value, "features", "float")
        self.numbers(op["scale"], (1, columns))
        self._define(op["out"], "float", columns)

    def _check_map(self, op, value):
        self._require(op["function"] in MAPS, f"function {op['function']!r}")
        self._require(np.isfinite(np.float32(op["parameter"])), "a parameter is not a number")
        self._define(op["out"], "float", self._expect(value, "features", "float"))

    def _check_heads(self, op, value):
        columns, heads = self._expect(value, "features", "float"), op["heads"]
        whole = isinstance(heads, int) and heads > 0 and columns is not None and columns % heads == 0
        self._require(whole, f"{heads!r} heads of {columns} columns")
        if op["op"] == "head_sums":
            self.numbers(op["vector"], (1, columns))
        self._define(op["out"], "float", heads if op["op"] == "head_sums" else columns // heads)

    def _check_concat(self, op, *values):
        widths = [self._expect(value, "features", "float") for value in values]
        self._require(bool(values), "nothing to put side by side")
        self._define(op["out"], "float", None if None in widths else sum(widths))

    def _check_maximum(self, op, *values):
        known = {self._expect(value, "features", "float") for value in values} - {None}
        self._require(len(values) > 0 and len(known) <= 1, f"maximum of widths {sorted(known)}")
        self._define(op["out"], "float", known.pop() if known else None)

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
    "head_sums": Plan._check_heads,
    "head_mean": Plan._check_heads,
    "check_in_degrees": Plan._check_in_degrees,
    **{
        name: getattr(Plan, f"_check_{name}")
        for name in (
            "quantize", "delta", "dequantize", "stack", "linear", "aggregate", "aggregate_edges", "attend", "readout",
            "relation", "edges_by_type", "edge_norm", "degree", "scale", "bias", "relu", "map", "concat", "maximum",
            "combine",
        )
    },
}  # fmt: skip
