"""Training: the whole recipe, one stage of it, and its pieces for loops of one's own."""

from .history import History
from .loop import BITS_EPOCHS, PATIENCE, Fitted, fit, parameter_groups, train
from .processes import LostProcessError, synchronize
from .stage import accuracy, distillation_loss, predict

__all__ = [
    "BITS_EPOCHS",
    "PATIENCE",
    "Fitted",
    "History",
    "LostProcessError",
    "accuracy",
    "distillation_loss",
    "fit",
    "parameter_groups",
    "predict",
    "synchronize",
    "train",
]
