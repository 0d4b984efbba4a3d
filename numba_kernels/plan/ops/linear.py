"""Products of codes and quantised weights."""

from __future__ import annotations

import numpy as np

from ...fixed_point import Multiplier, are_halves, most_steps
from ...kernels.fields import FixedProduct
from ...kernels.finish import NOTHING
from ...kernels.lookup import Lookup, LookupFixed, look_up, look_up_fixed
from ...kernels.product import Product, ProductFixed, multiply, multiply_fixed
from ...layout import dense_bytes, padded
from ...levels import Levels
from ...packing import unpack
from ...simd import form_of
from ...spec import FixedGrid, IntegerGrid
from ..attributes import COUNT, LIST, NUMBERS, STRING, UNIT, choice, record, several
from .finish import finishing
from .quantize import coding
from .registry import Operation, each_part, operation

_PARTS = {
    "bits": choice(1, 2, 4, 8),
    "shape": several(COUNT, 2),
    "codes": STRING,
    "scale": NUMBERS,
    "zero_point": NUMBERS,
}
_WEIGHT = record(**_PARTS) | record(**_PARTS, levels=LIST)


def whole_numbers(plan, weight: dict) -> np.ndarray:
    """What the codes of a weight stand for, before zero point and scale: themselves or levels, (K, M) uint8."""
    codes = unpack(plan.arrays[weight["codes"]], weight["bits"], weight["shape"][0]).T
    return Levels(weight["levels"], weight["bits"]).of(codes) if "levels" in weight else codes


@operation("linear", weight=_WEIGHT, optional={"unit": UNIT})
class Linear(Operation):
    """Codes, (rows, K), times a weight of shape (K, M), M rows of K codes packed without padding, of levels or not.

    With a unit the result are fixed-point numbers, see :mod:`numba_kernels.fixed_point`.
    """

    def check(self, plan, op, value):
        weight = op["weight"]
        K, M = weight["shape"]
        plan.expect_columns(value, K, "codes")
        plan.require(not is_per_channel(plan, value), "inputs with a scale per channel cannot be multiplied")
        codes = plan.arrays[weight["codes"]]
        fits = codes.dtype == np.uint8 and codes.shape == (M, dense_bytes(K, weight["bits"]))
        plan.require(fits, "weight codes do not fit")
        top = self._check_levels(plan, weight) if "levels" in weight else (1 << weight["bits"]) - 1
        plan.require(K * 255 * top < 2**31, f"{K} inputs overflow an int32 sum")
        numbers = [plan.numbers(weight[name], (1, M)) for name in ("scale", "zero_point")]
        if "unit" in op:
            plan.require("levels" not in weight, "fixed-point products of levels")
            self._check_fixed(plan, plan.grids[value], K, top, *numbers)
            self._multiplier(plan, op, plan.grids[value])
        plan.define(op["out"], "float", M)

    @staticmethod
    def _check_levels(plan, weight):
        """Largest level, where all codes have one; arrays are read once, however many operations name them."""
        name, bits, inputs = weight["codes"], weight["bits"], weight["shape"][0]
        levels, key = Levels(weight["levels"], bits), ("largest code", name, bits, inputs)
        if len(levels.values) < 1 << bits and key not in plan.made:
            plan.made[key] = int(unpack(plan.arrays[name], bits, inputs).max(initial=0))
        plan.require(plan.made.get(key, 0) < len(levels.values), "codes beyond the last level")
        return levels.top

    @staticmethod
    def _check_fixed(plan, grid, inputs, top, scale, zero):
        plan.require(type(grid) in (FixedGrid, IntegerGrid), "fixed-point products of codes with scales of rows")
        plan.require(are_halves(grid.zero_point) and (2 * zero == np.rint(2 * zero)).all(), "zero points are no halves")
        plan.require((scale > 0).all(), "a scale must be positive")
        most = 4.0 * inputs * grid.most_steps * most_steps(zero, top)
        plan.require(most < 2**31 - 2**16, f"{inputs} inputs overflow an int32 sum")

    def resolve(self, resolver, op):
        resolver.each(op, op["weight"]["shape"][1])

    def emit(self, stage, op):
        (value,), (out,) = op.reads, op.writes
        weight, slot = stage.weight(op.spec), stage.hold(out, stage.new_slot())
        stage.costs_products(weight.inputs * weight.columns)
        spec = op.spec.get("finish")  # of schedules only
        finished = NOTHING if spec is None else finishing(stage, spec, op.factors[0], op.columns)
        fixed = self._fixed_fields(stage, op, weight, value, out) if "unit" in op.spec else None
        if value in stage.looked_up:
            source, target = stage.looked_up[value]
            features, _ = stage.places.matrix(source)
            scratch = stage.area("codes", 8 * (weight.inputs + 64)), stage.area("totals", 4 * padded(weight.columns))
            operands = features, stage.places.chosen(source), target, stage.weight_fields(weight, weight.rows)
            shared, width = (stage.at_slot(slot), op.columns, *scratch, *operands), min(padded(op.columns), 64)
            if fixed is None:
                stage.add(look_up, (target.mode, width), Lookup(*shared, finished))
            else:
                fields = LookupFixed(*shared, coding(stage, stage.grid(value)), fixed)
                stage.add(look_up_fixed, (target.factor != 0, width), fields)
            return
        operand = stage.places.operand(value)
        form, steps = form_of(operand.bits, weight.top, weight.inputs, weight.columns)
        tiles = weight.tiles(form)
        room = operand.width * {"bytes": 8 // operand.bits, "words": 16 // operand.bits, "pairs": 2}[form]
        codes, groups = stage.area_of_rows("codes", room + 8), tiles.shape[1]
        numbers = room, groups, steps, operand, stage.weight_fields(weight, tiles)
        fields = stage.at_slot(slot), op.columns, codes, *numbers
        if fixed is None:
            stage.add(multiply, (operand.bits, form), Product(*fields, finished))
        else:
            stage.add(multiply_fixed, (operand.bits, form), ProductFixed(*fields, fixed))

    def _fixed_fields(self, stage, op, weight, value, out):
        grid, at, plan = stage.grid(value), stage.at, stage.assembly.plan
        multiplied = stage.multiplied(out, lambda: self._multiplier(plan, op.spec, grid.spec), op.columns)
        numbers = at(weight.twice_zeros), at(weight.twice_column_sums), multiplied
        return FixedProduct(int(grid.twice_zero[0]), *numbers)

    @staticmethod
    def _multiplier(plan, op, grid):
        weight = op["weight"]
        K, M = weight["shape"]
        scale, zero = (plan.numbers(weight[name], (1, M)) for name in ("scale", "zero_point"))
        most = grid.most_steps * most_steps(zero, (1 << weight["bits"]) - 1)
        return Multiplier.of_products(grid.scale.astype(np.float64) * scale, K, most, op["unit"])

    @each_part
    def reference(self, plan, op, codes):
        spec = op["weight"]
        K, M = spec["shape"]
        weight = whole_numbers(plan, spec).astype(np.int64)
        scale, zero = (plan.numbers(spec[name], (1, M)) for name in ("scale", "zero_point"))
        total = codes.codes.astype(np.int64) @ weight
        x_zero, w_zero = codes.zero.astype(np.float64), zero.astype(np.float64)
        row_sums = codes.codes.sum(1, keepdims=True, dtype=np.int64)
        centered = total - (x_zero * weight.sum(0) + w_zero * (row_sums - K * x_zero))
        if "unit" in op:
            return self._multiplier(plan, op, plan.grids[op["in"][0]]).times((4 * centered).astype(np.int64), K)
        return centered.astype(np.float32) * codes.scale * scale


def is_per_channel(plan, value) -> bool:
    """Whether codes have a scale per channel, by their grid's granularity in the plan."""
    return getattr(plan.grids[value], "columns", 1) > 1
