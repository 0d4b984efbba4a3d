"""What the kernel executes: a list of instructions on tiles of rows, each a row of numbers.

A stage of a model works on the rows of one set of nodes, a tile of them at a time, held in cache: in slots of float32
rows, and as packed codes. An instruction does one thing to the whole tile.

    instruction   does, for each row i of the tile                                  fields after the header
    LOAD          dst ← float32 rows in memory                                      Matrix
    STORE         float32 rows in memory ← src                                      Matrix
    TERM          dst ← [dst +] coefficient · (src · factor_i)                      Term
    FINISH        dst ← max(src · factor_i · scale + bias, floor)                   Finish
    MAP           dst ← a function of src, or of whole rows of it                   Map
    PLACE         dst[:, offset:] ← src                                             offset, total columns
    LARGER        dst ← max(dst, src)
    HEADS         dst ← sums over heads, or over the columns of each head, of src   Heads
    ENCODE        packed codes ← src, requantised                                   Target
    DECODE        dst ← values of packed codes                                      Operand
    GATHER        dst ← sum of the packed codes of the in-neighbours                Operand, Edges
    ATTEND        dst ← the same, weighted with attention                           Operand, Operand, Operand, Attention
    READOUT       dst ← sums, means or maxima of segments of float32 rows           Matrix, Segments
    PRODUCT       dst ← packed codes of the row · weight                            Operand, Weight
    LOOKUP        dst ← codes of a float32 row that is mostly 0 · weight            Matrix, Target, Weight

The header is the operation, dst, src (slots) and the number of columns. Rows of slots have a stride that every block
of columns fits; up to the next multiple of sixteen, what stands beyond the columns is 0. Per-column arrays are padded
likewise, with zeros. Integers stand in a field as they are, floats as the bits of a float64, arrays as their address;
whoever launches the kernel keeps them alive, as :class:`Launch` does.
"""

from __future__ import annotations

from typing import NamedTuple

LOAD, STORE, TERM, FINISH, ENCODE, DECODE, GATHER, PRODUCT, LOOKUP = range(9)
MAP, PLACE, LARGER, HEADS, ATTEND, READOUT = range(9, 15)
LEAKY_RELU, ELU, SIGMOID, TANH, STANDARDISE, NORMALIZE, SOFTMAX, LOG_SOFTMAX = range(8)
SUM, MEAN, MAX = range(3)
STATIC, ROW_AFFINE, ROW_HALF, SHIFT = range(4)
# In SHIFT a row's scale is the common one over 2^0 … 2^6; 2^6 over that, its weight in sums, fits an int8.
MOST_HALVINGS = 6
UNWEIGHTED, FLOAT_WEIGHTS, INT8_WEIGHTS, NODE_WEIGHTS, LARGEST, EDGE_CODES = range(6)
HEADER, FIELDS = 4, 40


class Matrix(NamedTuple):
    """float32 rows in memory."""

    address: int
    stride: int
    flag: int  # read: address of an int32 that becomes 1 when a number is not finite, or 0; written: past the caches?


class Term(NamedTuple):
    """A term of a sum."""

    coefficient: float
    factor: int  # (rows,) float32, or 0 for 1
    is_first: int  # whether dst is written anew


class Finish(NamedTuple):
    """Degree norm, scale, bias and ReLU."""

    factor: int  # (rows,) float32, or 0 for 1
    scale: int  # (columns,) float32, or 0 for 1
    bias: int  # (columns,) float32
    floor: float


class Map(NamedTuple):
    """A function of numbers, or of rows, and what it depends on: a slope, an exponent's factor, an ε."""

    kind: int
    parameter: float


class Heads(NamedTuple):
    """dst[k] = Σ_j src[k · step + j · stride] · vector[k · step + j · stride]."""

    step: int
    count: int  # numbers summed
    stride: int
    vector: int  # (columns,) float32


class Segments(NamedTuple):
    """Rows that are read out together."""

    starts: int  # (segments + 1,) int64
    kind: int


class Target(NamedTuple):
    """Where and how rows are requantised and packed.

    codes = clamp(rint(src · factor · inverse + offset), 0, top), with ``inverse`` and ``offset`` fixed (STATIC) or
    found from the row's extremes (ROW_AFFINE, ROW_HALF), in which case ``scale`` and ``zero`` are written. In SHIFT
    ``inverse`` is doubled as often as the row's extremes allow, and ``scale``, ``zero`` and ``weights`` are written.
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
    inverse: int  # (columns,) float32
    offset: int
    alpha: float  # in SHIFT the range that is halved, times √2
    range_qmax: float
    divisor: float  # in SHIFT the common scale
    shift: float  # in SHIFT the zero point
    weights: int  # (rows,) int8, in SHIFT


class Operand(NamedTuple):
    """Packed codes, and what turns them into values: (code − zero) · scale."""

    packed: int  # (rows, width) uint8
    width: int
    bits: int
    local: int
    per_row: int  # whether scale and zero are (rows,), else (columns,)
    scale: int  # float32
    zero: int


class Edges(NamedTuple):
    """In-neighbours of every row."""

    indptr: int  # (rows + 1,) int64
    indices: int  # int32
    exact: int  # number of codes up to which float32 holds Σ (code − zero) exactly, and every term of it
    weights: int  # float32 or int8, in the order of indices; int8 of the source nodes
    weight_kind: int
    own: int  # packed codes of the rows themselves, added once, or 0
    own_weights: int  # int8, their powers of two, where sources have them
    hubs: int  # (H,) int64, rows whose edges were summed before
    num_hubs: int
    hub_starts: int  # (H + 1,) int64, where a hub's partial sums stand
    partials: int  # (…, codes of a packed row) int32
    edge_packed: int  # packed codes of edges, of as many bits and bytes a row, in EDGE_CODES
    edge_ids: int  # (E,) int64: the row of each edge there, or 0 for their order


class Attention(NamedTuple):
    """Softmax over in-neighbours j of i of Σ_d vector[h, d] · LeakyReLU(left[j, h, d] + right[i, h, d]), coded."""

    indptr: int  # (rows + 1,) int64
    indices: int  # int32
    heads: int
    columns: int  # of left and right, a multiple of heads
    vector: int  # (columns,) float32
    slope: float
    top: int  # largest code
    scale: float  # of the codes, whose zero point is 0


class Weight(NamedTuple):
    """A quantised (K, M) weight."""

    codes: int  # int8: tiles for PRODUCT, rows for LOOKUP
    inputs: int  # K
    scale: int  # (M,) float32
    zero: int  # (M,) float64
    sums: int  # (M,) float64, column sums of the codes


class Scratch(NamedTuple):
    """What a task keeps in cache, as offsets in bytes."""

    rows: int  # of a tile
    stride: int  # floats of a slot's row
    codes: int  # unpacked codes, or columns and values of what is not 0
    totals: int  # int32 sums of a row
    grid: int  # a row's own inverse and offset, as vectors
    size: int
