"""What the quantisers of a model do to the tensors they meet."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any, Callable

import torch
from torch import nn

from .calibration import calibrate
from .config import COMPONENTS, QuantConfig, checked_config
from .convert import FloatModuleWarning, quantize
from .nn import LowBitLayer
from .nn.example import check_example
from .nn.message_passing import Site
from .nn.stored import decoded
from .nn.wrappers import check_model
from .quant import Quantizer
from .quant.evaluation import evaluating, observing
from .quant.sparse import SparseFeatures
from .report import table
from .verdicts import judge


class Diagnosis(list):
    """Rows of :func:`diagnose`, a dict a quantiser."""

    def plot(self, path):
        """Draw heat maps of the use of codes and of signal-to-noise ratios, a row a quantiser; needs matplotlib.

        Returns
        -------
        Path
            Of the picture, whose ending tells its format.
        """
        from .figures import draw_codes, save

        return save(draw_codes(self), path)


@torch.no_grad()
def diagnose(model: nn.Module, *args, **kwargs) -> Diagnosis:
    """Run a low-bit model once in evaluation mode and report on each of its quantisers, in the order they were met.

    Parameters
    ----------
    model : torch.nn.Module
        Low-bit and calibrated; its training mode is kept.
    *args, **kwargs
        What the model is called with: ``graph, feat``.

    Returns
    -------
    Diagnosis
        A list of dicts: ``quantizer`` (its name in the model), ``bits``, ``shares`` (of each code among all, a list of
        2^bits), ``dead`` (number of codes never used), ``clipped`` (share of values beyond the range), ``snr``
        (signal-to-noise ratio 10 log₁₀ Σx² / Σ(x − x̂)² in dB; infinity where nothing is lost). Its ``plot(path)``
        draws them; :func:`dgl_lowbit.verdicts.judge` says of each what to think of it.

    Raises
    ------
    TypeError
        When the model's ``forward`` does not take ``args`` and ``kwargs``.
    ValueError
        When the model has no quantisers.

    Examples
    --------
    >>> import dgl_lowbit as lowbit
    >>> layer = lowbit.nn.Linear(3, 2, config=lowbit.QuantConfig(2))
    >>> x = torch.tensor([[0.0, 1.0, 3.0]])
    >>> rows = diagnose(lowbit.calibrate(layer, x), x)
    >>> rows[0]["quantizer"], [round(share, 2) for share in rows[0]["shares"]], rows[0]["dead"]
    ('quantizers.inputs', [0.33, 0.33, 0.0, 0.33], 1)
    """
    quantizers = {name: q for name, q in model.named_modules() if isinstance(q, Quantizer) and not q.format.is_float}
    if not quantizers:
        raise ValueError("the model has no quantisers; call dgl_lowbit.quantize(model) and calibrate or train first.")
    check_example(model, diagnose, args, kwargs)
    args, kwargs = decoded((args, kwargs))
    names = {id(q): name for name, q in quantizers.items()}
    rows: dict[str, _Tally] = {}

    def watch(quantizer, x, params):
        name = names[id(quantizer)]
        rows.setdefault(name, _Tally(quantizer)).add(x.to_dense() if isinstance(x, SparseFeatures) else x, params)

    with evaluating(model), observing(quantizers.values(), watch=watch):
        model(*args, **kwargs)
    return Diagnosis({"quantizer": name, **tally.row()} for name, tally in rows.items())


@torch.no_grad()
def sensitivity(model: nn.Module, *args, config: QuantConfig | None = None, metric: Callable | None = None, **kwargs):
    """What each layer alone costs: a float model with one layer, or call site, low-bit at a time, calibrated only.

    Parameters
    ----------
    model : torch.nn.Module
        Float; it is left as it is.
    *args, **kwargs
        What the model is called with: ``graph, feat``.
    config : QuantConfig, optional
        What a layer is made. Default: 4 bits.
    metric : callable, optional
        Makes a number of the model's output, as an accuracy is.

    Returns
    -------
    list of dict
        ``layer`` (its name, or the call site's), ``snr`` (of the model's output, against float32, in dB) and ``change``
        (of the metric, where there is one), the layer that costs most first.

    Raises
    ------
    TypeError, ValueError
        As :func:`dgl_lowbit.quantize`.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval()
    >>> rows = sensitivity(model, torch.randn(5, 3), config=QuantConfig(2))
    >>> sorted(row["layer"] for row in rows)
    ['0', '1']
    """
    config = checked_config(config, QuantConfig(4))
    check_model(model, "sensitivity")
    check_example(model, sensitivity, args, kwargs)
    args, kwargs = decoded((args, kwargs))
    off: dict[str, Any] = {component: None for component in COMPONENTS if component not in ("states", "outputs")}
    floats = replace(config, bits=32, states=32, outputs=32, overrides={}, ends=None, **off)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FloatModuleWarning)
        low_bit = quantize(model, config, *args, **kwargs)
        layers = [name for name, m in low_bit.named_modules() if isinstance(m, (LowBitLayer, Site))]
        with evaluating(model):
            expected = model(*args, **kwargs)
        rows = []
        for name in layers:
            alone = quantize(model, replace(floats, overrides={name: config.bits}), *args, **kwargs)
            output = calibrate(alone, *args, **kwargs).eval()(*args, **kwargs)
            row = {"layer": name, "snr": _snr(_flat(expected), _flat(output))}
            rows.append(row if metric is None else {**row, "change": float(metric(output)) - float(metric(expected))})
    return sorted(rows, key=lambda row: row["snr"])


def format_sensitivity(rows: list[dict]) -> str:
    """The rows of :func:`sensitivity` as a Markdown table."""
    has_metric = all("change" in row for row in rows)
    body = [[row["layer"], f"{row['snr']:.1f}", *([f"{row['change']:+.4f}"] if has_metric else [])] for row in rows]
    return table(["layer", "SNR in dB", *(["change"] if has_metric else [])], body)


def _flat(output):
    if isinstance(output, dict):
        output = tuple(output.values())
    return torch.cat([part.flatten() for part in output]) if isinstance(output, (tuple, list)) else output.flatten()


def _snr(expected, got):
    noise = (expected.double() - got.double()).square().sum().item()
    signal = expected.double().square().sum().item()
    return math.inf if noise == 0 else 10 * math.log10(max(signal, 1e-300) / noise)


class _Tally:
    """Counts of one quantiser, over the tensors it meets."""

    def __init__(self, quantizer):
        self.quantizer = quantizer
        self.counts = torch.zeros(quantizer.format.levels, dtype=torch.long)
        self.clipped = self.total = 0
        self.signal = self.noise = 0.0

    def add(self, x, params):
        codes = self.quantizer.codes(x, params)
        self.counts += torch.bincount(codes.flatten().long(), minlength=len(self.counts)).cpu()
        self.clipped += int(self.quantizer.clipped(x, params).sum())
        self.total += x.numel()
        self.signal += x.double().square().sum().item()
        self.noise += (x.double() - self.quantizer.dequantize(codes, params)).square().sum().item()

    def row(self):
        shares = (self.counts / max(self.total, 1)).tolist()
        snr = math.inf if self.noise == 0 else 10 * math.log10(max(self.signal, 1e-300) / self.noise)
        return {
            "bits": self.quantizer.format.bits,
            "shares": shares,
            "dead": shares[: len(self.quantizer.levels or shares)].count(0.0),
            "clipped": self.clipped / max(self.total, 1),
            "snr": snr,
        }


def format_diagnosis(rows: list[dict]) -> str:
    """The rows of :func:`diagnose` as a Markdown table; shares of up to sixteen codes in %."""
    body = [
        [
            row["quantizer"],
            row["bits"],
            " ".join(f"{100 * share:.0f}" for share in row["shares"]) if row["bits"] <= 4 else "-",
            row["dead"],
            f"{100 * row['clipped']:.1f}",
            "inf" if math.isinf(row["snr"]) else f"{row['snr']:.1f}",
            judge(row).grade,
        ]
        for row in rows
    ]
    return table(["quantiser", "bits", "% of each code", "dead codes", "% clipped", "SNR in dB", "verdict"], body)
