"""``dgl-lowbit train``."""

from __future__ import annotations

import json

from numba_kernels.commands import add_command

from ..report import table
from .options import add_epochs, add_json, add_model, add_quiet

_EXAMPLES = [
    "dgl-lowbit train --bits 2 --output runs/gcn",
    "dgl-lowbit train --bits 2 --output runs/gcn --resume",
    "dgl-lowbit train --graph cora --model smp --bits 2 --states 8 --plot --output runs/smp",
]


def add(commands) -> None:
    command = add_command(
        commands, "train", _EXAMPLES,
        "train a model and its low-bit copy, resumable, and keep the packed model",
        "Train a float32 model, then its low-bit copy; keep the checkpoint, the packed model and the state of the run "
        "in DIR, named GRAPH-MODEL-intBITS, and print what every quantiser does.",
    )  # fmt: skip
    add_model(command)
    command.add_argument("--bits", default=2, type=int, choices=(1, 2, 3, 4, 8), help="width of codes")
    command.add_argument(
        "--states", default=32, type=int, choices=(1, 2, 3, 4, 8, 32),
        help="width of what is kept between the steps of smp and deep",
    )  # fmt: skip
    add_epochs(command)
    command.add_argument("--seed", default=0, type=int, help="of weights, dropout and splits")
    command.add_argument("--output", default=".", metavar="DIR", help="folder for files")
    onto_a_run = command.add_mutually_exclusive_group()
    onto_a_run.add_argument(
        "--resume", action="store_true", help="go on where an interrupted run with this DIR stopped"
    )
    onto_a_run.add_argument("--overwrite", action="store_true", help="replace what a run with this DIR kept")
    command.add_argument(
        "--plot", action="store_true", help="draw the course of the training into DIR (needs matplotlib)"
    )
    add_json(command)
    add_quiet(command)
    command.set_defaults(run=_run, go_on="--resume")


def _run(options):
    from ..diagnose import format_diagnosis
    from ..experiments.demo import train_and_keep

    if options.plot:
        from ..training.plots import plot_history  # before the work: matplotlib may be missing
    results, diagnosis, history, files = train_and_keep(
        options.graph, options.model, options.bits, options.states, options.epochs, options.seed, options.output,
        options.resume, options.overwrite, progress=not options.quiet,
    )  # fmt: skip
    if options.json:
        settings = {name: getattr(options, name) for name in ("graph", "model", "bits", "states", "epochs", "seed")}
        print(json.dumps({**settings, "results": results, "quantizers": diagnosis}))
    else:
        rows = [[row["model"], f"{100 * row['test_accuracy']:.1f}", row["file"] or "-"] for row in results]
        print(table(["model", "test accuracy", "file"], rows))
        print("\n" + format_diagnosis(diagnosis))
    if options.plot:
        plot_history(history, files.plot)
