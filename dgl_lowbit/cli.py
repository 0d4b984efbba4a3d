"""The command ``dgl-lowbit``."""

from __future__ import annotations

import shlex
import sys

from dgl import DGLError

from numba_kernels.commands import OneLineParser, one_line
from numba_kernels.errors import LowBitError

from ._version import __version__
from .commands import COMMANDS


def main(arguments=None) -> int:
    """Run a command line; returns the exit status: 0, 2 after one line on stderr, or 130 when it was interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parser().parse_args(arguments)
    options.command_line = ["dgl-lowbit", *arguments]
    try:
        options.run(options)
    except (LowBitError, DGLError, ValueError, RuntimeError, OSError, ImportError, MemoryError) as error:
        print(f"dgl-lowbit {options.command}: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"dgl-lowbit {options.command}: interrupted{_going_on(options, arguments)}", file=sys.stderr)
        return 130
    return 0


def parser() -> OneLineParser:
    """The parser of all commands."""
    made = OneLineParser(prog="dgl-lowbit", description="Low-bit graph neural networks for DGL.")
    made.add_argument("--version", action="version", version=f"dgl-lowbit {__version__}", help="print the version")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return made


def _going_on(options, arguments):
    """The command line that goes on where this one stopped, for commands that keep what is done."""
    if not hasattr(options, "go_on"):
        return ""
    kept = [argument for argument in arguments if argument not in ("--overwrite", options.go_on)]
    return f"; to go on: {shlex.join(['dgl-lowbit', *kept, *filter(None, [options.go_on])])}"


if __name__ == "__main__":
    sys.exit(main())
