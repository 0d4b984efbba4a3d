"""What a model computes, captured from an example."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import dgl
import torch
from torch import nn

from ..errors import FreezeError
from .arguments import bound_arguments, dense, distinct, graphs_of_modules, on_cpu, split
from .grow import Grown, Growth
from .optional import with_optional
from .recording import Recording, leaves
from .run import layer_calls, record
from .shrink import Shrunk, is_large
from .sizes import generalised

_MOST_CHOICES = 16  # of what the rows of tensors are, where sizes are equal
__all__ = ["Captured", "capture", "layer_calls", "on_cpu"]


class Captured(NamedTuple):
    """A generalised recording, the arguments it was made with, and those of a larger example with their result.

    ``optional`` are names of arguments that may be left out, ``kept`` the graphs that modules keep, by name. The
    recording is of batches of as many graphs as the example alone unless it ``takes_batches``, and of as many nodes
    where ``is_of_one_size``.
    """

    recording: Recording
    arguments: dict[str, Any]
    optional: set[str]
    kept: dict[str, Any]
    is_of_one_size: bool
    takes_batches: bool
    larger: dict[str, Any]
    output: Any


def capture(model: nn.Module, args: tuple, kwargs: dict) -> Captured:
    """What ``model`` computes, from a run on ``args`` and ``kwargs`` and one on a larger example made of them.

    Raises
    ------
    FreezeError
        Names the line that cannot be followed, or whose course differs on the larger example.
    """
    args, kwargs = distinct(dense(args), dense(kwargs))
    given = bound_arguments(model, args, kwargs)
    kept = graphs_of_modules(model)
    if is_large([*given.values(), *(graph for _, graph in kept)]) and not kept:
        args, kwargs = _smaller(model, args, kwargs, given)
    arguments, optional = with_optional(model, args, kwargs)
    first, _ = record(model, *split(model, arguments))
    refusal = FreezeError()
    graphs = [graph for _, graph in kept]
    for grown in _growths([*arguments.values(), *graphs], bool(graphs) or _keeps_nodes(model, arguments)):
        larger = grown(arguments)
        try:
            recording, output = _again(model, kept, grown, larger, first)
            break
        except FreezeError as error:
            refusal = refusal if refusal.args else error
    else:
        raise refusal
    own = {".".join(map(str, path[1:])): graph for path, graph in kept}
    added = [name for name in optional if given.get(name) is None]
    if added:  # weights of 1 are not always the same as none
        larger.update(dict.fromkeys(added))
        with _replaced(kept, grown):
            _, output = record(model, *split(model, larger))
    larger.update({name: grown(graph) for name, graph in own.items()})
    how = grown.how
    return Captured(recording, arguments, optional, own, not how.more_nodes, how.batched, larger, output)


def _smaller(model, args, kwargs, given):
    """A smaller example that the model runs on, or the one given."""
    shrunk = Shrunk(list(given.values()))
    less_args, less_kwargs = shrunk(args), shrunk(kwargs)
    try:
        record(model, less_args, less_kwargs)
    except Exception:  # it may want what a part of the graph is not: then all of it
        return args, kwargs
    return less_args, less_kwargs


def _growths(values, is_bound):
    """Ways to a larger example: where sizes are equal it is not clear what rows are of, nor what is a batch.

    A model that ``is_bound`` to the graph that it has may also be captured for no other, or for as many nodes.
    """
    hows = [Growth(), Growth(batched=False), Growth(more_edges=False)]
    if is_bound:
        bound = Growth(batched=False, more_nodes=False)
        hows += [bound, bound._replace(more_edges=False)]
    for how in hows:
        grown = Grown(values, (), how)
        yield grown
        for choices in itertools.islice(itertools.product(*map(range, grown.ambiguous)), 1, _MOST_CHOICES):
            yield Grown(values, choices, how)


def _keeps_nodes(model, arguments):
    """Whether modules have tensors of as many rows as graphs among the arguments have nodes or edges."""
    graphs = [leaf for leaf in leaves(list(arguments.values())) if isinstance(leaf, dgl.DGLGraph)]
    counts = {graph.num_nodes(ntype) for graph in graphs for ntype in graph.ntypes}
    counts |= {graph.num_edges(etype) for graph in graphs for etype in graph.canonical_etypes}
    tensors = [*model.parameters(), *(t for module in model.modules() for t in vars(module).values())]
    return any(
        isinstance(tensor, torch.Tensor) and counts & set(tensor.shape) for tensor in (*tensors, *model.buffers())
    )


def _again(model, kept, grown, larger, first):
    """The recording that ``first`` makes together with a run on ``larger``, and what that returned."""
    with _replaced(kept, grown):
        try:
            second, output = record(model, *split(model, larger))
        except FreezeError:
            raise
        except Exception as error:
            raise FreezeError(
                f"{type(model).__name__}.forward runs on the example, but not on the same graph taken twice, the rows "
                f"of its features repeated ({str(error).strip()}). A model is frozen for graphs of every size: take "
                "numbers of nodes from graph.num_nodes() or feat.shape[0], and pass a tensor with a row for each node "
                "as an argument."
            ) from error
    return generalised(first, second), output


@contextmanager
def _replaced(kept: list, grown: Grown) -> Iterator[None]:
    """The graphs that modules keep, grown."""
    before = [(path[0], path[1], getattr(path[0], path[1])) for path, _ in kept]
    try:
        for module, name, value in before:
            setattr(module, name, grown(value))
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
