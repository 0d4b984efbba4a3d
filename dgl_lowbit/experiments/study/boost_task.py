"""Runs one task of a study of boosting: learners over scales, in float32 and at few bits."""

from __future__ import annotations

import dgl

from ...config import QuantConfig
from ...deploy import freeze
from ...training import accuracy, boost, predict
from ..data import load_graph


def run_boost_task(spec: dict) -> dict:
    """What :func:`~dgl_lowbit.experiments.study.task.run_task` returns, of :func:`dgl_lowbit.boost`.

    ``options`` of the task are those of ``boost``; each variant boosts anew, from the same seed, so that the float
    model, the first of the results, is the same for all.
    """
    graph = dgl.add_self_loop(load_graph(spec["graph"], spec["seed"]))
    results: list[dict] = []
    for variant in spec["variants"]:
        stages = {"epochs": spec["epochs"], "finetune": spec["epochs"], "seed": spec["seed"], "progress": False}
        boosted = boost(graph, config=QuantConfig(**variant["config"]), **stages, **spec["options"])
        if not results:
            scores = predict(boosted.teacher, graph)
            test, val = (accuracy(scores, graph, mask) for mask in ("test_mask", "val_mask"))
            results.append({"label": "float32", "test": test, "val": val, "learners": boosted.learners})
        packed, trained = freeze(boosted.model, graph, graph.ndata["feat"]), predict(boosted.model, graph)
        run = packed(graph, graph.ndata["feat"])
        results.append({
            "label": variant["label"], "test": boosted.test_accuracy, "val": boosted.val_accuracy,
            "epochs": spec["epochs"], "beside": variant["beside"],
            "packed": accuracy(run, graph), "bytes": len(packed.to_bytes()),
            "equal": (run.argmax(1) == trained.argmax(1)).float().mean().item(),
        })  # fmt: skip
    return {"spec": spec, "results": results}
