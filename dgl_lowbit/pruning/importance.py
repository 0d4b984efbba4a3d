"""What matters: Fisher information of gates, or chance."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F

from ..quant.evaluation import evaluating

# Labels that are drawn for a score.
_DRAWN = 4


def random_scores(count, edges, drawn):
    """Numbers for ``count`` groups and, where there is a gate of ``edges``, for each of these."""
    of_groups = torch.rand(count, generator=drawn)
    return of_groups, None if edges is None else torch.rand(len(edges.mask), generator=drawn).to(edges.mask.device)


def fisher_scores(model, example, gates, edges, count, drawn):
    """For each of ``count`` groups, and each edge, the mean square of what the log-likelihood changes with its gate.

    Parameters
    ----------
    model : torch.nn.Module
        Called with ``example``; returns logits, (N, classes).
    gates : dict
        Gates by name, each with the groups of its columns, (columns,) int64.
    edges : EdgeGate or None
    count : int
    drawn : torch.Generator
        Labels are drawn with.

    Returns
    -------
    tuple
        (count,) and (E,) float32, the latter None without ``edges``.

    Raises
    ------
    ValueError
        When the model returns something else than logits of at least two classes.
    """
    of_groups, of_edges = torch.zeros(count), None
    if gates:
        of_groups, _ = _watched(model, example, gates, None, count, drawn)
    if edges is not None:
        _, of_edges = _watched(model, example, {}, edges, count, drawn)
    return of_groups, of_edges


def _watched(model, example, gates, edges, count, drawn):
    """Scores of groups, in the graph as it is; or those of edges, in the whole graph, of which dead ones weigh 0."""
    for gate, _ in gates.values():
        gate.watched = []
    try:
        with nullcontext([]) if edges is None else edges.watching() as weights:
            with evaluating(model), torch.enable_grad():
                logits = model(*example)
            return _squares(logits, gates, weights, count, drawn)
    finally:
        for gate, _ in gates.values():
            gate.watched = None


def _squares(logits, gates, weights, count, drawn):
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(
            "what matters is told by predictions: the model must return logits, (N, classes), of two classes or more; "
            "or use criterion='random'."
        )
    passed = [(gate, groups, *one) for gate, groups in gates.values() for one in gate.watched]
    tensors, scores = [out for _, _, _, out, _ in passed] + list(weights), torch.zeros(count)
    of_edges = torch.zeros_like(weights[0], requires_grad=False) if weights else None
    for turn in range(_DRAWN):
        labels = torch.multinomial(logits.detach().softmax(1).cpu(), 1, generator=drawn).flatten()
        loss = F.cross_entropy(logits, labels.to(logits.device), reduction="sum")
        gradients = torch.autograd.grad(loss, tensors, retain_graph=turn + 1 < _DRAWN, allow_unused=True)
        for (gate, groups, x, _, columns), gradient in zip(passed, gradients):
            if gradient is not None:
                scores.index_add_(0, groups, gate.shares(x, gradient, columns).cpu() / _DRAWN)
        for gradient in gradients[len(passed) :]:
            if gradient is not None:
                of_edges += gradient**2 / _DRAWN
    return scores, of_edges
