"""What workers say to each other: bytes, and whether each of them still can go on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from ..training.processes import LostProcessError

# Bytes of what a worker says that stops. Before each exchange two numbers are said: whether it stops, what it will do.
_MESSAGE_BYTES = 512

_default: dict = {}  # the group of all workers that was made last: of which world, for what timeout


class Workers:
    """The workers of a process group, each with a number from 0 on.

    Nothing waits longer than the group's timeout: where a worker is gone, silent, or has an error of its own, every
    other one gets a :class:`LostProcessError`.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        One of the backend gloo; its own timeout counts. Default: all processes, in a group of this package's own.
    timeout : float
        Seconds.

    Attributes
    ----------
    rank, size : int
    sent : int
        Bytes that this worker has sent to others.

    Raises
    ------
    LostProcessError
        Where torch.distributed is not initialised, or its processes do not answer.
    """

    def __init__(self, group=None, timeout: float = 60.0):
        if not dist.is_available() or not dist.is_initialized():
            raise LostProcessError(
                "the workers are processes of torch.distributed; call torch.distributed.init_process_group('gloo') "
                "first."
            )
        self.timeout, self.sent = timeout, 0
        self._is_own, self.group = group is None, group
        if group is None:
            self.group = self._guarded(_group_of_all, timeout)
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)

    def agree(self, what: int = 0) -> None:
        """Go on together: every worker is about to do ``what``, a number.

        Raises
        ------
        LostProcessError
            Where another worker is about to do something else, or has stopped.
        """
        notes = self._notes(0, what, "")
        for rank, (status, other, message) in enumerate(notes):
            if status:
                raise LostProcessError(f"worker {rank} of {self.size} stopped: {message}")
            if other != what:
                raise LostProcessError(
                    f"worker {rank} runs another model, or another layer of it, than worker {self.rank}; call "
                    "inference on all workers in the same order, with the same packed model and the parts of one graph."
                )

    def stop(self, error: BaseException) -> None:
        """Tell the others, who wait to go on, of an error of this worker."""
        with contextlib.suppress(LostProcessError):  # they have errors of their own
            self._notes(1, 0, f"{type(error).__name__}: {error}")
        self.forget()

    def forget(self) -> None:
        """Let later runs make a group of their own: on this one, workers may not be at the same place any more."""
        if self._is_own:
            _default.clear()

    def exchange(self, parts: Sequence[np.ndarray], sizes: Sequence[int] | None = None) -> list[np.ndarray]:
        """What every worker sends to this one, after this one sent ``parts``, an array of bytes to each.

        Parameters
        ----------
        parts : sequence of (n,) uint8 array
        sizes : sequence of int, optional
            Bytes that come from each. Default: they are asked for.

        Returns
        -------
        list of (n,) uint8 array

        Raises
        ------
        LostProcessError
            Where a worker is gone or silent.
        """
        lengths = [len(part) for part in parts]
        if sizes is None:
            told = self.exchange([np.array([length]).view(np.uint8) for length in lengths], [8] * self.size)
            sizes = [int(part.view(np.int64)[0]) for part in told]
        sent, received = torch.from_numpy(np.concatenate(parts)), torch.empty(sum(sizes), dtype=torch.uint8)
        self._guarded(dist.all_to_all_single, received, sent, list(sizes), lengths, group=self.group)
        self.sent += sum(lengths) - lengths[self.rank]
        return np.split(received.numpy(), np.cumsum(sizes)[:-1])

    def all(self, numbers: np.ndarray) -> np.ndarray:
        """What all workers say, (size, n), each an int64 array (n,)."""
        part = np.ascontiguousarray(numbers, np.int64).view(np.uint8)
        return np.stack([other.view(np.int64) for other in self.exchange([part] * self.size, [len(part)] * self.size)])

    def _notes(self, status, what, message):
        """Of each worker whether it stops, what it is about to do, and, where one stops, its message."""
        heads = self.all(np.array([status, what])).tolist()
        if not any(status for status, _ in heads):
            return [(*head, "") for head in heads]
        text = message.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0")
        told = self.exchange([np.frombuffer(text, np.uint8)] * self.size, [_MESSAGE_BYTES] * self.size)
        texts = [part.tobytes().rstrip(b"\0").decode(errors="replace") for part in told]
        return [(*head, text) for head, text in zip(heads, texts)]

    def _guarded(self, function, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            self.forget()
            reason = str(error).partition("\n")[0].partition(" This is typically")[0]
            raise LostProcessError(
                f"a worker is gone, or did not answer within {self.timeout:g} s; the others stop too. Look for the "
                f"first error in the output of all workers, and start them again. ({reason})"
            ) from error


def _group_of_all(timeout):
    """A group of all processes with gloo, on which nothing waits longer; made once, by all of them."""
    world = dist.group.WORLD
    if _default.get("world") is not world or _default["timeout"] != timeout:
        group = dist.new_group(timeout=timedelta(seconds=timeout), backend="gloo")
        _default.update(world=world, timeout=timeout, group=group)
    return _default["group"]
