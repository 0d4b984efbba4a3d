"""What a model computes, captured from an example."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn

from ..errors import FreezeError
from .arguments import dense, distinct, graphs_of_modules, split
from .grow import Grown
from .optional import with_optional
from .recording import Recording
from .run import layer_calls, record
from .sizes import generalised

__all__ = ["Captured", "capture", "layer_calls"]


class Captured(NamedTuple):
    """A generalised recording, the arguments it was made with, and those of a larger example with their result.

    ``optional`` are names of arguments that may be left out, ``kept`` the graphs that modules keep, by name.
    """

    recording: Recording
    arguments: dict[str, Any]
    optional: set[str]
    kept: dict[str, Any]
    larger: dict[str, Any]
    output: Any


def capture(model: nn.Module, args: tuple, kwargs: dict) -> Captured:
    """What ``model`` computes, from a run on ``args`` and ``kwargs`` and one on a larger example made of them.

    Raises
    ------
    FreezeError
        Names the line that cannot be followed, or whose course differs on the larger example.
    """
    arguments, optional = with_optional(model, *distinct(dense(args), dense(kwargs)))
    kept = graphs_of_modules(model)
    grown = Grown([*arguments.values(), *(graph for _, graph in kept)])
    first, _ = record(model, *split(model, arguments))
    larger = grown(arguments)
    with _replaced(kept, grown):
        try:
            second, output = record(model, *split(model, larger))
        except FreezeError:
            raise
        except Exception as error:
            raise FreezeError(
                f"{type(model).__name__}.forward runs on the example, but not on the same graph taken twice, its features' "
                f"rows repeated: {error} A model is frozen for graphs of every size; where it keeps a tensor with a row for "
                "each node, pass that as an argument."
            ) from error
    own = {".".join(map(str, path[1:])): graph for path, graph in kept}
    larger.update({name: grown(graph) for name, graph in own.items()})
    return Captured(generalised(first, second), arguments, optional, own, larger, output)


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
