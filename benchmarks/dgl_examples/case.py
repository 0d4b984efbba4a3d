"""What a model of DGL's examples is made and called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import dgl
from torch import nn

from .draw import Draw


@dataclass
class Example:
    """Arguments of a forward, and the graphs that the model holds in attributes while it runs."""

    args: tuple
    kwargs: dict = field(default_factory=dict)
    held: dict = field(default_factory=dict)

    def hold(self, model: nn.Module) -> None:
        """Gives every module of ``model`` that holds a graph the one of this example."""
        for module in model.modules():
            for name, graph in self.held.items():
                if isinstance(vars(module).get(name), dgl.DGLGraph):
                    setattr(module, name, graph)


@dataclass(frozen=True)
class Case:
    """A class of DGL's examples.

    Parameters
    ----------
    file : str
        Below ``examples/pytorch``.
    cls : str
        Name of the class in it.
    arguments : tuple, dict, or function of (Draw, module) that gives one
        Of the class's constructor.
    example : function of Draw
        Gives the arguments of ``forward``, one or a tuple, or an :class:`Example`.
    variant : str
        Tells cases of one class apart.
    fixed : bool
        Whether the model is of a number of nodes; then both graphs have that many.
    constants : dict
        What the file's script would have assigned.
    """

    file: str
    cls: str
    arguments: Any
    example: Callable[[Draw], Any]
    variant: str = ""
    fixed: bool = False
    constants: dict = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return self.file.rpartition("/")[0]

    @property
    def name(self) -> str:
        return f"{self.file}:{self.cls}" + (f" ({self.variant})" if self.variant else "")

    def draw(self, second: bool = False) -> Draw:
        """The first or the second graph, anew."""
        return Draw(seed=int(second), nodes=60 if self.fixed or not second else 83)

    def build(self, module) -> nn.Module:
        arguments = self.arguments
        if callable(arguments):
            arguments = arguments(*(self.draw(), module)[: len(inspect.signature(arguments).parameters)])
        make = getattr(module, self.cls)
        return make(**arguments) if isinstance(arguments, dict) else make(*arguments)

    def make_example(self, second: bool = False) -> Example:
        """Made anew each time, as some models change their graphs."""
        example = self.example(self.draw(second))
        if isinstance(example, Example):
            return example
        return Example(example if isinstance(example, tuple) else (example,))


def holding(*args, **held) -> Example:
    """An example of a model that holds graphs in attributes."""
    return Example(args, held=held)
