"""Input columns that a model reads, of all there are."""

from __future__ import annotations

import torch
from torch import nn

from ..quant.sparse import SparseFeatures

_CHILD = "columns"


class SelectedColumns(nn.Module):
    """Lets a model read some columns of its features: a child of the model, and its hook.

    Features may come whole, (N, total), or with the columns that are read alone, (N, K), in their order:
    ``feat[:, model.columns.index]``.

    Parameters
    ----------
    index : torch.Tensor
        (K,) int64, ascending.
    total : int
        Columns that features have.
    """

    index: torch.Tensor

    def __init__(self, index: torch.Tensor, total: int):
        super().__init__()
        self.register_buffer("index", index)
        self.total, self._met = total, None

    def attach(self, model: nn.Module) -> None:
        """Make it part of ``model``, which is called as ``model(graph, feat)``."""
        setattr(model, _CHILD, self)
        model.register_forward_pre_hook(self, with_kwargs=True)

    def forward(self, model, args, kwargs):
        """What the model is called with, with the columns it reads."""
        name = None if len(args) > 1 else next((key for key, part in kwargs.items() if self._is_whole(part)), None)
        if name is not None:
            return args, {**kwargs, name: self.of(kwargs[name])}
        return tuple(self.of(part) if n == 1 and self._is_whole(part) else part for n, part in enumerate(args)), kwargs

    def _is_whole(self, part):
        is_features = isinstance(part, (torch.Tensor, SparseFeatures))
        return is_features and len(part.shape) == 2 and part.shape[1] == self.total

    def of(self, feat):
        """The columns of ``feat``, (N, total), that are read, (N, K)."""
        if not isinstance(feat, SparseFeatures):
            return feat.index_select(1, self.index)
        if self._met is None or self._met[0] is not feat.pattern or self._met[1] is not self.index:
            self._met = feat.pattern, self.index, feat.pattern.of_columns(self.index)
        pattern, places = self._met[2]
        return SparseFeatures(pattern, feat.values.index_select(0, places))

    def __getstate__(self):
        return {**self.__dict__, "_met": None}

    def extra_repr(self):
        return f"{len(self.index)} of {self.total}"
