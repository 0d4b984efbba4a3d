"""Tutorials run on small settings, say something, and draw something."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import matplotlib.image
import numpy as np
import pytest
import torch

from dgl_lowbit import quant
from dgl_lowbit.nn import base

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "tutorials").glob("*.py"))
FAST = ("heterograph",)
SMALL = {
    "allocation": ("--epochs", "2", "--bits", "2"),
    "porting": ("--epochs", "2", "--bits", "2"),
    "post_training": ("--epochs", "2", "--steps", "5"),
    "graph_classification": ("--epochs", "2", "--graphs", "32"),
    "sampled_sage": ("--epochs", "2", "--nodes", "700"),
    "distributed_sage": ("--epochs", "2", "--nodes", "600", "--bits", "2"),
    "serving": ("--epochs", "2", "--repeats", "2"),
    "deep_gcn": ("--epochs", "2", "--layers", "4"),
    "link_prediction": ("--epochs", "2", "--large", "2000"),
}


def is_coloured(picture):
    """Whether more than a thousandth of a picture is neither white nor of a gray, as axes and text are."""
    channels = matplotlib.image.imread(picture)[..., :3]
    return np.mean(np.ptp(channels, -1) > 0.2) > 1e-3


@pytest.fixture
def pictures(monkeypatch, tmp_path):
    """Figures that are shown, as files."""
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    shown = []

    def show():
        for number in plt.get_fignums():
            shown.append(tmp_path / f"{len(shown)}.png")
            plt.figure(number).savefig(shown[-1])
        plt.close("all")

    monkeypatch.setattr(plt, "show", show)
    yield shown
    plt.close("all")


@pytest.mark.parametrize(
    "script",
    [pytest.param(s, id=s.stem, marks=() if s.stem in FAST else pytest.mark.slow) for s in SCRIPTS],
)
def test_tutorials_run_and_draw(script, small_planted, pictures, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), *SMALL.get(script.stem, ("--epochs", "2"))])
    # What scripts register is gone after them.
    with mock.patch.dict(base.LAYERS), mock.patch.dict(quant._QUANTIZERS), torch.random.fork_rng():
        runpy.run_path(str(script), run_name="__main__")
    assert re.search(r"^\|-+\|", capsys.readouterr().out, re.MULTILINE), "no table"
    assert pictures
    assert all(map(is_coloured, pictures))


def test_empty_axes_are_not_taken_for_a_picture(pictures):
    import matplotlib.pyplot as plt

    plt.plot([])
    plt.title("nothing")
    plt.show()
    assert not is_coloured(pictures[0])


@pytest.mark.slow
def test_a_tutorial_runs_from_the_shell(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tutorials/quickstart.py"), "--epochs", "2", "--bits", "4"],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "INT4, packed" in done.stdout


def test_every_tutorial_has_a_place_in_the_gallery_and_a_link():
    names = [script.stem for script in SCRIPTS]
    assert sorted(runpy.run_path(str(ROOT / "docs/gallery.py"))["ORDER"]) == names
    page = (ROOT / "docs/tutorials.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\(\.\./tutorials/(\w+)\.py\)", page)) == names
