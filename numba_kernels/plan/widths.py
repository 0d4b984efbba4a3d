"""How wide the features are that a plan reads."""

from __future__ import annotations

# Operations whose result has the columns of what they read first.
_ALIKE = (
    "source", "destination", "degree", "fixed_degree", "relu", "map", "combine", "maximum", "multiply", "bias", "scale",
)  # fmt: skip


def widths_of(plan) -> dict:
    """The width of each array of features, whole, by value; from the first quantizer that reads it, if not given.

    Raises
    ------
    ValueError
        Where the plan does not tell one.
    """
    features = [entry for entry in plan.inputs if entry["kind"] == "features"]
    widths = {entry["value"]: entry["columns"]["total"] if "columns" in entry else None for entry in features}
    alias = {value: value for value in widths}
    for op in plan.ops:
        first = op["in"][0] if op["in"] else None
        if first in alias and "columns" in op:
            widths[alias[first]] = widths[alias[first]] or op["columns"]
        elif first in alias and op["op"] in _ALIKE:
            alias[op["out"]] = alias[first]
    unknown = [entry["name"] for entry in plan.inputs if widths.get(entry["value"], 1) is None]
    if unknown:
        raise ValueError(f"the plan does not tell the width of {', '.join(unknown)}; call the model once instead.")
    return widths
