"""Whether rows of a plan's results follow from rows of the same nodes and of their neighbours, of several types too.

What :mod:`numba_kernels.plan.reach` says of one graph, and how far outputs reach in it, is not asked here: only that no
operation mixes rows otherwise. A function of arrays may, unless it is one of the few that are known not to.
"""

from __future__ import annotations

from ..arrays.rows import BY_NUMBER
from ..errors import GraphError
from .ops import OPERATIONS
from .ops.call import data_of, written

# Functions that leave out the dimension ``dim``.
_REDUCTIONS = ("sum", "mean", "max", "min", "amax", "amin")


def refuse_mixed_rows(plan) -> None:
    """Raise GraphError where an operation of a plan may read rows of all nodes."""
    refuse_silent_rows(plan, "workers do not tell each other which rows are sent")
    axes: dict = {}  # of arrays: which of their dimensions rows of nodes are
    for op in plan.ops:
        operation = OPERATIONS[op["op"]]
        if operation.reads_sources is not None or operation.is_before:
            continue
        axis = _axis(op, axes)
        if axis is None:
            name = f"{op['op']} {op.get('function', '')}".strip()
            raise GraphError(
                f"the model computes {name!r} in a way that may read rows of all nodes, which no worker has. Run it on "
                "the whole graph, or leave this out of the model that is distributed."
            )
        axes.update(dict.fromkeys(written(op), axis))


def refuse_silent_rows(plan, reason: str) -> None:
    """Raise GraphError where a plan leaves rows unsent, which, for a ``reason``, cannot be."""
    if any("dead_zone" in op for op in plan.ops):
        raise GraphError(
            f"the model leaves silent rows unsent, and {reason}. Run it in one process and in memory, or train it "
            "without dead_zone."
        )


def _axis(op, axes):
    """Which dimension of what an operation between launches writes has rows of nodes; None where that is not known."""
    if op["op"] == "matrix":
        return 0 if axes.get(op["in"][0], 0) == 0 else None
    if op["op"] != "call" or set(data_of(op)) != set(op["in"]) or _names_constants(op):
        return None
    read, function = {axes.get(value, 0) for value in op["in"]}, op["function"]
    axis, dim = read.pop() if len(read) == 1 else None, op["kwargs"].get("dim", *op["args"][1:2] or (None,))
    if function == "stack":
        return 1 if (axis, op["kwargs"].get("dim", 0)) == (0, 0) and len(op["args"]) == 1 else None
    if function in _REDUCTIONS:
        return 0 if (axis, dim) == (1, 0) and not op["kwargs"].get("keepdim") else None
    return axis if function in BY_NUMBER else None


def _names_constants(op):
    """Whether an array of the plan is among the arguments: its rows may be those of nodes."""
    trees = [*op["args"], *op["kwargs"].values()]
    while trees:
        tree = trees.pop()
        if isinstance(tree, tuple):
            trees += tree
        elif isinstance(tree, dict) and "array" in tree:
            return True
    return False
