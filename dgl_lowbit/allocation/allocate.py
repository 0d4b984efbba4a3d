"""Bits of each component of each layer, under a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from ..config import QuantConfig, checked_config
from ..nn.example import check_example
from ..nn.stored import decoded
from ..nn.wrappers import check_model
from ..progress import progress_bar
from ..quant import SUPPORTED_BITS
from .budget import check_budget, check_possible
from .relaxed import relaxed
from .search import exhaustive, greedy
from .tree import tree
from .trials import Trials
from .widths import with_bits

METHODS = {"greedy": greedy, "exhaustive": exhaustive, "tree": tree, "relaxed": relaxed}


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
    method : {"greedy", "exhaustive", "tree", "relaxed"}
        "greedy" begins with the highest width everywhere and lowers the component that loses least for what it saves,
        each time measured anew, until the budget is kept; it then raises components at the cost of others as long as
        that helps. "exhaustive" measures all assignments, where there are few. "tree" measures some 70, most of them
        proposed by a regression tree of those before (arXiv:2007.05100). "relaxed" codes every component at all widths
        at once, in shares that are trained for 100 steps (arXiv:2505.09361), and rounds them: the number of steps does
        not grow with that of components, as with "greedy", which in small models finds more.
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
    TypeError
        When the model's ``forward`` does not take ``args`` and ``kwargs``.
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
    config = checked_config(config)
    check_budget(budget)
    check_example(model, allocate, args, kwargs)
    args, kwargs = decoded((args, kwargs))
    _check(method, widths)
    trials = Trials(model, config, widths, nodes, args, kwargs)
    check_possible(trials.costs, budget, trials.widths[0])
    with progress_bar(progress, "allocating", unit=" trials") as bar:
        trials.on_measured = bar.update
        bits = METHODS[method](trials, budget)
    return with_bits(config, dict(zip(trials.names, bits)))


def _check(method, widths):
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    packed = [bits for bits in SUPPORTED_BITS if bits < 32]
    if not widths or len(set(widths)) < len(widths) or not set(widths) <= set(packed):
        raise ValueError(f"widths are among {packed}, each once, got {tuple(widths)!r}.")
