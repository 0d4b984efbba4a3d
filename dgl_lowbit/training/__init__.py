"""Training: the whole recipe, one stage of it, and its pieces for loops of one's own."""

from .bandit import BanditSampler
from .boost import Boosted, boost
from .history import History
from .loop import train
from .message_history import MessageHistory
from .options import BITS_EPOCHS, parameter_groups
from .processes import LostProcessError, synchronize
from .recipe import PATIENCE, Fitted, fit
from .stage import accuracy, distillation_loss, predict

__all__ = [
    "BITS_EPOCHS",
    "PATIENCE",
    "BanditSampler",
    "Boosted",
    "Fitted",
    "History",
    "LostProcessError",
    "MessageHistory",
    "accuracy",
    "boost",
    "distillation_loss",
    "fit",
    "parameter_groups",
    "predict",
    "synchronize",
    "train",
]
