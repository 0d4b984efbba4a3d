"""Array functions within plans: between launches of kernels, in files, on graphs of other sizes."""

import numpy as np
import pytest

from numba_kernels import GraphError, PackedModel, Plan, load

from .plans import PlanBuilder, assert_equals_twin, draw_graph, static


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def call(plan, function, *args, **kwargs):
    """Add a call whose arguments are trees; returns the value it writes."""
    values = []

    def walk(tree):
        if isinstance(tree, dict):
            values.extend(tree[key] for key in ("value", "graph") if key in tree)
            walk([*tree.get("slice", ()), tree.get("size")])
        elif isinstance(tree, (list, tuple)):
            for part in tree:
                walk(part)

    walk([args, list(kwargs.values())])
    return plan.add("call", *dict.fromkeys(values), function=function, args=list(args), kwargs=kwargs)


def model_of(plan, kinds, *outputs):
    inputs = [{"name": f"x{v}", "kind": k, "value": v, "optional": False} for v, k in enumerate(kinds)]
    return PackedModel(Plan(inputs, plan.ops, list(outputs), plan.arrays, returns="tuple"))


@pytest.fixture
def mixed(rng):
    """Codes, a product, an array function with the product and an array, codes again, a sum; its file, loaded."""
    plan = PlanBuilder()
    product = plan.linear(plan.quantize(0, static(2, 20, rng, False), 20), rng, 20, 8, 2)
    added = call(plan, "add", {"value": product}, {"value": 1})
    matrix = plan.add("matrix", added, columns=8, rows={"of": "nodes", "graph": 2})
    total = plan.add("aggregate", 2, plan.quantize(matrix, static(4, 8, rng, False), 8), None, None, reduce="sum")
    return model_of(plan, ("features", "array", "graph"), total, added)


def arguments(rng, nodes, columns=20):
    return (
        rng.normal(size=(nodes, columns)).astype(np.float32),
        rng.normal(size=(1, 8)).astype(np.float32),
        draw_graph(rng, nodes, nodes, 7 * nodes),
    )


def test_a_call_between_kernels_on_two_graphs(mixed, rng, tmp_path):
    again = load(mixed.save(tmp_path / "model.safetensors"))
    for nodes in (30, 50):
        given = arguments(rng, nodes)
        for one, other in zip(assert_equals_twin(again, *given), mixed(*given)):
            np.testing.assert_array_equal(one, other)
    assert len(again._executor._programs) == 1


def test_layerwise_inference_runs_calls(mixed, rng):
    given = arguments(rng, 30)
    for one, other in zip(mixed.inference(*given, batch_size=7), mixed(*given)):
        np.testing.assert_array_equal(one, other)


def test_shapes_that_do_not_fit_are_named(mixed, rng):
    x, _, graph = arguments(rng, 30)
    with pytest.raises(GraphError, match=r"add\(float32 \(30, 8\), float32 \(3,\)\) cannot be computed"):
        mixed(x, np.zeros(3, np.float32), graph)
