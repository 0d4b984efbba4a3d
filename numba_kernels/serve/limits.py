"""What a server may be asked for, and how it refuses."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """What a server takes on."""

    max_nodes: int = 100_000  # of a request, of a graph of its own, and of the requests that are answered together
    max_bytes: int = 16 * 2**20  # of a request
    max_waiting: int = 1024  # requests
    max_batch: int = 64  # requests answered together
    timeout: float = 30  # seconds for a request to arrive, and again for its answer


class RequestError(Exception):
    """A request that is not answered: an HTTP status, and why in a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status
