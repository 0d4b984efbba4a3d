"""What command lines share: examples in help, errors in one line, no control characters from files, tables."""

from __future__ import annotations

import argparse


class _Formatter(argparse.HelpFormatter):
    """Names the defaults of options, and leaves what stands on lines of its own, as examples do, as it is."""

    def _get_help_string(self, action):
        is_said = "default:" in action.help or action.nargs == 0 or action.default is None
        return action.help if is_said else f"{action.help}; default: %(default)s"

    def _fill_text(self, text, width, indent):
        return text if "\n" in text else super()._fill_text(text, width, indent)


class OneLineParser(argparse.ArgumentParser):
    """A parser of whole options, whose errors are one line on stderr, with exit status 2."""

    def __init__(self, *args, **options):
        super().__init__(*args, **{**options, "allow_abbrev": False})

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {printable(message)}; see {self.prog} --help\n")


def add_command(commands, name: str, examples: list[str], help: str, description: str | None = None):
    """Add a command to what ``add_subparsers`` returned, with examples at the end of its help; returns its parser."""
    epilog = "\n".join(["examples:", *(f"  {example}" for example in examples)])
    description = description or f"{help[0].upper()}{help[1:]}."
    return commands.add_parser(name, help=help, description=description, epilog=epilog, formatter_class=_Formatter)


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
    return "\n".join([table_head(header, widths), *(table_row(row, widths) for row in rows)])


def table_head(header: list[str], widths: list[int]) -> str:
    """The two lines that a table with columns of these widths begins with."""
    rule = "|" + "-" * (widths[0] + 2) + "|" + "".join("-" * (width + 1) + ":|" for width in widths[1:])
    return f"{table_row(header, widths)}\n{rule}"


def table_row(cells: list[str], widths: list[int]) -> str:
    """The line of a row, in columns of these widths."""
    first, *others = (str(cell) for cell in cells)
    padded = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))]
    return "| " + " | ".join(padded) + " |"
