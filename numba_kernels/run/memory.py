"""Memory that begins on cache lines, and is used again from run to run."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator

import numpy as np

from .cpus import available_cpus
from .runtime import renew_after_fork

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
            self._memory = self.new(size)
            self._address = address_of(self._memory)
        return self._address

    def places(self, sizes: list[int]) -> list[int]:
        """Addresses of areas of as many bytes, each from a cache line on, good as what :meth:`take` gives."""
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] - -size // LINE * LINE)
        base = self.take(starts.pop())
        return [base + start for start in starts]

    def view(self, address: int, rows: int, columns: int, dtype=np.float32) -> np.ndarray:
        """The matrix that stands at an address of what was taken last."""
        return self.bytes_at(address, rows, np.dtype(dtype).itemsize * columns).view(dtype)

    def new(self, size: int) -> np.ndarray:
        """Memory of ``size`` bytes, from a cache line on."""
        return new_bytes(size)

    def bytes_at(self, address: int, rows: int, row_bytes: int) -> np.ndarray:
        """The rows of bytes that stand at an address of what was taken last, (rows, row_bytes) uint8."""
        start = address - self._address
        return self._memory[start : start + rows * row_bytes].reshape(rows, row_bytes)

    def release(self) -> None:
        """Free the memory."""
        self._memory = aligned_empty(0, np.uint8)
        self._address = address_of(self._memory)


class Arenas:
    """Arenas for runs that go side by side, at most one a CPU; one more waits until another is given back.

    The arena that was given back last, whose memory is likely to be in the caches, is used next.
    """

    def __init__(self) -> None:
        self._most, self._free = available_cpus(), list[Arena]()
        self.renew()
        renew_after_fork(self)

    @contextlib.contextmanager
    def one(self) -> Iterator[Arena]:
        """An arena that is the caller's until it leaves."""
        with self._permits:
            try:
                arena = self._free.pop()
            except IndexError:
                arena = Arena()
            try:
                yield arena
            finally:
                self._free.append(arena)

    def release(self) -> None:
        """Free the memory of those that are not in use."""
        self._free.clear()

    def renew(self) -> None:
        """Forget who has one: who had it before a fork will not give it back."""
        self._permits = threading.Semaphore(self._most)
