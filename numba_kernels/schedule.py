"""Groups a plan's operations into stages, each one kernel launch or a view."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from .plan import Plan

# The order in which a kernel's epilogue does things.
_SLOTS = {"degree": 0, "bias": 1, "combine": 2, "relu": 3}
_MOST_TARGETS = 2


@dataclass
class Stage:
    """A root operation, the epilogue that follows it row by row, and what the result is requantised to.

    ``kind`` is the root's operation, or ``"rows"`` where a float matrix, ``source``, is only read. A degree norm that
    only feeds quantisations and sums is part of them: their key ``factors`` has one, or None, for each input.
    """

    kind: str
    op: dict | None = None
    source: int | None = None
    epilogue: dict = field(default_factory=dict)  # operation by slot
    value: int | None = None  # the float value at the end of the epilogue
    keeps_float: bool = False
    targets: list = field(default_factory=list)  # quantize operations

    @property
    def reads(self) -> set[int]:
        """Values the stage reads."""
        operations = [op for op in (self.op, *self.epilogue.values(), *self.targets) if op is not None]
        values = {value for op in operations for value in op["in"]}
        values |= {factor["in"][1] for op in operations for factor in op.get("factors", []) if factor}
        return (values | {self.source}) - {None}


def schedule(plan: Plan) -> list[Stage]:
    """Stages of ``plan`` in running order, every operation in exactly one of them."""
    return _Scheduler(plan).stages


def _readers(ops):
    readers = defaultdict(list)
    for op in ops:
        for value in op["in"]:
            readers[value].append(op)
    return readers


def _fold_degrees(ops, outputs):
    """Operations with every degree norm that only feeds quantisations or sums made part of them."""
    readers, folded, kept = _readers(ops), {}, []
    for op in ops:
        foldable = op["op"] == "degree" and op["out"] not in outputs
        if foldable and all(_takes_factor(reader, op["out"]) for reader in readers[op["out"]]):
            folded[op["out"]] = op
        elif any(value in folded for value in op["in"]):
            factors = [folded.get(value) for value in op["in"]]
            inputs = [value if f is None else f["in"][0] for value, f in zip(op["in"], factors)]
            kept.append({**op, "in": inputs, "factors": factors})
        else:
            kept.append(op)
    return kept


def _takes_factor(op, value):
    return op["op"] == "combine" or (op["op"] in ("quantize", "delta") and op["in"][0] == value)


class _Scheduler:
    def __init__(self, plan):
        self.outputs = set(plan.outputs)
        # Views of the arguments come first, so that a stage can use the graph of a layer further on.
        ops = sorted(_fold_degrees(plan.ops, self.outputs), key=lambda op: op["op"] != "item")
        self.readers = _readers(ops)
        self.written = {entry["value"] for entry in plan.inputs}
        self.done, self.stages = set(), []
        for op in ops:
            if id(op) not in self.done:
                self._place(op)

    def _place(self, op):
        name = op["op"]
        if name in ("linear", "aggregate"):
            stage = self._extend(Stage(name, self._take(op), value=op["out"]))
        elif name in ("degree", "bias", "relu"):
            stage = Stage("rows", source=op["in"][0], epilogue={name: self._take(op)}, value=op["out"])
            self._extend(stage)
        elif name == "quantize":
            stage = Stage("rows", source=op["in"][0])
            self._collect_targets(stage, stage.source)
        else:
            stage = Stage(name, self._take(op), value=op.get("out"))
        self.stages.append(stage)

    def _extend(self, stage):
        while stage.value not in self.outputs and len(self.readers[stage.value]) == 1:
            op = self.readers[stage.value][0]
            last = max((_SLOTS[slot] for slot in stage.epilogue), default=-1)
            if _SLOTS.get(op["op"], -1) <= last or (op["op"] == "combine" and not self._is_residual(op, stage.value)):
                break
            stage.epilogue[op["op"]] = self._take(op)
            stage.value = op["out"]
        self._collect_targets(stage, stage.value)
        stage.keeps_float = stage.value in self.outputs or any(
            id(op) not in self.done for op in self.readers[stage.value]
        )
        return stage

    def _is_residual(self, op, value):
        """Whether ``op`` adds to ``value`` one other float that is there by now."""
        others = [v for v in op["in"] if v != value]
        is_plain = list(op["coefficients"]) == [1, 1] and "factors" not in op
        return is_plain and len(others) == 1 and others[0] in self.written

    def _collect_targets(self, stage, value):
        for op in self.readers[value]:
            if op["op"] == "quantize" and id(op) not in self.done and len(stage.targets) < _MOST_TARGETS:
                stage.targets.append(self._take(op))

    def _take(self, op):
        self.done.add(id(op))
        self.written.update(op[key] for key in ("out", "state") if key in op)
        return op
