"""The root of the errors of this package and of ``dgl_lowbit``."""

from __future__ import annotations


class LowBitError(Exception):
    """What this package, or ``dgl_lowbit``, refuses; each kind is a ValueError or RuntimeError too."""


class ModelFileError(LowBitError, ValueError):
    """A file that is not a packed model, or not a whole one."""


class GraphError(LowBitError, ValueError):
    """A graph, or features that do not fit it."""
