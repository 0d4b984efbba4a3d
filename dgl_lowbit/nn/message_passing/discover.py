"""What a model passes over edges, learned from one run of it in float32."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .calls import SITE_NAMES, Call, coded, tensors_of
from .fake_quantise import channels_of, is_low_bit
from .hook import current_module, handling
from .hooked import Hooked
from .last_call import with_own_frames
from .site import Shape

# What leaves the weights of an edge softmax weights: their shape, scale and order may change.
_KEEPING = {
    "dropout", "view", "reshape", "view_as", "reshape_as", "unsqueeze", "squeeze", "flatten", "unflatten", "transpose",
    "permute", "contiguous", "clone", "detach", "__getitem__", "mul", "div", "true_divide", "expand", "repeat", "cat",
    "stack", "chunk", "split", "unbind", "mean", "sum", "to", "float",
}  # fmt: skip
# How names of products with sparse matrices end: torch.sparse.mm, torch.addmm, ``matrix @ rows`` ….
_PRODUCTS = ("mm", "matmul", "mv", "sum")


@dataclass
class Found:
    """What :func:`discover` finds.

    Attributes
    ----------
    sites : dict
        Components with their :class:`Shape`, by module and name of the site, in the order they were met.
    floats : dict
        What stays in float32 of a module, in words, by module.
    devices : dict
        Where a module's operands lie.
    """

    sites: dict[Hooked, dict[str, dict[str, Shape]]] = field(default_factory=dict)
    floats: dict[Hooked, set[str]] = field(default_factory=dict)
    devices: dict[Hooked, torch.device] = field(default_factory=dict)

    def names(self) -> dict[str, list[str]]:
        """Components of the sites by their names in the model."""
        return {module.site_name(name): list(shapes) for module, name, shapes in self._entries()}

    def make_sites(self) -> bool:
        """Give the modules those sites that they lack, and say whether there were any."""
        made = [module.add_site(name, shapes, self.devices[module]) for module, name, shapes in self._entries()]
        return any(made)

    def _entries(self):
        return ((module, name, shapes) for module, own in self.sites.items() for name, shapes in own.items())


class _Discover(TorchFunctionMode):
    """A handler that runs all calls in float32 and notes them, and what becomes of attention weights."""

    def __init__(self):
        super().__init__()
        self.found = Found()

    def note(self, call: Call):
        """Run a call and note what of it is coded."""
        attention = call.op == "mul" and any(map(_is_attention, tensors_of(call.operands[-1])))
        groups = coded(call, attention) if is_low_bit(call) else {}
        if groups:
            sites = self.found.sites.setdefault(call.module, {})
            known = sites.setdefault(call.name, {})
            for component, numbers in groups.items():
                tensors = [x for number in numbers for x in tensors_of(call.operands[number])]
                shape = Shape(channels_of(call, component, tensors), call.is_plain_sum)
                known[component] = shape if known.get(component, shape) == shape else Shape(None, False)
                self.found.devices[call.module] = tensors[0].device
        return call.original(*call.operands)

    def edge_softmax(self, call: Call):
        """Run an edge softmax and remember that its result are attention weights."""
        result = call.original(*call.operands)
        _mark(result)
        return result

    edge_softmax_hetero = edge_softmax

    def udf_reduce(self, call: Call):
        """Run a reduce function of the user's."""
        if is_low_bit(call):
            name = getattr(call.details["func"], "__name__", "a reduce function")
            self._note_float(call.module, f"sums of {name}")
        return call.original(*call.operands)

    def note_sparse(self):
        """Note a product with a sparse matrix of torch or dgl.sparse."""
        self._note_float(current_module(), "sparse products")

    def _note_float(self, module, what):
        if isinstance(module, Hooked):
            self.found.floats.setdefault(module, set()).add(what)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        inputs = [x for arg in args for x in (arg if isinstance(arg, (tuple, list)) else [arg])]
        if name in _KEEPING and any(map(_is_attention, inputs)):
            _mark(result)
        if name.strip("_").endswith(_PRODUCTS) and any(map(_is_sparse, inputs)):
            self.note_sparse()
        return result


for _kind in SITE_NAMES:
    if not hasattr(_Discover, _kind):
        setattr(_Discover, _kind, _Discover.note)


def _is_attention(x):
    return isinstance(x, torch.Tensor) and getattr(x, "_from_edge_softmax", False)


def _mark(result):
    for x in tensors_of(result):
        if isinstance(x, torch.Tensor):
            x._from_edge_softmax = True


def _is_sparse(x):
    return isinstance(x, torch.Tensor) and x.layout is not torch.strided


@contextmanager
def _watching_dgl_sparse(note):
    """``note()`` is called with each product of a matrix of dgl.sparse, where that is in use."""
    if "dgl.sparse" not in sys.modules:
        yield
        return
    operations = torch.ops.dgl_sparse
    original = operations.spmm

    def spmm(*args):
        note()
        return original(*args)

    setattr(operations, "spmm", spmm)  # noqa: B010
    try:
        yield
    finally:
        setattr(operations, "spmm", original)  # noqa: B010


def discover(model: nn.Module, args: tuple, kwargs: dict) -> Found:
    """What hooked modules of ``model`` pass over edges when it is called with ``args`` and ``kwargs``."""
    handler = _Discover()
    with torch.no_grad(), handling(handler), handler, _watching_dgl_sparse(handler.note_sparse):
        args, kwargs = with_own_frames((args, kwargs))
        model(*args, **kwargs)
    return handler.found
