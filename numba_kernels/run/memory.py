"""Memory that begins on cache lines, and is used again from run to run."""

from __future__ import annotations

import math

import numpy as np

LINE = 64


def address_of(array: np.ndarray) -> int:
    """Where the data of an array stand; a third of the time that ``array.ctypes.data`` takes."""
    return array.__array_interface__["data"][0]


def new_bytes(size: int) -> np.ndarray:
    """Bytes of undefined content from a cache line on; all that kernels write to is made of them."""
    raw = np.empty(size + LINE, np.uint8)
    start = -address_of(raw) % LINE
    return raw[start : start + size]


def aligned_empty(shape, dtype) -> np.ndarray:
    """An uninitialised array that begins on a cache line, so that a packed row of 64 bytes is one line."""
    size = math.prod(shape if isinstance(shape, tuple) else (shape,)) * np.dtype(dtype).itemsize
    return new_bytes(size).view(dtype).reshape(shape)


class Arena:
    """One block of memory that grows when more is asked for, and shrinks when a small part of it would do.

    Examples
    --------
    >>> arena = Arena()
    >>> first = arena.take(100)
    >>> arena.take(80) == first, arena.take(8) % 64
    (True, 0)
    """

    _WASTE, _SMALL = 4, 1 << 22

    def __init__(self) -> None:
        self._memory: np.ndarray
        self._address: int
        self.release()

    def take(self, size: int) -> int:
        """The address of ``size`` bytes of undefined content, good until the next call."""
        wasted = len(self._memory) > self._SMALL and size < len(self._memory) // self._WASTE
        if size > len(self._memory) or wasted:
            self._memory = aligned_empty(size, np.uint8)
            self._address = address_of(self._memory)
        return self._address

    def places(self, sizes: list[int]) -> list[int]:
        """Addresses of areas of as many bytes, each from a cache line on, good as what :meth:`take` gives."""
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] - -size // LINE * LINE)
        base = self.take(starts.pop())
        return [base + start for start in starts]

    def view(self, address: int, rows: int, columns: int) -> np.ndarray:
        """The float32 matrix that stands at an address of what was taken last."""
        start = address - self._address
        return self._memory[start : start + 4 * rows * columns].view(np.float32).reshape(rows, columns)

    def release(self) -> None:
        """Free the memory."""
        self._memory = aligned_empty(0, np.uint8)
        self._address = address_of(self._memory)
