"""What a model computes, captured from an example."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn

from ..errors import FreezeError
from .arguments import bound_arguments, dense, graphs_of_modules
from .grow import Grown
from .recording import Recording
from .run import record
from .sizes import generalised

__all__ = ["Captured", "capture"]


class Captured(NamedTuple):
    """A generalised recording, and arguments of a larger example with what the model returned for them."""

    recording: Recording
    args: tuple
    kwargs: dict
    output: Any


def capture(model: nn.Module, args: tuple, kwargs: dict) -> Captured:
    """What ``model`` computes, from a run on ``args`` and ``kwargs`` and one on a larger example made of them.

    Raises
    ------
    FreezeError
        Names the line that cannot be followed, or whose course differs on the larger example.
    """
    args, kwargs = dense(args), dense(kwargs)
    kept = graphs_of_modules(model)
    grown = Grown([*bound_arguments(model, args, kwargs).values(), *(graph for _, graph in kept)])
    first, _ = record(model, args, kwargs)
    more_args, more_kwargs = grown(args), grown(kwargs)
    with _replaced(kept, grown):
        try:
            second, output = record(model, more_args, more_kwargs)
        except FreezeError:
            raise
        except Exception as error:
            raise FreezeError(
                f"{type(model).__name__}.forward runs on the example, but not on the same graph taken twice, its features' "
                f"rows repeated: {error} A model is frozen for graphs of every size; where it keeps a tensor with a row for "
                "each node, pass that as an argument."
            ) from error
    return Captured(generalised(first, second), more_args, more_kwargs, output)


@contextmanager
def _replaced(kept: list, grown: Grown) -> Iterator[None]:
    """The graphs that modules keep, grown."""
    before = [(path[0], path[1], getattr(path[0], path[1])) for path, _ in kept]
    try:
        for module, name, value in before:
            setattr(module, name, grown(value))
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
