"""Parts of a plan in the kernels' layout: grids, weights, codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ModelFileError
from ..given import whole_number
from ..kernels import fields
from ..kernels.product import center_codes, tile_weight
from ..layout import pad, padded, row_bytes, storage_bits
from ..levels import Levels
from ..once import once
from ..packing import unpack
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


@dataclass(frozen=True)
class Codes:
    """Packed codes of values (code − zero) · scale; all arrays are contiguous.

    Parameters
    ----------
    packed : (rows, W) uint8 array
    grid : Grid
        How they were coded.
    scale, zero : (rows,) float32 array, or one padded per column
    powers : (rows,) int8 array, optional
        Scales in units, powers of two, where the grid has them.

    Raises
    ------
    ValueError
        For arrays of other shapes or dtypes, or that are not contiguous.
    """

    packed: np.ndarray
    grid: Grid
    scale: np.ndarray
    zero: np.ndarray
    powers: np.ndarray | None = None

    def __post_init__(self):
        packed, rows = self.packed, len(self.packed)
        if packed.dtype != np.uint8 or packed.shape != (rows, self.grid.width):
            raise ValueError(
                f"expected (rows, {self.grid.width}) uint8 packed rows, got {packed.dtype} {packed.shape}."
            )
        length = rows if self.grid.per_row else padded(self.grid.columns)
        if any(part.dtype != np.float32 or part.shape != (length,) for part in (self.scale, self.zero)):
            raise ValueError(f"expected scale and zero point as float32 of length {length}.")
        if self.is_shifted and (self.powers is None or self.powers.dtype != np.int8 or len(self.powers) != rows):
            raise ValueError(f"expected powers as int8 of length {rows}.")
        parts = (packed, self.scale, self.zero, *(() if self.powers is None else (self.powers,)))
        if not all(part.flags.c_contiguous for part in parts):
            raise ValueError("expected contiguous arrays; pass np.ascontiguousarray(…) of each.")

    @property
    def weights(self) -> np.ndarray | None:
        """The former name of ``powers``."""
        return self.powers

    @property
    def is_shifted(self) -> bool:
        """Whether rows are multiples of a common scale by powers of two."""
        return self.grid.mode == fields.SHIFT

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the codes."""
        return len(self.packed), self.grid.columns

    def unpacked(self) -> np.ndarray:
        """The codes, (rows, columns) uint8."""
        return unpack(self.packed, self.grid.bits, self.grid.columns)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, with what it has of its own."""
        return self.grid.bytes_of(1)

    def rows(self, rows) -> Codes:
        """Some rows, by number or as a mask, copied.

        Raises
        ------
        GraphError
            For rows that there are not.
        """
        from .coded import rows_of_codes
        from .part import checked_nodes

        return rows_of_codes(self, checked_nodes(rows, len(self.packed), "rows"))

    def values(self) -> np.ndarray:
        """What the codes stand for, (rows, columns) float32."""
        from .coded import values_of

        return values_of(self)

    def save(self, path):
        """Write the codes to ``path``, a safetensors file, whole or not at all; returns ``path``."""
        from .code_file import save_codes

        return save_codes(self, path)

    @classmethod
    def load(cls, path, check: bool = False) -> Codes:
        """The codes that :meth:`save` wrote, mapped into memory: rows are read from disk when they are first used.

        Parameters
        ----------
        path : path-like
        check : bool
            Whether the packed rows are read whole, and their SHA-256 compared; everything else always is.

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        ModelFileError
            When the file is truncated, damaged, of another kind, or of a newer version.
        """
        from .code_file import load_codes

        found = load_codes(path, check)
        if not isinstance(found, cls):
            raise ModelFileError(f"{path} holds words of a codebook; dgl_lowbit.FeatureStore.load reads it.")
        return found

    @once
    def inverse_norms(self) -> np.ndarray:
        """1 / ‖row‖ of the values of each row, (rows,) float32, 0 for rows of zeros; made once, for cosines."""
        from .search import inverse_norms

        return inverse_norms(self)

    def search(self, queries, k: int, metric: str = "inner", threads: int | None = None):
        """The rows that are nearest to each query: exact, among the codes as they are, nothing is unpacked.

        For every query and row an estimate of the score is made in integers, with a bound on its error; rows that may
        be among the best are scored from their codes in float64. So the result is that of a search through all values
        of the codes. It depends neither on threads nor on which queries are asked together; of rows with equal scores
        the first come first.

        Parameters
        ----------
        queries : (Q, columns) float array, or Codes
            Codes may be on another grid than the rows. Those with one scale, or one a query, are multiplied as they
            are; floats, and codes with scales of columns, are rounded to 8 bits for the estimates.
        k : int
            Rows that are wanted, from 1 to all.
        metric : {"inner", "cosine"}
            Σ x y, or that over ‖x‖ ‖y‖, 0 where one of them is 0.
        threads : int, optional
            Default: Numba's current number.

        Returns
        -------
        scores : (Q, k) float32 array
            Best first.
        rows : (Q, k) int64 array
            Their numbers.

        Raises
        ------
        GraphError
            For queries that are not finite or do not fit, a ``k`` that there are not as many rows of, another metric.

        Examples
        --------
        >>> from numba_kernels import quantize
        >>> codes = quantize(np.array([[1, 0], [0, 1], [1, 1]], np.float32), Grid(2, bits=2, scale=0.5))
        >>> codes.search(np.array([[1, 0.5]], np.float32), k=2)
        (array([[1.5, 1. ]], dtype=float32), array([[2, 0]]))
        """
        from .search import search

        return search(self, queries, k, metric, threads)


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
