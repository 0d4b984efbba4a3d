"""Features that are kept as codes, where a model is to be run on what they stand for."""

from __future__ import annotations

from typing import Any

from dgl.storages import FeatureStorage

from ..trees import mapped


def is_store(value: Any) -> bool:
    """Whether this is a :class:`dgl_lowbit.FeatureStore`, which need not be imported for it, nor Numba with it."""
    return isinstance(value, FeatureStorage) and hasattr(value, "decode")


def decoded(tree: Any) -> Any:
    """``tree`` with all rows of stores in it as tensors."""
    return mapped(tree, lambda leaf: leaf[:] if is_store(leaf) else leaf)
