"""What widths of components cost in accuracy: a low-bit model in which every component can have every width."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from ..calibration import calibrate
from ..config import QuantConfig
from ..convert import FloatModuleWarning, quantize
from ..nn.message_passing.last_call import with_own_frames
from ..quant.evaluation import evaluating, observing
from ..quant.sparse import SparseFeatures
from ..training.batches import mostly_zero
from .cost import Costs, bits_of, components_of, measured
from .outputs import log_probabilities, rows_of

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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FloatModuleWarning)
            copies = {w: quantize(model, replace(config, bits=w), *args, **kwargs) for w in self.widths}
        self._model = copies[self.widths[-1]]
        if any(components_of(low_bit) != components_of(self._model) for low_bit in copies.values()):
            raise ValueError(
                "what the model's layers code hangs on their bits, as where states have bits of their own; allocate "
                "with QuantConfig(states=32), and give states their bits in the config that comes of it."
            )
        self._call = self._sparse(args, kwargs)
        self.costs: Costs = measured(self._model, *self._call)
        for name, part in self.costs.components.items():
            if any(bits_of(low_bit, part) != width for width, low_bit in copies.items()):
                self.costs.kept[name] = bits_of(self._model, part)
        self.names = self.costs.free
        if not self.names:
            raise ValueError("the config gives every component bits of its own; leave those out that are to be chosen.")
        self._quantizers = {
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

    def cost(self, bits: Bits) -> dict[str, float]:
        return self.costs.of(dict(zip(self.names, bits)))

    @torch.no_grad()
    def loss(self, bits: Bits) -> float:
        """Mean KL(float ‖ low-bit) of the model at ``bits``."""
        if bits not in self.losses:
            output = self._searched(bits)
            pairs = list(zip(self._expected, log_probabilities(output, self._rows)))
            total = sum(float(torch.where(e > -math.inf, e.exp() * (e - g), 0.0).sum()) for e, g in pairs)
            self.losses[bits] = math.inf if math.isnan(total) else total / sum(e[..., 0].numel() for e, _ in pairs)
            self.on_measured()
        return self.losses[bits]

    def _searched(self, bits):
        """The output at ``bits``; ranges that are not known yet are searched and kept."""
        chosen, unknown = {**dict(zip(self.names, bits)), **self.costs.kept}, {}
        for name, part in self.costs.components.items():
            width = self.widths[-1] if name in self.costs.kept else chosen[name]
            for path in part.quantizers:
                met = tuple(chosen[other] for other in self.costs.before.get(path, ()))
                holder, _, key = path.rpartition(".")
                quantizer = self._quantizers[path, width]
                self._model.get_submodule(holder)[key] = quantizer
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
        for module in self._model.modules():
            if getattr(module, "_cached_h", None) is not None:
                module._cached_h = None  # it was propagated at other bits
        with evaluating(self._model), observing(searched, observing=True):
            return self._model(*args, **kwargs)

    def _sparse(self, args, kwargs):
        """The call with bags of words as their non-zeros, where the model takes them; ranges are taken from it."""
        sparse = tuple(SparseFeatures.from_dense(x) if _is_sparse(x) else x for x in args)
        try:
            calibrate(self._model, *sparse, **kwargs)
            return sparse, kwargs
        except Exception:  # whatever a model does with features that it cannot do with these
            if all(a is b for a, b in zip(sparse, args)):
                raise
        calibrate(self._model, *args, **kwargs)
        return args, kwargs


def _is_sparse(x):
    return isinstance(x, torch.Tensor) and x.is_floating_point() and x.dim() == 2 and mostly_zero(x)
