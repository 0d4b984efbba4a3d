"""Numbers of rows, nodes and edges that a plan names and a run knows.

A size is a whole number, or a dict: ``{"of": "rows", "value": value, "axis": k}`` or ``{"of": what, "graph": value}``,
what of nodes, src_nodes, dst_nodes, edges and graphs. With ``"times"`` and ``"plus"``, whole numbers, it stands for
times · size + plus.
"""

from __future__ import annotations

from typing import Callable

from ..graph import Graph, GraphError

OF_GRAPHS = {
    "nodes": "num_dst",
    "src_nodes": "num_src",
    "dst_nodes": "num_dst",
    "edges": "num_edges",
    "graphs": "batch_size",
}
_HAVE_ROWS = ("array", "features", "float", "edge_weight")


def is_whole(number) -> bool:
    """Whether ``number`` is a whole number, which True and False are not."""
    return isinstance(number, int) and not isinstance(number, bool)


def check_size(plan, size) -> int | None:
    """Raise PlanError unless ``size`` is one; returns the value it is read of, if any."""
    if is_whole(size):
        return None
    plan.require(isinstance(size, dict), f"{size!r} is no size")
    for name in ("times", "plus"):
        plan.require(is_whole(size.get(name, 0)), f"{name} of a size is {size.get(name)!r}, no whole number")
    of_rows = size["of"] == "rows"
    plan.require(of_rows or size["of"] in OF_GRAPHS, f"a size of {size['of']!r}")
    known = {"of", "times", "plus", *(("value", "axis") if of_rows else ("graph",))}
    plan.require(set(size) <= known, f"a size has {sorted(set(size) - known)}")
    if not of_rows:
        plan.expect(size["graph"], "graph")
        return size["graph"]
    plan.expect(size["value"], *_HAVE_ROWS)
    plan.require(is_whole(size["axis"]) and size["axis"] >= 0, f"axis {size['axis']!r} of a size")
    return size["value"]


def single(graph) -> Graph:
    """``graph``, which must be one of one edge type.

    Raises
    ------
    GraphError
        Otherwise.
    """
    if isinstance(graph, (dict, list)):
        what = "one of several edge types" if isinstance(graph, dict) else f"a list of {len(graph)}"
        raise GraphError(f"the model reads one graph here, got {what}.")
    return graph


def scaled(size: dict, number: int) -> int:
    """``number`` times ``times`` plus ``plus``."""
    return number * size.get("times", 1) + size.get("plus", 0)


def measure(size, graph_of: Callable, shape_of: Callable) -> int:
    """The number that a size stands for, given what finds graphs and shapes by value.

    Raises
    ------
    GraphError
        When the value has no such axis, or no single graph is at hand.
    """
    if is_whole(size):
        return size
    if size["of"] != "rows":
        return scaled(size, getattr(single(graph_of(size["graph"])), OF_GRAPHS[size["of"]]))
    shape = shape_of(size["value"])
    if size["axis"] >= len(shape):
        raise GraphError(f"expected an array with at least {size['axis'] + 1} dimensions, got shape {shape}.")
    return scaled(size, shape[size["axis"]])


def all_sizes(sizes: list, times, matrices, graphs: dict, shapes: dict) -> list:
    """Numbers of rows that a program may name: ``sizes``, those of ``matrices``, and what is computed of them."""
    computed = [{"times": count} for count in times]
    sizes = list(sizes)
    for rows in matrices:
        if is_whole(rows) or rows["of"] != "rows" or rows["value"] in shapes:
            sizes.append(measure(rows, graphs.__getitem__, shapes.__getitem__))
        elif scaled(rows, 1) != 1:
            computed.append(rows)
    for rows in computed:
        sizes += [scaled(rows, size) for size in sizes]
    return sizes
