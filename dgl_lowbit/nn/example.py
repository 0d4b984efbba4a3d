"""What a model is called with, as functions on models are given it beside arguments of their own."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable

from torch import nn


def check_example(model: nn.Module, function: Callable, args: tuple, kwargs: dict) -> None:
    """Raise TypeError, naming ``function``, unless ``model.forward`` takes what it was given for it.

    A keyword that is neither's is said to be near one of ``function``, where it is.
    """
    if model._forward_pre_hooks:  # which may make other arguments of these
        return
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        reason, own = str(error), [p.name for p in _parameters(function) if p.kind is p.KEYWORD_ONLY]
        unknown = [name for name in kwargs if name not in signature.parameters]
        if unknown:  # of several faults the one that is easily overlooked
            reason = f"got an unexpected keyword argument {unknown[0]!r}{meant(unknown[0], own)}"
        raise TypeError(f"{function.__name__} calls {type(model).__name__}.forward{signature}: {reason}.") from None


def check_options(function: Callable, passed_to: Callable, options: dict) -> None:
    """Raise TypeError unless ``passed_to``, which ``function`` hands its other ``options``, knows them."""
    own = [p.name for which in (function, passed_to) for p in _parameters(which)]
    for name in options:
        if name not in own:
            near = meant(name, own)
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}{near}.")


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that asks whether the nearest of ``known`` was meant; nothing where none is near.

    >>> meant("roundin", ["rounding", "loss"]), meant("x", ["rounding"])
    (', or did you mean rounding', '')
    """
    near = difflib.get_close_matches(name, known, n=1)
    return f", or did you mean {near[0]}" if near else ""


def _parameters(function):
    return inspect.signature(function).parameters.values()
