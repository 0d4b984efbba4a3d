"""Memory that is used again from stage to stage."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

_LINE = 64


def aligned_empty(shape, dtype) -> np.ndarray:
    """An uninitialised array that begins on a cache line, so that a packed row of 64 bytes is one line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + size].view(dtype).reshape(shape)


class Buffers:
    """Arrays lent to stages, and to the next once they are given back.

    Examples
    --------
    >>> buffers = Buffers()
    >>> first = buffers.take((2, 3), np.float32)
    >>> buffers.give_back(first)
    >>> buffers.take((6,), np.int32).ctypes.data == first.ctypes.data
    True
    """

    def __init__(self):
        self._free, self._lent, self._needed = defaultdict(list), {}, set()

    def take(self, shape, dtype) -> np.ndarray:
        """An array of undefined content, until :meth:`give_back`."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._needed.add(size)
        memory = self._free[size].pop() if self._free[size] else aligned_empty(size, np.uint8)
        array = memory.view(dtype).reshape(shape)
        self._lent[id(array)] = array, memory
        return array

    def give_back(self, matrix):
        """Return what :meth:`take` gave: an array, or the arrays among the attributes of an object."""
        arrays = [matrix] if isinstance(matrix, np.ndarray) else vars(matrix).values()
        for array in arrays:
            if id(array) in self._lent:
                _, memory = self._lent.pop(id(array))
                self._free[memory.nbytes].append(memory)

    def begin(self):
        """Take back everything that is lent."""
        for _, memory in self._lent.values():
            self._free[memory.nbytes].append(memory)
        self._lent, self._needed = {}, set()

    def trim(self):
        """Free memory of sizes that were not asked for since :meth:`begin`."""
        self._free = defaultdict(list, {size: self._free[size] for size in self._needed})
