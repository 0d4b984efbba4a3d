"""Layers with integer arithmetic, written into a plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from numba_kernels.fixed_point import NORM_FRACTION, most_steps, on_unit, unit_of_product, unit_of_sum
from numba_kernels.spec import FixedGrid, IntegerGrid, from_json

from ..nn import LowBitLayer
from .constants import Constants
from .errors import FreezeError
from .recorder import Recorder


def arithmetic_of(layers: dict[str, LowBitLayer]) -> str:
    """The arithmetic that low-bit layers, by name, agree on.

    Raises
    ------
    FreezeError
        When they do not.
    """
    by_kind: dict[str, str] = {}
    for name, layer in layers.items():
        by_kind.setdefault(layer.config.arithmetic if layer.config else "float", name or "the model")
    if len(by_kind) > 1:
        raise FreezeError(
            f"{by_kind['integer']} has integer arithmetic and {by_kind['float']} has not; give all layers one config."
        )
    return next(iter(by_kind), "float")


@contextmanager
def computing_in(arithmetic: str | None, layers: dict[str, LowBitLayer]) -> Iterator[None]:
    """Low-bit layers, by name, in another arithmetic than their own; None leaves them.

    Raises
    ------
    FreezeError
        For layers and grids that it does not serve.
    """
    own = {layer: layer.config for layer in layers.values()}
    try:
        if arithmetic is not None:
            for name, layer in layers.items():
                _set(layer, name or "the model", arithmetic)
        yield
    finally:
        for layer, config in own.items():
            layer.config = config


def _set(layer, name, arithmetic):
    try:
        layer.set_arithmetic(arithmetic)
    except ValueError as error:
        raise FreezeError(f"{name} cannot be frozen in {arithmetic} arithmetic: {error}") from error


def _integer_grid(quantizer) -> IntegerGrid:
    grid = quantizer.export()
    if type(grid) is not FixedGrid:
        raise NotImplementedError("integer arithmetic needs scales that are known before the data.")
    return IntegerGrid(grid.bits, grid.scale, grid.zero_point, grid.offset, grid.columns)


class IntegerRecorder(Recorder):
    """The recorder of models in integer arithmetic: :class:`dgl_lowbit.nn.integer.IntegerOps`, written down."""

    def __init__(self):
        super().__init__()
        self.constants = Constants(_integer_grid)
        self._units: dict[int, int] = {}  # of values that hold whole multiples of 2^-unit
        self._fractions: dict[int, int] = {}  # of sums, what norms add to it

    def quantize(self, quantizer, x, norm=None):
        if norm is None:
            return super().quantize(quantizer, x)
        graph, *of_degrees = norm
        return self._each(lambda part: self._coded("quantize", quantizer, part, graph, norm=_norm(*of_degrees)), x)

    def product(self, codes, quantizer, weight, norm=None, bias=None, onto=None):
        spec, grid = self._export(self.constants.weight, quantizer, weight), quantizer.export()
        of_weights = most_steps(grid.zero_point, (1 << spec["bits"]) - 1)

        def multiplied(part):
            scale, most = self._numbers(part)
            unit = unit_of_product(scale.astype(np.float64) * grid.scale, spec["shape"][0], most * of_weights)
            out = self._emit("linear", part, weight=spec, unit=unit)
            return self._finished(self._of_unit(self._set_columns(out, spec["shape"][1]), unit), norm, bias, onto)

        return self._each(multiplied, codes)

    def aggregate(self, graph, codes, edge_weight=None, self_codes=None, norm=None):
        unit = unit_of_sum(*self._numbers(codes))
        total = self._emit("aggregate", graph, codes, edge_weight, self_codes, unit=unit)
        self._fractions[total.number] = NORM_FRACTION
        return self._finished(self._of_unit(total, unit), norm)

    def scale_by_degree(self, x, graph, side, power, plus=0, unless=None):
        unit = self._units.get(x.number)
        if unit is None:
            raise FreezeError(
                f"{self._where or 'forward'} cannot be frozen: it norms by degree outside of low-bit layers, in "
                "float32, which integer arithmetic has not; use arithmetic='float'."
            )
        unit += self._fractions.get(x.number, 0)
        out = self._emit("fixed_degree", x, graph, unit=unit, **_norm(side, power, plus))
        return self._of_unit(out, unit)

    def bias(self, x, bias):
        unit = self._units.get(x.number)
        if unit is None or bias is None:
            return super().bias(x, bias)
        numbers = on_unit(bias.detach().cpu().numpy(), unit)
        return self._of_unit(self._alike("bias", x, bias=self.constants.numbers(numbers)), unit)

    def affine(self, x, scale, bias):
        raise FreezeError(
            f"{self._where or 'forward'} cannot be frozen: its columns are multiplied by float32 numbers, as BatchNorm "
            "does, which integer arithmetic has not; leave it out, or use arithmetic='float'."
        )

    def _under_bound(self, layer, bound, target):
        if "smoothness" in layer._modules:
            self.fail("a smoothness bound takes its steps in float32; use arithmetic='float'.")
        return target

    def _numbers(self, codes):
        """Scale, and most steps from 0, of codes."""
        columns = self.columns(codes) if codes.quantizer["granularity"] == "channel" else 1
        grid = from_json(codes.quantizer, columns, self.constants.arrays.__getitem__)
        return grid.scale, grid.most_steps

    def _of_unit(self, x, unit):
        self._units[x.number] = unit
        return x


def _norm(side, power, plus=0):
    return {"side": side, "power": power, "plus": plus}
