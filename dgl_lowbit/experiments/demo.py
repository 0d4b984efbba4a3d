"""The demo: a graph's model in float32 and at low bits, trained, frozen, run packed and timed."""

from __future__ import annotations

import statistics
from pathlib import Path

import dgl

from ..config import QuantConfig
from ..convert import quantize
from ..deploy import freeze
from ..diagnose import diagnose
from ..report import mean_std, table
from ..training import PATIENCE, accuracy, fit, predict, train
from .checkpoint import save_checkpoint
from .data import load_graph, num_classes
from .facts import facts_of
from .recipes import build, recipe_of
from .timing import common_threads, median_seconds


def run_demo(graph_name="planted", model_name="gcn", bits=(8, 4, 2), seeds=1, epochs=200, output=None, progress=True):
    """Train, quantise, freeze and time; see ``dgl-lowbit demo``.

    Parameters
    ----------
    graph_name, model_name : str
        See :func:`dgl_lowbit.experiments.data.load_graph` and :data:`dgl_lowbit.experiments.models.MODELS`.
    bits : sequence of int
        Widths of the low-bit models.
    seeds : int
        Runs with seeds 0 … seeds − 1.
    epochs : int
        Of each training stage; those at low bits end earlier where they no longer get better.
    output : path, optional
        Folder for the frozen models and checkpoints of seed 0.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    dict
        JSON values: the setting, and under ``results`` one entry a width, lists over seeds.
    """
    if output is not None:
        Path(output).mkdir(parents=True, exist_ok=True)
    configs = {width: QuantConfig(width) for width in bits}
    results = {width: _entry() for width in (32, *bits)}
    for seed in range(seeds):
        graph = dgl.add_self_loop(load_graph(graph_name, seed))
        shape = graph.ndata["feat"].shape[1], num_classes(graph)
        recipe, teacher = recipe_of(model_name), build(model_name, graph, seed)
        settings = {"epochs": epochs, "seed": seed, **recipe.options()}
        label = f"seed {seed}: {{}}" if seeds > 1 else "{}"
        shallow = recipe.train_teacher(graph, seed, epochs)
        train(teacher, graph, teacher=shallow, progress=progress and label.format("float32"), **settings)
        results[32]["accuracy"].append(accuracy(predict(teacher, graph), graph))
        results[32]["bytes"] = sum(t.nbytes for t in teacher.state_dict().values())
        info, packed = facts_of(graph_name, seed, graph), {}
        for width, config in configs.items():
            student = quantize(teacher, config)
            label_bits = progress and label.format(f"INT{width}")
            train(student, graph, teacher=teacher, patience=PATIENCE, progress=label_bits, **settings)
            packed[width] = freeze(student)
            packed[width].info.update(info)
            _compare(results[width], student, packed[width], graph)
            if output is not None and seed == 0:
                path = Path(output) / f"{graph_name}-{model_name}-int{width}"
                results[width]["file"] = str(packed[width].save(path.with_suffix(".safetensors")))
                save_checkpoint(path.with_suffix(".pt"), student, model_name, shape, config, info)
        _time(results, teacher, packed, graph)
    return {
        "graph": graph_name,
        "model": model_name,
        "seeds": seeds,
        "epochs": epochs,
        "threads": common_threads(),
        "results": {str(width): entry for width, entry in results.items()},
    }


def train_and_keep(
    graph_name, model_name, bits, states, epochs, seed, output, resume=False, overwrite=False, progress=True
):
    """Fit one model at one width and keep it; see ``dgl-lowbit train``.

    Returns
    -------
    tuple
        Rows of the result's table, those of :func:`dgl_lowbit.diagnose`, the low-bit stage's History, and the path of
        the files without ending.

    Raises
    ------
    ValueError
        Where a run has kept files there already and neither ``resume`` nor ``overwrite`` is set; when it is resumed and
        was another run.
    """
    stem = Path(output) / f"{graph_name}-{model_name}-int{bits}"
    state = stem.with_name(f"{stem.name}-training.pt")
    kept = [path.name for path in (state, stem.with_suffix(".pt"), stem.with_suffix(".safetensors")) if path.exists()]
    if kept and not (resume or overwrite):
        raise ValueError(f"{output} holds a run already ({', '.join(kept)}); pass --resume to go on, or --overwrite.")
    graph = dgl.add_self_loop(load_graph(graph_name, seed))
    config, recipe = QuantConfig(bits, states=states), recipe_of(model_name)
    stem.parent.mkdir(parents=True, exist_ok=True)
    fitted = fit(
        build(model_name, graph, seed), graph, config, teacher=recipe.train_teacher(graph, seed, epochs), epochs=epochs,
        seed=seed, checkpoint=state, resume=resume, progress=progress, **recipe.options(),
    )  # fmt: skip
    info, packed = facts_of(graph_name, seed, graph), freeze(fitted.model)
    packed.info.update(info)
    file = packed.save(stem.with_suffix(".safetensors"))
    shape = graph.ndata["feat"].shape[1], num_classes(graph)
    checkpoint = save_checkpoint(stem.with_suffix(".pt"), fitted.model, model_name, shape, config, info)
    feat = graph.ndata["feat"]
    rows = [
        ["float32", fitted.teacher_history.best["test_accuracy"], "-"],
        [f"INT{bits}, fake-quantised", fitted.history.best["test_accuracy"], str(checkpoint)],
        [f"INT{bits}, packed", accuracy(packed(graph, feat), graph), str(file)],
    ]
    rows = [[name, f"{100 * value:.1f}", path] for name, value, path in rows]
    return rows, diagnose(fitted.model, graph, feat), fitted.history, stem


def format_demo(report: dict) -> str:
    """The demo's table, Markdown."""
    float_bytes = report["results"]["32"]["bytes"]
    rows = []
    for width, entry in report["results"].items():
        is_float = width == "32"
        seconds = statistics.median(entry["seconds"])
        rows.append(
            [
                "float32" if is_float else f"INT{width}",
                mean_std(entry["accuracy"]),
                "-" if is_float else mean_std(entry["packed_accuracy"]),
                "-" if is_float else f"{100 * statistics.mean(entry['equal']):.2f} %",
                f"{entry['bytes']:,}",
                f"{float_bytes / entry['bytes']:.1f}x",
                f"{1000 * seconds:.2f}",
                f"{statistics.median(entry['ratio']):.1f}x",
            ]
        )
    header = ["model", "test accuracy", "packed", "equal", "bytes", "smaller", "ms", "faster"]
    return (
        f"{report['model']} on {report['graph']}, {report['seeds']} seed(s), {report['threads']} thread(s)\n\n"
        + table(header, rows)
        + "\n\ntest accuracy: % at the best validation epoch, fake-quantised in DGL; packed: the frozen model's;"
        "\nequal: share of nodes on which both predict the same; bytes: of the file (float32: of the state dict);"
        "\nms: median time of full-graph inference; faster: over DGL float32 in the same process and threads."
    )


def _entry():
    return {"accuracy": [], "packed_accuracy": [], "equal": [], "bytes": 0, "seconds": [], "ratio": []}


def _compare(entry, student, packed, graph):
    trained, run = predict(student, graph), packed(graph, graph.ndata["feat"])
    entry["accuracy"].append(accuracy(trained, graph))
    entry["packed_accuracy"].append(accuracy(run, graph))
    entry["equal"].append((trained.argmax(1) == run.argmax(1)).float().mean().item())
    entry["bytes"] = len(packed.to_bytes())


def _time(results, teacher, packed, graph):
    """Median seconds of each model, and their ratio over the float one."""
    widths, models = (32, *packed), (teacher.eval(), *packed.values())
    seconds = dict(zip(widths, median_seconds(graph, graph.ndata["feat"], *models)))
    for width, taken in seconds.items():
        results[width]["seconds"].append(taken)
        results[width]["ratio"].append(seconds[32] / taken)
