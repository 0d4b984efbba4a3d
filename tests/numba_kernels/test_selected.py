"""Features of which a plan reads some columns, given whole, against these columns alone and the NumPy twin."""

import numba
import numpy as np
import pytest

from numba_kernels import GraphError, Grid, PackedModel, Plan, quantize, reference
from numba_kernels.run.coded import values_of
from numba_kernels.run.features import is_sparse
from numba_kernels.selected import Selected, packed_mask

from .plans import JIT_OFF, PlanBuilder, draw_graph, normal, operations, per_row, static

M, ROWS = 9, 20 if JIT_OFF else 40
COLUMNS = {
    "half of them": (150, np.flatnonzero(np.random.default_rng(0).random(150) < 0.5)),
    "the first and the last": (129, np.array([0, 128])),
    "one, the last": (130, np.array([129])),
    "one, the first": (17, np.array([0])),
    "all but one": (64, np.delete(np.arange(64), 63)),
    "few, in rows of whole blocks": (128, np.array([3, 63, 64, 127])),
}
QUANTIZERS = {"static": lambda rng: static(8, 1, rng, False), "rows": lambda rng: per_row(8, rng)}


def selecting(builder, index, total, *outputs, kinds=("graph", "features"), **options):
    """A model whose features are some columns of ``total``."""
    inputs = [{"name": kind, "kind": kind, "value": n, "optional": False} for n, kind in enumerate(kinds)]
    place = kinds.index("features")
    inputs[place]["columns"] = {"total": total, "kept": builder.store(packed_mask(index, total))}
    return PackedModel(Plan(inputs, builder.ops, list(outputs), builder.arrays, returns="tuple"), **options)


def convolution(index, total, quantizer, rng, **options):
    """A product, and sums of its codes over neighbours; both are returned."""
    b = PlanBuilder()
    h = b.linear(b.quantize(1, quantizer, len(index)), rng, len(index), M, 2)
    return selecting(
        b, index, total, b.add("aggregate", 0, b.quantize(h, static(2, M, rng, False), M), None, None), h, **options
    )


def features(rng, rows, index, total, density=1.0):
    """Whole features of which a share is not 0, with what nobody may read in the other columns; and what is read."""
    whole = np.full((rows, total), np.nan, np.float32)
    whole[:, index] = normal(rng, rows, len(index)) * (rng.random((rows, len(index))) < density)
    return whole, np.ascontiguousarray(whole[:, index])


def assert_equal(got, expected):
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("density", [1.0, 0.05])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("columns", COLUMNS)
def test_whole_features_give_what_their_columns_alone_do(columns, quantizer, density):
    rng, (total, index) = np.random.default_rng(1), COLUMNS[columns]
    model = convolution(index, total, QUANTIZERS[quantizer](rng), rng)
    graph, (whole, alone) = draw_graph(rng, ROWS, ROWS, 100), features(rng, ROWS, index, total, density)
    values = reference.run(model.plan, {0: graph, 1: alone})
    expected = [values[value] for value in model.plan.outputs]
    assert_equal(model(graph, alone), expected)
    assert_equal(model(graph, whole), expected)
    assert ("look_up" in operations(model)) == is_sparse(alone)
    assert len(model._executor._programs) == 2
    assert_equal(model(graph, alone), expected)
    assert_equal(model(graph, whole, nodes=[7, 0, 7]), [output[[7, 0, 7]] for output in expected])
    assert_equal(model.prepare(graph, whole)(nodes=[3]), [output[[3]] for output in expected])
    assert_equal(model.update(graph, whole.astype(np.float64)), expected)
    alone[5], whole[5, index] = 2, 2
    assert_equal(model.update(graph, whole, changed=[5]), model(graph, alone))


@pytest.mark.parametrize("density", [1.0, 0.05])
def test_batches_and_files_of_whole_features(density, tmp_path):
    rng, (total, index) = np.random.default_rng(2), COLUMNS["half of them"]
    model = convolution(index, total, per_row(8, rng), rng)
    graph, (whole, alone) = draw_graph(rng, ROWS, ROWS, 100), features(rng, ROWS, index, total, density)
    np.save(tmp_path / "feat.npy", whole)
    mapped, expected = np.load(tmp_path / "feat.npy", mmap_mode="r"), model(graph, alone)
    assert_equal(model(graph, mapped), expected)
    for feat in (alone, whole, whole.astype(np.float64), mapped):
        assert_equal(model.inference(graph, feat, batch_size=7), expected)


def test_codes_of_whole_features_on_the_grid_of_their_columns():
    rng, (total, index) = np.random.default_rng(7), COLUMNS["half of them"]
    quantizer = static(8, 1, rng, False)
    quantizer["offset"] = quantizer["zero_point"]  # so that values of codes have these codes
    model, graph = convolution(index, total, quantizer, rng), draw_graph(rng, ROWS, ROWS, 100)
    whole, alone = features(rng, ROWS, index, total)
    spec = model.feature_grids()["features"]
    codes, of_columns = (quantize(np.nan_to_num(part), Grid.of(spec, part.shape[1])) for part in (whole, alone))
    expected = model(graph, of_columns)
    for feat in (codes, values_of(codes), values_of(of_columns)):
        assert_equal(model(graph, feat), expected)
    assert_equal(model(graph, codes, nodes=[4, 1]), [output[[4, 1]] for output in expected])
    assert_equal(model.inference(graph, codes, batch_size=9), expected)


@pytest.mark.skipif(JIT_OFF, reason="threads are the compiler's")
@pytest.mark.parametrize("density", [1.0, 0.05])
def test_whole_features_on_several_threads(density):
    rng, (total, index) = np.random.default_rng(3), COLUMNS["half of them"]
    quantizer, rows = per_row(8, rng), 3000
    counts = {1, numba.config.NUMBA_NUM_THREADS}
    models = [convolution(index, total, quantizer, np.random.default_rng(0), threads=count) for count in counts]
    graph, (whole, alone) = draw_graph(rng, rows, rows, 9000), features(rng, rows, index, total, density)
    expected = models[0](graph, alone)
    for model in models:
        assert_equal(model(graph, whole), expected)


def test_numbers_that_are_read_must_be_finite():
    rng, (total, index) = np.random.default_rng(4), COLUMNS["half of them"]
    model, graph = convolution(index, total, per_row(8, rng), rng), draw_graph(rng, ROWS, ROWS, 100)
    for density in (1.0, 0.05):
        whole, _ = features(rng, ROWS, index, total, density)
        whole[-1, index[-1]] = np.inf
        with pytest.raises(GraphError, match="features holds NaN or infinity"):
            model(graph, whole)


def test_what_is_read_says_whether_it_is_looked_up():
    rng, (total, index) = np.random.default_rng(5), COLUMNS["half of them"]
    whole, alone = features(rng, ROWS, index, total, 0.05)
    selected, filled = Selected(index, total), np.nan_to_num(whole, nan=3)
    assert is_sparse(alone, selected) and is_sparse(filled, selected) and not is_sparse(filled)
    model, graph = convolution(index, total, per_row(8, rng), rng), draw_graph(rng, ROWS, ROWS, 100)
    model(graph, filled)
    assert "look_up" in operations(model)


def test_whatever_reads_features_reads_their_columns():
    """Readouts, both parts of a pair, array functions, and what is returned as it came."""
    rng, (total, index) = np.random.default_rng(6), COLUMNS["few, in rows of whole blocks"]
    graph, K = draw_graph(rng, ROWS, ROWS, 100, batch_sizes=[15, 0, ROWS - 15]), len(index)
    whole, alone = features(rng, ROWS, index, total)
    b = PlanBuilder()
    scaled = b.add("degree", 1, 0, side="in", power=-0.5, plus=1)
    made = b.add("call", 1, function="cumsum", args=[{"value": 1}, 1], kwargs={})
    readouts = [b.add("readout", 0, 1, reduce=reduce) for reduce in ("sum", "max")]
    model = selecting(b, index, total, scaled, *readouts, made, b.add("source", 1))
    values = reference.run(model.plan, {0: graph, 1: alone})
    for feat in (alone, whole):
        got = model(graph, feat)
        assert_equal(got, [values[value] for value in model.plan.outputs])
    whole[:] = 0
    np.testing.assert_array_equal(got[-1], alone)
    b = PlanBuilder()
    source, target = b.add("source", 1), b.add("destination", 1, 0)
    codes = b.quantize(source, static(2, K, rng, True), K)
    model = selecting(
        b, index, total, b.add("combine", b.add("aggregate", 0, codes, None, None), target, coefficients=[1, 2])
    )
    block = draw_graph(rng, ROWS, 12, 90)
    pairs = [features(rng, rows, index, total) for rows in (ROWS, 12)]
    expected = model(block, tuple(alone for _, alone in pairs))
    assert_equal(model(block, (pairs[0][0], pairs[1][0])), expected)
    assert_equal(model(block, (pairs[0][0], pairs[1][1])), expected)


def test_columns_are_found_by_places_bits_and_ranks():
    for total, index in COLUMNS.values():
        selected = Selected(index, total)
        chosen = np.isin(np.arange(total), index)
        bits = np.unpackbits(selected.bits.view(np.uint8), bitorder="little")
        assert len(bits) == -(-total // 64) * 64 and not bits[total:].any()
        np.testing.assert_array_equal(bits[:total], chosen)
        np.testing.assert_array_equal(selected.places, index)
        np.testing.assert_array_equal(selected.ranks, np.cumsum(chosen) - chosen)
