"""Pictures of reports; needs the plot extra (matplotlib)."""

from __future__ import annotations

import io
from pathlib import Path

try:
    import matplotlib
except ImportError as error:
    raise ImportError("pictures need matplotlib; pip install 'dgl-lowbit[plot]'.") from error

from matplotlib.figure import Figure

_COLORS = {"INT2": "#0b6e4f", "INT4": "#3fa34d", "INT8": "#a3c585", "DGL float32": "#444444", "DGL bfloat16": "#9a9a9a"}


def plot_bench(report: dict, path) -> Path:
    """Ratios over float32 as bars, and the time of a sum over neighbours against edges, on logarithmic axes.

    Parameters
    ----------
    report : dict
        From :func:`dgl_lowbit.bench.run_bench`.
    path : str or Path
        A picture file; its ending tells the format.
    """
    threads = max(row["threads"] for row in report["results"])
    rows = [row for row in report["results"] if row["threads"] == threads]
    groups = {}
    for row in rows:
        groups.setdefault(f"{row['work']}, {row['graph']}", {})[row["variant"]] = row
    variants = [name for name in dict.fromkeys(row["variant"] for row in rows) if name.startswith("INT")]
    figure = Figure(figsize=(12, 1.5 + 0.42 * len(groups)), layout="constrained")
    bars, times = figure.subplots(1, 2, width_ratios=(3, 2))
    height = 0.8 / max(len(variants), 1)
    for n, variant in enumerate(variants):
        ratios = [group[variant]["ratio"] if variant in group else 0 for group in groups.values()]
        places = [place + (n - (len(variants) - 1) / 2) * height for place in range(len(groups))]
        bars.barh(places, ratios, height, label=variant, color=_COLORS.get(variant))
    bars.axvline(1, color="black", linewidth=0.8)
    bars.set_yticks(range(len(groups)), groups)
    bars.invert_yaxis()
    bars.set_xlabel(f"times faster than float32, {threads} thread{'s' * (threads > 1)}")
    bars.legend()
    for variant in ("DGL float32", "DGL bfloat16", *variants):
        points = sorted(
            (row["edges"], row["ms"]) for row in rows if row["variant"] == variant and row["work"] == "SpMM → packed"
        )
        if points:
            times.loglog(*zip(*points), marker="o", label=variant, color=_COLORS.get(variant))
    times.set_xlabel("edges")
    times.set_ylabel("ms, sum of 256 columns over neighbours")
    if times.lines:
        times.legend()
    return _save(figure, path)


def _save(figure, path) -> Path:
    from .deploy import replace_file

    content = io.BytesIO()
    ending = Path(path).suffix.lstrip(".") or "png"
    with matplotlib.rc_context({"svg.hashsalt": "dgl-lowbit"}):
        figure.savefig(content, format=ending, dpi=120)
    return replace_file(path, content.getvalue())
