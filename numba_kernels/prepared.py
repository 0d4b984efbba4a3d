"""A model with arguments that stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .model import PackedModel


class Prepared:
    """What :meth:`PackedModel.prepare <numba_kernels.model.PackedModel.prepare>` returns: call it for results.

    Parameters
    ----------
    model : PackedModel
    inputs : dict
        Its arguments by value, checked.
    """

    def __init__(self, model: PackedModel, inputs: dict):
        self._model, self._inputs, self._coded = model, inputs, model.coded(inputs)

    def __call__(self, nodes=None):
        """What the model returns, or the rows of ``nodes``, (n,) integers or a mask, as a call with ``nodes=``."""
        return self._model.run_at(nodes, self._inputs, self._coded)
