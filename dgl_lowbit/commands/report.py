"""``dgl-lowbit report``."""

from __future__ import annotations

import json

from numba_kernels.commands import add_command

from .options import add_json, new_file

_EXAMPLES = ["dgl-lowbit report runs/gcn", "dgl-lowbit report runs/gcn --speed --output gcn.html"]


def add(commands) -> None:
    command = add_command(
        commands, "report", _EXAMPLES,
        "write a page about what train kept: accuracy, size, speed, codes, bounds, what to try next",
        "Write one HTML page, which needs nothing beside it, about the runs that dgl-lowbit train kept in DIR. Needs "
        "matplotlib.",
    )  # fmt: skip
    command.add_argument("folder", metavar="DIR", help="what dgl-lowbit train --output DIR wrote")
    command.add_argument("--speed", action="store_true", help="time the packed model against the float one")
    command.add_argument("--output", type=new_file, metavar="FILE", help="the page; default: DIR/report.html")
    add_json(command)
    command.set_defaults(run=_run)


def _run(options):
    from ..experiments.run_report import write_report

    path = write_report(options.folder, options.output, options.speed)
    print(json.dumps({"file": str(path)}) if options.json else path)
