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
from ...smoothness import SmoothnessControl, SmoothnessRegularizer
from ...training import BITS_EPOCHS, accuracy, distillation_loss, fit, predict, train
from ..data import load_graph
from ..graph_sets import GRAPH_SETS
from ..recipes import Recipe, build
from .graph_task import run_graph_task

# The measure of tasks whose rows are compared by the bytes of their hidden states.
HIDDEN = "hidden"


def run_task(spec: dict) -> dict:
    """Train a task's float model and its variants; ``spec`` is :meth:`Task.spec`.

    Returns
    -------
    dict
        ``spec`` and ``results``, a list of dicts with label, test and val accuracy at the best validation epoch, its
        number and how many there were (in timed tasks also their seconds), for low-bit models the packed accuracy, the
        share of equal predictions, bytes and (seed 0) the report of every quantiser, where bits are allocated what they
        cost and lose untrained, and under a smoothness bound its rows per layer and their course over the epochs.
    """
    if spec["graph"] in GRAPH_SETS:
        return run_graph_task(spec)
    graph = dgl.add_self_loop(load_graph(spec["graph"], spec["seed"]))
    recipe = Recipe(spec["teacher"], spec["lr"], tuple(spec["no_decay"]), spec["drop_edge"])
    options = {"epochs": spec["epochs"], "seed": spec["seed"], "progress": False, **recipe.options()}
    teacher = recipe.train_teacher(graph, spec["seed"], spec["epochs"])
    model = build(spec["model"], graph, spec["seed"], **spec["options"])
    results = [_entry("float32", model, graph, *_trained(spec, model, graph, teacher=teacher, **options))]
    for variant in spec["variants"]:
        if variant["budget"] is not None and not _can_be_kept(model, variant, graph, spec["measure"]):
            continue  # even 1 bit costs more: rows are padded
        start = model if variant["warm"] else build(spec["model"], graph, spec["seed"], **spec["options"])
        student = copy.deepcopy(start)
        for name, attributes in variant["layer"].items():
            for key, value in attributes.items():
                setattr(student.get_submodule(name), key, value)
        config = QuantConfig(**variant["config"])
        teacher = model if variant["distill"] else None
        stage = {
            **options,
            **recipe.options(variant["quantizer_lr"]),
            "epochs": max(round(options["epochs"] * variant["longer"]), 1),
            "distillation": variant["distill"],
            "schedule": variant["schedule"],
            "patience": variant["patience"],
        }
        budget = variant["budget"] and {spec["measure"]: _most(model, graph, spec["measure"], variant["budget"])}
        if budget and variant["method"] in ("hgq", "a2q"):
            learn = {"budget": budget, "bits_epochs": min(BITS_EPOCHS, stage["epochs"]), "float_epochs": 0}
            fitted = fit(student, graph, config, **learn, **stage)
            student, config, done = fitted.model, fitted.config, (fitted.history, None)
        else:
            if budget:
                choose = {"budget": budget, "config": config, "method": variant["method"], "progress": False}
                config = allocate(model, graph, graph.ndata["feat"], **choose)
            student = quantize(student, config)
            if variant["rounding"] != "nearest":
                calibrate(student, graph, graph.ndata["feat"], rounding=variant["rounding"], progress=False)
            done = _trained(spec, student, graph, teacher=teacher, **stage)
        entry = _entry(variant["label"], student, graph, *done)
        if spec["measure"] == HIDDEN:
            entry[HIDDEN] = hidden_bytes(student, graph, graph.ndata["feat"])
            entry["test"] = accuracy(predict(student, graph), graph)  # with groups as they are after training
        elif spec["measure"] is not None:
            entry.update(_costs(model, config, graph, spec["measure"]))
        if variant["config"]["bits"] < 32:
            entry.update(_packed(student, graph))
            if spec["seed"] == 0:
                entry["quantizers"] = diagnose(student, graph, graph.ndata["feat"])
        results.append(entry)
    return {"spec": spec, "results": results}


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
    return {"measure": measure, "cost": cost(model, config, *call), "kl": untrained, "config": config.to_dict()}


def _trained(spec, *args, **options):
    """The History of a stage of training, and its seconds where the task is timed."""
    start = time.perf_counter()
    history = train(*args, **options)
    return history, time.perf_counter() - start if spec["timed"] else None


def _entry(label, model, graph, history, seconds):
    entry = {
        "label": label,
        "test": history.best["test_accuracy"],
        "val": history.best["val_accuracy"],
        "epoch": history.best_epoch,
        "epochs": len(history.epochs),
    }
    if seconds is not None:
        entry["seconds"] = seconds
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


def _packed(student, graph):
    packed = freeze(student)
    run, trained = packed(graph, graph.ndata["feat"]), predict(student, graph)
    return {
        "packed": accuracy(run, graph),
        "equal": (run.argmax(1) == trained.argmax(1)).float().mean().item(),
        "bytes": len(packed.to_bytes()),
    }
