"""What stages hand to each other, and the parts of a plan in the kernels' layout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..kernels import fields
from ..kernels.product import move_to_int8, tile_weight
from ..layout import check_bits, pad, padded, row_bytes, storage_bits
from ..packing import unpack
from ..plan.plan import Plan
from .program import Argument


@dataclass
class Floats:
    """Rows of float32: an array of ours, (rows, stride), with 0 beyond the columns, or an argument of a launch."""

    array: np.ndarray | Argument
    columns: int


class Grid:
    """How columns are coded: code = clamp(rint(x / scale + offset), 0, 2^bits − 1), x ≈ (code − zero_point) · scale.

    Parameters
    ----------
    columns : int
    bits : int
        1, 2, 3, 4 or 8.
    scale, zero_point, offset : float or (columns,) array, optional
        ``offset`` defaults to ``zero_point``. Without a scale, every row gets its own from its extremes, and a zero
        point and offset with it.
    alpha, range_qmax, divisor, shift : float
        How a row's own grid is found, see ``dgl_lowbit.quant.QLRQuantizer``. ``range_qmax`` defaults to 2^bits − 1.
    reach : float, optional
        With one scale: halve it for rows whose largest magnitude is at most reach / 2, reach / 4 … reach / 64. Sums of
        such rows over neighbours are still sums of integers, shifted.
    half_grid : bool
        Whether a row's own grid is symmetric about 0, without a code for 0.

    Raises
    ------
    ValueError
        For other bits, scales that are not positive, or arrays of other lengths.
    """

    def __init__(
        self, columns, bits, scale=None, zero_point=0.0, offset=None,
        *, alpha=1.0, range_qmax=None, divisor=1.0, shift=0.0, half_grid=False, reach=None,
    ):  # fmt: skip
        self.columns, self.bits, self.top = columns, storage_bits(bits), (1 << bits) - 1
        check_bits(self.bits)
        if not isinstance(columns, int) or columns < 1:
            raise ValueError(f"a grid has a whole number of columns, at least 1, got {columns!r}.")
        self.per_row = scale is None
        range_qmax = self.top if range_qmax is None else range_qmax
        self.ranges = [float(np.float32(number)) for number in (alpha, range_qmax, divisor, shift)]
        if self.per_row:
            self.mode = fields.ROW_HALF if half_grid else fields.ROW_AFFINE
            self.scale = self.zero = self.inverse = self.offset = np.zeros(1, np.float32)
        else:
            self.mode = fields.STATIC
            offset = zero_point if offset is None else offset
            if not (np.asarray(scale) > 0).all():
                raise ValueError("a scale must be positive.")
            _check_finite(scale, zero_point, offset)
            self.scale, self.zero, self.offset = (pad(numbers, columns) for numbers in (scale, zero_point, offset))
            self.inverse = pad(np.float32(1) / np.asarray(scale, np.float32), columns)
            if reach is not None:
                self._shift(reach)

    def _shift(self, reach):
        """Give every row a power of two of its own."""
        if not self.is_uniform or not np.float32(reach) >= 0:
            raise ValueError(f"reach goes with one scale for all columns and is not negative, got {reach!r}.")
        self.ranges = [float(np.float32(reach)), float(self.top), float(self.scale[0]), float(self.zero[0])]
        self.mode, self.per_row, self.unit = fields.SHIFT, True, self.scale * np.float32(2.0**-fields.MOST_HALVINGS)

    @classmethod
    def of(cls, plan: Plan, quantizer: dict, columns: int) -> Grid:
        """The grid of a plan's quantizer."""
        bits = quantizer["bits"]
        if quantizer["granularity"] == "row":
            ranges = {name: quantizer[name] for name in ("alpha", "range_qmax", "divisor", "shift", "half_grid")}
            return cls(columns, bits, **ranges)
        fixed = (plan.numbers(quantizer[n], (1, columns)) for n in ("scale", "zero_point", "offset"))
        return cls(columns, bits, *fixed, reach=quantizer.get("reach"))

    @property
    def width(self) -> int:
        """Bytes of a packed row."""
        return row_bytes(self.columns, self.bits)

    @cached_property
    def exact_sum(self) -> int:
        """How many (code − zero point) float32 sums exactly; 0 where zero points are not whole in some 2^−8."""
        zero = self.zero.astype(np.float64)
        for digits in range(9):
            if (zero * 2**digits == np.rint(zero * 2**digits)).all():
                return int(2 ** (24 - digits) // (self.top + abs(zero).max()))
        return 0

    @property
    def is_uniform(self) -> bool:
        """Whether all columns of a row share scale, zero point and offset."""
        known = self.scale[: self.columns], self.zero[: self.columns], self.offset[: self.columns]
        return self.per_row or all((numbers == numbers[0]).all() for numbers in known)


@dataclass
class Codes:
    """Packed codes, (rows, W) uint8, of values (code − zero) · scale."""

    packed: np.ndarray
    grid: Grid
    scale: np.ndarray  # (rows,) float32, or padded per column
    zero: np.ndarray
    weights: np.ndarray | None = None  # (rows,) int8: a row's power of two, where the grid has them

    def __post_init__(self):
        packed, rows = self.packed, len(self.packed)
        if packed.dtype != np.uint8 or packed.shape != (rows, self.grid.width):
            raise ValueError(
                f"expected (rows, {self.grid.width}) uint8 packed rows, got {packed.dtype} {packed.shape}."
            )
        length = rows if self.grid.per_row else padded(self.grid.columns)
        if any(part.dtype != np.float32 or part.shape != (length,) for part in (self.scale, self.zero)):
            raise ValueError(f"expected scale and zero point as float32 of length {length}.")
        if self.is_shifted and (self.weights is None or self.weights.dtype != np.int8 or len(self.weights) != rows):
            raise ValueError(f"expected weights as int8 of length {rows}.")

    @property
    def is_shifted(self) -> bool:
        """Whether rows are multiples of a common scale by powers of two."""
        return self.grid.mode == fields.SHIFT

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.packed), self.grid.columns

    def unpacked(self) -> np.ndarray:
        """The codes, (rows, columns) uint8."""
        return unpack(self.packed, self.grid.bits, self.grid.columns)


class Weight:
    """A quantised weight: w ≈ (code − zero_point) · scale.

    Parameters
    ----------
    codes : (K, M) uint8
    scale, zero_point : float or (M,) array

    Raises
    ------
    ValueError
        For codes of another dtype or shape, and numbers that are not finite.
    """

    def __init__(self, codes: np.ndarray, scale, zero_point):
        if codes.ndim != 2 or codes.dtype != np.uint8:
            raise ValueError(f"weight codes must be a (K, M) uint8 array, got {codes.dtype} of shape {codes.shape}.")
        _check_finite(scale, zero_point)
        self.inputs, self.columns = codes.shape
        self._codes = codes
        self.tiles, shift = tile_weight(codes)
        self.scale = pad(scale, self.columns)
        self.zero = pad(np.asarray(zero_point, np.float32).astype(np.float64) - shift, self.columns, np.float64)
        self.sums = pad(codes.sum(axis=0, dtype=np.int64) - shift * self.inputs, self.columns, np.float64)

    @classmethod
    def of(cls, plan: Plan, spec: dict) -> Weight:
        """A weight of a plan."""
        K, M = spec["shape"]
        codes = unpack(plan.arrays[spec["codes"]], spec["bits"], K).T
        return cls(codes, *(plan.numbers(spec[name], (1, M)) for name in ("scale", "zero_point")))

    @cached_property
    def rows(self) -> np.ndarray:
        """int8 codes of each input, (K, padded columns)."""
        rows = np.zeros((self.inputs, padded(self.columns)), np.int8)
        rows[:, : self.columns], _ = move_to_int8(self._codes)
        return rows


def _check_finite(*numbers):
    if not all(np.isfinite(np.asarray(array, np.float32)).all() for array in numbers):
        raise ValueError("scales, zero points and offsets must be finite.")


class Constants:
    """What a plan holds for its operations, by the value each of them writes."""

    def __init__(self, plan: Plan | None = None):
        self.grids, self.weights, self.biases, self.scales, self.vectors = {}, {}, {}, {}, {}
        for op in plan.ops if plan else ():
            if op["op"] in ("quantize", "delta"):
                self.grids[op["out"]] = Grid.of(plan, op["quantizer"], op["columns"])
            elif op["op"] == "linear":
                self.weights[op["out"]] = Weight.of(plan, op["weight"])
            elif op["op"] in ("bias", "scale"):
                kept = self.biases if op["op"] == "bias" else self.scales
                kept[op["out"]] = plan.numbers(op[op["op"]], None)
            elif op["op"] in ("attend", "head_sums"):
                self.vectors[op["out"]] = plan.numbers(op["vector"], None)
                if op["op"] == "attend":
                    self.grids[op["out"]] = Grid.of(plan, op["quantizer"], 1)
