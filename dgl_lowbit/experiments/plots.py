"""Pictures of reports; needs the plot extra (matplotlib)."""

from __future__ import annotations

import statistics
from pathlib import Path

from ..figures import GREY, course, draw_codes, drawing, save  # first, for it says what to install

from matplotlib.figure import Figure  # isort: skip

from ..allocation import MEASURES
from .study.tables import file_stem, reference

_COLORS = {"INT2": "#0b6e4f", "INT4": "#3fa34d", "INT8": "#a3c585", "DGL float32": GREY, "DGL bfloat16": "#b9a06a"}


@drawing
def plot_bench(report: dict, path) -> Path:
    """Ratios over float32 as bars, and the time of a sum over neighbours against edges, on logarithmic axes.

    Parameters
    ----------
    report : dict
        From :func:`dgl_lowbit.experiments.bench.run_bench`.
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
    bars.axvline(1, color=GREY, linewidth=0.8)
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
    return save(figure, path)


@drawing
def plot_study(report: dict, folder) -> list[Path]:
    """The pictures of a study; see :func:`dgl_lowbit.experiments.study.run_study`."""
    draw = {
        "accuracy": _plot_accuracy, "ablation": _plot_ablation, "bounds": _plot_bounds, "depth": _plot_depth,
        "schedules": _plot_schedules, "allocate": _plot_allocate, "relatives": _plot_relatives,
    }  # fmt: skip
    stem = file_stem(report["study"], report["settings"])
    figures = {stem: draw[report["study"]](report["groups"]), **_plot_codes(report["groups"])}
    return [save(figure, Path(folder) / f"{name}.png") for name, figure in figures.items()]


def _plot_schedules(groups):
    """Test accuracy against seconds of the low-bit stage, a panel a graph and a point a way of training."""
    graphs = list(dict.fromkeys(group["graph"] for group in groups))
    figure = Figure(figsize=(6 * len(graphs), 4), layout="constrained")
    for ax, graph in zip(figure.subplots(1, len(graphs), squeeze=False)[0], graphs):
        for group in groups:
            if group["graph"] == graph and group["label"] != "float32":
                seconds = statistics.mean(run["seconds"] for run in group["runs"])
                mean, spread = _tests(group)
                ax.errorbar(seconds, mean, spread, marker="o", capsize=3)
                ax.annotate(f"{group['setting']}, {group['label']}", (seconds, mean), fontsize=7)
        ax.set_xlabel("seconds")
        ax.set_ylabel("test accuracy in %")
        ax.set_title(graph)
    return figure


def _plot_allocate(groups):
    """KL untrained and test accuracy against what bits cost, a row a graph, chosen and the same everywhere."""
    graphs = list(dict.fromkeys(group["graph"] for group in groups))
    figure = Figure(figsize=(11, 4 * len(graphs)), layout="constrained")
    for axes, graph in zip(figure.subplots(len(graphs), 2, squeeze=False), graphs):
        lines: dict[str, list] = {}
        for group in groups:
            if group["graph"] == graph and "cost" in group["runs"][0]:
                way, comma, _ = group["label"].partition(", ")
                way = way if comma else "the same bits everywhere"
                lines.setdefault(f"{group['setting']}, {way}", []).append(group)
        for label, points in lines.items():
            measure = points[0]["runs"][0]["measure"]
            points.sort(key=lambda group: _mean_cost(group, measure))
            costs = [_mean_cost(group, measure) for group in points]
            axes[0].plot(
                costs, [statistics.mean(run["kl"] for run in g["runs"]) for g in points], marker="o", label=label
            )
            axes[1].errorbar(costs, *zip(*map(_tests, points)), marker="o", capsize=3, label=label)
            for ax, name in zip(axes, ("KL(float ‖ low-bit), untrained", "test accuracy in %")):
                ax.set(xscale="log", xlabel=MEASURES[measure], ylabel=name, title=graph)
                ax.legend()
        axes[0].set_yscale("log")
    return figure


def _mean_cost(group, measure):
    return statistics.mean(run["cost"][measure] for run in group["runs"])


def _tests(group):
    values = [100 * run["test"] for run in group["runs"]]
    return statistics.mean(values), statistics.pstdev(values)


def _plot_accuracy(groups):
    """Test accuracy against bits, a panel a graph and a line a model."""
    graphs = list(dict.fromkeys(group["graph"] for group in groups))
    figure = Figure(figsize=(5 * len(graphs), 4), layout="constrained")
    widths = {"INT2": 0, "INT4": 1, "INT8": 2, "float32, second phase": 3}
    for ax, graph in zip(figure.subplots(1, len(graphs), squeeze=False)[0], graphs):
        for model in dict.fromkeys(group["setting"] for group in groups if group["graph"] == graph):
            chosen = [g for g in groups if (g["graph"], g["setting"]) == (graph, model) and g["label"] in widths]
            points = sorted((widths[group["label"]], *_tests(group)) for group in chosen)
            places, means, spreads = zip(*points)
            ax.errorbar(places, means, spreads, marker="o", capsize=3, label=model)
        ax.set_xticks(range(4), ["2", "4", "8", "32"])
        ax.set_xlabel("bits")
        ax.set_ylabel("test accuracy in %")
        ax.set_title(graph)
        ax.legend()
    return figure


def _plot_ablation(groups):
    figure = Figure(figsize=(8, 1 + 0.4 * len(groups)), layout="constrained")
    ax = figure.subplots()
    means, spreads = zip(*map(_tests, groups))
    ax.barh(range(len(groups)), means, xerr=spreads, color=_COLORS["INT4"])
    ax.set_yticks(range(len(groups)), [f"{group['setting']}, {group['label']}" for group in groups])
    ax.invert_yaxis()
    ax.set_xlim(min(means) - 5, max(means) + 2)
    ax.set_xlabel("test accuracy in %")
    return figure


def _plot_relatives(groups):
    """Packed accuracy of each variant, a panel a graph, and that of the float model as a line through its setting."""
    by_graph = {
        graph: [g for g in groups if g["graph"] == graph] for graph in dict.fromkeys(g["graph"] for g in groups)
    }
    most = max(map(len, by_graph.values()))
    figure = Figure(figsize=(6 * len(by_graph), 1 + 0.3 * most), layout="constrained")
    for ax, (graph, own) in zip(figure.subplots(1, len(by_graph), squeeze=False)[0], by_graph.items()):
        low_bit = [group for group in own if "packed" in group["runs"][0]]
        for place, group in enumerate(low_bit):
            values = [100 * run["packed"] for run in group["runs"]]
            mean, spread = statistics.mean(values), statistics.pstdev(values)
            ax.errorbar(mean, place, xerr=spread, marker="o", capsize=3, color=_COLORS["INT2"])
            ax.plot([_tests(reference(group, own))[0]] * 2, [place - 0.5, place + 0.5], color=_COLORS["DGL float32"])
        ax.set_yticks(range(len(low_bit)), [f"{group['setting']}, {group['label']}" for group in low_bit], fontsize=7)
        ax.invert_yaxis()
        ax.set_xlabel("test accuracy in %, packed (bars: float32)")
        ax.set_title(graph)
    return figure


def _plot_bounds(groups):
    """Violation and multiplier, of seed 0's float models, against the epoch: a row a setting."""
    chosen = [group for group in groups if group["label"] == "float32"]
    figure = Figure(figsize=(10, 2.4 * len(chosen)), layout="constrained")
    for axes, group in zip(figure.subplots(len(chosen), 2, squeeze=False), chosen):
        for ax, key in zip(axes, ("violation", "multiplier")):
            course(ax, group["runs"][0][key], key)
            ax.set_title(f"{group['graph']}, {group['setting']}")
            ax.set_xlabel("epoch")
    return figure


def _plot_depth(groups):
    """Energy and collapse gauge against the layer, means over seeds of the float models of the first depth."""
    first = min(group["layers"] for group in groups)
    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, key in zip(axes, ("energy", "gauge")):
        for group in groups:
            if group["layers"] != first or group["label"] not in ("float32", "INT2, every stage"):
                continue
            layers = zip(*([row[key] for row in run["layers"]] for run in group["runs"] if "layers" in run))
            label = f"{group['setting']}, {group['label']}"
            ax.plot([statistics.mean(values) for values in layers], label=label)
        ax.set_xlabel("layer")
        ax.set_ylabel({"energy": "Dirichlet energy", "gauge": "collapse gauge"}[key])
        ax.set_yscale("log")
    axes[0].legend(fontsize="small")
    return figure


def _plot_codes(groups):
    """Heat maps of what the quantisers of seed 0 do: a picture a variant."""
    figures = {}
    for group in groups:
        rows = [row for row in group["runs"][0].get("quantizers", ()) if row["bits"] <= 4]
        if rows:
            parts = ["codes", group["graph"], group["setting"], str(group["layers"] or ""), group["label"]]
            name = "-".join(filter(None, parts))
            figures["".join(c if c.isalnum() or c in "-." else "_" for c in name)] = draw_codes(rows)
    return figures
