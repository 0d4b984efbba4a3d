"""Tables of figures in files, which say what wrote them."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from numba_kernels.files import replace_file

from .._version import __version__
from .bench.machine import processor_name

_HEAD = re.compile(r"<!-- (?P<command>.+) \| dgl-lowbit (?P<version>\S+) \| (?P<processor>.+) -->\n\n")
# "85.1 ± 0.3", "22.2x", "833.4 ms", "-"
_CELL = re.compile(r"(?P<value>[-+]?\d[\d,]*(?:\.\d+)?)(?: ± (?P<spread>[\d.]+))?(?: ?(?P<unit>x|ms|%))?")


class TableFile(NamedTuple):
    """A file of :func:`write_table`: the command that wrote it, on what, and its Markdown."""

    command: str
    version: str
    processor: str
    text: str


def write_table(path, text: str, command: list[str]) -> Path:
    """Write Markdown to ``path``, below a line that says the command, the version and the processor.

    Parameters
    ----------
    path : path
        The file; it is replaced whole or not at all.
    text : str
        Tables, and what is said of them.
    command : list of str
        The words of the command line that is writing.

    Returns
    -------
    pathlib.Path
    """
    head = f"<!-- {shlex.join(command)} | dgl-lowbit {__version__} | {processor_name()} -->"
    return replace_file(path, f"{head}\n\n{text.strip()}\n".encode())


def show(text: str, path=None) -> None:
    """Print a table of a script, and write it to ``path`` if there is one, with the script's command line."""
    print(text)
    if path is not None:
        write_table(path, text, ["python", *sys.argv])


def read_table(path) -> TableFile:
    """What :func:`write_table` wrote.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it does not begin with what such files begin with.
    """
    content = Path(path).read_text(encoding="utf-8")
    head = _HEAD.match(content)
    if head is None:
        raise ValueError(
            f"{path} is no table file: it does not begin with <!-- COMMAND | dgl-lowbit … | PROCESSOR -->."
        )
    return TableFile(*head.groups(), content[head.end() :].rstrip("\n"))


def first_rows(text: str) -> list[dict[str, str]]:
    """Rows of the first Markdown table of ``text``, cells by header.

    Raises
    ------
    ValueError
        When there is none.

    Examples
    --------
    >>> first_rows("| bits | faster |\\n|---|---:|\\n| INT2 | 9.0x |\\n")
    [{'bits': 'INT2', 'faster': '9.0x'}]
    """
    header, _, *rows = (
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in first_table(text).split("\n")
    )
    return [dict(zip(header, row)) for row in rows]


def first_table(text: str) -> str:
    """The first Markdown table of ``text``.

    Raises
    ------
    ValueError
        When there is none.
    """
    table = re.search(r"^\|.*\n\|[-:| ]+\n(?:\|.*(?:\n|\Z))+", text, re.MULTILINE)
    if table is None:
        raise ValueError("there is no table.")
    return table[0].strip()


def digest(*texts: str) -> str:
    """What tells tables from others, by which a picture says what it was drawn of."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def figures(cell: str) -> tuple[float, float, str] | None:
    """Value, spread and unit of a cell; None where it says no number.

    Examples
    --------
    >>> figures("85.1 ± 0.3"), figures("22.2x"), figures("-")
    ((85.1, 0.3, ''), (22.2, 0.0, 'x'), None)
    """
    found = _CELL.fullmatch(cell)
    if found is None:
        return None
    return float(found["value"].replace(",", "")), float(found["spread"] or 0), found["unit"] or ""
