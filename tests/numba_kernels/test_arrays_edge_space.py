"""Groups of calls that run edge by edge, against the same calls on whole arrays."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from numba_kernels import Graph, GraphError
from numba_kernels.run import edge_space

from .arrays import call, floats, model_of
from .arrays import call_value as v
from .plans import PlanBuilder, assert_equals_twin

GRAPH, H, E = 0, 1, 2  # a graph, an array of its nodes, one of its edges
NODES, EDGES = 30, 200


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(edge_space, "BLOCK_EDGES", 32)


def draw(rng, nodes=NODES, edges=EDGES, shuffled=True):
    targets = np.sort(rng.integers(nodes // 2, size=edges))  # the second half receives nothing
    targets[: edges // 4] = 0  # more than a block has
    indptr = np.concatenate([[0], np.cumsum(np.bincount(targets, minlength=nodes))])
    ids = rng.permutation(edges) if shuffled else None
    return Graph(indptr, rng.integers(nodes, size=edges), edge_ids=ids)


class Edges:
    """A plan under construction, of calls on edges."""

    def __init__(self):
        self.plan = PlanBuilder()

    def __getattr__(self, function):
        return lambda *args, **kwargs: v(call(self.plan, function, *args, **kwargs))

    def source(self, value=H):
        return self.take_source(v(GRAPH), v(value))

    def destination(self, value=H):
        return self.take_destination(v(GRAPH), v(value))

    def reduced(self, value, reduce="sum"):
        return self.reduce_edges(v(GRAPH), value, reduce)

    def model(self, *outputs):
        return model_of(self.plan, ("graph", "array", "array"), *(output["value"] for output in outputs))


def difference(e):
    return [e.reduced(e.relu(e.sub(e.source(), e.destination())), "max")]


def attention(e):
    scores = e.leaky_relu(e.add(e.sum(e.source(), -1, True), e.sum(e.destination(), -1, True)), 0.2)
    weights = e.edge_softmax(v(GRAPH), scores)
    return [e.reduced(e.mul(weights, e.source())), weights]


def edge_features(e):
    return [e.reduced(e.mul(e.sigmoid(e.add(e.source(), v(E))), v(E)), "mean")]


def joined(e):
    both = e.cat([e.source(), e.destination(), v(E)], dim=-1)
    weight = {"array": e.plan.store(floats(5, 12, seed=3))}
    return [e.reduced(e.elu(e.linear(both, weight)), "min")]


def heads(e):
    split = e.reshape(e.source(), {"size": {"of": "edges", "graph": GRAPH}}, 2, 2)
    scores = e.mul(split, e.reshape(e.destination(), -1, 2, 2))
    total = e.sum(scores, dim=-1, keepdim=True)
    return [e.reduced(e.flatten(e.mul(e.edge_softmax(v(GRAPH), total), split), 1))]


def parts(e):
    x = e.source()
    half = e.getitem(x, [{"slice": [None, None, None]}, {"slice": [None, 2, None]}])
    return [e.reduced(e.mul(e.softmax(half, -1), e.getitem(x, [{"slice": [None, None, None]}, 3, None])))]


def masked(e):
    x = e.sub(e.source(), e.destination())
    return [e.reduced(e.where(e.gt(x, 0.0), x, e.neg(x))), e.reduced(e.gt(x, 0.0), "max")]


def dots(e):
    return [e.reduced(e.mul(e.edge_dot(v(GRAPH), v(H), v(H), "u", "v"), e.source()))]


def twice(e):
    once = e.reduced(e.tanh(e.source()), "mean")
    again = e.reduced(e.sub(e.source(once["value"]), e.destination()))
    return [e.add(again, once)]


def numbers_an_edge(e):
    return [e.reduced(e.exp(e.neg(e.edge_dot(v(GRAPH), v(H), v(H), "u", "v"))))]


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(
    "model", [difference, attention, edge_features, joined, heads, parts, masked, dots, twice, numbers_an_edge]
)
def test_groups_give_what_whole_arrays_give(model, shuffled, monkeypatch):
    rng, edges, ran = np.random.default_rng(0), Edges(), []
    built = edges.model(*model(edges))
    run = edge_space.EdgeGroup.run
    monkeypatch.setattr(edge_space.EdgeGroup, "run", lambda self, *rest: (run(self, *rest), ran.append(self))[0])
    for nodes, number in ((NODES, EDGES), (EDGES, EDGES), (7, 1)):
        graph = draw(rng, nodes, number, shuffled)
        assert_equals_twin(built, graph, floats(nodes, 4), floats(number, 4, seed=1))
    assert len(ran) == 3 * (2 if model is twice else 1)


def over_all_edges(e):
    return [e.reduced(e.softmax(e.source(), 0))]


def over_all(e):
    return [e.sub(e.source(), e.max(e.source()))]


def crossed(e):
    return [e.add(e.sum(e.source(), -1), e.sum(e.destination(), -1, True))]  # (E,) and (E, 1): every pair


def turned(e):
    return [e.transpose(e.source(), 0, 1)]


def by_source(e):
    return [e.reduced(e.edge_softmax(v(GRAPH), e.neg(e.source()), "src"))]


def test_graphs_of_no_edges():
    edges = Edges()
    built = edges.model(*attention(edges))
    assert_equals_twin(built, Graph([0, 0, 0], []), floats(2, 4), floats(0, 4))


@pytest.mark.parametrize("model", [over_all_edges, over_all, crossed, turned, by_source])
def test_what_needs_other_rows_runs_whole(model):
    rng, edges = np.random.default_rng(0), Edges()
    built = edges.model(*model(edges))
    for number in (EDGES, 1):
        assert_equals_twin(built, draw(rng, 8, number), floats(8, 4), floats(number, 4))


def test_errors_are_of_whole_arrays():
    edges = Edges()
    built = edges.model(edges.reduced(edges.add(edges.source(), edges.mul(edges.destination(), v(E)))))
    graph = draw(np.random.default_rng(0))
    with pytest.raises(GraphError, match=r"mul\(float32 \(200, 4\), float32 \(3,\)\) cannot be computed"):
        built(graph, floats(NODES, 4), floats(3))


def test_threads_share_blocks_and_give_the_same(monkeypatch):
    edges, run, threads = Edges(), edge_space.EdgeGroup.run, []
    built, graph = edges.model(*attention(edges)), draw(np.random.default_rng(0))
    given = graph, floats(NODES, 4), floats(EDGES, 4)
    outputs = []
    for number in (1, 3):
        monkeypatch.setattr(edge_space.EdgeGroup, "run", lambda self, r, needed, _, n=number: run(self, r, needed, n))
        monkeypatch.setattr(edge_space, "ThreadPoolExecutor", lambda n: (threads.append(n), ThreadPoolExecutor(n))[1])
        outputs.append(built(*given))
    assert threads == [3]
    for one, other in zip(*outputs):
        np.testing.assert_array_equal(one, other)
