"""What shows each of the method's relatives, papers around it, at work: tasks by the method's name.

A method is an entry of :data:`METHODS`: a function of seeds and epochs that makes its tasks.
"""

from __future__ import annotations

from dataclasses import replace

from .studies import FLOAT_AGAIN, Task, Variant

# As the paper trains: one scale for all rows, from the extremes, zero a code, weights from the start.
_PLAIN = {"bits": 4, "grid": "affine", "observer": "minmax"}
_PER_TENSOR = {
    f"{part}_granularity": "tensor" for part in ("inputs", "weights", "messages", "aggregates", "states", "outputs")
}


def degree_quant_tasks(seeds, epochs):
    """Degree-Quant (arXiv:2008.05000): GIN with and without protected nodes, as the paper trains and as we do."""
    protect = {"protect": [0.1, 0.2]}  # the paper's at 4 bits
    scratch = {"warm": False, "distill": 0.0}
    plain, ours = {**_PLAIN, **_PER_TENSOR}, {"bits": 4}
    variants = [
        Variant("INT4 from scratch, per tensor", plain, **scratch),
        Variant("INT4 from scratch, per tensor, protected", {**plain, **protect}, **scratch),
        replace(FLOAT_AGAIN, patience=None),
        Variant("INT4", ours),
        Variant("INT4, protected", {**ours, **protect}),
    ]
    return [Task("gin", "mini-gc", "gin", seed, epochs, variants, lr=0.005) for seed in range(seeds)]


METHODS = {"degree-quant": degree_quant_tasks}
