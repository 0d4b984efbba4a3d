"""Blocks of the batches of an epoch, sampled here or by worker processes, and their features, fetched ahead."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dgl
import numpy as np
import torch


def check_workers(num_workers: Any, sampler, graph: dgl.DGLGraph) -> None:
    """Raise ValueError unless ``num_workers`` is a number of processes that can sample blocks of ``graph``."""
    if isinstance(num_workers, bool) or not isinstance(num_workers, (int, np.integer)) or num_workers < 0:
        raise ValueError(f"num_workers must be a whole number from 0 on, got {num_workers!r}.")
    if num_workers and sampler is None:
        raise ValueError(f"num_workers={num_workers} sample blocks; pass a sampler=, or leave num_workers out.")
    for frame in (graph.ndata, graph.edata) if num_workers else ():
        for name, column in frame.items():
            if getattr(column, "requires_grad", False):
                raise ValueError(
                    f"the graph's {name!r} requires a gradient, which blocks of worker processes lose; take it out of "
                    "the graph, or leave num_workers out."
                )
    if num_workers and graph.device.type != "cpu":
        raise ValueError(f"num_workers={num_workers} sample graphs of the CPU; leave it out for one on {graph.device}.")


@contextmanager
def sampled(graph: dgl.DGLGraph, sampler, batches: list[torch.Tensor], num_workers: int) -> Iterator[Iterable[tuple]]:
    """What ``sampler`` makes of each batch of nodes in turn, ``(sources, nodes, blocks)``, drawn as it is asked for.

    Workers give each batch a seed from torch's generator, so that blocks do not depend on their number.
    """
    if num_workers == 0:
        yield (sampler.sample_blocks(graph, nodes) for nodes in batches)
        return
    draws = _Draws([_Draw(int(seed), nodes) for seed, nodes in zip(torch.randint(1 << 31, (len(batches),)), batches)])
    loader = dgl.dataloading.DataLoader(graph, draws, _Seeded(sampler), num_workers=int(num_workers))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Dataloader CPU affinity")
        blocks = iter(loader)
    try:
        yield blocks
    finally:
        blocks.dataloader_it._shutdown_workers()  # which an error's traceback would else keep


def fetched_ahead(fetch: Callable[[Any], Any], items: Iterable) -> Iterator[Any]:
    """``fetch(item)`` of each item in turn; that of the next runs in a thread while the caller works on one.

    Items are drawn in the caller's thread. The thread ends with the iterator; ``close()`` it if it is left early.
    """
    with ThreadPoolExecutor(1) as thread:
        before = None
        for item in items:
            fetching = thread.submit(fetch, item)
            if before is not None:
                yield before.result()
            before = fetching
        if before is not None:
            yield before.result()


@dataclass
class _Draw:
    """A batch of nodes, and the seed that its blocks are drawn from."""

    seed: int
    nodes: torch.Tensor


class _Draws(torch.utils.data.Dataset):
    device = torch.device("cpu")  # DGL's loader asks

    def __init__(self, draws: list[_Draw]):
        self.draws = draws

    def __len__(self):
        return len(self.draws)

    def __getitem__(self, number):
        return self.draws[number]


def learns(sampler) -> bool:
    """Whether a sampler learns from the forwards on its blocks, as :class:`.BanditSampler` does."""
    return hasattr(sampler, "learning")


def seed_torch(seed: int, device: torch.device | None = None) -> None:
    """Let torch draw from ``seed`` on, on the CPU and on a GPU that ``device`` is, not on others."""
    # torch.manual_seed makes a stack trace for each kind of device that it does not find: a millisecond together.
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def seed_generators(sampler, seed: int, device: torch.device | None = None) -> None:
    """:func:`seed_torch`, and let DGL's samplers, and one that keeps a seed of its own, draw from it."""
    seed_torch(seed, device)
    dgl.seed(seed)
    if hasattr(sampler, "set_seed"):
        sampler.set_seed(seed)


class _Seeded(dgl.dataloading.Sampler):
    """A sampler of blocks that seeds generators anew for each batch."""

    def __init__(self, sampler):
        super().__init__()
        self.sampler = sampler

    def sample(self, graph, draw):
        seed_generators(self.sampler, draw.seed)
        random.seed(draw.seed)
        np.random.seed(draw.seed)  # noqa: NPY002 - what samplers in Python draw from
        return self.sampler.sample_blocks(graph, draw.nodes)
