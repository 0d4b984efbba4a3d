"""What the recorder hands to a layer in the place of graphs and tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .errors import FreezeError

_INSTEAD = (
    "compute(ops, …) of a layer is recorded by its calls of ops, dgl_lowbit.nn.Ops: write ops.combine((1, a), (1, b)) "
    "for sums, ops.bias(x, bias), ops.activate(x, function), and nothing else of values."
)


@dataclass(frozen=True)
class Value:
    """A value of the plan; two of one ``number`` are equal.

    Parameters
    ----------
    number : int
        Its number in the plan.
    kind : str
        "graph", "features" (as given), "float", "array", "codes", "state", "edge_weight", "edge_types" or "unused".
    heads : int
        Of a value that stands for (rows, heads, width); 0 for (rows, columns).
    may_be_pair : bool
        Whether features it is made of may be given as a pair, of source and of destination nodes.
    is_made : bool
        Of edge weights: whether a function makes them.
    quantizer : dict, optional
        Of codes: the plan's entry for their quantiser.
    """

    number: int
    kind: str = field(default="float", compare=False)
    heads: int = field(default=0, compare=False)
    may_be_pair: bool = field(default=False, compare=False)
    is_made: bool = field(default=False, compare=False)
    quantizer: dict[str, Any] | None = field(default=None, compare=False, repr=False)

    def _refuse(self, *others):
        raise FreezeError(_INSTEAD)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __matmul__ = __rmatmul__ = __pow__ = __neg__ = __getitem__ = _refuse

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        raise FreezeError(f"{_INSTEAD} Met {getattr(function, '__name__', function)}.")


@dataclass(frozen=True)
class AttentionCodes:
    """Codes that the attention of edges follows from, and the plan's attributes that say how."""

    graph: Value
    left: Value
    right: Value
    edge_weight: Value | None
    attributes: dict[str, Any]
