"""Products of codes and quantised weights."""

from __future__ import annotations

import numpy as np

from ...kernels.lookup import Lookup, look_up
from ...kernels.product import Product, multiply
from ...layout import dense_bytes, padded
from ...packing import unpack
from ...simd import form_of
from ...spec import Levels
from ..attributes import COUNT, LIST, NUMBERS, STRING, choice, record, several
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


@operation("linear", weight=_WEIGHT)
class Linear(Operation):
    """Codes, (rows, K), times a weight of shape (K, M), M rows of K codes packed without padding, of levels or not."""

    def check(self, plan, op, value):
        weight = op["weight"]
        K, M = weight["shape"]
        plan.expect_columns(value, K, "codes")
        plan.require(not is_per_channel(plan, value), "inputs with a scale per channel cannot be multiplied")
        codes = plan.arrays[weight["codes"]]
        fits = codes.dtype == np.uint8 and codes.shape == (M, dense_bytes(K, weight["bits"]))
        plan.require(fits, "weight codes do not fit")
        top = int(whole_numbers(plan, weight).max()) if "levels" in weight else (1 << weight["bits"]) - 1
        plan.require(K * 255 * top < 2**31, f"{K} inputs overflow an int32 sum")
        for name in ("scale", "zero_point"):
            plan.numbers(weight[name], (1, M))
        plan.define(op["out"], "float", M)

    def resolve(self, resolver, op):
        resolver.each(op, op["weight"]["shape"][1])

    def emit(self, stage, op):
        (value,), (out,) = op.reads, op.writes
        weight, slot = stage.weight(op.spec), stage.hold(out, stage.new_slot())
        stage.costs_products(weight.inputs * weight.columns)
        if value in stage.looked_up:
            source, target = stage.looked_up[value]
            features, _ = stage.places.matrix(source)
            scratch = stage.area("codes", 8 * (weight.inputs + 64)), stage.area("totals", 4 * padded(weight.columns))
            fields = (
                stage.at_slot(slot),
                op.columns,
                *scratch,
                features,
                target,
                stage.weight_fields(weight, weight.rows),
            )
            stage.add(look_up, (target.mode, min(padded(op.columns), 64)), Lookup(*fields))
            return
        operand = stage.places.operand(value)
        form, steps = form_of(operand.bits, weight.top, weight.inputs, weight.columns)
        tiles = weight.tiles(form)
        room = operand.width * {"bytes": 8 // operand.bits, "words": 16 // operand.bits, "pairs": 2}[form]
        codes, groups = stage.area_of_rows("codes", room + 8), tiles.shape[1]
        numbers = room, groups, steps, operand, stage.weight_fields(weight, tiles)
        stage.add(multiply, (operand.bits, form), Product(stage.at_slot(slot), op.columns, codes, *numbers))

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
        return centered.astype(np.float32) * codes.scale * scale


def is_per_channel(plan, value) -> bool:
    """Whether codes have a scale per channel, by their grid's granularity in the plan."""
    return getattr(plan.grids[value], "columns", 1) > 1
