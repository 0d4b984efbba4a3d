"""What pictures share, and those of quantisers; needs the plot extra (matplotlib)."""

from __future__ import annotations

import io
import math
from pathlib import Path

try:
    import matplotlib
except ImportError as error:
    raise ImportError("pictures need matplotlib; pip install 'dgl-lowbit[plot]'.") from error

from matplotlib.figure import Figure  # isort: skip

from .deploy import replace_file
from .verdicts import expected_snr

GREY = "#808890"  # of lines and letters: seen on white as on black
COLORS = ("#3b82f6", "#e8792b", "#22a06b", "#b05fd3", "#d6455d", "#0e9fb0")
_LOOK = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    "legend.frameon": False, "axes.prop_cycle": matplotlib.cycler(color=COLORS), "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": GREY, "grid.alpha": 0.2, "savefig.transparent": True,
    "svg.hashsalt": "dgl-lowbit", "image.cmap": "viridis",
}  # fmt: skip
_NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
_MOST_CELLS = 16  # of a row of codes; 256 codes are counted in so many parts


def drawing(function):
    """Decorate what draws: pictures without a ground, in colours that are seen on light and on dark pages."""
    return matplotlib.rc_context(_LOOK)(function)


def course(ax, rows, key):
    """A line a layer, over epochs."""
    for k, values in enumerate(zip(*rows)):
        ax.plot(values, color=matplotlib.colormaps["viridis"](k / max(len(rows[0]) - 1, 1)), linewidth=0.8,
                label=f"layer {k}" if k in (0, len(rows[0]) - 1) else None)  # fmt: skip
    ax.set_yscale("symlog", linthresh=0.01 if key == "violation" else 1)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set_ylabel(key)


@drawing
def draw_codes(rows: list[dict]) -> Figure:
    """Heat maps of the rows of :func:`dgl_lowbit.diagnose`: the share of each code, and the signal-to-noise ratio.

    A row is a quantiser; its codes run from the lowest at the left to the highest, and have its whole width. The
    colour of a ratio is its distance from what an even grid of as many bits reaches on normally distributed values.
    """
    figure = Figure(figsize=(8, 1.1 + 0.27 * len(rows)), layout="constrained")
    codes, noise = figure.subplots(1, 2, width_ratios=(5, 1), sharey=True)
    for place, row in enumerate(rows):
        shares = _binned(row["shares"])
        ends = [k / len(shares) for k in range(len(shares) + 1)]
        heat = codes.pcolormesh(ends, [place - 0.45, place + 0.45], [shares], vmin=0, vmax=1)
        lost = row["snr"] - expected_snr(row["bits"])
        shade = noise.pcolormesh([0, 1], [place - 0.45, place + 0.45], [[max(-12, min(lost, 12))]],
                                 vmin=-12, vmax=12, cmap="RdYlGn")  # fmt: skip
        noise.text(0.5, place, "∞" if math.isinf(row["snr"]) else f"{row['snr']:.0f}", ha="center", va="center",
                   fontsize=8, color="black")  # fmt: skip
    codes.set_yticks(range(len(rows)), [row["quantizer"].replace("quantizers.", "") for row in rows], fontsize=7)
    codes.invert_yaxis()
    codes.set_xticks([0, 1], ["lowest code", "highest"])
    noise.set_xticks([])
    codes.set_title("use of codes", fontsize=10)
    noise.set_title("SNR in dB", fontsize=10)
    for ax in (codes, noise):
        ax.grid(False)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    figure.colorbar(heat, ax=codes, location="bottom", shrink=0.5, aspect=40, label="share of values")
    figure.colorbar(shade, ax=noise, location="bottom", shrink=0.9, aspect=8, label="dB from usual")
    return figure


def _binned(shares):
    size = max(len(shares) // _MOST_CELLS, 1)
    return [sum(shares[start : start + size]) for start in range(0, len(shares), size)]


def content(figure, ending: str = "svg", source: str | None = None) -> bytes:
    """A figure in a format; the same figure gives the same bytes. An SVG says its ``source``."""
    buffer, metadata = io.BytesIO(), _NO_DATE.get(ending, {})
    if source and ending == "svg":
        metadata = {**metadata, "Source": source}
    with matplotlib.rc_context(_LOOK):
        figure.savefig(buffer, format=ending, dpi=120, metadata=metadata)
    return buffer.getvalue()


def save(figure, path, source: str | None = None) -> Path:
    """Write a figure to ``path``, whose ending tells its format; the same figure gives the same bytes."""
    return replace_file(path, content(figure, Path(path).suffix.lstrip(".") or "png", source))
