"""Speed of packed codes against DGL and torch, both sides in one process on the same threads."""

from .run import WORKS, format_bench, run_bench

__all__ = ["WORKS", "format_bench", "run_bench"]
