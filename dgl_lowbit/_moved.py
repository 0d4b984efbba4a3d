"""Modules that stood elsewhere in earlier releases, under the names they had."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys

MOVED = {
    "_state": "quant.state",
    "batches": "training.batches",
    "bench": "experiments.bench",
    "data": "experiments.data",
    "demo": "experiments.demo",
    "deploy.checkpoint": "experiments.checkpoint",
    "history": "training.history",
    "models": "experiments.models",
    "planted": "experiments.planted",
    "plots": "experiments.plots",
    "recipes": "experiments.recipes",
    "resume": "training.resume",
    "sparse": "quant.sparse",
    "study": "experiments.study",
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the module that an old name stands for, so that both names are one module."""

    def __init__(self, package: str):
        self._new = {f"{package}.{old}": f"{package}.{new}" for old, new in MOVED.items()}

    def find_spec(self, name, path=None, target=None):  # first in line, else submodules are found by their folder
        for old in self._new:
            if name == old or name.startswith(f"{old}."):
                return importlib.util.spec_from_loader(name, self)
        return None

    def create_module(self, spec):
        old = next(old for old in self._new if spec.name == old or spec.name.startswith(f"{old}."))
        module = importlib.import_module(self._new[old] + spec.name[len(old) :])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module):
        module.__spec__ = module.__spec__.loader_state


def install(package: str) -> None:
    """Let modules of ``package`` be imported under their old names."""
    sys.meta_path.insert(0, _Finder(package))
