"""Bits of each component of each layer, under a budget."""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real

from torch import nn
from tqdm import tqdm

from ..config import QuantConfig
from ..nn.wrappers import check_model
from ..quant import SUPPORTED_BITS
from .cost import MEASURES
from .search import excess, exhaustive, greedy
from .tree import tree
from .trials import Bits, Trials

METHODS = {"greedy": greedy, "exhaustive": exhaustive, "tree": tree}


def allocate(
    model: nn.Module,
    *args,
    budget: Mapping[str, float],
    config: QuantConfig | None = None,
    method: str = "greedy",
    widths: Sequence[int] = (1, 2, 4, 8),
    nodes=None,
    progress: bool = True,
    **kwargs,
) -> QuantConfig:
    """Bits where they count: a width for each component of each layer, with which a model keeps a budget.

    What a choice loses is measured by a calibrated run of the low-bit model: KL(float ‖ low-bit) of its output as
    logits, without labels. :func:`dgl_lowbit.fit` or a loop of your own then trains with the config.

    Parameters
    ----------
    model : torch.nn.Module
        Float and trained; it is left as it is.
    *args, **kwargs
        What the model is called with: ``graph, feat``.
    budget : mapping of str to float
        The most there may be of each measure named. ``"model"``: bytes of the arrays of the packed model's file, to
        which a header of some thousand bytes comes. ``"states"``: bytes of what layers code of nodes, inputs,
        messages and aggregates, in a call. ``"edges"``: bytes that edges read in sums over neighbours. Rows are padded
        as kernels pad them. ``"bits"``: the mean over components that are chosen, each counted once.
        :func:`dgl_lowbit.allocation.cost` says what a config costs.
    config : QuantConfig, optional
        Everything but ``bits``. Components that it gives bits of their own keep them. Default: ``QuantConfig()``.
    method : {"greedy", "exhaustive", "tree"}
        "greedy" begins with the highest width everywhere and lowers the component that loses least for what it saves,
        each time measured anew, until the budget is kept; it then raises components at the cost of others as long as
        that helps. "exhaustive" measures all assignments, where there are few. "tree" measures some 70, most of them
        proposed by a regression tree of those before (arXiv:2007.05100).
    widths : sequence of int
        Bits to choose from. 3-bit codes are stored as 4 bits.
    nodes : tensor, optional
        Rows of the output that are compared, a mask or integers; by key where the output is a dict. Default: those of
        the graph's ``val_mask``, for outputs by node type of the types that have one; without any, all.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    QuantConfig
        ``config`` with an override for each component that was chosen, by its dotted name.

    Raises
    ------
    ValueError
        For a budget that cannot be kept (the error says the least possible), unknown measures, methods or widths, a
        space too large for "exhaustive", an output of one column or with NaN, ``nodes`` that do not fit the output or
        choose nothing, and as :func:`dgl_lowbit.quantize`.

    Notes
    -----
    Bits by layer and component under a budget are what arXiv:2007.05100 and arXiv:2505.09361 search for too. Scores and
    attention keep 8 bits.

    Examples
    --------
    >>> import dgl, dgl.nn, torch
    >>> graph = dgl.add_self_loop(dgl.rand_graph(50, 200))
    >>> config = allocate(dgl.nn.GraphConv(90, 64), graph, torch.rand(50, 90), budget={"bits": 2}, progress=False)
    >>> sorted(name for name, _ in config.overrides)
    ['inputs', 'messages', 'weights']
    """
    check_model(model, "allocate")
    config = QuantConfig() if config is None else config
    if not isinstance(config, QuantConfig):
        raise ValueError(f"config must be a QuantConfig, got {type(config).__name__}.")
    _check(budget, method, widths)
    trials = Trials(model, config, widths, nodes, args, kwargs)
    _check_possible(trials, budget)
    with tqdm(desc="allocating", unit=" trials", disable=not progress, leave=False, dynamic_ncols=True) as bar:
        trials.on_measured = bar.update
        bits = METHODS[method](trials, budget)
    return config_of(trials, config, bits)


def config_of(trials: Trials, config: QuantConfig, bits: Bits) -> QuantConfig:
    """``config`` with the bits of each component by name."""
    chosen = {glob.escape(name): width for name, width in zip(trials.names, bits)}
    return replace(config, overrides={**dict(config.overrides), **chosen})


def _check(budget, method, widths):
    if not isinstance(budget, Mapping) or not budget or not budget.keys() <= MEASURES.keys():
        raise ValueError(
            f"budget maps measures, {', '.join(map(repr, MEASURES))}, to the most there may be, as "
            f"{{'model': 20_000}}; got {budget!r}."
        )
    if any(
        isinstance(limit, bool) or not isinstance(limit, Real) or not 0 < limit < math.inf for limit in budget.values()
    ):
        raise ValueError(f"a budget is a positive number, got {dict(budget)!r}.")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    packed = [bits for bits in SUPPORTED_BITS if bits < 32]
    if not widths or len(set(widths)) < len(widths) or not set(widths) <= set(packed):
        raise ValueError(f"widths are among {packed}, each once, got {tuple(widths)!r}.")


def _check_possible(trials, budget):
    lowest = (trials.widths[0],) * len(trials.names)
    if excess(trials, lowest, budget):
        least = trials.cost(lowest)
        named = ", ".join(f"{MEASURES[m]}: {least[m]:,.10g} for {limit:,.10g}" for m, limit in budget.items())
        raise ValueError(f"the budget cannot be kept; the least possible, at {trials.widths[0]} bits, are {named}.")
