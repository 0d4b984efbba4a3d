"""Steps of training, low-bit against float32, both sides in one process on the same threads."""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import dgl
import numba
import torch
import torch.nn.functional as F
from torch import nn

from ...calibration import calibrate
from ...config import QuantConfig
from ...convert import quantize
from ...report import table
from ...training.options import parameter_groups
from ..data import load_graph, num_classes
from ..models import GCN, GraphSAGE
from .machine import describe_machine, machine_line, say
from .work import SYNTHETIC, check_names, skewed_graph

TRAINING_WORKS = ("gcn", "sage", "gat", "blocks")
_FEATS, _CLASSES = 128, 40
_FANOUT, _SEEDS_A_BLOCK = 10, 1000
_STEPS_A_ROUND = 5
# What a part of a step is called in the profile; a part is the outermost of these that an operation runs in.
_PARTS = {
    "quantisers": ("CenteredCodes", "_Scaled"),
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::_sparse_mm", "_Product"),
    "sums": ("GSpMM", "GSDDMM", "EdgeSoftmax", "_SumOfCodes"),
}


@dataclass
class _Training:
    """A float model and what a step of it is given: ``draw()`` makes arguments, nodes' labels and where they count."""

    name: str
    graph: str
    model: nn.Module
    example: tuple
    draw: Callable[[], tuple[tuple, torch.Tensor]]


class TwoHeads(nn.Module):
    """Two ``dgl.nn.GATConv``, 8 heads of 16 columns with ELU, then one head a class; (N, in_feats) to (N, classes)."""

    def __init__(self, in_feats, num_classes):
        super().__init__()
        self.conv1, self.conv2 = dgl.nn.GATConv(in_feats, 16, 8), dgl.nn.GATConv(128, num_classes, 1)

    def forward(self, graph, feat):
        return self.conv2(graph, F.elu(self.conv1(graph, feat).flatten(1))).mean(1)


def run_training_bench(
    graphs=("100k", "planted"), works=TRAINING_WORKS, bits=(8, 4, 2), threads=None, rounds=3, seed=0, progress=False
) -> dict:
    """Time steps of training: forward, cross-entropy, backward and Adam's step.

    The float model and its calibrated low-bit copies take steps in turn, five a round, after two to warm up; times are
    medians. Memory and the shares of parts come from the profile of one step more.

    Parameters
    ----------
    graphs : tuple of str
        "20k", "100k", "170k", "500k" (skewed random graphs, 128 features), or names of
        :func:`dgl_lowbit.experiments.data.load_graph`, whose features are taken dense.
    works : tuple of str
        Some of "gcn", "sage" (two layers, 128 hidden units on random graphs, 64 on others), "gat" (8 heads of 16),
        and "blocks", SAGE sampled from a random graph for 1,000 nodes with fan-outs 10 and 10.
    bits : tuple of int
    threads : tuple of int, optional
        Default: one, and all.
    rounds, seed : int
    progress : bool
        Whether to say on stderr what is being timed.

    Returns
    -------
    dict
        ``machine`` and ``results``: for each variant its ``work``, ``graph``, ``threads``, ``ms`` and ``cpu_ms`` of a
        step, ``ratio`` and ``cpu_ratio`` over the float step, ``peak_bytes`` that a step allocates at most, and
        ``shares`` of its parts.

    Raises
    ------
    ValueError
        For unknown names, or fewer threads than one.
    """
    check_names(graphs, works, TRAINING_WORKS)
    threads = tuple(sorted({1, numba.config.NUMBA_NUM_THREADS})) if threads is None else tuple(threads)
    if any(count < 1 for count in threads):
        raise ValueError(f"threads must be at least 1, got {threads}.")
    report: dict[str, Any] = {"machine": describe_machine(), "results": []}
    before = torch.get_num_threads()
    try:
        for name in graphs:
            for work in _trainings(name, works, seed):
                for count in threads:
                    say(progress, f"{work.name}, {work.graph}, {count} thread{'s' * (count > 1)} …")
                    torch.set_num_threads(count)
                    report["results"] += _time_training(work, bits, count, rounds)
    finally:
        torch.set_num_threads(before)
    return report


def _trainings(name, works, seed):
    torch.manual_seed(seed)
    if name in SYNTHETIC:
        graph = dgl.add_self_loop(skewed_graph(*SYNTHETIC[name], seed)).long()
        graph.ndata["feat"] = torch.randn(graph.num_nodes(), _FEATS)
        graph.ndata["label"] = torch.randint(_CLASSES, (graph.num_nodes(),))
        classes, hidden = _CLASSES, 128
    else:
        graph = dgl.add_self_loop(load_graph(name, seed))
        classes, hidden = num_classes(graph), 64
    graph.create_formats_()
    feat, label = graph.ndata["feat"], graph.ndata["label"]
    makers = {
        "gcn": ("2-layer GCN", lambda: GCN(feat.shape[1], classes, hidden, dropout=0)),
        "sage": ("2-layer SAGE", lambda: GraphSAGE(feat.shape[1], classes, hidden, dropout=0)),
        "gat": ("2-layer GAT 8×16", lambda: TwoHeads(feat.shape[1], classes)),
    }
    for kind in works:
        if kind in makers:
            title, make = makers[kind]
            yield _Training(title, name, make(), (graph, feat), lambda: ((graph, feat), label))
    if "blocks" in works and name in SYNTHETIC:
        sampler = dgl.dataloading.NeighborSampler([_FANOUT, _FANOUT])

        def draw():
            seeds = torch.randperm(graph.num_nodes())[:_SEEDS_A_BLOCK]
            sources, seeds, blocks = sampler.sample_blocks(graph, seeds)
            return (blocks, feat[sources]), label[seeds]

        yield _Training("2-layer SAGE, sampled", name, makers["sage"][1](), draw()[0], draw)


def _time_training(work: _Training, bits: tuple, threads: int, rounds: int) -> list[dict]:
    steps = {"float32": _stepper(copy.deepcopy(work.model), work.draw)}
    for b in bits:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            low_bit = calibrate(quantize(work.model, QuantConfig(b), *work.example), *work.example)
        steps[f"INT{b}"] = _stepper(low_bit, work.draw)
    seconds = {variant: [] for variant in steps}
    for number in range(2 + rounds * _STEPS_A_ROUND):
        for variant, step in steps.items():
            start = time.perf_counter(), time.process_time()
            step()
            took = time.perf_counter() - start[0], time.process_time() - start[1]
            seconds[variant] += [took] * (number >= 2)
    medians = {variant: tuple(map(statistics.median, zip(*taken))) for variant, taken in seconds.items()}
    base = medians["float32"]
    return [
        {
            "work": work.name, "graph": work.graph, "threads": threads, "variant": variant,
            "ms": 1e3 * wall, "cpu_ms": 1e3 * cpu, "ratio": wall / base[0], "cpu_ratio": cpu / base[1],
            **_profiled(steps[variant]),
        }
        for variant, (wall, cpu) in medians.items()
    ]  # fmt: skip


def _stepper(model, draw):
    model.train()
    optimizer = torch.optim.Adam(parameter_groups(model), lr=0.01)

    def step():
        arguments, label = draw()
        loss = F.cross_entropy(model(*arguments), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _profiled(step) -> dict:
    """What a step allocates at most, and the share of its time that each part of it takes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        start = time.perf_counter()
        step()
        microseconds = 1e6 * (time.perf_counter() - start)
    shares = dict.fromkeys(_PARTS, 0.0)
    for event in profile.events():
        part = _part_of(event)
        if part is not None:
            shares[part] += event.self_cpu_time_total / microseconds
    return {"peak_bytes": _peak_bytes(profile), "shares": {**shares, "rest": 1 - sum(shares.values())}}


def _peak_bytes(profile):
    """Most of what torch held at a time of what it allocated while it was watched."""
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns() if hasattr(event, "start_ns") else event.start_us())
    return max(accumulate((event.nbytes() for event in changes), initial=0))


def _part_of(event):
    part = None
    while event is not None:
        part = next((own for own, names in _PARTS.items() if event.name.startswith(names)), part)
        event = event.cpu_parent
    return part


def format_training_bench(report: dict) -> str:
    """The report as a Markdown table."""
    header = ["step of training", "graph", "threads", "", "steps/s", "time", "CPU time", "peak MiB", "memory", *_PARTS]
    rows, base = [], {}
    for row in report["results"]:
        base = row if row["variant"] == "float32" else base
        rows.append([
            row["work"], row["graph"], row["threads"], row["variant"], f"{1e3 / row['ms']:.3g}",
            f"{row['ratio']:.2f}x", f"{row['cpu_ratio']:.2f}x", f"{row['peak_bytes'] / 2**20:.1f}",
            f"{row['peak_bytes'] / base['peak_bytes']:.2f}x",
            *(f"{100 * row['shares'][part]:.0f} %" for part in _PARTS),
        ])  # fmt: skip
    return f"{machine_line(report['machine'])}\n\n{table(header, rows)}"
