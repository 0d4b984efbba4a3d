"""What a model is called with, as functions on models are given it beside arguments of their own."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable

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
        own = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        near = [match for name in kwargs for match in difflib.get_close_matches(name, own, n=1)]
        meant = f", or did you mean {', '.join(near)}" if near else ""
        raise TypeError(
            f"{function.__name__} calls {type(model).__name__}.forward{signature}: {error}{meant}."
        ) from None
