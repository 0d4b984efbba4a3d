"""``dgl-lowbit bench``."""

from __future__ import annotations

import json

from numba_kernels.commands import add_command, count

from ..experiments.data import GRAPH_NAMES
from .options import add_json, add_quiet, add_table, counts, names, widths, write_table

_EXAMPLES = [
    "dgl-lowbit bench --works gcn,sage --threads 1",
    "dgl-lowbit bench --graphs 170k,cora --works spmm,gcn --bits 2,4 --output bench.json --plot bench.svg",
    "dgl-lowbit bench --training --graphs planted --works gcn",
]


def add(commands) -> None:
    command = add_command(
        commands, "bench", _EXAMPLES,
        "time packed models and kernels against DGL and torch",
        "Time sums over neighbours, products and whole models, packed and in float32, in one process; or, with "
        "--training, steps of training, low-bit and in float32.",
    )  # fmt: skip
    command.add_argument("--training", action="store_true", help="time steps of training")
    command.add_argument(
        "--graphs", type=names, metavar="LIST",
        help=f"graphs, comma-separated: 20k, 100k, 170k, 500k (random), {', '.join(GRAPH_NAMES)}; "
        "default: 20k, of training 100k,planted",
    )  # fmt: skip
    command.add_argument(
        "--works", type=names, metavar="LIST",
        help="what to time, comma-separated; default: spmm,gemm,gcn,sage,gat,gatv2,smp,graphs,blocks, of training "
        "gcn,sage,gat,blocks",
    )  # fmt: skip
    command.add_argument("--bits", default="2,4,8", type=widths, help="comma-separated widths")
    command.add_argument("--threads", type=counts, metavar="LIST", help="numbers of threads; default: 1 and all")
    command.add_argument("--rounds", default=3, type=count, help="rounds of three calls, or five steps")
    command.add_argument("--output", metavar="FILE", help="write the results there as JSON as well")
    command.add_argument(
        "--plot", metavar="FILE", help="picture to draw, ratios, and times against edges (needs matplotlib)"
    )
    add_table(command)
    add_json(command)
    add_quiet(command)
    command.set_defaults(run=_run)


def _run(options):
    from ..deploy import replace_file
    from ..experiments.bench import format_bench, format_training_bench, run_bench, run_training_bench

    if options.plot:
        if options.training:
            raise ValueError("--plot draws predictions only; leave out --training or --plot.")
        from ..experiments.plots import plot_bench  # before the work: matplotlib may be missing
    run, written = (run_training_bench, format_training_bench) if options.training else (run_bench, format_bench)
    chosen = {name: getattr(options, name) for name in ("graphs", "works") if getattr(options, name) is not None}
    report = run(
        bits=options.bits, threads=options.threads, rounds=options.rounds, progress=not options.quiet, **chosen
    )
    print(json.dumps(report) if options.json else written(report))
    write_table(options.table, written(report), options)
    if options.output:
        replace_file(options.output, (json.dumps(report, indent=1) + "\n").encode())
    if options.plot:
        plot_bench(report, options.plot)
