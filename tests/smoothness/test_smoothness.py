import dgl
import pytest
import torch

from dgl_lowbit.smoothness import DifferentialMultiplier, dirichlet_energy
from tests.conftest import homogeneous


def dense_laplacian(graph):
    adjacency = torch.zeros(graph.num_nodes(), graph.num_nodes(), dtype=torch.float64)
    source, target = graph.edges()
    adjacency.index_put_((target, source), torch.ones(len(source), dtype=torch.float64), accumulate=True)
    norm = adjacency.sum(1).clamp(min=1).rsqrt()
    return torch.eye(graph.num_nodes(), dtype=torch.float64) - norm[:, None] * adjacency * norm


def undirected():
    return dgl.to_bidirected(dgl.to_simple(homogeneous()))


def test_energy_is_the_trace_of_the_dense_laplacian():
    graph = undirected()
    feat = torch.randn(graph.num_nodes(), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.trace(feat.T @ dense_laplacian(graph) @ feat)
    torch.testing.assert_close(dirichlet_energy(graph, feat), expected)
    assert not graph.ndata and not graph.edata


def test_energy_of_the_constant_eigenvector_is_zero():
    graph = undirected()
    feat = graph.in_degrees().double().sqrt().unsqueeze(1)
    assert dirichlet_energy(graph, feat).abs() < 1e-9


def test_multiplier_solves_a_bounded_problem():
    """Minimise ½(x − a)² + ½(y − b)² under x² + y² ≤ 1: the projection onto the disc, λ = (|(a, b)| − 1) / 2."""
    target = torch.tensor([3.0, 4.0])
    point, multiplier = target.clone(), DifferentialMultiplier(lr=0.02)
    for _ in range(4000):
        point -= 0.02 * ((point - target) + multiplier.multiplier * 2 * point)
        multiplier.step(point.square().sum(), bound=1.0)
    torch.testing.assert_close(point, target / 5, rtol=1e-3, atol=1e-3)
    assert multiplier.multiplier.item() == pytest.approx(2.0, rel=1e-2)


def test_multiplier_grows_while_violated_and_decays_to_zero_while_held():
    multiplier = DifferentialMultiplier(lr=0.1)
    path = []
    for _ in range(5):
        multiplier.step(torch.tensor(2.0), bound=1.0)
        path.append(multiplier.multiplier.item())
    assert path == sorted(path) and multiplier.violation == 1.0
    for _ in range(100):
        multiplier.step(torch.tensor(0.2), bound=1.0)
    assert multiplier.multiplier == 0


def test_steps_and_multiplier_are_limited():
    multiplier = DifferentialMultiplier(lr=1.0, maximum=7.0, largest_step=3.0)
    multiplier.step(torch.tensor(1e9), bound=1.0)
    assert multiplier.multiplier.item() == pytest.approx(3.0, abs=1e-2)
    for _ in range(5):
        multiplier.step(torch.tensor(1e9), bound=1.0)
    assert multiplier.multiplier == 7.0


def test_lr_must_be_positive():
    with pytest.raises(ValueError, match="lr must be positive"):
        DifferentialMultiplier(lr=0)
