"""Two runs of a model made one recording: what differs between them must follow from the sizes of the arguments."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from ..errors import FreezeError
from .recording import Call, GraphRef, Recording, Size, TensorRef, leaves, mapped, refs_of

# What makes as many rows as data says.
_CHOOSING = ("nonzero", "argwhere", "masked_select", "unique", "node_subgraph", "edge_subgraph")


def generalised(first: Recording, second: Recording) -> Recording:
    """``first``, with a :class:`~.recording.Size` in the place of every number that ``second`` has another of.

    Parameters
    ----------
    first, second : Recording
        Of the same model on an example, and on a larger one.

    Raises
    ------
    FreezeError
        Names the line from which on the runs took different courses, or that used a number which no size explains.
    """
    return _Pair(first, second).generalised()


class _Pair:
    def __init__(self, first, second):
        self.first, self.second = first, second

    def generalised(self) -> Recording:
        first, second = self.first, self.second
        for one, other in zip(first.calls, second.calls):
            if one.name != other.name or one.line != other.line:
                self._fail("is called where on a larger graph another function is", one)
        if len(first.calls) != len(second.calls):
            longer = first.calls if len(first.calls) > len(second.calls) else second.calls
            self._fail("is called more often on a larger graph", longer[min(len(first.calls), len(second.calls))])
        output = self._tree(first.output, second.output, None, ())
        read, calls = refs_of(output), list(first.calls)
        for place, (one, other) in reversed(list(enumerate(zip(first.calls, second.calls)))):
            if one.name == "require" or not read.isdisjoint(leaves(one.out)):  # what nothing reads may be anything
                calls[place] = self._call(one, other)
                read |= refs_of((calls[place].args, calls[place].kwargs))
        constants = {number: constant for number, constant in first.constants.items() if self._is_same(number)}
        made = {ref for call in calls for ref in leaves(call.out)}
        for number in first.constants:
            if number not in constants and TensorRef(number) not in made and TensorRef(number) in read:
                self._fail_constant(number)
        shapes: dict[int, tuple] = {}
        makers = {ref.number: call for call in first.calls for ref in _tensors(call.out)}
        for number in sorted(first.shapes):  # what a call reads has a lower number than what it makes
            shapes[number] = self._shape(number, shapes, makers.get(number))
        return replace(first, calls=calls, output=output, shapes=shapes, constants=constants)

    def _is_same(self, number):
        """Whether what follows from no argument is the same in both runs."""
        one, other = self.first.constants[number], self.second.constants.get(number)
        same = other is not None and one.shape == other.shape and one.dtype == other.dtype
        return same and bool(torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)))

    def _shape(self, number, shapes, maker):
        """The shape of a tensor, sizes for what differs: those of what ``maker`` reads, of arguments, or its own."""
        own, near, rows, graphs = Size("rows", TensorRef(number)), {}, {}, ()
        chooses = maker is not None and _chooses(self.first, maker)
        if maker is not None and not chooses:
            given = (maker.args, maker.kwargs)
            graphs = tuple(leaf for leaf in leaves(given) if isinstance(leaf, GraphRef))
            for ref in _tensors(given):
                pairs = list(zip(self.first.shapes[ref.number], self.second.shapes[ref.number]))
                near.update(zip(pairs, shapes[ref.number]))
                rows.update({pair: size for pair, size in zip(pairs[:1], shapes[ref.number]) if isinstance(size, Size)})
        shape = []
        for axis, pair in enumerate(zip(self.first.shapes[number], self.second.shapes[number])):
            if axis == 0 and (chooses or pair in rows):  # be it as many in both runs
                shape.append(own if chooses else rows[pair])
            elif pair[0] == pair[1]:
                shape.append(pair[0])
            else:
                shape.append(near.get(pair) or self._size(*pair, graphs, maker) or replace(own, axis=axis))
        return tuple(shape)

    def _call(self, first: Call, second: Call) -> Call:
        inner = [generalised(a, b) for a, b in zip(first.inner, second.inner)]
        args, kwargs = self._tree(
            (first.args, first.kwargs), (second.args, second.kwargs), first, _tensors((first.args, first.kwargs))
        )
        return Call(first.name, args, kwargs, first.out, first.line, first.owner, inner)

    def _tree(self, first: Any, second: Any, call: Call | None, near: tuple) -> Any:
        """``first`` with sizes where ``second`` has other numbers; ``near`` are tensors whose rows may explain them."""
        ones, others = list(leaves(first)), list(leaves(second))
        if len(ones) != len(others) and call is not None and call.name == "layer":
            first, second = _once(first), _once(second)
            ones, others = list(leaves(first)), list(leaves(second))
        if len(ones) != len(others):
            self._fail("is given more on a larger graph", call)
        pairs = iter(zip(ones, others))

        def merged(_):
            one, other = next(pairs)
            if isinstance(one, (TensorRef, GraphRef)) or one is other:
                if one != other:
                    self._fail("reads something else on a larger graph", call)
                return one
            if type(one) is type(other) and _equal(one, other):
                return one
            if isinstance(one, int) and isinstance(other, int):
                size = self._size(one, other, near, call)
                if size is not None:
                    return size
            return self._fail(
                f"is given {_short(one)}, on a larger graph {_short(other)}, which no size of the arguments explains,",
                call,
            )

        return mapped(first, merged)

    def _size(self, one: int, other: int, near: tuple, call: Call | None = None) -> Size | None:
        """The size that is ``one`` in the first run and ``other`` in the second, of what is known before ``call``."""
        made = [] if call is None else [ref.number for ref in leaves(call.out) if ref is not None]
        until = min(made, default=math.inf)
        graphs = sorted(self._graphs(until), key=lambda known: known[0].ref not in near)
        known = [*self._rows(near), *self._chosen(until), *graphs, *self._rows(e.ref for e in self.first.inputs)]
        for size, a, b in known:
            if (a, b) == (one, other):
                return size
        for size, a, b in known:
            if a != b and (other - one) % (b - a) == 0:
                times = (other - one) // (b - a)
                plus = one - times * a
                is_single = size.of == "graphs" and a == 1  # any number is a multiple of one graph
                if times > 0 and (plus == 0 or (times == 1 and abs(plus) <= 2)) and (times == 1 or not is_single):
                    return replace(size, times=times, plus=plus)
        return None

    def _rows(self, refs):
        for ref in refs:
            if isinstance(ref, TensorRef):
                pairs = zip(self.first.shapes[ref.number], self.second.shapes[ref.number])
                yield from ((Size("rows", ref, axis), a, b) for axis, (a, b) in enumerate(pairs) if a != b)

    def _chosen(self, until):
        """Rows of what was chosen by data, the last first."""
        calls = reversed(self.first.calls) if until < math.inf else ()
        chosen = (ref for call in calls if _chooses(self.first, call) for ref in _tensors(call.out))
        yield from self._rows(ref for ref in chosen if ref.number < until)

    def _graphs(self, until):
        arguments = {entry.ref.number for entry in self.first.inputs}
        for number, graph in self.first.graphs.items():
            other, ref = self.second.graphs.get(number), GraphRef(number)
            if other is None or not (number < until or number in arguments):
                continue
            single = len(graph.canonical_etypes) == 1
            for etype in graph.canonical_etypes:
                counts = zip(_counts(graph, etype), _counts(other, etype))
                for of, (a, b) in zip(("src_nodes", "dst_nodes", "edges"), counts):
                    yield Size(of, ref, etype=None if single else etype), a, b
            if not graph.is_block and single:
                yield Size("graphs", ref), graph.batch_size, other.batch_size

    def _fail(self, what: str, call: Call | None):
        line = None if call is None else call.line
        name = "the result" if call is None else call.name
        raise FreezeError(
            f"{name} {what}{line or ''}: a packed model takes the same course on every graph; a size must come from "
            "the arguments' shapes or the graph, without int(), len() of lists or data."
        )

    def _fail_constant(self, number: int):
        reading = next(
            (call for call in self.first.calls if TensorRef(number) in leaves((call.args, call.kwargs))), None
        )
        shape = tuple(self.first.constants[number].shape)
        line = "" if reading is None else reading.line
        raise FreezeError(
            f"a tensor of shape {shape} that is read{line} differs from one graph to another, and is neither an "
            "argument nor made by functions that can be followed; pass it as an argument of forward."
        )


def _counts(graph, etype):
    """Source nodes, destination nodes and edges of a type."""
    source, _, destination = etype
    if graph.is_block:
        return graph.num_src_nodes(source), graph.num_dst_nodes(destination), graph.num_edges(etype)
    return graph.num_nodes(source), graph.num_nodes(destination), graph.num_edges(etype)


def _once(tree):
    """``tree`` with lists of one number, a batch's ``[2.0] * batch_size``, as lists that hold it once."""
    if isinstance(tree, list) and tree and type(tree[0]) in (int, float) and tree == tree[:1] * len(tree):
        return tree[:1]
    if isinstance(tree, (tuple, list)) and not isinstance(tree, (TensorRef, GraphRef)):
        return type(tree)(map(_once, tree))
    return {key: _once(part) for key, part in tree.items()} if isinstance(tree, dict) else tree


def _short(value):
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:36]} …"


def _equal(one, other):
    try:
        return bool(one == other)
    except (RuntimeError, ValueError, TypeError):
        return False


def _chooses(recording, call) -> bool:
    """Whether a call's numbers of rows follow from data: of what a mask chooses, or of the numbers that there are."""
    masks = (recording.dtypes[ref.number] == torch.bool for ref in _tensors(call.args[1:]))
    name = call.name.strip("_")
    by_data = name in _CHOOSING or (name == "where" and len(call.args) == 1)
    return by_data or (name == "getitem" and any(masks))


def _tensors(tree) -> tuple:
    return tuple(leaf for leaf in leaves(tree) if isinstance(leaf, TensorRef))
