"""Integer arithmetic between accumulators and codes: kernels against the twin, multipliers against exact fractions."""

from fractions import Fraction

import numpy as np
import pytest

from numba_kernels import GraphError, Plan, PlanError, load
from numba_kernels.fixed_point import Coding, Multiplier, degree_norm, on_unit
from numba_kernels.spec import IntegerGrid

from .plans import PlanBuilder, assert_equals_twin, draw_graph, integer, normal, operations, static


def quantize(builder, value, quantizer, columns, graph=None, norm=None):
    """As PlanBuilder.quantize, with a degree norm."""
    spec = {k: builder.store(v) if isinstance(v, np.ndarray) else v for k, v in quantizer.items()}
    more = {} if norm is None else {"norm": norm}
    return builder.add("quantize", value, *([] if norm is None else [graph]), quantizer=spec, columns=columns, **more)


def halves(bits, rng):
    """A scale that is coded in floats, with zero points that integers can have."""
    return {name: part for name, part in integer(bits, 1, rng).items() if name != "arithmetic"}


BOTH = {"side": "out", "power": -0.5, "plus": 0}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("is_half", [False, True])
def test_a_convolution_equals_the_twin(bits, is_half):
    """Product, norm, messages with a scale a channel, sum, norm, bias, ReLU, codes, and a product of them."""
    K, M, builder, rng = 37, 21, PlanBuilder(), np.random.default_rng(bits)
    x = quantize(builder, 0, integer(bits, K, rng, is_half=is_half), K)
    h = builder.linear(x, rng, K, M, bits)
    builder.ops[-1]["unit"] = 9
    h = builder.add("fixed_degree", h, 1, side="out", power=-0.5, plus=0, unit=9)
    m = quantize(builder, h, integer(bits, M, rng, True, is_half), M)
    h = builder.add("aggregate", 1, m, None, None, unit=11)
    h = builder.add("fixed_degree", h, 1, side="in", power=-1, plus=0, unit=11)
    h = builder.add("bias", h, bias=builder.store(on_unit(normal(rng, 1, M)[0], 11)))
    h = builder.add("relu", h)
    codes = quantize(builder, h, integer(bits, M, rng, is_half=is_half), M, 1, BOTH)
    out = builder.linear(codes, rng, M, 3, bits)
    builder.ops[-1]["unit"] = 14
    model = builder.model(["features", "graph"], out, h)
    for rows, edges, hub in ((50, 300, False), (9, 5000, True), (3, 0, False)):
        assert_equals_twin(model, normal(rng, rows, K), draw_graph(rng, rows, rows, edges, hub))
    assert {"encode_fixed", "multiply_fixed", "gather_fixed", "fixed_norm"} <= operations(model)
    assert not {"encode", "multiply", "gather"} & operations(model)


@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("M", [3, 40, 100])
@pytest.mark.parametrize("bits", [2, 8])
def test_products_of_features_that_are_mostly_0_equal_the_twin(bits, M, has_norm):
    """They are looked up where numbers and results are integers both, or neither."""
    K, rows, rng = 150, 40, np.random.default_rng(bits + M)
    norm = {"graph": 1, "norm": BOTH} if has_norm else {}
    feat = normal(rng, rows, K) * (rng.random((rows, K)) < 0.05)
    feat[3] = 0
    for quantizer, instruction in ((integer(bits, K, rng), "look_up_fixed"), (halves(bits, rng), "multiply_fixed")):
        if has_norm and instruction == "multiply_fixed":
            continue  # norms are of integer grids
        builder = PlanBuilder()
        out = builder.linear(quantize(builder, 0, quantizer, K, **norm), rng, K, M, bits)
        builder.ops[-1]["unit"] = 9
        model = builder.model(["features", "graph"], out)
        assert_equals_twin(model, feat, draw_graph(rng, rows, rows, 99))
        assert {instruction} == operations(model) & {"look_up", "look_up_fixed", "multiply_fixed"}
        with pytest.raises(GraphError, match="NaN or infinity"):
            model(np.where(feat == feat.max(), np.inf, feat).astype(np.float32), draw_graph(rng, rows, rows, 99))


def test_an_integer_grid_before_a_product_in_floats():
    builder, rng = PlanBuilder(), np.random.default_rng(0)
    out = builder.linear(quantize(builder, 0, integer(4, 150, rng), 150), rng, 150, 5, 4)
    model = builder.model(["features"], out)
    assert_equals_twin(model, normal(rng, 20, 150) * (rng.random((20, 150)) < 0.05))
    assert not {"look_up", "look_up_fixed"} & operations(model)


def test_multipliers_are_fractions_rounded_once():
    """Numbers, codes and norms against exact arithmetic, within what their bits allow."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.001, 0.3, 9).astype(np.float32)
    accumulators = rng.integers(-5000, 5000, (4, 9))
    for multiplier, parts in (
        (Multiplier.of_sums(scale, 1.5, 12), 2),
        (Multiplier.of_products(scale, 999, 2.25, 12), 4),
    ):
        for a, got, s in zip(accumulators.T, multiplier.times(accumulators, 3333).T, scale):
            exact = [Fraction(int(n)) * Fraction(float(s)) / parts for n in a]
            assert all(abs(Fraction(float(x)) - y) <= Fraction(1, 2**13) + abs(y) / 2**7 for x, y in zip(got, exact))
            assert (np.ldexp(got, 12) == np.rint(np.ldexp(got, 12))).all()
    x, norm = normal(rng, 50, 9), degree_norm(rng.integers(0, 2000, 50), -0.5, 0)
    for top, offset in ((3, 1.5), (15, 0), (255, 128)):
        coding = Coding.of(scale, np.full(9, offset, np.float32), top)
        for exact, got in ((x, coding.codes(x, top)), (x * norm[:, None], coding.codes(x, top, norm))):
            off = got.astype(np.float64) - np.clip(exact / scale.astype(np.float64) + offset, 0, top)
            assert np.abs(off).max() <= 0.5 + 2**-6
    for power in (-1, -0.5, 0.5):
        degrees = np.arange(5000)
        norm, exact = degree_norm(degrees, power, 0), np.maximum(degrees, 1) ** float(power)
        assert np.abs(norm / exact - 1).max() <= 2**-15
        assert (np.frexp(norm)[0] * 2**15 % 1 == 0).all()


@pytest.mark.parametrize("edges", [300, 40_000, 2_000_000])
def test_sums_of_many_keep_their_first_16_bits(edges):
    builder, rng = PlanBuilder(), np.random.default_rng(0)
    m = quantize(builder, 0, integer(8, 3, rng), 3)
    model = builder.model(["features", "graph"], builder.add("aggregate", 1, m, None, None, unit=5))
    (out,) = assert_equals_twin(model, np.full((4, 3), 9, np.float32), draw_graph(rng, 4, 4, edges, hub=True))
    grid = model.plan.grids[m]
    exact = edges * (grid.code(np.full((1, 3), 9, np.float32)).values())
    assert (np.abs(out[3] - exact[0]) <= 2**-12 * abs(exact[0]) + 2**-5).all()


def test_files_hold_the_arithmetic(tmp_path):
    builder, rng = PlanBuilder(), np.random.default_rng(0)
    x = quantize(builder, 0, integer(2, 5, rng), 5)
    h = builder.linear(x, rng, 5, 3, 2)
    builder.ops[-1]["unit"] = 9
    model = builder.model(["features"], h)
    model.save(tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    assert isinstance(loaded.plan.grids[x], IntegerGrid) and loaded.plan.ops[1]["unit"] == 9
    feat = normal(rng, 7, 5)
    np.testing.assert_array_equal(loaded(feat)[0], model(feat)[0])


def test_what_integers_do_not_serve_is_refused():
    rng = np.random.default_rng(0)

    def plan(change, bits=2, K=5):
        builder = PlanBuilder()
        x = quantize(builder, 0, integer(bits, K, rng), K)
        builder.linear(x, rng, K, 3, bits)
        builder.ops[1]["unit"] = 9
        change(builder)
        inputs = [{"name": "x", "kind": "features", "value": 0, "optional": False}]
        return Plan(inputs, builder.ops, [builder.ops[-1]["out"]], builder.arrays)

    plan(lambda builder: None)
    with pytest.raises(PlanError, match="whole, or all odd halves"):
        plan(lambda b: b.ops[0]["quantizer"].update(zero_point=0.25))
    with pytest.raises(PlanError, match="zero points are no halves"):
        plan(lambda b: b.ops[1]["weight"].update(zero_point=0.3))
    with pytest.raises(PlanError, match="unit must be a whole number"):
        plan(lambda b: b.ops[1].update(unit=0.5))
    with pytest.raises(PlanError, match="overflow an int32 sum"):
        plan(lambda builder: None, 8, 20000)
    with pytest.raises(PlanError, match="a norm goes with a graph"):
        plan(lambda b: b.ops[0].update(norm=BOTH))
    for unit in (-200, -20, 60, 200):
        with pytest.raises(PlanError, match=f"the unit {unit} is too far from the scales"):
            plan(lambda b, unit=unit: b.ops[1].update(unit=unit))

    builder = PlanBuilder()
    m = quantize(builder, 0, integer(8, 3, rng), 3)
    for unit in (-200, 200):
        with pytest.raises(PlanError, match=f"the unit {unit} is too far from the scales"):
            builder.model(["features", "graph"], builder.add("aggregate", 1, m, None, None, unit=unit))
        builder.ops.pop()
    model = builder.model(["features", "graph"], builder.add("aggregate", 1, m, None, None, unit=9))
    with pytest.raises(GraphError, match="overflows an int32 sum of up to 511 an edge"):
        model(np.ones((1, 3), np.float32), draw_graph(rng, 1, 1, 4_300_000))


def test_a_float_grid_codes_in_floats():
    builder, rng = PlanBuilder(), np.random.default_rng(0)
    out = builder.add("dequantize", builder.quantize(0, static(4, 3, rng, False), 3))
    model = builder.model(["features"], out)
    assert_equals_twin(model, normal(rng, 5, 3))
    assert "encode" in operations(model) and "encode_fixed" not in operations(model)
