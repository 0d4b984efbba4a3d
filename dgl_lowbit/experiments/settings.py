"""Settings of a script: from its command line, and the defaults where it runs as a notebook."""

from __future__ import annotations

import argparse
import sys


def settings(description: str | None = None, **defaults) -> argparse.Namespace:
    """An option ``--name`` for each default, of its type; a tuple takes several values.

    Parameters
    ----------
    description : str, optional
        For ``--help``; of several lines the first that is not empty.
    **defaults
        Names and what holds where the command line does not say.

    Returns
    -------
    argparse.Namespace
        In a notebook, whose command line is not the script's, the defaults.

    Examples
    --------
    >>> from unittest import mock
    >>> with mock.patch("sys.argv", ["script.py", "--graph", "cora", "--bits", "2", "4"]):
    ...     settings(graph="planted", epochs=100, bits=(8,))
    Namespace(graph='cora', epochs=100, bits=[2, 4])
    """
    if "ipykernel" in sys.modules:
        return argparse.Namespace(**defaults)
    first = next(filter(None, (description or "").splitlines()), None)
    parser = argparse.ArgumentParser(description=first)
    for name, value in defaults.items():
        kind = {"type": type(value[0]), "nargs": "+"} if isinstance(value, tuple) else {"type": type(value)}
        parser.add_argument(f"--{name}", default=value, help="default: %(default)s", **kind)
    return parser.parse_args()
