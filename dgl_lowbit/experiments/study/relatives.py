"""What shows each of the method's relatives, papers around it, at work.

A method is an entry of :data:`METHODS`, whose ``tasks`` is a function of a graph, seeds and epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from ...training import PATIENCE
from ..data import GRAPH_NAMES
from ..graph_sets import GRAPH_SETS
from .studies import BOOSTED, FLOAT_AGAIN, Task, Variant, chosen, low_bit

_REAL = ("cora", "coauthor-cs", "amazon-computer")
_TRAINED = {"quantizer_lr": 0.003, "patience": PATIENCE}
# One scale for all rows, that starts from the extremes, zero a code.
_PER_TENSOR = {
    "grid": "affine",
    "observer": "minmax",
    **{
        f"{part}_granularity": "tensor" for part in ("inputs", "weights", "messages", "aggregates", "states", "outputs")
    },
}


@dataclass(frozen=True)
class Relative:
    """A method of another paper.

    Parameters
    ----------
    source : str
        The paper's arXiv number.
    claim : str
        What the paper reports.
    tasks : callable
        Makes the tasks of a graph by name, a number of seeds and of epochs.
    graphs : tuple of str
        Those that show it within 45 minutes on two cores, with ``seeds``.
    seeds : int
    numbers : mapping
        The paper's own, by graph, then by "setting, variant" as the table has them.
    """

    source: str
    claim: str
    tasks: Callable
    graphs: tuple = ("cora",)
    seeds: int = 5
    numbers: Mapping = field(default_factory=dict)

    @property
    def known_graphs(self) -> tuple:
        """Names of what ``tasks`` takes: graphs, or sets of graphs."""
        return tuple(GRAPH_SETS) if self.graphs[0] in GRAPH_SETS else GRAPH_NAMES


def rounding_tasks(graph, seeds, epochs, roundings):
    """Weights of 2 bits with 8 for the rest, and 2 bits throughout, calibrated only, with each rounding."""
    variants = []
    for bits, config in (("W2A8", {"bits": 8, "weights": 2}), ("INT2", {"bits": 2})):
        for rounding in roundings:
            beside = None if rounding == roundings[0] else f"{bits}, {roundings[0]}"
            variants.append(_untrained(f"{bits}, {rounding}", graph, config, beside=beside, rounding=rounding))
    return _gcn_and_sage(graph, seeds, epochs, variants, timed=True)


def levels_tasks(graph, seeds, epochs):
    """3 and 4 bits, calibrated only, weights on uniform levels and on those that are sums of powers of two."""
    variants = []
    for bits in (3, 4):
        variants.append(_untrained(f"INT{bits}", graph, {"bits": bits}))
        own = {"bits": bits, "grid": "levels"}
        variants.append(_untrained(f"INT{bits}, levels", graph, own, beside=f"INT{bits}"))
    return _gcn_and_sage(graph, seeds, epochs, variants, figures=("weight_error",))


def integer_tasks(graph, seeds, epochs):
    """Integer arithmetic beside float epilogues with the same grids, both trained."""
    variants = [FLOAT_AGAIN]
    for bits in (4, 2):
        grids = {"bits": bits, "inputs_granularity": "tensor", "aggregates_granularity": "tensor"}
        variants.append(Variant(f"INT{bits}", grids, **_TRAINED))
        own = {"bits": bits, "arithmetic": "integer"}
        variants.append(Variant(f"INT{bits}, integer", own, beside=f"INT{bits}", **_TRAINED))
    return _gcn_and_sage(graph, seeds, epochs, variants, figures=("identical", "ms"))


def allocate_tasks(graph, seeds, epochs):
    """Ways to choose the bits of a GCN at equal bytes, beside the best of all assignments, and at few mean bits.

    ``dgl-lowbit study allocate`` draws the whole trade-off, of other models too.
    """
    choose = partial(chosen, "gcn", messages=_messages(graph))
    of_bytes, of_bits = [FLOAT_AGAIN], [FLOAT_AGAIN]
    for share in (0.18, 0.3):
        best = choose("exhaustive", share, "model")
        others = [choose(how, share, "model") for how in ("greedy", "tree", "relaxed")]
        of_bytes += [best, *(replace(other, beside=best.label) for other in others)]
    of_bits += [choose("greedy", bits / 8, "bits") for bits in (1.6, 2, 3, 4, 5.5)]
    tasks = []
    for seed in range(seeds):
        tasks.append(Task("gcn, bytes", graph, "gcn", seed, epochs, of_bytes, measure="model"))
        tasks.append(Task("gcn, mean bits", graph, "gcn", seed, epochs, of_bits, measure="bits"))
    return tasks


def learned_bits_tasks(graph, seeds, epochs):
    """Bits that training learns beside those that the greedy search chooses, at equal bytes."""
    variants = [FLOAT_AGAIN]
    for share in (0.18, 0.3):
        found, learned = (chosen("gcn", how, share, "model", _messages(graph)) for how in ("greedy", "hgq"))
        variants += [found, replace(learned, beside=found.label)]
    return [Task("gcn", graph, "gcn", seed, epochs, variants, measure="model") for seed in range(seeds)]


def degree_quant_tasks(graph, seeds, epochs):
    """GIN with and without protected nodes, as the paper trains, its ranges extremes or percentiles, and as we do."""
    scratch = {"warm": False, "distill": 0.0}
    variants = [replace(FLOAT_AGAIN, patience=None)]
    for bits, ranges in ((4, {}), (4, {"observer": "percentile"}), (2, {})):
        label = f"INT{bits} from scratch, per tensor{', percentiles' if ranges else ''}"
        variants += _with_and_without({"bits": bits, **_PER_TENSOR, **ranges}, label, **scratch)
    variants += _with_and_without({"bits": 4}, "INT4")
    return [Task("gin", graph, "gin", seed, epochs, variants, lr=0.005) for seed in range(seeds)]


def _with_and_without(config, label, **options):
    protect = {"protect": [0.1, 0.2]}  # the paper's at 4 bits
    protected = Variant(f"{label}, protected", {**config, **protect}, beside=label, **options)
    return [Variant(label, config, **options), protected]


def sign_tasks(graph, seeds, epochs, widths=(64, 256)):
    """GCNs of 1 bit that send 2: signs behind BatchNorm, beside the usual grids, as they are wider (arXiv:2002.00555).

    The features of the graphs, bags of words, keep the usual grid, on which those of one length a row lose nothing.
    """
    bits = {"bits": 1, "messages": 2}
    signs = {**bits, "grid": "sign", "overrides": {"layers.0.inputs": 2}}
    tasks = []
    for width in widths:
        for seed in range(seeds):
            usual = [Variant("INT1, messages INT2", bits, **_TRAINED), low_bit("gcn", 2)]
            tasks.append(Task(f"gcn, width {width}", graph, "gcn", seed, epochs, usual, {"hidden": width}))
            options = {"hidden": width, "norm": True}
            own = [Variant("signs, messages INT2", signs, distill=0.9, longer=2, **_TRAINED)]
            tasks.append(Task(f"with norm, width {width}", graph, "gcn", seed, epochs, own, options, "gcn"))
    return tasks


def a2q_tasks(graph, seeds, epochs):
    """GCNs at 2 bits whose hidden states take three quarters of the bytes, or half at 1 bit."""
    variants = [
        low_bit("gcn", 2),
        Variant("INT2, hidden states INT1", {"bits": 2, "overrides": {"layers.1.inputs": 1}}, **_TRAINED),
        Variant(
            "INT2, A²Q", {"bits": 2, "node_groups": 16}, budget=0.75 * 2 / 8, method="a2q", beside="INT2", **_TRAINED
        ),
    ]
    return [Task("gcn", graph, "gcn", seed, epochs, variants, measure="hidden") for seed in range(seeds)]


def blocks_tasks(graph, seeds, epochs, ways, fanout):
    """GCNs at 2 bits that are trained on blocks of ``fanout`` neighbours a layer, in each of ``ways``."""
    grids, variants = {"bits": 2, "messages_granularity": _messages(graph)}, []
    for way in ways:
        beside = "INT2, sampled" if way not in ("whole", "sampled") else None
        own = {"way": way, "fanouts": [fanout, fanout]}
        variants.append(Variant(f"INT2, {way}", grids, blocks=own, beside=beside, **_TRAINED))
    return [Task("gcn", graph, "gcn", seed, epochs, variants) for seed in range(seeds)]


def silent_tasks(graph, seeds, epochs):
    """SMP at 2 bits whose rows stay unsent where they hardly changed, beside all rows, and half as many steps."""
    label = "INT2"
    variants = [FLOAT_AGAIN, low_bit("smp", 2)]
    for size in (0.05, 0.1, 0.2):
        variants.append(Variant(f"dead zone {size}", {"bits": 2, "dead_zone": size}, patience=PATIENCE, beside=label))
    of_entries = {"bits": 2, "dead_zone": 0.1, "dead_zone_of": "entries"}
    variants.append(Variant("dead zone 0.1 of entries", of_entries, patience=PATIENCE, beside=label))
    variants.append(Variant("5 steps", {"bits": 2}, {"propagate": {"k": 5}}, patience=PATIENCE, beside=label))
    return [Task("smp", graph, "smp", seed, epochs, variants, figures=("silent", "ms")) for seed in range(seeds)]


def boost_tasks(graph, seeds, epochs):
    """One learner, eight and forty, at 2 bits, eight also at 1, and features that come to their scales otherwise."""
    tasks, half = [], max(epochs // 2, 1)
    both = [Variant("INT2", {"bits": 2}), Variant("INT1", {"bits": 1}, beside="INT2")]
    for seed in range(seeds):
        for rounds, propagate in ((1, "adj"), (8, "adj"), (40, "adj"), (8, "kta")):
            variants = both if propagate == "adj" and rounds <= 8 else both[:1]
            options = {"rounds": rounds, "propagate": propagate}
            tasks.append(Task(f"{propagate}, {rounds} learners", graph, BOOSTED, seed, half, variants, options))
    return tasks


def prune_tasks(graph, seeds, epochs):
    """GCNs without half of the input columns and channels, or of the edges: by what matters, and at random."""
    if graph.startswith("amazon"):
        kinds, figures = {"half of the edges": {"edges": 0.5}}, ("ms", "ms_sums")
    else:
        kinds, figures = {"half of columns and channels": {"features": 0.5, "channels": 0.5}}, ("ms", "ms_whole")
    usual = low_bit("gcn", 2, _messages(graph))
    variants = [usual, *(part for kind, shares in kinds.items() for part in _without(usual, kind, shares))]
    return [Task("gcn", graph, "gcn", seed, epochs, variants, figures=figures) for seed in range(seeds)]


def squeeze_tasks(graph, seeds, epochs):
    """GCNs of 1 bit that send 2, 256 wide and squeezed to 160."""
    usual = Variant("INT1, messages INT2", {"bits": 1, "messages": 2}, **_TRAINED)
    variants = [usual, *_without(usual, "squeezed to 160", {"channels": 0.375})]
    return [
        Task(f"gcn, width {width}", graph, "gcn", seed, epochs, own, {"hidden": width}, figures=("ms",))
        for width, own in ((256, variants), (160, [usual]))
        for seed in range(seeds)
    ]


def _without(usual, kind, shares):
    """A variant without some parts, without regrowth of them, and at random."""
    options = {"": {}, ", no regrowth": {"regrow": 0.0}, ", at random": {"criterion": "random"}}
    return [
        replace(usual, label=f"{usual.label}, {kind}{how}", prune={**shares, **own}, beside=usual.label)
        for how, own in options.items()
    ]


def _messages(graph):
    """Scales of messages: a power of two a node where degrees span orders of magnitude."""
    return "shift" if graph.startswith("amazon") else "channel"


def _untrained(label, graph, config, **options):
    return Variant(label, {**config, "messages_granularity": _messages(graph)}, trained=False, **options)


def _gcn_and_sage(graph, seeds, epochs, variants, **options):
    return [
        Task(model, graph, model, seed, epochs, variants, **options)
        for model in ("gcn", "sage")
        for seed in range(seeds)
    ]


METHODS = {
    "gptq": Relative(
        "2210.17323", "language models of 175 billion parameters at 3 and 4 bits a weight, with little loss",
        partial(rounding_tasks, roundings=("nearest", "gptq")), _REAL,
    ),
    "reconstruct": Relative(
        "2102.05426", "ResNet and MobileNetV2 at 4 bits, untrained, as good as trained ones",
        partial(rounding_tasks, roundings=("reconstruct",)), _REAL, seeds=3,
    ),
    "allocate": Relative(
        "2505.09361", "on Cora, of all assignments of 2, 4 and 8 bits, the best at a mean of bits",
        allocate_tasks, numbers={"cora": {
            "gcn, mean bits, allocated, 2 bits": "44.7", "gcn, mean bits, allocated, 3 bits": "77.4 at 3.11 bits",
            "gcn, mean bits, allocated, 4 bits": "80.1", "gcn, mean bits, allocated, 5.5 bits": "82.6 at 5.56 bits",
        }},
    ),
    "learned-bits": Relative(
        "2405.00645", "FPGA resources ÷ 20 and latency ÷ 5 at equal accuracy", learned_bits_tasks, _REAL, seeds=3,
    ),
    "degree-quant": Relative(
        "2008.05000", "GIN on REDDIT-BINARY at 4 bits: 86.2 ± 3.2, without protection 56.2 ± 8.2",
        degree_quant_tasks, ("mini-gc",),
    ),
    "levels": Relative("2007.03903", "FPGA energy ÷ 2, resources ÷ 2 to 4", levels_tasks, _REAL),
    "sign": Relative(
        "2010.07565", "GCN on Cora at 1 bit with sums in float32, by width", sign_tasks, numbers={"cora": {
            "with norm, width 64, signs, messages INT2": "81.2", "with norm, width 256, signs, messages INT2": "82.1",
        }},
    ),
    "a2q": Relative(
        "2302.00193", "GCN on Cora at 1.70 bits a hidden state, by the best of all epochs on test nodes: 80.9",
        a2q_tasks, _REAL, seeds=3,
    ),
    "history": Relative(
        "2110.14363", "SAGE on Reddit: 94.5 in mini-batches that see all messages, as codewords",
        partial(blocks_tasks, ways=("whole", "sampled", "history"), fanout=5), ("coauthor-cs", "amazon-computer"),
    ),
    "bandit": Relative(
        "2103.01089", "GCN and GAT sampled with 3 neighbours a layer, with less variance",
        partial(blocks_tasks, ways=("sampled", "bandit", "labor"), fanout=3), ("amazon-computer",),
    ),
    "silent": Relative(
        "2403.13268", "thresholds on single entries of decoupled propagation; speed on graphs of billions of edges",
        silent_tasks, ("cora", "coauthor-cs"),
    ),
    "boost": Relative(
        "2006.08550", "on Cora, one hidden layer and fine-tuning: 82.3 ± 1.1 with kernel-target alignment", boost_tasks,
    ),
    "prune": Relative(
        "2207.08629", "on 14 graphs columns, edges and weights of GNNs gone in one run of training", prune_tasks, _REAL,
    ),
    "squeeze": Relative(
        "2002.00555", "binary ResNet-18 on ImageNet, widened and squeezed: 29.9 % top-1 error", squeeze_tasks,
    ),
    "integer": Relative(
        "2007.06919", "RetinaNet-18 on COCO: 33.0 AP in float32, 34.0 at 4 bits, 29.6 at 2", integer_tasks,
    ),
}  # fmt: skip
