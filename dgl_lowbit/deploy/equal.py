"""Whether a packed model computes what the model does that it was captured from."""

from __future__ import annotations

import numpy as np
import torch

from .capture import Captured
from .capture.recording import leaves
from .errors import FreezeError
from .packed import PackedModel

_MOST_ROWS_OFF = 0.1  # codes next to a rounding edge may fall on the other side of it, and their rows with them
_TOLERANCE = 0.02
_NOTHING = 1e-3


def check_equal(packed: PackedModel, captured: Captured) -> None:
    """Run ``packed`` on the larger example of ``captured`` and compare.

    Raises
    ------
    FreezeError
        When results have other shapes than the model's, or differ in more rows than roundings explain.
    """
    try:
        got = packed(**_taken(packed, captured.larger))
    except Exception as error:
        raise FreezeError(f"the packed model fails on the example taken twice: {error}") from error
    for one, other in zip(leaves(got), leaves(captured.output), strict=False):
        expected = other.detach().cpu().numpy()
        found = np.asarray(one.numpy() if isinstance(one, torch.Tensor) else one)
        if found.shape != expected.shape:
            raise FreezeError(f"the packed model returns shape {found.shape} where the model returns {expected.shape}.")
        off = share_off(found, expected)
        if off > _MOST_ROWS_OFF:
            raise FreezeError(
                f"on the example taken twice {off:.0%} of the packed model's rows differ from the model's; something "
                "that the model computes depends on data in a way that was not recorded, or, in a model that was "
                "hardly trained, many values lie just between two codes: train it for some epochs first."
            )


def _taken(packed, arguments):
    """The arguments that a packed model takes."""
    names = {entry["name"] for entry in packed.plan.inputs if entry["kind"] != "unused"}
    return {name: value for name, value in arguments.items() if name in names and value is not None}


def share_off(found: np.ndarray, expected: np.ndarray) -> float:
    """The share of rows in which two arrays differ by more than 2 % of the largest number of a typical row.

    Typical are rows that are not next to nothing beside the largest.
    """
    if expected.size == 0:
        return 0.0
    rows = [np.atleast_1d(part).astype(np.float64) for part in (found, expected)]
    found, expected = (part.reshape(len(part), -1) for part in rows)
    both = np.isfinite(found) & np.isfinite(expected)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    difference = np.abs(np.where(both, found, 0) - np.where(both, expected, 0))
    off = np.where(both, difference, np.where(same, 0, np.inf)).max(1)
    largest = np.where(both, np.abs(expected), 0).max(1)
    typical = largest[largest >= _NOTHING * largest.max()]
    return float((off > _TOLERANCE * max(np.median(typical), 1e-6)).mean())
