"""Models of which some layers run packed."""

from __future__ import annotations

import copy
import functools
import json
import tempfile
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from numba_kernels.files import replace_file
from numba_kernels.model import ModelFileError

from ..convert import FloatModuleWarning
from ..nn import Linear
from .packed import PackedModel

FORMAT, VERSION = "dgl-lowbit-partial", 1


class PartlyPacked(nn.Module):
    """A low-bit model of which some layers run packed and the rest by torch and DGL, on the CPU.

    Made by ``freeze(model, partial=True)``, and called as the model was. Packed layers keep their class and attributes,
    but for their parameters and quantisers.

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

    def __init__(self, model: nn.Module, packed: dict[str, PackedModel], reasons: dict[str, str]):
        super().__init__()
        self.model = copy.deepcopy(model).eval().cpu()
        self.packed_parts, self.float_parts = list(packed), dict(reasons)
        for name, layer in packed.items():
            _pack(self.model.get_submodule(name), layer)
        for name, module in self.model.named_modules():
            inside = any(name.startswith(f"{part}.") for part in self.float_parts)
            has_own = next(module.parameters(recurse=False), None) is not None
            if has_own and not inside and name not in self.float_parts:
                self.float_parts[name] = f"{type(module).__name__} is no low-bit layer"

    def warn(self) -> None:
        """Say which parts run in float32."""
        warnings.warn(
            f"packed are {', '.join(self.packed_parts)}; in float32 run {', '.join(self.float_parts)}: "
            f"{self.float_parts['forward']}",
            FloatModuleWarning,
            stacklevel=3,
        )

    @torch.no_grad()
    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)

    def save(self, path) -> Path:
        """Write the packed layers, and the state of the rest, to ``path``, one safetensors file.

        ``dgl_lowbit.load(path, model=model)`` reads it, with a low-bit model of the same making.
        """
        content = {"version": VERSION, "packed": self.packed_parts, "reasons": self.float_parts}
        arrays = {f"state/{name}": value.contiguous() for name, value in self.model.state_dict().items()}
        for name in self.packed_parts:
            layer: Any = self.model.get_submodule(name)
            data = layer.packed.to_bytes()
            arrays[f"packed/{name}"] = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
        return replace_file(path, safetensors.torch.save(arrays, {FORMAT: json.dumps(content, sort_keys=True)}))

    @classmethod
    def load(cls, path, model: nn.Module | None, threads: int | None = None) -> PartlyPacked:
        """Read what :meth:`save` wrote, into a copy of ``model``.

        Raises
        ------
        ModelFileError
            Without a model, with one of other parts, or when the file is not whole.
        """
        if model is None:
            raise ModelFileError(
                f"{path} holds a partly packed model, whose forward is Python: load it into one, as "
                "dgl_lowbit.load(path, model=dgl_lowbit.quantize(Model(…), config, *example))."
            )
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                content = json.loads(file.metadata()[FORMAT])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if content["version"] != VERSION:
                raise ModelFileError(f"{path} has version {content['version']}, this release reads {VERSION}.")
            packed = {name: _from_bytes(arrays[f"packed/{name}"], threads) for name in content["packed"]}
            partly = cls(model, packed, content["reasons"])
            state = {name[len("state/") :]: value for name, value in arrays.items() if name.startswith("state/")}
            partly.model.load_state_dict(state)
        except ModelFileError:
            raise
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelFileError(f"{path} does not fit {type(model).__name__}: {error}") from error
        return partly


def is_partial(path) -> bool:
    """Whether a file holds a partly packed model."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return FORMAT in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False


def _from_bytes(data, threads):
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data.numpy().tobytes())
        file.flush()
        return PackedModel.load(file.name, threads)


class _PackedLayer(nn.Module):
    """Mixin of the classes that packed layers get: they are their own still, but run what is packed."""

    packed: PackedModel

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def forward(self, *args, **kwargs):
        if not isinstance(self, Linear) or args[0].dim() == 2:
            return self.packed(*args, **kwargs)
        (x,) = args
        return self.packed(x.reshape(-1, x.shape[-1])).unflatten(0, x.shape[:-1])

    def extra_repr(self):
        return repr(self.packed)


def _pack(layer: nn.Module, packed: PackedModel) -> None:
    """Make ``layer`` run ``packed``, and forget the parameters and quantisers that are in it."""
    for module in layer.modules():
        module._parameters.update(dict.fromkeys(module._parameters))
        module._modules.pop("quantizers", None)
        module._modules.pop("smoothness", None)
        module._forward_hooks.clear()
    own: Any = type(layer)
    layer.__class__ = _packed_class(own)
    vars(layer)["packed"] = packed


@functools.cache
def _packed_class(own: Any) -> Any:
    names: dict[str, Any] = {key: getattr(own, key) for key in ("__module__", "__qualname__")}
    forward = {"forward": _PackedLayer.forward}
    return types.new_class(
        own.__name__, (_PackedLayer, own), exec_body=lambda space: space.update({**names, **forward})
    )
