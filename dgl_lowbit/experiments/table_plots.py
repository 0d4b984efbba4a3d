"""Pictures of table files; needs the plot extra (matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..figures import COLORS, drawing, save  # first, for it says what to install

from matplotlib.figure import Figure  # isort: skip

from .tables import digest, figures, first_rows, read_table

_WIDTHS = {"INT1": 1, "INT2": 2, "INT3": 3, "INT4": 4, "INT8": 8, "DGL float32": 32, "float32": 32}
_DASHES = ("-", "--", ":", "-.")
_BASELINE = (1.0, 0.0, "x")  # what ratios of times are taken over
_RATIOS = (1, 2, 5, 10, 20, 50)


class _Line(NamedTuple):
    """A row of a table: what is drawn of it by bits, value, spread and unit."""

    graph: str
    work: str
    points: dict

    @property
    def is_speed(self):
        return any(unit == "x" for _, _, unit in self.points.values())


@drawing
def plot_tables(paths, path) -> Path:
    """Draw what tables say against bits, a line a row: accuracies in a panel a graph, speeds all in one.

    Parameters
    ----------
    paths : sequence of path
        Files of :func:`dgl_lowbit.experiments.tables.write_table` whose first tables have a column ``graph``, one that
        says the model or work, and ``float32`` or ``DGL float32``, ``INT8``, ``INT4``, ``INT2`` or some of them.
    path : path
        The picture, whose ending tells its format.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError
        When a file is no table file, has no such columns, or speeds are to stand beside accuracies.
    """
    tables = [read_table(file).text for file in paths]
    lines = [line for file, text in zip(paths, tables) for line in _lines(file, text)]
    are_speeds = lines[0].is_speed
    if any(line.is_speed is not are_speeds for line in lines):
        raise ValueError("draw tables of accuracies or of speeds, not both in one picture.")
    graphs, works = (list(dict.fromkeys(names)) for names in list(zip(*lines))[:2])
    bits = sorted({width for line in lines for width in line.points})
    panels = [None] if are_speeds else graphs
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    for ax, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for line in lines:
            if panel in (None, line.graph):
                color = COLORS[works.index(line.work) % len(COLORS)]
                dashes = _DASHES[graphs.index(line.graph) % len(_DASHES)] if are_speeds else "-"
                aside = 0 if are_speeds else 0.07 * (works.index(line.work) - (len(works) - 1) / 2)
                places = [bits.index(width) + aside for width in sorted(line.points)]
                values, spreads, _ = zip(*(line.points[width] for width in sorted(line.points)))
                look = {"marker": "o", "markersize": 5, "capsize": 3, "linestyle": dashes, "color": color}
                label = f"{line.work}, {line.graph}" if are_speeds else line.work
                ax.errorbar(places, values, None if are_speeds else spreads, label=label, **look)
        ax.set_xticks(range(len(bits)), ["float32" if width == 32 else str(width) for width in bits])
        ax.set_xlabel("bits")
        ax.set_title(panel)
    first = figure.axes[0]
    first.set_ylabel("times faster than DGL float32" if are_speeds else "test accuracy in %")
    if are_speeds:
        first.set_yscale("log")
        first.set_yticks(_RATIOS, [f"{ratio}x" for ratio in _RATIOS])
        first.minorticks_off()
    handles = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels())}
    where = {"loc": "outside right upper"} if are_speeds else {"loc": "outside lower center", "ncols": len(handles)}
    figure.legend(handles.values(), handles.keys(), fontsize="small", **where)
    return save(figure, path, source=digest(*tables))


def _lines(file, text):
    found = []
    for row in first_rows(text):
        cells = {_WIDTHS[name]: figures(cell) for name, cell in row.items() if name in _WIDTHS}
        points = {bits: _BASELINE if cell[2] == "ms" else cell for bits, cell in cells.items() if cell is not None}
        work = row.get("model", row.get("work"))
        if "graph" not in row or work is None or len(points) < 2:
            raise ValueError(f"{file} lacks columns graph, model or work, and two of float32, INT8, INT4, INT2.")
        found.append(_Line(row["graph"], work, points))
    return found
