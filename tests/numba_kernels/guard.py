"""Guard mode: arrays that kernels read and write end, or begin, at a page that may not be touched.

A kernel that reads or writes beyond one of them ends the process, so that what runs under guard runs in a process of
its own.
"""

import contextlib
import ctypes
import ctypes.util
import mmap

import numpy as np

from numba_kernels import Graph, arguments
from numba_kernels.run import memory
from numba_kernels.run.assembly import Assembly

_LIBC = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
_PROT_NONE = 0


def _forbid(address):
    if _LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), _PROT_NONE):
        raise OSError(ctypes.get_errno(), "mprotect")


class Guard:
    """Makes arrays between inaccessible pages, so that their "end", or their "begin", is that of a page."""

    def __init__(self, side):
        self.side = side

    def bytes(self, size):
        """As many bytes, (size,) uint8."""
        pages = -(-size // mmap.PAGESIZE) or 1
        area = np.frombuffer(mmap.mmap(-1, (pages + 2) * mmap.PAGESIZE), np.uint8)
        first, last = mmap.PAGESIZE, (pages + 1) * mmap.PAGESIZE
        for place in (0, last):
            _forbid(area.ctypes.data + place)
        return area[first : first + size] if self.side == "begin" else area[last - size : last]

    def copy(self, array):
        """A copy of an array, C-contiguous."""
        array = np.asarray(array)
        copy = self.bytes(array.nbytes).view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy

    def graph(self, graph):
        """``graph``, its arrays replaced by guarded ones, and those that it makes later too."""
        for name in ("indptr", "fetched", "edge_ids", "batch_starts"):
            if getattr(graph, name) is not None:
                setattr(graph, name, self.copy(getattr(graph, name)))
        graph._arrays = _Guarded(self)
        graph.hubs = type(graph.hubs)(*map(self.copy, graph.hubs))
        return graph

    @contextlib.contextmanager
    def installed(self):
        """Arguments, constants of plans and all memory that kernels write to, made by the guard."""
        known = {
            (Graph, "__init__"): _init(self),
            (arguments, "_matrix"): _matrix(self),
            (memory, "new_bytes"): self.bytes,
            (memory.Arena, "take"): _take(self),
            (memory.Arena, "places"): _places(self),
            (memory.Arena, "view"): _view,
            (Assembly, "at"): _at(self),
            (Graph, "edge_weights"): _edge_weights(self),
        }
        before = {place: getattr(*place) for place in known}
        try:
            for place, function in known.items():
                setattr(*place, function)
            yield self
        finally:
            for place, function in before.items():
                setattr(*place, function)


class _Guarded(dict):
    def __init__(self, guard):
        self._guard = guard

    def __setitem__(self, key, array):
        super().__setitem__(key, self._guard.copy(array))


def _init(guard, original=Graph.__init__):
    def init(graph, *args, **kwargs):
        original(graph, *args, **kwargs)
        guard.graph(graph)

    return init


def _matrix(guard, original=arguments._matrix):
    return lambda value, name: guard.copy(original(value, name))


def _take(guard):
    def take(arena, size):
        arena._memory = guard.bytes(size)
        return memory.address_of(arena._memory)

    return take


def _places(guard):
    def places(arena, sizes):
        arena._areas = [guard.bytes(size) for size in sizes]
        return [memory.address_of(area) for area in arena._areas]

    return places


def _view(arena, address, rows, columns, dtype=np.float32):
    (area,) = (area for area in arena._areas if memory.address_of(area) == address)
    return area[: np.dtype(dtype).itemsize * rows * columns].view(dtype).reshape(rows, columns)


def _at(guard, original=Assembly.at):
    def at(assembly, array):
        is_flag = array is not None and array.base is not None and array.dtype == np.int32
        return original(assembly, array if array is None or is_flag else guard.copy(array))

    return at


def _edge_weights(guard, original=Graph.edge_weights):
    return lambda graph, weights: guard.copy(original(graph, weights))
