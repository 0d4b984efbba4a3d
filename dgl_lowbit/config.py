"""Which components of a layer are quantised, to how many bits, and how."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from .quant import QFormat, make_quantizer, quantizer_names
from .quant.qlr import GRIDS

COMPONENTS = ("inputs", "weights", "messages", "aggregates", "states", "outputs")
# What factors out of the integer operation that consumes the component.
_ALLOWED_GRANULARITY = {
    "inputs": ("row", "tensor"),
    "weights": ("channel", "tensor"),
    "messages": ("tensor", "channel", "shift"),
    "aggregates": ("row", "tensor"),
    "states": ("row", "tensor", "shift"),
    "outputs": ("tensor", "channel", "row"),
}


@dataclass(frozen=True)
class QuantConfig:
    """Bits and quantisers of a low-bit layer.

    Every operand of an integer operation has one quantiser: ``inputs`` and ``weights`` meet in a product,
    ``messages`` are summed over edges, ``aggregates`` are such sums where a product follows. ``states`` rounds what is
    kept between the steps of a propagation, ``outputs``
    additionally rounds what a layer returns; it is off by default, because the next layer quantises it.

    Parameters
    ----------
    bits : int
        For every component not given its own: 1, 2, 3, 4, 8, or 32 for float32.
    inputs, weights, messages, aggregates : int, optional
        Bits of one component. Default: ``bits``.
    states : int
        Bits of what a propagation layer, or a layer under a smoothness bound, keeps of a node from step to step. As few
        as ``messages`` mean that what is kept is what is sent. Default: 32, off.
    outputs : int
        Bits of the layer's output. Default: 32, off.
    quantizer : {"qlr", "bt", "bt*"}
        Learned ranges, bitwise truncation, or skewness-aware truncation (arXiv:2308.14949), or a name given to
        :func:`dgl_lowbit.quant.register_quantizer`.
    grid : {"auto", "affine", "half"}
        Grid of the quantisers, see :class:`dgl_lowbit.quant.QLRQuantizer`.
    inputs_granularity, weights_granularity, messages_granularity, aggregates_granularity, states_granularity : str
        "tensor", "channel", "row" or "shift" where the scale factors out of the operation that consumes the component:
        rows and tensor for operands of a product, channel and tensor for weights and messages. "shift" gives each
        node's messages a power of two of their own, which integer sums take as a shift.
    outputs_granularity : str
        "tensor", "channel" or "row".

    Raises
    ------
    ValueError
        For unsupported bits, quantiser, grid or granularity.

    Examples
    --------
    >>> config = QuantConfig(2, inputs=8)
    >>> config.bits_of("inputs"), config.bits_of("messages"), config.bits_of("outputs")
    (8, 2, 32)
    """

    bits: int = 8
    inputs: int | None = None
    weights: int | None = None
    messages: int | None = None
    aggregates: int | None = None
    states: int = 32
    outputs: int = 32
    quantizer: str = "qlr"
    grid: str = "auto"
    inputs_granularity: str = "row"
    weights_granularity: str = "channel"
    messages_granularity: str = "channel"
    aggregates_granularity: str = "row"
    states_granularity: str = "row"
    outputs_granularity: str = "tensor"

    def __post_init__(self):
        QFormat(self.bits)
        if self.quantizer not in quantizer_names():
            raise ValueError(f"quantizer must be one of {', '.join(quantizer_names())}, got {self.quantizer!r}.")
        if self.grid not in GRIDS:
            raise ValueError(f"grid must be one of {', '.join(GRIDS)}, got {self.grid!r}.")
        for component in COMPONENTS:
            allowed = _ALLOWED_GRANULARITY[component]
            granularity = getattr(self, f"{component}_granularity")
            if granularity not in allowed:
                raise ValueError(
                    f"{component}_granularity must be one of {', '.join(allowed)}: another scale does not factor "
                    f"out of the integer operation; got {granularity!r}."
                )
            self._build(component, channels=1)

    def bits_of(self, component: str) -> int:
        """Bits of one of :data:`COMPONENTS`."""
        bits = getattr(self, component)
        return self.bits if bits is None else bits

    @property
    def is_float(self) -> bool:
        """Whether no component is quantised."""
        return all(QFormat(self.bits_of(component)).is_float for component in COMPONENTS)

    def quantizer_for(self, component: str, *, channels: int, axis: int = -1):
        """A fresh quantiser for a tensor of one component, with its channel count and channel axis."""
        return self._build(component, channels=channels, axis=axis)

    def _build(self, component, **shape):
        return make_quantizer(
            self.quantizer,
            self.bits_of(component),
            granularity=getattr(self, f"{component}_granularity"),
            grid=self.grid,
            clip_gradient=component != "weights",
            **shape,
        )

    def to_dict(self) -> dict:
        """Fields that differ from the defaults and ``bits``, for files."""
        defaults = {field.name: field.default for field in fields(self)}
        return {k: v for k, v in asdict(self).items() if k == "bits" or v != defaults[k]}
