"""What of each layer goes by its channels: tensors to cut, numbers that say how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import dgl.nn
import torch
from torch import nn


@dataclass(frozen=True)
class Cut:
    """A parameter or buffer of a layer, by dotted name, with ``per`` entries along ``dim`` for each channel."""

    name: str
    dim: int
    per: int = 1

    def entries(self, channels: torch.Tensor) -> torch.Tensor:
        """Places along ``dim`` of ``channels``, numbers."""
        return (channels[:, None] * self.per + torch.arange(self.per, device=channels.device)).flatten()


@dataclass(frozen=True)
class Anatomy:
    """What narrows with a layer.

    ``features`` names the argument of ``forward`` whose last dimension are ``columns``; ``inputs`` are cut with these,
    ``outputs`` with its ``channels``, each ``width`` columns of what it returns. ``columns_in`` and ``channels_in`` are
    attributes that hold their numbers, with how many times. Of a ``channelwise`` layer columns are channels.
    """

    features: str
    columns: int
    channels: int
    inputs: tuple[Cut, ...]
    outputs: tuple[Cut, ...]
    columns_in: tuple[tuple[str, int], ...]
    channels_in: tuple[tuple[str, int], ...]
    width: int = 1
    channelwise: bool = False


_KNOWN: dict[type, Callable] = {}


def _knows(*classes):
    def register(function):
        _KNOWN.update(dict.fromkeys(classes, function))
        return function

    return register


def anatomy(layer: nn.Module) -> Anatomy | None:
    """What narrows with ``layer``; None where that is not known."""
    kind = getattr(type(layer), "float_class", None) or type(layer)
    return _KNOWN[kind](layer) if kind in _KNOWN else None


def _there(layer, *cuts):
    """Those of cuts whose tensors there are."""
    return tuple(cut for cut in cuts if _get(layer, cut.name) is not None)


def _get(layer, name):
    for part in name.split("."):
        layer = getattr(layer, part, None)
    return layer


@_knows(nn.Linear)
def _linear(layer):
    return Anatomy(
        "input", layer.in_features, layer.out_features, (Cut("weight", 1),),
        _there(layer, Cut("weight", 0), Cut("bias", 0)), (("in_features", 1),), (("out_features", 1),),
    )  # fmt: skip


@_knows(nn.BatchNorm1d)
def _batch_norm(layer):
    cuts = (Cut(name, 0) for name in ("weight", "bias", "running_mean", "running_var"))
    count, numbers = layer.num_features, (("num_features", 1),)
    return Anatomy("input", count, count, (), _there(layer, *cuts), (), numbers, channelwise=True)


@_knows(dgl.nn.GraphConv)
def _graph_conv(layer):
    if layer.weight is None:
        return None
    return Anatomy(
        "feat", layer._in_feats, layer._out_feats, (Cut("weight", 0),),
        _there(layer, Cut("weight", 1), Cut("bias", 0)), (("_in_feats", 1),), (("_out_feats", 1),),
    )  # fmt: skip


@_knows(dgl.nn.SAGEConv)
def _sage_conv(layer):
    if layer._aggre_type not in ("mean", "gcn") or layer._in_src_feats != layer._in_dst_feats or layer.norm:
        return None
    linears = [name for name in ("fc_self", "fc_neigh") if hasattr(layer, name)]
    cuts = [Cut(f"{name}.{part}", 0) for name in linears for part in ("weight", "bias")]
    return Anatomy(
        "feat", layer._in_src_feats, layer._out_feats, tuple(Cut(f"{name}.weight", 1) for name in linears),
        _there(layer, *cuts, Cut("bias", 0)),
        (("_in_src_feats", 1), ("_in_dst_feats", 1), *((f"{name}.in_features", 1) for name in linears)),
        (("_out_feats", 1), *((f"{name}.out_features", 1) for name in linears)),
    )  # fmt: skip


@_knows(dgl.nn.GATConv, dgl.nn.GATv2Conv)
def _attention(layer):
    """Whole heads leave: what a head's channels are weighted with depends on all of them."""
    if layer._in_src_feats != layer._in_dst_feats or (layer.res_fc is not None and not hasattr(layer.res_fc, "weight")):
        return None  # what is handed on as it is has the width of what comes
    linears = [name for name in ("fc", "fc_src", "fc_dst", "res_fc") if _get(layer, f"{name}.weight") is not None]
    if getattr(layer, "share_weights", False):
        linears.remove("fc_dst")
    per = layer._out_feats
    of_linears = [Cut(f"{name}.{part}", 0, per) for name in linears for part in ("weight", "bias")]
    vectors = [Cut(name, 1) for name in ("attn", "attn_l", "attn_r")]
    own = [Cut("bias", 0, per)] if isinstance(layer.bias, torch.Tensor) else []
    return Anatomy(
        "feat", layer._in_src_feats, layer._num_heads, tuple(Cut(f"{name}.weight", 1) for name in linears),
        _there(layer, *of_linears, *vectors, *own),
        (("_in_src_feats", 1), ("_in_dst_feats", 1), *((f"{name}.in_features", 1) for name in linears)),
        (("_num_heads", 1), *((f"{name}.out_features", per) for name in linears)), per,
    )  # fmt: skip


# Modules that only call what they hold, whose own parameters are single numbers.
_TRANSPARENT = (nn.Sequential, nn.ModuleList, nn.ModuleDict, dgl.nn.HeteroGraphConv, dgl.nn.Sequential, dgl.nn.GINConv)


def layers_of(model: nn.Module) -> Iterator[tuple[str, nn.Module, Anatomy | None]]:
    """Layers by name, outermost, each once; with no anatomy where channels can neither come nor leave."""
    met = set()

    def walk(name, module):
        if module in met:
            return
        met.add(module)
        known = anatomy(module)
        is_library = type(module).__module__.startswith(("dgl.nn.", "torch.nn.", f"{__package__.partition('.')[0]}."))
        is_whole = is_library and not isinstance(module, _TRANSPARENT) and module is not model
        if known is not None or (is_whole and any(parameter.numel() > 1 for parameter in module.parameters())):
            yield name, module, known
            return
        for child, inner in module.named_children():
            yield from walk(f"{name}.{child}" if name else child, inner)

    yield from walk("", model)


@torch.no_grad()
def narrow(layer: nn.Module, known: Anatomy, columns: torch.Tensor | None, channels: torch.Tensor | None) -> None:
    """Leave of a layer only these columns of what it reads and these channels of what it returns, numbers; None: all.

    Tensors become new ones, gradients are dropped.
    """
    sides = (known.inputs, known.columns_in, columns), (known.outputs, known.channels_in, channels)
    for cuts, numbers, kept in sides:
        if kept is None:
            continue
        for cut in cuts:
            owner, name = _owner(layer, cut.name)
            tensor = getattr(owner, name)
            part = tensor.index_select(cut.dim, cut.entries(kept.to(tensor.device))).clone()
            is_parameter = isinstance(tensor, nn.Parameter)
            setattr(owner, name, nn.Parameter(part, tensor.requires_grad) if is_parameter else part)
        for path, times in numbers:
            owner, name = _owner(layer, path)
            setattr(owner, name, times * len(kept))


def _owner(layer, path):
    *parts, name = path.split(".")
    for part in parts:
        layer = getattr(layer, part)
    return layer, name


def dead_parts(layer: nn.Module, known: Anatomy, columns: torch.Tensor, channels: torch.Tensor) -> Iterator[tuple]:
    """The parts of parameters that go with dead ``columns`` and ``channels``, numbers: parameter, dimension, places."""
    for cuts, dead in ((known.inputs, columns), (known.outputs, channels)):
        for cut in cuts:
            owner, name = _owner(layer, cut.name)
            if isinstance(getattr(owner, name), nn.Parameter) and len(dead):
                yield getattr(owner, name), cut.dim, cut.entries(dead)
