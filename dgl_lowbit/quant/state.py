"""State that a checkpoint may lack."""

from torch import nn


class OptionalState(nn.Module):
    """A module that keeps its state when a checkpoint has none for it.

    So the checkpoint of a float model loads into its low-bit form, or under smoothness bounds.
    """

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if any(key.startswith(prefix) for key in state_dict):
            super()._load_from_state_dict(state_dict, prefix, *args)
