"""Reading packed models."""

from __future__ import annotations

from typing import cast

from torch import nn

from .packed import PackedModel
from .partial import PartlyPacked, is_partial


def load(path, threads: int | None = None, model: nn.Module | None = None) -> PackedModel | PartlyPacked:
    """Read a packed model that ``PackedModel.save`` or ``PartlyPacked.save`` wrote.

    Parameters
    ----------
    path : path-like
    threads : int, optional
        Threads to run on. Default: Numba's current number.
    model : torch.nn.Module, optional
        For a partly packed model: a low-bit one of the same making, which lends its forward and its float parts; it is
        copied.

    Returns
    -------
    PackedModel or PartlyPacked
        As the file holds a whole model or a partly packed one.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    numba_kernels.ModelFileError
        When the file is truncated, of another kind, of a newer version, or does not fit ``model``.
    """
    if is_partial(path):
        return PartlyPacked.load(path, model, threads)
    return cast(PackedModel, PackedModel.load(path, threads))
