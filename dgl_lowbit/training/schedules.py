"""How learning rates change over the epochs."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer, lr_scheduler

Schedule = Callable[[Optimizer, int], lr_scheduler.LRScheduler]


def _one_cycle(optimizer, epochs):
    return lr_scheduler.OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], epochs)


SCHEDULES: dict[str, Schedule] = {"cosine": lr_scheduler.CosineAnnealingLR, "one-cycle": _one_cycle}


def schedule_of(schedule: str | Schedule | None) -> Schedule | None:
    """What makes the scheduler of an optimiser for a number of epochs, one step each.

    Raises
    ------
    ValueError
        For a name that is none of :data:`SCHEDULES`.
    """
    if schedule is None or callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, or make a scheduler, got {schedule!r}.")
    return SCHEDULES[schedule]
