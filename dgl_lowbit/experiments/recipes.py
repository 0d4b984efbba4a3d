"""How the reference models are trained, beyond the defaults of :func:`dgl_lowbit.train`."""

from __future__ import annotations

from dataclasses import dataclass

import dgl
import torch

from ..training import parameter_groups, train
from .data import shape_of
from .models import MODELS


@dataclass(frozen=True)
class Recipe:
    """Settings of a model's training.

    Parameters
    ----------
    teacher : str, optional
        A model of :data:`dgl_lowbit.experiments.models.MODELS` that is trained first and teaches the float stage.
    lr : float
    no_decay : tuple of str
        Prefixes of names of parameters without weight decay.
    drop_edge : float
        Share of edges left out in every step (arXiv:1907.10903); self-loops stay.
    """

    teacher: str | None = None
    lr: float = 0.01
    no_decay: tuple = ()
    drop_edge: float = 0.0

    def options(self, quantizer_lr: float = 0.01) -> dict:
        """The options of :func:`dgl_lowbit.train` it stands for, with a rate of ranges."""
        rates = {"lr": self.lr, "quantizer_lr": quantizer_lr, "no_decay": self.no_decay}
        options = {"parameters": lambda model: parameter_groups(model, **rates)}
        if self.drop_edge:
            steps = [dgl.DropEdge(self.drop_edge), dgl.RemoveSelfLoop(), dgl.AddSelfLoop()]
            options["transform"] = dgl.transforms.Compose(steps)
        return options

    def train_teacher(self, graph, seed: int, epochs: int):
        """The trained teacher, or None."""
        if self.teacher is None:
            return None
        model = build(self.teacher, graph, seed)
        train(model, graph, seed=seed, epochs=epochs, progress=False)
        return model


RECIPES = {"deep": Recipe("gcn", lr=0.005, no_decay=("stack",), drop_edge=0.3)}


def recipe_of(name: str) -> Recipe:
    """The recipe of a model of :data:`dgl_lowbit.experiments.models.MODELS`."""
    return RECIPES.get(name, Recipe())


def build(name: str, graph, seed: int, **options):
    """A model of :data:`~dgl_lowbit.experiments.models.MODELS` of the graph's widths, weights drawn with ``seed``."""
    torch.manual_seed(seed)
    return MODELS[name](*shape_of(graph), **options)
