"""What a packed model's file says: of its making, and of what it computes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from .commands import printable, table
from .model import PackedModel


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


def describe(model: PackedModel, size: int, as_json: bool = False) -> str:
    """A model, whose file has ``size`` bytes, in words and tables that are safe to print, or as JSON."""
    arguments = [f"{entry['name']}: {entry['kind']}" for entry in model.plan.inputs]
    operations = len(model.plan.ops)
    if as_json:
        return json.dumps({"bytes": size, "arguments": arguments, "operations": operations, **model.info})
    facts = Facts.of(model.info)
    rows = [[name or "(the model)", json.dumps(config)] for name, config in facts.layers.items()]
    lines = [
        printable(f"{facts.model}({', '.join(arguments)}), {operations} operations, {size:,} bytes"),
        printable(f"graph: {facts.described}"),
        "",
        table(["layer", "config"], [list(map(printable, row)) for row in rows]),
    ]
    weights = [op["weight"] for op in model.plan.ops if op["op"] == "linear"]
    if weights:
        shapes = [["×".join(map(str, weight["shape"])), weight["bits"]] for weight in weights]
        lines += ["", table(["weights", "bits"], shapes)]
    return "\n".join(lines)
