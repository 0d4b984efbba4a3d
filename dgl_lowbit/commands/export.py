"""``dgl-lowbit export``."""

from __future__ import annotations

import json
from pathlib import Path

from numba_kernels.commands import add_command

from .options import add_json

_EXAMPLES = [
    "dgl-lowbit export demo/planted-gcn-int2.pt",
    "dgl-lowbit export runs/gcn/planted-gcn-int2.pt --output gcn.safetensors",
]


def add(commands) -> None:
    command = add_command(
        commands, "export", _EXAMPLES, "freeze a checkpoint that demo or train wrote into a packed model"
    )
    command.add_argument("checkpoint", help="a .pt file, as planted-gcn-int2.pt")
    command.add_argument(
        "--output", metavar="FILE", help="default: the checkpoint's name, .safetensors, which demo and train write too"
    )
    add_json(command)
    command.set_defaults(run=_run)


def _run(options):
    from ..deploy import freeze
    from ..experiments.checkpoint import load_checkpoint

    model, info = load_checkpoint(options.checkpoint)
    packed = freeze(model)
    packed.info.update(info)
    path = packed.save(options.output or Path(options.checkpoint).with_suffix(".safetensors"))
    size = path.stat().st_size
    print(json.dumps({"file": str(path), "bytes": size}) if options.json else f"{path}: {size:,} bytes")
