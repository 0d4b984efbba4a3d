"""Reference models of the demo: plain DGL and torch modules, nothing low-bit about them but SMPConv's ability."""

from __future__ import annotations

import inspect

import dgl.nn
import torch
import torch.nn.functional as F
from torch import nn

from ..nn import DeepGraphConv, SMPConv


class ReferenceModel(nn.Module):
    """A model that knows what it was built with, ``hidden`` among it."""

    _built_with: tuple

    def __new__(cls, *args, **kwargs):
        model = super().__new__(cls)
        model._built_with = args, kwargs
        return model


def widen(model: ReferenceModel, k: int) -> ReferenceModel:
    """A fresh model like ``model``, its hidden widths times ``k`` (as arXiv:2002.00555 does before binarising).

    Its weights are drawn by torch's generator, and are to be trained: hidden units that repeat those of a narrow model
    would be given the same gradients. A model of one's own takes its width as an argument; nothing tells widths that
    may change, in any module, from those that are the features', the classes' or a layer's own.

    Raises
    ------
    TypeError
        For other models than those of this module.
    ValueError
        Unless ``k`` is a whole number above 0.

    Examples
    --------
    >>> [tuple(parameter.shape) for parameter in widen(GCN(30, 4, hidden=8), 2).parameters()]
    [(30, 16), (16,), (16, 4), (4,)]
    """
    if not isinstance(model, ReferenceModel):
        raise TypeError(
            f"widen takes the models of dgl_lowbit.models, got {type(model).__name__}; build your own with k times the "
            "hidden width."
        )
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be a whole number above 0, got {k!r}.")
    args, kwargs = model._built_with
    bound = inspect.signature(type(model).__init__).bind(model, *args, **kwargs)
    bound.apply_defaults()
    bound.arguments["hidden"] *= k
    return type(model)(*bound.args[1:], **bound.kwargs)


class GCN(ReferenceModel):
    """Two ``dgl.nn.GraphConv`` (arXiv:1609.02907) with ReLU and dropout; shapes (N, in_feats) to (N, num_classes).

    With ``norm`` the second is fed by a ``BatchNorm1d`` in the place of ReLU, as signs want it (arXiv:2010.07565).
    Takes a graph or a list of two blocks.
    """

    def __init__(self, in_feats, num_classes, hidden=64, dropout=0.5, norm=False):
        super().__init__()
        self.layers = nn.ModuleList([dgl.nn.GraphConv(in_feats, hidden), dgl.nn.GraphConv(hidden, num_classes)])
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.BatchNorm1d(hidden, affine=False) if norm else None

    def forward(self, graph, feat):
        first, second = _of_layers(graph, 2)
        h = self.layers[0](first, self.dropout(feat))
        return self.layers[1](second, self.dropout(F.relu(h) if self.norm is None else self.norm(h)))


class GraphSAGE(ReferenceModel):
    """Two ``dgl.nn.SAGEConv`` with mean aggregation (arXiv:1706.02216); shapes (N, in_feats) to (N, num_classes).

    Takes a graph or a list of two blocks.
    """

    def __init__(self, in_feats, num_classes, hidden=64, dropout=0.5):
        super().__init__()
        self.conv1 = dgl.nn.SAGEConv(in_feats, hidden, "mean", feat_drop=dropout)
        self.conv2 = dgl.nn.SAGEConv(hidden, num_classes, "mean", feat_drop=dropout)

    def forward(self, graph, feat):
        first, second = _of_layers(graph, 2)
        return self.conv2(second, F.relu(self.conv1(first, feat)))


class SMP(ReferenceModel):
    """Two linear layers and ten steps of smoothness-aware propagation (arXiv:2308.14949).

    ``threshold`` and ``propagation`` are options of :class:`dgl_lowbit.nn.SMPConv`; shapes
    (N, in_feats) to (N, num_classes).
    """

    def __init__(self, in_feats, num_classes, hidden=64, dropout=0.8, threshold=0.3, **propagation):
        super().__init__()
        self.linear1 = nn.Linear(in_feats, hidden)
        self.linear2 = nn.Linear(hidden, num_classes)
        self.dropout = nn.Dropout(dropout)
        self.propagate = SMPConv(num_classes, threshold=threshold, **propagation)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, graph, feat):
        h = F.relu(self.linear1(self.dropout(feat)))
        return self.propagate(graph, self.linear2(self.dropout(h)))


class DeepGCN(ReferenceModel):
    """``num_layers`` graph convolutions, the inner ones a stack that does not oversmooth.

    ``stack`` are options of :class:`dgl_lowbit.nn.DeepGraphConv`; threshold=None, identity=False make it a plain GCN.
    Shapes (N, in_feats) to (N, num_classes).
    """

    def __init__(self, in_feats, num_classes, hidden=64, num_layers=32, dropout=0.5, **stack):
        super().__init__()
        self.first = dgl.nn.GraphConv(in_feats, hidden, activation=F.relu)
        self.stack = DeepGraphConv(hidden, num_layers - 2, **{"dropout": 0.2, **stack})
        self.last = dgl.nn.GraphConv(hidden, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, graph, feat):
        h = self.stack(graph, self.first(graph, self.dropout(feat)))
        return self.last(graph, self.dropout(h))


class GIN(nn.Module):
    """``num_layers`` of ``dgl.nn.GINConv`` (arXiv:1810.00826), and a readout of all of them.

    Shapes (N, in_feats) to (graphs, num_classes).
    """

    def __init__(self, in_feats, num_classes, hidden=32, num_layers=3):
        super().__init__()
        widths = [in_feats, *[hidden] * (num_layers - 1)]
        self.convs = nn.ModuleList(dgl.nn.GINConv(_mlp(width, hidden), learn_eps=True) for width in widths)
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in widths)
        self.pool = dgl.nn.AvgPooling()
        self.classifier = nn.Linear(num_layers * hidden, num_classes)

    def forward(self, graph, feat):
        layers = [feat]
        for conv, norm in zip(self.convs, self.norms):
            layers.append(F.relu(norm(conv(graph, layers[-1]))))
        return self.classifier(self.pool(graph, torch.cat(layers[1:], 1)))


def _mlp(width, hidden):
    return nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, hidden))


def _of_layers(graph, layers):
    """A block for each layer: those given, or the one graph."""
    return graph if isinstance(graph, (list, tuple)) else [graph] * layers


MODELS = {"gcn": GCN, "sage": GraphSAGE, "smp": SMP, "deep": DeepGCN}
