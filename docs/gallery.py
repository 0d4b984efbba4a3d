"""The gallery of tutorials: their order, and what they are run with."""

import os
import shlex
from pathlib import Path

ORDER = (
    "quickstart",
    "two_bits",
    "deep_gcn",
    "serving",
    "allocation",
    "sampled_sage",
    "distributed_sage",
    "own_parts",
    "porting",
    "heterograph",
    "link_prediction",
    "graph_classification",
    "post_training",
)


def order(filename):
    """The place of a tutorial; ValueError for one that has none."""
    return ORDER.index(Path(filename).stem)


def argv(gallery_conf, script_vars):
    """Options that all tutorials run with, as in ``make html TUTORIALS="--epochs 5"``."""
    return shlex.split(os.environ.get("TUTORIALS", ""))
