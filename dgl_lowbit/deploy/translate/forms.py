"""What a tensor of a recording is in the plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Union

import torch

from ..capture.recording import GraphRef
from ..values import Value


@dataclass(frozen=True)
class Floats:
    """A float matrix of the plan, as kernels make them.

    Where the tensor has three dimensions, ``value.heads`` is the second, and a row has its parts side by side.
    """

    value: Value


@dataclass(frozen=True)
class Array:
    """An array of the plan, of any number of dimensions: its value's number."""

    number: int


@dataclass(frozen=True)
class EdgeNumbers:
    """An argument that holds a number for each edge, which kernels take as it is: weights or types."""

    value: Value


@dataclass(frozen=True)
class Constant:
    """A tensor that no argument has a say in."""

    tensor: torch.Tensor


@dataclass(frozen=True)
class Degrees:
    """max(degrees + plus, 1) to a power, of all nodes; as recorded by a call, until something reads it otherwise."""

    graph: GraphRef
    side: str
    plus: int = 0
    power: float = 1
    is_clamped: bool = False

    def to_power(self, power: float) -> Degrees:
        return replace(self, power=self.power * power)


@dataclass(frozen=True)
class Batch:
    """The numbers of nodes of a batch's graphs; ``stage`` is "sizes", "padded" with a 0 before, or "offsets"."""

    graph: GraphRef
    stage: str = "sizes"


@dataclass(frozen=True)
class Ends:
    """The nodes at one end of all edges, "source" or "destination", in the order of the edges."""

    graph: GraphRef
    which: str


@dataclass(frozen=True)
class Nowhere:
    """A mask that chooses nothing."""


@dataclass(frozen=True)
class Scores:
    """Attention logits: the codes at both ends of each edge added, through LeakyReLU with ``slope`` (1: none)."""

    graph: GraphRef
    left: Value
    right: Value
    slope: float = 1.0
    are_normalised: bool = False


Form = Union[Floats, Array, EdgeNumbers, Constant, Degrees, Batch, Ends, Nowhere, Scores]
