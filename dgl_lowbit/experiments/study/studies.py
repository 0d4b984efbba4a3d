"""What the studies consist of: tasks, each a float model and variants of it on one graph with one seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from ...training import PATIENCE
from ..recipes import recipe_of


@dataclass
class Variant:
    """A model made of a task's float model.

    ``config`` are fields of QuantConfig; ``layer`` attributes set on modules before quantising, by dotted name;
    ``warm`` starts from the trained float weights; ``distill`` is the part of the loss that is learning from the float
    model's logits; ``quantizer_lr`` is the rate of ranges; ``longer`` multiplies the epochs; ``schedule`` and
    ``patience`` are those of :func:`dgl_lowbit.train`; ``rounding`` is that of :func:`dgl_lowbit.calibrate`; ``budget``
    is the share of what 8 bits cost under which bits are chosen by ``method``, one of :func:`dgl_lowbit.allocate`, or
    by :func:`dgl_lowbit.fit`: "hgq", which learns them, or "a2q", for groups of nodes. ``prune`` are options of
    :class:`dgl_lowbit.Pruner`, by which the float model is pruned and squeezed before. Without ``trained`` it is
    calibrated only; with ``blocks``, see :func:`.fit_on_blocks`, both stages are trained so, from drawn weights;
    ``beside`` is the label of the variant that it is compared with.
    """

    label: str
    config: dict
    layer: dict = field(default_factory=dict)
    warm: bool = True
    distill: float = 0.5
    quantizer_lr: float = 0.01
    longer: float = 1
    schedule: str | None = None
    patience: int | None = None
    rounding: str = "nearest"
    budget: float | None = None
    method: str = "greedy"
    prune: dict = field(default_factory=dict)
    trained: bool = True
    blocks: dict | None = None
    beside: str | None = None


@dataclass
class Task:
    """A float model, trained on one graph with one seed, and variants of it."""

    label: str
    graph: str
    model: str
    seed: int
    epochs: int
    variants: list = field(default_factory=list)
    options: dict = field(default_factory=dict)  # of the model
    teacher: str | None = None  # a model of dgl_lowbit.experiments.models that teaches the float model
    lr: float = 0.01
    no_decay: tuple = ()
    drop_edge: float = 0.0
    timed: bool = False  # seconds are kept, which are others each time
    measure: str | None = None  # of dgl_lowbit.allocation.MEASURES or "hidden", that budgets are in; costs are kept
    figures: tuple = ()  # of .figures.FIGURES, what else is measured of low-bit variants

    def spec(self) -> dict:
        """All of it as JSON values."""
        return asdict(self)


# The model of tasks that boost.
BOOSTED = "boosted"
FLOAT_AGAIN = Variant("float32, second phase", {"bits": 32}, patience=PATIENCE)
# What rows of bits that methods choose are called, where not as the method.
_CHOSEN = {"greedy": "allocated"}
_CODES = {"states_granularity": "shift", "messages_granularity": "shift"}


def low_bit(model, bits, messages="channel"):
    """The recommended variant of a model; ``messages`` are the scales of what others than SMP send."""
    if model == "smp":
        return Variant(f"INT{bits}", {"bits": bits}, patience=PATIENCE)
    sent = {} if messages == "channel" else {"messages_granularity": messages}
    return Variant(f"INT{bits}", {"bits": bits, **sent}, quantizer_lr=0.003, patience=PATIENCE)


def accuracy_tasks(graphs, models, seeds, epochs, bits=(8, 4, 2), every_stage=False, dropout=None, messages="channel"):
    """Each model at several widths; SMP has delta-coded messages, and where asked for also every stage as codes.

    ``dropout`` is by default the models' own; ``messages`` are the scales of what other models send.
    """
    options = {} if dropout is None else {"dropout": dropout}
    direct = {"propagate": {"messages": "direct"}}
    as_codes = {"layer": direct, "distill": 0.9, "patience": PATIENCE}
    codes = [Variant(f"INT{b}", {"bits": b, "states": b, **_CODES}, **as_codes) for b in bits]
    tasks = []
    for graph in graphs:
        for model in models:
            for seed in range(seeds):
                variants = [FLOAT_AGAIN, *(low_bit(model, b, messages) for b in bits)]
                tasks.append(Task(model, graph, model, seed, epochs, variants, options))
                if every_stage and model == "smp":
                    variants = [replace(FLOAT_AGAIN, distill=0.9), *codes]
                    tasks.append(Task("smp, every stage as codes", graph, model, seed, epochs, variants, options))
    return tasks


def ablation_tasks(graphs, seeds, epochs):
    """The method's parts one after another, at 2 bits on SMP."""
    plain = {"bits": 2, "grid": "affine", "messages_granularity": "tensor"}
    half = {**plain, "grid": "auto"}
    direct = {"propagate": {"messages": "direct"}}
    scratch = {"warm": False, "distill": 0.0}
    variants = [
        Variant("INT8 QLR alone", {**plain, "bits": 8}, direct, **scratch),
        Variant("INT4 QLR alone", {**plain, "bits": 4}, direct, **scratch),
        Variant("INT2 QLR alone", plain, direct, **scratch),
        Variant("INT2 BT", {**plain, "quantizer": "bt"}, direct, **scratch),
        Variant("INT2 BT*", {**plain, "quantizer": "bt*"}, direct, **scratch),
        Variant("INT2 QLR + warm start", plain, direct, distill=0.0),
        Variant("INT2 + distillation", plain, direct),
        Variant("INT2 + grid without zero", half, direct),
        Variant("INT2 + delta messages", half, {"propagate": {"messages": "delta"}}),
        Variant("INT2 + message scales per channel", {"bits": 2}, {"propagate": {"messages": "delta"}}),
        replace(FLOAT_AGAIN, patience=None),
    ]
    return [Task("smp", graph, "smp", seed, epochs, variants) for graph in graphs for seed in range(seeds)]


def bounds_tasks(graphs, seeds, epochs, thresholds=(0.03, 0.003, 0.0003)):
    """SMP under bounds a decade apart, driven in each way, and without."""
    ways = [("step", t) for t in thresholds] + [("projection", t) for t in thresholds]
    ways += [("gradient", t) for t in thresholds]
    tasks = []
    for graph in graphs:
        for seed in range(seeds):
            for threshold in thresholds:
                # The multipliers of a bound that do not act: what the model does by itself.
                free = {"threshold": threshold, "acts": "step", "multiplier_lr": 1e-30}
                tasks.append(Task(f"free, {threshold:g}", graph, "smp", seed, epochs, [], free))
            for acts, threshold in ways:
                # Energies grow while weights are learned; multipliers that follow faster stay closer behind.
                rate = {"multiplier_lr": 0.3} if acts == "step" else {}
                options = {"threshold": threshold, "acts": acts, **rate}
                tasks.append(Task(f"{acts}, {threshold:g}", graph, "smp", seed, epochs, [], options))
    return tasks


def depth_tasks(graphs, seeds, epochs, depths=(32, 64)):
    """GCNs of many layers under a bound, low-bit; at the first depth also plain, and bounded in other ways."""
    low_bit = [
        Variant("INT4", {"bits": 4}),
        Variant("INT2, states INT8", {"bits": 2, "states": 8}),
        Variant("INT2, every stage", {"bits": 2, "states": 2}),
    ]
    recipe = asdict(recipe_of("deep"))
    alone = {**recipe, "teacher": None, "drop_edge": 0.0}
    bad = {"identity": False, "first_step": 0.5}
    tasks = []
    for graph in graphs:
        for seed in range(seeds):

            def add(label, layers, variants=(), settings=recipe, seed=seed, graph=graph, **options):
                options = {"num_layers": layers, **options}
                tasks.append(Task(label, graph, "deep", seed, epochs, list(variants), options, **settings))

            first = depths[0]
            for layers in depths:
                # Twice the layers add up twice the noise of 2-bit changes; twice the epochs learn to live with it.
                add("multiplier", layers, low_bit if layers == first else [replace(low_bit[-1], longer=2)])
            add("plain", first, settings=alone, threshold=None, identity=False, dropout=0.0)
            add("plain, with every other option", first, threshold=None)
            add("multiplier alone", first, settings=alone)
            add("multiplier + teacher", first, settings={**alone, "teacher": "gcn"})
            add("fixed step 0.03", first, acts="fixed", first_step=0.03)
            add("bad start: multiplier", first, **bad)
            add("bad start: fixed step 0.5", first, acts="fixed", **bad)
    return tasks


def schedule_tasks(graphs, models, seeds, epochs, bits=(2,), dropout=None, messages="channel"):
    """How long a low-bit stage must be, at which rates, and from where: fewer epochs, patience, rates that fall."""
    options = {} if dropout is None else {"dropout": dropout}
    ways = {
        "all epochs": {"patience": None},
        "half of them": {"patience": None, "longer": 0.5},
        "a quarter": {"patience": None, "longer": 0.25},
        "patience 100": {"patience": 100},
        "patience 50": {"patience": 50},
        "patience 20": {"patience": 20},
        "cosine": {"patience": None, "schedule": "cosine"},
        "cosine, half": {"patience": None, "schedule": "cosine", "longer": 0.5},
        "cosine, a quarter": {"patience": None, "schedule": "cosine", "longer": 0.25},
        "one-cycle, half": {"patience": None, "schedule": "one-cycle", "longer": 0.5},
        "from gptq": {"patience": None, "rounding": "gptq"},
        "from gptq, half": {"patience": None, "rounding": "gptq", "longer": 0.5},
    }
    tasks = []
    for graph in graphs:
        for model in models:
            variants = [
                replace(low_bit(model, b, messages), label=f"INT{b}, {way}", **how)
                for b in bits
                for way, how in ways.items()
            ]
            tasks += [Task(model, graph, model, seed, epochs, variants, options, timed=True) for seed in range(seeds)]
    return tasks


def allocate_tasks(
    graphs, models, seeds, epochs, measure="model", budgets=(0.14, 0.18, 0.22, 0.3, 0.5), bits=(8, 4, 2),
    methods=("greedy", "relaxed", "hgq"),
):  # fmt: skip
    """Bits chosen under budgets, shares of what 8 bits cost by ``measure``, beside the same bits everywhere.

    Budgets that 1 bit throughout does not keep are left out.
    """
    tasks = []
    for graph in graphs:
        for model in models:
            everywhere = [low_bit(model, b) for b in bits]
            variants = [*everywhere, *(chosen(model, how, share, measure) for share in budgets for how in methods)]
            tasks += [Task(model, graph, model, seed, epochs, variants, measure=measure) for seed in range(seeds)]
    return tasks


def chosen(model, how, share, measure, messages="channel"):
    """A variant whose bits a method chooses, under a ``share`` of what 8 bits cost by ``measure``."""
    budget = f"{8 * share:g} bits" if measure == "bits" else f"{100 * share:g} %"
    return replace(low_bit(model, 8, messages), label=f"{_CHOSEN.get(how, how)}, {budget}", budget=share, method=how)


def relatives_tasks(method, graphs, seeds, epochs=None):
    """What shows a method of the paper's relatives; ``epochs`` are by default those that suit each graph."""
    from .relatives import METHODS  # whose tasks are those of this module

    return [task for graph in graphs for task in METHODS[method].tasks(graph, seeds, epochs or epochs_of(graph))]


def epochs_of(graph):
    """Epochs of a stage of training on a graph, by name."""
    return {"coauthor-cs": 100, "amazon-computer": 60, "amazon-photo": 60}.get(graph, 200)


STUDIES = {
    "accuracy": accuracy_tasks,
    "ablation": ablation_tasks,
    "bounds": bounds_tasks,
    "depth": depth_tasks,
    "schedules": schedule_tasks,
    "allocate": allocate_tasks,
    "relatives": relatives_tasks,
}
