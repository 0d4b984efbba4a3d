"""The training recipe: a float model, then its low-bit copy taught by it."""

from __future__ import annotations

import copy
from typing import Callable, NamedTuple

import dgl
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from ..calibration import calibrate
from ..config import QuantConfig
from ..convert import quantize
from ..nn.wrappers import check_model
from ..quant import Quantizer
from ..quant.evaluation import evaluating
from ..quant.sparse import SparseFeatures
from ..smoothness import SmoothnessRegularizer
from .batches import as_sampled, batches, check_graph, mostly_zero, whole_graph
from .history import History
from .identity import identity_of
from .resume import Checkpoint
from .schedules import schedule_of


class Fitted(NamedTuple):
    """What :func:`fit` returns."""

    model: nn.Module
    teacher: nn.Module
    history: History
    teacher_history: History


def parameter_groups(
    model: nn.Module, lr: float = 0.01, weight_decay: float = 5e-4, quantizer_lr: float = 0.01, no_decay=()
) -> list:
    """Optimiser groups: weights with decay; those without; ranges (log α) with a rate of their own and no decay.

    ``no_decay`` holds prefixes of names of parameters that are not decayed.
    """
    ranges = {p for module in model.modules() if isinstance(module, Quantizer) for p in module.parameters()}
    groups: dict[str, list[nn.Parameter]] = {"decayed": [], "free": [], "ranges": []}
    for name, parameter in model.named_parameters():
        free = any(name.startswith(prefix) for prefix in no_decay)
        groups["ranges" if parameter in ranges else "free" if free else "decayed"].append(parameter)
    settings = {
        "decayed": {"lr": lr, "weight_decay": weight_decay},
        "free": {"lr": lr, "weight_decay": 0.0},
        "ranges": {"lr": quantizer_lr, "weight_decay": 0.0},
    }
    return [{"params": parameters, **settings[kind]} for kind, parameters in groups.items() if parameters]


def distillation_loss(logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Mean KL(teacher ‖ student) over rows at temperature 1; both (N, classes), scalar out."""
    return F.kl_div(logits.log_softmax(-1), teacher_logits.log_softmax(-1), reduction="batchmean", log_target=True)


def fit(
    model: nn.Module,
    graph: dgl.DGLGraph,
    config: QuantConfig | None = None,
    *,
    teacher: nn.Module | None = None,
    epochs: int = 200,
    float_epochs: int | None = None,
    checkpoint=None,
    resume: bool = False,
    progress: bool | str = True,
    **options,
) -> Fitted:
    """Train a float model, then its low-bit copy: the recommended recipe.

    The float model is trained first; its best weights are where the low-bit copy starts, and its evaluation logits are
    what the copy learns from. Ranges are set from one look at the data in between. Both stages are :func:`train`.

    Parameters
    ----------
    model : torch.nn.Module
        Float, called as ``model(graph, feat)``; trained in place. With ``float_epochs=0`` it is taken as trained.
    graph : DGLGraph
        With ``ndata`` as :func:`dgl_lowbit.experiments.data.load_graph` gives it: ``feat``, ``label``, three masks.
    config : QuantConfig, optional
        Of the low-bit copy; 32 bits give the float model the same second stage. Default: 8 bits.
    teacher : torch.nn.Module, optional
        Teaches the float stage, as a shallow net does a deep one.
    epochs, float_epochs : int
        Of the low-bit stage and the float stage; by default as many.
    checkpoint : path, optional
        File that holds the state of the run, replaced whole every ten epochs.
    resume : bool
        Continue from ``checkpoint`` if there is one, to the result of a run that was never interrupted.
    progress : bool or str
        Whether to show a progress bar, and its label.
    **options
        As for :func:`train`: rates, seed, patience, mini-batches.

    Returns
    -------
    Fitted
        ``model`` (low-bit), ``teacher`` (the float model), ``history`` and ``teacher_history``.

    Raises
    ------
    ValueError
        As for :func:`train` and :func:`quantize`; when ``checkpoint`` belongs to another run.
    """
    check_model(model, "fit")
    check_graph(graph)
    label = progress if isinstance(progress, str) else "training"
    saved = Checkpoint(checkpoint, resume)
    bits = "low-bit" if config is None else f"INT{config.bits}"

    def stage(name, trained, teacher, epochs):
        return train(
            trained, graph, teacher=teacher, epochs=epochs, checkpoint=saved.stage(name),
            progress=progress and f"{label} {name}", **options,
        )  # fmt: skip

    float_epochs = epochs if float_epochs is None else float_epochs
    teacher_history = stage("float32", model, teacher, float_epochs) if float_epochs else History()
    low_bit = quantize(model, config, whole_graph(graph, options.get("sampler")), graph.ndata["feat"])
    history = stage(bits if bits != "INT32" else "float32 again", low_bit, model, epochs)
    return Fitted(low_bit, model, history, teacher_history)


def train(
    model: nn.Module,
    graph: dgl.DGLGraph,
    *,
    teacher: nn.Module | None = None,
    distillation: float = 0.5,
    epochs: int = 200,
    lr: float = 0.01,
    weight_decay: float = 5e-4,
    quantizer_lr: float = 0.01,
    parameters: Callable | None = None,
    schedule: str | Callable | None = None,
    patience: int | None = None,
    transform: Callable | None = None,
    sampler=None,
    batch_size: int = 512,
    sparse: bool | None = None,
    seed: int = 0,
    checkpoint=None,
    resume: bool = False,
    progress: bool | str = True,
) -> History:
    """Train ``model`` on a graph's labelled nodes and leave it with the weights of its best validation epoch.

    A low-bit model that has no ranges yet is calibrated first. The loss is cross-entropy, with a teacher in part
    :func:`distillation_loss` over all nodes (of the batch); a :class:`SmoothnessRegularizer` attached to the model adds
    its own and ascends its multipliers.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(graph, feat)``, with a ``sampler`` as ``model(blocks, feat)``; trained in place.
    graph : DGLGraph
        With ``ndata`` as :func:`dgl_lowbit.experiments.data.load_graph` gives it.
    teacher : torch.nn.Module, optional
        Its evaluation logits are learned from.
    distillation : float
        What part of the loss that is, from 0 to 1. Default: half.
    epochs, lr, weight_decay, quantizer_lr
        Adam's, see :func:`parameter_groups`. GCN and SAGE at 2 bits do better with ``quantizer_lr=0.003``.
    parameters : callable, optional
        Makes optimiser groups of a model, in place of ``parameter_groups(model, lr, weight_decay, quantizer_lr)``.
    schedule : str or callable, optional
        How rates change from epoch to epoch: "cosine" (to 0, arXiv:1608.03983), "one-cycle" (up to the rates and down,
        arXiv:1708.07120), or what makes a torch scheduler of an optimiser and a number of epochs. Default: they stay.
    patience : int, optional
        Stop after as many epochs without a better validation epoch. Default: never.
    transform : callable, optional
        Makes of the graph the one that a step trains on, as ``dgl.DropEdge(0.3)`` does.
    sampler : dgl.dataloading.BlockSampler, optional
        Trains on its blocks instead of the whole graph; validation sees the whole graph, once for each block.
    batch_size : int
        Labelled nodes a block is sampled for; with a teacher, as many others come along to be learned from.
    sparse : bool, optional
        Pass features as :class:`dgl_lowbit.quant.sparse.SparseFeatures`. Default: where at most two in five are not 0
        and the model takes them.
    seed : int
        Of dropout and sampling; each epoch draws from its own. The global state of torch is left as found.
    checkpoint : path, optional
        File that holds the state of the run, replaced whole every ten epochs and at the end.
    resume : bool
        Continue from ``checkpoint`` if there is one, of the same settings, config, graph and teacher.
    progress : bool or str
        Whether to show a progress bar with loss and validation accuracy, and its label.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        When the graph lacks features, labels or masks, ``epochs`` is not positive, ``schedule`` is unknown, the loss is
        not finite, or ``checkpoint`` belongs to another run.
    """
    check_model(model, "train")
    check_graph(graph)
    if epochs < 1 or (patience is not None and patience < 1):
        raise ValueError(f"epochs and patience must be at least 1, got {epochs!r} and {patience!r}.")
    if not 0 <= distillation <= 1:
        raise ValueError(f"distillation is a part of the loss, from 0 to 1, got {distillation!r}.")
    make_schedule = schedule_of(schedule)
    run = _Run(model, graph, distillation, transform, sampler, batch_size, sparse, seed)
    with torch.random.fork_rng(devices=[graph.device] if graph.device.type == "cuda" else []):
        run.prepare(teacher)
        make_groups = parameters or (lambda m: parameter_groups(m, lr, weight_decay, quantizer_lr))
        run.optimizer = torch.optim.Adam(make_groups(model), lr=lr)
        run.schedule = None if make_schedule is None else make_schedule(run.optimizer, epochs)
        settings = {
            "epochs": epochs, "lr": lr, "weight_decay": weight_decay, "quantizer_lr": quantizer_lr,
            "distillation": distillation, "schedule": getattr(schedule, "__qualname__", schedule),
            "patience": patience, "batch_size": batch_size, "sampler": type(sampler).__name__, "seed": seed,
        }  # fmt: skip
        slot = checkpoint if hasattr(checkpoint, "restore") else Checkpoint(checkpoint, resume).stage("train")
        if slot.is_kept:
            settings.update(identity_of(model, graph, teacher, transform=transform, blocks=sampler))
        slot.restore(run, settings)
        label = progress if isinstance(progress, str) else "training"
        first = len(run.history.epochs)
        bar = tqdm(range(epochs), desc=label, initial=first, disable=not progress, leave=False, dynamic_ncols=True)
        with bar:
            for epoch in range(first, epochs):
                if patience is not None and epoch - run.history.best_epoch > patience:
                    break
                record = run.epoch(epoch)
                slot.save(run, settings, last=epoch == epochs - 1)
                bar.update()
                bar.set_postfix(loss=f"{record['loss']:.3f}", val=f"{record['val_accuracy']:.3f}")
    model.load_state_dict(run.best_state)
    model.eval()
    return run.history


class _Run:
    """The state of one stage of training, and its next epoch."""

    optimizer: torch.optim.Optimizer
    schedule: LRScheduler | None

    def __init__(self, model, graph, distillation, transform, sampler, batch_size, sparse, seed):
        self.model, self.graph, self.distillation, self.seed = model, as_sampled(graph, sampler), distillation, seed
        self.transform, self.sampler, self.batch_size = transform, sampler, batch_size
        self.whole = whole_graph(self.graph, sampler)
        self.feat, self.sparse = graph.ndata["feat"], sparse
        self.history, self.best_state, self.teacher_logits = History(), None, None
        self.smoothness = SmoothnessRegularizer.attached(model)

    def prepare(self, teacher):
        dense = self.feat
        if self.sparse or (self.sparse is None and mostly_zero(dense)):
            self.feat = SparseFeatures.from_dense(dense)
        try:
            self._look()
        except (TypeError, AttributeError, dgl.DGLError):
            if self.sparse or self.feat is dense:
                raise
            self.feat = dense  # the model asks of features what sparse ones cannot do
            self._look()
        if teacher is not None:
            self.teacher_logits = _evaluation_logits(teacher, self.whole, dense)

    def _look(self):
        """One evaluation pass, which sets the ranges of a model that has none."""
        quantizers = [q for q in self.model.modules() if isinstance(q, Quantizer)]
        if any(not q.format.is_float and not q.calibrated for q in quantizers):
            calibrate(self.model, self.whole, self.feat)
        else:
            _evaluation_logits(self.model, self.whole, self.feat)

    def epoch(self, number: int) -> dict:
        # One draw an epoch, so that an epoch is the same wherever a run is taken up again.
        state = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0] >> 1)
        torch.manual_seed(state)
        dgl.seed(state)
        self.model.train()
        losses = [self._step(batch, number) for batch in self._batches()]
        if self.schedule is not None:
            self.schedule.step()
        logits = _evaluation_logits(self.model, self.whole, self.feat)
        val = self.graph.ndata["val_mask"]
        record = {
            "loss": float(np.mean(losses)),
            "val_loss": F.cross_entropy(logits[val], self.graph.ndata["label"][val]).item(),
            "val_accuracy": accuracy(logits, self.graph, "val_mask"),
            "test_accuracy": accuracy(logits, self.graph, "test_mask"),
        }
        if self.smoothness is not None:
            record["smoothness"] = self.smoothness.report()
        if self.history.add(record):
            self.best_state = copy.deepcopy(self.model.state_dict())
        return record

    def _batches(self):
        with_others = self.teacher_logits is not None
        graph = self.graph if self.transform is None else self.transform(self.graph)
        return batches(graph, self.feat, self.sampler, self.batch_size, with_others)

    def _step(self, batch, epoch):
        logits = self.model(batch.graph, batch.feat)
        loss = F.cross_entropy(logits[batch.labelled], self.graph.ndata["label"][batch.nodes][batch.labelled])
        if self.teacher_logits is not None:
            learned = distillation_loss(logits, self.teacher_logits[batch.nodes])
            loss = (1 - self.distillation) * loss + self.distillation * learned
        if self.smoothness is not None:
            loss = loss + self.smoothness.loss()
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is {loss.item()} in epoch {epoch}; lower lr, or look at the features.")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.smoothness is not None:
            self.smoothness.step()
        return loss.item()


@torch.no_grad()
def _evaluation_logits(model, graph, feat):
    with evaluating(model):
        return model(graph, feat)


def predict(model: nn.Module, graph: dgl.DGLGraph, feat=None) -> torch.Tensor:
    """Evaluation logits of ``model`` on a graph's features, (N, classes); the training mode is kept."""
    return _evaluation_logits(model, graph, graph.ndata["feat"] if feat is None else feat)


def accuracy(logits: torch.Tensor, graph: dgl.DGLGraph, mask: str = "test_mask") -> float:
    """Share of nodes under ``mask`` whose largest logit is their label."""
    chosen = graph.ndata[mask]
    return (logits[chosen].argmax(-1) == graph.ndata["label"][chosen]).float().mean().item()
