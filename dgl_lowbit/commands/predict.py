"""``dgl-lowbit predict``."""

from __future__ import annotations

import argparse
import json
import sys

from dgl import DGLError

from numba_kernels.commands import add_command

from ..experiments.data import GRAPH_NAMES, load_graph, num_classes
from .options import add_json

_EXAMPLES = [
    "dgl-lowbit predict demo/planted-gcn-int2.safetensors",
    "dgl-lowbit predict demo/planted-gcn-int2.safetensors --graph planted --output classes.txt",
]


def add(commands) -> None:
    command = add_command(commands, "predict", _EXAMPLES, "run a packed model on a graph")
    command.add_argument("model", help="a .safetensors file")
    command.add_argument(
        "--graph", choices=GRAPH_NAMES, metavar="GRAPH",
        help=f"one of {', '.join(GRAPH_NAMES)}; default: the one it was trained on",
    )  # fmt: skip
    command.add_argument(
        "--self-loops", action=argparse.BooleanOptionalAction,
        help="add self-loops to the graph, or leave it as it is; default: what the file says, else add them",
    )  # fmt: skip
    command.add_argument("--output", metavar="FILE", help="write the predicted class of every node, one a line")
    add_json(command)
    command.set_defaults(run=_run)


def _run(options):
    import dgl

    from ..deploy import load, replace_file
    from ..experiments.facts import Facts
    from ..training import accuracy
    from ..training.identity import graph_identity

    packed = load(options.model)
    facts = Facts.of(packed.info)
    name = options.graph or facts.graph
    if name is None:
        raise ValueError(f"{options.model} does not say what graph it was trained on; pass --graph.")
    graph = load_graph(name, facts.seed)
    self_loops = facts.self_loops if options.self_loops is None else options.self_loops
    if self_loops:
        graph = dgl.add_self_loop(graph)
    is_same = facts.is_same(graph_identity(graph))
    if is_same is False:
        print(f"dgl-lowbit predict: note: the model was trained on another graph, {facts.described}", file=sys.stderr)
    try:
        logits = packed(graph, graph.ndata["feat"])
        if logits.shape[1:] != (num_classes(graph),) or len(logits) != graph.num_nodes():
            raise ValueError(f"it returns {tuple(logits.shape)}, not a number for each of the nodes and classes")
    except (TypeError, AttributeError, ValueError, DGLError) as error:
        raise ValueError(f"{options.model} does not fit {name}: {error}") from error
    if options.output:
        classes = "".join(f"{c}\n" for c in logits.argmax(1).tolist())
        replace_file(options.output, classes.encode())
    result = {
        "graph": name, "nodes": len(logits), "self_loops": self_loops, "test_accuracy": accuracy(logits, graph),
        "trained_on_it": is_same,
    }  # fmt: skip
    if options.json:
        print(json.dumps(result))
    else:
        nodes = f"{len(logits):,} nodes{' with self-loops' if self_loops else ''}"
        print(f"{name}: {nodes}, test accuracy {100 * result['test_accuracy']:.1f} %")
