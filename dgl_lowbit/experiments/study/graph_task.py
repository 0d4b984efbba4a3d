"""Runs a task of a study whose graphs are to be told apart."""

from __future__ import annotations

import copy

import torch

from ...calibration import calibrate
from ...config import QuantConfig
from ...convert import quantize
from ...deploy import freeze
from ..graph_sets import GRAPH_SETS, train_on_graphs
from ..models import GIN


def run_graph_task(spec: dict) -> dict:
    """As :func:`~dgl_lowbit.experiments.study.task.run_task`, on a set of graphs."""
    sets, seed = GRAPH_SETS[spec["graph"]](spec["seed"]), spec["seed"]
    options = {"seed": seed, "lr": spec["lr"]}
    whole = sets.batch(torch.arange(len(sets.train))).graph
    model = _built(sets, whole, spec)
    results = [{"label": "float32", **train_on_graphs(model, sets, epochs=spec["epochs"], **options)}]
    for variant in spec["variants"]:
        start = copy.deepcopy(model) if variant["warm"] else _built(sets, whole, spec)
        student = quantize(start.train(), QuantConfig(**variant["config"]), whole, whole.ndata["feat"])
        is_low_bit = variant["config"]["bits"] < 32
        if variant["warm"] and is_low_bit:
            calibrate(student, whole, whole.ndata["feat"])
        entry = train_on_graphs(
            student, sets, **options,
            epochs=max(round(spec["epochs"] * variant["longer"]), 1), quantizer_lr=variant["quantizer_lr"],
            teacher=model if variant["distill"] else None, distillation=variant["distill"],
        )  # fmt: skip
        packed = _packed(student, sets.test) if is_low_bit else {}
        results.append({"label": variant["label"], "beside": variant["beside"], **entry, **packed})
    return {"spec": spec, "results": results}


def _built(sets, whole, spec):
    torch.manual_seed(spec["seed"])
    return GIN(whole.ndata["feat"].shape[1], sets.classes, **spec["options"])


def _packed(student, test):
    packed = freeze(student, test.graph, test.graph.ndata["feat"])
    equal = (test.scores(packed).argmax(1) == test.scores(student).argmax(1)).float().mean().item()
    return {"packed": test.accuracy(packed), "equal": equal, "bytes": len(packed.to_bytes())}
