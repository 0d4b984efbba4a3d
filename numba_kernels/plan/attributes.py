"""What attributes of operations and inputs may be, and their frozen form.

A plan reads its operations once: every key is declared, every value is of its declared kind, and what comes of it does
not change any more, so that what is checked is what runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from ..spec import is_number

# JSON that is nested more deeply is no plan.
_DEEPEST = 32


def argument_name(entry: dict) -> str:
    """What errors call an input of a plan: its argument, with the key where it is an entry of that.

    >>> argument_name({"name": "feat"}), argument_name({"name": "feat", "key": "user"})
    ('feat', "feat['user']")
    """
    return f"{entry['name']}[{entry['key']!r}]" if "key" in entry else entry["name"]


class Frozen(dict):
    """A dict that does not change.

    >>> frozen({"in": [1, None], "weight": {"bits": 2}})
    {'in': (1, None), 'weight': {'bits': 2}}
    """

    def _refuse(self, *args, **kwargs):
        raise TypeError("a plan does not change; make another of copies of its parts.")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self):
        return Frozen, (dict(self),)


def frozen(tree, depth: int = 0):
    """A copy of JSON values in which lists are tuples and dicts are Frozen.

    Raises
    ------
    TypeError, ValueError
        For what is no JSON, or nested more than 32 times.
    """
    if depth > _DEEPEST:
        raise ValueError(f"values are nested more than {_DEEPEST} times")
    if isinstance(tree, dict):
        if not all(isinstance(key, str) for key in tree):
            raise TypeError(f"keys are strings, got {[*tree]}")
        return Frozen({key: frozen(part, depth + 1) for key, part in tree.items()})
    if isinstance(tree, (list, tuple)):
        return tuple(frozen(part, depth + 1) for part in tree)
    if tree is not None and type(tree) not in (bool, int, float, str):
        raise TypeError(f"expected JSON values, got {type(tree).__name__}")
    return tree


@dataclass(frozen=True)
class Kind:
    """A kind of value: its name in messages, and whether a value is of it."""

    words: str
    accepts: Callable

    def __or__(self, other: Kind) -> Kind:
        words, either = f"{self.words} or {other.words}", (self.accepts, other.accepts)
        return Kind(words, lambda value: any(accepts(value) for accepts in either))


def integer(least: int, most: int = 2**31 - 1) -> Kind:
    """Whole numbers from ``least`` to ``most``, which True and 1.0 are not."""
    words = f"a whole number from {least} to {most:,}"
    return Kind(words, lambda value: type(value) is int and least <= value <= most)


def choice(*values) -> Kind:
    """One of several values, which also tells True and 1.0 from 1."""
    known = {(type(value), value) for value in values}
    return Kind(
        f"one of {', '.join(map(repr, values))}",
        lambda value: isinstance(value, (str, int, float)) and (type(value), value) in known,
    )


def several(kind: Kind, *counts: int) -> Kind:
    """A list of values of a kind, of one of ``counts`` if any are given."""
    return Kind(
        f"{' or '.join(map(str, counts)) or 'values'}, each {kind.words}",
        lambda value: (
            isinstance(value, tuple) and (not counts or len(value) in counts) and all(map(kind.accepts, value))
        ),
    )


def record(**kinds: Kind) -> Kind:
    """A dict of just these keys."""
    return Kind(
        f"a dict of {', '.join(kinds)}",
        lambda value: (
            isinstance(value, dict)
            and set(value) == set(kinds)
            and all(kind.accepts(value[key]) for key, kind in kinds.items())
        ),
    )


NONE = Kind("None", lambda value: value is None)
BOOL = Kind("True or False", lambda value: type(value) is bool)
STRING = Kind("a string", lambda value: isinstance(value, str))
NUMBER = Kind("a finite number", is_number)
NUMBERS = NUMBER | Kind("the name of an array", STRING.accepts)
DICT = Kind("a dict", lambda value: isinstance(value, dict))
LIST = Kind("a list", lambda value: isinstance(value, tuple))
ANY = Kind("anything", lambda value: True)
VALUE = integer(0)  # of the plan, by number
COUNT, INDEX = integer(1), integer(0)
SIDE, POWER, PLUS = choice("in", "out"), choice(-1, -1.0, -0.5, 0.5), choice(0, 1)  # (degree + plus)^power
UNIT = integer(-200, 200)  # fixed-point numbers are whole multiples of 2^-unit


def fault(content, required: dict[str, Kind], optional: dict[str, Kind]) -> str | None:
    """What is wrong with a dict that has just these keys, None if nothing."""
    if not isinstance(content, dict):
        return f"expected a dict, got {content!r:.80}"
    unknown, missing = set(content) - {*required, *optional}, set(required) - set(content)
    if unknown or missing:
        return f"{'unknown' if unknown else 'missing'} {', '.join(sorted(unknown or missing))}"
    for key, value in content.items():
        kind = required.get(key) or optional[key]
        if not kind.accepts(value):
            return f"{key} must be {kind.words}, got {value!r:.80}"
    return None
