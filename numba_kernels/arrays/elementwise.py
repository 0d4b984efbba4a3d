"""Functions of numbers, one by one."""

from __future__ import annotations

from .kinds import OPERAND
from .registry import function


@function(input=OPERAND, other=OPERAND)
def add(input, other):
    return input + other
