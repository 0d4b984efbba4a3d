"""``dgl-lowbit info``."""

from __future__ import annotations

from pathlib import Path

from numba_kernels.commands import add_command

from .options import add_json

_EXAMPLES = [
    "dgl-lowbit info demo/planted-gcn-int2.safetensors",
    "dgl-lowbit info demo/planted-gcn-int2.safetensors --json",
]


def add(commands) -> None:
    command = add_command(commands, "info", _EXAMPLES, "print what a packed model is")
    command.add_argument("model", help="a .safetensors file")
    add_json(command)
    command.set_defaults(run=_run)


def _run(options):
    from numba_kernels.description import describe

    from ..deploy import load

    print(describe(load(options.model), Path(options.model).stat().st_size, options.json))
