"""What parameters of array functions may be, checked on the JSON trees that plans hold them as.

A tree is a number, a string, True, False, None, a list of trees, or a reference: a dict of one entry, ``value`` (an
array or a graph of the plan), ``array`` (a constant), ``size`` (a whole number that runs know) or ``slice``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

REFERENCES = ("value", "array", "size", "slice")


def is_reference(tree) -> bool:
    """Whether a tree is a reference."""
    return isinstance(tree, dict) and len(tree) == 1 and next(iter(tree)) in REFERENCES


@dataclass(frozen=True)
class Kind:
    """A kind of parameter: its name in messages, and whether a tree is of it.

    ``accepts`` takes the tree and a function that tells of a reference what it refers to: "array", "graph", "size" or
    "slice".
    """

    words: str
    accepts: Callable

    def __or__(self, other: Kind) -> Kind:
        return Kind(
            f"{self.words} or {other.words}",
            lambda tree, refers: self.accepts(tree, refers) or other.accepts(tree, refers),
        )


def _referring(words, *targets):
    return Kind(words, lambda tree, refers: is_reference(tree) and refers(tree) in targets)


def _of_type(words, *types):
    return Kind(words, lambda tree, refers: type(tree) in types)


def list_of(kind: Kind) -> Kind:
    """A list of what is of ``kind``."""
    return Kind(
        f"a list of {kind.words}",
        lambda tree, refers: isinstance(tree, (list, tuple)) and all(kind.accepts(part, refers) for part in tree),
    )


def choice(*words) -> Kind:
    """One of several strings."""
    return Kind(" or ".join(map(repr, words)), lambda tree, refers: isinstance(tree, str) and tree in words)


NONE = _of_type("None", type(None))
BOOL = _of_type("a bool", bool)
STRING = _of_type("a string", str)
ARRAY = _referring("an array", "array")
GRAPH = _referring("a graph", "graph")
INT = Kind("a whole number", lambda tree, refers: type(tree) is int or (is_reference(tree) and refers(tree) == "size"))
NUMBER = Kind("a number", lambda tree, refers: type(tree) is float or INT.accepts(tree, refers))
OPERAND = ARRAY | NUMBER | BOOL
INTS = INT | list_of(INT)
ARRAYS = list_of(ARRAY)
DTYPE = choice("float32", "int64", "bool")
_PART = INT | NONE | BOOL | choice("...") | ARRAY | _referring("a slice", "slice")
INDEX = _PART | list_of(_PART | list_of(INT))


def optional(kind: Kind) -> Kind:
    """``kind``, or None."""
    return kind | NONE
