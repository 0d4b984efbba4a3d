"""Packed models that read some columns of their features."""

import copy
import json

import numpy as np
import pytest
import torch

import dgl_lowbit as lowbit
import numba_kernels
from dgl_lowbit.pruning import Pruner
from numba_kernels import GraphError, ModelFileError, Plan, container
from numba_kernels.arguments import lazy_features
from numba_kernels.model_file import FORMAT, version_of
from numba_kernels.plan import PlanError
from numba_kernels.reference import run
from numba_kernels.run.features import mapped_in
from numba_kernels.selected import packed_mask, unpacked_index

from .models import FEATS, Plain, graph


@pytest.fixture(scope="module")
def made():
    g = graph()
    pruner = Pruner(Plain(), g, features=0.5, channels=0.5, start=0, stop=1)
    pruner.advance(1)
    model = lowbit.calibrate(lowbit.quantize(pruner.squeeze(), lowbit.QuantConfig(2)), g, g.ndata["feat"])
    return g, model, lowbit.freeze(model, g, g.ndata["feat"])


def test_columns_come_whole_or_alone(made):
    g, model, packed = made
    feat = g.ndata["feat"]
    index = model.columns.index
    result = packed(g, feat)
    assert torch.allclose(result, model.eval()(g, feat), atol=1e-5)
    assert torch.equal(packed(g, feat[:, index]), result)
    assert torch.equal(packed(g, feat, nodes=[5, 2]), result[[5, 2]])
    assert np.array_equal(packed.inference(g, feat.numpy(), batch_size=7), result)
    assert torch.equal(packed.prepare(g, feat)(), result)
    spoilt = feat.clone()
    spoilt[:, [n for n in range(FEATS) if n not in index]] = torch.nan
    assert torch.equal(packed(g, spoilt), result)


def test_the_runtime_alone_equals_its_twin(made, tmp_path):
    g, model, packed = made
    packed.save(tmp_path / "model.safetensors")
    alone = numba_kernels.load(tmp_path / "model.safetensors")
    indptr, indices, _ = (part.numpy() for part in g.adj_tensors("csc"))
    feat = g.ndata["feat"].numpy()
    result = alone((indptr, indices), feat)
    chosen = np.ascontiguousarray(feat[:, model.columns.index.numpy()])
    values = run(alone.plan, {0: numba_kernels.Graph(indptr, indices), 1: chosen})
    assert np.array_equal(values[alone.plan.outputs[0]], result) and np.array_equal(result, packed(g, feat))
    with pytest.raises(GraphError, match="feat must have 12 columns, or the 6 of them that the model reads, got 7"):
        alone((indptr, indices), feat[:, :7])


def test_columns_of_a_file_are_read_ahead_and_known_by_the_file(made, tmp_path):
    g, _, packed = made
    np.save(tmp_path / "feat.npy", g.ndata["feat"].numpy())
    mapped = np.load(tmp_path / "feat.npy", mmap_mode="r")
    rows = packed._inputs((arguments_of(g), mapped), {}, features=lazy_features)[1]
    assert rows.shape == (g.num_nodes(), FEATS) and mapped_in(rows) is mapped
    assert rows.written == lazy_features(mapped, "feat").written is not None
    assert np.array_equal(packed.inference(g, mapped, batch_size=7), packed(g, g.ndata["feat"]))


def arguments_of(g):
    indptr, indices, _ = (part.numpy() for part in g.adj_tensors("csc"))
    return indptr, indices


def test_only_files_that_need_it_are_of_the_new_version(made):
    _, _, packed = made
    g = graph()
    whole = lowbit.calibrate(lowbit.quantize(Plain(), lowbit.QuantConfig(2)), g, g.ndata["feat"])
    assert version_of(packed.plan) == 5 and version_of(lowbit.freeze(whole, g, g.ndata["feat"]).plan) == 4


def test_columns_that_are_read_otherwise_too_are_picked_by_a_function():
    class Both(Plain):
        def __init__(self):
            super().__init__()
            self.register_buffer("index", torch.arange(0, FEATS, 2))
            self.second = type(self.last)(FEATS // 2, 3)

        def forward(self, graph, feat):
            return super().forward(graph, feat) + self.second(graph, feat.index_select(1, self.index))

    g = graph()
    model = lowbit.calibrate(lowbit.quantize(Both(), lowbit.QuantConfig(8)), g, g.ndata["feat"])
    packed = lowbit.freeze(model, g, g.ndata["feat"])
    assert all("columns" not in entry for entry in packed.plan.inputs)
    assert torch.allclose(packed(g, g.ndata["feat"]), model.eval()(g, g.ndata["feat"]), atol=1e-5)


@pytest.mark.parametrize(
    "columns",
    [
        {"total": 12},
        {"total": 0, "kept": "mask"},
        {"total": 17, "kept": "mask"},
        {"total": 12, "kept": "none"},
        {"total": 12, "kept": "all"},
        {"total": 12, "kept": "floats"},
        {"total": 12, "kept": "missing"},
        {"total": 11, "kept": "eleven"},
    ],
)
def test_what_does_not_fit_is_no_plan(made, columns):
    plan = made[2].plan
    arrays = {
        **plan.arrays, "mask": packed_mask(np.arange(6), 12), "none": np.zeros(2, np.uint8),
        "all": packed_mask(np.arange(12), 12), "floats": np.zeros(2, np.float32), "eleven": np.full(2, 255, np.uint8),
    }  # fmt: skip
    inputs = [{**entry, "columns": columns} if entry["kind"] == "features" else entry for entry in plan.inputs]
    with pytest.raises(PlanError):
        Plan(inputs, plan.ops, plan.outputs, arrays)
    graphs = [{**entry, "columns": {"total": 12, "kept": "mask"}} for entry in plan.inputs]
    with pytest.raises(PlanError):
        Plan(graphs, plan.ops, plan.outputs, arrays)


@pytest.mark.parametrize("total", [1, 8, 9, 1433])
def test_masks_are_their_columns(total):
    index = np.flatnonzero(np.random.default_rng(total).random(total) < 0.5)
    mask = packed_mask(index, total)
    assert mask.shape == (-(-total // 8),) and np.array_equal(unpacked_index(mask, total), index)


def test_one_digest_tells_damage_of_every_array(made):
    content = made[2].to_bytes()
    header, arrays = container.read(content)
    assert json.loads(header.metadata[FORMAT])["sha256"] == container.sha256_of_all(arrays)
    mask = content.rindex(packed_mask(made[1].columns.index.numpy(), FEATS).tobytes())
    for place in (mask, *range(header.size, len(content), 7)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        with pytest.raises(ModelFileError, match="an array is damaged"):
            numba_kernels.PackedModel.from_bytes(damaged)


def test_a_copy_selects_as_well(made):
    g, model, _ = made
    other = copy.deepcopy(model).eval()
    assert torch.equal(other(g, g.ndata["feat"]), model.eval()(g, g.ndata["feat"]))
