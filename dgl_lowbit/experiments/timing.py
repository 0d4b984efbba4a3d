"""Times of full-graph inference, of models side by side."""

from __future__ import annotations

import statistics
import time

import torch

from ..deploy import get_num_threads, launching

_RUNS, _WARM_UP = 15, 2


def common_threads() -> int:
    """As many threads as torch and packed models both have."""
    return min(torch.get_num_threads(), get_num_threads())


@torch.no_grad()
def median_seconds(graph, feat, *models) -> list[float]:
    """Median seconds of each model, in evaluation mode, taken in turn so that all meet the same machine."""
    threads, before = common_threads(), torch.get_num_threads()
    seconds: list[list[float]] = [[] for _ in models]
    torch.set_num_threads(threads)
    try:
        with launching(threads):
            for turn in range(_WARM_UP + _RUNS):
                for model, taken in zip(models, seconds):
                    start = time.perf_counter()
                    model(graph, feat)
                    if turn >= _WARM_UP:
                        taken.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return list(map(statistics.median, seconds))
