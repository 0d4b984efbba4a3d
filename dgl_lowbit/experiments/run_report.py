"""One page about what ``dgl-lowbit train`` kept: accuracy, size, speed, codes, bounds, and what to try next."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any, NamedTuple

import dgl
import jinja2

from numba_kernels.files import replace_file

from .._version import __version__
from ..deploy import load
from ..diagnose import diagnose
from ..figures import content, draw_codes  # says what to install where matplotlib is missing
from ..training import History, accuracy
from ..training.identity import graph_identity
from ..training.plots import draw_history
from ..training.resume import Checkpoint
from ..verdicts import advise, judge
from .bench.machine import processor_name
from .checkpoint import RunFiles, load_checkpoint
from .data import load_graph
from .facts import Facts
from .models import MODELS
from .recipes import build
from .timing import common_threads, median_seconds

_PAGE = Path(__file__).with_name("run_report.html")
_AS_GOOD = 0.005  # share of validation accuracy below float32 up to which a low-bit model is as good
_VIOLATION = 0.05  # share over a bound of smoothness beyond which it is exceeded
_FEWER_BITS = {8: 4, 4: 2, 3: 2}


class Picture(NamedTuple):
    """A drawing as the page holds it: its bytes as text, its size in pixels, and what it shows."""

    source: str
    width: int
    height: int
    text: str

    @classmethod
    def of(cls, figure, text: str) -> Picture:
        """An SVG of a figure."""
        encoded = base64.b64encode(content(figure)).decode()
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        return cls(f"data:image/svg+xml;base64,{encoded}", width, height, text)


def write_report(folder, path=None, speed: bool = False) -> Path:
    """Write a page about the runs in a folder; see ``dgl-lowbit report``.

    Parameters
    ----------
    folder : path
        What ``dgl-lowbit train --output`` wrote to.
    path : path, optional
        The page. Default: ``report.html`` in the folder.
    speed : bool
        Whether to time the packed model against the float one, here and now.

    Returns
    -------
    pathlib.Path
        Of the page.

    Raises
    ------
    ValueError
        When the folder holds no run of ``dgl-lowbit train``, or none that is finished.
    """
    page = render([describe_run(files, speed) for files in finished_runs(folder)])
    return replace_file(path or Path(folder) / "report.html", page.encode())


def render(runs: list[dict]) -> str:
    """The page about what :func:`describe_run` says of runs."""
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = page.from_string(_PAGE.read_text(encoding="utf-8"))
    return template.render(runs=runs, version=__version__, processor=processor_name())


def finished_runs(folder) -> list[RunFiles]:
    """Files of each finished run in a folder, sorted by name.

    Raises
    ------
    ValueError
        When there is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; report takes the DIR of dgl-lowbit train --output DIR.")
    begun = RunFiles.begun_in(folder)
    done = [files for files in begun if files.checkpoint.is_file() and files.packed.is_file()]
    if begun and not done:
        raise ValueError(
            f"{folder} holds no finished run of dgl-lowbit train: {begun[0].name} is that of a demo, or is to go on "
            "with train --resume."
        )
    if not done:
        raise ValueError(f"{folder} holds no run; report takes the DIR of dgl-lowbit train --output DIR.")
    return done


def describe_run(files: RunFiles, speed: bool) -> dict[str, Any]:
    """What the page says of one run."""
    stages = Checkpoint(files.training, resume=True).stages
    histories = {name: History(saved["epochs"], saved["best_epoch"]) for name, saved in stages.items()}
    model, _ = load_checkpoint(files.checkpoint)
    packed = load(files.packed)
    facts = Facts.of(packed.info)
    graph = load_graph(facts.graph, facts.seed)
    graph = dgl.add_self_loop(graph) if facts.self_loops else graph
    feat = graph.ndata["feat"]
    rows = diagnose(model, graph, feat)
    state = stages["float32"]["best_state"]
    bounds = histories[list(stages)[-1]].best.get("smoothness", [])
    return {
        "name": files.name,
        "bits": list(stages)[-1],
        "model": facts.model,
        "graph": facts.described,
        "same_graph": facts.is_same(graph_identity(graph)) is not False,
        "stages": [_stage(name, history) for name, history in histories.items()],
        "packed": accuracy(packed(graph, feat), graph),
        "bytes": {"float32": sum(part.nbytes for part in state.values()), "packed": files.packed.stat().st_size},
        "speed": _speed(facts, state, graph, packed) if speed else None,
        "quantizers": [{**row, "verdict": judge(row)} for row in rows],
        "codes": Picture.of(draw_codes(rows), "Share of each code and signal-to-noise ratio, a row a quantiser"),
        "courses": [
            Picture.of(draw_history(h), f"Loss and accuracy of {name} by epoch") for name, h in histories.items()
        ],
        "bounds": bounds,
        "advice": advice_of(histories, rows, bounds),
    }


def _stage(name, history):
    best = history.best
    return {
        "name": name, "test": best["test_accuracy"], "val": best["val_accuracy"], "epoch": history.best_epoch + 1,
        "epochs": len(history.epochs),
    }  # fmt: skip


def _speed(facts, state, graph, packed):
    """Milliseconds of the float model and of the packed one, on as many threads."""
    name = next(name for name, cls in MODELS.items() if cls.__name__ == facts.model)
    model = build(name, graph, facts.seed).eval()
    model.load_state_dict(state)
    seconds = median_seconds(graph, graph.ndata["feat"], model, packed)
    return {"float32": 1e3 * seconds[0], "packed": 1e3 * seconds[1], "threads": common_threads()}


def advice_of(histories: dict, rows: list[dict], bounds: list[dict]) -> list[str]:
    """What to try next, by validation accuracies, the course of training, codes and bounds.

    Parameters
    ----------
    histories : dict of str to History
        By stage, the float one first and the low-bit one last.
    rows : list of dict
        Of :func:`dgl_lowbit.diagnose`.
    bounds : list of dict
        Of :meth:`dgl_lowbit.SmoothnessRegularizer.report`.

    Returns
    -------
    list of str
        Sentences.
    """
    stages = list(histories.items())
    (_, first), (name, last) = stages[0], stages[-1]
    lost = first.best["val_accuracy"] - last.best["val_accuracy"]
    bits = re.fullmatch(r"INT(\d)", name)
    fewer = _FEWER_BITS.get(int(bits[1])) if bits else None
    found = []
    if lost > _AS_GOOD:
        found.append(f"In validation {name} is {100 * lost:.1f} points below float32. What loses most:")
        found += advise(rows) or ["No quantiser stands out; give all more bits, or allocate them under a budget."]
    else:
        if fewer:
            found.append(f"In validation {name} is as good as float32: try fewer bits, train --bits {fewer}.")
        if any(judge(row).grade == "poor" for row in rows):
            found.append("Rows that are poor lose nothing that validation accuracy shows; leave them.")
    for stage, history in stages:
        count = len(history.epochs)
        if history.best_epoch >= 0.9 * count - 1:
            found.append(f"The best epoch of {stage} is among its last: train longer, --epochs {2 * count}.")
    broken = [row["layer"] for row in bounds if row["violation"] > _VIOLATION]
    if broken:
        share = f"{100 * _VIOLATION:.0f} %"
        found.append(f"Bounds are exceeded by more than {share} in {', '.join(broken)}: raise multiplier_lr.")
    return found or ["Nothing stands out: the packed model can be used as it is."]
