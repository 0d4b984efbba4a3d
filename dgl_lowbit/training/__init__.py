"""Training: the whole recipe, one stage of it, and its pieces for loops of one's own."""

from .boost import Boosted, boost
from .history import History
from .loop import BITS_EPOCHS, PATIENCE, Fitted, fit, parameter_groups, train
from .stage import accuracy, distillation_loss, predict

__all__ = [
    "BITS_EPOCHS",
    "PATIENCE",
    "Boosted",
    "Fitted",
    "History",
    "accuracy",
    "boost",
    "distillation_loss",
    "fit",
    "parameter_groups",
    "predict",
    "train",
]
