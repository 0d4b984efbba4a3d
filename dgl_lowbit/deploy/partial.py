"""Models of which some layers run packed."""

from __future__ import annotations

import copy
import functools
import json
import types
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from torch import nn

from numba_kernels import ModelFileError, container
from numba_kernels.files import replace_file
from numba_kernels.model_file import contents
from numba_kernels.run.runtime import with_whole_openmp

from ..convert import FloatModuleWarning
from ..nn import Linear
from .packed import PackedModel

FORMAT, VERSION = "dgl-lowbit-partial", 2


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
        self.training = False
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

    def train(self, mode: bool = True) -> PartlyPacked:
        """Nothing: as a packed model it is always in evaluation mode."""
        return self

    def forward(self, *args, **kwargs):
        return with_whole_openmp(self._forward, *args, **kwargs)

    @torch.no_grad()
    def _forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)

    def save(self, path) -> Path:
        """Write the packed layers, and the state of the rest, to ``path``, one safetensors file.

        ``dgl_lowbit.load(path, model=model)`` reads it, with a low-bit model of the same making.
        """
        arrays = {f"packed/{name}": _as_bytes(self._layer(name).packed.to_bytes()) for name in self.packed_parts}
        state = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        arrays.update({f"state/{name}": value.reshape(-1).view(torch.uint8).numpy() for name, value in state.items()})
        content = {
            "version": VERSION,
            "packed": self.packed_parts,
            "reasons": self.float_parts,
            "state": {name: [str(value.dtype).removeprefix("torch."), [*value.shape]] for name, value in state.items()},
            "sha256": container.sha256_of_each(arrays),
        }
        return replace_file(path, container.write(arrays, {FORMAT: json.dumps(content, sort_keys=True)}))

    def _layer(self, name) -> Any:
        return self.model.get_submodule(name)

    @classmethod
    def load(cls, path, model: nn.Module | None, threads: int | None = None) -> PartlyPacked:
        """Read what :meth:`save` wrote, into a copy of ``model``.

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        ModelFileError
            Without a model, with one of other parts, or when the file is not whole.
        """
        if model is None:
            raise ModelFileError(
                f"{path} holds a partly packed model, whose forward is Python: load it into one, as "
                "dgl_lowbit.load(path, model=dgl_lowbit.quantize(Model(…), config, *example))."
            )
        try:
            parts, reasons, state = _read(contents(path))
            packed = {name: cast(PackedModel, PackedModel.from_bytes(part, threads)) for name, part in parts.items()}
            partly = cls(model, packed, reasons)
            partly.model.load_state_dict(state)
        except (FileNotFoundError, ModelFileError):
            raise
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
            raise ModelFileError(f"{path} does not fit {type(model).__name__}: {error}") from error
        return partly


def is_partial(path) -> bool:
    """Whether a file holds a partly packed model."""
    try:
        return FORMAT in container.read_header(contents(path)).metadata
    except (FileNotFoundError, ValueError, RecursionError, MemoryError):
        return False


def _read(buffer) -> tuple[dict, dict, dict]:
    """Bytes of packed layers by name, why others are not, and the state of the rest."""
    header = container.read_header(buffer)
    content = container.parse_json(header.metadata[FORMAT])
    version = content["version"]
    if version not in (1, VERSION):
        raise ModelFileError(f"the file has version {version!r:.80}, this release reads 1 to {VERSION}.")
    if version == 1:
        held = safetensors.torch.load(bytes(buffer))
        parts = {name: held[f"packed/{name}"].numpy().tobytes() for name in content["packed"]}
        return parts, content["reasons"], {name[6:]: held[name] for name in held if name.startswith("state/")}
    _, arrays = container.read(buffer)
    container.check_whole(header, arrays, content["sha256"])
    state = {
        name: torch.from_numpy(arrays[f"state/{name}"].copy()).view(_dtype(dtype)).reshape(shape)
        for name, (dtype, shape) in content["state"].items()
    }
    return {name: arrays[f"packed/{name}"] for name in content["packed"]}, content["reasons"], state


def _as_bytes(content) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


def _dtype(name) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r:.80} is no dtype")
    return dtype


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
