"""Which components of a layer are quantised, to how many bits, and how."""

from __future__ import annotations

import difflib
import fnmatch
import numbers
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

from .quant import Observer, QFormat, make_quantizer, quantizer_names
from .quant.dead_zone import check_dead_zone
from .quant.groups import check_groups
from .quant.qlr import GRIDS
from .quant.stochastic import GRADIENT_BITS

ARITHMETICS = ("float", "integer")
COMPONENTS = ("inputs", "weights", "messages", "aggregates", "scores", "attention", "states", "outputs")
# Few numbers on which everything after them depends: 8 bits unless given their own.
_FINE = ("scores", "attention")
# Grids, and those that are for some components only: others of the same config have the usual one, "auto".
ALL_GRIDS = (*GRIDS, "sign", "levels")
# What may be in groups of nodes.
_GROUPED = ("inputs", "aggregates")
_OPERANDS = ("inputs", "weights", "aggregates")
# What factors out of the integer operation that consumes the component.
_ALLOWED_GRANULARITY = {
    "inputs": ("row", "tensor", "group"),
    "weights": ("channel", "tensor"),
    "messages": ("tensor", "channel", "shift"),
    "aggregates": ("row", "tensor", "group"),
    "scores": ("channel", "tensor"),
    "attention": ("tensor",),
    "states": ("row", "tensor", "shift"),
    "outputs": ("tensor", "channel", "row"),
}


@dataclass(frozen=True)
class QuantConfig:
    """Bits and quantisers of a low-bit layer.

    Every operand of an integer operation has one quantiser: ``inputs`` and ``weights`` meet in a product,
    ``messages`` are summed over edges, ``aggregates`` are such sums where a product follows. ``states`` rounds what is
    kept between the steps of a propagation, ``outputs`` additionally rounds what a layer returns; it is off by default,
    because the next layer quantises it. Attention layers add ``scores``, the source's and the destination's part of
    what their softmax is taken of, and ``attention``, the weights it gives.

    Parameters
    ----------
    bits : int
        For every component not given its own: 1, 2, 3, 4, 8, or 32 for float32.
    inputs, weights, messages, aggregates : int, optional
        Bits of one component. Default: ``bits``.
    scores, attention : int, optional
        Bits of these. Default: 8, unless ``bits`` is 32.
    states : int
        Bits of what a propagation layer, or a layer under a smoothness bound, keeps of a node from step to step. As few
        as ``messages`` mean that what is kept is what is sent. Default: 32, off.
    outputs : int
        Bits of the layer's output. Default: 32, off.
    overrides : dict of str to int
        Bits by name: of a layer (``"classifier"``) or call site (``"conv1.update_all_0"``) or of one component of it
        (``"conv1.weights"``, ``"*.messages"``), names as in ``model.named_modules()``, with the wildcards of
        ``fnmatch``. Of several that fit, the last counts, be it of a layer or of a component. Bits of a layer stand in
        the place of ``bits``: components that the config gives bits of their own keep those.
    ends : int, optional
        In the place of ``bits``, those of the first and the last low-bit layer. Bits given by name, of a component or
        in ``overrides``, come before. Default: ``bits``.
    quantizer : {"qlr", "hgq", "bt", "bt*"}
        Learned ranges, such with learned bits (:class:`dgl_lowbit.quant.LearnedBitsQuantizer`, arXiv:2405.00645),
        bitwise truncation, or skewness-aware truncation (arXiv:2308.14949), or a name given to
        :func:`dgl_lowbit.quant.register_quantizer`.
    grid : {"auto", "affine", "half", "sign", "levels"}
        Grid of the quantisers, see :class:`dgl_lowbit.quant.QLRQuantizer`. "sign" is that of what meets in products,
        where it has 1 bit: inputs and aggregates by row, and weights (:class:`dgl_lowbit.quant.SignQuantizer`);
        "levels" that of weights of 2, 3 and 4 bits (:class:`dgl_lowbit.quant.LevelsQuantizer`). All else then has
        "auto". Both go with quantizer="qlr".
    inputs_granularity, weights_granularity, messages_granularity, aggregates_granularity, states_granularity : str
        "tensor", "channel", "row" or "shift" where the scale factors out of the operation that consumes the component:
        rows and tensor for operands of a product, channel and tensor for weights and messages. "shift" gives each
        node's messages a power of two of their own, which integer sums take as a shift; "group" is for ``node_groups``.
    outputs_granularity : str
        "tensor", "channel" or "row".
    scores_granularity : str
        "channel" (one scale a head) or "tensor".
    attention_granularity : str
        "tensor".
    node_groups : int, optional
        A²Q (arXiv:2302.00193): so many groups, 2 to 256, of nodes of alike magnitude, in which rows of inputs and
        aggregates have bits and ranges of their own (:class:`dgl_lowbit.quant.GroupQuantizer`); not for inputs of the
        layer that is defined first, which is to be the one that reads the features. All groups have the component's
        bits until ``fit(…, budget={"hidden": bytes})`` or :func:`dgl_lowbit.allocation.allocate_groups` choose them. It
        saves bytes where states are stored or sent; a running packed model keeps rows in the most bits that a group
        has, and is no faster. Default: None.
    arithmetic : {"float", "integer"}
        What stands between accumulators and the next codes: float32, or whole numbers, multipliers and shifts
        (:mod:`numba_kernels.fixed_point`, arXiv:2007.06919). In integer arithmetic a packed model equals the trained
        one to the bit, on every processor; it is no faster, and trains slower. Grids are then known before the data,
        ``"tensor"`` where the default else is ``"row"``; edge weights, attention and pooling are refused.
    gradients : int
        Bits of what crosses edges backward, the gradients of sums over neighbours: 32 for float32, or 8. These are
        rounded stochastically, without bias, with a step a column (:mod:`dgl_lowbit.quant.stochastic`), from bits of
        torch's generator; where sums are packed, kernels then sum bytes. Gradients that are to be differentiated again
        stay in float32. Default: 32.
    observer : {"error", "minmax", "percentile"}
        What a range is when it is taken, by :func:`dgl_lowbit.calibrate` or in the first steps of training: that which
        minimises the error of representation, the extremes, or a percentile of the magnitudes.
    percentile : float
        Of the magnitudes, from 0 to 100.
    protect : (float, float), optional
        Degree-Quant (arXiv:2008.05000): (p_min, p_max). In training a node is left unrounded with probability p_min +
        (p_max − p_min) · F(d), where F(d) is the share of its graph's nodes of at most its in-degree d, in a batch of
        each graph by itself. It is drawn once a forward of the model, from torch's generator, and holds for all layers:
        for the node's rows of inputs, aggregates, states and outputs, and for what is sent along edges that leave it.
        No range comes of these, and no gradient of one. Rows are told by how many they are, as many as the graph has
        nodes: linear layers between convolutions protect too; after a readout, where rows are graphs, none does. Types
        of as many nodes share a draw. With activation checkpointing, go backward after each forward.
        The features of edges that ``GINEConv`` takes are rounded. Blocks know their nodes' degrees where they are
        sampled from what :func:`dgl_lowbit.nn.with_degree_ranks` gives, else from their own edges. In evaluation,
        calibration and packed models nothing is protected. The paper takes (0, 0.1) at 8 bits and (0.1, 0.2) at 4. It
        is for few bits with one scale for all rows from an untrained start; scales a row from a trained start, the
        defaults here, lose nothing that it could win back (``dgl-lowbit study relatives``). (0.8, 0.8) lets a loop
        without a teacher, from weights rounded by ``calibrate(…, rounding="gptq")``, lose less at 2 bits. Steps are
        slower: rows that are no codes are neither packed nor multiplied block by block. Default: None.
    dead_zone : float, optional
        Of delta-coded messages (``SMPConv``, ``APPNPConv``, ``DeepGraphConv``; other layers take no notice), after the
        first step: a node sends nothing as long as what its neighbours have of it is off, in every column, by less than
        this part of the first message's step, which is trained. Packed models skip these silent rows, exactly, in sums
        over unweighted edges; ``dgl-lowbit study relatives --method silent`` says what it gives. Default: None, all
        rows are sent.
    dead_zone_of : {"rows", "entries"}
        "entries" (arXiv:2403.13268) also sends 0 for the entries below the threshold in rows that are not silent, on a
        grid that has a code for 0. Such rows are coded more coarsely, and are as long.

    Raises
    ------
    ValueError
        For unsupported bits, quantiser, grid, granularity, overrides, gradients, observer or percentile, for a protect
        that is not two probabilities in order, for bits of attention under "bt*", and for a dead zone that is not
        positive or goes with no code for 0 or no common step.

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
    scores: int | None = None
    attention: int | None = None
    states: int = 32
    outputs: int = 32
    overrides: Mapping | tuple = ()
    ends: int | None = None
    quantizer: str = "qlr"
    grid: str = "auto"
    inputs_granularity: str | None = None
    weights_granularity: str = "channel"
    messages_granularity: str = "channel"
    aggregates_granularity: str | None = None
    scores_granularity: str = "channel"
    attention_granularity: str = "tensor"
    states_granularity: str | None = None
    outputs_granularity: str = "tensor"
    gradients: int = 32
    observer: str = "error"
    percentile: float = 99.9
    protect: tuple[float, float] | None = None
    node_groups: int | None = None
    arithmetic: str = "float"
    dead_zone: float | None = None
    dead_zone_of: str = "rows"

    def __post_init__(self):
        QFormat(self.bits)
        if self.ends is not None:
            QFormat(self.ends)
        overrides = dict(self.overrides)
        for name, bits in overrides.items():
            if not isinstance(name, str):
                raise ValueError(f"overrides maps names of layers and components to bits, got the key {name!r}.")
            QFormat(bits)
        object.__setattr__(self, "overrides", tuple(overrides.items()))
        if self.quantizer not in quantizer_names():
            raise ValueError(f"quantizer must be one of {', '.join(quantizer_names())}, got {self.quantizer!r}.")
        if self.grid not in ALL_GRIDS:
            raise ValueError(f"grid must be one of {', '.join(ALL_GRIDS)}, got {self.grid!r}.")
        if self.grid not in GRIDS and self.quantizer != "qlr":
            raise ValueError(f"grid={self.grid!r} goes with quantizer='qlr', got {self.quantizer!r}.")
        if isinstance(self.gradients, bool) or self.gradients not in GRADIENT_BITS:
            raise ValueError(f"gradients must be {' or '.join(map(str, GRADIENT_BITS))} bits, got {self.gradients!r}.")
        Observer(self.observer, self.percentile)
        object.__setattr__(self, "protect", _probabilities(self.protect))
        if self.arithmetic not in ARITHMETICS:
            raise ValueError(f"arithmetic must be one of {', '.join(ARITHMETICS)}, got {self.arithmetic!r}.")
        self._check_groups()
        self._check_dead_zone()
        is_integer = self.arithmetic == "integer"
        if is_integer and (self.quantizer != "qlr" or self.grid not in GRIDS or self.protect is not None):
            raise ValueError(
                f"integer arithmetic goes with quantizer='qlr', a grid of {', '.join(GRIDS)}, no protected rows; got "
                f"{self.quantizer!r}, {self.grid!r}, protect={self.protect!r}."
            )
        for component in COMPONENTS:
            if getattr(self, f"{component}_granularity") is None:
                of_rows = "group" if self.node_groups is not None and component in _GROUPED else "row"
                object.__setattr__(self, f"{component}_granularity", "tensor" if is_integer else of_rows)
            allowed = _ALLOWED_GRANULARITY[component]
            granularity = getattr(self, f"{component}_granularity")
            if granularity not in allowed:
                raise ValueError(
                    f"{component}_granularity must be one of {', '.join(allowed)}: another scale does not factor "
                    f"out of the integer operation; got {granularity!r}."
                )
            if is_integer and granularity not in ("tensor", "channel") and self.bits_of(component) < 32:
                raise ValueError(
                    f"integer arithmetic needs scales that are known before the data: {component}_granularity must be "
                    f"'tensor' or, for weights and messages, 'channel', got {granularity!r}."
                )
            self._build(component, channels=1)
        if self.attention is not None:
            self._refuse_moved_attention()

    def _check_groups(self):
        if self.node_groups is None:
            if any(getattr(self, f"{component}_granularity") == "group" for component in _GROUPED):
                raise ValueError("granularity 'group' needs the number of groups: node_groups=8.")
            return
        check_groups(self.node_groups)
        if (
            self.quantizer != "qlr" or self.grid not in GRIDS or self.protect is not None
            or self.arithmetic != "float"
        ):  # fmt: skip
            raise ValueError(
                f"node_groups goes with quantizer='qlr', a grid of {', '.join(GRIDS)}, no protected rows and "
                f"arithmetic='float'; got {self.quantizer!r}, {self.grid!r}, protect={self.protect!r}, "
                f"{self.arithmetic!r}."
            )

    def _check_dead_zone(self):
        if self.dead_zone is None:
            return
        check_dead_zone(self.dead_zone, self.dead_zone_of)
        if self.messages_granularity == "shift":
            raise ValueError(
                "dead_zone needs messages_granularity='tensor' or 'channel': a power of two a row has no common step."
            )
        if self.dead_zone_of == "entries" and (self.quantizer != "qlr" or self.bits_of("messages") == 1):
            raise ValueError(
                "dead_zone_of='entries' needs a code for 0 beside changes of both signs: quantizer='qlr' and messages "
                f"of 2 bits or more, got {self.quantizer!r} and {self.bits_of('messages')}."
            )

    def bits_of(self, component: str) -> int:
        """Bits of one of :data:`COMPONENTS`."""
        bits = getattr(self, component)
        if bits is not None:
            return bits
        return max(self.bits, 8) if component in _FINE else self.bits

    @property
    def is_float(self) -> bool:
        """Whether no component is quantised."""
        return all(QFormat(self.bits_of(component)).is_float for component in COMPONENTS)

    def quantizer_for(self, component: str, channels: int | None, axis: int = -1, grid: str | None = None):
        """A fresh quantiser for a tensor of one component, with its channel count and channel axis.

        Where the number of channels is not known, None, one scale serves for all. ``grid`` stands in the place of the
        config's.

        Raises
        ------
        ValueError
            For attention under "bt*".
        """
        if component == "attention":
            self._refuse_moved_attention()
        return self._build(component, grid, channels=channels, axis=axis)

    def _refuse_moved_attention(self):
        if self.quantizer == "bt*" and not QFormat(self.bits_of("attention")).is_float:
            raise ValueError(
                "quantizer='bt*' moves the codes of attention by its skewness, and no attention must stay code 0: "
                "write quantizer='bt', or attention=32."
            )

    def _build(self, component, grid=None, **shape):
        granularity = getattr(self, f"{component}_granularity")
        own = {"groups": self.node_groups} if granularity == "group" else {}
        quantizer = make_quantizer(
            self.quantizer,
            self.bits_of(component),
            **own,
            granularity="tensor" if granularity == "channel" and shape["channels"] is None else granularity,
            grid=grid or self._grid_of(component, granularity),
            clip_gradient=component != "weights",
            **shape,
        )
        quantizer.observer = Observer(self.observer, self.percentile)
        return quantizer

    def _grid_of(self, component, granularity):
        bits = self.bits_of(component)
        if self.grid == "sign":
            is_own = bits == 1 and component in _OPERANDS and (granularity == "row" or component == "weights")
        else:
            is_own = self.grid != "levels" or (component == "weights" and bits in (2, 3, 4))
        return self.grid if is_own else "auto"

    def to_dict(self) -> dict:
        """Fields that differ from the defaults and ``bits``, for files."""
        defaults = {**asdict(QuantConfig(arithmetic=self.arithmetic)), "arithmetic": "float"}
        values = {k: v for k, v in asdict(self).items() if k == "bits" or v != defaults[k]}
        return {**values, "overrides": dict(self.overrides)} if self.overrides else values

    def for_layers(self, components: Mapping, sites: Mapping = MappingProxyType({})) -> dict[str, QuantConfig]:
        """The config of each layer of a model, :attr:`overrides` and :attr:`ends` applied.

        Parameters
        ----------
        components : mapping of str to sequence of str
            Names of the low-bit layers, in order, and of the components each has.
        sites : mapping of str to sequence of str
            The same of call sites, see :class:`dgl_lowbit.nn.message_passing.Site`; they are no ends.

        Raises
        ------
        ValueError
            When a name of ``overrides`` fits no layer or component; the error lists near ones.

        Examples
        --------
        >>> config = QuantConfig(2, overrides={"*.messages": 4}, ends=8)
        >>> layers = config.for_layers(dict.fromkeys(["conv1", "conv2", "conv3"], ["weights", "messages"]))
        >>> [(c.bits_of("weights"), c.bits_of("messages")) for c in layers.values()]
        [(8, 4), (2, 4), (8, 4)]
        """
        everything = {**components, **sites}
        for pattern, _ in self.overrides:
            if not any(_fit(pattern, name, own) for name, own in everything.items()):
                parts = [f"{name}.{part}".lstrip(".") for name, own in everything.items() for part in own]
                known = [known for known in (*everything, *parts) if known]  # a model that is a layer has no name
                near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4) or known[:3]
                raise ValueError(
                    f"overrides: {pattern!r} names no low-bit layer and no component of one; near: {', '.join(near)}. "
                    "Names of call sites need an example: quantize(model, config, *example)."
                )
        layers = list(components)
        ends = () if self.ends is None else (*layers[:1], *layers[-1:])
        changes: dict = {name: {"bits": self.ends} for name in ends}
        if layers and self.inputs_granularity == "group":  # features are no hidden states
            changes[layers[0]] = {**changes.get(layers[0], {}), "inputs_granularity": "row"}
        return {name: self._named(name, own, changes.get(name, {})) for name, own in components.items()}

    def for_site(self, name: str, components: Collection[str]) -> QuantConfig:
        """The config of a call site, :attr:`overrides` applied."""
        return self._named(name, components, {})

    def _named(self, name, components, changes):
        """The config with ``changes`` and what overrides say of the layer called ``name``."""
        for pattern, bits in self.overrides:
            field = _fit(pattern, name, components)
            if field is not None:  # bits of a layer are those of all components that overrides named before
                others = {key: value for key, value in changes.items() if field != "bits" or key not in COMPONENTS}
                changes = {**others, field: bits}
        return replace(self, overrides={}, ends=None, **changes)


def _probabilities(protect):
    """``protect`` as a pair of floats, or None."""
    if protect is None:
        return None
    pair = tuple(protect) if isinstance(protect, (tuple, list)) else ()
    are_numbers = all(isinstance(part, numbers.Real) and not isinstance(part, bool) for part in pair)
    if len(pair) != 2 or not are_numbers or not 0 <= pair[0] <= pair[1] <= 1:
        raise ValueError(
            f"protect must be (p_min, p_max), two probabilities with 0 ≤ p_min ≤ p_max ≤ 1, got {protect!r}."
        )
    return float(pair[0]), float(pair[1])


def checked_config(config: QuantConfig | None, default: QuantConfig | None = None) -> QuantConfig:
    """``config``, or where it is None ``default``, of 8 bits unless given; ValueError when it is something else."""
    if config is None:
        return QuantConfig() if default is None else default
    if not isinstance(config, QuantConfig):
        raise ValueError(f"config must be a QuantConfig, got {type(config).__name__}; try QuantConfig(bits=2).")
    return config


def _fit(pattern, name, components):
    """What ``pattern`` gives bits of in the layer called ``name``: "bits", a component, or None."""
    if fnmatch.fnmatchcase(name, pattern):
        return "bits"
    head, _, tail = pattern.rpartition(".")
    component = tail if tail in COMPONENTS else f"{tail}s"
    return component if component in components and fnmatch.fnmatchcase(name, head) else None
