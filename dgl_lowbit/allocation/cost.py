"""What a low-bit model costs, component by component, at each width."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from numba_kernels.layout import dense_bytes, row_bytes, storage_bits

from ..calibration import calibrate
from ..config import QuantConfig
from ..convert import quantize
from ..nn import LowBitLayer
from ..nn.arguments import Role
from ..nn.message_passing import Call, FakeQuantise, Site, coded, handling
from ..nn.message_passing.last_call import with_own_frames
from ..nn.stored import decoded
from ..quant import QFormat, Quantizer
from ..quant.evaluation import evaluating, observing
from ..quant.learned import WIDTHS

MEASURES = {
    "model": "bytes of the packed model's arrays",
    "states": "bytes of what is coded of nodes",
    "edges": "bytes that edges read",
    "bits": "mean bits",
}
# Few numbers: neither are they states, nor what an edge mostly reads.
_SMALL = ("scores", "attention")


@dataclass
class Component:
    """What a layer, or call over edges, codes as one component: matrices of weights, rows of nodes, reads of edges.

    ``matrices`` are (columns, inputs), by quantiser; ``rows`` are (rows, width) and ``reads`` (rows that edges read,
    width), of each call.
    """

    quantizers: list[str]
    matrices: dict[str, tuple[int, int]] = field(default_factory=dict)
    rows: list[tuple[int, int]] = field(default_factory=list)
    reads: list[tuple[int, int]] = field(default_factory=list)

    def cost(self, bits: Any) -> dict[str, Any]:
        """The component's part of each of :data:`MEASURES`, at a width, or at a tensor of a number of bits.

        Of a number between two widths it lies on the line through theirs, so that it can be differentiated.
        """
        if isinstance(bits, torch.Tensor):
            above = next(width for width in WIDTHS[1:] if bits <= width or width == WIDTHS[-1])
            below = WIDTHS[WIDTHS.index(above) - 1]
            first, second, part = self.cost(below), self.cost(above), (bits - below) / (above - below)
            return {measure: first[measure] + part * (second[measure] - first[measure]) for measure in MEASURES}
        if QFormat(bits).is_float:
            return {"model": 0, "states": 0, "edges": 0, "bits": bits}
        stored = storage_bits(bits)
        return {
            "model": sum(count * dense_bytes(width, stored) for count, width in self.matrices.values()),
            "states": sum(count * row_bytes(width, stored) for count, width in self.rows),
            "edges": sum(count * row_bytes(width, stored) for count, width in self.reads),
            "bits": bits,
        }


@dataclass
class Costs:
    """What a model's components cost, by name, and the bytes of its file's arrays that hang on no width.

    ``free`` are the components whose bits may be chosen, of which the mean is taken; ``kept`` the bits of the others.
    ``before`` names, for each quantiser, the components whose codes a forward meets before it, ``meets_again`` says
    whether it meets a quantiser several times.
    """

    components: dict[str, Component]
    other_arrays: int
    before: dict[str, tuple[str, ...]]
    meets_again: bool
    kept: dict[str, int] = field(default_factory=dict)

    @property
    def free(self) -> list[str]:
        return [name for name in self.components if name not in self.kept]

    def of(self, bits: Mapping[str, Any]) -> dict[str, Any]:
        """Each of :data:`MEASURES`, for the bits of free components by name, as :meth:`Component.cost` takes them."""
        costs = {name: part.cost({**bits, **self.kept}[name]) for name, part in self.components.items()}
        total: dict[str, Any] = {
            measure: sum(cost[measure] for cost in costs.values()) for measure in ("model", "states", "edges")
        }
        total["model"] += self.other_arrays
        total["bits"] = sum(costs[name]["bits"] for name in self.free) / max(len(self.free), 1)
        return total


def cost(model: nn.Module, config: QuantConfig, *args, **kwargs) -> dict[str, float]:
    """What a float model costs once it is low-bit with ``config`` and packed; see :func:`allocate`.

    Parameters
    ----------
    model : torch.nn.Module
        Float; it is left as it is.
    config : QuantConfig
    *args, **kwargs
        What the model is called with: ``graph, feat``.

    Returns
    -------
    dict
        ``model``, bytes of the arrays of the packed model's file, to which its header comes, some thousand bytes of
        JSON; ``states``, bytes of the rows of codes that layers make of nodes in one call, inputs, messages and
        aggregates, padded as kernels pad rows; ``edges``, bytes of such rows that sums over neighbours read, one for
        each edge (weights that layers share are counted for each, weights that are computed, as from bases, for what
        is computed); ``bits``, the mean over all components, each counted once, as arXiv:2505.09361 counts.

    Examples
    --------
    >>> import dgl, dgl.nn
    >>> graph = dgl.add_self_loop(dgl.rand_graph(10, 20))
    >>> cost(dgl.nn.GraphConv(100, 64), QuantConfig(2), graph, torch.randn(10, 100))
    {'model': 2368, 'states': 480, 'edges': 480, 'bits': 2.0}
    """
    args, kwargs = decoded((args, kwargs))
    low_bit = calibrate(quantize(model, config, *args, **kwargs), *args, **kwargs)
    costs = measured(low_bit, args, kwargs)
    return costs.of({name: bits_of(low_bit, part) for name, part in costs.components.items()})


def components_of(model: nn.Module) -> dict[str, Component]:
    """The components of a low-bit model, by the names that ``QuantConfig.overrides`` know."""
    found: dict[str, Component] = {}
    for name, module in model.named_modules():
        if isinstance(module, LowBitLayer) and module.is_low_bit:
            inner = {f"quantizers.{key}": operand.component for key, operand in module.all_operands().items()}
        else:
            inner = {key: key for key in module} if isinstance(module, Site) else {}
        for key, component in inner.items():
            path = f"{name}.{key}".lstrip(".")
            if not _quantizer(model, path).format.is_float:
                found.setdefault(f"{name}.{component}".lstrip("."), Component([])).quantizers.append(path)
    return found


def bits_of(model: nn.Module, component: Component) -> int:
    """Bits of a component of a low-bit model."""
    return _quantizer(model, component.quantizers[0]).format.bits


def _quantizer(model, path) -> Any:
    return model.get_submodule(path)


@torch.no_grad()
def measured(model: nn.Module, args: tuple, kwargs: dict) -> Costs:
    """The costs of a low-bit model, calibrated, from one run of it; no bits are kept."""
    components = components_of(model)
    known = {path: (name, part) for name, part in components.items() for path in part.quantizers}
    places: dict[Quantizer, list[str]] = {}
    for path in known:
        places.setdefault(_quantizer(model, path), []).append(path)
    reads = _Reads(model)
    met: dict[str, Component] = {}
    before: dict[str, tuple[str, ...]] = {}
    times, scales = Counter(), {}

    def watch(quantizer, x, params):
        times[quantizer] += 1
        scales[quantizer] = _bytes_of_scales(quantizer, params)
        for path in places[quantizer]:
            name, part = known[path]
            kind = name.rpartition(".")[2]
            before[path] = () if kind == "weights" else tuple(met)
            met.setdefault(name, part)
            if kind == "weights":
                part.matrices[path] = (x.numel() // x.shape[-2], x.shape[-2])
            elif kind not in _SMALL:
                rows = x.numel() // x.shape[-1]
                part.rows.append((rows, x.shape[-1]))
                if kind == "messages":
                    part.reads.append((reads.of(path, rows), x.shape[-1]))

    own_args, own_kwargs = with_own_frames((args, kwargs))
    with evaluating(model), observing(places, watch=watch), reads:
        model(*own_args, **own_kwargs)
    coded_weights = sum(math.prod(matrix) for part in met.values() for matrix in part.matrices.values())
    ranges = {p for q in model.modules() if isinstance(q, Quantizer) for p in q.parameters()}
    uncoded = sum(p.numel() for p in model.parameters() if p not in ranges) - coded_weights
    other_arrays = 4 * max(uncoded, 0) + sum(scales.values())
    return Costs(met, other_arrays, before, meets_again=max(times.values(), default=0) > 1)


def _bytes_of_scales(quantizer, params):
    """Of scales and zero points a channel in a file, where one number does not stand for all."""
    if quantizer.granularity != "channel":
        return 0
    return sum(
        4 * part.numel() for part in (params.scale, params.zero_point) if bool((part != part.flatten()[0]).any())
    )


class _Reads:
    """How many rows the sum reads that each quantiser of messages codes for, while the model runs."""

    def __init__(self, model):
        self.layers = {name: m for name, m in model.named_modules() if isinstance(m, LowBitLayer) and m.is_low_bit}
        self.sites = {name: m for name, m in model.named_modules() if isinstance(m, Site)}
        self.edges: dict[nn.Module, int | None] = {}

    def of(self, path: str, rows: int) -> int:
        """Rows that are read of the ``rows`` coded: one an edge; of segments, which have no edges, each once."""
        owner = self.sites.get(path.rpartition(".")[0]) or self.layers.get(path.rpartition(".quantizers.")[0] or "")
        edges = self.edges.get(owner)
        return rows if edges is None else edges

    def __enter__(self):
        self._hooks = [layer.register_forward_pre_hook(self._enter, with_kwargs=True) for layer in self.layers.values()]
        self._handling = handling(self)
        self._handling.__enter__()

    def __exit__(self, *error):
        self._handling.__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def _enter(self, layer, args, kwargs):
        graph = layer.argument(Role.GRAPH, {**dict(zip(layer.arguments, args)), **kwargs})
        self.edges[layer] = None if graph is None else graph.num_edges()

    def __getattr__(self, kind: str) -> Any:
        """The handler of a kind of call: it notes the edges and goes on."""

        def run(call: Call):
            if call.site is not None and hasattr(call.graph, "number_of_etypes"):
                edges = sum(map(call.graph.number_of_edges, range(call.graph.number_of_etypes())))
                self.edges[call.site] = edges * len(coded(call, attention=False).get("messages", ()))
            return getattr(FakeQuantise(), kind)(call)

        return run
