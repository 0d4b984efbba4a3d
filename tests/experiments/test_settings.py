import sys
import types

import pytest

from dgl_lowbit.experiments.settings import settings


def given(monkeypatch, *words, **defaults):
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    return vars(settings("What it does\n\nMore.", **defaults))


def test_options_have_the_types_of_their_defaults(monkeypatch):
    given_words = ("--epochs", "7", "--bits", "2", "4", "--rate", "0.5")
    found = given(monkeypatch, *given_words, epochs=3, bits=(8,), rate=1.0, graph="planted")
    assert found == {"epochs": 7, "bits": [2, 4], "rate": 0.5, "graph": "planted"}


@pytest.mark.parametrize("words", [("--epoch", "many"), ("--unknown", "1"), ("left",)])
def test_what_is_not_an_option_ends_the_script(words, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        given(monkeypatch, *words, epochs=3)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_help_says_what_the_script_does_and_its_defaults(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        given(monkeypatch, "--help", epochs=3)
    said = capsys.readouterr().out
    assert "What it does" in said
    assert "default: 3" in said


def test_a_notebook_has_the_defaults(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    assert given(monkeypatch, "-f", "kernel.json", epochs=3, bits=(8, 4)) == {"epochs": 3, "bits": (8, 4)}
