import dgl
import pytest
import torch

from dgl_lowbit.graphs.degrees import with_degrees
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


@pytest.mark.parametrize("kind", ["with nodes alone", "directed", "of two types", "a block of a graph", "empty"])
def test_energy_is_the_sum_over_edges_on_any_graph(kind):
    """Degrees are those of the graph that is given, with or without gradients."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.randint(0, 12, (2, 40), generator=generator)
    graph = {
        "with nodes alone": lambda: dgl.graph((*ends,), num_nodes=20),  # 12 and more have no edge, some one way only
        "directed": lambda: dgl.add_self_loop(dgl.graph((*ends,))),
        "of two types": lambda: dgl.heterograph({("a", "e", "b"): (*ends,)}, num_nodes_dict={"a": 15, "b": 13}),
        "a block of a graph": lambda: dgl.to_block(with_degrees(dgl.graph((*ends,))).in_subgraph([0, 1, 2])),
        "empty": lambda: dgl.graph(([], []), num_nodes=3),
    }[kind]()
    source, target = (
        torch.randn(count, 5, dtype=torch.float64, generator=generator)
        for count in (graph.num_src_nodes(), graph.num_dst_nodes())
    )
    if kind in ("with nodes alone", "directed", "empty"):
        target = source
    roots = [degrees.double().clamp(min=1).sqrt() for degrees in (graph.out_degrees(), graph.in_degrees())]
    expected = torch.zeros((), dtype=torch.float64)
    for u, v in zip(*graph.edges()):
        expected += 0.5 * (source[u] / roots[0][u] - target[v] / roots[1][v]).square().sum()
    feat = source if target is source else (source, target)
    learned = source.clone().requires_grad_() if target is source else (source.clone().requires_grad_(), target)
    torch.testing.assert_close(dirichlet_energy(graph, feat), expected)
    torch.testing.assert_close(dirichlet_energy(graph, learned).detach(), expected)


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
