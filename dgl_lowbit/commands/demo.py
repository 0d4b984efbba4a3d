"""``dgl-lowbit demo``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from numba_kernels.commands import add_command, count

from .options import add_epochs, add_json, add_model, add_quiet, add_table, widths, write_table

_EXAMPLES = [
    "dgl-lowbit demo",
    "dgl-lowbit demo --graph cora --model sage --bits 4,2 --seeds 3",
    "dgl-lowbit demo --json --quiet --overwrite > demo.json",
]


def add(commands) -> None:
    command = add_command(
        commands, "demo", _EXAMPLES,
        "train, freeze and run a model at several widths, and print what came of it",
        "Train a float32 model and its low-bit copies, freeze them, run them packed, and print a table, row by row. "
        "What is trained is kept in DIR: started again with the same settings, it goes on where it was.",
    )  # fmt: skip
    add_model(command)
    command.add_argument("--bits", default="8,4,2", type=widths, help="comma-separated widths")
    command.add_argument("--seeds", default=1, type=count, help="number of runs, seeds 0 to N - 1")
    add_epochs(command)
    command.add_argument(
        "--output", default="demo", metavar="DIR",
        help="folder for states of training, and packed models and checkpoints of seed 0",
    )  # fmt: skip
    command.add_argument("--overwrite", action="store_true", help="begin anew instead of going on from what DIR holds")
    add_table(command)
    add_json(command)
    add_quiet(command)
    command.set_defaults(run=_run, go_on="")


def _run(options):
    from ..experiments.demo import DEMO_NOTES, demo_head, demo_row, format_demo, run_demo
    from ..training.resume import CheckpointError

    def show(report, width):
        if width == "32":
            print(demo_head(report))
        print(demo_row(report, width), flush=True)

    if not options.quiet:
        print(f"dgl-lowbit demo: models are kept in {Path(options.output).resolve()}", file=sys.stderr)
    try:
        report = run_demo(
            options.graph, options.model, options.bits, options.seeds, options.epochs, options.output,
            not options.quiet, options.overwrite, None if options.json else show,
        )  # fmt: skip
    except CheckpointError as error:
        raise ValueError(f"{error} Pass --overwrite to begin anew, or another --output.") from error
    print(json.dumps(report) if options.json else f"\n{DEMO_NOTES}")
    write_table(options.table, format_demo(report), options)
