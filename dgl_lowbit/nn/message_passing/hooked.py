"""Modules whose message passing is low-bit: their own classes, and a forward that the hook knows of."""

from __future__ import annotations

import copyreg
import functools
import re
import types
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...config import QuantConfig
from ..protection import protecting
from .calls import SITE_NAMES
from .hook import current_module, patched, scope
from .last_call import remember
from .site import Shape, Site

_SITE = rf"((?:{'|'.join(sorted(set(SITE_NAMES.values())))})_\d+)\.(\w+)\."


@dataclass(frozen=True)
class Hook:
    """What a module knows of its conversion: its name in the model, and the model's config."""

    name: str
    config: QuantConfig

    @property
    def is_float(self) -> bool:
        """Whether nothing that the module passes is coded."""
        return self.config.is_float and not self.config.overrides


class Hooked(nn.Module):
    """Mixin of the classes that :func:`hook` makes: what a module's forward passes over edges is coded.

    The class is named as the module's own, which it derives from. Copies and pickles find that one by its name.
    """

    own_class: type
    # None of its own has a module made anew of the class of a converted one, as by ``type(module)(…)``.
    lowbit_hook = Hook("", QuantConfig(32))

    def __init_subclass__(cls, **kwargs):
        """Nothing: a class that counts its subclasses is not to see this one."""

    def __call__(self, *args, **kwargs):
        if current_module() is None:
            remember(self, args, kwargs)
        config = None if self.lowbit_hook.is_float else self.lowbit_hook.config
        with patched(), scope(self), protecting(self, config, (args, kwargs)):
            return super().__call__(*args, **kwargs)

    def __reduce_ex__(self, protocol):
        make, arguments, *state = super().__reduce_ex__(max(protocol, 2))
        if make is copyreg.__newobj__:
            make, arguments = _remake, (self.own_class, *arguments[1:])
        return (make, arguments, *state)

    @property
    def described(self) -> str:
        """The module's name in the model, and its class."""
        return f"{self.lowbit_hook.name or 'the model'} ({type(self).__name__})"

    def site_name(self, name: str) -> str:
        """Name in the model of the site called ``name``."""
        return f"{self.lowbit_hook.name}.{name}".lstrip(".")

    def add_site(self, name: str, shapes: dict[str, Shape], device=None) -> bool:
        """Make those quantisers of a site that it lacks, and say whether there were any; components by name."""
        if self.lowbit_hook.config.arithmetic == "integer":
            raise ValueError(
                f"{self.site_name(name)}, what {self.described} passes over edges, has no integer arithmetic; use "
                "layers that have it, or arithmetic='float'."
            )
        if name not in self._modules:
            self.add_module(name, Site())
        known: Any = self.get_submodule(name)
        missing = {component: shape for component, shape in shapes.items() if component not in known}
        config = self.lowbit_hook.config.for_site(self.site_name(name), shapes)
        known.update(Site.build(config, missing).to(device=device).train(self.training))
        return bool(missing)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        """Make the sites that a state has and the module does not: they are loaded after it."""
        found: dict[str, dict[str, Shape]] = {}
        for key, value in state_dict.items():
            match = re.match(re.escape(prefix) + _SITE, key)
            if match and not key.endswith("_extra_state"):
                shapes = found.setdefault(match[1], {})
                known = shapes.get(match[2], Shape(None, True))
                shapes[match[2]] = Shape(value.numel(), False) if value.dim() else known
        device = next((x.device for x in self.parameters()), None)
        for name, shapes in found.items():
            self.add_site(name, shapes, device)
        super()._load_from_state_dict(state_dict, prefix, *args)


def own_class(module: nn.Module) -> type:
    """The class that a module has, or had before :func:`hook`."""
    return getattr(module, "own_class", type(module))


def hook(module: nn.Module, name: str, config: QuantConfig) -> None:
    """Give ``module``, called ``name`` in its model, the class that makes its message passing low-bit."""
    own: Any = type(module)
    module.__class__ = _hooked_class(own)
    vars(module)["lowbit_hook"] = Hook(name, config)


@functools.cache
def _hooked_class(own: Any) -> Any:
    names: dict[str, Any] = {key: getattr(own, key) for key in ("__module__", "__qualname__", "__doc__")}
    body = {**names, "own_class": own}
    return types.new_class(own.__name__, (Hooked, own), exec_body=lambda namespace: namespace.update(body))


def _remake(own, *arguments):
    made = _hooked_class(own)
    return made.__new__(made, *arguments)
