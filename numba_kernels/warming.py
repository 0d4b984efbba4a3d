"""Compiling ahead what models need: for images of machines, and first requests that must not wait."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from .graph import HUB_EDGES, Graph, GraphError
from .kernels.instruction import INSTRUCTIONS
from .model import PackedModel, load
from .plan.widths import widths_of
from .run.launch import compile_loops
from .run.program import LEAST_TILE_ROWS
from .subgraph import compile_searches


def warm_up(*models: PackedModel | str | Path) -> None:
    """Compile what packed models need, or load it from the disk cache; without models, every common kernel.

    An instruction is otherwise compiled when a plan first needs it, by the first call of a model. Here a graph of one
    node stands for those to come: dense and mostly-zero features, with and without edge weights, with and without nodes
    of very many neighbours.

    Parameters
    ----------
    *models : PackedModel, str or Path
        Models, or their files.

    Raises
    ------
    FileNotFoundError, ModelFileError
        As :func:`numba_kernels.load`.
    GraphError
        For a plan that claims features wider than a file of its size may.
    ValueError
        For a model whose plan does not tell the width of its features, or that takes n-dimensional arrays; call it
        once instead.
    """
    loaded = [model if isinstance(model, PackedModel) else load(model) for model in models]
    compile_loops()
    compile_searches()
    for model in loaded:
        _run_on_examples(model)
    if not models:
        for instruction in INSTRUCTIONS.values():
            for variant in instruction.variants:
                instruction.address(*variant)


def _run_on_examples(model):
    widths = widths_of(model.plan)
    model.check_room(LEAST_TILE_ROWS * 4 * sum(widths.values()))
    hub = Graph([0, HUB_EDGES], np.zeros(HUB_EDGES, np.int64))
    for graph, density, weights in itertools.product((Graph([0, 1], [0]), hub), (0, 1), (None, np.int8, np.float32)):
        arguments = {}
        for entry in model.plan.inputs:
            value, kind = entry["value"], entry["kind"]
            if kind == "graph":
                arguments[value] = _example_graph(model.plan, value, graph)
            elif kind == "features":
                arguments[value] = np.full((graph.num_src, widths[value]), density, np.float32)
            elif kind == "edge_weight":
                arguments[value] = None if weights is None else np.ones(graph.num_edges, weights)
            elif kind == "array":
                raise ValueError(f"the plan does not tell the shape of {entry['name']}; call the model once instead.")
            elif kind == "edge_types":
                arguments[value] = np.zeros(graph.num_edges, np.int64)
            else:
                arguments[value] = None
        try:
            model.run(arguments)
        except GraphError:  # a model that takes no such weights, or features of edges
            continue


def _example_graph(plan, value, graph):
    """``graph`` in the form that the plan reads an argument in: itself, a list, or by edge type."""
    readers = [op for op in plan.ops if op["in"] and op["in"][0] == value]
    items = {op["index"]: op["out"] for op in readers if op["op"] == "item"}
    if items:
        return [_example_graph(plan, items.get(n), graph) for n in range(max(items) + 1)]
    etypes = [tuple(op["etype"]) for op in readers if op["op"] == "relation"]
    return dict.fromkeys(etypes, graph) if etypes else graph
