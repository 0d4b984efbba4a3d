"""The array functions that a plan may call, with declared signatures, and how one is called."""

from __future__ import annotations

import inspect
import math
from typing import Callable

import numpy as np

from ..graph import GraphError
from .kinds import Kind
from .room import elements

FUNCTIONS: dict[str, ArrayFunction] = {}
# What NumPy and the functions raise for arrays that do not fit.
_FAULTS = (ArithmeticError, LookupError, MemoryError, TypeError, ValueError)


class ArrayFunction:
    """A function of arrays, numbers and graphs, and what each of its parameters may be."""

    def __init__(self, name: str, function: Callable, kinds: dict[str, Kind]):
        self.name, self.function, self.kinds = name, function, kinds
        self.signature = inspect.signature(function)
        if list(self.signature.parameters) != list(kinds):
            raise TypeError(f"{name}: parameters {list(self.signature.parameters)} declared as {list(kinds)}.")

    def fault(self, args: list, kwargs: dict, refers: Callable) -> str | None:
        """What is wrong with arguments that are trees, None if nothing; ``refers`` as of :class:`Kind`."""
        try:
            bound = self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            return str(error)
        for name, argument in bound.items():
            is_several = self.signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
            for tree in argument if is_several else (argument,):
                if not self.kinds[name].accepts(tree, refers):
                    return f"{name} must be {self.kinds[name].words}, got {tree!r}"
        return None

    def __call__(self, *args, **kwargs) -> list[np.ndarray]:
        """Call it; returns its results, each float32, int64 or bool.

        Raises
        ------
        GraphError
            When the arguments do not fit each other; names the function and the shapes.
        """
        return self.within(math.inf, args, kwargs)

    def within(self, room: float, args, kwargs: dict) -> list[np.ndarray]:
        """Call it, unless its results take more than ``room`` bytes: a GraphError, as of other faults."""
        try:
            if 8 * elements(self.name, args, kwargs) > room:
                raise MemoryError(f"it makes more than the {room:,.0f} bytes that the file and its arguments allow")
            with np.errstate(all="ignore"):
                results = self.function(*args, **kwargs)
            results = [as_array(result) for result in (results if isinstance(results, (tuple, list)) else (results,))]
            if sum(result.nbytes for result in results) > room:
                raise MemoryError(f"it made more than the {room:,.0f} bytes that the file and its arguments allow")
            return results
        except _FAULTS as error:
            shapes = ", ".join(map(_described, (*args, *kwargs.values())))
            raise GraphError(f"{self.name}({shapes}) cannot be computed: {error}") from error


def register(name: str, call: Callable, **kinds: Kind) -> None:
    """Let plans call a function under a name, with parameters of these kinds."""
    FUNCTIONS[name] = ArrayFunction(name, call, kinds)


def function(**kinds: Kind):
    """Decorator: :func:`register` a function under its own name."""

    def registered(call: Callable) -> Callable:
        register(call.__name__, call, **kinds)
        return call

    return registered


def as_array(values) -> np.ndarray:
    """``values`` as an array of float32, int64 or bool; those that are remain what they are.

    Raises
    ------
    TypeError
        When they are no numbers.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"arrays hold floating point numbers, integers or bools, got {array.dtype}.")
    return array.astype({"f": np.float32, "b": np.bool_}.get(array.dtype.kind, np.int64), copy=False)


def _described(argument):
    if isinstance(argument, np.ndarray):
        return f"{argument.dtype} {argument.shape}"
    if isinstance(argument, (list, tuple)):
        return f"[{', '.join(map(_described, argument))}]"
    return repr(argument) if isinstance(argument, (int, float, str, slice, type(None))) else type(argument).__name__
