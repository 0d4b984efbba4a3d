"""What an operation of a plan is, and the registry of all of them."""

from __future__ import annotations

from ..attributes import NONE, STRING, VALUE, Kind, fault, several

OPERATIONS: dict[str, Operation] = {}


class Operation:
    """An operation: what a file may say of it, the shapes it makes, its instructions, and its NumPy reference.

    A subclass is one operation; :func:`operation` registers it by the name that plans have for it. The dict ``op`` is
    the operation in the plan: ``in``, the numbers of the values it reads (None where an optional one is left out),
    ``out``, that of the value it writes, and its attributes.

    Attributes
    ----------
    attributes, optional : dict of str to Kind
        What the plan says of it beside ``op``, ``in`` and ``out``; the latter may be left out.
    out : Kind, or None
        What it writes: a value, several, or nothing.
    gathers : tuple of int, or None
        Which of the values it reads are read at rows of other nodes, and so must be complete; None for all of them.
    reads_sources, reads_edges : tuple of int
        Which of the values in ``in`` a row of its result follows from at rows of the in-neighbours, and of the
        in-edges, of the graph that it reads; from others at its own row. None where it may be any rows.
    is_before : bool
        Whether it works on graphs and edge weights only, before any stage; then :meth:`prepare` stands for
        :meth:`resolve` and :meth:`emit`.
    is_ahead : bool
        Whether it works on arrays before the rest of the plan is laid out; then :meth:`make` stands for these two.
    """

    name = ""
    attributes: dict[str, Kind]
    optional: dict[str, Kind]
    out: Kind | None = VALUE
    gathers: tuple | None = ()
    reads_sources: tuple | None = ()
    reads_edges: tuple = ()
    is_before = False
    is_ahead = False

    def fault(self, op: dict) -> str | None:
        """What is wrong with the keys of ``op`` and the kinds of their values, None if nothing."""
        known = {"op": STRING, "in": _READS, **({} if self.out is None else {"out": self.out}), **self.attributes}
        return fault(op, known, self.optional)

    def check(self, plan, op: dict, *values) -> None:
        """Raise PlanError unless ``op`` can run on ``values``; declare what it writes (``plan.define``)."""
        raise NotImplementedError

    def resolve(self, resolver, op: dict) -> None:
        """Say which rows and columns come of it (``resolver.emit``), for arguments at hand.

        The default is an operation on rows of the same nodes, of one width.
        """
        resolver.row_by_row(op)

    def prepare(self, op: dict, graphs: dict, edge_weights: dict, types: dict) -> None:
        """Make a graph or edge weights of others."""
        raise NotImplementedError

    def asks_for(self, *arrays) -> int:
        """Of an operation that runs ahead, the bytes that numbers in its arrays ask for."""
        return 0

    def make(self, *arrays):
        """Of an operation that runs ahead, the array or graph that it makes of arrays."""
        raise NotImplementedError

    def emit(self, stage, op) -> None:
        """Add its instructions to the program of ``stage``; ``op`` is resolved."""
        raise NotImplementedError

    def run(self, op: dict, reader) -> list:
        """Of an operation in NumPy between launches, which has no :meth:`emit`, the arrays that it writes.

        ``reader`` gives arrays by value (``array``), their shapes (``shape``), constants by name (``constant``), and
        holds ``graphs`` by value.
        """
        raise NotImplementedError

    def reference(self, plan, op: dict, *values):
        """The same in NumPy: float32 arrays, :class:`~numba_kernels.spec.CodedRows`, graphs."""
        raise NotImplementedError


_READS = several(VALUE | NONE)


def operation(name: str, optional: dict[str, Kind] | None = None, **attributes: Kind):
    """Class decorator: register an operation under its name in plans, with what they say of it."""

    def register(kind: type[Operation]) -> type[Operation]:
        kind.name, kind.attributes, kind.optional = name, attributes, optional or {}
        OPERATIONS[name] = kind()
        return kind

    return register


def each_part(function):
    """A reference that takes a pair (source, destination) as well, part by part."""

    def mapped(self, plan, op, value, *others):
        if isinstance(value, tuple):
            return tuple(function(self, plan, op, part, *others) for part in value)
        return function(self, plan, op, value, *others)

    return mapped
