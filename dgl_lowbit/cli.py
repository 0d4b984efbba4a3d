"""The command ``dgl-lowbit``."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from dgl import DGLError

from numba_kernels.commands import OneLineParser, count, one_line
from numba_kernels.errors import LowBitError

from ._version import __version__
from .allocation import MEASURES
from .experiments.data import GRAPH_NAMES, load_graph, num_classes
from .experiments.models import MODELS
from .report import table

_TABLE_HELP = "write the tables there as well, in Markdown below a line that says this command, version and processor"


def main(arguments=None) -> int:
    """Run a command line; returns the exit status: 0, or 2 after one line on stderr."""
    options = _parser().parse_args(arguments)
    options.command_line = ["dgl-lowbit", *(sys.argv[1:] if arguments is None else arguments)]
    try:
        options.run(options)
    except (LowBitError, DGLError, ValueError, RuntimeError, OSError, ImportError, MemoryError) as error:
        print(f"dgl-lowbit {options.command}: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"dgl-lowbit {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser():
    parser = OneLineParser(prog="dgl-lowbit", description="Low-bit graph neural networks for DGL.")
    parser.add_argument("--version", action="version", version=f"dgl-lowbit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="train, freeze and run a model at several widths, and print what came of it",
        description="Train a float32 model and its low-bit copies, freeze them, run them packed, and print a table.",
    )
    demo.add_argument("--graph", default="planted", choices=GRAPH_NAMES, metavar="GRAPH", help=", ".join(GRAPH_NAMES))
    demo.add_argument("--model", default="gcn", choices=sorted(MODELS), help="default: gcn")
    demo.add_argument("--bits", default="8,4,2", type=_widths, help="comma-separated widths; default: 8,4,2")
    demo.add_argument("--seeds", default=1, type=count, help="number of runs; default: 1")
    demo.add_argument("--epochs", default=200, type=count, help="epochs of a training stage at most; default: 200")
    demo.add_argument("--json", action="store_true", help="print JSON instead of the table")
    demo.add_argument("--table", type=_new_file, metavar="FILE", help=_TABLE_HELP)
    demo.add_argument("--output", metavar="DIR", help="write the frozen models and checkpoints of seed 0 there")
    demo.add_argument("--quiet", action="store_true", help="show no progress bars")
    demo.set_defaults(run=_demo)

    train = commands.add_parser(
        "train",
        help="train a model and its low-bit copy, resumable, and keep the packed model",
        description="Train a float32 model, then its low-bit copy; keep the checkpoint, the packed model and the state "
        "of the run in DIR, and print what every quantiser does.",
    )
    train.add_argument("--graph", default="planted", choices=GRAPH_NAMES, metavar="GRAPH", help=", ".join(GRAPH_NAMES))
    train.add_argument("--model", default="gcn", choices=sorted(MODELS), help="default: gcn")
    train.add_argument("--bits", default=2, type=int, choices=(1, 2, 3, 4, 8), help="default: 2")
    train.add_argument(
        "--states", default=32, type=int, choices=(1, 2, 3, 4, 8, 32), help="of states; default: 32, off"
    )
    train.add_argument("--epochs", default=200, type=count, help="epochs of a training stage at most; default: 200")
    train.add_argument("--seed", default=0, type=int, help="default: 0")
    train.add_argument("--output", default=".", metavar="DIR", help="default: the current folder")
    onto_a_run = train.add_mutually_exclusive_group()
    onto_a_run.add_argument(
        "--resume", action="store_true", help="go on where an interrupted run with this DIR stopped"
    )
    onto_a_run.add_argument("--overwrite", action="store_true", help="replace what a run with this DIR kept")
    train.add_argument(
        "--plot", action="store_true", help="draw the course of the training into DIR (needs matplotlib)"
    )
    train.add_argument("--quiet", action="store_true", help="show no progress bars")
    train.set_defaults(run=_train)

    study = commands.add_parser(
        "study",
        help="accuracy over seeds against bits, method, smoothness bounds, depth, schedules, budgets, relatives",
        description="Train models and their low-bit variants over seeds, in parallel processes. What is done is kept "
        "in DIR/runs and not done again, so that an interrupted study goes on where it was.",
    )
    study.add_argument(
        "name",
        choices=("accuracy", "ablation", "bounds", "depth", "schedules", "allocate", "relatives"),
        help="what to study",
    )
    study.add_argument(
        "--method", default="degree-quant", help="of relatives: which, on graphs of its own; default: degree-quant"
    )
    study.add_argument("--graphs", default="cora", type=_names, metavar="LIST", help="comma-separated; default: cora")
    study.add_argument(
        "--models", default="smp,gcn,sage", type=_names, metavar="LIST",
        help="of accuracy, schedules and allocate, comma-separated; default: smp,gcn,sage",
    )  # fmt: skip
    study.add_argument(
        "--bits", default="8,4,2", type=_widths, help="of accuracy, schedules and allocate; default: 8,4,2"
    )
    study.add_argument(
        "--every-stage", action="store_true", help="of accuracy: also SMP with all that it keeps and sends as codes"
    )
    study.add_argument(
        "--dropout", type=_share, metavar="SHARE", help="of accuracy and schedules; default: 0.5, of SMP 0.8"
    )
    study.add_argument(
        "--messages", default="channel", choices=("channel", "tensor", "shift"),
        help="of accuracy and schedules: scales of what GCN and SAGE send, shift a power of two a node; default: "
        "channel",
    )  # fmt: skip
    study.add_argument(
        "--measure", default="model", choices=list(MEASURES),
        help="of allocate: what budgets limit, bytes of the model, of states, that edges read, or mean bits; "
        "default: model",
    )  # fmt: skip
    study.add_argument(
        "--budgets", default="0.14,0.18,0.22,0.3,0.5", type=_shares, metavar="LIST",
        help="of allocate: shares of what 8 bits cost; default: 0.14,0.18,0.22,0.3,0.5",
    )  # fmt: skip
    study.add_argument(
        "--methods", default="greedy,relaxed,hgq", type=_names, metavar="LIST",
        help="of allocate: what chooses bits under budgets; default: greedy,relaxed,hgq",
    )  # fmt: skip
    study.add_argument("--depths", default="32,64", type=_counts, metavar="LIST", help="of depth; default: 32,64")
    study.add_argument("--seeds", default=10, type=count, help="seeds 0 to N − 1; default: 10")
    study.add_argument("--epochs", default=200, type=count, help="epochs of a training stage at most; default: 200")
    study.add_argument("--jobs", default=1, type=count, help="processes, of one thread each; default: 1")
    study.add_argument("--output", default="study", metavar="DIR", help="folder for results; default: study")
    study.add_argument("--table", type=_new_file, metavar="FILE", help=_TABLE_HELP)
    study.add_argument(
        "--by-bits",
        type=_new_file,
        metavar="FILE",
        help="of accuracy: write a table with a column for each width there",
    )
    study.add_argument("--plot", action="store_true", help="draw pictures into DIR too (needs matplotlib)")
    study.add_argument("--quiet", action="store_true", help="show no progress bar")
    study.set_defaults(run=_study)

    bench = commands.add_parser(
        "bench",
        help="time packed models and kernels against DGL and torch",
        description="Time sums over neighbours, products and whole models, packed and in float32, in one process; or, "
        "with --training, steps of training, low-bit and in float32.",
    )
    bench.add_argument("--training", action="store_true", help="time steps of training")
    bench.add_argument(
        "--graphs", type=_names, metavar="LIST",
        help=f"comma-separated: 20k, 100k, 170k, 500k (random), {', '.join(GRAPH_NAMES)}; "
        "default: 20k, of training 100k,planted",
    )  # fmt: skip
    bench.add_argument(
        "--works", type=_names, metavar="LIST",
        help="comma-separated; default: spmm,gemm,gcn,sage,gat,gatv2,smp,graphs,blocks, of training "
        "gcn,sage,gat,blocks",
    )  # fmt: skip
    bench.add_argument("--bits", default="2,4,8", type=_widths, help="comma-separated widths; default: 2,4,8")
    bench.add_argument("--threads", type=_counts, metavar="LIST", help="comma-separated; default: 1 and all")
    bench.add_argument("--rounds", default=3, type=count, help="rounds of three calls, or five steps; default: 3")
    bench.add_argument("--json", action="store_true", help="print JSON instead of the tables")
    bench.add_argument("--output", metavar="FILE", help="write JSON there as well")
    bench.add_argument("--table", type=_new_file, metavar="FILE", help=_TABLE_HELP)
    bench.add_argument("--plot", metavar="FILE", help="draw ratios, and times against edges (needs matplotlib)")
    bench.add_argument("--quiet", action="store_true", help="do not say what is being timed")
    bench.set_defaults(run=_bench)

    report = commands.add_parser(
        "report",
        help="write a page about what train kept: accuracy, size, speed, codes, bounds, what to try next",
        description="Write one HTML page, which needs nothing beside it, about the runs that dgl-lowbit train kept in "
        "DIR. Needs matplotlib.",
        epilog="example: dgl-lowbit train --output run && dgl-lowbit report run",
    )
    report.add_argument("folder", metavar="DIR", help="what dgl-lowbit train --output DIR wrote")
    report.add_argument("--speed", action="store_true", help="time the packed model against the float one")
    report.add_argument("--output", type=_new_file, metavar="FILE", help="the page; default: DIR/report.html")
    report.set_defaults(run=_report)

    plot = commands.add_parser(
        "plot",
        help="draw tables of accuracies or speeds against bits",
        description="Draw table files that --table or --by-bits wrote: what their columns float32, INT8, INT4 and INT2 "
        "say, a line a row. Needs matplotlib.",
        epilog="example: dgl-lowbit plot accuracy-cora.md --output accuracy.svg",
    )
    plot.add_argument("tables", nargs="+", metavar="TABLE", help="files that --table or --by-bits wrote")
    plot.add_argument(
        "--output", type=_new_file, metavar="FILE", required=True, help="the picture; its ending tells the format"
    )
    plot.set_defaults(run=_plot)

    export = commands.add_parser("export", help="freeze a checkpoint that demo wrote into a packed model")
    export.add_argument("checkpoint", help="a .pt file")
    export.add_argument("--output", metavar="FILE", help="default: the checkpoint's name, .safetensors")
    export.set_defaults(run=_export)

    predict = commands.add_parser("predict", help="run a packed model on a graph")
    predict.add_argument("model", help="a .safetensors file")
    predict.add_argument("--graph", choices=GRAPH_NAMES, metavar="GRAPH", help="default: the one it was trained on")
    predict.add_argument("--output", metavar="FILE", help="write the predicted class of every node, one a line")
    predict.add_argument("--json", action="store_true", help="print JSON")
    predict.set_defaults(run=_predict)

    info = commands.add_parser("info", help="print what a packed model is")
    info.add_argument("model", help="a .safetensors file")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)
    return parser


def _widths(text):
    from .quant import SUPPORTED_BITS

    try:
        widths = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected comma-separated numbers, got {text!r}") from None
    allowed = [bits for bits in SUPPORTED_BITS if bits != 32]
    if any(width not in allowed for width in widths) or len(set(widths)) < len(widths):
        raise argparse.ArgumentTypeError(f"widths are among {allowed}, each once, got {text!r}")
    return tuple(widths)


def _share(text):
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return share


def _shares(text):
    return tuple(map(_share, text.split(",")))


def _names(text):
    return tuple(name.strip() for name in text.split(","))


def _new_file(text):
    if not Path(text).parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {Path(text).parent}")
    return Path(text)


def _counts(text):
    return tuple(map(count, text.split(",")))


def _demo(options):
    from .experiments.demo import format_demo, run_demo

    report = run_demo(
        options.graph,
        options.model,
        options.bits,
        options.seeds,
        options.epochs,
        options.output,
        progress=not options.quiet,
    )
    print(json.dumps(report) if options.json else format_demo(report))
    _write_table(options.table, format_demo(report), options)


def _train(options):
    from .diagnose import format_diagnosis
    from .experiments.demo import train_and_keep

    if options.plot:
        from .training.plots import plot_history  # before the work: matplotlib may be missing
    rows, diagnosis, history, stem = train_and_keep(
        options.graph, options.model, options.bits, options.states, options.epochs, options.seed, options.output,
        options.resume, options.overwrite, progress=not options.quiet,
    )  # fmt: skip
    print(table(["model", "test accuracy", "file"], rows))
    print("\n" + format_diagnosis(diagnosis))
    if options.plot:
        plot_history(history, stem.with_suffix(".png"))


def _study(options):
    from .experiments.study import METHODS, format_by_bits, format_study, run_study

    _check_known(options.graphs, GRAPH_NAMES, "graph")
    _check_known((options.method,), METHODS, "method")
    settings = {"seeds": options.seeds, "epochs": options.epochs}
    settings.update({"method": options.method} if options.name == "relatives" else {"graphs": options.graphs})
    if options.name in ("accuracy", "schedules", "allocate"):
        _check_known(options.models, [name for name in MODELS if name != "deep"], "model")
        settings.update(models=options.models, bits=options.bits)
    if options.name in ("accuracy", "schedules"):
        settings.update(dropout=options.dropout, messages=options.messages)
    if options.name == "allocate":
        _check_known(options.methods, ["greedy", "tree", "relaxed", "hgq"], "method")
        settings.update(measure=options.measure, budgets=options.budgets, methods=options.methods)
    if options.name == "accuracy":
        settings["every_stage"] = options.every_stage
    elif options.by_bits:
        raise ValueError(f"--by-bits is of the study of accuracy; leave it out of {options.name}.")
    if options.name == "depth":
        if min(options.depths) < 3:
            raise ValueError(f"a depth is at least 3 layers, got {min(options.depths)}.")
        settings["depths"] = options.depths
    if options.plot:
        from .experiments.plots import plot_study  # fails before the work where matplotlib is missing
    report = run_study(options.name, options.output, options.jobs, not options.quiet, **settings)
    print(format_study(report))
    _write_table(options.table, format_study(report), options)
    if options.by_bits:
        _write_table(options.by_bits, format_by_bits(report), options)
    if options.plot:
        for path in plot_study(report, options.output):
            print(f"\n{path}", file=sys.stderr)


def _write_table(path, text, options):
    from .experiments.tables import write_table

    if path:
        write_table(path, text, options.command_line)


def _check_known(names, known, what):
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"unknown {what} {', '.join(unknown)}; known are {', '.join(known)}.")


def _bench(options):
    from .deploy import replace_file
    from .experiments.bench import format_bench, format_training_bench, run_bench, run_training_bench

    if options.plot:
        if options.training:
            raise ValueError("--plot draws predictions only; leave out --training or --plot.")
        from .experiments.plots import plot_bench  # before the work: matplotlib may be missing
    run, written = (run_training_bench, format_training_bench) if options.training else (run_bench, format_bench)
    chosen = {name: getattr(options, name) for name in ("graphs", "works") if getattr(options, name) is not None}
    report = run(
        bits=options.bits, threads=options.threads, rounds=options.rounds, progress=not options.quiet, **chosen
    )
    print(json.dumps(report) if options.json else written(report))
    _write_table(options.table, written(report), options)
    if options.output:
        replace_file(options.output, (json.dumps(report, indent=1) + "\n").encode())
    if options.plot:
        plot_bench(report, options.plot)


def _report(options):
    from .experiments.run_report import write_report

    print(write_report(options.folder, options.output, options.speed))


def _plot(options):
    from .experiments.table_plots import plot_tables

    print(plot_tables(options.tables, options.output))


def _export(options):
    from .deploy import freeze
    from .experiments.checkpoint import load_checkpoint

    model, info = load_checkpoint(options.checkpoint)
    packed = freeze(model)
    packed.info.update(info)
    path = packed.save(options.output or Path(options.checkpoint).with_suffix(".safetensors"))
    print(f"{path}: {path.stat().st_size:,} bytes")


def _predict(options):
    import dgl

    from .deploy import load, replace_file
    from .experiments.facts import Facts
    from .training import accuracy
    from .training.identity import graph_identity

    packed = load(options.model)
    facts = Facts.of(packed.info)
    name = options.graph or facts.graph
    if name is None:
        raise ValueError(f"{options.model} does not say what graph it was trained on; pass --graph.")
    graph = load_graph(name, facts.seed)
    if facts.self_loops:
        graph = dgl.add_self_loop(graph)
    is_same = facts.is_same(graph_identity(graph))
    if is_same is False:
        print(f"dgl-lowbit predict: note: the model was trained on another graph, {facts.described}", file=sys.stderr)
    try:
        logits = packed(graph, graph.ndata["feat"])
        if logits.shape[1:] != (num_classes(graph),) or len(logits) != graph.num_nodes():
            raise ValueError(f"it returns {tuple(logits.shape)}, not a number for each of the nodes and classes")
    except (TypeError, AttributeError, ValueError, DGLError) as error:
        raise ValueError(f"{options.model} does not fit {name}: {error}") from error
    if options.output:
        classes = "".join(f"{c}\n" for c in logits.argmax(1).tolist())
        replace_file(options.output, classes.encode())
    result = {"graph": name, "nodes": len(logits), "test_accuracy": accuracy(logits, graph), "trained_on_it": is_same}
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{name}: {len(logits):,} nodes, test accuracy {100 * result['test_accuracy']:.1f} %")


def _info(options):
    from numba_kernels.description import describe

    from .deploy import load

    print(describe(load(options.model), Path(options.model).stat().st_size, options.json))


if __name__ == "__main__":
    sys.exit(main())
