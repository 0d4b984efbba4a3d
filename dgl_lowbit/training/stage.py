"""A stage of training: the state of a run, its epochs and their steps."""

from __future__ import annotations

import copy
from contextlib import closing, nullcontext

import dgl
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ..calibration import calibrate
from ..graphs.degrees import with_degrees
from ..nn.protection import with_degree_ranks
from ..nn.stored import is_store
from ..quant import Quantizer
from ..quant.evaluation import evaluating
from ..quant.sparse import SparseFeatures, mostly_zero
from ..smoothness import SmoothnessRegularizer
from .batches import as_sampled, batches, whole_graph
from .features import all_rows, given_features, rows_of
from .history import History
from .identity import blocks_of, content_of, identity_of
from .in_batches import InBatches
from .message_history import MessageHistory
from .processes import Processes
from .sampling import learns, sampled, seed_generators


class Run:
    """The state of one stage of training on ``data``, and its next epoch."""

    optimizer: torch.optim.Optimizer
    schedule: LRScheduler | None
    messages: MessageHistory | None

    def __init__(self, model, data, distillation=0.5, bits=None, seed=0, pruner=None):
        self.model, self.data, self.distillation, self.seed = model, data, distillation, seed
        self.history, self.best_state, self.teacher_log_probs, self._is_checked = History(), None, None, False
        self.smoothness = SmoothnessRegularizer.attached(model)
        # What adds to the loss, and takes a step of its own after it.
        self.pruner = pruner
        self.terms = [term for term in (self.smoothness, bits, pruner) if term is not None]

    def prepare(self, teacher):
        processes = self.data.processes
        for model in (self.model, teacher):
            if model is not None:
                processes.share(model)
        self.data.show(self._look)
        self.history.messages = self.data.keep_messages(self.model)
        if teacher is not None:
            self.teacher_log_probs = self.data.logits(teacher).log_softmax(-1)

    def close(self) -> None:
        """Leave the model's layers as they were."""
        if self.data.messages is not None:
            self.data.messages.detach()

    def _look(self, graph, feat):
        """One evaluation pass, which sets the ranges of a model that has none."""
        quantizers = [q for q in self.model.modules() if isinstance(q, Quantizer)]
        if any(not q.format.is_float and not q.calibrated for q in quantizers):
            calibrate(self.model, graph, feat, process_group=self.data.processes.group)
        else:
            evaluation_logits(self.model, graph, feat)

    def epoch(self, number: int) -> dict:
        processes = self.data.processes
        # One draw an epoch, so that an epoch is the same wherever a run is taken up again.
        drawn_from = [self.seed, number, processes.rank] if processes.rank else [self.seed, number]
        state = int(np.random.SeedSequence(drawn_from).generate_state(1)[0] >> 1)
        seed_generators(self.data.sampler, state, self.data.labels.device)
        if self.pruner is not None:
            self.pruner.advance(number, self.data.whole, self.data.all_features())
        self.model.train()
        with closing(self.data.batches(self.teacher_log_probs is not None)) as steps:
            losses = [self._step(batch, number) for batch in steps]
        if self.schedule is not None:
            self.schedule.step()
        record = {
            "loss": processes.sums(float(np.mean(losses)))[0] / processes.size,
            **self.data.scores(self.model, self.history.is_better),
        }
        if self.smoothness is not None:
            record["smoothness"] = self.smoothness.report()
        if self.pruner is not None:
            record["pruning"] = self.pruner.report()
        if self.history.add(record, self.pruner is None or self.pruner.is_done(number)):
            self.best_state = copy.deepcopy(self.model.state_dict())
        return record

    def _check(self, logits, labels, labelled):
        """Raise ValueError in the first step unless the model returns logits of all classes, as many as its teacher."""
        if self._is_checked:
            return
        name, rows, most = type(self.model).__name__, len(labels), int(labels[labelled].max())
        if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or len(logits) != rows:
            got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(f"{name} must return logits, a tensor of shape ({rows}, classes), got {got}.")
        if logits.shape[1] <= most:
            raise ValueError(f"{name} returns logits of {logits.shape[1]} classes, and labels go up to {most}.")
        taught = logits.shape if self.teacher_log_probs is None else self.teacher_log_probs.shape
        if taught[1] != logits.shape[1]:
            raise ValueError(f"{name} returns logits of {logits.shape[1]} classes, its teacher of {taught[1]}.")
        self._is_checked = True

    def _step(self, batch, epoch):
        sampler = self.data.sampler
        with sampler.learning(batch.graph) if learns(sampler) else nullcontext():
            logits = self.model(batch.graph, batch.feat)
        labels = self.data.labels[batch.nodes]
        self._check(logits, labels, batch.labelled)
        loss = F.cross_entropy(logits[batch.labelled], labels[batch.labelled])
        if self.teacher_log_probs is not None:
            learned = _divergence(logits, self.teacher_log_probs[batch.nodes])
            loss = (1 - self.distillation) * loss + self.distillation * learned
        for term in self.terms:
            loss = loss + term.loss()
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is {loss.item()} in epoch {epoch}; lower lr, or look at the features.")
        self.optimizer.zero_grad()
        loss.backward()
        self.data.processes.average_gradients(self.model)
        self.optimizer.step()
        for term in self.terms:
            term.step()
        self.data.processes.synchronize(self.model)
        return loss.item()


class WholeGraph:
    """A graph that one process trains on: its batches, what a model scores on it, and what identifies it."""

    processes = Processes()
    messages: MessageHistory | None = None

    def __init__(
        self,
        graph,
        transform=None,
        sampler=None,
        batch_size=512,
        num_workers=0,
        history=False,
        sparse=None,
        feat=None,
        ranks=False,
        degrees=False,
    ):
        self.given, self.graph = graph, as_sampled(graph, sampler)
        if sampler is not None:
            self.graph = with_degree_ranks(self.graph) if ranks else self.graph
            self.graph = with_degrees(self.graph) if degrees else self.graph
        self._degrees = degrees and sampler is not None
        self.transform, self.sampler, self.batch_size, self.num_workers = transform, sampler, batch_size, num_workers
        self.whole, self.keeps_messages = whole_graph(self.graph, sampler), history
        self.labels, self.sparse = graph.ndata["label"], sparse
        self.feat = self.given_feat = given_features(graph, feat, sampler)

    def show(self, look):
        """Call ``look`` with the whole graph and its features; which form of these it takes is kept."""
        dense = self.feat
        if not is_store(dense) and (self.sparse or (self.sparse is None and mostly_zero(dense))):
            self.feat = SparseFeatures.from_dense(dense)
        try:
            look(self.whole, self.all_features())
        except (TypeError, AttributeError, dgl.DGLError):
            if self.sparse or self.feat is dense:
                raise
            self.feat = dense  # the model asks of features what sparse ones cannot do
            look(self.whole, self.feat)

    def keep_messages(self, model) -> list | None:
        """Where histories are asked for, keep what all nodes send, and sum over it from then on; says what it takes."""
        if not self.keeps_messages:
            return None
        self.messages = MessageHistory(model, self.graph)
        self.graph = self.messages.graph
        self.whole = [self.graph] * len(self.whole)
        self.messages.fill(self.whole, self.all_features())
        return self.messages.report()

    def all_features(self):
        """Those of all nodes, as the model takes them."""
        return all_rows(self.feat, self.graph.device)

    def example(self):
        """What a model is called with."""
        return self.whole, all_rows(self.given_feat, self.graph.device)

    def logits(self, model):
        """Evaluation logits of all nodes, in the order of ``labels``."""
        return evaluation_logits(model, *self.example())

    def batches(self, with_others):
        graph = self.graph if self.transform is None else self.transform(self.graph)
        if self.transform is not None and self._degrees:
            graph = with_degrees(graph)  # those of the edges that this epoch has
        return batches(graph, self.feat, self.sampler, self.batch_size, with_others, self.num_workers)

    def scores(self, model, is_better):
        """Loss and accuracy in validation, and accuracy in the test."""
        logits = evaluation_logits(model, self.whole, self.all_features())
        val = self.graph.ndata["val_mask"]
        return {
            "val_loss": F.cross_entropy(logits[val], self.labels[val]).item(),
            "val_accuracy": accuracy(logits, self.graph, "val_mask"),
            "test_accuracy": accuracy(logits, self.graph, "test_mask"),
        }

    def identity(self, model, teacher):
        content = content_of(self.given, self.given_feat)
        blocks = blocks_of(self.sampler, self._degrees and not self.keeps_messages)
        return identity_of(model, content, teacher, transform=self.transform, blocks=blocks)


class PartlyDecoded(InBatches, WholeGraph):
    """The same, of a store of whose features the rows of some nodes are decoded at a time."""

    def __init__(self, graph, **options):
        WholeGraph.__init__(self, graph, **options)
        self.own = torch.arange(graph.num_nodes(), device=graph.device)
        self.nodes = {name: graph.ndata[f"{name}_mask"].nonzero().flatten() for name in ("val", "test")}
        self.node_labels = {name: self.labels[nodes] for name, nodes in self.nodes.items()}

    def loaded(self, batches, sampler):
        """Of each of ``batches`` of nodes its number, blocks and features."""
        batches = [nodes.to(self.graph.idtype) for nodes in batches]
        with sampled(self.graph, sampler, batches, 0) as drawn:
            for number, (sources, _, blocks) in enumerate(drawn):
                yield number, blocks, rows_of(self.feat, sources.long())


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
    return _divergence(logits, teacher_logits.log_softmax(-1))


def _divergence(logits, teacher_log_probs):
    return F.kl_div(logits.log_softmax(-1), teacher_log_probs, reduction="batchmean", log_target=True)


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
    graph : DGLGraph or list of DGLGraph
        A model of blocks takes the whole graph once for each.
    feat : torch.Tensor or FeatureStore, optional
        (N, D). Default: ``graph.ndata["feat"]``.

    Returns
    -------
    torch.Tensor
        (N, classes), without gradients.
    """
    first = graph[0] if isinstance(graph, (list, tuple)) and graph else graph
    return evaluation_logits(model, graph, given_features(first, feat, None))


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
