"""Workers that are threads of this process: what they say goes through a barrier in the place of a network."""

import importlib
import threading

from dgl_lowbit.distributed import inference
from dgl_lowbit.distributed.workers import Workers
from dgl_lowbit.training import LostProcessError


class Room:
    """Where threads meet."""

    def __init__(self, count):
        self.count, self.barrier, self.said = count, threading.Barrier(count, timeout=600), [None] * count

    def meet(self, rank, what):
        self.said[rank] = what
        try:
            self.barrier.wait()
            said = list(self.said)
            self.barrier.wait()
        except threading.BrokenBarrierError as error:
            raise LostProcessError("a worker is gone") from error
        return said


class ThreadWorkers(Workers):
    """As :class:`Workers`, but for where bytes go."""

    def __init__(self, room, rank):
        self.rank, self.size, self.sent, self.timeout = rank, room.count, 0, 1.0
        self.room = self.group = room

    def forget(self):
        pass

    def exchange(self, parts, sizes=None):
        said = self.room.meet(self.rank, [part.copy() for part in parts])
        received = [other[self.rank] for other in said]
        assert sizes is None or [len(part) for part in received] == list(sizes)
        return received


def run(patch, count, work):
    """What ``work(rank, infer)`` gives or raises in each of as many threads."""
    room, results, here = Room(count), [None] * count, threading.local()
    module = importlib.import_module("dgl_lowbit.distributed.inference")
    patch.setattr(module, "Workers", lambda group, timeout: ThreadWorkers(room, here.rank))

    def start(rank):
        here.rank = rank
        try:
            results[rank] = work(rank, inference)
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=start, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
