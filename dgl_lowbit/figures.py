"""What pictures share; needs the plot extra (matplotlib)."""

from __future__ import annotations

import io
from pathlib import Path

try:
    import matplotlib
except ImportError as error:
    raise ImportError("pictures need matplotlib; pip install 'dgl-lowbit[plot]'.") from error

from .deploy import replace_file


def course(ax, rows, key):
    """A line a layer, over epochs."""
    for k, values in enumerate(zip(*rows)):
        ax.plot(values, color=matplotlib.colormaps["viridis"](k / max(len(rows[0]) - 1, 1)), linewidth=0.8,
                label=f"layer {k}" if k in (0, len(rows[0]) - 1) else None)  # fmt: skip
    ax.set_yscale("symlog", linthresh=0.01 if key == "violation" else 1)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_ylabel(key)


def save(figure, path) -> Path:
    """Write a figure to ``path``, whose ending tells its format; the same figure gives the same bytes."""
    content = io.BytesIO()
    ending = Path(path).suffix.lstrip(".") or "png"
    with matplotlib.rc_context({"svg.hashsalt": "dgl-lowbit"}):
        figure.savefig(content, format=ending, dpi=120)
    return replace_file(path, content.getvalue())
