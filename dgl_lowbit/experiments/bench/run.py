"""Times works, and prints what came of it."""

from __future__ import annotations

import statistics
import time

import numba
import torch

from numba_kernels.kernels.limits import integer_peak, memory_bandwidth
from numba_kernels.run.runtime import launching

from ...report import table
from .machine import describe_machine, machine_line, say
from .requests import block_works, graph_works
from .work import SYNTHETIC, Work, check_names, gemm_works, model_works, spmm_works

MODEL_WORKS = ("gcn", "sage", "gat", "gatv2", "smp")
WORKS = ("spmm", "gemm", *MODEL_WORKS, "graphs", "blocks")
_CALLS_A_ROUND = 3
_FRESH_CALLS_A_ROUND = 30  # of arguments drawn anew, which vary


def run_bench(graphs=("20k",), works=WORKS, bits=(2, 4, 8), threads=None, rounds=3, seed=0, progress=False) -> dict:
    """Time packed codes against float32.

    Every function is called once to warm up and then three times, in as many rounds as asked for, one function after
    the other; its time is the median of all those calls.

    Parameters
    ----------
    graphs : tuple of str
        "20k", "170k", "500k" (skewed random graphs), or names of :func:`dgl_lowbit.experiments.data.load_graph`.
    works : tuple of str
        Some of "spmm", "gemm", "gcn", "sage", "gat", "gatv2", "smp", "graphs", "blocks"; sums alone, attention and
        sampled blocks on synthetic graphs, "smp" on others.
    bits : tuple of int
    threads : tuple of int, optional
        Default: one, and all.
    rounds, seed : int
    progress : bool
        Whether to say on stderr what is being timed.

    Returns
    -------
    dict
        ``machine``, ``limits`` (bandwidth in bytes/s, peak in operations/s, by thread count) and ``results``: for each
        function its ``work``, ``graph``, ``threads``, ``variant``, ``ms`` and ``ratio`` over the first of its work.

    Raises
    ------
    ValueError
        For unknown names, or more threads than Numba was started with.
    """
    check_names(graphs, works, WORKS)
    most = numba.config.NUMBA_NUM_THREADS
    threads = tuple(sorted({1, most})) if threads is None else tuple(threads)
    if not all(1 <= count <= most for count in threads):
        raise ValueError(f"threads must be between 1 and {most} (NUMBA_NUM_THREADS), got {threads}.")
    report = {"machine": describe_machine(), "limits": {}, "results": []}
    before = torch.get_num_threads()
    try:
        for count in threads:
            with launching(count):
                report["limits"][str(count)] = {"bandwidth": memory_bandwidth(), "peak": integer_peak()}
        for make in _makers(graphs, works, bits, seed):
            for work in make():
                for count in threads:
                    say(progress, f"{work.name}, {work.graph}, {count} thread{'s' * (count > 1)} …")
                    report["results"] += _time_work(work, count, rounds)
    finally:
        torch.set_num_threads(before)
    return report


def _makers(graphs, works, bits, seed):
    """Functions that make works, called one at a time, so that graphs do not stand side by side in memory."""
    if "gemm" in works:
        yield lambda: gemm_works(bits, seed)
    if "graphs" in works:
        yield lambda: graph_works(bits, seed)
    kinds = tuple(work for work in works if work in MODEL_WORKS)
    for name in graphs:
        if "spmm" in works and name in SYNTHETIC:
            yield lambda name=name: spmm_works(name, bits, seed)
        if kinds:
            yield lambda name=name: model_works(name, bits, kinds, seed)
        if "blocks" in works and name in SYNTHETIC:
            yield lambda name=name: block_works(name, bits, seed)


@torch.no_grad()
def _time_work(work: Work, threads: int, rounds: int) -> list[dict]:
    torch.set_num_threads(threads)
    seconds = {variant: [] for variant in work.functions}
    draw = work.fresh or tuple
    calls = _CALLS_A_ROUND if work.fresh is None else _FRESH_CALLS_A_ROUND
    with launching(threads):
        for _ in range(rounds):
            for variant, function in work.functions.items():
                if seconds[variant] is None:
                    continue
                try:
                    function(*draw())
                except (RuntimeError, NotImplementedError, ValueError):  # not every build knows every dtype
                    if variant.startswith("INT") or variant.endswith("float32"):
                        raise
                    seconds[variant] = None
                    continue
                for _ in range(calls):
                    arguments = draw()
                    start = time.perf_counter()
                    function(*arguments)
                    seconds[variant].append(time.perf_counter() - start)
    medians = {variant: statistics.median(times) for variant, times in seconds.items() if times}
    baseline = next(iter(medians.values()))
    return [
        {
            "work": work.name, "graph": work.graph, "nodes": work.nodes, "edges": work.edges, "threads": threads,
            "variant": variant, "ms": 1e3 * median, "ratio": baseline / median,
            "bytes": work.moved.get(variant), "operations": work.operations.get(variant),
        }
        for variant, median in medians.items()
    ]  # fmt: skip


def format_bench(report: dict) -> str:
    """The report as Markdown tables: times and ratios, then what share of the machine's limits was reached."""
    lines = [machine_line(report["machine"]), ""]
    groups = {}
    for row in report["results"]:
        groups.setdefault((row["work"], row["graph"], row["threads"]), {})[row["variant"]] = row
    for family, is_member in (("graphs", lambda key: key[0] != "GEMM"), ("products", lambda key: key[0] == "GEMM")):
        members = {key: rows for key, rows in groups.items() if is_member(key)}
        if members:
            variants = list(dict.fromkeys(variant for rows in members.values() for variant in rows))
            header = ["work", "graph" if family == "graphs" else "shape", "threads", *variants]
            lines += [table(header, [_cells(key, rows, variants) for key, rows in members.items()]), ""]
    return "\n".join([*lines, _format_limits(report)])


def _cells(key, rows, variants):
    cells = list(map(str, key))
    for variant in variants:
        row = rows.get(variant)
        if row is None:
            cells.append("-")
        elif row is next(iter(rows.values())):
            cells.append(f"{row['ms']:.{1 if row['ms'] >= 10 else 2}f} ms")
        else:
            cells.append(f"{row['ratio']:.1f}x")
    return cells


def _format_limits(report):
    rows = []
    for row in report["results"]:
        limit = report["limits"][str(row["threads"])]
        name = [f"{row['work']} {row['variant']}", row["graph"], row["threads"], f"{row['ms']:.1f}"]
        if row["bytes"]:
            rate = row["bytes"] / row["ms"] * 1e3
            share = f"{rate / 1e9:.0f} GB/s, {100 * rate / limit['bandwidth']:.0f} %"
            rows.append([*name, f"{row['bytes'] / row['edges']:.0f}", share])
        elif row["operations"]:
            rate = row["operations"] / row["ms"] * 1e3
            rows.append([*name, "-", f"{rate / 1e9:.0f} GOP/s, {100 * rate / limit['peak']:.0f} %"])
    limits = [
        f"{threads} thread{'s' * (threads != '1')} read {limit['bandwidth'] / 1e9:.0f} GB/s from memory and do "
        f"{limit['peak'] / 1e9:.0f} GOP/s in 8-bit dot products."
        for threads, limit in report["limits"].items()
    ]
    if not rows:
        return "\n".join(limits)
    header = ["work", "graph", "threads", "ms", "bytes an edge", "of the limit"]
    return "\n".join([table(header, rows), "", *limits])
