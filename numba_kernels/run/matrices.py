"""Parts of a plan in the kernels' layout: grids, weights."""

from __future__ import annotations

import numpy as np

from ..given import whole_number
from ..kernels import fields
from ..kernels.product import center_codes, tile_weight
from ..layout import pad, padded, row_bytes, storage_bits
from ..levels import Levels
from ..once import once
from ..plan.ops.linear import whole_numbers
from ..spec import (
    BITS,
    MOST_HALVINGS,
    FixedGrid,
    GridSpec,
    GroupGrid,
    IntegerGrid,
    OwnGrid,
    RowGrid,
    ShiftGrid,
    SignGrid,
)


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
        columns = whole_number(columns, "columns of a grid", 1)
        if scale is None:
            top = (1 << bits) - 1 if bits in BITS else 1
            range_qmax = top if range_qmax is None else range_qmax
            spec = RowGrid(bits, alpha, half_grid, range_qmax, divisor, shift)
        else:
            numbers = scale, zero_point, zero_point if offset is None else offset
            spec = FixedGrid(bits, *numbers, columns) if reach is None else ShiftGrid(bits, *numbers, columns, reach)
        self._lay_out(spec, columns)

    @classmethod
    def of(cls, spec: GridSpec, columns: int) -> Grid:
        """``spec`` in the kernels' layout, for rows of ``columns``."""
        grid = cls.__new__(cls)
        grid._lay_out(spec, columns)
        return grid

    def _lay_out(self, spec, columns):
        self.spec, self.columns, self.bits, self.top = spec, columns, storage_bits(spec.bits), spec.top
        self.per_row, ranges = isinstance(spec, (OwnGrid, ShiftGrid)), (0.0, 0.0, 0.0, 0.0)
        if isinstance(spec, OwnGrid):
            self.mode = fields.SIGN if isinstance(spec, SignGrid) else fields.GROUP
            self.scale = self.zero = self.inverse = self.offset = np.zeros(1, np.float32)
        else:
            self.mode = fields.STATIC
            numbers = spec.scale, spec.zero_point, spec.offset
            self.scale, self.zero, self.offset = (pad(array, columns) for array in numbers)
            self.inverse = pad(np.float32(1) / spec.scale, columns)
        if isinstance(spec, RowGrid):
            self.mode = fields.ROW_HALF if spec.half_grid else fields.ROW_AFFINE
            ranges = spec.alpha, spec.range_qmax, spec.divisor, spec.added
        if isinstance(spec, GroupGrid):
            self.inverse = spec.table().ravel()
            ranges = 0.0, len(spec.widths), 0.0, float(spec.half_grid)
        if isinstance(spec, IntegerGrid):
            self.mode, self.coding = fields.INTEGER, spec.coding
            self.power = pad(self.coding.power, columns)
            self.multiplier, self.whole = (
                pad(part, columns, np.int32) for part in (self.coding.numbers, self.coding.whole)
            )
        if isinstance(spec, ShiftGrid):
            self.mode, self.unit = fields.SHIFT, self.scale * np.float32(2.0**-MOST_HALVINGS)
            ranges = spec.reach, self.top, self.scale[0], self.zero[0]
        self.ranges = tuple(float(np.float32(number)) for number in ranges)

    @property
    def width(self) -> int:
        """Bytes of a packed row."""
        return row_bytes(self.columns, self.bits)

    def bytes_of(self, rows: int) -> int:
        """Bytes of as many rows of codes, with what each has of its own."""
        return rows * (self.width + 8 * self.per_row + (self.mode == fields.SHIFT))

    @once
    def exact_sum(self) -> int:
        """How many (code − zero point) float32 sums exactly; 0 where zero points are not whole in some 2^−8."""
        zero = self.zero.astype(np.float64)
        for digits in range(9):
            if (zero * 2**digits == np.rint(zero * 2**digits)).all():
                return int(2 ** (24 - digits) // (self.top + abs(zero).max()))
        return 0

    @once
    def twice_zero(self) -> np.ndarray:
        """Twice the zero points of columns, int32, where they are multiples of ½."""
        return (2 * self.zero).astype(np.int32)

    @property
    def is_uniform(self) -> bool:
        """Whether all columns of a row share scale, zero point and offset."""
        return isinstance(self.spec, OwnGrid) or self.spec.is_uniform


class Weight:
    """A quantised weight: w ≈ (code − zero_point) · scale.

    Parameters
    ----------
    codes : (K, M) uint8
    scale, zero_point : float or (M,) array
    levels : sequence of int, optional
        Whole numbers from 0 to 255, ascending, that the codes 0, 1, 2, … stand for in the place of themselves.

    Raises
    ------
    ValueError
        For codes of another dtype or shape, numbers that are not finite, and levels that are none.
    """

    def __init__(self, codes: np.ndarray, scale, zero_point, levels=None):
        if codes.ndim != 2 or codes.dtype != np.uint8:
            raise ValueError(f"weight codes must be a (K, M) uint8 array, got {codes.dtype} of shape {codes.shape}.")
        _check_finite(scale, zero_point)
        codes = codes if levels is None else Levels(tuple(map(_whole, levels)), 8).of(codes)
        self.inputs, self.columns = codes.shape
        self.top, self._tiles = int(codes.max(initial=0)), {}
        self._codes, middle = center_codes(codes)
        self.scale = pad(scale, self.columns)
        self.zero = pad(np.asarray(zero_point, np.float32).astype(np.float64) - middle, self.columns, np.float64)
        self.sums = pad(self._codes.sum(axis=0, dtype=np.int64), self.columns, np.float64)
        self.twice_zero, self.twice_sums = 0, None
        # 4 Σ (q_x − z_x) (q_w − z_w), with |q_x|, |z_x| ≤ 255
        zero = self.zero[0]
        is_small = 4.0 * self.inputs * 510 * (middle + abs(zero)) < 2**31
        if is_small and 2 * zero == np.rint(2 * zero) and (self.zero[: self.columns] == zero).all():
            self.twice_zero, self.twice_sums = int(2 * zero), (2 * self.sums).astype(np.int32)

    @classmethod
    def of(cls, plan, spec: dict) -> Weight:
        """A weight of a plan."""
        numbers = (plan.numbers(spec[name], (1, spec["shape"][1])) for name in ("scale", "zero_point"))
        return cls(whole_numbers(plan, spec), *numbers)

    def tiles(self, form: str) -> np.ndarray:
        """Codes in the order of :func:`numba_kernels.kernels.product.tile_weight`, made once."""
        if form not in self._tiles:
            self._tiles[form] = tile_weight(self._codes, form)
        return self._tiles[form]

    @once
    def twice_zeros(self) -> np.ndarray:
        """Twice the zero points of columns, int32, where they are multiples of ½."""
        return (2 * self.zero).astype(np.int32)

    @once
    def twice_column_sums(self) -> np.ndarray:
        """Twice the sums of the codes of columns, int32."""
        return (2 * self.sums).astype(np.int32)

    @once
    def rows(self) -> np.ndarray:
        """int8 codes of each input, (K, padded columns)."""
        rows = np.zeros((self.inputs, padded(self.columns)), np.int8)
        rows[:, : self.columns] = self._codes
        return rows


def _whole(level):
    """A level as Python's number, where it is one of NumPy's."""
    return int(level) if isinstance(level, np.integer) else level


def _check_finite(*numbers):
    if not all(np.isfinite(np.asarray(array, np.float32)).all() for array in numbers):
        raise ValueError("scales, zero points and offsets must be finite.")
