"""What models were last called with, so that it need not be said twice.

Small calls are kept, with the frames that graphs had then; of others tensors and graphs are kept weakly. Nothing of it
is part of a model's state, copies or pickles.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from dgl import DGLGraph
from torch import nn

from ...trees import leaves, mapped
from .hook import current_module

_MOST_BYTES = 16 << 20  # of what is kept alive for a model
_calls: weakref.WeakKeyDictionary[nn.Module, tuple] = weakref.WeakKeyDictionary()  # where the last one was large
_small_calls: weakref.WeakKeyDictionary[nn.Module, tuple] = weakref.WeakKeyDictionary()


def remember(module: nn.Module, args: tuple, kwargs: dict) -> None:
    """Note that ``module`` is called with ``args`` and ``kwargs``."""
    if sum(_bytes(leaf) for leaf in leaves((args, kwargs))) <= _MOST_BYTES:
        _small_calls[module] = with_own_frames((args, kwargs))
        _calls.pop(module, None)
    else:
        _calls[module] = mapped((args, kwargs), _weakly)


class Remembered(nn.Module):
    """Mixin of modules of which it is known what they were last called with, by a caller outside of models of ours."""

    def __call__(self, *args, **kwargs):
        if current_module() is None:
            remember(self, args, kwargs)
        return super().__call__(*args, **kwargs)


def recall(module: nn.Module) -> tuple[tuple, dict] | None:
    """What ``module`` was last called with, as far as it still is; None where there was no call, or nothing is left."""
    call = _calls.get(module)
    if call is None or any(isinstance(leaf, weakref.ref) and leaf() is None for leaf in leaves(call)):
        return _small_calls.get(module)
    return mapped(call, lambda leaf: leaf() if isinstance(leaf, weakref.ref) else leaf)


def with_own_frames(tree: Any) -> Any:
    """``tree`` with graphs whose frames are copies: what a forward writes or takes out there is not the caller's."""
    return mapped(tree, lambda leaf: leaf.local_var() if isinstance(leaf, DGLGraph) else leaf)


def _weakly(leaf):
    return weakref.ref(leaf) if isinstance(leaf, (torch.Tensor, DGLGraph)) else leaf


def _bytes(leaf):
    if isinstance(leaf, torch.Tensor):
        return leaf.numel() * leaf.element_size()
    return 16 * sum(map(leaf.num_edges, leaf.canonical_etypes)) if isinstance(leaf, DGLGraph) else 0
