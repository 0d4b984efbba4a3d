"""Parts of instructions' fields that several of them have.

Integers are counts and addresses: of arrays in memory, or, where it says *in the scratch*, bytes from the scratch's
beginning. Whoever launches a program keeps the arrays alive. Per-column arrays are padded with zeros to
:func:`numba_kernels.layout.padded`.
"""

from __future__ import annotations

from typing import NamedTuple

# How rows are coded: with fixed scales, with a scale of each row's own (affine, or symmetric about 0 without a code for
# it), with a power of two of one scale, as signs times the row's mean magnitude, with fixed scales in integers, with
# those of the row's group.
STATIC, ROW_AFFINE, ROW_HALF, SHIFT, SIGN, INTEGER, GROUP = range(7)


class Matrix(NamedTuple):
    """float32 rows in memory."""

    address: int
    stride: int
    flag: int  # read: address of an int32 that becomes 1 when a number is not finite, or 0; written: past the caches?
    places: int = 0  # read: where in a row the columns stand that are read, (columns,) int32, ascending, or 0 for all


class Chosen(NamedTuple):
    """The columns of K that are read; 0 each where all are."""

    bits: int  # (⌈K / 64⌉,) int64: a bit each, low bits first, that says whether it is read
    ranks: int  # (K,) int32: of those that are read, how many stand before


class Target(NamedTuple):
    """Where and how rows are requantised and packed.

    codes = clamp(rint(src · factor · inverse + offset), 0, top), with ``inverse`` and ``offset`` fixed (STATIC) or
    found from the row's extremes (ROW_AFFINE, ROW_HALF, GROUP) or magnitudes (SIGN), in which case ``scale`` and
    ``zero`` are written. In SHIFT ``inverse`` is doubled as often as the row's extremes allow, and ``scale``, ``zero``
    and ``powers`` are written.
    """

    packed: int  # (rows, width) uint8
    width: int
    bits: int
    top: int
    local: int  # whether packed, and a scale and zero per row, stand in the scratch, for the rows of the tile
    scale: int  # (rows,) float32; where fixed, (columns,) and not written
    zero: int
    factor: int  # (rows,) float32, or 0 for 1
    mode: int
    inverse: int  # (columns,) float32; in GROUP (3, groups): alpha, largest code, limit
    offset: int
    alpha: float  # in SHIFT the range that is halved, times √2
    range_qmax: float  # in GROUP the number of groups
    divisor: float  # in SHIFT the common scale
    added: float  # in SHIFT the zero point, in GROUP whether grids are half ones
    powers: int  # (rows,) int8, in SHIFT: scales in units
    fault: int  # address of an int32 that becomes 1 when a row's own scale is not finite


class Operand(NamedTuple):
    """Packed codes, and what turns them into values: (code − zero) · scale."""

    packed: int  # (rows, width) uint8
    width: int
    bits: int
    local: int
    per_row: int  # whether scale and zero are (rows,), else (columns,)
    scale: int  # float32
    zero: int


class Finishing(NamedTuple):
    """What becomes of a sum or a product: max(x · factor · scale + bias, floor)."""

    factor: int  # (rows,) float32, or 0 for 1
    scale: int  # (columns,) float32, or 0 for 1
    bias: int  # (columns,) float32; 0 where the number is left as it is
    floor: float


class Multiplied(NamedTuple):
    """How accumulators become fixed-point numbers, see :class:`numba_kernels.fixed_point.Multiplier`."""

    multiplier: int  # (columns,) int32
    shift: int
    bits: int
    term: int
    power: float  # 2^-unit


class FixedProduct(NamedTuple):
    """How sums Σ q_x q_w become fixed-point numbers: those of 4 · Σ (q_x − z_x) (q_w − z_w)."""

    twice_zero: int  # 2 z_x
    twice_zeros: int  # (columns,) int32, 2 z_w
    twice_sums: int  # (columns,) int32, 2 Σ q_w
    multiplied: Multiplied


class Edges(NamedTuple):
    """In-neighbours of every row."""

    indptr: int  # (rows + 1,) int64
    indices: int  # int32, AHEAD more than edges


class Coding(NamedTuple):
    """How numbers become codes with integer arithmetic, see :class:`numba_kernels.fixed_point.Coding`."""

    power: int  # (columns,) float32
    multiplier: int  # (columns,) int32
    whole: int  # (columns,) int32
    shift: int
    added: int


class ProductWeight(NamedTuple):
    """A quantised (K, M) weight."""

    codes: int  # int8 or int16: tiles for PRODUCT, rows for LOOKUP
    inputs: int  # K
    scale: int  # (M,) float32
    zero: int  # (M,) float64
    sums: int  # (M,) float64, column sums of the codes
    twice_zero: int  # where int32 holds products as multiples of ¼: twice the one zero point of all columns
    twice_sums: int  # and (M,) int32, twice the column sums; else 0
