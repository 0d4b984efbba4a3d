"""What a model was captured for must hold wherever it runs: functions that are called for what they refuse."""

from __future__ import annotations

from .kinds import ARRAY, BOOL, INT, NUMBER, STRING
from .registry import function

# Plans run them though nothing reads their results.
CHECKS = ("require", "require_size")


@function(input=ARRAY, expected=NUMBER | BOOL, where=STRING)
def require(input, expected, where):
    if input.size != 1 or input.reshape(()) != expected:
        raise ValueError(f"the model was frozen for graphs where ({where}) meets {expected}, here it meets {input}")
    return input


@function(size=INT, expected=INT, what=STRING)
def require_size(size, expected, what):
    if size != expected:
        raise ValueError(f"the model was frozen for {expected} {what}, here there are {size}")
    return size
