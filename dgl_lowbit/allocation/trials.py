"""What widths of components cost in accuracy: a low-bit model in which every component can have every width."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..config import QuantConfig
from ..nn.message_passing.last_call import with_own_frames
from ..quant.evaluation import evaluating, forget, observing
from .mixture import Mixture
from .outputs import log_probabilities, rows_of
from .widths import costs_of, quantized_at

# Bits of each free component, in the order of :attr:`Trials.names`.
Bits = tuple[int, ...]


class Trials:
    """Measured losses of a model at chosen bits, each taken once.

    The loss is the mean of KL(float ‖ low-bit) over rows of the output, of a model that is calibrated and not trained.
    A quantiser's range hangs on the bits of the components that are met before it, and is searched once for each.

    Attributes
    ----------
    names : list of str
        The components whose bits may be chosen, in the order a forward meets them.
    widths : tuple of int
        What they may have, ascending.
    costs : Costs
    losses : dict
        What has been measured, by bits.
    on_measured : callable
        Called after each.
    """

    def __init__(self, model: nn.Module, config: QuantConfig, widths: Sequence[int], nodes, args: tuple, kwargs: dict):
        self.widths, self.losses = tuple(sorted(widths)), {}
        self.on_measured: Callable = lambda: None
        copies = quantized_at(self.widths, model, config, args, kwargs)
        self._model = copies[self.widths[-1]]
        self.costs, self._call = costs_of(copies, args, kwargs)
        self.names = self.costs.free
        self._quantizers: dict[tuple[str, int], Any] = {
            (path, width): low_bit.get_submodule(path)
            for width, low_bit in copies.items()
            for part in self.costs.components.values()
            for path in part.quantizers
        }
        # By name and bits of a quantiser and the bits of components that were met before it.
        self._ranges: dict[tuple[str, int, Bits], dict] = {}
        with torch.no_grad():
            own_args, own_kwargs = with_own_frames((args, kwargs))
            output = copy.deepcopy(model).eval()(*own_args, **own_kwargs)  # it may keep what it computes
        self._rows = rows_of(output, nodes, (*args, *kwargs.values()))
        self._expected = log_probabilities(output, self._rows)
        if any(part.shape[-1] < 2 for part in self._expected):
            raise ValueError("the loss compares classes, and the model's output has one column.")
        if any(part.isnan().any() for part in self._expected):
            raise ValueError("the model's output holds NaN or infinity; name rows without by nodes=.")

    @property
    def highest(self) -> Bits:
        return (self.widths[-1],) * len(self.names)

    @property
    def device(self) -> torch.device:
        return self._expected[0].device

    def cost(self, bits: Bits) -> dict[str, float]:
        return self.costs.of(dict(zip(self.names, bits)))

    @torch.no_grad()
    def loss(self, bits: Bits) -> float:
        """Mean KL(float ‖ low-bit) of the model at ``bits``."""
        if bits not in self.losses:
            loss = float(self._divergence(self._searched(bits)))
            self.losses[bits] = math.inf if math.isnan(loss) else loss
            self.on_measured()
        return self.losses[bits]

    def loss_of_mixtures(self, shares: torch.Tensor) -> torch.Tensor:
        """The loss with each free component at all widths at once, in ``shares``, (names, widths), differentiable.

        Ranges are those that were last searched.
        """
        of_names = dict(zip(self.names, shares))
        for name, part in self.costs.components.items():
            for path in part.quantizers:
                if name in of_names:
                    self._place(path, Mixture([self._quantizers[path, w] for w in self.widths], of_names[name]))
                else:
                    self._place(path, self._quantizers[path, self.widths[-1]])
        return self._divergence(self._run(()))

    def _divergence(self, output) -> torch.Tensor:
        pairs = list(zip(self._expected, log_probabilities(output, self._rows)))
        total = torch.stack([torch.where(e > -math.inf, e.exp() * (e - g), 0.0).sum() for e, g in pairs]).sum()
        return total / sum(e[..., 0].numel() for e, _ in pairs)

    def _place(self, path, quantizer):
        holder, _, key = path.rpartition(".")
        self._model.get_submodule(holder)[key] = quantizer

    def _searched(self, bits):
        """The output at ``bits``; ranges that are not known yet are searched and kept."""
        chosen, unknown = {**dict(zip(self.names, bits)), **self.costs.kept}, {}
        for name, part in self.costs.components.items():
            width = self.widths[-1] if name in self.costs.kept else chosen[name]
            for path in part.quantizers:
                met = tuple(chosen[other] for other in self.costs.before.get(path, ()))
                quantizer = self._quantizers[path, width]
                self._place(path, quantizer)
                known = self._ranges.get((path, width, met))
                if known is None:
                    unknown[path, width, met] = quantizer
                else:
                    quantizer.load_state_dict(known)
        output = self._run(unknown.values())
        for key, quantizer in unknown.items():
            self._ranges[key] = {name: value.clone() for name, value in quantizer.state_dict().items() if name}
        return self._run(()) if unknown and self.costs.meets_again else output

    def _run(self, searched):
        args, kwargs = with_own_frames(self._call)
        forget(self._model)  # it was propagated at other bits
        with evaluating(self._model), observing(searched, observing=True):
            return self._model(*args, **kwargs)
