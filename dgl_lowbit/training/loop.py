"""Training: one stage of it, from settings to the weights of the best epoch."""

from __future__ import annotations

import contextlib
from typing import Callable

import dgl
import torch
from torch import nn

from ..allocation import LearnedBits
from ..nn.protection import protects
from ..nn.wrappers import check_model
from ..progress import progress_bar
from ..pruning import Pruner
from ..quant import LearnedBitsQuantizer
from .distributed import processes_of
from .history import History
from .identity import described
from .options import BATCH_SIZE, WITHOUT_PRICE, check_counts, check_data, check_pruner, data_of, parameter_groups
from .resume import Checkpoint
from .schedules import schedule_of
from .stage import Run


def train(
    model: nn.Module,
    graph: dgl.DGLGraph,
    *,
    feat=None,
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
    batch_size: int = BATCH_SIZE,
    num_workers: int = 0,
    history: bool = False,
    sparse: bool | None = None,
    bits: LearnedBits | None = None,
    pruner: Pruner | None = None,
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
    graph : DGLGraph or dgl.distributed.DistGraph
        With ``ndata`` as :func:`dgl_lowbit.experiments.data.load_graph` gives it. Of a DistGraph each trainer takes its
        share of the masks (``node_split``), with a ``sampler``. All make as many steps, on mean gradients and on ranges
        of all (:func:`dgl_lowbit.training.synchronize`), and start from the first one's weights. Scores are of all
        neighbours; ``test_accuracy`` is NaN in epochs that are not the best so far. There are no ``transform``,
        ``num_workers``, ``sparse``, ``history``, ``bits``, ``pruner`` and samplers that learn then.
    feat : FeatureStore or torch.Tensor, optional
        (N, D) features in the place of the graph's ``feat``, which it then need not have. Of a store, see
        :func:`dgl_lowbit.compress`, a ``sampler``'s batches fetch and decode their rows. Ranges, a teacher's logits and
        validation are of all nodes, and decode all rows for the while, up to 1 GiB of float32; of more they are taken
        from some nodes at a time with all of their neighbours, as on a DistGraph. Without a ``sampler`` a store is
        decoded once. Of a DistGraph it is the store whose records are ``ndata["feat"]``. Default: the graph's.
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
        Trains on its blocks instead of the whole graph; validation sees the whole graph, once for each block. Sums of a
        low-bit ``GraphConv(norm="both")`` stand for whole ones then, see :func:`dgl_lowbit.nn.with_degrees`; those of a
        float model do not.
    batch_size : int
        Labelled nodes a block is sampled for, of each process; with a teacher, as many others come along to be learned
        from.
    num_workers : int
        Processes that sample blocks, started anew each epoch by ``dgl.dataloading.DataLoader``. Default: none; blocks
        are sampled between steps. Workers can help where sampling takes much of a step, as with a sampler written in
        Python, and cores are idle; with DGL's neighbour sampling, handing blocks over costs as much. They draw other
        blocks than none do, the same for any number of them unless the sampler keeps a state of its own.
    history : bool
        Sum over whole neighbourhoods on blocks of a ``sampler``, with the codes that nodes outside a block sent last,
        see :class:`dgl_lowbit.training.MessageHistory`. Each validation keeps all codes anew. The float stage of
        :func:`fit` then sends codes of 8 bits.
    sparse : bool, optional
        Pass features as :class:`dgl_lowbit.quant.sparse.SparseFeatures`. Default: where at most two in five are not 0
        and the model takes them.
    bits : LearnedBits, optional
        The bits of ``model``, which is ``bits.model``, that are learned under a budget; the last epoch is kept then.
        Rates should fall, as by ``schedule="cosine"``.
    pruner : Pruner, optional
        Of ``model``, which prunes it as epochs go by; the epochs after its last step count. It keeps its gates:
        ``pruner.squeeze()`` cuts them out.
    seed : int
        Of dropout and sampling; each epoch draws from its own. The global state of torch is left as found.
    checkpoint : path, optional
        File that holds the state of the run, replaced whole as often as takes a fiftieth of the time, and at the end.
        Of several processes the first writes and reads it.
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
        When the graph lacks features, labels or masks, ``feat`` does not fit it or memory, ``epochs`` is not positive,
        ``schedule`` is unknown, ``num_workers`` cannot sample, the loss is not finite, or ``checkpoint`` belongs to
        another run.
    LostProcessError
        When another process is gone or ends, or the models of processes come apart. A process whose servers do not
        answer ends with its message.
    """
    check_model(model, "train")
    of_data = {
        "sampler": sampler, "transform": transform, "num_workers": num_workers, "history": history, "sparse": sparse,
        "feat": feat,
    }  # fmt: skip
    check_data(graph, budget=bits, pruner=pruner, protect=protects(model), **of_data)
    check_counts(epochs=epochs, patience=patience, batch_size=batch_size)
    if not 0 <= distillation <= 1:
        raise ValueError(f"distillation is a part of the loss, from 0 to 1, got {distillation!r}.")
    if bits is not None and getattr(bits, "model", None) is not model:
        raise ValueError(
            "bits is a LearnedBits, whose bits.model is what is trained; the width of codes is that of the config, as "
            f"in fit(model, graph, QuantConfig(bits=2)); got {bits!r:.80}."
        )
    if bits is None and any(isinstance(module, LearnedBitsQuantizer) for module in model.modules()):
        raise ValueError(WITHOUT_PRICE)
    check_pruner(pruner, model, epochs, **of_data)
    make_schedule = schedule_of(schedule)
    lr, weight_decay, quantizer_lr = map(float, (lr, weight_decay, quantizer_lr))  # checkpoints hold no NumPy numbers
    devices = [graph.device] if graph.device.type == "cuda" else []
    with contextlib.ExitStack() as stack:
        stack.enter_context(processes_of(graph).together())
        stack.enter_context(torch.random.fork_rng(devices=devices))
        data = data_of(graph, model, batch_size=batch_size, **of_data)
        run = stack.enter_context(contextlib.closing(Run(model, data, distillation, bits, seed, pruner)))
        run.prepare(teacher)
        make_groups = parameters or (lambda m: parameter_groups(m, lr, weight_decay, quantizer_lr))
        run.optimizer = torch.optim.Adam(make_groups(model), lr=lr)
        run.schedule = None if make_schedule is None else make_schedule(run.optimizer, epochs)
        settings = {
            "epochs": epochs, "lr": lr, "weight_decay": weight_decay, "quantizer_lr": quantizer_lr,
            "distillation": distillation, "schedule": schedule, "patience": patience, "batch_size": batch_size,
            "sampler": type(sampler).__name__, "num_workers": num_workers, "seed": seed,
            "history": history, "budget": bits and bits.budget, "pruner": pruner and pruner.settings(),
        }  # fmt: skip
        settings = {name: described(value) for name, value in settings.items()}
        slot = (
            checkpoint
            if hasattr(checkpoint, "restore")
            else Checkpoint(checkpoint, resume, data.processes).stage("train")
        )
        if slot.is_kept:
            settings.update(data.identity(model, teacher))
        slot.restore(run, settings)
        first = len(run.history.epochs)
        with progress_bar(progress, "training", total=epochs, initial=first) as bar:
            for epoch in range(first, epochs):
                counts = pruner is None or pruner.is_done(epoch - 1)
                if patience is not None and counts and epoch - run.history.best_epoch > patience:
                    slot.save(run, settings, last=True)
                    bar.total = epoch
                    bar.set_postfix_str(f"no better epoch for {patience}")
                    break
                record = run.epoch(epoch)
                slot.save(run, settings, last=epoch == epochs - 1)
                scores = {"loss": f"{record['loss']:.3f}", "val": f"{record['val_accuracy']:.3f}"}
                bar.set_postfix(scores, refresh=False)
                bar.update()
        if bits is None:
            model.load_state_dict(run.best_state)
        data.processes.check_equal(model)
    model.eval()
    return run.history
