"""What command lines share: errors in one line, no control characters from files, tables."""

from __future__ import annotations

import argparse


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line on stderr, with exit status 2."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {printable(message)}; see {self.prog} --help\n")


def printable(text) -> str:
    r"""``text`` with what is no printable character escaped, as the sequences that steer a terminal are.

    >>> printable("a\x1b[31mb\n\u202e")
    'a\\x1b[31mb\\n\\u202e'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def one_line(error: BaseException) -> str:
    """The message of an error, on one line."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def count(text: str) -> int:
    """An option's value: a whole number of at least 1."""
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with aligned columns: the first to the left, the others to the right.

    >>> print(table(["bits", "bytes"], [["INT2", "9"]]))
    | bits | bytes |
    |------|------:|
    | INT2 |     9 |
    """
    widths = [max(len(str(cell)) for cell in column) for column in zip(header, *rows)]

    def line(cells):
        first, *others = (str(cell) for cell in cells)
        padded = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "-" * (widths[0] + 2) + "|" + "".join("-" * (width + 1) + ":|" for width in widths[1:])
    return "\n".join([line(header), rule, *(line(row) for row in rows)])
