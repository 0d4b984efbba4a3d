"""What command lines share: errors in one line, and no control characters from files."""

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
