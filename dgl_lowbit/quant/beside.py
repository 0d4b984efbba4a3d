"""What is known of tensors beside their values: not pickled or copied with them, and gone when they are."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from .passes import is_traced


class Beside:
    """Something known of tensors, as long as nothing changes these in place.

    Examples
    --------
    >>> largest, x = Beside(), torch.ones(3)
    >>> largest.note(x, 1.0)
    >>> largest.of(x), largest.of(x.mul_(2)), largest.of(x.clone())
    (1.0, None, None)
    """

    def __init__(self):
        self._known = WeakIdKeyDictionary()

    def note(self, x: torch.Tensor, known: Any) -> None:
        if not (x.is_inference() or is_traced()):  # of those nobody counts changes
            self._known[x] = known, x._version

    def of(self, x: torch.Tensor) -> Any:
        known, version = self._known.get(x, (None, None))
        return known if known is not None and version == x._version else None

    def taken(self, x: torch.Tensor) -> Any:
        """:meth:`of`, for once: a change that is not counted, as through NumPy, then does no harm."""
        known = self.of(x)
        self._known.pop(x, None)
        return known
