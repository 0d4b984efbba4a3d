"""The float model that a low-bit one was made of, to learn from in a training loop of one's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..quant.evaluation import evaluating
from ..quant.reconstruction import LOSSES, check_comparable, tensors_of
from .example import check_example
from .message_passing.last_call import with_own_frames
from .stored import decoded


class _Kept:
    """A module that is no part of the model that keeps it: not of its state, copies share it, pickles leave it out."""

    def __init__(self, module: nn.Module | None = None):
        self.module = module

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return _Kept, ()


def keep_float(model: nn.Module, float_model: nn.Module) -> None:
    """Let :func:`teacher_loss` find ``float_model`` from its low-bit copy ``model``."""
    vars(model)["_lowbit_teacher"] = _Kept(float_model)


def teacher_loss(model: nn.Module, outputs: Any, *args, loss: str = "kl", **kwargs) -> torch.Tensor:
    """How far the outputs of a low-bit model are from those of the float model it was made of, to be added to the loss.

    ::

        logits = model(graph, feat)
        loss = F.cross_entropy(logits[mask], label[mask]) + lowbit.teacher_loss(model, logits, graph, feat)

    Labelled nodes are few; the float model says of all nodes what it has learned (arXiv:1503.02531, at temperature 1).
    At 2 bits this makes up for most of what a loop without it loses. Leave it out where the float model is a poor one,
    such as one whose weights were not trained: what is learned from it is its mistakes.

    :func:`dgl_lowbit.quantize` keeps the float model by reference, not a copy: train it no further while it teaches,
    and move and cast it with the low-bit one. It runs once a call, in evaluation mode and without gradients. Copies of
    the low-bit model share it; state dicts and pickles are without it.

    Parameters
    ----------
    model : torch.nn.Module
        What :func:`dgl_lowbit.quantize` returned.
    outputs : tensor, or tensors in tuples, lists and dicts
        What it returned, such as logits (N, classes).
    *args, **kwargs
        What it was called with, such as ``graph, feat`` or ``blocks, feat``.
    loss : {"kl", "squared"}
        Scores of classes are compared by KL(float ‖ low-bit) of the softmax over the last dimension, averaged over
        rows; numbers by their squared difference, as a part of the variance of the float model's.

    Returns
    -------
    torch.Tensor
        A scalar.

    Raises
    ------
    TypeError
        When the float model's ``forward`` does not take ``args`` and ``kwargs``.
    ValueError
        When no float model is known, as after unpickling, or it is on another device; for an unknown ``loss``; when the
        float model returns other shapes than ``outputs``, or what ``loss`` cannot compare.

    Examples
    --------
    >>> import dgl_lowbit as lowbit
    >>> float_model, feat = nn.Linear(4, 3), torch.randn(8, 4)
    >>> model = lowbit.calibrate(lowbit.quantize(float_model, lowbit.QuantConfig(8)), feat)
    >>> bool(teacher_loss(model, model(feat), feat) < 0.01)
    True
    """
    kept = getattr(model, "_lowbit_teacher", _Kept())
    if kept.module is None:
        raise ValueError(
            "no float model is known to learn from: pass the model that quantize returned, not one that was unpickled "
            "or wrapped."
        )
    check_example(kept.module, teacher_loss, args, kwargs)
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}.")
    placed, own = ({part.device for part in module.parameters()} for module in (kept.module, model))
    if placed and own and placed != own:
        raise ValueError(
            f"the float model is on {_named(placed)}, the low-bit one on {_named(own)}; move the float model too, or "
            "call quantize after moving it."
        )
    own_args, own_kwargs = with_own_frames(decoded((args, kwargs)))
    with torch.no_grad(), evaluating(kept.module):
        expected = kept.module(*own_args, **own_kwargs)
    shapes, wanted = ([tuple(part.shape) for part in tensors_of(value)] for value in (outputs, expected))
    if shapes != wanted:
        raise ValueError(
            f"the model returned tensors of shapes {shapes}, the float model of {wanted}; pass all of what the model "
            "returned, and what it was called with."
        )
    check_comparable(expected, loss, "teacher_loss")
    return torch.stack([LOSSES[loss](*pair) for pair in zip(tensors_of(outputs), tensors_of(expected))]).sum()


def _named(devices):
    return ", ".join(sorted(map(str, devices)))
