"""Features kept as codes: in DGL's loaders, as arguments of packed models, and what these return as codes."""

import subprocess
import sys

import dgl
import dgl.nn
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dgl import DGLError
from torch import nn

import dgl_lowbit as lowbit
import numba_kernels
from numba_kernels import Codes, Graph, GraphError, codebook, functional

WIDTH = 24


class Net(nn.Module):
    def __init__(self, kind, *args):
        super().__init__()
        self.conv1, self.conv2 = kind(WIDTH, 16, *args), kind(16, 8, *args)

    def forward(self, graph, feat):
        blocks = graph if isinstance(graph, list) else [graph, graph]
        return self.conv2(blocks[1], F.relu(self.conv1(blocks[0], feat)))


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    graph = dgl.add_self_loop(dgl.rand_graph(120, 500))
    graph.ndata["feat"] = torch.randn(120, WIDTH)
    return graph


def frozen(graph, kind, *args, **overrides):
    torch.manual_seed(1)
    feat = graph.ndata["feat"]
    model = lowbit.quantize(Net(kind, *args), lowbit.QuantConfig(2, overrides=overrides), graph, feat)
    model = lowbit.calibrate(model, graph, feat).eval()
    return lowbit.freeze(model, graph, feat), model


@pytest.fixture(scope="module")
def sage(graph):
    return frozen(graph, dgl.nn.SAGEConv, "mean", **{"conv2.outputs": 2})


def taken(packed, graph, coded):
    """The features that a run takes as the codes they are given as."""
    pair = tuple(part.numpy() for part in graph.adj_tensors("csc"))[:2]
    return packed._executor.given_codes(packed._inputs((Graph.of(pair), coded), {}))[1].unread


@pytest.mark.parametrize("way", [{"bits": 2}, {"codebook": 4}])
def test_a_model_computes_with_what_a_store_holds(way, graph, sage):
    packed, store = sage[0], lowbit.compress(graph.ndata["feat"], **way)
    assert not taken(packed, graph, store.coded)
    assert torch.equal(packed(graph, store), packed(graph, store[:]))


def test_codes_for_several_grids_are_told(graph):
    class Residual(Net):
        def __init__(self, *args):
            super().__init__(*args)
            self.beside = torch.nn.Linear(WIDTH, 8)

        def forward(self, graph, feat):
            return super().forward(graph, feat) + self.beside(feat)

    torch.manual_seed(2)
    feat = graph.ndata["feat"]
    config = lowbit.QuantConfig(4, inputs_granularity="tensor", overrides={"beside": 8})
    model = lowbit.quantize(Residual(dgl.nn.SAGEConv, "mean"), config, graph, feat)
    packed = lowbit.freeze(lowbit.calibrate(model, graph, feat).eval(), graph, feat)
    with pytest.warns(UserWarning, match="on several grids"):
        store = lowbit.compress(feat, like=packed)
    assert not torch.equal(packed(graph, store), packed(graph, feat))


@pytest.mark.parametrize("kind", [dgl.nn.SAGEConv, dgl.nn.GraphConv])
def test_codes_on_the_models_own_grid_are_taken_without_decoding(kind, graph):
    packed, _ = frozen(graph, kind, *(["mean"] if kind is dgl.nn.SAGEConv else []))
    feat = graph.ndata["feat"]
    store, whole = lowbit.compress(feat, like=packed), packed(graph, feat)
    assert taken(packed, graph, store.coded)
    assert torch.equal(packed(graph, store), whole)
    nodes = torch.tensor([5, 0, 5, 119])
    assert torch.equal(packed(graph, store, nodes=nodes), whole[nodes])
    decoded = store[:]  # where codes are no arguments, they are decoded
    assert torch.equal(packed.inference(graph, store, batch_size=50), packed(graph, decoded))
    assert torch.equal(packed.prepare(graph, store)(nodes), packed(graph, decoded)[nodes])
    assert torch.equal(packed.update(graph, store), packed(graph, decoded))


def test_an_example_may_hold_a_store(graph):
    store, packed = lowbit.compress(graph.ndata["feat"], 2), []
    for feat in (store, store[:]):
        torch.manual_seed(1)
        model = lowbit.quantize(Net(dgl.nn.SAGEConv, "mean"), lowbit.QuantConfig(2), graph, feat).eval()
        packed.append(lowbit.freeze(lowbit.calibrate(model, graph, feat), graph, feat))
    assert packed[0].to_bytes() == packed[1].to_bytes()
    float_model = Net(dgl.nn.SAGEConv, "mean")
    model = lowbit.calibrate(lowbit.quantize(float_model, lowbit.QuantConfig(2)), graph, store)
    assert lowbit.diagnose(model, graph, store) == lowbit.diagnose(model, graph, store[:])
    assert lowbit.sensitivity(float_model, graph, store) == lowbit.sensitivity(float_model, graph, store[:])
    outputs = model(graph, store[:])
    assert lowbit.teacher_loss(model, outputs, graph, store) == lowbit.teacher_loss(model, outputs, graph, store[:])
    options = {"budget": {"bits": 4}, "widths": (2, 8), "progress": False}
    layer = dgl.nn.SAGEConv(store.shape[1], 3, "mean")
    assert lowbit.allocate(layer, graph, store, **options) == lowbit.allocate(layer, graph, store[:], **options)


def test_what_else_reads_features_gets_them_decoded(graph):
    class Beside(Net):
        def forward(self, graph, feat):
            return super().forward(graph, feat) + feat[:, :8]

    torch.manual_seed(2)
    feat = graph.ndata["feat"]
    model = lowbit.quantize(Beside(dgl.nn.SAGEConv, "mean"), lowbit.QuantConfig(2), graph, feat)
    packed = lowbit.freeze(lowbit.calibrate(model, graph, feat).eval(), graph, feat)
    with pytest.warns(UserWarning, match="reads its features on several grids, or as they are"):
        store = lowbit.compress(feat, like=packed)
    assert not taken(packed, graph, store.coded)
    assert torch.equal(packed(graph, store), packed(graph, store[:]))


def test_a_loader_fetches_decoded_rows_and_a_model_takes_those_of_blocks(graph, sage):
    feat = graph.ndata["feat"]
    packed, store = lowbit.freeze(sage[1], [graph, graph], feat), lowbit.compress(feat, like=sage[0])
    sampler = dgl.dataloading.NeighborSampler([3, 3], prefetch_node_feats=["feat"])
    store.bytes_fetched, rows = 0, 0
    loader = dgl.dataloading.DataLoader(store.attach(graph), torch.arange(40), sampler, batch_size=16, num_workers=0)
    for sources, _, blocks in loader:
        rows += len(sources)
        codes = store.coded.rows(sources.numpy())
        assert np.array_equal(blocks[0].srcdata["feat"].numpy(), codes.values())
        assert torch.equal(packed(blocks, lowbit.FeatureStore(codes)), packed(blocks, feat[sources]))
    assert store.bytes_fetched == rows * store.row_bytes
    assert torch.equal(graph.ndata["feat"], store.attach(graph).ndata["feat"])


@pytest.mark.parametrize("way", [{"bits": 2}, {"bits": 2, "granularity": "channel"}, {"codebook": 5}])
def test_records_and_files_hold_all_of_it(way, graph, tmp_path):
    store = lowbit.compress(graph.ndata["feat"], **way)
    rows = torch.tensor([7, 3, 7])
    records = store.records(rows)
    assert records.dtype == torch.uint8 and records.shape == (3, store.row_bytes)
    assert torch.equal(store.decode(records), store[rows])
    mapped = lowbit.compress(graph.ndata["feat"], **way, path=tmp_path / "store")
    assert torch.equal(mapped[:], store[:]) and torch.equal(
        lowbit.FeatureStore.load(tmp_path / "store")[5:9], store[5:9]
    )
    with pytest.raises(DGLError, match="records are"):
        store.decode(records[:, 1:])


@pytest.mark.parametrize("way", [{"bits": 4}, {"codebook": 5}])
def test_a_file_is_written_as_rows_are_coded(way, tmp_path, monkeypatch):
    """What is wrong in the last rows leaves no file; the others are those of a store that was whole before."""
    monkeypatch.setattr(functional, "_ROWS", 50)
    monkeypatch.setattr(codebook, "_ROWS", 50)
    feat = np.random.default_rng(0).standard_normal((120, WIDTH), np.float32)
    mapped = lowbit.compress(feat, **way, path=tmp_path / "mapped")
    whole = lowbit.compress(feat, **way).save(tmp_path / "whole")
    assert whole.read_bytes() == (tmp_path / "mapped").read_bytes()
    assert torch.equal(mapped[:], mapped[torch.arange(120)])
    feat[119] = np.nan
    with pytest.raises(DGLError, match="NaN or infinity"):
        lowbit.compress(feat, like=numba_kernels.fitted_grid(feat[:100], 4), path=tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mapped", "whole"]


def test_bytes_are_a_sixteenth_at_2_bits_and_a_codebook_of_4_columns():
    feat = torch.randn(300, 128)
    stores = lowbit.compress(feat, 2, granularity="tensor"), lowbit.compress(feat, codebook=4)
    assert all(store.nbytes * 16 == 4 * feat.numel() for store in stores)
    assert lowbit.compress(feat, 4, granularity="channel").nbytes * 8 == 4 * feat.numel()


@pytest.mark.parametrize("kind", ["own", "fitted"])
def test_embeddings_are_the_models_results_as_codes(kind, graph, sage):
    packed, feat = sage[0], graph.ndata["feat"]
    whole = packed(graph, feat)
    if kind == "own":
        codes = packed.embed(graph, feat)
        assert codes.grid.spec.bits == 2 and np.array_equal(codes.values(), whole.numpy())
        store = lowbit.compress(feat, like=packed)
        assert np.array_equal(packed.embed(graph, store).packed, codes.packed)
    else:
        packed, _ = frozen(graph, dgl.nn.SAGEConv, "mean")
        whole, codes = packed(graph, feat), packed.embed(graph, feat)
        assert codes.grid.spec.bits == 8 and np.abs(codes.values() - whole.numpy()).max() < whole.abs().max() / 50
        assert packed.embed(graph, feat, bits=2, granularity="row").grid.per_row
    assert isinstance(codes, Codes) and codes.shape == tuple(whole.shape)
    scores, _ = codes.search(codes.rows([0, 1]), 5, "cosine")
    np.testing.assert_allclose(scores[:, 0], 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("feat", "way", "error", "message"),
    [
        (torch.ones(3, 2), {}, ValueError, "one of bits=, codebook= and like="),
        (torch.ones(3, 2), {"bits": 2, "codebook": 2}, ValueError, "one of bits=, codebook= and like="),
        (torch.ones(3, 2), {"bits": 5}, GraphError, "bits must be one of"),
        (torch.ones(3, 2), {"codebook": 3}, GraphError, "columns of a piece must be a whole number, from 1 to 2"),
        (torch.ones(3, 2), {"like": "model"}, ValueError, "like must be a packed model or a grid, got str"),
        (torch.ones(3), {"bits": 2}, DGLError, "matrix of floats"),
        (torch.ones(3, 2).long(), {"bits": 2}, DGLError, "matrix of floats"),
        (torch.full((3, 2), torch.nan), {"bits": 2}, DGLError, "NaN or infinity"),
        (torch.full((3, 2), torch.inf), {"codebook": 2}, DGLError, "NaN or infinity"),
    ],
)
def test_what_cannot_be_compressed_is_refused(feat, way, error, message):
    with pytest.raises(error, match=message):
        lowbit.compress(feat, **way)


def test_what_a_store_has_not_is_refused(graph):
    with pytest.raises(TypeError, match="compress makes one of features"):
        lowbit.FeatureStore(torch.ones(3, 2))
    grid = lowbit.compress(torch.ones(3, 2), 2, granularity="channel").coded.grid.spec
    with pytest.raises(ValueError, match="the grid has 2 columns, features have 3"):
        lowbit.compress(torch.ones(2, 3), like=grid)
    store = lowbit.compress(torch.ones(3, 2), 2)
    with pytest.raises(DGLError, match="3 rows for 120 nodes"):
        store.attach(graph)
    with pytest.raises(DGLError, match="rows must be from 0 to 2"):
        store[torch.tensor([3])]
    with pytest.raises(DGLError, match="rows must be an array, got list"):
        store[[[0], [1, 2]]]
    few = lowbit.compress(torch.randn(3, 2), codebook=2)  # of three words
    with pytest.raises(ValueError, match="a row names word 7, and the book has 3: rows are damaged"):
        few.decode(torch.full((1, few.row_bytes), 7, dtype=torch.uint8))


_DISTRIBUTED = """
import sys, dgl, dgl.distributed, torch
import dgl_lowbit as lowbit

folder = sys.argv[1]
graph, rows = dgl.rand_graph(100, 300), torch.tensor([5, 2, 5])
store = lowbit.data.compress(torch.randn(100, 32), 2)
graph.ndata["codes"] = store.records()
dgl.distributed.partition_graph(graph, "graph", 1, folder)
dgl.distributed.initialize("none")
parts = dgl.distributed.DistGraph("graph", part_config=folder + "/graph.json")
assert torch.equal(parts.ndata["codes"][rows], store.records(rows))
of_all = dgl.distributed.DistTensor((100, store.row_bytes), torch.uint8, "all", lambda *_: store.records())
assert torch.equal(store.decode(of_all[rows]), store[rows])
"""


@pytest.mark.slow
def test_distributed_tensors_hold_records(tmp_path):
    done = subprocess.run([sys.executable, "-c", _DISTRIBUTED, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
