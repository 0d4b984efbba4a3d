"""``dgl-lowbit plot``."""

from __future__ import annotations

import json

from numba_kernels.commands import add_command

from .options import add_json, new_file

_EXAMPLES = ["dgl-lowbit plot accuracy-cora.md --output accuracy.svg"]


def add(commands) -> None:
    command = add_command(
        commands, "plot", _EXAMPLES,
        "draw tables of accuracies or speeds against bits",
        "Draw table files that --table or --by-bits wrote: what their columns float32, INT8, INT4 and INT2 say, a line "
        "a row. Needs matplotlib.",
    )  # fmt: skip
    command.add_argument("tables", nargs="+", metavar="TABLE", help="files that --table or --by-bits wrote")
    command.add_argument(
        "--output", type=new_file, metavar="FILE", required=True, help="the picture; its ending tells the format"
    )
    add_json(command)
    command.set_defaults(run=_run)


def _run(options):
    from ..experiments.table_plots import plot_tables

    path = plot_tables(options.tables, options.output)
    print(json.dumps({"file": str(path)}) if options.json else path)
