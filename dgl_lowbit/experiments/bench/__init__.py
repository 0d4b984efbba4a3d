"""Speed of packed codes and of low-bit training against DGL and torch, in one process on the same threads."""

from .run import WORKS, format_bench, run_bench
from .training import TRAINING_WORKS, format_training_bench, run_training_bench

__all__ = ["TRAINING_WORKS", "WORKS", "format_bench", "format_training_bench", "run_bench", "run_training_bench"]
