"""How much memory a run may take: in proportion to what is given and to the file."""

from __future__ import annotations

from collections.abc import Iterable

from ..graph import GraphError

# A run may take this many bytes, and as many times those of the plan's arrays and the arguments.
ROOM, TIMES = 1 << 28, 1024


def room_for(plan_bytes: int, arguments: Iterable) -> int:
    """Bytes that a run on arguments may take."""
    return ROOM + TIMES * (plan_bytes + sum(map(_nbytes_of, arguments)))


def refuse_beyond(room: float, nbytes: int) -> None:
    """Raise GraphError where a run would take more bytes than it may."""
    if nbytes > room:
        raise GraphError(
            f"the model asks for {nbytes:,} bytes; for these arguments a file of its size may ask for {room:,}."
        )


def _nbytes_of(argument) -> int:
    """Bytes of an argument: arrays, graphs, and lists and dicts of them."""
    if isinstance(argument, (tuple, list, dict)):
        return sum(map(_nbytes_of, argument.values() if isinstance(argument, dict) else argument))
    return int(getattr(argument, "nbytes", 0))
