"""Smoothness of node features over a graph, computed through DGL message functions."""

from __future__ import annotations

import dgl
import torch

from ..graphs.degrees import isolated, power_of_degrees, span_of_degrees
from ..quant.evaluation import aside
from ..quant.precision import no_autocast, widened


@aside()
def dirichlet_energy(graph, feat) -> torch.Tensor:
    r"""How much features differ between neighbours (arXiv:2308.14949).

    .. math:: \mathrm{tr}(F^T L F) = \tfrac12 \sum_{(u,v)} \|f_u / \sqrt{d_u} - f_v / \sqrt{d_v}\|^2

    over directed edges (u, v), with :math:`L = I - D^{-1/2} A D^{-1/2}`; each undirected edge stands in the graph
    in both directions. Degrees of 0 count as 1.

    Parameters
    ----------
    graph : DGLGraph
        N nodes and one type of edges; bipartite and blocks take a pair of features.
    feat : torch.Tensor or pair of torch.Tensor
        Shape (N, D), float, in less than 32 bits widened; a pair (source, destination) of (N_src, D) and (N_dst, D).

    Returns
    -------
    torch.Tensor
        Scalar ≥ 0, differentiable.

    Examples
    --------
    >>> import dgl
    >>> g = dgl.graph(([0, 1], [1, 0]))
    >>> dirichlet_energy(g, torch.tensor([[1.0], [-1.0]])).item()
    4.0
    """
    source, target = map(widened, feat if isinstance(feat, tuple) else (feat, feat))
    with no_autocast(source.device):
        sent = source * power_of_degrees(source, graph, "out", -0.5, own=True).unsqueeze(-1)
        root = power_of_degrees(target, graph, "in", -0.5, own=True).unsqueeze(-1)
        if torch.is_grad_enabled() and (source.requires_grad or target.requires_grad):
            return 0.5 * dgl.ops.u_sub_v(graph, sent, target * root).square().sum()
        # ‖s − t‖² = ‖s‖² + ‖t‖² − 2 s·t, summed over edges: one sum over neighbours, and no memory for edges. Each
        # node has as many edges as its part is divided by.
        received = dgl.ops.copy_u_sum(graph, sent) * root
        squares = _square(source, isolated(graph, "out")) + _square(target, isolated(graph, "in"))
        return (0.5 * squares - _dot(target, received)).clamp_min(0)


def _square(x, without):
    x = x if without is None else x.masked_fill(without.unsqueeze(-1), 0)
    return _dot(x, x)


def _dot(x, y):
    return x.reshape(-1).dot(y.reshape(-1))


@torch.no_grad()
def collapse_gauge(graph, feat: torch.Tensor) -> torch.Tensor:
    """Share of ‖F‖² that tells nodes apart by more than their degree: outside span{1, D^½ 1}.

    0.3 to 0.5 in nets that work, below 0.01 in collapsed ones, whose features are the same for all nodes up to degree.
    The energy alone does not show it: it falls with ‖F‖ too.

    Parameters
    ----------
    graph : DGLGraph
        N destination nodes.
    feat : torch.Tensor
        Shape (N, D), float.

    Returns
    -------
    torch.Tensor
        Scalar in [0, 1]; 0 for F = 0.
    """
    feat = widened(feat)
    with no_autocast(feat.device):
        inside = (span_of_degrees(feat, graph).t() @ feat).square().sum()
        total = _dot(feat, feat)
    return torch.where(total > 0, 1 - inside / total, torch.zeros_like(total)).clamp(0, 1)
