"""What a model computes, captured, as the plan of a packed model."""

from . import graphs, layers, messages  # noqa: F401  (their rules)
from .inputs import declare_inputs
from .translator import Translator

__all__ = ["Translator", "declare_inputs"]
