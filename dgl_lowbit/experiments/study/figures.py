"""What studies measure of low-bit models beside their accuracy."""

from __future__ import annotations

import statistics
import time
from typing import Any, Callable, NamedTuple

from torch import nn

from ...allocation.cost import components_of
from ...deploy import PackedModel, launching
from ...diagnose import diagnose
from ...nn.propagation import silent_shares
from ...training import predict

_ROUNDS = 30


class Made(NamedTuple):
    """A low-bit model and what it was frozen to."""

    model: nn.Module
    packed: PackedModel


def weight_error(made: dict[str, Made], graph) -> dict[str, float]:
    """The squared error of weights as a part of their square, mean over matrices."""
    errors = {}
    for label, (model, _) in made.items():
        weights = [q for name, part in components_of(model).items() if _is_weights(name) for q in part.quantizers]
        rows = {row["quantizer"]: row["snr"] for row in diagnose(model, graph, graph.ndata["feat"])}
        errors[label] = statistics.mean(10 ** (-rows[name] / 10) for name in weights)
    return errors


def _is_weights(component):
    return component.rpartition(".")[2] == "weights"


def identical(made: dict[str, Made], graph) -> dict[str, float]:
    """The share of nodes whose logits are the same, packed and not, to the bit."""
    feat, shares = graph.ndata["feat"], {}
    for label, (model, packed) in made.items():
        shares[label] = (predict(model, graph) == packed(graph, feat)).all(1).float().mean().item()
    return shares


def milliseconds(made: dict[str, Made], graph) -> dict[str, float]:
    """Processor time of a packed call on one thread, medians; models take turns, after a first one."""
    feat, taken = graph.ndata["feat"], {label: [] for label in made}
    with launching(1):
        for turn in range(_ROUNDS + 1):
            for label, (_, packed) in made.items():
                start = time.process_time()
                packed(graph, feat)
                if turn:
                    taken[label].append(1e3 * (time.process_time() - start))
    return {label: statistics.median(times) for label, times in taken.items()}


def silent_rows(made: dict[str, Made], graph) -> dict[str, list[float]]:
    """Of each step of propagation after the first, the share of rows that a dead zone leaves unsent."""
    return {label: silent_shares(model, graph) for label, (model, _) in made.items()}


# By the name that entries of results have for it.
FIGURES: dict[str, Callable[[dict[str, Made], Any], dict]] = {
    "weight_error": weight_error, "identical": identical, "ms": milliseconds, "silent": silent_rows,
}  # fmt: skip
