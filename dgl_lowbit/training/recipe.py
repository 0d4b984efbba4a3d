"""The training recipe: a float model, then its low-bit copy taught by it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import dgl
from torch import nn

from ..allocation import LearnedBits, allocate_groups
from ..allocation.groups import place_groups
from ..config import QuantConfig, checked_config
from ..convert import quantize
from ..nn.example import check_options
from ..nn.stored import is_store
from ..nn.wrappers import check_model
from ..pruning import Pruner
from .distributed import processes_of
from .features import all_rows
from .history import History
from .in_batches import InBatches
from .loop import train
from .message_history import layers_that_sum, sending_codes
from .options import (
    BATCH_SIZE,
    BITS_EPOCHS,
    OF_DATA,
    WITHOUT_PRICE,
    check_counts,
    check_data,
    check_pruner,
    counts_neighbours,
    data_of,
)
from .resume import Checkpoint
from .sampling import learns

# Epochs without a better one after which a stage that starts from trained weights is done.
PATIENCE = 100


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
    float_patience: int | None = PATIENCE,
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

    With a ``sampler``, and no ``pruner``, a model with ``GraphConv(norm="both")`` has in both stages sums over what was
    drawn that stand for those over whole neighbourhoods, see :func:`dgl_lowbit.nn.with_degrees`. For that, as with
    histories and samplers that learn, the float stage trains a copy which sends codes of 8 bits, and ``model`` takes
    its parameters and buffers.

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
        As for :func:`train`: features, rates, seed, schedule, mini-batches.

    Returns
    -------
    Fitted
        ``model`` (low-bit), ``teacher`` (the float model, whole), ``history`` and ``teacher_history``, and ``config``,
        with an override for each component whose bits were learned.

    Raises
    ------
    TypeError
        For options that there are not.
    ValueError
        As for :func:`train` and :func:`quantize`; when ``checkpoint`` belongs to another run; for a budget that cannot
        be kept.
    LostProcessError
        As for :func:`train`.
    """
    check_model(model, "fit")
    check_options(fit, train, options)
    checked_config(config)
    of_data = {name: options.get(name, default) for name, default in OF_DATA.items()}
    check_data(graph, budget=budget, pruner=pruner, protect=config and config.protect, **of_data)
    float_epochs = epochs if float_epochs is None else float_epochs
    check_counts(
        epochs=epochs, float_epochs=float_epochs or None, bits_epochs=bits_epochs, patience=patience,
        float_patience=float_patience,
    )  # fmt: skip
    if budget is None and config is not None and config.quantizer == "hgq":
        raise ValueError(WITHOUT_PRICE)
    with processes_of(graph).together():
        if is_store(of_data["feat"]) and of_data["sampler"] is None:  # once for all stages
            options["feat"] = of_data["feat"] = all_rows(of_data["feat"], graph.device)
        data = data_of(graph, model, batch_size=options.get("batch_size", BATCH_SIZE), **of_data)
        check_pruner(pruner, model, epochs, **of_data)
        if float_epochs:  # what the config asks for may not be: said before any work
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                planned = [quantize(model if pruner is None else pruner.squeeze(), config, *data.example())]
                if budget is not None:
                    bounded = _under_budget(model, data.example(), budget, config)
                    planned.append(bounded.model if isinstance(bounded, LearnedBits) else bounded)
                for low_bit in planned if of_data["history"] else ():
                    layers_that_sum(low_bit)
        given_teacher, label = teacher, progress if isinstance(progress, str) else "training"
        saved = Checkpoint(checkpoint, resume, data.processes)
        bits = "low-bit" if config is None else f"INT{config.bits}"

        def stage(name, trained, teacher, epochs, patience, **more):
            return train(
                trained, graph, teacher=teacher, epochs=epochs, patience=patience, checkpoint=saved.stage(name),
                progress=progress and f"{label} {name}", **{**options, **more},
            )  # fmt: skip

        teacher_history, teacher, taught_by = History(), model, model
        if float_epochs:
            sampler = of_data["sampler"]
            counts = pruner is None and len(graph.etypes) == 1 and any(map(counts_neighbours, planned))
            sends_codes = sampler is not None and (of_data["history"] or learns(sampler) or counts)
            trained = sending_codes(model, config, data.example()) if sends_codes else model
            teacher_history = stage("float32", trained, given_teacher, float_epochs, float_patience)
            if sends_codes:
                state = trained.state_dict()
                model.load_state_dict({name: state[name] for name in model.state_dict()})
                model.eval()
                # Of blocks, which it is then called with, the copy alone knows the degrees of the graph.
                taught_by = trained if isinstance(data, InBatches) else model
        if pruner is not None:
            teacher = taught_by = pruner.squeeze()  # nothing has left
            stage("pruned", model, teacher, epochs, None, pruner=pruner)
            model, graph = pruner.squeeze(), pruner.graph
            data = data_of(graph, model, batch_size=options.get("batch_size", BATCH_SIZE), **of_data)
        learned = None if budget is None else _under_budget(model, data.example(), budget, config)
        if not isinstance(learned, LearnedBits):
            low_bit = quantize(model, config, *data.example()) if learned is None else learned
        else:
            bits = "low-bit"
            stage("learned bits", learned.model, taught_by, bits_epochs, None, bits=learned, schedule="cosine")
            low_bit, config = learned.settled(), learned.config()
        record = stage(bits if bits != "INT32" else "float32 again", low_bit, taught_by, epochs, patience)
        if learned is not None and learned is low_bit:
            place_groups(learned, data.example(), {})
        return Fitted(low_bit, teacher, record, teacher_history, config or QuantConfig())


def _under_budget(model, example, budget, config):
    """A low-bit copy whose groups of nodes keep the budget, or bits that are to be learned."""
    if config is None or config.node_groups is None:
        return LearnedBits(model, *example, budget=budget, config=config)
    if not isinstance(budget, Mapping) or set(budget) != {"hidden"}:
        raise ValueError(f"with node_groups the budget is {{'hidden': bytes}}, of hidden states; got {budget!r}.")
    return allocate_groups(quantize(model, config, *example), *example, budget=budget["hidden"])
