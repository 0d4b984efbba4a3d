"""Options and their values that commands share."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from numba_kernels.commands import count

from ..experiments.data import GRAPH_NAMES
from ..experiments.models import MODELS


def add_model(command) -> None:
    """``--graph`` and ``--model``: what is trained on what."""
    names = ", ".join(GRAPH_NAMES)
    command.add_argument(
        "--graph", default="planted", choices=GRAPH_NAMES, metavar="GRAPH",
        help=f"planted, made on the spot, or a dataset that DGL has or loads: {names}",
    )  # fmt: skip
    command.add_argument("--model", default="gcn", choices=sorted(MODELS), help="model to train")


def add_epochs(command) -> None:
    command.add_argument("--epochs", default=200, type=count, help="epochs of a training stage at most")


def add_json(command) -> None:
    command.add_argument("--json", action="store_true", help="print JSON, on one line, instead of words and tables")


def add_quiet(command) -> None:
    command.add_argument("--quiet", action="store_true", help="say nothing on stderr of how far it is")


def names(text: str) -> tuple[str, ...]:
    """Comma-separated names."""
    return tuple(name.strip() for name in text.split(","))


def counts(text: str) -> tuple[int, ...]:
    """Comma-separated whole numbers of at least 1."""
    return tuple(map(count, text.split(",")))


def widths(text: str) -> tuple[int, ...]:
    """Comma-separated widths of codes, each once."""
    from ..quant import SUPPORTED_BITS

    try:
        chosen = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected comma-separated numbers, got {text!r}") from None
    allowed = [bits for bits in SUPPORTED_BITS if bits != 32]
    if any(width not in allowed for width in chosen) or len(set(chosen)) < len(chosen):
        raise argparse.ArgumentTypeError(f"widths are among {allowed}, each once, got {text!r}")
    return tuple(chosen)


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return number


def shares(text: str) -> tuple[float, ...]:
    """Comma-separated numbers from 0 to 1."""
    return tuple(map(share, text.split(",")))


def add_table(command) -> None:
    command.add_argument(
        "--table", type=new_file, metavar="FILE",
        help="write the tables there as well, in Markdown below a line that says this command, version and processor",
    )  # fmt: skip


def write_table(path, text: str, options) -> None:
    """Write what an option of :func:`add_table` asks for, if it does."""
    from ..experiments.tables import write_table

    if path:
        write_table(path, text, options.command_line)


def new_file(text: str) -> Path:
    """An option's value: a file in a folder that there is."""
    if not Path(text).parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {Path(text).parent}")
    return Path(text)
