"""The quantisers of a call site."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from torch import nn

from ...config import QuantConfig


class Shape(NamedTuple):
    """What a component of a site is built for: its channel count (None: one scale for all), and if sums are plain."""

    channels: int | None
    is_plain_sum: bool


class Site(nn.ModuleDict):
    """Quantisers of one call over edges, by component: "messages", "scores", "attention".

    It is registered on the module whose forward makes the call, under the name of the call, as ``update_all_0``: the
    kind, and the number of the call, of any kind, since the module's forward was entered. ``state_dict``,
    :func:`dgl_lowbit.diagnose`, :func:`dgl_lowbit.sensitivity` and ``QuantConfig.overrides`` so name a quantiser
    ``"conv1.update_all_0.messages"``.

    Products by type (``dgl.ops.segment_mm``, ``gather_mm``) have "inputs" and "weights".

    Notes
    -----
    Calls are told apart by their number alone. A forward that leaves some out, as for edge types without edges in a
    batch, must make them in the order of the example, or hold each in a module of its own. What
    ``torch.utils.checkpoint`` computes anew must be a module too, not a function that calls DGL: a module's forward
    counts from 0 again.
    """

    @classmethod
    def build(cls, config: QuantConfig, shapes: dict[str, Shape]) -> Site:
        """A site with fresh quantisers of ``config``."""
        return cls({component: _quantizer(config, component, shape) for component, shape in shapes.items()})


def _quantizer(config, component, shape):
    if component == "messages" and config.messages_granularity == "shift" and not shape.is_plain_sum:
        config = replace(config, messages_granularity="channel")  # a shift per row serves sums of rows alone
    return config.quantizer_for(component, channels=shape.channels)
