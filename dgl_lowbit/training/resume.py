"""Checkpoints of runs of training, from which they continue to the same result."""

from __future__ import annotations

import copy
import io
import time
from pathlib import Path

import torch

from numba_kernels.errors import LowBitError

from .identity import differences
from .processes import Processes
from .sampling import learns

_FORMAT = "dgl-lowbit training"
# Part of a run's time that writing its state may take.
_SHARE = 0.02


class CheckpointError(LowBitError, ValueError):
    """A file that is not a checkpoint of ours, or not a whole one."""


class Checkpoint:
    """The file of a run of one or more stages; ``path`` None keeps none.

    Parameters
    ----------
    path : path, optional
    resume : bool
        Whether to read what the file holds; without, it is overwritten.
    processes : Processes, optional
        Those that train together: the first reads and writes the file for all.

    Raises
    ------
    CheckpointError
        When the file is not a checkpoint of training, or not a whole one.
    """

    def __init__(self, path, resume: bool = False, processes: Processes | None = None):
        self.path = None if path is None else Path(path)
        self.processes = processes or Processes()
        self.stages = {}
        self._due = 0.0  # when it is to be written next
        if resume and self.path is None:
            raise ValueError("resume=True needs checkpoint=, the file to continue from.")
        if resume:
            self.stages = self.processes.of_first(self._read)

    def _read(self):
        if not self.path.exists():
            return {}
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            if content["format"] != _FORMAT:
                raise KeyError(_FORMAT)
            return content["stages"]
        except Exception as error:  # whatever torch makes of bytes that are none
            raise CheckpointError(
                f"{self.path} is not a whole checkpoint of training ({type(error).__name__})."
            ) from error

    def stage(self, name: str) -> SavedStage:
        return SavedStage(self, name)

    @property
    def is_due(self) -> bool:
        """Whether writing now takes no more than its share of the time."""
        return time.monotonic() >= self._due

    def write(self, stage: str, state: dict) -> None:
        """Keep the state of a stage."""
        from ..deploy import replace_file

        if self.processes.rank:
            return
        start = time.monotonic()
        # Copies: a later stage writes this one too, while what is here goes on changing.
        self.stages[stage] = copy.deepcopy(state)
        buffer = io.BytesIO()
        torch.save({"format": _FORMAT, "stages": self.stages}, buffer)
        replace_file(self.path, buffer.getvalue())
        end = time.monotonic()
        self._due = end + (end - start) / _SHARE


class SavedStage:
    """One stage of a run in its checkpoint."""

    def __init__(self, checkpoint: Checkpoint, name: str):
        self.checkpoint, self.name = checkpoint, name

    @property
    def is_kept(self) -> bool:
        """Whether there is a file to keep it in."""
        return self.checkpoint.path is not None

    def restore(self, run, settings: dict) -> None:
        """Bring ``run`` to where the checkpoint is, if it has this stage.

        Raises
        ------
        ValueError
            When it was written with other settings, or for another model.
        """
        saved = self.checkpoint.stages.get(self.name)
        if saved is None:
            return
        known = {key: value for key, value in settings.items() if key in saved["settings"]}  # to the version that saved
        other = [text for key, value in known.items() for text in differences(saved["settings"][key], value, key)]
        if other:
            raise CheckpointError(f"{self.checkpoint.path} belongs to another run: {'; '.join(other)}.")
        try:
            run.model.load_state_dict(saved["model"])
            run.optimizer.load_state_dict(saved["optimizer"])
            if run.schedule is not None:
                run.schedule.load_state_dict(saved["schedule"])
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{self.checkpoint.path} belongs to another model: {error}") from error
        if "sampler" in saved:
            run.data.sampler.load_state_dict(saved["sampler"])
        if run.data.messages is not None:
            run.data.messages.load_state_dict(saved["messages"])
        run.history.epochs, run.history.best_epoch = list(saved["epochs"]), saved["best_epoch"]
        run.best_state = saved["best_state"]

    def save(self, run, settings: dict, last: bool) -> None:
        """Write the run's state after the ``last`` epoch, and after others as often as takes little of the time."""
        if self.is_kept and (last or self.checkpoint.is_due):
            self.checkpoint.write(self.name, self._state(run, settings))

    def _state(self, run, settings):
        return {
            "settings": settings,
            "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            **({} if run.schedule is None else {"schedule": _numbers(run.schedule.state_dict())}),
            "epochs": run.history.epochs,
            "best_epoch": run.history.best_epoch,
            "best_state": run.best_state,
            **({"sampler": run.data.sampler.state_dict()} if learns(run.data.sampler) else {}),
            **({} if run.data.messages is None else {"messages": run.data.messages.state_dict()}),
        }


def _numbers(state):
    """What changes of a scheduler's state: some versions of torch keep functions with it, which are made anew."""
    return {key: value for key, value in state.items() if isinstance(value, (bool, int, float, str, list, tuple))}
