"""What one run of a model did: its calls in order, on numbered tensors and graphs."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch


class TensorRef(NamedTuple):
    """A tensor of a recording."""

    number: int


class GraphRef(NamedTuple):
    """A graph of a recording, of one or several edge types, or a list of blocks."""

    number: int


@dataclass(frozen=True)
class Size:
    """A whole number that follows from the sizes of the arguments: ``times`` · size + ``plus``.

    Parameters
    ----------
    of : str
        "rows" of a tensor along ``axis``; "src_nodes", "dst_nodes", "edges" or "graphs" of a graph.
    ref : TensorRef or GraphRef
    axis, times, plus : int
    etype : tuple of str, optional
        Of a graph of several edge types: the one whose ends or edges are counted.
    """

    of: str
    ref: TensorRef | GraphRef
    axis: int = 0
    times: int = 1
    plus: int = 0
    etype: tuple | None = None


class Line(NamedTuple):
    """A line of the user's code."""

    file: str
    number: int

    @property
    def code(self) -> str:
        """What stands there."""
        return linecache.getline(self.file, self.number).strip()

    def __str__(self):
        return f" at {self.file}:{self.number} ({self.code})"


@dataclass
class Call:
    """A function that was called: ``name`` on ``args`` and ``kwargs``, trees with references for tensors and graphs.

    ``out`` is the tree of what it returned or changed in place. ``owner`` is what the call belongs to: a low-bit layer,
    the quantisers of a call site, a message-passing function's own arguments.
    """

    name: str
    args: tuple
    kwargs: dict
    out: Any
    line: Line | None
    owner: Any = None
    inner: list[Recording] = field(default_factory=list)


class Input(NamedTuple):
    """Something a forward reads: what it is called, how to come to it, and its reference."""

    path: tuple
    ref: TensorRef | GraphRef


@dataclass
class Recording:
    """One run of a model.

    Attributes
    ----------
    inputs : list of Input
        Arguments, entries of their graphs' frames, and graphs that modules keep, as far as they are read.
    calls : list of Call
    output : tree of references
    constants : dict of int to torch.Tensor
        Tensors that are neither arguments nor made by a call, parameters among them, as they were when first read.
    shapes : dict of int to tuple of int or Size
        Of all tensors by number; sizes where they follow from the arguments' in a generalised recording.
    dtypes : dict of int to torch.dtype
    graphs : dict of int to DGLGraph
        Graphs by number, as they were in this run.
    """

    inputs: list[Input] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    output: Any = None
    constants: dict[int, torch.Tensor] = field(default_factory=dict)
    shapes: dict[int, tuple] = field(default_factory=dict)
    dtypes: dict[int, torch.dtype] = field(default_factory=dict)
    graphs: dict[int, Any] = field(default_factory=dict)


def mapped(tree: Any, function: Callable) -> Any:
    """``tree`` with ``function`` of each leaf; lists, tuples, dicts and slices are its branches.

    >>> mapped({"a": (1, [2])}, lambda leaf: leaf + 1)
    {'a': (2, [3])}
    """
    if isinstance(tree, (TensorRef, GraphRef)):
        return function(tree)
    if isinstance(tree, (tuple, list)):
        parts = [mapped(part, function) for part in tree]
        return list(parts) if isinstance(tree, list) else tuple(parts)
    if isinstance(tree, dict):
        return {key: mapped(part, function) for key, part in tree.items()}
    if isinstance(tree, slice):
        return slice(*(mapped(part, function) for part in (tree.start, tree.stop, tree.step)))
    return function(tree)


def leaves(tree: Any) -> Iterator:
    """The leaves of ``tree`` in order."""
    found: list = []
    mapped(tree, found.append)
    return iter(found)


def refs_of(tree: Any) -> set:
    """The tensors and graphs that a tree refers to, those of sizes among them."""
    refs = (leaf.ref if isinstance(leaf, Size) else leaf for leaf in leaves(tree))
    return {ref for ref in refs if isinstance(ref, (TensorRef, GraphRef))}
