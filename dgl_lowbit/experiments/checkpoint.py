"""Checkpoints of low-bit reference models, from which they can be frozen again."""

from __future__ import annotations

import io
from pathlib import Path

import dgl
import torch
from torch import nn

from numba_kernels.files import replace_file

from ..config import QuantConfig
from ..convert import quantize
from ..nn.message_passing.last_call import remember
from ..training.resume import CheckpointError
from .models import MODELS

_FORMAT = "dgl-lowbit checkpoint"
_TRAINING = "-training.pt"


class RunFiles:
    """Where a run keeps what it makes.

    Parameters
    ----------
    stem : path
        What the names of its files begin with.

    Attributes
    ----------
    name : str
        Of the run: the last part of ``stem``.
    training, checkpoint, packed, plot : Path
        The state of the training, the model that can be frozen again, the packed model, the picture.
    """

    def __init__(self, stem):
        stem = Path(stem)
        self.name = stem.name
        self.training = stem.with_name(f"{stem.name}{_TRAINING}")
        self.checkpoint, self.packed, self.plot = map(stem.with_suffix, (".pt", ".safetensors", ".png"))

    @classmethod
    def of(cls, folder, graph_name: str, model_name: str, name: str) -> RunFiles:
        """Those in ``folder``; ``name`` tells runs on one graph with one model from each other."""
        return cls(Path(folder) / f"{graph_name}-{model_name}-{name}")

    @classmethod
    def begun_in(cls, folder) -> list[RunFiles]:
        """Those of runs in ``folder`` that have a state of training, sorted by name."""
        states = sorted(Path(folder).glob(f"*{_TRAINING}"))
        return [cls(path.with_name(path.name.removesuffix(_TRAINING))) for path in states]


def save_checkpoint(path, model: nn.Module, architecture: str, shape: tuple, config: QuantConfig, info: dict) -> Path:
    """Write a low-bit model of :data:`dgl_lowbit.experiments.models.MODELS`: what it is built from, and its state.

    ``shape`` is (in_feats, num_classes); ``info`` holds plain values. The file is replaced whole or not at all.
    """
    content = {
        "format": _FORMAT,
        "architecture": architecture,
        "shape": list(shape),
        "config": config.to_dict(),
        "info": info,
        "state": model.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return replace_file(path, buffer.getvalue())


def load_checkpoint(path) -> tuple[nn.Module, dict]:
    """The low-bit model and the info that :func:`save_checkpoint` wrote; no code in the file is run.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    CheckpointError
        When it is not a checkpoint, or not a whole one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}.")
    if path.name.endswith(_TRAINING):
        raise CheckpointError(
            f"{path} is the state of a run; its model is the .pt file beside it, named by graph, model and bits."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != _FORMAT:
            raise CheckpointError(f"{path} is not a dgl-lowbit checkpoint.")
        model = MODELS[content["architecture"]](*content["shape"])
        model = quantize(model, QuantConfig(**content["config"]))
        model.load_state_dict(content["state"])
    except CheckpointError:
        raise
    except Exception as error:  # whatever torch makes of bytes that are none
        raise CheckpointError(f"{path} is not a whole dgl-lowbit checkpoint ({type(error).__name__}).") from error
    remember(model, _ring(content["shape"][0]), {})
    return model.eval(), content["info"]


def _ring(in_feats: int) -> tuple:
    """A graph and features to show what the model is called with: freezing it needs an example."""
    nodes = torch.arange(16)
    return dgl.add_self_loop(dgl.graph((nodes, nodes.roll(1)))), torch.ones(16, in_feats)
