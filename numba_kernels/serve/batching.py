"""One thread runs the model; requests that wait while it does are answered together by the next run."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ..calling import Call
from .limits import Limits, RequestError


class Waiting(NamedTuple):
    """A request: of what, of which nodes, None for all, and where the answer goes."""

    call: Call
    nodes: np.ndarray | None
    answer: asyncio.Future

    @property
    def size(self) -> int:
        """How many nodes it asks for."""
        return self.call.graph.num_dst if self.nodes is None else len(self.nodes)

    def alike(self, other: Waiting) -> bool:
        """Whether one run can answer both."""
        return self.call is other.call and (self.nodes is None) == (other.nodes is None)


class Batcher:
    """A queue of requests, in order of arrival, and the task that answers them.

    Requests for the same call that follow each other are answered by one run, on all of their nodes.
    """

    def __init__(self, limits: Limits):
        self.limits, self.runs, self.answered = limits, 0, 0
        self._queue: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "model")

    @property
    def waiting(self) -> int:
        """How many requests wait for a run to begin."""
        return len(self._queue)

    async def answer(self, call: Call, nodes: np.ndarray | None) -> np.ndarray:
        """The rows of ``nodes``, as :meth:`Call.run`.

        Raises
        ------
        RequestError
            503, when too many wait already, or no answer comes in time.
        GraphError
            As the run.
        """
        if self.waiting >= self.limits.max_waiting:
            raise RequestError(503, f"{self.waiting} requests wait already; try again later.")
        loop = asyncio.get_running_loop()
        request = Waiting(call, nodes, loop.create_future())
        self._queue.append(request)
        self._arrived.set()
        late = RequestError(503, f"no answer within {self.limits.timeout} s; try again later.")
        timer = loop.call_later(self.limits.timeout, _settle, request.answer, late)
        try:
            return await request.answer
        finally:
            timer.cancel()

    async def work(self) -> None:
        """Answer requests, batch after batch, until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._arrived.wait()
                batch = self._next()
                if not batch:
                    self._arrived.clear()
                    continue
                self.runs += 1
                results = await loop.run_in_executor(self._thread, _results, batch)
                for request, result in zip(batch, results):
                    _settle(request.answer, result)
                self.answered += len(batch)
        finally:
            self._thread.shutdown(wait=False)

    def _next(self):
        """The requests from the queue's head on that one run may answer; none are those nobody waits for any more."""
        batch, size = [], 0
        while self._queue and len(batch) < self.limits.max_batch:
            request = self._queue[0]
            if batch and not (request.alike(batch[0]) and size + request.size <= self.limits.max_nodes):
                break
            self._queue.popleft()
            if not request.answer.done():
                batch.append(request)
                size += request.size
        return batch


def _results(batch):
    """For each of some requests for one call its rows, or what its run raised."""
    try:
        return answer_together(batch[0].call, [request.nodes for request in batch])
    except BaseException as error:  # whatever it is, the one who caused it is told
        if len(batch) == 1:
            return [error]
        return [result for request in batch for result in _results([request])]


def answer_together(call: Call, subsets: list) -> list[np.ndarray]:
    """The rows of each subset of nodes, or of all for each None, by one run."""
    if len(subsets) == 1 or subsets[0] is None:
        return [call.run(subsets[0])] * len(subsets)
    union, places = np.unique(np.concatenate(subsets), return_inverse=True)
    rows = call.run(union)
    return [rows[part] for part in np.split(places, np.cumsum([len(nodes) for nodes in subsets])[:-1])]


def _settle(future, result):
    with contextlib.suppress(asyncio.InvalidStateError):  # nobody waits for it any more
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
