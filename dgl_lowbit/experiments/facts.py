"""What a packed model's file says of its making."""

from __future__ import annotations

import dgl

from numba_kernels.description import Facts

from ..training.identity import graph_identity

__all__ = ["Facts", "facts_of"]


def facts_of(name: str, seed: int, graph: dgl.DGLGraph) -> dict:
    """What a file says of the graph that its model was trained on, with self-loops, in plain values."""
    return {"graph": name, "seed": seed, "self_loops": True, "trained_on": graph_identity(graph)}
