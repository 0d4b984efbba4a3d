"""What every low-bit layer shares: quantisers of its operands, and one forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from dgl import DGLGraph

from ..config import QuantConfig
from ..graphs.degrees import without_degrees
from ..quant.precision import converted, floating_tensor, keep_float32, no_autocast
from ..trees import mapped
from .arguments import Role, roles
from .checks import check_is_graph
from .history import HistoryOps, kept_messages
from .integer import IntegerOps
from .message_passing.hook import scope
from .message_passing.last_call import Remembered
from .operands import Operand, Quantizers, check_operands
from .ops import TorchOps
from .protection import protecting

Layer = TypeVar("Layer", bound="LowBitLayer")
LAYERS: dict[type, type[LowBitLayer]] = {}


def register_layer(low_bit_class: type[Layer]) -> type[Layer]:
    """Class decorator: let ``dgl_lowbit.quantize`` replace ``low_bit_class.float_class`` by this class.

    Parameters
    ----------
    low_bit_class : type
        Derives from :class:`LowBitLayer` and from its ``float_class``, and adds no constructor state beyond the
        quantisers.

    Returns
    -------
    type
        ``low_bit_class``.

    Raises
    ------
    TypeError
        When it names no ``float_class``.
    """
    if low_bit_class.float_class is None:
        raise TypeError(f"{low_bit_class.__name__} replaces no layer; set its float_class.")
    LAYERS[low_bit_class.float_class] = low_bit_class
    return low_bit_class


class LowBitLayer(Remembered):
    """Mixin that makes a layer low-bit; stands before the float layer among a class's bases.

    The constructor and ``forward`` are the float layer's, plus the keyword-only ``config``. Without a
    ``config`` the layer is exactly its parent.

    A subclass states

    - :attr:`arguments`: the :class:`Role` of each argument of its ``forward``, by name;
    - :meth:`operands`: what it quantises, by the name of the quantiser;
    - ``compute(ops, …)``: its computation over :class:`~dgl_lowbit.nn.Ops`. The parameters after ``ops`` and the
      docstring are those of ``forward``;
    - :meth:`validate`: which arguments it refuses.

    ``forward`` is made of these: the parent's as long as the layer is not low-bit, else ``validate`` and ``compute``.
    :func:`dgl_lowbit.freeze` records the same ``compute``. A layer without a float class computes by ``compute`` alone,
    low-bit or not.

    A low-bit layer computes in float32, in which sums of codes are exact: its parameters stay float32 when the model is
    cast (``model.half()``), ``torch.autocast`` does not reach into it, and features of another precision are converted.
    What it returns has the precision of the features, under autocast float32.

    Parameters
    ----------
    config : QuantConfig, optional
        Bits and quantisers. Default: None, the float layer.
    """

    config: QuantConfig | None = None
    if TYPE_CHECKING:  # what the float layer sets

        def __getattr__(self, name: str) -> Any: ...

    # Class of the float layer this one replaces.
    float_class: type | None = None
    # Names of submodules that are layers of their own: quantize converts them by themselves.
    inner: tuple = ()
    # What each argument of forward is.
    arguments: Mapping[str, Role] = roles()

    def __init__(self, *args, config=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.configure(config)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "compute" in vars(cls) and "forward" not in vars(cls):
            cls.forward = _forward_of(cls)
        if cls.float_class is not None:
            signature = inspect.signature(cls.float_class)
            config = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None)
            cls.__signature__ = signature.replace(parameters=[*signature.parameters.values(), config])

    def configure(self, config: QuantConfig | None) -> None:
        """Give the layer fresh quantisers of ``config``, or none.

        Raises
        ------
        ValueError
            When ``config`` is not a QuantConfig, or the layer has quantisers already.
        """
        if config is not None and not isinstance(config, QuantConfig):
            raise ValueError(f"config must be a QuantConfig or None, got {type(config).__name__}.")
        if self.is_low_bit:
            raise ValueError(f"{type(self).__name__} has quantisers already; configure the float layer.")
        self.config = config
        if config is not None and not config.is_float:
            self._check_arithmetic(config)
            reference = next(self.parameters(), torch.empty(0))
            operands = self.all_operands()
            self.quantizers = Quantizers(
                {name: config.quantizer_for(*operand) for name, operand in operands.items()}
            ).to(reference.device)
            self.quantizers.train(self.training)
            self.float()

    def set_arithmetic(self, arithmetic: str) -> None:
        """Compute in ``arithmetic`` from now on, with the ranges there are.

        Raises
        ------
        ValueError
            Where the layer, or a grid of its config, has no such arithmetic.
        """
        if self.config is not None:
            config = replace(self.config, arithmetic=arithmetic)
            self._check_arithmetic(config)
            self.config = config

    def _check_arithmetic(self, config):
        if config.arithmetic == "float":
            return
        name, floats = type(self).__name__, {o.component for o in self.all_operands().values()} - {"outputs"}
        floats = sorted(component for component in floats if config.bits_of(component) == 32)
        if not self.has_integers:
            raise ValueError(
                f"{name} has no integer arithmetic, which GraphConv, SAGEConv (mean, gcn), GINConv (sum, mean) and "
                "Linear have; leave it in float32 by overrides={its name: 32}, or use arithmetic='float'."
            )
        if floats:
            raise ValueError(
                f"integer arithmetic needs codes of all operands, but {name} has {', '.join(floats)} of 32 bits; give "
                "them 8 or fewer, or use arithmetic='float'."
            )

    def _apply(self, fn, *args, **kwargs):
        return super()._apply(keep_float32(fn) if self.is_low_bit else fn, *args, **kwargs)

    @property
    def is_low_bit(self) -> bool:
        """Whether any component is quantised."""
        return "quantizers" in self._modules

    @property
    def counts_neighbours(self) -> bool:
        """Whether, on blocks that know the degrees of the graph, sums stand for those over whole neighbourhoods."""
        return False

    @property
    def has_integers(self) -> bool:
        """Whether all that the layer computes between codes has integer arithmetic."""
        return False

    def operands(self) -> dict[str, Operand]:
        """Operands by name; the names are the keys of ``quantizers``."""
        raise NotImplementedError

    def all_operands(self):
        """:meth:`operands`, and what a layer under a smoothness bound returns, if states are to be quantised."""
        operands = self.operands()
        check_operands(self, operands)
        if "smoothness" in self._modules and self.config.bits_of("states") < 32:
            channels = operands["outputs"].channels if "outputs" in operands else None
            operands = {**operands, "states": Operand("states", channels)}
        return operands

    def validate(self, *args, **kwargs) -> None:
        """Raise DGLError where the arguments of ``forward`` do not fit the layer; called before any work."""

    def compute(self, ops, *args, **kwargs):
        """The layer's computation, stated over ``ops``."""
        raise NotImplementedError

    def _operations(self) -> TorchOps:
        config = self.config if self.config is not None and self.is_low_bit else None
        kept, gradients = kept_messages(self), 32 if config is None else config.gradients
        if kept is not None:
            return HistoryOps(kept, gradients)
        kind = IntegerOps if config is not None and config.arithmetic == "integer" else TorchOps
        return kind(gradients)

    def argument(self, role: Role, values: dict[str, Any]) -> Any:
        """What stands for the first argument of ``role`` in ``values``, by name; None without one."""
        return next((values.get(name) for name, own in self.arguments.items() if own is role), None)


def _own_degrees(value):
    return without_degrees(value) if isinstance(value, DGLGraph) else value


def _forward_of(layer_class: type[LowBitLayer]) -> Callable:
    """The ``forward`` of a low-bit layer class, with the signature and docstring of its ``compute``.

    Raises
    ------
    TypeError
        When ``layer_class.arguments`` does not name the arguments of ``compute`` that follow ``ops``.
    """
    compute = layer_class.compute
    signature = inspect.signature(compute)
    this, _, *parameters = signature.parameters.values()
    names, declared = [parameter.name for parameter in parameters], set(layer_class.arguments)
    if set(names) != declared:
        raise TypeError(
            f"{layer_class.__name__}.arguments must give a Role to each argument of compute after ops; missing are "
            f"{sorted(set(names) - declared)}, unknown {sorted(declared - set(names))}."
        )

    def forward(self, *args, **kwargs):
        with scope(self):  # what the layer passes over edges is its own affair, not that of the module around it
            if self.float_class is not None and not self.is_low_bit:
                return super(LowBitLayer, self).forward(*args, **kwargs)
            given = floating_tensor((args, kwargs))
            with no_autocast(torch.device("cpu") if given is None else given.device) as autocast:
                if self.is_low_bit or autocast:
                    args, kwargs = converted((args, kwargs), torch.float32)
                given_by_name = {**dict(zip(names, args)), **kwargs}
                for name, value in given_by_name.items():
                    if self.arguments.get(name) is Role.GRAPH:
                        check_is_graph(value, type(self).__name__)
                is_weighted = self.argument(Role.EDGE_WEIGHT, given_by_name) is not None
                if (is_weighted or not self.counts_neighbours) and kept_messages(self) is None:
                    args, kwargs = mapped((args, kwargs), _own_degrees)
                self.validate(*args, **kwargs)
                with protecting(self, self.config if self.is_low_bit else None, (args, kwargs)):
                    output = self.compute(self._operations(), *args, **kwargs)
            return output if given is None or autocast else converted(output, given.dtype)

    forward.__doc__, forward.__module__ = compute.__doc__, compute.__module__
    forward.__qualname__ = f"{layer_class.__qualname__}.forward"
    setattr(forward, "__signature__", signature.replace(parameters=[this, *parameters]))  # noqa: B010
    return forward
