"""The NumPy twin: every operation of a plan, one at a time, on unpacked codes.

Slow and plain; what the kernels compute is tested to equal it, integers exactly and float32 bit by bit (but for
float edge weights, whose sums round differently in another order, and exponentials and roots of rows). What an
operation is in NumPy stands beside its instructions, in :mod:`numba_kernels.plan.ops`.
"""

from __future__ import annotations

from .plan import Plan
from .plan.ops import OPERATIONS


def run(plan: Plan, inputs: dict) -> dict:
    """Every value of ``plan`` by number, for ``inputs`` by number: float32 arrays (or pairs), Graphs, edge weights."""
    values = {None: None, **inputs}
    for op in plan.ops:
        result = OPERATIONS[op["op"]].reference(plan, op, *(values[value] for value in op["in"]))
        if "state" in op:
            values[op["out"]], values[op["state"]] = result
        elif isinstance(op.get("out"), tuple):
            values.update(zip(op["out"], result))
        elif "out" in op:
            values[op["out"]] = result
    return values
