"""State beside a model's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from .precision import keep_float32


class OptionalState(nn.Module):
    """A module that keeps its state when a checkpoint has none for it, and in float32 when the model is cast.

    So the checkpoint of a float model loads into its low-bit form, or under smoothness bounds.

    Attributes
    ----------
    merged : mapping of str to {"mean", "min", "max"}
        How several processes make one of a buffer that their forwards have changed, where that is not the mean, or of
        whole numbers the largest; see :func:`dgl_lowbit.training.synchronize`.
    """

    merged: Mapping[str, str] = MappingProxyType({})

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if any(key.startswith(prefix) for key in state_dict):
            super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn, *args, **kwargs):
        return super()._apply(keep_float32(fn), *args, **kwargs)


class FormattedState(OptionalState):
    """A module whose numbers mean something in one format only, which is part of its state.

    A state of another format is refused, by the name of the module and with both formats. One without, of an earlier
    version, is taken as it is.
    """

    def number_format(self) -> dict[str, Any]:
        """What the module's state is to be read with: plain values by name."""
        raise NotImplementedError

    def progress(self) -> int | None:
        """A number that goes on from where a state was saved; None where there is none to go on with."""
        return None

    def resume_progress(self, progress: int | None) -> None:
        """Go on from what :meth:`progress` was."""

    def get_extra_state(self) -> torch.Tensor:
        """The format and the progress as the bytes of their JSON, for files that hold tensors only."""
        text = json.dumps({"format": self.number_format(), "progress": self.progress()}, sort_keys=True)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.resume_progress(_read(state)["progress"])

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        own_keys = [key for key in state_dict if key.startswith(prefix)]
        extra = state_dict.get(prefix + _EXTRA)
        held, own = None if extra is None else _read(extra)["format"], self.number_format()
        if held not in (None, own):
            differing = sorted(key for key in {*held, *own} if held.get(key) != own.get(key))
            errors.append(
                f"{prefix.rstrip('.') or 'the quantiser'} has {_in_words(own, differing)}, the state holds "
                f"{_in_words(held, differing)}; quantize the model with the config that the state was made with."
            )
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        if own_keys and extra is None:
            self.resume_progress(None)
            if prefix + _EXTRA in missing:
                missing.remove(prefix + _EXTRA)


_EXTRA = "_extra_state"


def _read(state):
    return json.loads(bytes(state.tolist()))


def _in_words(number_format, keys):
    return ", ".join(f"{key} {number_format.get(key, 'not said')}" for key in keys)
