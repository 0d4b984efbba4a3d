"""Studies: accuracy over seeds against bits, method, bounds and depth, run in parallel and resumable."""

from .relatives import METHODS
from .run import run_study
from .studies import STUDIES
from .tables import format_by_bits, format_study

__all__ = ["METHODS", "STUDIES", "format_by_bits", "format_study", "run_study"]
