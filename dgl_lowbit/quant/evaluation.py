"""Looking at a model without changing it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """``model`` in evaluation mode; afterwards, whatever happened, every module has the mode it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def observing(modules: Iterable[nn.Module], **attributes: Any) -> Iterator[None]:
    """``modules`` with ``attributes`` that say what they do with the tensors they meet; afterwards with their own.

    Examples
    --------
    >>> module = nn.Dropout(0.5)
    >>> with observing([module], p=0.0):
    ...     module.p
    0.0
    >>> module.p
    0.5
    """
    before = [(module, {name: getattr(module, name) for name in attributes}) for module in modules]
    try:
        for module, _ in before:
            for name, value in attributes.items():
                setattr(module, name, value)
        yield
    finally:
        for module, own in before:
            for name, value in own.items():
                setattr(module, name, value)


class _Thread(threading.local):
    depth = 0


_thread = _Thread()


@contextmanager
def aside() -> Iterator[None]:
    """What the thread computes within is no part of a model, although in its forward: a measurement.

    Examples
    --------
    >>> is_aside()
    False
    >>> with aside():
    ...     is_aside()
    True
    """
    _thread.depth += 1
    try:
        yield
    finally:
        _thread.depth -= 1


def is_aside() -> bool:
    """Whether the thread is within :func:`aside`."""
    return _thread.depth > 0


def forget(model: nn.Module) -> None:
    """Drop what layers keep of what they propagated once, as ``dgl.nn.SGConv(cached=True)`` does."""
    for module in model.modules():
        if getattr(module, "_cached_h", None) is not None:
            vars(module)["_cached_h"] = None
