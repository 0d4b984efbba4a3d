"""Models of which some layers run packed."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

from ..convert import FloatModuleWarning
from .recorder import FreezeError


class PartlyPacked(nn.Module):
    """A low-bit model of which some layers run packed and the rest in float32, by torch and DGL, on the CPU.

    Made by ``freeze(model, partial=True)``. It is called as the model was; it has no file of its own.

    Parameters
    ----------
    model : torch.nn.Module
        Copied, its packed layers replaced.
    packed : dict of str to PackedModel
        Layers by name.
    reasons : dict of str to str
        What does not run packed, and why.

    Attributes
    ----------
    packed_parts : list of str
        Names of the layers that run packed.
    float_parts : dict of str to str
        Names of what does not, and why.
    """

    def __init__(self, model, packed, reasons):
        super().__init__()
        self.model = copy.deepcopy(model).eval().cpu()
        self.packed_parts, self.float_parts = list(packed), dict(reasons)
        for name, layer in packed.items():
            parent, _, attribute = name.rpartition(".")
            setattr(self.model.get_submodule(parent), attribute, _PackedLayer(layer))
        for name, module in self.model.named_modules():
            inside = any(name.startswith(f"{part}.") for part in self.float_parts)
            has_own = next(module.parameters(recurse=False), None) is not None
            if has_own and not inside and name not in self.float_parts:
                self.float_parts[name] = f"{type(module).__name__} is no low-bit layer"
        warnings.warn(
            f"packed are {', '.join(self.packed_parts)}; in float32 run {', '.join(self.float_parts)}: "
            f"{self.float_parts['forward']}",
            FloatModuleWarning,
            stacklevel=5,
        )

    @torch.no_grad()
    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)

    def save(self, path):
        """Refused: a file holds whole packed models."""
        raise FreezeError(
            "a partly frozen model cannot be saved, as its forward is Python; freeze it whole, or hand freeze a list "
            "of stages."
        )


class _PackedLayer(nn.Module):
    """A packed layer in a float model."""

    def __init__(self, packed):
        super().__init__()
        self.packed = packed

    def forward(self, *args, **kwargs):
        return self.packed(*args, **kwargs)

    def extra_repr(self):
        return repr(self.packed)
