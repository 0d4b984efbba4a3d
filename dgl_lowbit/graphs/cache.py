"""Graphs prepared for kernels, kept while DGL's graphs live."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict

MOST_BYTES = 1 << 30


class GraphCache:
    """What is prepared of graphs, in at most ``most_bytes``; the one used last is kept whatever its size.

    DGL replaces a graph's index when nodes or edges change, and the tensors of a batch's sizes when these are set, so a
    graph whose index and sizes are the same objects, and unchanged, is the same graph. Several threads may ask at once.

    Parameters
    ----------
    most_bytes : int
        Default: 1 GiB.
    """

    def __init__(self, most_bytes: int = MOST_BYTES):
        self.most_bytes, self.nbytes = most_bytes, 0
        self._kept: OrderedDict = OrderedDict()  # by id: (reference, state, prepared, bytes)
        self._renew()
        if hasattr(os, "register_at_fork"):  # another thread may hold the lock, for ever in the child
            os.register_at_fork(after_in_child=self._renew)

    def get(self, graph, prepare):
        """What ``prepare(graph)`` gave, or gives."""
        key, state = id(graph), _state(graph)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept[0]() is graph and _same(kept[1], state):
                self._kept.move_to_end(key)
                self._count(key)  # what runs have added
                return kept[2]
            self._drop(key)
        prepared = prepare(graph)
        with self._lock:
            self._drop(key)  # another thread's
            self._kept[key] = weakref.ref(graph, lambda _: self._drop(key)), state, prepared, 0
            self._count(key)
            while self.nbytes > self.most_bytes and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))
        return prepared

    def __len__(self):
        return len(self._kept)

    def _count(self, key):
        *kept, before = self._kept[key]
        prepared = kept[-1]
        parts = tuple(prepared.values()) if isinstance(prepared, dict) else (prepared,)
        nbytes = sum(part.nbytes for part in parts)
        self._kept[key] = *kept, nbytes
        self.nbytes += nbytes - before

    def _drop(self, key):
        with self._lock:
            kept = self._kept.pop(key, None)
            if kept is not None:
                self.nbytes -= kept[3]

    def _renew(self):
        self._lock = threading.RLock()  # of a thread that drops a graph while it asks for another


def _state(graph):
    """The objects that DGL replaces when a graph changes, and the versions of those that users may write to."""
    sizes = () if graph._batch_num_nodes is None else tuple(graph._batch_num_nodes.values())
    return (graph._graph, *sizes), [None if part.is_inference() else part._version for part in sizes]


def _same(known, state):
    return len(known[0]) == len(state[0]) and all(map(_is, known[0], state[0])) and known[1] == state[1]


def _is(one, other):
    return one is other
