"""Rows of signs and in groups, weights on levels: kernels against the NumPy twin, what files may say of them."""

import copy
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import numba_kernels as nk
from numba_kernels import ModelFileError, Plan, PlanError, container, packing
from numba_kernels.levels import Levels
from numba_kernels.model_file import FORMAT
from numba_kernels.plan.ops import linear
from numba_kernels.spec import GroupGrid, SignGrid, SpecError, from_json

from .plans import (
    EXAMPLES,
    SIGNS,
    WIDTHS,
    PlanBuilder,
    assert_equals_twin,
    draw_graph,
    grouped,
    levels,
    normal,
    operations,
    per_row,
    static,
)


@given(
    rows=st.integers(0, 40), K=st.integers(1, 200), M=st.integers(1, 70), seed=st.integers(0, 999),
    weight_bits=st.sampled_from(WIDTHS), scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e20]), sparse=st.booleans(),
)  # fmt: skip
@settings(max_examples=2 * EXAMPLES, deadline=None)
def test_products_of_signs(rows, K, M, seed, weight_bits, scale, sparse):
    """Of rows times factors of nodes, and signs of the products, multiplied again."""
    rng, b = np.random.default_rng(seed), PlanBuilder()
    graph = draw_graph(rng, max(rows, 1), max(rows, 1), 3 * rows)
    scaled = b.add("degree", 1, 0, side="out", power=-0.5, plus=0)
    h = b.linear(b.quantize(scaled, SIGNS, K), rng, K, M, weight_bits)
    out = b.linear(b.quantize(h, SIGNS, M), rng, M, 3, 2)
    feat = normal(rng, max(rows, 1), K) * np.float32(scale)
    feat *= rng.random(feat.shape) < (0.1 if sparse else 1)
    model = b.model(["graph", "features"], h, out)
    assert_equals_twin(model, graph, feat)
    assert "look_up" not in operations(model)  # which adds magnitudes in another order


@given(
    rows=st.integers(0, 40), K=st.integers(1, 200), M=st.integers(1, 70), seed=st.integers(0, 999),
    sparse=st.booleans(),
)  # fmt: skip
@settings(max_examples=2 * EXAMPLES, deadline=None)
def test_products_of_rows_in_groups(rows, K, M, seed, sparse):
    """Of rows times factors of nodes, and of the products, in the tile; and what their codes stand for."""
    rng, b = np.random.default_rng(seed), PlanBuilder()
    graph = draw_graph(rng, max(rows, 1), max(rows, 1), 3 * rows)
    scaled = b.add("degree", 1, 0, side="out", power=-0.5, plus=0)
    codes = b.quantize(scaled, grouped(rng, (1, 2, max(WIDTHS))), K)
    h = b.linear(codes, rng, K, M, 2)
    out = b.linear(b.quantize(h, grouped(rng, (1, 2, max(WIDTHS))), M), rng, M, 3, 2)
    feat = normal(rng, max(rows, 1), K)
    feat *= rng.random(feat.shape) < (0.1 if sparse else 1)
    model = b.model(["graph", "features"], h, out, b.add("dequantize", codes))
    assert_equals_twin(model, graph, feat)
    assert "look_up" not in operations(model)  # which knows no groups


GROUPS = GroupGrid(4, widths=(1, 4, 2), alphas=(1, 0.5, 1), limits=(2, 5), half_grid=False)


def test_rows_have_the_factor_and_the_bits_of_their_group():
    """A row is of a group from its limit on, by its mean magnitude; its codes end where the group's bits do."""
    values = np.float32([[0.5, 3, 0.4], [-3, 3, 0], [3, 9, 1], [6, 2, 7], [0, 0, 30]])
    codes = nk.quantize(values, nk.Grid.of(GROUPS, 3))
    np.testing.assert_array_equal(codes.unpacked(), [[0, 1, 0], [0, 15, 8], [10, 15, 3], [3, 1, 3], [0, 0, 3]])
    np.testing.assert_array_equal(codes.zero, [0, 8, 0, 0, 0])
    half = nk.dequantize(nk.quantize(values, nk.Grid.of(dataclasses.replace(GROUPS, half_grid=True), 3)))
    np.testing.assert_array_equal(half[0], [1.5, 1.5, 1.5])
    np.testing.assert_array_equal(half[3], [5.25, 1.75, 5.25])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (4,)}, "2 to 256 groups, got 1"),
        ({"widths": (1, 5, 4)}, "codes have 1, 2, 3, 4, 8 bits, got 5"),
        ({"widths": (1, 2, 3)}, "the most bits of groups are 4"),
        ({"widths": (1, True, 4)}, "got True"),
        ({"alphas": (1, 2)}, "3 groups have 3 alphas, got 2"),
        ({"alphas": (1, float("nan"), 1)}, "alphas must be finite"),
        ({"half_grid": 1}, "true or false, got 1"),
        ({"limits": (5, 2)}, "ascend"),
        ({"limits": (5,)}, "3 groups have 2 limits, got 1"),
    ],
)
def test_what_is_no_grid_of_groups(change, message):
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(GROUPS, **change)


def test_groups_in_files():
    """Numbers of groups as arrays, or as one number that they share; what is none of these is refused."""
    arrays = {}

    def name(array):
        if (array == array[0]).all():
            return float(array[0])
        arrays[f"a{len(arrays)}"] = array
        return f"a{len(arrays) - 1}"

    alike = dataclasses.replace(GROUPS, alphas=(0.5, 0.5, 0.5), limits=(3, 3))
    for grid in (GROUPS, alike):
        content = json.loads(json.dumps(grid.to_json(name)))
        assert from_json(content, 9, arrays.__getitem__) == grid
    assert content["alpha"] == 0.5 and content["limits"] == 3
    for change in ({"widths": 4}, {"widths": [1, "2"]}, {"widths": [[1], 4, 2]}, {"limits": "a9"}, {"alpha": None}):
        with pytest.raises((SpecError, KeyError)):
            from_json({**content, **change}, 9, arrays.__getitem__)


def test_a_row_of_signs_has_its_mean_magnitude():
    values = np.array([[3, -1, 0.5, -0.5, 0], [0] * 5], np.float32)
    codes = nk.quantize(values, nk.Grid.of(SignGrid(), 5))
    np.testing.assert_array_equal(codes.unpacked(), [[1, 0, 1, 0, 0], [0] * 5])
    np.testing.assert_array_equal(nk.dequantize(codes)[0], np.float32([1, -1, 1, -1, -1]))
    assert abs(nk.dequantize(codes)[1]).max() < 1e-11


def test_magnitudes_are_added_in_the_order_that_is_stated():
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(200, 133)) * 10.0 ** rng.integers(-12, 12, (200, 133))).astype(np.float32)
    codes = nk.quantize(values, nk.Grid.of(SignGrid(), 133))
    np.testing.assert_array_equal(codes.scale, SignGrid().code(values).scale[:, 0])


@pytest.mark.parametrize("bits", WIDTHS)
@given(
    rows=st.integers(0, 40), K=st.integers(1, 200), M=st.integers(1, 70), weight_bits=st.sampled_from(WIDTHS),
    seed=st.integers(0, 999), row=st.booleans(), sparse=st.booleans(),
)  # fmt: skip
@settings(max_examples=EXAMPLES, deadline=None)
def test_products_with_levels(bits, rows, K, M, weight_bits, seed, row, sparse):
    rng, b = np.random.default_rng(seed), PlanBuilder()
    quantizer = per_row(bits, rng) if row else static(bits, K, rng, per_channel=False)
    h = b.linear(b.quantize(0, quantizer, K), rng, K, M, weight_bits, levels(weight_bits, rng))
    feat = normal(rng, rows, K)
    feat *= rng.random(feat.shape) < (0.1 if sparse else 1)
    assert_equals_twin(b.model(["features"], h), feat)


@pytest.mark.parametrize("values", [(0, 3, 5, 8), (0, 1, 2, 3), (0, 255), (7, 9, 200)])
def test_levels_stand_for_codes_in_single_products(values):
    rng = np.random.default_rng(0)
    x, codes = rng.integers(0, 16, (5, 40)).astype(np.uint8), rng.integers(0, len(values), (40, 20)).astype(np.uint8)
    given_codes = nk.quantize(x.astype(np.float32), nk.Grid(40, 4, scale=1.0))
    expected = x.astype(np.int64) @ (np.array(values)[codes] - 4)
    np.testing.assert_array_equal(nk.gemm(given_codes, nk.Weight(codes, 1.0, 4.0, values)), expected)


def test_codes_without_a_level_are_refused():
    with pytest.raises(ValueError, match="beyond the last level"):
        nk.Weight(np.full((2, 2), 2, np.uint8), 1.0, 0.0, levels=[0, 3])
    nk.Weight(np.ones((2, 2), np.uint8), 1.0, 0.0, levels=np.array([0, 3]))  # whole numbers of NumPy are such too


def plan_with_levels(values, bits=2):
    rng, b = np.random.default_rng(0), PlanBuilder()
    b.linear(b.quantize(0, SIGNS, 9), rng, 9, 5, bits, [0, 3, 5, 8])
    b.ops[-1]["weight"]["levels"] = values
    return [{"name": "x", "kind": "features", "value": 0, "optional": False}], b.ops, [b.ops[-1]["out"]], b.arrays


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 3, 5, 256], "from 0 to 255"),
        ([-4, -1, 1, 4], "from 0 to 255"),
        ([0, 3, 5, 8.0], "from 0 to 255"),
        ([0, 3, 5, True], "from 0 to 255"),
        ([0, 3, 5, float("nan")], "from 0 to 255"),
        ([0, 3, 5, None], "from 0 to 255"),
        ([0, 3, 5, [8]], "from 0 to 255"),
        ([0, 3, 5, 8, 9], "2 to 4 levels, got 5"),
        ([0], "2 to 4 levels, got 1"),
        ([], "2 to 4 levels, got 0"),
        ([0, 5, 3, 8], "levels ascend"),
        ([0, 3, 3, 8], "levels ascend"),
        ([0, 3], "beyond the last level"),
        ("a0", "weight must be"),
        (7, "weight must be"),
        (None, "weight must be"),
        ({"0": 3}, "weight must be"),
    ],
)
def test_other_levels_are_refused(values, message):
    with pytest.raises(PlanError, match=message):
        Plan(*plan_with_levels(values))


def test_levels_count_where_sums_could_overflow():
    inputs, ops, outputs, arrays = plan_with_levels([0, 3, 5, 8])
    weight, K = ops[-1]["weight"], 40_000
    arrays[weight["codes"]] = np.full((5, K // 4), 255, np.uint8)
    weight["shape"], ops[0]["columns"] = [K, 5], K
    Plan(inputs, ops, outputs, arrays)
    weight["levels"] = [0, 3, 5, 255]
    with pytest.raises(PlanError, match="overflow"):
        Plan(inputs, ops, outputs, arrays)


@pytest.mark.parametrize(
    "quantizer",
    [
        {"bits": 2, "granularity": "sign"},
        {"bits": True, "granularity": "sign"},
        {"bits": 1, "granularity": "signs"},
        {"bits": 1, "granularity": "sign", "scale": 1.0},
        {"bits": 1, "granularity": "sign", "alpha": float("nan")},
        {"granularity": "sign"},
    ],
)
def test_other_signs_are_refused(quantizer):
    b = PlanBuilder()
    b.add("dequantize", b.quantize(0, quantizer, 5))
    with pytest.raises(PlanError, match=r"granularity|quantizer has|1 bit|codes have"):
        b.model(["features"], b.ops[-1]["out"])


@pytest.mark.parametrize("op", ["aggregate", "delta", "stack"])
def test_signs_are_no_messages(op):
    b = PlanBuilder()
    if op == "delta":
        b.quantize(1, SIGNS, 5, op="delta", before=None, state=50)
    else:
        codes = b.quantize(1, SIGNS, 5)
        b.add(op, *([0, codes, None, None] if op == "aggregate" else [codes]))
    with pytest.raises(PlanError, match=r"scale per row|other grids"):
        b.model(["graph", "features"], b.ops[-1]["out"])


def test_files_hold_both(tmp_path):
    inputs, ops, outputs, arrays = plan_with_levels([0, 3, 5, 8])
    model = nk.PackedModel(Plan(copy.deepcopy(inputs), ops, outputs, arrays))
    feat = normal(np.random.default_rng(1), 7, 9)
    content = model.to_bytes()
    again = nk.PackedModel.from_bytes(content)
    np.testing.assert_array_equal(again(feat), model(feat))
    assert again.to_bytes() == content
    header, held = container.read(content)
    changed = json.loads(header.metadata[FORMAT])
    changed["ops"][-1]["weight"]["levels"][-1] = 300
    arrays = {name: np.array(array) for name, array in held.items()}
    with pytest.raises(ModelFileError, match="from 0 to 255"):
        nk.PackedModel.from_bytes(container.write(arrays, {FORMAT: json.dumps(changed)}))


def test_levels_of_no_codes():
    assert Levels((0, 1), 1).of(np.empty((0, 3), np.uint8)).shape == (0, 3)
    with pytest.raises(SpecError, match="levels, got 3"):
        Levels((0, 1, 2), 1)


def test_codes_that_many_products_share_are_looked_at_once(monkeypatch):
    looked = []
    monkeypatch.setattr(linear, "unpack", lambda *args: looked.append(args) or packing.unpack(*args))
    inputs, ops, _, arrays = plan_with_levels([0, 3, 5])
    product = ops[-1]
    arrays[product["weight"]["codes"]] = np.zeros_like(arrays[product["weight"]["codes"]])
    ops += [{**product, "out": product["out"] + 1 + n} for n in range(5)]
    Plan(inputs, ops, [op["out"] for op in ops[-6:]], arrays, returns="tuple")
    assert len(looked) == 1
