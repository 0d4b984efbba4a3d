"""Training: the whole recipe, one stage of it, and its pieces for loops of one's own."""

from .history import History
from .loop import PATIENCE, Fitted, accuracy, distillation_loss, fit, parameter_groups, predict, train

__all__ = [
    "PATIENCE",
    "Fitted",
    "History",
    "accuracy",
    "distillation_loss",
    "fit",
    "parameter_groups",
    "predict",
    "train",
]
