"""Whether a model freezes, and whether the packed model computes what the trained one does."""

from __future__ import annotations

import inspect
import time
import traceback
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import dgl_lowbit as lowbit

from .case import Case, Example
from .cases import CASES
from .loading import load

OUTCOMES = {
    "whole": "frozen whole, equal to the trained model on both graphs",
    "part": "frozen in part, equal to the trained model on both graphs",
    "refused": "refused in words",
    "crash": "an error when called, or that the package does not put in words, or an end of the process",
    "wrong": "frozen, but not equal to the trained model",
    "broken": "the float model does not run: the case's own fault",
}
TIES = 1e-5  # relative: below it, two scores count as equal
NEAR = 0.02  # relative: as far as a code that is rounded the other way may lead
EQUAL = 0.999  # share of rows with the same choice, and of values that are near


@dataclass
class Verdict:
    """The outcome of a case; differences are relative to the largest value of the output."""

    outcome: str
    step: str = ""
    reason: str = ""
    equal: float | None = None
    difference: float | None = None
    to_float: float | None = None
    seconds: float = 0.0


def judge_named(checkout, name: str) -> dict:
    """The verdict on the case of that name, on one thread."""
    torch.set_num_threads(1)
    return judge(next(case for case in CASES if case.name == name), checkout)


def judge(case: Case, checkout) -> dict:
    """The verdict on a case, as a dict."""
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    try:
        torch.manual_seed(0)
        model = _float_model(case, checkout)
    except Exception as error:
        verdict = Verdict("broken", "float", _words(error))
    else:
        verdict = _freeze(case, model)
    verdict.seconds = round(time.perf_counter() - start, 2)
    return asdict(verdict)


def _float_model(case, checkout):
    model = case.build(load(checkout, case.file, case.constants)).eval()
    for second in (False, True):  # layers that are made in the first forward get their statistics between the two
        outputs = list(_tensors(_run(model, case, second)))
        if not outputs or not all(output.isfinite().all() for output in outputs):
            raise ValueError(f"the float model's output holds {'values that are not finite' if outputs else 'nothing'}")
        _randomise(model.eval())
    return model


def _freeze(case, model):
    step, called, cause = "quantize", False, ""
    try:
        low_bit = _call(lowbit.quantize, case, model, (model, lowbit.QuantConfig(8)))
        step = "calibrate"
        _call(lowbit.calibrate, case, low_bit, (low_bit,))
        low_bit.eval()
        step = "trained forward"
        trained = [_run(low_bit, case, second) for second in (False, True)]
        to_float = compare(_run(model, case, False), trained[0])[1]
        step, outcome = "freeze", "whole"
        try:
            packed = _call(lowbit.freeze, case, low_bit, (low_bit,))
        except lowbit.FreezeError as error:
            outcome, cause, step = "part", _words(error), "freeze in part"
            packed = _call(lowbit.freeze, case, low_bit, (low_bit,), partial=True)
        results = []
        for second, expected in enumerate(trained):
            step, called = f"{outcome}, called on the {('first', 'second')[second]} graph", True
            results.append(compare(expected, _run(packed, case, bool(second))))
    except Exception as error:
        words = _words(error)
        reason = words if cause in ("", words) else f"{words} | whole: {cause}"
        return Verdict("refused" if _refusal(error) and not called else "crash", step, reason)
    equal, difference = min(e for e, _ in results), max(d for _, d in results)
    if equal < EQUAL:
        again = compare(trained[0], _run(low_bit, case, False, seed=9))[0] < EQUAL
        reason = "the forward is random" if again else f"equal {results[0][0]:.1%} and {results[1][0]:.1%}"
        return Verdict("wrong", outcome, reason, equal, difference, to_float)
    return Verdict(outcome, "freeze" if cause else "", cause, equal, difference, to_float)


def _call(function, case, holder, first, **options):
    """``function`` of a model and an example of its arguments, as far as it takes one."""
    example = case.make_example()
    example.hold(holder)
    takes = any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(function).parameters.values())
    return function(*first, *example.args, **example.kwargs, **options) if takes else function(*first, **options)


def _run(model, case, second, seed=0):
    example: Example = case.make_example(second)
    torch.manual_seed(seed)
    with torch.no_grad():
        if isinstance(model, nn.Module) and not isinstance(model, lowbit.PackedModel):
            example.hold(model)
            return model(*example.args, **example.kwargs)
        return model(*example.args, **example.kwargs, **example.held)


def _randomise(model):
    """Statistics of norms, and parameters that start with one value everywhere, are drawn."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        for parameter in model.parameters():
            if parameter.numel() > 1 and (parameter == parameter.flatten()[0]).all():
                parameter.add_(0.1 * torch.randn_like(parameter))


def compare(expected, actual) -> tuple[float, float]:
    """The share of what is equal, and the largest difference relative to the largest value.

    Equal are rows of the same argmax over the last axis, ties included, and values that are near; the least share
    counts. Integers are equal or not.
    """
    shares, differences = [1.0], [0.0]
    expected, actual = list(_tensors(expected)), list(_tensors(actual))
    if [tuple(e.shape) for e in expected] != [tuple(a.shape) for a in actual]:
        return 0.0, float("inf")
    for trained, packed in zip(expected, actual):
        if not trained.numel():
            continue
        if not trained.is_floating_point():
            shares.append((trained == packed).double().mean().item())
            continue
        trained, packed = trained.double(), packed.double()
        scale = trained.abs().max().clamp(min=1e-30)
        gap = (trained - packed).abs() / scale
        differences.append(gap.max().nan_to_num(float("inf")).item())
        if trained.dim() > 1 and trained.shape[-1] > 1:
            chosen = trained.gather(-1, packed.argmax(-1, keepdim=True))
            shares.append((chosen >= trained.amax(-1, keepdim=True) - TIES * scale).double().mean().item())
        shares.append((gap <= NEAR).double().mean().item())
    return min(shares), max(differences)


def _tensors(value):
    if isinstance(value, (torch.Tensor, np.ndarray)):
        yield torch.as_tensor(value).detach()
    elif isinstance(value, dict) or hasattr(value, "items"):
        for _, item in sorted(value.items(), key=lambda pair: str(pair[0])):
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _refusal(error):
    """Whether the package itself raised ``error``: its innermost frame is a line of the package that raises."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return bool({"dgl_lowbit", "numba_kernels"} & set(Path(frame.filename).parts)) and frame.line.startswith("raise ")


def _words(error):
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{type(error).__name__}: {' '.join(str(error).split())} [{place}]"
