"""``dgl-lowbit study``."""

from __future__ import annotations

import json
import sys

from numba_kernels.commands import add_command, count

from ..allocation import MEASURES
from ..experiments.data import GRAPH_NAMES
from ..experiments.models import MODELS
from .options import add_json, add_quiet, add_table, counts, names, new_file, share, shares, widths, write_table

_EXAMPLES = [
    "dgl-lowbit study accuracy --graphs planted --models gcn --seeds 3 --jobs 2",
    "dgl-lowbit study allocate --graphs cora --models gcn --budgets 0.2,0.3",
    "dgl-lowbit study relatives --method sign --seeds 3",
]


def add(commands) -> None:
    command = add_command(
        commands, "study", _EXAMPLES,
        "accuracy over seeds against bits, method, smoothness bounds, depth, schedules, budgets, relatives",
        "Train models and their low-bit variants over seeds, in parallel processes. What is done is kept in DIR/runs "
        "and not done again, so that an interrupted study goes on where it was.",
    )  # fmt: skip
    command.add_argument(
        "name",
        choices=("accuracy", "ablation", "bounds", "depth", "schedules", "allocate", "relatives"),
        help="what to study",
    )
    command.add_argument(
        "--method", default="degree-quant", metavar="NAME",
        help="of relatives: gptq, reconstruct, allocate, learned-bits, degree-quant, a2q, levels, sign, silent, "
        "boost, history, bandit, prune, squeeze or integer",
    )  # fmt: skip
    command.add_argument(
        "--graphs", type=names, metavar="LIST", help="graphs, comma-separated; default: cora, of relatives the method's"
    )
    command.add_argument(
        "--models", default="smp,gcn,sage", type=names, metavar="LIST",
        help="of accuracy, schedules and allocate, comma-separated",
    )  # fmt: skip
    command.add_argument("--bits", default="8,4,2", type=widths, help="of accuracy, schedules and allocate: widths")
    command.add_argument(
        "--every-stage", action="store_true", help="of accuracy: also SMP with all that it keeps and sends as codes"
    )
    command.add_argument(
        "--dropout",
        type=share,
        metavar="SHARE",
        help="of accuracy and schedules: share that is dropped; default: 0.5, of SMP 0.8",
    )
    command.add_argument(
        "--messages", default="channel", choices=("channel", "tensor", "shift"),
        help="of accuracy and schedules: scales of what GCN and SAGE send, shift a power of two a node",
    )  # fmt: skip
    command.add_argument(
        "--measure", default="model", choices=list(MEASURES),
        help="of allocate: what budgets limit, bytes of the model, of states, that edges read, or mean bits",
    )  # fmt: skip
    command.add_argument(
        "--budgets", default="0.14,0.18,0.22,0.3,0.5", type=shares, metavar="LIST",
        help="of allocate: shares of what 8 bits cost",
    )  # fmt: skip
    command.add_argument(
        "--methods", default="greedy,relaxed,hgq", type=names, metavar="LIST",
        help="of allocate: what chooses bits under budgets",
    )  # fmt: skip
    command.add_argument(
        "--depths", default="32,64", type=counts, metavar="LIST", help="of depth: numbers of layers, comma-separated"
    )
    command.add_argument(
        "--seeds", type=count, help="number of runs, seeds 0 to N - 1; default: 10, of relatives the method's"
    )
    command.add_argument(
        "--epochs", type=count, help="most epochs of a training stage; default: 200, of relatives the graph's"
    )
    command.add_argument("--jobs", default=1, type=count, help="processes, of one thread each")
    command.add_argument("--output", default="study", metavar="DIR", help="folder for results")
    add_table(command)
    command.add_argument(
        "--by-bits", type=new_file, metavar="FILE", help="of accuracy: write a table with a column for each width there"
    )
    command.add_argument("--plot", action="store_true", help="draw pictures into DIR too (needs matplotlib)")
    add_json(command)
    add_quiet(command)
    command.set_defaults(run=_run, go_on="")


def _run(options):
    from ..experiments.study import METHODS, format_by_bits, format_study, run_study

    _check_known((options.method,), METHODS, "method")
    relative = METHODS[options.method] if options.name == "relatives" else None
    _check_known(options.graphs or (), relative.known_graphs if relative else GRAPH_NAMES, "graph")
    if relative:
        settings = {"method": options.method, "graphs": relative.graphs, "seeds": relative.seeds, "epochs": None}
    else:
        settings = {"graphs": ("cora",), "seeds": 10, "epochs": 200}
    given = {key: getattr(options, key) for key in ("graphs", "seeds", "epochs")}
    settings.update({key: value for key, value in given.items() if value is not None})
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
        from ..experiments.plots import plot_study  # fails before the work where matplotlib is missing
    report = run_study(options.name, options.output, options.jobs, not options.quiet, **settings)
    print(json.dumps(report) if options.json else format_study(report))
    write_table(options.table, format_study(report), options)
    if options.by_bits:
        write_table(options.by_bits, format_by_bits(report), options)
    if options.plot:
        for path in plot_study(report, options.output):
            print(f"\n{path}", file=sys.stderr)


def _check_known(names, known, what):
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"unknown {what} {', '.join(unknown)}; known are {', '.join(known)}.")
