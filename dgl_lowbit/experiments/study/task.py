"""Runs one task of a study."""

from __future__ import annotations

import copy
import time

import dgl

from ...allocation import allocate, cost, hidden_bytes
from ...calibration import calibrate
from ...config import QuantConfig
from ...convert import quantize
from ...deploy import freeze
from ...diagnose import diagnose
from ...pruning import Pruner
from ...smoothness import SmoothnessControl, SmoothnessRegularizer
from ...training import BITS_EPOCHS, accuracy, distillation_loss, fit, predict, train
from ..data import load_graph
from ..graph_sets import GRAPH_SETS
from ..recipes import Recipe, build
from .blocks import fit_on_blocks
from .boost_task import run_boost_task
from .figures import FIGURES, Made
from .graph_task import run_graph_task
from .studies import BOOSTED

# The measure of tasks whose rows are compared by the bytes of their hidden states.
HIDDEN = "hidden"


def run_task(spec: dict) -> dict:
    """Train a task's float model and make its variants; ``spec`` is :meth:`Task.spec`.

    Returns
    -------
    dict
        ``spec`` and ``results``, a list of dicts with label, test and val accuracy at the best validation epoch, its
        number and how many there were (in timed tasks also the seconds they or, of variants that are not trained,
        calibration took), for low-bit models the packed accuracy, the share of equal predictions, bytes, ``figures``
        and (seed 0, trained) the report of every quantiser, where bits are allocated what they cost and lose untrained,
        and under a smoothness bound its rows per layer and their course over the epochs.
    """
    if spec["graph"] in GRAPH_SETS:
        return run_graph_task(spec)
    if spec["model"] == BOOSTED:
        return run_boost_task(spec)
    graph = dgl.add_self_loop(load_graph(spec["graph"], spec["seed"]))
    recipe = Recipe(spec["teacher"], spec["lr"], tuple(spec["no_decay"]), spec["drop_edge"])
    options = {"epochs": spec["epochs"], "seed": spec["seed"], "progress": False}
    teacher = recipe.train_teacher(graph, spec["seed"], spec["epochs"])
    model = build(spec["model"], graph, spec["seed"], **spec["options"])
    history, seconds = _timed(train, model, graph, teacher=teacher, **options, **recipe.options())
    results, made = [_entry(spec, "float32", model, graph, history, seconds)], {}
    for variant in spec["variants"]:
        if variant["budget"] is not None and not _can_be_kept(model, variant, graph, spec["measure"]):
            continue  # even 1 bit costs more: rows are padded
        start, own = _pruned(spec, variant, model, graph, recipe, options)
        student, config, history, seconds, more = _made(spec, variant, model, start, own, recipe, options)
        entry = _entry(spec, variant["label"], student, own, history, seconds)
        entry.update(more, beside=variant["beside"])
        if spec["measure"] == HIDDEN:
            entry[HIDDEN] = hidden_bytes(student, graph, graph.ndata["feat"])
            entry["test"] = accuracy(predict(student, graph), graph)  # with groups as they are after training
        if variant["config"]["bits"] < 32:
            if spec["measure"] not in (None, HIDDEN):
                entry.update(_costs(model, config, graph, spec["measure"]))
            packed = freeze(student)
            made[variant["label"]] = Made(student, packed, own)
            entry.update(_packed(student, packed, own))
            if spec["seed"] == 0 and variant["trained"]:
                entry["quantizers"] = diagnose(student, own, own.ndata["feat"])
        results.append(entry)
    for name in spec["figures"]:
        values = FIGURES[name](made)
        for entry in results:
            if entry["label"] in values:
                entry[name] = values[entry["label"]]
    return {"spec": spec, "results": results}


def _pruned(spec, variant, model, graph, recipe, options):
    """The float model that a variant starts from, and its graph; pruned in the first half of as many epochs."""
    if not variant["warm"]:
        return build(spec["model"], graph, spec["seed"], **spec["options"]), graph
    if not variant["prune"]:
        return model, graph
    epochs = options["epochs"]
    steps = {"start": epochs // 20, "stop": epochs // 2, "every": max(epochs // 20, 1)}
    pruner = Pruner(copy.deepcopy(model), graph, seed=spec["seed"], **steps, **variant["prune"])
    train(pruner.model, graph, teacher=model, pruner=pruner, **options, **recipe.options())
    return pruner.squeeze(), pruner.graph


def _made(spec, variant, model, start, graph, recipe, options):
    """A variant of the float ``model``, from ``start``: itself, config, History of its training, seconds, figures."""
    student = copy.deepcopy(start)
    for name, attributes in variant["layer"].items():
        for key, value in attributes.items():
            setattr(student.get_submodule(name), key, value)
    config = QuantConfig(**variant["config"])
    stage = {
        **options,
        **recipe.options(variant["quantizer_lr"]),
        "epochs": max(round(options["epochs"] * variant["longer"]), 1),
        "distillation": variant["distill"],
        "schedule": variant["schedule"],
        "patience": variant["patience"],
    }
    if variant["blocks"] is not None:
        start = build(spec["model"], graph, spec["seed"], **spec["options"])
        (fitted, figures), seconds = _timed(fit_on_blocks, start, graph, config, variant["blocks"], stage)
        return fitted.model, config, fitted.history, seconds, figures
    budget = variant["budget"] and {spec["measure"]: _most(model, graph, spec["measure"], variant["budget"])}
    if budget and variant["method"] in ("hgq", "a2q"):
        learn = {"budget": budget, "bits_epochs": min(BITS_EPOCHS, stage["epochs"]), "float_epochs": 0}
        fitted, seconds = _timed(fit, student, graph, config, **learn, **stage)
        return fitted.model, fitted.config, fitted.history, seconds, {}
    if budget:
        choose = {"budget": budget, "config": config, "method": variant["method"], "progress": False}
        config = allocate(model, graph, graph.ndata["feat"], **choose)
    student, history, seconds = quantize(student, config), None, 0.0
    if variant["rounding"] != "nearest" or not variant["trained"]:
        rounding = {"rounding": variant["rounding"], "progress": False}
        _, seconds = _timed(calibrate, student, graph, graph.ndata["feat"], **rounding)
    if variant["trained"]:
        teacher = model if variant["distill"] else None
        history, seconds = _timed(train, student, graph, teacher=teacher, **stage)
    return student, config, history, seconds, {}


def _timed(function, *args, **options):
    """What a function returns, and the seconds it took."""
    start = time.perf_counter()
    return function(*args, **options), time.perf_counter() - start


def _can_be_kept(model, variant, graph, measure):
    least = _cost(model, QuantConfig(**{**variant["config"], "bits": 1}), graph, measure)
    return least <= _most(model, graph, measure, variant["budget"])


def _most(model, graph, measure, share):
    return share * _cost(model, QuantConfig(8), graph, measure)


def _cost(model, config, graph, measure):
    call = graph, graph.ndata["feat"]
    if measure == HIDDEN:
        return hidden_bytes(calibrate(quantize(model, config), *call), *call)
    return cost(model, config, *call)[measure]


def _costs(model, config, graph, measure):
    """What ``config`` costs, and KL(float ‖ low-bit) on validation nodes before training."""
    call = graph, graph.ndata["feat"]
    low_bit, val = calibrate(quantize(model, config), *call), graph.ndata["val_mask"]
    untrained = distillation_loss(predict(low_bit, graph)[val], predict(model, graph)[val]).item()
    costs = cost(model, config, *call)
    return {
        "measure": measure, "cost": costs, "mean_bits": costs["bits"], "kl": untrained, "config": config.to_dict(),
    }  # fmt: skip


def _entry(spec, label, model, graph, history, seconds):
    entry = {"label": label, **({"seconds": seconds} if spec["timed"] else {})}
    if history is None:
        logits = predict(model, graph)
        return {**entry, "test": accuracy(logits, graph), "val": accuracy(logits, graph, "val_mask"), "epochs": 0}
    entry.update(
        test=history.best["test_accuracy"], val=history.best["val_accuracy"], epoch=history.best_epoch,
        epochs=len(history.epochs),
    )  # fmt: skip
    regularizer = SmoothnessRegularizer.attached(model)
    if regularizer is not None:
        entry["layers"] = regularizer.measure(graph, graph.ndata["feat"])
        epochs = [epoch["smoothness"] for epoch in history.epochs]
        for key in ("violation", "multiplier"):
            entry[key] = [[row[key] for row in rows] for rows in epochs]
    elif hasattr(model, "stack"):
        entry["layers"] = _unbounded(model, graph)
    return entry


def _unbounded(model, graph):
    """Energy and collapse gauge per layer of a plain stack: measured by controls that do nothing."""
    watched = copy.deepcopy(model)
    stack = watched.stack
    stack.controls.extend(SmoothnessControl(1.0, acts="loss") for _ in range(stack.num_layers))
    return SmoothnessRegularizer.attached(watched).measure(graph, graph.ndata["feat"])


def _packed(student, packed, graph):
    run, trained = packed(graph, graph.ndata["feat"]), predict(student, graph)
    return {
        "packed": accuracy(run, graph),
        "equal": (run.argmax(1) == trained.argmax(1)).float().mean().item(),
        "bytes": len(packed.to_bytes()),
    }
