"""What is in the arguments of calls: in tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def mapped(tree: Any, function: Callable[[Any], Any]) -> Any:
    """``tree`` with what ``function`` makes of each of its leaves."""
    if isinstance(tree, (tuple, list)) and not isinstance(tree, torch.Size):
        parts = [mapped(part, function) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if isinstance(tree, dict):
        return {key: mapped(part, function) for key, part in tree.items()}
    return function(tree)


def leaves(tree: Any) -> list[Any]:
    """All that ``tree`` holds, in order.

    >>> leaves([1, (2, {"three": 3})])
    [1, 2, 3]
    """
    found: list[Any] = []
    mapped(tree, found.append)
    return found
