"""The demo: a graph's model in float32 and at low bits, trained, frozen, run packed and timed."""

from __future__ import annotations

import statistics
from pathlib import Path

import dgl

from ..config import QuantConfig
from ..convert import quantize
from ..deploy import freeze
from ..diagnose import diagnose
from ..report import mean_std, table_head, table_row
from ..training import PATIENCE, accuracy, fit, predict, train
from ..training.resume import Checkpoint
from .checkpoint import RunFiles, save_checkpoint
from .data import load_graph, shape_of
from .facts import facts_of
from .recipes import build, recipe_of
from .timing import common_threads, median_seconds

# Columns of the table, which is printed row by row, and their widths.
_COLUMNS = {
    "model": 7, "test accuracy": 13, "packed": 10, "equal": 8, "bytes": 9, "smaller": 7, "ms": 7, "faster": 6,
}  # fmt: skip
DEMO_NOTES = """\
test accuracy: % at the best validation epoch, fake-quantised in DGL; packed: the frozen model's;
equal: share of nodes on which both predict the same; bytes: of the file (float32: of the state dict);
ms: median time of full-graph inference; faster: over DGL float32, timed anew beside each row."""


def run_demo(
    graph_name="planted", model_name="gcn", bits=(8, 4, 2), seeds=1, epochs=200, output=None, progress=True,
    overwrite=False, on_row=None,
):  # fmt: skip
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
        Folder for the states of training, which a run with the same settings goes on from, and the frozen models and
        checkpoints of seed 0.
    progress : bool
        Whether to show progress bars.
    overwrite : bool
        Whether to begin anew where ``output`` holds states.
    on_row : callable, optional
        Called as ``on_row(report, width)`` when a width, "32" first, has been added to the results of ``report``.

    Returns
    -------
    dict
        JSON values: the setting, and under ``results`` one entry a width, lists over seeds.

    Raises
    ------
    CheckpointError
        When a state in ``output`` is that of other settings, or not whole.
    """
    if output is not None:
        Path(output).mkdir(parents=True, exist_ok=True)
    configs = {width: QuantConfig(width) for width in bits}
    report = {"graph": graph_name, "model": model_name, "seeds": seeds, "epochs": epochs, "threads": common_threads()}
    report["results"] = {}
    runs = [_Run(report, seed, output, overwrite, progress) for seed in range(seeds)]
    for width, config in {32: None, **configs}.items():
        entry = {"accuracy": [], "packed_accuracy": [], "equal": [], "bytes": 0, "seconds": [], "ratio": []}
        for run in runs:
            run.add_float(entry) if config is None else run.add(entry, config)
        report["results"][str(width)] = entry
        if on_row is not None:
            on_row(report, str(width))
    return report


class _Run:
    """The models of one seed, and what is found of them."""

    def __init__(self, report, seed, output, overwrite, progress):
        self.report, self.seed, self.output = report, seed, output
        self.graph, self.recipe = dgl.add_self_loop(load_graph(report["graph"], seed)), recipe_of(report["model"])
        state = None if output is None else self._files(f"seed{seed}").training
        self.checkpoint = Checkpoint(state, resume=state is not None and not overwrite)
        self.label = progress and (f"seed {seed}: {{}}" if report["seeds"] > 1 else "{}")

    def _files(self, name):
        return RunFiles.of(self.output, self.report["graph"], self.report["model"], name)

    def _train(self, model, stage, **options):
        train(
            model, self.graph, epochs=self.report["epochs"], seed=self.seed, checkpoint=self.checkpoint.stage(stage),
            progress=self.label and self.label.format(stage), **self.recipe.options(), **options,
        )  # fmt: skip

    def add_float(self, entry):
        shallow = self.recipe.train_teacher(self.graph, self.seed, self.report["epochs"])
        self.teacher = build(self.report["model"], self.graph, self.seed)
        self._train(self.teacher, "float32", teacher=shallow, patience=PATIENCE)
        entry["accuracy"].append(accuracy(predict(self.teacher, self.graph), self.graph))
        entry["bytes"] = sum(t.nbytes for t in self.teacher.state_dict().values())
        [seconds] = median_seconds(self.graph, self.graph.ndata["feat"], self.teacher.eval())
        entry["seconds"].append(seconds)
        entry["ratio"].append(1.0)

    def add(self, entry, config):
        student = quantize(self.teacher, config)
        self._train(student, f"INT{config.bits}", teacher=self.teacher, patience=PATIENCE)
        packed, info = freeze(student), facts_of(self.report["graph"], self.seed, self.graph)
        packed.info.update(info)
        trained, run = predict(student, self.graph), packed(self.graph, self.graph.ndata["feat"])
        entry["accuracy"].append(accuracy(trained, self.graph))
        entry["packed_accuracy"].append(accuracy(run, self.graph))
        entry["equal"].append((trained.argmax(1) == run.argmax(1)).float().mean().item())
        entry["bytes"] = len(packed.to_bytes())
        float_seconds, seconds = median_seconds(self.graph, self.graph.ndata["feat"], self.teacher.eval(), packed)
        entry["seconds"].append(seconds)
        entry["ratio"].append(float_seconds / seconds)
        if self.output is not None and self.seed == 0:
            files = self._files(f"int{config.bits}")
            entry["file"] = str(packed.save(files.packed))
            save_checkpoint(files.checkpoint, student, self.report["model"], shape_of(self.graph), config, info)


def train_and_keep(
    graph_name, model_name, bits, states, epochs, seed, output, resume=False, overwrite=False, progress=True
):
    """Fit one model at one width and keep it; see ``dgl-lowbit train``.

    Returns
    -------
    tuple
        Results, ``model``, ``test_accuracy`` and ``file`` each, rows of :func:`dgl_lowbit.diagnose`, the low-bit
        stage's History, and the :class:`~dgl_lowbit.experiments.checkpoint.RunFiles`.

    Raises
    ------
    ValueError
        Where a run has kept files there already and neither ``resume`` nor ``overwrite`` is set; when it is resumed and
        was another run.
    """
    files = RunFiles.of(output, graph_name, model_name, f"int{bits}")
    kept = [path.name for path in (files.training, files.checkpoint, files.packed) if path.exists()]
    if kept and not (resume or overwrite):
        raise ValueError(f"{output} holds a run already ({', '.join(kept)}); pass --resume to go on, or --overwrite.")
    graph = dgl.add_self_loop(load_graph(graph_name, seed))
    config, recipe = QuantConfig(bits, states=states), recipe_of(model_name)
    Path(output).mkdir(parents=True, exist_ok=True)
    fitted = fit(
        build(model_name, graph, seed), graph, config, teacher=recipe.train_teacher(graph, seed, epochs), epochs=epochs,
        seed=seed, checkpoint=files.training, resume=resume, progress=progress, **recipe.options(),
    )  # fmt: skip
    info, packed = facts_of(graph_name, seed, graph), freeze(fitted.model)
    packed.info.update(info)
    packed.save(files.packed)
    save_checkpoint(files.checkpoint, fitted.model, model_name, shape_of(graph), config, info)
    feat = graph.ndata["feat"]
    rows = [
        ("float32", fitted.teacher_history.best["test_accuracy"], None),
        (f"INT{bits}, fake-quantised", fitted.history.best["test_accuracy"], str(files.checkpoint)),
        (f"INT{bits}, packed", accuracy(packed(graph, feat), graph), str(files.packed)),
    ]
    results = [dict(zip(("model", "test_accuracy", "file"), row)) for row in rows]
    return results, diagnose(fitted.model, graph, feat), fitted.history, files


def format_demo(report: dict) -> str:
    """The demo's table, Markdown."""
    return "\n".join([demo_head(report), *(demo_row(report, width) for width in report["results"]), "", DEMO_NOTES])


def demo_head(report: dict) -> str:
    """What stands above the rows of the demo's table."""
    title = f"{report['model']} on {report['graph']}, {report['seeds']} seed(s), {report['threads']} thread(s)"
    return f"{title}\n\n{table_head(list(_COLUMNS), list(_COLUMNS.values()))}"


def demo_row(report: dict, width: str) -> str:
    """The row of one width."""
    entry, is_float = report["results"][width], width == "32"
    cells = [
        "float32" if is_float else f"INT{width}",
        mean_std(entry["accuracy"]),
        "-" if is_float else mean_std(entry["packed_accuracy"]),
        "-" if is_float else f"{100 * statistics.mean(entry['equal']):.2f} %",
        f"{entry['bytes']:,}",
        f"{report['results']['32']['bytes'] / entry['bytes']:.1f}x",
        f"{1000 * statistics.median(entry['seconds']):.2f}",
        f"{statistics.median(entry['ratio']):.1f}x",
    ]
    return table_row(cells, list(_COLUMNS.values()))
