"""Product quantisation: pieces of rows as numbers of words of a codebook (as in arXiv:2110.14363, for features)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .errors import GraphError
from .given import checked_nodes, whole_number

MOST_WORDS = 256
_ROWS, _SAMPLE, _ROUNDS = 1 << 12, 1 << 14, 12


@dataclass(frozen=True)
class Codewords:
    """Rows as numbers of words: a byte for each piece of ``D`` columns.

    Parameters
    ----------
    packed : (rows, pieces) uint8 array
        Numbers of words.
    book : (pieces, words, D) float32 array
        What they stand for.
    columns : int
        Columns of a row; what the last piece has beyond them is left out.

    Raises
    ------
    ValueError
        For arrays of other shapes or dtypes, and words that are not finite.
    """

    packed: np.ndarray
    book: np.ndarray
    columns: int

    def __post_init__(self):
        packed, book = self.packed, self.book
        if packed.ndim != 2 or packed.dtype != np.uint8 or book.ndim != 3 or book.dtype != np.float32:
            raise ValueError("codewords are (rows, pieces) uint8 numbers of a (pieces, words, columns) float32 book.")
        pieces, words, wide = book.shape
        fits = packed.shape[1] == pieces and 1 <= words <= MOST_WORDS
        if not fits or not pieces * wide - wide < self.columns <= pieces * wide:
            raise ValueError(f"a book of shape {book.shape} does not fit {self.columns} columns of {packed.shape[1]}.")
        if not np.isfinite(book).all():
            raise ValueError("words must be finite.")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.packed), self.columns

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, without those of the book, which all rows share."""
        return self.packed.shape[1]

    def rows(self, rows) -> Codewords:
        """Some rows, by number or as a mask, copied; GraphError for those that there are not."""
        rows = checked_nodes(rows, len(self.packed), "rows")
        return Codewords(np.take(self.packed, rows, axis=0), self.book, self.columns)

    def values(self) -> np.ndarray:
        """What they stand for, (rows, columns) float32.

        Raises
        ------
        GraphError
            For a number that has no word.
        """
        most = int(self.packed.max(initial=0))
        if most >= self.book.shape[1]:
            raise GraphError(
                f"a row names word {most}, and the book has {self.book.shape[1]}: rows are damaged; code them again."
            )
        found = self.book[np.arange(self.packed.shape[1]), self.packed]
        return np.ascontiguousarray(found.reshape(len(found), -1)[:, : self.columns])


def learned_codewords(values, wide: int, words: int = MOST_WORDS, seed: int = 0) -> Codewords:
    """The words that stand for pieces of ``wide`` columns of the rows of ``values``, found by k-means.

    Words are learned from at most 16,384 rows, drawn with ``seed``; every row then takes the nearest.

    Parameters
    ----------
    values : (rows, columns) floats
        Anything that gives rows for slices and for arrays of numbers.
    wide : int
        Columns of a piece: at 256 words 4 are 2 bits a number, 8 are 1 bit.
    words : int
        At most 256, and as many as there are rows.
    seed : int

    Returns
    -------
    Codewords

    Raises
    ------
    GraphError
        For other numbers, and values that are not finite.
    """
    book = learned_book(values, wide, words, seed)
    packed = np.concatenate([part.packed for part in coded_parts(values, book)])
    return Codewords(packed, book, values.shape[1])


def learned_book(values, wide: int, words: int = MOST_WORDS, seed: int = 0) -> np.ndarray:
    """The book of :func:`learned_codewords` alone, (pieces, words, wide) float32."""
    rows, columns = values.shape
    wide, words = whole_number(wide, "columns of a piece", 1, columns), whole_number(words, "words", 1, MOST_WORDS)
    draw = np.random.default_rng(seed)
    chosen = np.sort(draw.permutation(rows)[:_SAMPLE])
    sample = _pieces(values[chosen], wide)
    starts = draw.permutation(len(chosen))[: min(words, len(chosen))]
    return np.stack([_means(part, np.array(part[starts])) for part in sample])


def coded_parts(values, book: np.ndarray) -> Iterator[Codewords]:
    """The words of ``book`` that are nearest to rows of ``values``, a part of so many rows after another."""
    for start in range(0, len(values), _ROWS):
        pieces = _pieces(values[start : start + _ROWS], book.shape[2])
        packed = np.empty((pieces.shape[1], len(book)), np.uint8)
        for number, part in enumerate(pieces):
            packed[:, number] = _nearest(part, book[number])
        yield Codewords(packed, book, values.shape[1])


def _pieces(values, wide):
    """(pieces, rows, wide) float32, with zeros behind the last column."""
    values = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(values).all():
        raise GraphError("features hold NaN or infinity.")
    values = np.pad(values, ((0, 0), (0, -values.shape[1] % wide)))
    return np.ascontiguousarray(values.reshape(len(values), -1, wide).transpose(1, 0, 2))


def _nearest(values, words):
    """The number of the nearest word to each row, of equal ones the first."""
    return np.argmin((words * words).sum(1) - 2 * (values @ words.T), axis=1)


def _means(values, words):
    """Words that stand in the middle of what is nearest to them; one that nothing is nearest to stays."""
    for _ in range(_ROUNDS):
        nearest = _nearest(values, words)
        counts = np.bincount(nearest, minlength=len(words))
        sums = np.stack([np.bincount(nearest, column, len(words)) for column in values.T], 1)
        taken = counts > 0
        words[taken] = sums[taken] / counts[taken, None]
    return words
