"""What a packed model's file says of its making."""

from __future__ import annotations

from dataclasses import dataclass, field

import dgl

from ..training.identity import graph_identity


def facts_of(name: str, seed: int, graph: dgl.DGLGraph) -> dict:
    """What a file says of the graph that its model was trained on, with self-loops, in plain values."""
    return {"graph": name, "seed": seed, "self_loops": True, "trained_on": graph_identity(graph)}


@dataclass(frozen=True)
class Facts:
    """What is known of the making of a model; what is missing or of another type in a file is left at the default."""

    graph: str | None = None
    seed: int = 0
    self_loops: bool = True
    model: str = "model"
    layers: dict = field(default_factory=dict)
    trained_on: dict | None = None

    @classmethod
    def of(cls, info: dict) -> Facts:
        """Those of a file."""
        types = {"graph": str, "seed": int, "self_loops": bool, "model": str, "layers": dict, "trained_on": dict}
        return cls(**{name: info[name] for name, kind in types.items() if type(info.get(name)) is kind})

    @property
    def described(self) -> str:
        """The graph in words."""
        if self.graph is None:
            return "not recorded"
        known = ("nodes", "edges", "digest")
        if self.trained_on is None or not all(name in self.trained_on for name in known):
            return self.graph
        nodes, edges, digest = (self.trained_on[name] for name in known)
        return f"{self.graph}, {nodes} nodes, {edges} edges, content {digest}"

    def is_same(self, identity: dict) -> bool | None:
        """Whether a graph is the one that the model was trained on; None where that is not recorded."""
        return None if self.trained_on is None else self.trained_on == identity
