"""What :func:`dgl_lowbit.fit` and :func:`dgl_lowbit.train` are told: checked before any work, and made into data."""

from __future__ import annotations

import numbers

from torch import nn

from ..nn import LowBitLayer
from ..nn.protection import protects
from ..pruning import Pruner
from ..quant import LearnedBitsQuantizer
from ..quant.base import range_rates
from .batches import check_graph
from .distributed import Shares, check_dist_graph, is_distributed
from .features import check_store, is_large
from .message_history import check_history
from .sampling import check_workers, learns
from .stage import PartlyDecoded, WholeGraph

BATCH_SIZE = 512
# Epochs in which bits are learned, and their rate.
BITS_EPOCHS, BITS_RATE = 100, 0.1
WITHOUT_PRICE = (
    "bits that are learned need a price: pass budget= to fit, as in fit(model, graph, budget={'model': 20_000}), or "
    "bits= to train; else use quantizer='qlr'."
)


def parameter_groups(
    model: nn.Module,
    lr: float = 0.01,
    weight_decay: float = 5e-4,
    quantizer_lr: float = 0.01,
    no_decay=(),
    bits_lr: float = BITS_RATE,
) -> list:
    """Optimiser groups: weights with decay; those without; ranges, and bits, at own rates without decay.

    Each group has its rate and decay, whatever ``lr`` and ``weight_decay`` the optimiser is given beside them.

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


# Options that say what steps are made of, as they are unless told.
OF_DATA = {"sampler": None, "transform": None, "num_workers": 0, "history": False, "sparse": None, "feat": None}


def check_data(graph, sampler, transform, num_workers, history, sparse, feat, protect, **others):
    if is_distributed(graph):
        others = {"transform": transform, "num_workers": num_workers, "history": history, "sparse": sparse, **others}
        check_dist_graph(graph, sampler, feat, protect=protect, **others)
    else:
        check_graph(graph, feat)
        check_workers(num_workers, sampler, graph)
        check_history(history, sampler, transform)
        check_store(feat, sampler, sparse, history=history, **others)


def data_of(graph, model, sampler, batch_size, feat=None, **options):
    degrees = counts_neighbours(model)
    if is_distributed(graph):
        return Shares(graph, sampler, batch_size, feat, degrees)
    kind = PartlyDecoded if is_large(feat) and sampler is not None else WholeGraph
    known = {"ranks": protects(model), "degrees": degrees and len(graph.etypes) == 1}
    return kind(graph, sampler=sampler, batch_size=batch_size, feat=feat, **known, **options)


def counts_neighbours(model: nn.Module) -> bool:
    """Whether sums of a low-bit model are smaller on sampled blocks, unless these know the degrees of the graph."""
    return any(
        isinstance(layer, LowBitLayer) and layer.is_low_bit and layer.counts_neighbours for layer in model.modules()
    )


def check_counts(**counts):
    for name, count in counts.items():
        if count is not None and (isinstance(count, bool) or not isinstance(count, numbers.Integral)):
            raise ValueError(f"{name} must be a whole number, got {count!r}.")
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count!r}.")


def check_pruner(pruner, model, epochs, sampler, history, **_):
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
    if learns(sampler):
        raise ValueError(
            f"{type(sampler).__name__} learns from codes, and pruning is of float models; sample with "
            "dgl.dataloading.NeighborSampler, or pass pruner=None."
        )
    if history:
        raise ValueError("a history keeps codes, and pruning is of float models; leave history=False, or pruner=None.")
