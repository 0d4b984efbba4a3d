"""What happened in training."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class History:
    """One dict an epoch, and the epoch whose weights were kept.

    Each epoch has ``loss``, ``val_loss``, ``val_accuracy`` and ``test_accuracy`` (NaN where it was not measured, see
    :func:`dgl_lowbit.train`), and under a smoothness bound ``smoothness``, the rows of
    :meth:`dgl_lowbit.SmoothnessRegularizer.report`; with a pruner ``pruning``, those of
    :meth:`dgl_lowbit.Pruner.report`.

    Attributes
    ----------
    epochs : list of dict
    best_epoch : int
        −1 before the first epoch.
    messages : list of dict, optional
        Trained with ``history=True``, :meth:`MessageHistory.report`: what messages that were kept took.
    """

    epochs: list = field(default_factory=list)
    best_epoch: int = -1
    messages: list | None = None

    @property
    def best(self) -> dict:
        """The epoch of best validation accuracy, ties broken by validation loss."""
        return self.epochs[self.best_epoch]

    def is_better(self, record: dict) -> bool:
        """Whether an epoch's validation is better than that of all before it."""
        return self.best_epoch < 0 or _rank(record) > _rank(self.best)

    def add(self, record: dict, counts: bool = True) -> bool:
        """Append an epoch; returns whether it is the best so far, of those that count."""
        is_best = counts and self.is_better(record)
        self.epochs.append(record)
        if is_best:
            self.best_epoch = len(self.epochs) - 1
        return is_best

    def plot(self, path):
        """Draw losses, accuracies and, under a smoothness bound, violations and multipliers; needs matplotlib.

        Returns
        -------
        Path
            Of the picture, whose ending tells its format.
        """
        from .plots import plot_history

        return plot_history(self, path)


def _rank(record):
    return record["val_accuracy"], -record["val_loss"]
