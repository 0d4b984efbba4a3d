"""The training recipe: a float model, then its low-bit copy taught by it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from typing import Callable, NamedTuple

import dgl
import torch
from torch import nn

from ..allocation import LearnedBits, allocate_groups
from ..allocation.groups import place_groups
from ..config import QuantConfig
from ..convert import quantize
from ..nn.protection import protects
from ..nn.wrappers import check_model
from ..progress import progress_bar
from ..pruning import Pruner
from ..quant import LearnedBitsQuantizer
from ..quant.base import range_rates
from .batches import check_graph
from .distributed import Shares, check_dist_graph, is_distributed, processes_of
from .history import History
from .identity import described
from .message_history import check_history, sending_codes
from .resume import Checkpoint
from .sampling import check_workers, learns
from .schedules import schedule_of
from .stage import Run, WholeGraph

# Epochs without a better one after which a stage that starts from trained weights is done.
PATIENCE = 100
_WITHOUT_PRICE = (
    "bits that are learned need a price: pass budget= to fit, as in fit(model, graph, budget={'model': 20_000}), or "
    "bits= to train; else use quantizer='qlr'."
)
_BATCH_SIZE = 512
# Epochs in which bits are learned, and their rate.
BITS_EPOCHS, BITS_RATE = 100, 0.1


class Fitted(NamedTuple):
    """What :func:`fit` returns.

    Attributes
    ----------
    model : torch.nn.Module
        Low-bit, with the weights of its best validation epoch.
    teacher : torch.nn.Module
        The float model, with those of its best.
    history, teacher_history : History
        Of the low-bit stage and of the float stage.
    config : QuantConfig
        That of ``model``, with an override for each component whose bits were learned.
    """

    model: nn.Module
    teacher: nn.Module
    history: History
    teacher_history: History
    config: QuantConfig


def parameter_groups(
    model: nn.Module,
    lr: float = 0.01,
    weight_decay: float = 5e-4,
    quantizer_lr: float = 0.01,
    no_decay=(),
    bits_lr: float = BITS_RATE,
) -> list:
    """Optimiser groups: weights with decay; those without; ranges, and bits, at own rates without decay.

    Parameters
    ----------
    model : torch.nn.Module
    lr, weight_decay : float
        Of weights.
    quantizer_lr : float
        Rate of ranges: by what part a step of Adam changes one, at most about. Quantisers learn ranges by parameters
        that move them by less than by their own steps (:attr:`dgl_lowbit.quant.Quantizer.range_rate`), and the rate of
        the group is so much higher.
    no_decay : sequence of str
        Prefixes of names of parameters that are not decayed.
    bits_lr : float
        Rate of bits that are learned.

    Returns
    -------
    list of dict
        For a torch optimiser; groups that would be empty are left out.
    """
    bits = {module.bits for module in model.modules() if isinstance(module, LearnedBitsQuantizer)}
    ranges = range_rates(model)
    groups: dict[tuple[int, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter in bits:
            group = 3, bits_lr, 0.0
        elif parameter in ranges:
            group = 2, quantizer_lr / ranges[parameter], 0.0
        elif any(name.startswith(prefix) for prefix in no_decay):
            group = 1, lr, 0.0
        else:
            group = 0, lr, weight_decay
        groups.setdefault(group, []).append(parameter)
    return [{"params": groups[group], "lr": group[1], "weight_decay": group[2]} for group in sorted(groups)]


def fit(
    model: nn.Module,
    graph: dgl.DGLGraph,
    config: QuantConfig | None = None,
    *,
    budget: Mapping[str, float] | None = None,
    teacher: nn.Module | None = None,
    epochs: int = 200,
    float_epochs: int | None = None,
    bits_epochs: int = BITS_EPOCHS,
    patience: int | None = PATIENCE,
    float_patience: int | None = None,
    pruner: Pruner | None = None,
    checkpoint=None,
    resume: bool = False,
    progress: bool | str = True,
    **options,
) -> Fitted:
    """Train a float model, then its low-bit copy: the recommended recipe.

    The float model is trained first; its best weights are where the low-bit copy starts, and its evaluation logits are
    what the copy learns from. Ranges are set from one look at the data in between. Both stages are :func:`train`. Under
    a ``budget`` a stage between them learns the bits of each component from the float weights on, see
    :class:`dgl_lowbit.allocation.LearnedBits`; the low-bit stage goes on from there with bits that stay. With a
    ``pruner`` the trained float model is pruned in a stage of its own, taught by what it was, and squeezed; the low-bit
    copy is of that, and is taught by the whole model.

    Parameters
    ----------
    model : torch.nn.Module
        Float, called as ``model(graph, feat)``; trained in place. With ``float_epochs=0`` it is taken as trained.
    graph : DGLGraph or dgl.distributed.DistGraph
        With ``ndata`` as :func:`dgl_lowbit.experiments.data.load_graph` gives it: ``feat``, ``label``, three masks. On
        a DistGraph all trainers call this together, each trains on its share, and all return the same model; see
        :func:`train`.
    config : QuantConfig, optional
        Of the low-bit copy; 32 bits give the float model the same second stage. Default: 8 bits.
    budget : mapping of str to float, optional
        The most there may be of each measure named, as ``{"model": 20_000}``, see :func:`dgl_lowbit.allocate`. Bits
        that the config gives components of their own stay. With ``node_groups`` in the config it is ``{"hidden":
        bytes}``, under which :func:`dgl_lowbit.allocation.allocate_groups` chooses the bits of groups between the
        stages; after training, which moves rows between groups, these are made of their sizes again.
    teacher : torch.nn.Module, optional
        Teaches the float stage, as a shallow net does a deep one.
    epochs, float_epochs : int
        Of the low-bit stage and the float stage; by default as many.
    bits_epochs : int
        Of the stage in which bits are learned.
    patience, float_patience : int, optional
        Stop the low-bit stage, the float stage, after as many epochs without a better validation epoch; None: never. A
        stage that starts from trained weights is often done early, see ``dgl-lowbit study schedules``.
    pruner : Pruner, optional
        Of ``model``, which it leaves with its gates. Its stage is of ``epochs`` epochs. Where edges leave, the low-bit
        model is trained on, and called with, ``pruner.graph``.
    checkpoint : path, optional
        File that holds the state of the run, replaced whole as often as takes a fiftieth of the time, and at the
        end of each stage.
    resume : bool
        Continue from ``checkpoint`` if there is one, to the result of a run that was never interrupted.
    progress : bool or str
        Whether to show a progress bar, and its label.
    **options
        As for :func:`train`: rates, seed, schedule, mini-batches.

    Returns
    -------
    Fitted
        ``model`` (low-bit), ``teacher`` (the float model, whole), ``history`` and ``teacher_history``, and ``config``,
        with an override for each component whose bits were learned.

    Raises
    ------
    ValueError
        As for :func:`train` and :func:`quantize`; when ``checkpoint`` belongs to another run; for a budget that cannot
        be kept.
    LostProcessError
        As for :func:`train`.
    """
    check_model(model, "fit")
    of_data = {name: options.get(name, default) for name, default in _OF_DATA.items()}
    _check_data(graph, budget=budget, pruner=pruner, **of_data)
    float_epochs = epochs if float_epochs is None else float_epochs
    _check_counts(
        epochs=epochs, float_epochs=float_epochs or None, bits_epochs=bits_epochs, patience=patience,
        float_patience=float_patience,
    )  # fmt: skip
    if budget is None and config is not None and config.quantizer == "hgq":
        raise ValueError(_WITHOUT_PRICE)
    with processes_of(graph).together():
        data = _data_of(graph, model, batch_size=options.get("batch_size", _BATCH_SIZE), **of_data)
        example = data.example()
        _check_pruner(pruner, model, epochs, **of_data)
        if float_epochs:  # what the config asks for may not be: said before any work
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                quantize(model if pruner is None else pruner.squeeze(), config, *example)
                if budget is not None:
                    _under_budget(model, example, budget, config)
        label = progress if isinstance(progress, str) else "training"
        saved = Checkpoint(checkpoint, resume, data.processes)
        bits = "low-bit" if config is None else f"INT{config.bits}"

        def stage(name, trained, teacher, epochs, patience, **more):
            return train(
                trained, graph, teacher=teacher, epochs=epochs, patience=patience, checkpoint=saved.stage(name),
                progress=progress and f"{label} {name}", **{**options, **more},
            )  # fmt: skip

        teacher_history, sends_codes = History(), of_data["history"] or learns(of_data["sampler"])
        if float_epochs:
            trained = sending_codes(model, config, example) if sends_codes else model
            teacher_history = stage("float32", trained, teacher, float_epochs, float_patience)
            if sends_codes:
                model.load_state_dict({name: trained.state_dict()[name] for name in model.state_dict()})
                model.eval()
        teacher = model
        if pruner is not None:
            teacher = pruner.squeeze()  # nothing has left
            stage("pruned", model, teacher, epochs, None, pruner=pruner)
            model, graph = pruner.squeeze(), pruner.graph
            data = _data_of(graph, model, batch_size=options.get("batch_size", _BATCH_SIZE), **of_data)
            example = data.example()
        learned = None if budget is None else _under_budget(model, example, budget, config)
        if not isinstance(learned, LearnedBits):
            low_bit = quantize(model, config, *example) if learned is None else learned
        else:
            bits = "low-bit"
            stage("learned bits", learned.model, teacher, bits_epochs, None, bits=learned, schedule="cosine")
            low_bit, config = learned.settled(), learned.config()
        record = stage(bits if bits != "INT32" else "float32 again", low_bit, teacher, epochs, patience)
        if learned is not None and learned is low_bit:
            place_groups(learned, example, {})
        return Fitted(low_bit, teacher, record, teacher_history, config or QuantConfig())


def _check_pruner(pruner, model, epochs, sampler, history, **_):
    if pruner is None:
        return
    if not isinstance(pruner, Pruner) or pruner.model is not model:
        raise ValueError("pruner must be a Pruner of the model that is trained; make it by Pruner(model, graph, …).")
    if not pruner.is_done(epochs - 1):
        raise ValueError(
            f"pruning ends at epoch {pruner.stop}, which {epochs} epochs do not reach; give fewer as stop=."
        )
    if pruner.edges is not None and sampler is not None:
        raise ValueError("edges are pruned of a graph that is trained on whole; leave sampler=None, or edges=None.")
    if history:
        raise ValueError("a history keeps codes, and pruning is of float models; leave history=False, or pruner=None.")


def _under_budget(model, example, budget, config):
    """A low-bit copy whose groups of nodes keep the budget, or bits that are to be learned."""
    if config is None or config.node_groups is None:
        return LearnedBits(model, *example, budget=budget, config=config)
    if not isinstance(budget, Mapping) or set(budget) != {"hidden"}:
        raise ValueError(f"with node_groups the budget is {{'hidden': bytes}}, of hidden states; got {budget!r}.")
    return allocate_groups(quantize(model, config, *example), *example, budget=budget["hidden"])


# Options that say what steps are made of, as they are unless told.
_OF_DATA = {"sampler": None, "transform": None, "num_workers": 0, "history": False, "sparse": None}


def _check_data(graph, sampler, transform, num_workers, history, **others):
    if is_distributed(graph):
        others = {"transform": transform, "num_workers": num_workers, "history": history, **others}
        check_dist_graph(graph, sampler, **others)
    else:
        check_graph(graph)
        check_workers(num_workers, sampler, graph)
        check_history(history, sampler, transform)


def _data_of(graph, model, sampler, batch_size, **options):
    if is_distributed(graph):
        return Shares(graph, sampler, batch_size)
    return WholeGraph(graph, sampler=sampler, batch_size=batch_size, ranks=protects(model), **options)


def _check_counts(**counts):
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count!r}.")


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
    batch_size: int = _BATCH_SIZE,
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
        ``num_workers``, ``sparse`` and ``bits`` then.
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
        When the graph lacks features, labels or masks, ``epochs`` is not positive, ``schedule`` is unknown,
        ``num_workers`` cannot sample, the loss is not finite, or ``checkpoint`` belongs to another run.
    LostProcessError
        When another process is gone or ends, or the models of processes come apart. A process whose servers do not
        answer ends with its message.
    """
    check_model(model, "train")
    of_data = {
        "sampler": sampler, "transform": transform, "num_workers": num_workers, "history": history, "sparse": sparse
    }  # fmt: skip
    _check_data(graph, budget=bits, pruner=pruner, **of_data)
    _check_counts(epochs=epochs, patience=patience, batch_size=batch_size)
    if not 0 <= distillation <= 1:
        raise ValueError(f"distillation is a part of the loss, from 0 to 1, got {distillation!r}.")
    if bits is not None and bits.model is not model:
        raise ValueError("bits are those of bits.model; train that.")
    if bits is None and any(isinstance(module, LearnedBitsQuantizer) for module in model.modules()):
        raise ValueError(_WITHOUT_PRICE)
    _check_pruner(pruner, model, epochs, **of_data)
    make_schedule = schedule_of(schedule)
    lr, weight_decay, quantizer_lr = map(float, (lr, weight_decay, quantizer_lr))  # checkpoints hold no NumPy numbers
    devices = [graph.device] if graph.device.type == "cuda" else []
    with contextlib.ExitStack() as stack:
        stack.enter_context(processes_of(graph).together())
        stack.enter_context(torch.random.fork_rng(devices=devices))
        data = _data_of(graph, model, batch_size=batch_size, **of_data)
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
