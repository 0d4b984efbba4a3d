"""Results of some nodes, and results brought up to date, against runs of all of a model, to the bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import numba_kernels.run.part as part
from numba_kernels import Graph, GraphError
from numba_kernels.graph import HUB_EDGES
from numba_kernels.subgraph import Limits, Subgraph, neighbourhood, reached
from tests.numba_kernels.plans import EXAMPLES, PlanBuilder, normal, per_row, static

IN, HIDDEN = 12, 8
STYLES = ("both", "left", "plain", "max", "edges", "attend", "normed", "typed")


@pytest.fixture(autouse=True, scope="module")
def always_a_part():
    """Small graphs are cut too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part, "_ENCODED", Limits())
        patch.setattr(part, "_CODED", Limits())
        yield


def layer(build, rng, x, K, M, style):
    """One layer on graph 0, with weights 2, edge features 3 and edge types 4."""
    h = build.linear(build.quantize(x, per_row(2, rng), K), rng, K, M, 2)
    grid = static(2, M, rng, False)
    if style in ("both", "left"):
        h = build.add("degree", h, 0, side="out", power=-0.5 if style == "both" else -1, plus=0)
    if style == "edges":
        grid["zero_point"] = np.ones(1, np.float32)
    codes = build.quantize(h, grid, M)
    stored = build.ops[-1]["quantizer"]
    if style == "attend":
        coded = {**stored, "zero_point": 0.0, "offset": 0.0, "scale": 0.1}
        more = {"heads": 1, "slope": 0.2, "vector": 0.3, "quantizer": coded}
        h = build.add("attend", 0, codes, codes, codes, **more)
    elif style == "edges":
        edges = build.add("quantize", 3, quantizer=stored, columns=M)
        h = build.add("aggregate_edges", 0, codes, edges)
    elif style == "typed":
        other = build.add("quantize", build.add("relu", h), quantizer=stored, columns=M)
        graph, stacked = build.add("edges_by_type", 0, 4, count=2), build.add("stack", codes, other)
        h = build.add("aggregate", graph, stacked, 2, None)
    else:
        weight = {"plain": 2, "normed": build.add("edge_norm", 0, 2) if style == "normed" else None}.get(style)
        h = build.add("aggregate", 0, codes, weight, codes, reduce="sum") if style != "max" else build.add(
            "aggregate", 0, codes, None, None, reduce="max"
        )  # fmt: skip
    if style == "both":
        h = build.add("degree", h, 0, side="in", power=-0.5, plus=0)
    return build.add("combine", build.add("relu", h), h, coefficients=[1.0, 0.5])


def model_of(rng, styles):
    build, x, widths = PlanBuilder(), 1, [IN, *[HIDDEN] * (len(styles) - 1), HIDDEN]
    for style, K, M in zip(styles, widths, widths[1:]):
        x = layer(build, rng, x, K, M, style)
    return build.model(("graph", "features", "edge_weight", "features", "edge_types"), x)


class Draw:
    """A graph with multiple edges, a node of many and nodes without, and arguments that change."""

    def __init__(self, rng, nodes, edges):
        self.rng, self.nodes = rng, nodes
        self.ends = rng.integers(max(nodes - 2, 1), size=(2, edges)).astype(np.int64)
        self.ends[1, : edges // 8] = 0
        self.x, self.on_edges = normal(rng, nodes, IN), normal(rng, edges, HIDDEN)
        self.weights, self.types = rng.uniform(0.1, 1, edges).astype(np.float32), rng.integers(2, size=edges)

    def arguments(self):
        order = np.argsort(self.ends[1], kind="stable")
        indptr = np.r_[0, np.cumsum(np.bincount(self.ends[1], minlength=self.nodes))]
        graph = Graph(indptr, self.ends[0][order], self.nodes, order)
        return graph, self.x, self.weights, self.on_edges, self.types

    def change(self):
        """Change some of everything; returns what."""
        rng, known = self.rng, self.nodes
        changed = rng.integers(known, size=rng.integers(3))
        self.x = self.x.copy()
        self.x[changed] = normal(rng, len(changed), IN)
        added = int(rng.integers(3))
        self.nodes += added
        self.x = np.concatenate([self.x, normal(rng, added, IN)])
        removed = rng.permutation(self.ends.shape[1])[: rng.integers(3)]
        other = rng.integers(self.ends.shape[1], size=rng.integers(2))
        self.weights = self.weights.copy()
        self.weights[other] += np.float32(0.5)
        new = rng.integers(self.nodes, size=(2, int(rng.integers(4))))
        named = np.concatenate([self.ends[:, removed], self.ends[:, other], new], axis=1)
        keep = np.setdiff1d(np.arange(self.ends.shape[1]), removed)
        self.ends = np.concatenate([self.ends[:, keep], new], axis=1)
        fresh = new.shape[1]
        self.on_edges = np.concatenate([self.on_edges[keep], normal(rng, fresh, HIDDEN)])
        self.weights = np.concatenate([self.weights[keep], rng.uniform(0.1, 1, fresh).astype(np.float32)])
        self.types = np.concatenate([self.types[keep], rng.integers(2, size=fresh)])
        return changed, named[:, (named < known).all(0)]  # edges of new nodes need not be named


@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(STYLES), min_size=1, max_size=3), st.integers(4, 60))
@settings(max_examples=EXAMPLES, deadline=None)
def test_some_nodes_and_updates_equal_all_of_it(seed, styles, nodes):
    rng = np.random.default_rng(seed)
    model, draw = model_of(rng, styles), Draw(rng, nodes, 2 * nodes)
    assert model.hops == len(styles)
    (whole,) = model(*draw.arguments())
    for chosen in (rng.integers(nodes, size=rng.integers(5)), rng.random(nodes) < 0.1):
        np.testing.assert_array_equal(model(*draw.arguments(), nodes=chosen)[0], whole[chosen])
    model.update(*draw.arguments())
    for _ in range(3):
        changed, edges = draw.change()
        (updated,) = model.update(*draw.arguments(), changed=changed, changed_edges=tuple(edges))
        np.testing.assert_array_equal(updated, model(*draw.arguments())[0])


@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(STYLES), min_size=1, max_size=3), st.integers(4, 60))
@settings(max_examples=EXAMPLES, deadline=None)
def test_prepared_models_give_what_calls_give(seed, styles, nodes):
    rng = np.random.default_rng(seed)
    model, graph = model_of(rng, styles), Draw(rng, nodes, 2 * nodes)
    arguments = graph.arguments()
    (whole,) = model(*arguments)
    prepared = model.prepare(*arguments)
    by_codes_only = "edges" not in styles
    if by_codes_only:
        graph.x[:] = np.nan  # they are not read again
    np.testing.assert_array_equal(prepared()[0], whole)
    for limits in (Limits(), Limits(edges_to_others=0), Limits(nodes=0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(part, "_CODED", limits)
            for chosen in (rng.integers(nodes, size=rng.integers(5)), rng.random(nodes) < 0.1):
                np.testing.assert_array_equal(prepared(chosen)[0], whole[chosen])


def test_a_model_is_prepared_whatever_its_plan_does_with_features():
    rng = np.random.default_rng(0)
    build, x = PlanBuilder(), normal(rng, 9, IN)
    build.quantize(1, static(2, IN, rng, True), IN)  # nothing reads these codes
    codes = build.quantize(1, static(2, IN, rng, True), IN)
    model = build.model(("graph", "features"), build.add("aggregate", 0, codes, None, None, reduce="sum"))
    (whole,) = model(chain(9), x)
    np.testing.assert_array_equal(model.prepare(chain(9), x)([3, 2])[0], whole[[3, 2]])
    build = PlanBuilder()  # features of a row for each node and type
    codes, graph = build.quantize(1, static(2, IN, rng, True), IN), build.add("edges_by_type", 0, 2, count=2)
    typed = build.model(
        ("graph", "features", "edge_types"), build.add("aggregate", graph, codes, None, None, reduce="sum")
    )
    arguments = chain(9), normal(rng, 18, IN), rng.integers(2, size=8)
    (whole,) = typed(*arguments)
    for run in (lambda nodes: typed(*arguments, nodes=nodes), typed.prepare(*arguments)):
        np.testing.assert_array_equal(run(nodes=[3, 2])[0], whole[[3, 2]])


def test_codes_that_are_kept_count_as_memory_of_a_run(monkeypatch):
    rng, build = np.random.default_rng(0), PlanBuilder()
    rounded = [build.add("dequantize", build.quantize(0, static(2, IN, rng, False), IN)) for _ in range(20)]
    model = build.model(("features",), build.add("combine", *rounded, coefficients=[1.0] * 20))
    x = normal(rng, 5000, IN)
    monkeypatch.setattr(model._executor, "room", lambda arguments: 1_000_000)
    model(x)
    with pytest.raises(GraphError, match="the model asks for 1,600,000 bytes"):
        model.prepare(x)


def chain(nodes):
    """Node v receives from v − 1."""
    return Graph(np.r_[0, np.arange(nodes)], np.arange(nodes - 1))


def arguments_of(graph, x=None):
    """What models take, on a graph."""
    x = np.ones((graph.num_dst, IN), np.float32) if x is None else x
    return graph, x, None, np.zeros((graph.num_edges, HIDDEN), np.float32), np.zeros(graph.num_edges, int)


def test_only_what_results_follow_from_is_read_and_computed():
    model, x = model_of(np.random.default_rng(0), ["both", "both"]), normal(np.random.default_rng(1), 50, IN)
    (whole,) = model(*arguments_of(chain(50), x))
    x[:27] = x[31:] = np.nan
    (some,) = model(*arguments_of(chain(50), x), nodes=[30, 29])
    np.testing.assert_array_equal(some, whole[[30, 29]])
    with pytest.raises(GraphError, match="holds NaN"):
        model(*arguments_of(chain(50), x), nodes=[28])


def test_a_search_finds_nodes_by_distance_and_leaves_no_marks():
    graph = chain(9)
    for _ in range(2):
        found, places = neighbourhood(graph, np.array([6, 2, 6]), 2, Limits())
        assert found.nodes.tolist() == [6, 2, 5, 1, 4, 0] and found.ends == [2, 4, 6]
        assert places.tolist() == [0, 1, 0] and found.edges_there.tolist() == [5, 1, 4, 0]
        assert found.indices.tolist() == [2, 3, 4, 5] and found.indptr.tolist() == [0, 1, 2, 3, 4, 4, 4]
    edges = int(graph.in_degrees[[6, 2]].sum())
    for exact in (Limits(nodes=4, last_nodes=6), Limits(edges=edges), Limits(edges_to_others=edges)):
        assert neighbourhood(graph, np.array([6, 2]), 2, exact)[0].nodes.tolist() == [6, 2, 5, 1, 4, 0]
    for less in (Limits(nodes=3), Limits(last_nodes=5), Limits(edges=edges - 1)):
        assert neighbourhood(graph, np.array([6, 2]), 2, less) is None
    all_of_it, _ = neighbourhood(graph, np.array([6, 2]), 2, Limits(edges_to_others=edges - 1))
    assert all_of_it.nodes.tolist() == [6, 2, 5, 1, 0, 3, 4, 7, 8] and all_of_it.ends == [2, 4, 9]
    assert all_of_it.indices.tolist() == [2, 3, 6, 4]
    assert sorted(reached(graph, {1: np.array([3]), 2: np.array([4]), 0: np.array([0])})) == [0, 3, 4, 5, 6]
    assert not graph._arrays["marks"].any()


def test_hubs_are_summed_in_parts_where_they_are_needed():
    rng, count = np.random.default_rng(2), HUB_EDGES + 5
    indptr = np.r_[0, 3, 3 + count, 3 + 2 * count, np.full(5, 3 + 2 * count)]
    graph = Graph(indptr, np.r_[1, 1, 4, rng.integers(8, size=2 * count)])
    model, x = model_of(rng, ["both", "both"]), normal(rng, 8, IN)
    arguments = arguments_of(graph, x)
    (whole,) = model(*arguments)
    for nodes in ([0], [2], [1, 2], [7]):
        np.testing.assert_array_equal(model(*arguments, nodes=nodes)[0], whole[nodes])


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([9], "nodes must be from 0 to 8, got 9 to 9"),
        ([-1], "from 0 to 8, got -1"),
        ([0.0], "integers in one dimension, or a mask of 9 bools; got float64 of shape"),
        (3, "got int64 of shape \\(\\)"),
        ([[1]], "got int64 of shape \\(1, 1\\)"),
        ([[1], [1, 2]], "nodes must be an array, got list"),
        (np.ones(8, bool), "a mask of 9 bools; got bool of shape \\(8,\\)"),
    ],
)
def test_what_are_no_nodes_is_refused(nodes, message):
    model, arguments = model_of(np.random.default_rng(0), ["left"]), arguments_of(chain(9))
    with pytest.raises(GraphError, match=message):
        model(*arguments, nodes=nodes)
    model.update(*arguments)
    with pytest.raises(GraphError, match=message.replace("nodes must", "changed must")):
        model.update(*arguments, changed=nodes)


def test_what_has_no_row_for_each_node_is_refused():
    model, x = model_of(np.random.default_rng(0), ["left"]), np.ones((9, IN), np.float32)
    with pytest.raises(GraphError, match="blocks name theirs already"):
        model(*arguments_of(Graph([0, 1], [0], num_src=9, is_block=True), x), nodes=[0])
    build = PlanBuilder()
    summed = build.model(("graph", "features"), build.add("readout", 0, build.add("relu", 1), reduce="sum"))
    assert summed.hops is None
    with pytest.raises(GraphError, match="a row for each of 9 nodes, the model returns shape \\(1, 12\\)"):
        summed(chain(9), x, nodes=[0])


def test_what_mixes_all_rows_runs_whole_and_gives_the_same():
    build, x = PlanBuilder(), normal(np.random.default_rng(0), 9, 4)
    total = build.add("call", 1, function="softmax", args=[{"value": 1}, 0], kwargs={})
    model = build.model(("graph", "features"), build.add("matrix", total, columns=4, rows={"of": "nodes", "graph": 0}))
    assert model.hops is None
    (whole,) = model(chain(9), x)
    np.testing.assert_array_equal(model(chain(9), x, nodes=[3, 3])[0], whole[[3, 3]])
    model.update(chain(9), x)
    np.testing.assert_array_equal(model.update(chain(9), x + 1, changed=[0])[0], model(chain(9), x + 1)[0])


def test_an_update_with_fewer_nodes_is_refused_until_it_starts_anew():
    model = model_of(np.random.default_rng(0), ["both"])
    model.update(*arguments_of(chain(9)))
    with pytest.raises(GraphError, match="there were 9, now there are 8"):
        model.update(*arguments_of(chain(8)), changed=[1])
    with pytest.raises(GraphError, match="as many sources as destinations, got 1 and 2"):
        model.update(*arguments_of(chain(9)), changed_edges=([0], [1, 2]))
    with pytest.raises(GraphError, match="must be a pair of arrays"):
        model.update(*arguments_of(chain(9)), changed_edges=[0, 1, 2])
    assert len(model.update(*arguments_of(chain(8)))[0]) == 8


def test_results_of_updates_are_the_callers_own():
    model, arguments = model_of(np.random.default_rng(0), ["left"]), arguments_of(chain(9))
    (first,) = model.update(*arguments)
    expected = first.copy()
    first[:] = 7
    np.testing.assert_array_equal(model.update(*arguments, changed=[])[0], expected)


def test_degrees_are_those_of_the_whole_graph():
    graph = Graph([0, 2, 3, 5], [1, 2, 0, 0, 1])
    found, _ = neighbourhood(graph, np.array([1]), 1, Limits())
    assert isinstance(found, Subgraph) and found.nodes.tolist() == [1, 0]
    for side in ("in", "out"):
        np.testing.assert_array_equal(found.degree_factor(side, -1, 0), graph.degree_factor(side, -1, 0)[[1, 0]])
