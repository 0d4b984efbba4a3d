"""Plans of a grammar: operations that fit each other, with fields changed; run, and compared with the NumPy twin."""

import copy
import dataclasses

import numpy as np

from numba_kernels import GraphError, PackedModel, Plan, PlanError, reference
from tests.numba_kernels.plans import (
    SIGNS,
    PlanBuilder,
    draw_graph,
    grouped,
    integer,
    levels,
    normal,
    per_row,
    shifted,
    static,
)

# Results of these are rounded otherwise than NumPy's, so that codes of them may differ by one.
_INEXACT = {"map", "attend", "attention", "readout", "head_sums", "head_mean", "aggregate_edges"}
_FUNCTIONS = ("leaky_relu", "elu", "sigmoid", "tanh", "standardise", "normalize", "softmax", "log_softmax")
_NUMBERS = (-1, 0, 1, 2, 3, 7, 8, 16, 63, 2**31, 0.0, 0.5, -1.0, 1e38, float("nan"), None, True, "max", "a0", [], {})


@dataclasses.dataclass
class Drawn:
    """A plan's parts, and arguments for it."""

    builder: PlanBuilder
    outputs: list
    arguments: list

    def plan(self):
        kinds = "graph", "features", "features", "edge_weight"
        inputs = [{"name": f"x{v}", "kind": kind, "value": v, "optional": False} for v, kind in enumerate(kinds)]
        return Plan(inputs, self.builder.ops, self.outputs, self.builder.arrays, returns="tuple")


class Grammar:
    """Draws plans over one graph, two features and edge weights; the same seed gives the same."""

    def __init__(self, seed, changed=0.5):
        self.rng = np.random.default_rng(seed)
        self.is_changed = self.rng.random() < changed

    def draw(self):
        """A plan that fits its arguments, or one with fields changed."""
        rng = self.rng
        self.builder, self.codes, self.states, self.kinds, self.units = PlanBuilder(), {}, {}, {}, {}
        nodes, edges, width = (int(rng.integers(low, high)) for low, high in ((1, 40), (0, 120), (1, 70)))
        weight = rng.normal(size=edges).astype(np.float32)
        weight = rng.integers(-128, 128, edges).astype(np.int8) if rng.random() < 0.3 else weight
        order = rng.permutation(edges) if rng.random() < 0.5 else None
        graph = draw_graph(rng, nodes, nodes, edges, edge_ids=order)
        self.floats = {1: width, 2: width}
        self._quantize(1, width)
        for _ in range(rng.integers(1, 9)):
            getattr(self, f"_{rng.choice(_RULES)}")()
        made = [value for value in self.floats if value > 2]
        if not made:
            made = [self._note(self.floats, self.builder.add("dequantize", next(iter(self.codes))), width)]
        outputs = [int(value) for value in rng.choice(made, min(len(made), int(rng.integers(1, 4))), replace=False)]
        density = 0.05 if rng.random() < 0.3 else 1.0  # of few that are not 0 products look up rows
        first, second = (normal(rng, nodes, width) * (rng.random((nodes, width)) < density) for _ in range(2))
        drawn = Drawn(self.builder, outputs, [graph, first, second, weight])
        if self.is_changed:
            self._change(drawn)
        return drawn

    # -- operations ---------------------------------------------------------------------------------------
    def _pick(self, values):
        value = list(values)[self.rng.integers(len(values))]
        return value, values[value]

    @staticmethod
    def _note(values, value, width):
        values[value] = width
        return value

    def _grid(self, width):
        rng, bits = self.rng, int(self.rng.choice([2, 8]))
        draws = {
            "tensor": lambda: static(bits, width, rng, False),
            "channel": lambda: static(bits, width, rng, True),
            "row": lambda: per_row(bits, rng),
            "group": lambda: grouped(rng, (1, 2, bits)),
            "shift": lambda: shifted(bits, rng),
            "sign": lambda: SIGNS,
            "integer": lambda: integer(bits, width, rng, False, bool(rng.integers(2))),
            "integer channel": lambda: integer(bits, width, rng, True, bool(rng.integers(2))),
        }
        kind = str(rng.choice(list(draws)))
        return kind, draws[kind]()

    def _quantize(self, value=None, width=None):
        value, width = self._pick(self.floats) if value is None else (value, width)
        kind, grid = self._grid(width)
        out = self.builder.quantize(value, grid, width)
        if kind.startswith("integer") and self.rng.random() < 0.3:
            self.builder.ops[-1].update({"in": [value, 0], "norm": {"side": "out", "power": -0.5, "plus": 1}})
        self._note_codes(out, width, kind)

    def _note_codes(self, value, width, kind):
        self.codes[value], self.kinds[value] = width, kind

    def _coded(self, *kinds):
        """Codes on grids of some kinds, and their width; of any kind where there are none of those."""
        return self._pick({v: w for v, w in self.codes.items() if self.kinds[v] in kinds} or self.codes)

    def _delta(self):
        value, width = self._pick(self.floats)
        spec = {k: self.builder.store(v) if isinstance(v, np.ndarray) else v
                for k, v in static(2, width, self.rng, True).items()}  # fmt: skip
        before = [state for state, columns in self.states.items() if columns == width]
        state = self.builder.add("delta", value, before[-1] if before else None, quantizer=spec, columns=width) + 1000
        self.builder.ops[-1]["state"] = state
        self._note_codes(state - 1000, width, "channel")
        self.states[state] = width

    def _dequantize(self):
        value, width = self._pick(self.codes)
        self._note(self.floats, self.builder.add("dequantize", value), width)

    def _linear(self):
        value, width = self._coded("tensor", "row", "group", "shift", "sign", "integer")
        out, bits = int(self.rng.integers(1, 40)), int(self.rng.choice([2, 8]))
        own = levels(bits, self.rng) if self.rng.random() < 0.3 else None
        result = self._note(self.floats, self.builder.linear(value, self.rng, width, out, bits, own), out)
        if own is None and self.kinds[value] in ("tensor", "integer"):
            self._fix(result, 9)

    def _fix(self, result, unit):
        """Have what was added last give fixed-point numbers, mostly."""
        if self.rng.random() < 0.7:
            self.builder.ops[-1]["unit"] = self.units[result] = unit

    def _fixed_degree(self):
        if not self.units:
            return self._linear()
        value, unit = self._pick(self.units)
        sides = {"side": str(self.rng.choice(["in", "out"])), "power": float(self.rng.choice([-1, -0.5, 0.5]))}
        out = self.builder.add("fixed_degree", value, 0, **sides, plus=int(self.rng.integers(2)), unit=unit)
        self.units[self._note(self.floats, out, self.floats[value])] = unit
        return None

    def _aggregate(self):
        value, width = self._coded("tensor", "channel", "shift", "integer", "integer channel")
        weight, own = (3 if self.rng.random() < 0.3 else None), (value if self.rng.random() < 0.2 else None)
        reduce = "max" if self.rng.random() < 0.2 else "sum"
        out = self._note(self.floats, self.builder.add("aggregate", 0, value, weight, own, reduce=reduce), width)
        if weight is None and reduce == "sum" and self.kinds[value] != "shift":
            self._fix(out, 11)

    def _attend(self):
        value, width = self._coded("tensor", "channel")
        left, heads = self._coded("tensor", "channel")
        spec = {"bits": 8, "granularity": "tensor", "scale": 1 / 255, "zero_point": 0.0, "offset": 0.0}
        heads = heads if width % heads == 0 else 1
        out = self.builder.add("attend", 0, value, left, left, heads=heads, slope=0.2, vector=1.0, quantizer=spec)
        self._note(self.floats, out, width)

    def _row_wise(self):
        value, width = self._pick(self.floats)
        kind = self.rng.choice(["relu", "bias", "scale", "degree", "map"])
        more = {
            "bias": {"bias": 0.5}, "scale": {"scale": 0.25}, "degree": {"side": "in", "power": -0.5, "plus": 1},
            "map": {"function": str(self.rng.choice(_FUNCTIONS)), "parameter": 0.1},
        }.get(kind, {})  # fmt: skip
        self._note(self.floats, self.builder.add(str(kind), value, *([0] if kind == "degree" else []), **more), width)

    def _several(self):
        value, width = self._pick(self.floats)
        other = self._pick({v: w for v, w in self.floats.items() if w == width})[0]
        kind = str(self.rng.choice(["concat", "maximum", "multiply", "combine"]))
        more = {"coefficients": [0.5, 1.0]} if kind == "combine" else {}
        out = self.builder.add(kind, value, other, **more)
        self._note(self.floats, out, 2 * width if kind == "concat" else width)

    def _heads(self):
        value, width = self._pick({v: w for v, w in self.floats.items() if v > 2} or self.floats)
        heads = int(self.rng.choice([n for n in range(1, width + 1) if width % n == 0]))
        if self.rng.random() < 0.5:
            self._note(self.floats, self.builder.add("head_mean", value, heads=heads), width // heads)
        else:
            self._note(self.floats, self.builder.add("head_sums", value, heads=heads, vector=0.5), heads)

    # -- changes ------------------------------------------------------------------------------------------
    def _change(self, drawn):
        """Other numbers, other places, other lengths."""
        rng = self.rng
        for _ in range(rng.integers(1, 3)):
            op = drawn.builder.ops[rng.integers(len(drawn.builder.ops))]
            path = _paths(op)[rng.integers(len(_paths(op)))]
            holder = op
            for key in path[:-1]:
                holder = holder[key]
            number = _NUMBERS[rng.integers(len(_NUMBERS))]
            others = [*range(4), *(other["out"] for other in drawn.builder.ops if isinstance(other["out"], int))]
            holder[path[-1]] = copy.deepcopy(number) if rng.random() < 0.5 else int(rng.choice(others))
        names = sorted(drawn.builder.arrays)
        if names and rng.random() < 0.2:
            name = names[rng.integers(len(names))]
            drawn.builder.arrays[name] = drawn.builder.arrays[name][: rng.integers(4)]
        if rng.random() < 0.2:
            place = int(rng.integers(1, 4))
            drawn.arguments[place] = drawn.arguments[place][: rng.integers(1, 5)].copy()


_RULES = [
    "quantize",
    "delta",
    "dequantize",
    "linear",
    "fixed_degree",
    "aggregate",
    "aggregate",
    "attend",
    "row_wise",
    "several",
    "heads",
]


def _paths(tree, path=()):
    """Places of all that stands in an operation, but for its name."""
    found = [path] if path else []
    for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        if key != "op":
            found += _paths(part, (*path, key))
    return found


def _check_nodes(model, prepared, arguments, whole):
    """Rows of some nodes, of a call and of the prepared model, are those of the whole result."""
    chosen = [0, len(whole[0]) - 1]
    for run in (lambda: model(*arguments, nodes=chosen), lambda: prepared(chosen)):
        try:
            rows = run()
        except GraphError:  # where results have no row for each node
            continue
        for array, some in zip(whole, rows):
            np.testing.assert_array_equal(some, array[chosen])


def outcome(drawn):
    """What becomes of a drawn plan: "refused" by its checks, "refused arguments"; "equal" to the twin, or "ran"
    where numbers may be rounded otherwise than the twin's and only shapes are compared.

    AssertionError where it differs, and whatever else is raised.
    """
    try:
        plan = drawn.plan()
    except PlanError:
        return "refused"
    try:
        model = PackedModel(plan)
        got, prepared = model(*drawn.arguments), model.prepare(*drawn.arguments)
    except GraphError:
        return "refused arguments"
    for array, again in zip(got, prepared()):
        np.testing.assert_array_equal(array, again)
    _check_nodes(model, prepared, drawn.arguments, got)
    try:
        with np.errstate(all="ignore"):
            expected = reference.run(plan, dict(enumerate(drawn.arguments)))
    except GraphError:  # of what no output follows from, which only the twin computes
        return "ran"
    float_weights = drawn.arguments[3].dtype != np.int8 and any(3 in op["in"] for op in plan.ops)
    is_exact = not float_weights and _INEXACT.isdisjoint(op["op"] for op in plan.ops)
    for value, array in zip(plan.outputs, got):
        assert array.shape == expected[value].shape and array.dtype == np.float32
        if is_exact:
            np.testing.assert_array_equal(array, expected[value])
    return "equal" if is_exact else "ran"
