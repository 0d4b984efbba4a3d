"""``python -m numba_kernels warm-up [FILE …]``: compile kernels ahead, into the user's cache."""

from __future__ import annotations

import sys

from .cache import folder
from .commands import OneLineParser, one_line
from .warming import warm_up


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = OneLineParser(prog="python -m numba_kernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    warm = commands.add_parser("warm-up", help="compile what models need, or every common kernel, and keep it")
    warm.add_argument("files", nargs="*", metavar="FILE", help="packed models; default: every common kernel")
    options = parser.parse_args(arguments)
    try:
        warm_up(*options.files)
    except (OSError, ValueError) as error:
        print(f"numba_kernels: error: {one_line(error)}", file=sys.stderr)
        return 2
    print(folder() or "compiled, but nothing could be kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
