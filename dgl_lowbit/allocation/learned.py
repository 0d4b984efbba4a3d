"""Bits that are learned in training, under a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..calibration import calibrate
from ..config import QuantConfig, checked_config
from ..convert import quantize
from ..nn.stored import decoded
from ..quant.learned import WIDTHS, LearnedBitsQuantizer
from ..quant.qlr import GRIDS
from .budget import check_budget, check_possible, excess, within_budget
from .widths import costs_of, quantized_at, with_bits

# What a loss is worth to which costs exceed the budget by all of it.
_PRICE = 1.0
# Steps of the search for where bits start.
_HALVINGS = 20


class LearnedBits:
    """A low-bit copy of a model, whose bits are parameters, and the price that a budget makes them pay.

    Each component of each layer has a number of bits of its own (:class:`dgl_lowbit.quant.LearnedBitsQuantizer`,
    arXiv:2405.00645), and the loss a term for what all cost over the budget, in parts of it (as in arXiv:2206.07741):
    max(0, cost / limit − 1). Costs between two widths lie on the line through theirs. All components begin with the
    same bits, as many as the budget allows. Bits and ranges are trained and weights stay as they are, since weights
    that get used to few bits hide what these cost.

    ``fit(…, budget=)`` does all of it. A loop of one's own trains :attr:`model`, at a rate of bits of about 0.1 that
    falls, adds :meth:`loss` to its own, calls :meth:`step` after the optimiser's, and goes on with :meth:`settled`.
    In models of few components :func:`dgl_lowbit.allocate` finds as much, and without labels.

    Parameters
    ----------
    model : torch.nn.Module
        Float and trained; it is left as it is.
    *args, **kwargs
        What the model is called with: ``graph, feat``.
    budget : mapping of str to float
        As of :func:`allocate`.
    config : QuantConfig, optional
        Everything but ``bits``. Components that it gives bits of their own keep them. Default: ``QuantConfig()``.

    Attributes
    ----------
    model : torch.nn.Module
        The low-bit copy, calibrated; only its bits and ranges require gradients.

    Raises
    ------
    ValueError
        For a budget that cannot be kept, unknown measures, quantisers without learned bits, and as :func:`quantize`.

    Examples
    --------
    >>> import dgl, dgl.nn
    >>> call = dgl.add_self_loop(dgl.rand_graph(50, 200)), torch.rand(50, 90)
    >>> learned = LearnedBits(dgl.nn.GraphConv(90, 64), *call, budget={"bits": 2})
    >>> (learned.model(*call).square().mean() + learned.loss()).backward()
    >>> sorted(learned.widths().items())
    [('inputs', 2), ('messages', 2), ('weights', 2)]
    """

    def __init__(
        self, model: nn.Module, *args, budget: Mapping[str, float], config: QuantConfig | None = None, **kwargs
    ):
        check_budget(budget)
        config = checked_config(config)
        if config.quantizer not in ("qlr", "hgq"):
            raise ValueError(f"bits are learned with learned ranges, quantizer='qlr', got {config.quantizer!r}.")
        if config.node_groups is not None:
            raise ValueError(
                "bits of groups of nodes are chosen under budget={'hidden': bytes}; leave node_groups out."
            )
        if config.grid not in GRIDS:
            raise ValueError(f"bits are learned on a grid of {', '.join(GRIDS)}, got {config.grid!r}.")
        args, kwargs = decoded((args, kwargs))
        copies = quantized_at((WIDTHS[0], WIDTHS[-1]), model, replace(config, quantizer="hgq"), args, kwargs)
        self.model, self.budget = copies[WIDTHS[-1]], {measure: float(limit) for measure, limit in budget.items()}
        self._float, self._call, self._config = model, (args, kwargs), replace(config, quantizer="qlr")
        self._costs, _ = costs_of(copies, args, kwargs)
        check_possible(self._costs, self.budget, WIDTHS[0])
        self._parameters = {name: self._one_for_all(name) for name in self._costs.components}
        quantizers = [module for module in self.model.modules() if isinstance(module, LearnedBitsQuantizer)]
        learned = {parameter for quantizer in quantizers for parameter in quantizer.parameters()}
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter in learned and parameter.requires_grad)
        for name in self._costs.kept:
            self._parameters.pop(name).requires_grad_(False)
        self._start()

    def _one_for_all(self, name) -> nn.Parameter:
        """The parameter that all quantisers of a component have for their bits."""
        quantizers: list[Any] = [self.model.get_submodule(path) for path in self._costs.components[name].quantizers]
        for quantizer in quantizers:
            quantizer.bits = quantizers[0].bits
        return quantizers[0].bits

    @torch.no_grad()
    def _start(self):
        """Give all components the most bits with which they keep the budget."""
        low, high = float(WIDTHS[0]), float(WIDTHS[-1])
        for _ in range(_HALVINGS):
            middle = torch.tensor((low + high) / 2)
            is_kept = not excess(self._costs.of(dict.fromkeys(self._parameters, middle)), self.budget)
            low, high = (float(middle), high) if is_kept else (low, float(middle))
        for bits in self._parameters.values():
            bits.fill_(low)

    @property
    def bits(self) -> dict[str, float]:
        """The bits of each component by name, as far as they are learned."""
        return {name: bits.item() for name, bits in self._parameters.items()}

    def loss(self) -> torch.Tensor | float:
        """What bits cost over the budget, priced; 0 where they keep it."""
        return torch.as_tensor(_PRICE * excess(self._costs.of(self._parameters), self.budget))

    @torch.no_grad()
    def step(self) -> None:
        """Keep bits between the least and the most that codes have."""
        for bits in self._parameters.values():
            bits.clamp_(WIDTHS[0], WIDTHS[-1])

    def widths(self) -> dict[str, int]:
        """The width of each component by name, with which the budget is kept."""
        return within_budget(self._costs, self.bits, WIDTHS, self.budget)

    def config(self) -> QuantConfig:
        """The config with an override for each component whose bits were learned."""
        return with_bits(self._config, self.widths())

    def settled(self) -> nn.Module:
        """An ordinary model of :meth:`config`, calibrated, to be trained on or frozen.

        Its ranges are those of one look at the data: from what ranges have learned beside bits, with weights that stay,
        a low-bit stage ends a point worse (Cora).
        """
        args, kwargs = self._call
        return calibrate(quantize(self._float, self.config(), *args, **kwargs), *args, **kwargs)
