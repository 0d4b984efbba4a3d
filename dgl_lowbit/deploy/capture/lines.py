"""Where in the user's code something is called."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import FrameType

import dgl
import torch

from .recording import Line

_TORCH = str(Path(inspect.getfile(torch)).parent)
LIBRARIES = (_TORCH, str(Path(inspect.getfile(dgl)).parent), str(Path(__file__).parents[2]))


def caller() -> str:
    """The file of the code that called into torch."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((_TORCH, str(Path(__file__).parent))):
        frame = frame.f_back
    return "" if frame is None else frame.f_code.co_filename


def line() -> Line | None:
    """The innermost line of the user's own code."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(LIBRARIES):
        frame = frame.f_back
    return None if frame is None else Line(frame.f_code.co_filename, frame.f_lineno)
