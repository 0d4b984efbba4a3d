"""Pictures of training; needs the plot extra (matplotlib)."""

from __future__ import annotations

from pathlib import Path

from ..figures import GREY, course, drawing, save  # first, for it says what to install

from matplotlib.figure import Figure  # isort: skip


def plot_history(history, path) -> Path:
    """Write the picture of :func:`draw_history` to ``path``, whose ending tells its format."""
    return save(draw_history(history), path)


@drawing
def draw_history(history) -> Figure:
    """Loss and validation accuracy of a :class:`dgl_lowbit.training.History` against the epoch.

    Under a smoothness bound also the violation and multiplier of each of its layers.
    """
    bounded = [epoch["smoothness"] for epoch in history.epochs if "smoothness" in epoch]
    rows = 1 + bool(bounded)
    figure = Figure(figsize=(10, 4 * rows), layout="constrained")
    axes = figure.subplots(rows, 2).flatten()
    for key in ("loss", "val_loss"):
        axes[0].plot([epoch[key] for epoch in history.epochs], label=key)
    for key in ("val_accuracy", "test_accuracy"):
        axes[1].plot([epoch[key] for epoch in history.epochs], label=key)
    axes[1].axvline(history.best_epoch, color=GREY, linewidth=0.8, label="kept")
    for ax, key in zip(axes[2:], ("violation", "multiplier")):
        course(ax, [[row[key] for row in rows] for rows in bounded], key)
    for ax in axes:
        ax.set_xlabel("epoch")
        ax.legend()
    return figure
