"""A range that is taken from data, and followed while training begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .observer import DRIFTING, UNCALIBRATED, NotCalibratedError, Observer, number_of_processes
from .recompute import Remembered, is_recomputing
from .state import FormattedState

# Step of training up to which a range that was not calibrated is taken anew from time to time.
_LAST_STEP = 32


class FollowedRange(FormattedState):
    """What :class:`Quantizer` is built on: when its range is taken, and which one a forward has that is computed again.

    In observation a range is taken from every tensor; in training, where it was not, from those of steps 1, 2, 4, 8, 16
    and 32. A subclass says how: :meth:`observe`, and what it is: :meth:`qparams`.
    """

    calibrated: torch.Tensor

    def __init__(self):
        super().__init__()
        self.observing, self.observer = False, Observer()
        self._steps: int | None = None  # of training from a range that was not calibrated, as long as it is followed
        self._remembered = Remembered()  # ranges of the forwards in which they were followed

    def observe(self, x: torch.Tensor) -> None:
        """Take the range from ``x``."""
        raise NotImplementedError

    def qparams(self, x: torch.Tensor | None = None) -> Any:
        """What codes and values of ``x`` are told by."""
        raise NotImplementedError

    def progress(self):
        """Steps of training in which the range has been followed, or None."""
        return self._steps

    def resume_progress(self, progress):
        self._steps = progress

    def _ready(self, x, observed=None, protected=None):
        # A batch without nodes of a type has nothing to code and nothing to learn from, unless others have.
        is_empty = x.numel() == 0 and observed is None
        if self.observing and not (is_empty and self.observer.process_group is None):
            self.observe(x if observed is None else observed())
            self._steps = None
        elif is_empty:
            pass
        elif self.training:
            if not is_recomputing() and not self._meets_again(x):
                was_moving = self.is_moving
                if protected is None or bool(protected.all()):
                    self._follow(x, observed)
                else:
                    self._follow(x.detach()[~protected])
                self._remember(x, was_moving or self.is_moving)
        elif not self.calibrated:
            raise NotCalibratedError(UNCALIBRATED)
        return self.qparams(x)

    def _follow(self, x, observed=None):
        """Take the range from the first training step, and anew while weights leave their start."""
        if not self.calibrated:
            self._steps = 0
        if self._steps is not None:
            self._steps += 1
            if self._steps & (self._steps - 1) == 0:
                if number_of_processes() > 1:
                    raise NotCalibratedError(DRIFTING.format(number_of_processes()))
                self.observe(x if observed is None else observed())
            if self._steps >= _LAST_STEP:
                self._steps = None

    @property
    def is_moving(self) -> bool:
        """Whether a forward in training may change the range."""
        return self._steps is not None

    def _meets_again(self, x):
        """Whether this is no new step but another use of a tensor, as of weights that two layers share."""
        used = self._remembered.of(x) if self.is_moving else None
        return used is not None and all(map(torch.equal, used, self._tensors()))

    def _remember(self, x, is_moving):
        if is_moving:
            self._remembered.add(x, [tensor.detach().clone() for tensor in self._tensors()])
        else:
            self._remembered.clear()

    @contextmanager
    def as_first_met(self, x) -> Iterator[None]:
        """With the range that the first forward had on ``x``, where checkpointing computes it again."""
        first = self._remembered.of(x) if is_recomputing() else None
        if first is None:
            yield
            return
        own = [tensor.data for tensor in self._tensors()]
        try:
            self._set(first)
            yield
        finally:
            self._set(own)

    def _tensors(self):
        return [*self.parameters(recurse=False), *self.buffers(recurse=False)]

    def _set(self, values):
        for tensor, value in zip(self._tensors(), values):
            tensor.data = value
