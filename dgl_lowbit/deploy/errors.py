"""What freezing and packed models refuse."""

from dgl import DGLError

from numba_kernels import GraphError, LowBitError


class FreezeError(LowBitError, ValueError):
    """A model, or a part of it, that has no packed form."""


class ArgumentsError(GraphError, DGLError):
    """Graphs or features that do not fit each other or a packed model; DGL's kind of error too."""
