"""What dgl-lowbit and dgl-lowbit-runtime need and ship; ``.ci/runtime`` installs them in either order."""

import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import dgl_lowbit
import numba_kernels
from dgl_lowbit._environment import check_kernels

ROOT = Path(__file__).parents[2]


def requirements(folder):
    """What a distribution needs, and what its extras need."""
    parser = ConfigParser()
    parser.read(ROOT / folder / "setup.cfg")

    def listed(text):
        return {line for line in text.splitlines() if line and not line.startswith("#")}

    extras = {name: listed(text) for name, text in parser["options.extras_require"].items()}
    return listed(parser["options"]["install_requires"]), extras


def test_the_runtime_needs_numpy_and_numba_and_nothing_that_dgl_lowbit_does_not():
    (needs, extras), (all_needs, all_extras) = requirements("runtime"), requirements(".")
    assert {need.split(">=")[0] for need in needs} == {"numpy", "numba"} and needs < all_needs
    assert extras["serve"] == all_extras["serve"] < all_extras["test"]


def test_both_are_of_one_release():
    assert numba_kernels.__version__ == dgl_lowbit.__version__


def test_kernels_of_another_release_are_refused(monkeypatch):
    check_kernels()
    monkeypatch.setattr("numba_kernels._version.__version__", "0.0.9")
    with pytest.raises(ImportError, match="needs the numba_kernels of the same release, found 0.0.9"):
        check_kernels()
    monkeypatch.setitem(sys.modules, "numba_kernels._version", None)
    with pytest.raises(ImportError, match="found none.*install dgl-lowbit again"):
        check_kernels()
