"""Modules that wrap a model, which functions on models do not look into."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

# The attribute under which each kind keeps the model.
_KEPT_AS = {
    nn.parallel.DistributedDataParallel: "module",
    nn.DataParallel: "module",
    AveragedModel: "module",
}


def check_model(model: object, function: str) -> None:
    """Raise ValueError, naming ``function``, unless ``model`` is a module, and itself no wrapper of one.

    Wrappers are DistributedDataParallel, DataParallel, AveragedModel and what ``torch.compile`` makes.
    """
    name = type(model).__name__
    if isinstance(model, (list, tuple)) and model and all(isinstance(part, nn.Module) for part in model):
        raise ValueError(
            f"{function} expects a torch.nn.Module, got a {name} of them; pass torch.nn.ModuleList(model)."
        )
    if not isinstance(model, nn.Module):
        raise ValueError(f"{function} expects a torch.nn.Module, got {name}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(f"{function} expects a model in Python, got a {name}; pass the one that was scripted.")
    kept_as = "_orig_mod" if "_orig_mod" in model._modules else None
    kept_as = next((kept for kind, kept in _KEPT_AS.items() if isinstance(model, kind)), kept_as)
    if kept_as is not None:
        raise ValueError(
            f"{function} expects the model itself, got {name}, which wraps it; pass model.{kept_as}, and wrap what "
            "comes of it anew."
        )
