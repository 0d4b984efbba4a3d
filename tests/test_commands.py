"""Help of both command lines: nothing is left unexplained, and every example is one."""

import argparse
import io
import shlex
from contextlib import redirect_stderr

import pytest

from dgl_lowbit import cli
from dgl_lowbit.progress import progress_bar
from numba_kernels import __main__ as runtime

PARSERS = {"dgl-lowbit": cli.parser, "python -m numba_kernels": runtime.parser}


def commands(parser):
    [subparsers] = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return subparsers


def cases():
    return [(program, name) for program, make in PARSERS.items() for name in commands(make()).choices]


@pytest.mark.parametrize(("program", "name"), cases())
def test_options_are_explained_and_examples_parse(program, name):
    parser = PARSERS[program]()
    command = commands(parser).choices[name]
    assert [action.dest for action in command._actions if not action.help] == []
    examples = [line.strip() for line in command.epilog.splitlines() if line.startswith("  ")]
    assert examples and all(example in command.format_help() for example in examples)
    for example in examples:
        words = shlex.split(example)
        while words and words[-2] == ">":
            words = words[:-2]
        arguments = words[len(program.split()) :]
        assert words[: len(program.split())] == program.split()
        assert parser.parse_args(arguments).command == name


@pytest.mark.parametrize("program", PARSERS)
def test_help_lists_commands_and_defaults(program):
    parser = PARSERS[program]()
    explained = {choice.dest for choice in commands(parser)._choices_actions if choice.help}
    assert explained == set(commands(parser).choices)
    for command in commands(parser).choices.values():
        text = " ".join(command.format_help().split())
        for action in command._actions:
            if action.nargs != 0 and action.default is not None:
                assert "default: " in text.partition(action.option_strings[0] + " ")[2]


def test_shells_complete_commands_and_options():
    shtab = pytest.importorskip("shtab")
    script = shtab.complete(cli.parser(), "bash")
    assert all(name in script for name in (*commands(cli.parser()).choices, "--overwrite", "--every-stage"))


def test_progress_is_lines_now_and_then_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr("dgl_lowbit.progress._SECONDS_A_LINE", 0)
    for leave in (False, True):
        with redirect_stderr(io.StringIO()) as log, progress_bar("INT2", "training", total=3, leave=leave) as bar:
            for _ in range(3):
                bar.set_postfix({"loss": "0.1"}, refresh=False)
                bar.update()
        lines = log.getvalue().splitlines()
        assert lines[-1].startswith("INT2: 100%") and "loss=0.1" in lines[-1]
        assert len(lines) <= 4 and all(map(str.strip, lines)) and "\r" not in log.getvalue()
    monkeypatch.undo()
    with redirect_stderr(io.StringIO()) as log, progress_bar(True, "training", total=1000) as bar:
        for _ in range(1000):
            bar.update()
    assert log.getvalue() == ""
