"""A low-bit model from data alone: ranges, and weights rounded to their codes."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import nn

from .convert import warn_of_float
from .nn.example import check_example
from .nn.message_passing import Hooked, discover
from .nn.message_passing.last_call import remember, with_own_frames
from .nn.stored import decoded
from .nn.wrappers import check_model
from .progress import progress_bar
from .quant import Observer, QFormat, Quantizer
from .quant.evaluation import evaluating, observing
from .quant.format import FLOAT_BITS
from .quant.reconstruction import LOSSES, check_comparable, reconstruct, tuned_parameters
from .quant.rounding import Rounder

ROUNDINGS = ("nearest", "gptq", "reconstruct")


class NearestRoundingWarning(UserWarning):
    """Weights that were to be rounded on data have their nearest codes."""


@torch.no_grad()
def calibrate(
    model: nn.Module,
    *args,
    observer: str | None = None,
    percentile: float | None = None,
    rounding: str = "nearest",
    loss: str = "kl",
    steps: int = 100,
    progress: bool | str = True,
    process_group=None,
    **kwargs,
) -> nn.Module:
    """Set every range from one evaluation pass over data, in layer order, without labels and training.

    Each quantiser searches its range on the tensor it meets, downstream of the quantisers before it.
    :func:`dgl_lowbit.diagnose` then says what each of them loses. Calls over edges that no example has shown to
    :func:`quantize` are given their quantisers first.

    Parameters
    ----------
    model : torch.nn.Module
        Low-bit model; its ranges are overwritten, its training mode is kept.
    *args, **kwargs
        What the model is called with: ``graph, feat``. All rows of a :class:`FeatureStore` are decoded.
    observer : {"error", "minmax", "percentile"}
        What a range is: that which minimises the error of representation (arXiv:2308.14949), the extremes, or a
        percentile of the magnitudes (as arXiv:2008.05000). Default: what the config says, ``"error"`` unless told.
    percentile : float
        Of the magnitudes, from 0 to 100. Default: what the config says, 99.9 unless told.
    rounding : {"nearest", "gptq", "reconstruct"}
        How weights become codes. ``"gptq"`` (arXiv:2210.17323) rounds those of a product one by one, on its quantised
        inputs, so that each makes up for the errors before it, in a second pass. The weights, also frozen and tied
        ones, are overwritten by the values of their codes: keep the float model, and calibrate a fresh copy to start
        again. Up to 8,192 inputs of a layer are rounded together, in at most three float64 matrices of as many rows and
        columns; more are so in parts. ``"reconstruct"`` goes on from there and tunes weights, biases and ranges by
        gradients, so that the model returns what it returns in float32 (as arXiv:2102.05426, for the whole model): some
        seconds to a minute on a graph of some ten thousand nodes.
    loss : {"kl", "squared"}
        How ``"reconstruct"`` compares outputs: as scores of classes, by the divergence of their softmax at temperature
        ¼, by which the classes that win are kept rather than their probabilities, or as numbers.
    steps : int
        Of ``"reconstruct"``, each a pass forward and backward over the data.
    progress : bool or str
        Whether to show a progress bar of rounding on data, and its label.
    process_group : torch.distributed.ProcessGroup, optional
        Processes that each call this with data of their own, through the same layers, and get the same ranges: those of
        the data of all (for ranges of channels each holds all of them at a time). ``torch.distributed.group.WORLD`` are
        all processes. Default: ranges of this process's data. Not for ``"reconstruct"``.

    Returns
    -------
    torch.nn.Module
        ``model``.

    Raises
    ------
    TypeError
        When the model's ``forward`` does not take ``args`` and ``kwargs``.
    ValueError
        When the model has no quantisers or is wrapped, for an unknown observer, rounding or loss, for steps that are no
        whole number above 0, and where there are no floating outputs to reconstruct.

    Warns
    -----
    FloatModuleWarning
        As :func:`quantize`, of what calls over edges are seen here first.
    NearestRoundingWarning
        Names the quantisers whose weights cannot be rounded on data: such as are computed in the forward, as those of
        ``RelGraphConv`` from bases, or are coded by several quantisers.
    """
    check_model(model, "calibrate")
    check_example(model, calibrate, args, kwargs)
    args, kwargs = decoded((args, kwargs))
    given = {"kind": observer, "percentile": percentile, "process_group": process_group}
    given = {name: value for name, value in given.items() if value is not None}
    Observer(**given)
    _check_rounding(rounding, loss, steps, process_group)
    _make_sites(model, args, kwargs)
    quantizers = _quantizers(model)
    if not quantizers:
        raise ValueError("the model has no quantisers to calibrate; call dgl_lowbit.quantize(model) first.")

    def run(**attributes):
        own_args, own_kwargs = with_own_frames((args, kwargs))
        with evaluating(model), observing(quantizers, **attributes):
            return model(*own_args, **own_kwargs)

    rounder = Rounder(model, process_group)
    expected = None
    if rounding == "reconstruct":
        if not tuned_parameters(model):
            raise ValueError("rounding='reconstruct' tunes parameters, and none of the model's requires a gradient.")
        expected = run(format=QFormat(FLOAT_BITS))
        check_comparable(expected, loss, "rounding='reconstruct'")
    with ExitStack() as as_given:
        for quantizer in quantizers:
            as_given.enter_context(observing([quantizer], observer=replace(quantizer.observer, **given)))
        run(observing=True, watch_product=rounder.count)
    if rounding != "nearest":
        _warn_of_nearest(model, rounder)
        total = len(rounder) + (steps if rounding == "reconstruct" else 0)
        with progress_bar(progress, "calibrating", total=total) as bar:
            rounder.rounded = bar.update
            run(watch_product=rounder.meet)
            rounder.finish()
            if rounding == "reconstruct":
                reconstruct(model, run, expected, loss, steps, stepped=bar.update)
    remember(model, args, kwargs)  # in the place of the copies, which are gone with this call
    return model


def _check_rounding(rounding, loss, steps, process_group):
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, got {rounding!r}.")
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number above 0, got {steps!r}.")
    if rounding == "reconstruct" and process_group is not None:
        raise ValueError("rounding='reconstruct' tunes in one process; leave process_group out, or take 'gptq'.")


def _warn_of_nearest(model, rounder):
    left = rounder.left()
    names = [name for name, module in model.named_modules() if module in left]
    if names:
        warnings.warn(f"rounded to the nearest codes: {', '.join(names)}.", NearestRoundingWarning, stacklevel=4)


def _quantizers(model):
    return [module for module in model.modules() if isinstance(module, Quantizer)]


def _make_sites(model, args, kwargs):
    """Give the hooked modules of ``model`` the sites that a run in float32 comes to."""
    if not any(isinstance(module, Hooked) for module in model.modules()):
        return
    with evaluating(model), observing(_quantizers(model), format=QFormat(FLOAT_BITS)):
        found = discover(model, args, kwargs)
    if found.make_sites():
        warn_of_float([], found)
