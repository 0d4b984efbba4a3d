"""The training recipe: a float model, then its low-bit copy taught by it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from .convert import calibrate
from .quant import Quantizer


@dataclass
class History:
    """What happened in training: one dict an epoch, and the epoch whose weights were kept.

    Each epoch has ``loss``, ``val_loss``, ``val_accuracy`` and ``test_accuracy``.
    """

    epochs: list = field(default_factory=list)
    best_epoch: int = -1

    @property
    def best(self) -> dict:
        """The epoch of best validation accuracy, ties broken by validation loss."""
        return self.epochs[self.best_epoch]


def parameter_groups(
    model: nn.Module, lr: float = 0.01, weight_decay: float = 5e-4, quantizer_lr: float = 0.01
) -> list:
    """Optimiser groups: weights with decay; ranges (log α) with a rate of their own and no decay."""
    ranges = {p for module in model.modules() if isinstance(module, Quantizer) for p in module.parameters()}
    weights = [p for p in model.parameters() if p not in ranges]
    groups = [{"params": weights, "lr": lr, "weight_decay": weight_decay}]
    if ranges:
        ordered = [p for p in model.parameters() if p in ranges]
        groups.append({"params": ordered, "lr": quantizer_lr, "weight_decay": 0.0})
    return groups


def distillation_loss(logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Mean KL(teacher ‖ student) over rows at temperature 1; both (N, classes), scalar out."""
    return F.kl_div(logits.log_softmax(-1), teacher_logits.log_softmax(-1), reduction="batchmean", log_target=True)


def fit(
    model: nn.Module,
    graph,
    *,
    teacher: nn.Module | None = None,
    epochs: int = 200,
    lr: float = 0.01,
    weight_decay: float = 5e-4,
    quantizer_lr: float = 0.01,
    seed: int = 0,
    progress: bool | str = True,
) -> History:
    """Train ``model`` on a graph's labelled nodes and leave it with the weights of its best validation epoch.

    For a low-bit model: train the float model first, quantise it, and fit the copy with the float model as teacher. A
    low-bit model that has no ranges yet is calibrated first. The loss is ½ cross-entropy + ½ KL(teacher ‖ student)
    over all nodes with a teacher, cross-entropy without.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(graph, feat)``; trained in place.
    graph : DGLGraph
        With ``ndata`` as :func:`dgl_lowbit.data.load_graph` gives it.
    teacher : torch.nn.Module, optional
        Its evaluation logits are learned from.
    epochs, lr, weight_decay, quantizer_lr
        Adam's, see :func:`parameter_groups`.
    seed : int
        Seeds torch, hence dropout.
    progress : bool or str
        Whether to show a progress bar, and its label.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        When the graph lacks features, labels or masks.
    """
    missing = [key for key in ("feat", "label", "train_mask", "val_mask", "test_mask") if key not in graph.ndata]
    if missing:
        raise ValueError(f"graph.ndata lacks {', '.join(missing)}; load_graph shows what fit needs.")
    torch.manual_seed(seed)
    feat, labels, train_mask = graph.ndata["feat"], graph.ndata["label"], graph.ndata["train_mask"]
    teacher_logits = None if teacher is None else predict(teacher, graph)
    if any(not q.format.is_float and not q.calibrated for q in model.modules() if isinstance(q, Quantizer)):
        calibrate(model, graph, feat)
    optimizer = torch.optim.Adam(parameter_groups(model, lr, weight_decay, quantizer_lr))
    history, best_state, best_key = History(), None, None
    label = progress if isinstance(progress, str) else "training"
    with tqdm(range(epochs), desc=label, disable=not progress, leave=False, dynamic_ncols=True) as bar:
        for epoch in bar:
            model.train()
            logits = model(graph, feat)
            loss = F.cross_entropy(logits[train_mask], labels[train_mask])
            if teacher_logits is not None:
                loss = 0.5 * loss + 0.5 * distillation_loss(logits, teacher_logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            record = {"loss": loss.item(), **_evaluate(model, graph)}
            history.epochs.append(record)
            key = (record["val_accuracy"], -record["val_loss"])
            if best_key is None or key > best_key:
                best_key, history.best_epoch, best_state = key, epoch, copy.deepcopy(model.state_dict())
            bar.set_postfix(loss=f"{record['loss']:.3f}", val=f"{record['val_accuracy']:.3f}")
    model.load_state_dict(best_state)
    model.eval()
    return history


@torch.no_grad()
def predict(model: nn.Module, graph) -> torch.Tensor:
    """Evaluation logits of ``model`` on a graph's features, (N, classes); the training mode is kept."""
    was_training = model.training
    model.eval()
    logits = model(graph, graph.ndata["feat"])
    model.train(was_training)
    return logits


def accuracy(logits: torch.Tensor, graph, mask: str = "test_mask") -> float:
    """Share of nodes under ``mask`` whose largest logit is their label."""
    chosen = graph.ndata[mask]
    return (logits[chosen].argmax(-1) == graph.ndata["label"][chosen]).float().mean().item()


def _evaluate(model, graph):
    logits, val = predict(model, graph), graph.ndata["val_mask"]
    return {
        "val_loss": F.cross_entropy(logits[val], graph.ndata["label"][val]).item(),
        "val_accuracy": accuracy(logits, graph, "val_mask"),
        "test_accuracy": accuracy(logits, graph, "test_mask"),
    }
