"""Rows that are not sent: told apart, forgotten and left out of sums as the NumPy twin does, exactly."""

import numpy as np
import pytest

from numba_kernels import Graph, GraphError, PlanError, reference
from numba_kernels.kernels.silence import LISTED

from .plans import PlanBuilder, assert_equals_twin, draw_graph, normal, operations

WITH_ZERO = {"bits": 2, "granularity": "tensor", "scale": 0.25, "zero_point": 1.0, "offset": 1.0}
HALF = {**WITH_ZERO, "zero_point": 1.5, "offset": 1.5}


def propagating(columns, grid, dead_zone, steps=5):
    """Steps of delta-coded propagation of features 1 over graph 0; its outputs, and the changes of each."""
    b, value, state, received, changes = PlanBuilder(), 1, None, None, []
    for step in range(steps):
        zone = {"dead_zone": dead_zone(b)} if step else {}
        after = 900 + step
        codes = b.quantize(value, grid, columns, "delta", before=state, state=after, **zone)
        total = b.add("aggregate", 0, codes, None, None)
        received = total if received is None else b.add("combine", received, total, coefficients=[1.0, 1.0])
        value = b.add("combine", b.add("degree", received, 0, side="in", power=-1, plus=0), 1, coefficients=[0.7, 0.3])
        state = after
        changes.append(codes)
    return b.model(["graph", "features"], value, received), changes


def thresholds(numbers, of):
    array, names = np.asarray(numbers, np.float32), []

    def zone(b):
        if array.ndim and not names:
            names.append(b.store(array))
        return {"thresholds": names[0] if names else float(array), "of": of}

    return zone


@pytest.mark.parametrize("of", ["rows", "entries"])
@pytest.mark.parametrize("columns", [7, 40])
def test_silent_rows_are_those_of_the_twin(of, columns):
    rng = np.random.default_rng(columns)
    graph, feat = draw_graph(rng, 90, 90, 400), normal(rng, 90, columns) * 0.4
    numbers = rng.uniform(0.2, 0.6, columns)
    model, (_, *changes) = propagating(columns, WITH_ZERO if of == "entries" else HALF, thresholds(numbers, of))
    assert_equals_twin(model, graph, feat)
    assert {"find_silent", "clear_silent", "gather_sent", "wake"} <= operations(model)
    values = reference.run(model.plan, {0: graph, 1: feat})
    shares = [values[change].sent.mean() for change in changes]
    assert any(0 < share < 0.5 for share in shares), shares
    feat[:] = 0  # nothing is ever sent
    assert_equals_twin(model, graph, feat)


def test_a_threshold_that_is_just_reached_is_reached():
    graph, feat = Graph([0, 1, 2], [1, 0]), np.full((2, 1), 0.75, np.float32)
    # 0.75 is coded as 0.5, so that both have 0.7 · 0.5 + 0.3 · 0.75 next, of which 0.5 is known.
    change = np.float32(0.7) * np.float32(0.5) + np.float32(0.3) * np.float32(0.75) - np.float32(0.5)
    for threshold, is_sent in ((change, True), (np.nextafter(change, np.float32(1)), False)):
        model, (_, changes, *_) = propagating(1, {**HALF, "scale": 1.0}, thresholds(threshold, "rows"))
        found = reference.run(model.plan, {0: graph, 1: feat})[changes].sent
        assert found.tolist() == [is_sent] * 2
        assert_equals_twin(model, graph, feat)


def test_a_node_of_more_edges_than_are_listed_at_once():
    rng = np.random.default_rng(0)
    edges = 2 * LISTED + 100
    indptr = np.concatenate([[0, 3, 3 + edges], np.full(98, 3 + edges)])
    graph = Graph(indptr, rng.integers(0, 100, 3 + edges))
    model, _ = propagating(7, HALF, thresholds(0.3, "rows"))
    assert_equals_twin(model, graph, normal(rng, 100, 7) * 0.4)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"thresholds": 0.0, "of": "rows"}, "positive"),
        ({"thresholds": -1.0, "of": "rows"}, "positive"),
        ({"thresholds": 0.1, "of": "columns"}, "dead_zone must be"),
        ({"thresholds": "none", "of": "rows"}, "malformed"),
        ({"thresholds": 0.1, "of": "entries"}, "codes for 0"),
    ],
)
def test_dead_zones_that_are_none_are_refused(change, fault):
    with pytest.raises(PlanError, match=fault):
        propagating(4, HALF, lambda b: change)


def test_thresholds_of_other_columns_are_refused():
    with pytest.raises(PlanError, match="length"):
        propagating(4, HALF, thresholds([0.1] * 3, "rows"))


@pytest.mark.parametrize("reader", ["dequantize", "weighted", "own", "max"])
def test_changes_are_read_by_plain_sums_alone(reader):
    b = PlanBuilder()
    first = b.quantize(1, HALF, 4, "delta", before=None, state=900)
    changes = b.quantize(1, HALF, 4, "delta", before=900, state=901, dead_zone={"thresholds": 0.1, "of": "rows"})
    read = {
        "dequantize": lambda: b.add("dequantize", changes),
        "weighted": lambda: b.add("aggregate", 0, changes, 2, None),
        "own": lambda: b.add("aggregate", 0, changes, None, first),
        "max": lambda: b.add("aggregate", 0, changes, None, None, reduce="max"),
    }
    out = read[reader]()
    with pytest.raises(PlanError, match="changes"):
        b.model(["graph", "features", "edge_weight"], out)


def test_who_sleeps_and_who_does_not():
    """On a path only the end with features wakes its neighbours, one further each step; rows beyond are left alone."""
    nodes = 40
    graph = Graph([0, *range(nodes)], range(nodes - 1), num_src=nodes)  # node i hears from i − 1
    feat = np.zeros((nodes, 3), np.float32)
    feat[0] = 1.2
    model, changes = propagating(3, {**WITH_ZERO, "scale": 0.5}, thresholds(0.01, "rows"), steps=6)
    assert_equals_twin(model, graph, feat)
    values = reference.run(model.plan, {0: graph, 1: feat})
    assert values[changes[1]].sent.sum() < 4 and "wake" in operations(model)


def test_what_is_made_otherwise_in_each_step_does_not_sleep():
    b, value, state, received = PlanBuilder(), 1, None, None
    for step in range(4):
        zone = {"dead_zone": {"thresholds": 0.3, "of": "rows"}} if step else {}
        codes = b.quantize(value, HALF, 5, "delta", before=state, state=900 + step, **zone)
        total = b.add("aggregate", 0, codes, None, None)
        received = total if received is None else b.add("combine", received, total, coefficients=[1.0, 1.0])
        value, state = b.add("combine", received, 1, coefficients=[0.1 * (step + 1), 0.3]), 900 + step
    model = b.model(["graph", "features"], value)
    rng = np.random.default_rng(0)
    assert_equals_twin(model, draw_graph(rng, 300, 300, 900), normal(rng, 300, 5) * 0.4)
    assert "wake" not in operations(model) and "gather_sent" in operations(model)


def test_where_silent_rows_cannot_be_they_are_refused_before_any_work(tmp_path):
    rng = np.random.default_rng(0)
    graph, feat = draw_graph(rng, 20, 20, 60), normal(rng, 20, 7)
    model, _ = propagating(7, HALF, thresholds(0.3, "rows"))
    with pytest.raises(GraphError, match="silent rows unsent, and .* cannot be resumed"):
        model.inference(graph, feat, folder=tmp_path)
    with pytest.raises(GraphError, match="silent rows unsent, and workers do not tell each other"):
        model.inference(graph, feat, exchange=print)
    assert not list(tmp_path.iterdir())


def test_a_node_is_awake_as_long_as_it_sends_though_none_of_its_neighbours_does():
    rng = np.random.default_rng(0)
    graph = Graph([*[0] * 15, *range(16)], np.arange(15))  # from 15 nodes that hear of nobody to as many others
    feat = normal(rng, 30, 7) * 5  # more than a message says at once
    model, (_, *changes) = propagating(7, HALF, thresholds(0.3, "rows"))
    assert reference.run(model.plan, {0: graph, 1: feat})[changes[-1]].sent.any()
    assert_equals_twin(model, graph, feat)
