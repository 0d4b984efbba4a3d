"""What shows each of the method's relatives, papers around it, at work: tasks by the method's name.

A method is an entry of :data:`METHODS`: a function of seeds and epochs that makes its tasks.
"""

from __future__ import annotations

from dataclasses import replace

from .studies import FLOAT_AGAIN, Task, Variant

# One scale for all rows, that starts from the extremes, zero a code.
_PER_TENSOR = {
    "grid": "affine",
    "observer": "minmax",
    **{
        f"{part}_granularity": "tensor" for part in ("inputs", "weights", "messages", "aggregates", "states", "outputs")
    },
}


def degree_quant_tasks(seeds, epochs):
    """Degree-Quant (arXiv:2008.05000): GIN with and without protected nodes, as the paper trains and as we do."""
    scratch = {"warm": False, "distill": 0.0}
    variants = [replace(FLOAT_AGAIN, patience=None)]
    for way, protect in (("", {}), (", protected", {"protect": [0.1, 0.2]})):  # the paper's at 4 bits
        for bits in (4, 2):
            label = f"INT{bits} from scratch, per tensor{way}"
            variants.append(Variant(label, {"bits": bits, **_PER_TENSOR, **protect}, **scratch))
        variants.append(Variant(f"INT4{way}", {"bits": 4, **protect}))
    return [Task("gin", "mini-gc", "gin", seed, epochs, variants, lr=0.005) for seed in range(seeds)]


METHODS = {"degree-quant": degree_quant_tasks}
