"""Packed codes: rows that kernels read and write, that are searched, and kept in files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ModelFileError
from ..given import checked_nodes
from ..kernels import fields
from ..layout import padded
from ..once import once
from ..packing import unpack
from .matrices import Grid


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
