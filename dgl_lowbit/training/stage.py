"""A stage of training: the state of a run, its epochs and their steps."""

from __future__ import annotations

import copy
from contextlib import closing

import dgl
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ..calibration import calibrate
from ..nn.protection import protects, with_degree_ranks
from ..quant import Quantizer
from ..quant.evaluation import evaluating
from ..quant.sparse import SparseFeatures, mostly_zero
from ..smoothness import SmoothnessRegularizer
from .batches import as_sampled, batches, whole_graph
from .history import History
from .sampling import seed_samplers


class Run:
    """The state of one stage of training, and its next epoch."""

    optimizer: torch.optim.Optimizer
    schedule: LRScheduler | None

    def __init__(
        self, model, graph, distillation, transform, sampler, batch_size, num_workers, sparse, bits, seed, pruner=None
    ):
        self.model, self.distillation, self.seed = model, distillation, seed
        self.graph = as_sampled(graph, sampler)
        if sampler is not None and protects(model):
            self.graph = with_degree_ranks(self.graph)
        self.transform, self.sampler, self.batch_size, self.num_workers = transform, sampler, batch_size, num_workers
        self.whole = whole_graph(self.graph, sampler)
        self.feat, self.sparse = graph.ndata["feat"], sparse
        self.history, self.best_state, self.teacher_logits = History(), None, None
        self.smoothness = SmoothnessRegularizer.attached(model)
        # What adds to the loss, and takes a step of its own after it.
        self.pruner = pruner
        self.terms = [term for term in (self.smoothness, bits, pruner) if term is not None]

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
            self.teacher_logits = evaluation_logits(teacher, self.whole, dense)

    def _look(self):
        """One evaluation pass, which sets the ranges of a model that has none."""
        quantizers = [q for q in self.model.modules() if isinstance(q, Quantizer)]
        if any(not q.format.is_float and not q.calibrated for q in quantizers):
            calibrate(self.model, self.whole, self.feat)
        else:
            evaluation_logits(self.model, self.whole, self.feat)

    def epoch(self, number: int) -> dict:
        # One draw an epoch, so that an epoch is the same wherever a run is taken up again.
        state = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0] >> 1)
        torch.manual_seed(state)
        seed_samplers(self.sampler, state)
        if self.pruner is not None:
            self.pruner.advance(number, self.whole, self.feat)
        self.model.train()
        with closing(self._batches()) as steps:
            losses = [self._step(batch, number) for batch in steps]
        if self.schedule is not None:
            self.schedule.step()
        logits = evaluation_logits(self.model, self.whole, self.feat)
        val = self.graph.ndata["val_mask"]
        record = {
            "loss": float(np.mean(losses)),
            "val_loss": F.cross_entropy(logits[val], self.graph.ndata["label"][val]).item(),
            "val_accuracy": accuracy(logits, self.graph, "val_mask"),
            "test_accuracy": accuracy(logits, self.graph, "test_mask"),
        }
        if self.smoothness is not None:
            record["smoothness"] = self.smoothness.report()
        if self.pruner is not None:
            record["pruning"] = self.pruner.report()
        if self.history.add(record, self.pruner is None or self.pruner.is_done(number)):
            self.best_state = copy.deepcopy(self.model.state_dict())
        return record

    def _batches(self):
        with_others = self.teacher_logits is not None
        graph = self.graph if self.transform is None else self.transform(self.graph)
        return batches(graph, self.feat, self.sampler, self.batch_size, with_others, self.num_workers)

    def _step(self, batch, epoch):
        logits = self.model(batch.graph, batch.feat)
        loss = F.cross_entropy(logits[batch.labelled], self.graph.ndata["label"][batch.nodes][batch.labelled])
        if self.teacher_logits is not None:
            learned = distillation_loss(logits, self.teacher_logits[batch.nodes])
            loss = (1 - self.distillation) * loss + self.distillation * learned
        for term in self.terms:
            loss = loss + term.loss()
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is {loss.item()} in epoch {epoch}; lower lr, or look at the features.")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for term in self.terms:
            term.step()
        return loss.item()


def distillation_loss(logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Mean KL(teacher ‖ student) over rows, at temperature 1 (arXiv:1503.02531).

    Parameters
    ----------
    logits, teacher_logits : torch.Tensor
        (N, classes) each.

    Returns
    -------
    torch.Tensor
        A scalar.
    """
    return F.kl_div(logits.log_softmax(-1), teacher_logits.log_softmax(-1), reduction="batchmean", log_target=True)


@torch.no_grad()
def evaluation_logits(model, graph, feat):
    with evaluating(model):
        return model(graph, feat)


def predict(model: nn.Module, graph: dgl.DGLGraph, feat=None) -> torch.Tensor:
    """Evaluation logits of a model; its training mode is kept.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(graph, feat)``.
    graph : DGLGraph
    feat : torch.Tensor, optional
        (N, D). Default: ``graph.ndata["feat"]``.

    Returns
    -------
    torch.Tensor
        (N, classes), without gradients.
    """
    return evaluation_logits(model, graph, graph.ndata["feat"] if feat is None else feat)


def accuracy(logits: torch.Tensor, graph: dgl.DGLGraph, mask: str = "test_mask") -> float:
    """Share of nodes under a mask whose largest logit is their label.

    Parameters
    ----------
    logits : torch.Tensor
        (N, classes).
    graph : DGLGraph
        With ``ndata["label"]``, (N,).
    mask : str
        Name of the mask in ``ndata``.

    Returns
    -------
    float
    """
    chosen = graph.ndata[mask]
    return (logits[chosen].argmax(-1) == graph.ndata["label"][chosen]).float().mean().item()
