"""Code arithmetic is float32's, whatever precision surrounds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .sparse import SparseFeatures


def converted(value: Any, dtype: torch.dtype) -> Any:
    """``value`` with its floating tensors in ``dtype``, in tuples, lists and dicts too; what else it holds stays."""
    if isinstance(value, (torch.Tensor, SparseFeatures)):
        return value.to(dtype) if value.is_floating_point() and value.dtype != dtype else value
    if type(value) in (tuple, list):
        return type(value)(converted(part, dtype) for part in value)
    if type(value) is dict:
        return {key: converted(part, dtype) for key, part in value.items()}
    return value


def widened(x: torch.Tensor) -> torch.Tensor:
    """``x``, in float32 where it has fewer bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def floating_tensor(value: Any) -> torch.Tensor | SparseFeatures | None:
    """The first floating tensor in ``value``, looking where :func:`converted` does."""
    if isinstance(value, (torch.Tensor, SparseFeatures)):
        return value if value.is_floating_point() else None
    parts = value.values() if type(value) is dict else value if type(value) in (tuple, list) else ()
    return next((found for found in map(floating_tensor, parts) if found is not None), None)


@contextmanager
def no_autocast(device: torch.device) -> Iterator[bool]:
    """Without ``torch.autocast`` on the kind of ``device``; gives whether it was on."""
    if not _autocasts(device.type):
        yield False
        return
    with torch.autocast(device.type, enabled=False):
        yield True


def _autocasts(kind):
    try:
        return torch.is_autocast_enabled(kind)
    except TypeError:  # before torch 2.4
        return torch.is_autocast_cpu_enabled() if kind == "cpu" else torch.is_autocast_enabled()
    except RuntimeError:  # no autocast on this kind of device
        return False


def keep_float32(apply: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """What moves tensors as ``apply`` does and leaves them their precision; a cast to float32 is let through.

    For ``torch.nn.Module._apply``, through which ``model.half()``, ``.bfloat16()`` and ``.double()`` go.
    """

    def move(tensor):
        moved = apply(tensor)
        return moved if moved.dtype in (tensor.dtype, torch.float32) else tensor.to(moved.device)

    return move
