"""Processes that train one model: what they agree on, and what becomes of them when one is lost."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dgl
import torch
import torch.distributed as dist
from torch import nn

from numba_kernels.errors import LowBitError

from ..quant import Quantizer
from ..quant.state import OptionalState

# How long DGL's servers may take for an answer.
_ANSWER_SECONDS = 30.0
# What gloo's errors about processes that are gone say.
_OF_LOST = ("gloo", "connection closed", "connection reset", "broken pipe", "timed out", "socket")


class LostProcessError(LowBitError, RuntimeError):
    """Another process ended, did not answer, or runs something else, so that this one cannot go on."""


class Processes:
    """Processes that train together, each on its share: those of ``group``, or this one alone.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        Default: none, so that nothing is exchanged.
    """

    def __init__(self, group: Any = None):
        self.group = group
        self.size = 1 if group is None else dist.get_world_size(group)
        self.rank = 0 if group is None else dist.get_rank(group)

    def most(self, number: int) -> int:
        """The largest number that one of them has."""
        return int(self._reduced(torch.tensor([number]), dist.ReduceOp.MAX))

    def least(self, number: int) -> int:
        """The smallest."""
        return int(self._reduced(torch.tensor([number]), dist.ReduceOp.MIN))

    def sums(self, *numbers: float) -> list[float]:
        """The sum of each of ``numbers`` over them, in float64."""
        return self._reduced(torch.tensor(numbers, dtype=torch.float64), dist.ReduceOp.SUM).tolist()

    def _reduced(self, x, operation):
        if self.size > 1:
            dist.all_reduce(x, operation, group=self.group)
        return x

    def of_first(self, function: Callable[[], Any]) -> Any:
        """What ``function()`` gives in the first of them, in all; so is what it raises."""
        if self.size == 1:
            return function()
        answer: list[Any] = [None, None]
        if self.rank == 0:
            try:
                answer[1] = pickle.dumps(function())
            except Exception as error:
                answer[0] = error
        dist.broadcast_object_list(answer, 0, group=self.group)
        if answer[0] is not None:
            raise answer[0]
        return pickle.loads(answer[1])

    @torch.no_grad()
    def share(self, model: nn.Module) -> None:
        """Give ``model`` the parameters and buffers that it has in the first of them."""
        for tensor in _tensors(model) if self.size > 1 else ():
            held = tensor.contiguous()
            dist.broadcast(held, 0, group=self.group)
            tensor.copy_(held)

    @torch.no_grad()
    def average_gradients(self, model: nn.Module) -> None:
        """Make gradients the means over the processes, in one message.

        What a process has no gradient of counts as 0 there, and what none has one of stays without: a batch need not
        use every parameter, which DistributedDataParallel refuses or looks for in each step.
        """
        if self.size == 1:
            return
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in parameters]
        is_there = torch.tensor([float(p.grad is not None) for p in parameters])
        flat = torch.cat([is_there, *(gradient.reshape(-1).float() for gradient in gradients)])
        self._reduced(flat, dist.ReduceOp.SUM)
        counts, *means = (flat / self.size).split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, count, mean in zip(parameters, counts, means):
            parameter.grad = mean.view(parameter.shape).to(parameter.dtype) if count > 0 else None

    def synchronize(self, model: nn.Module) -> None:
        """:func:`synchronize` among these."""
        if self.size > 1:
            synchronize(model, self.group)

    def check_equal(self, model: nn.Module) -> None:
        """Raise LostProcessError unless all have the same bits in parameters and buffers."""
        if self.size == 1:
            return
        digest = hashlib.blake2b(digest_size=8)
        for tensor in _tensors(model):
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        own = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
        others = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(others, own, group=self.group)
        unlike = [rank for rank, other in enumerate(others) if not torch.equal(other, others[0])]
        if unlike:
            raise LostProcessError(
                f"the model of process {unlike[0]} is no longer that of process 0: something in it changes in a "
                "process without the others, as random numbers that are kept do; make that a parameter or a buffer."
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work that all of them do; one that fails does not keep the others waiting.

        Raises
        ------
        LostProcessError
            When another one is gone.
        """
        try:
            yield
        except Exception as error:
            if self.size == 1:
                raise
            leave()
            if isinstance(error, LowBitError) or not _tells_of_lost(error):
                raise
            raise LostProcessError(
                f"process {self.rank} of {self.size} lost another one, whose own output says why it ended. Start all "
                "processes again, with resume=True where there is a checkpoint."
            ) from error


def synchronize(model: nn.Module, process_group: Any = None) -> None:
    """Make the buffers that forwards in training change the same in all processes, from those of all.

    Gradients are what ``DistributedDataParallel`` makes the same. Multipliers of smoothness bounds, ranges that follow
    rows (``granularity="shift"``), limits of groups of nodes and statistics of BatchNorm change in the forward, on the
    data of a process; it broadcasts those of the first process before the next forward, so that only its data count
    and others end with another model. Call this after each step of the optimiser, in all processes as often.

    Buffers become the mean over the processes: one step of a multiplier from a common start so is a step on the mean
    violation (arXiv:2308.14949). Multipliers that project become the largest, which holds the bounds of all; ends of
    ranges the outermost; whole numbers the largest.

    Parameters
    ----------
    model : torch.nn.Module
        The model itself, or its DistributedDataParallel.
    process_group : torch.distributed.ProcessGroup, optional
        Default: all processes. Without ``torch.distributed`` nothing is done.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(process_group) == 1:
        return
    world = dist.get_world_size(process_group)
    alike: dict[str, list[torch.Tensor]] = {"mean": [], "min": [], "max": []}
    for module in model.modules():
        if isinstance(module, Quantizer) and not module.is_moving:
            continue
        merged = module.merged if isinstance(module, OptionalState) else {}
        for name, buffer in module.named_buffers(recurse=False):
            alike[merged.get(name, "mean" if buffer.is_floating_point() else "max")].append(buffer)
    operations = {"mean": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}
    for name, buffers in alike.items():
        if not buffers:
            continue
        # In float64 the mean of equal numbers is that number.
        flat = torch.cat([buffer.detach().reshape(-1).double() for buffer in buffers])
        dist.all_reduce(flat, operations[name], group=process_group)
        flat = flat / world if name == "mean" else flat
        for buffer, part in zip(buffers, flat.split([buffer.numel() for buffer in buffers])):
            buffer.copy_(part.view(buffer.shape))


def _tensors(model):
    return [*model.parameters(), *model.buffers()]


def _tells_of_lost(error):
    is_of_dist = isinstance(error, (dist.DistError, RuntimeError))
    return is_of_dist and any(word in str(error).lower() for word in _OF_LOST)


class _Watch:
    """Ends this process when DGL's servers do not answer, for which its own calls wait without an end."""

    def __init__(self):
        self.seconds = _ANSWER_SECONDS
        self._due, self._what, self._thread = None, "", None

    @contextmanager
    def __call__(self, what: str, seconds: float | None = None) -> Iterator[None]:
        """A call, ``what``, that is to return within ``seconds``."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="lowbit-watch", daemon=True)
            self._thread.start()
        self._what, self._due = what, time.monotonic() + (self.seconds if seconds is None else seconds)
        try:
            yield
        finally:
            self._due = None

    def _look(self):
        while True:
            time.sleep(0.5)
            due = self._due
            if due is not None and time.monotonic() > due:
                self._end()

    def _end(self):
        rank = dist.get_rank() if dist.is_initialized() else os.environ.get("RANK", "0")
        print(
            f"LostProcessError: process {rank} waited too long for DGL's servers ({self._what}): one of them is gone "
            "or overloaded; look at its output, and start all processes again, with resume=True where there is a "
            "checkpoint. timeout= of dgl_lowbit.distributed.initialize says how long is waited.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


watch = _Watch()


def leave() -> None:
    """Let this process end without DGL's own end, which waits for processes that may be gone, or aborts."""
    if dgl.distributed.dist_context.is_initialized():
        atexit.unregister(dgl.distributed.exit_client)
        atexit.unregister(_end)
        atexit.register(_end)


def leave_on_errors() -> None:
    """:func:`leave` when an error ends this process."""
    report = sys.excepthook

    def hook(*error):
        report(*error)
        leave()

    sys.excepthook = hook


def _end():
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
