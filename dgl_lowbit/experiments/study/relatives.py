"""What shows each of the method's relatives, papers around it, at work: tasks by the method's name.

A method is an entry of :data:`METHODS`: a function of seeds and epochs that makes its tasks.
"""

from __future__ import annotations

from dataclasses import replace

from ...training import PATIENCE
from .studies import FLOAT_AGAIN, Task, Variant, low_bit

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


def sign_tasks(seeds, epochs, graphs=("cora",), widths=(64, 256)):
    """GCNs of 1 bit that send 2: signs behind BatchNorm (arXiv:2010.07565), beside the usual grids, as they are wider.

    The features of the graphs, bags of words, keep the usual grid, on which those of one length a row lose nothing.
    """
    bits = {"bits": 1, "messages": 2}
    signs = {**bits, "grid": "sign", "overrides": {"layers.0.inputs": 2}}
    rate = {"quantizer_lr": 0.003, "patience": PATIENCE}
    tasks = []
    for graph in graphs:
        for width in widths:
            for seed in range(seeds):
                usual = [Variant("INT1, messages INT2", bits, **rate), low_bit("gcn", 2)]
                tasks.append(Task(f"gcn, width {width}", graph, "gcn", seed, epochs, usual, {"hidden": width}))
                options = {"hidden": width, "norm": True}
                own = [Variant("signs, messages INT2", signs, **rate)]
                tasks.append(Task(f"with norm, width {width}", graph, "gcn", seed, epochs, own, options, "gcn"))
    return tasks


def a2q_tasks(seeds, epochs, graphs=("cora", "coauthor-cs", "amazon-computer")):
    """GCNs at 2 bits whose hidden states take three quarters of the bytes (arXiv:2302.00193), or half at 1 bit."""
    rate = {"quantizer_lr": 0.003, "patience": PATIENCE}
    variants = [
        low_bit("gcn", 2),
        Variant("INT2, hidden states INT1", {"bits": 2, "overrides": {"layers.1.inputs": 1}}, **rate),
        Variant("INT2, A²Q", {"bits": 2, "node_groups": 16}, budget=0.75 * 2 / 8, method="a2q", **rate),
    ]
    return [Task("gcn", graph, "gcn", s, epochs, variants, measure="hidden") for graph in graphs for s in range(seeds)]


METHODS = {"degree-quant": degree_quant_tasks, "sign": sign_tasks, "a2q": a2q_tasks}
