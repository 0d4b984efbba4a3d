"""What the recorder hands to a layer in the place of graphs and tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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


@dataclass(frozen=True)
class AttentionCodes:
    """Codes that the attention of edges follows from, and the plan's attributes that say how."""

    graph: Value
    left: Value
    right: Value
    edge_weight: Value | None
    attributes: dict[str, Any]
