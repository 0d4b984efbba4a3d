"""Blocks that sum over whole neighbourhoods, with the codes that nodes outside them sent last."""

import dgl
import dgl.nn
import numpy as np
import pytest
import torch
from dgl import DGLError
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.nn.history import HistoryOps, KeptMessages, kept_messages
from dgl_lowbit.nn.kept_rows import KeptRows
from dgl_lowbit.nn.neighbours import Neighbours
from dgl_lowbit.quant.format import QParams
from dgl_lowbit.quant.quantized import Quantized
from dgl_lowbit.training import MessageHistory, resume, stage
from numba_kernels.packing import pack

from .models import build

SAMPLER = dgl.dataloading.NeighborSampler([2, 2])


class Interrupt(BaseException):
    pass


class Layers(nn.Module):
    """Layers, one a block."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, blocks, h):
        for layer, block in zip(self.layers, blocks):
            h = layer(block, h)
        return h


def gins():
    return dgl.nn.GINConv(nn.Linear(12, 8), "mean"), dgl.nn.GINConv(nn.Linear(8, 4), "sum")


MODELS = {
    "gcn": lambda: (dgl.nn.GraphConv(12, 8), dgl.nn.GraphConv(8, 16, norm="right")),
    "sage": lambda: (dgl.nn.SAGEConv(12, 8, "mean"), dgl.nn.SAGEConv(8, 16, "gcn")),
    "gin": gins,
}
CONFIGS = {
    "channel": {},
    "tensor": {"messages_granularity": "tensor"},
    "shift": {"messages_granularity": "shift"},
    "3 bits": {"messages": 3},
    "bt*": {"quantizer": "bt*", "messages": 4},
}


def graph_and_features():
    torch.manual_seed(0)
    graph = dgl.add_self_loop(dgl.rand_graph(60, 500))
    return graph, torch.randn(60, 12)


def made(model="gcn", **config):
    graph, feat = graph_and_features()
    low_bit = lowbit.quantize(Layers(*MODELS[model]()), lowbit.QuantConfig(2, **config), [graph] * 2, feat)
    lowbit.calibrate(low_bit, [graph] * 2, feat)
    return low_bit.eval(), graph, feat


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("config", CONFIGS)
def test_blocks_give_what_the_graph_gives(model, config):
    """While weights stay, what is kept is what would be sent."""
    low_bit, graph, feat = made(model, **CONFIGS[config])
    with torch.no_grad():
        expected = low_bit([graph] * 2, feat)
    history = MessageHistory(low_bit, graph)
    history.fill([graph] * 2, feat)
    nodes = torch.arange(0, 60, 7)
    sources, _, blocks = SAMPLER.sample_blocks(history.graph, nodes)
    assert blocks[1].num_edges() < graph.in_degrees(nodes).sum()
    torch.testing.assert_close(low_bit(blocks, feat[sources]), expected[nodes], rtol=1e-5, atol=1e-6)
    history.detach()
    assert not torch.allclose(low_bit(blocks, feat[sources]), expected[nodes], atol=1e-3)


def test_codes_of_others_are_those_that_they_sent_last():
    """The sum of what sources send now, and all others sent before, in NumPy."""
    graph, _ = graph_and_features()
    kept = KeptMessages(Neighbours(graph), 3, 2, False)
    codes = torch.randint(0, 4, (60, 3)).float()
    kept.rows.write(slice(None), codes)
    sources, _, (block,) = dgl.dataloading.NeighborSampler([3]).sample_blocks(graph, torch.tensor([4, 9]))
    now, scale = torch.randint(0, 4, (len(sources), 3)).float(), torch.tensor(0.3)
    total = HistoryOps(kept).aggregate(block, _quantized(now, scale))
    mixed = codes.numpy().copy()
    mixed[sources.numpy()] = now.numpy()
    adjacency = graph.adj_external(scipy_fmt="csr").toarray()
    np.testing.assert_allclose(total, 0.3 * (adjacency.T[[4, 9]] @ (mixed - 1.5)), rtol=1e-6)
    assert torch.equal(kept.rows.read(torch.arange(60))[0], torch.from_numpy(mixed))


def _quantized(codes, scale, requires_grad=False):
    zero = torch.tensor(1.5)
    params = QParams(torch.ones(()), zero, zero)
    quantized = Quantized.of((codes - 1.5).requires_grad_(requires_grad), params, 3, torch.tensor(0.5), True)
    quantized.scale = scale
    return quantized


def test_drawn_neighbours_take_the_gradients_of_those_that_were_not():
    """Target 0 has in-neighbours 0 to 5; 0 is its own, 2 were drawn, 3 are missing."""
    graph = dgl.graph(([0, 1, 2, 3, 4, 5], [0] * 6), num_nodes=6)
    kept = KeptMessages(Neighbours(graph), 2, 2, False)
    block = dgl.create_block(([0, 1], [0, 0]), num_src_nodes=3, num_dst_nodes=1)
    block.srcdata[dgl.NID], block.dstdata[dgl.NID] = torch.tensor([0, 2, 4]), torch.tensor([0])
    codes = _quantized(torch.tensor([[0.0, 1], [2, 3], [1, 1]]), torch.tensor(2.0), requires_grad=True)
    total = HistoryOps(kept).aggregate(block, codes)
    (gradient,) = torch.autograd.grad(total.sum(), codes.source[0])
    assert torch.equal(gradient, 2 * torch.tensor([[1.0, 1], [2.5, 2.5], [2.5, 2.5]]))
    # of which there are as many in all as without sampling: 1 + 2 · 2.5 = 6


@pytest.mark.parametrize("model", MODELS)
def test_gradients_are_those_of_the_graph_where_nothing_is_left_out(model):
    low_bit, graph, feat = made(model)
    low_bit([graph] * 2, feat).square().sum().backward()
    learned = {name: parameter for name, parameter in low_bit.named_parameters() if parameter.grad is not None}
    expected = {name: parameter.grad.clone() for name, parameter in learned.items()}
    low_bit.zero_grad()
    history = MessageHistory(low_bit, graph)
    sampler = dgl.dataloading.MultiLayerFullNeighborSampler(2)
    sources, _, blocks = sampler.sample_blocks(history.graph, torch.arange(60))
    low_bit(blocks, feat[sources]).square().sum().backward()
    history.detach()
    for name, parameter in learned.items():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_rows_are_packed_as_the_kernels_pack_them(bits):
    codes = torch.randint(0, 1 << bits, (7, 13))
    rows = KeptRows(9, 13, bits, "cpu", has_powers=True)
    chosen, powers = torch.tensor([8, 0, 3, 2, 1, 5, 7]), 2.0 ** -torch.arange(7.0).unsqueeze(1)
    rows.write(chosen, codes.float(), powers)
    expected = pack(codes.numpy().astype(np.uint8), bits, width=-(-13 * bits // 8))
    assert np.array_equal(rows.packed[chosen], expected)
    read, factors = rows.read(chosen)
    assert torch.equal(read, codes.float()) and torch.equal(factors, powers)


def test_what_is_kept_is_a_fourteenth_of_floats():
    for granularity in ("channel", "shift"):
        model = lowbit.quantize(build(), lowbit.QuantConfig(2, messages_granularity=granularity))
        wide = lowbit.quantize(
            Layers(dgl.nn.GraphConv(100, 64), dgl.nn.GraphConv(64, 10)),
            lowbit.QuantConfig(2, messages_granularity=granularity),
        )
        graph, _ = graph_and_features()
        for low_bit in (model, wide):
            history = MessageHistory(low_bit, graph)
            assert history.nbytes == sum(row["bytes"] for row in history.report())
            history.detach()
        assert 14 * history.nbytes <= history.float_bytes == 60 * 4 * (64 + 10)


def test_a_state_belongs_to_its_model_and_graph():
    low_bit, graph, feat = made()
    history = MessageHistory(low_bit, graph)
    empty = {name: {key: part.clone() for key, part in rows.items()} for name, rows in history.state_dict().items()}
    history.fill([graph] * 2, feat)
    full = history.state_dict()["layers.0"]["packed"].clone()
    history.load_state_dict(empty)
    assert not torch.equal(history.state_dict()["layers.0"]["packed"], full)
    with pytest.raises(ValueError, match="the history is of the layers"):
        history.load_state_dict({})
    other = MessageHistory(low_bit, dgl.add_self_loop(dgl.rand_graph(10, 20)))
    with pytest.raises(ValueError, match=r"another model or graph: of 'layers.0', packed has shape"):
        history.load_state_dict(other.state_dict())
    other.detach()


def test_a_history_is_detached_from_layers_that_still_keep_theirs_there():
    graph, _ = graph_and_features()
    low_bit = lowbit.quantize(Layers(dgl.nn.GraphConv(12, 4)), lowbit.QuantConfig(2))
    first, second = MessageHistory(low_bit, graph), MessageHistory(low_bit, graph)
    first.detach()
    assert kept_messages(low_bit.layers[0]) is second.kept["layers.0"]
    second.detach()
    assert kept_messages(low_bit.layers[0]) is None


REFUSED = {
    "attention": ((dgl.nn.GATConv(12, 4, 1),), {}, "'layers.0', GATConv, is none of these"),
    "pooling": ((dgl.nn.SAGEConv(12, 4, "pool"),), {}, "'layers.0', SAGEConv, is none of these"),
    "floats": ((dgl.nn.GraphConv(12, 4),), {"messages": 32}, "messages of 'layers.0' have 32 bits"),
    "learned": ((dgl.nn.GraphConv(12, 4),), {"quantizer": "hgq"}, "codes of fixed bits"),
    "integer": ((dgl.nn.GraphConv(12, 4),), {"arithmetic": "integer"}, "neither arithmetic='integer' nor protect"),
    "protected": ((dgl.nn.GraphConv(12, 4),), {"protect": (0.1, 0.2)}, "neither arithmetic='integer' nor protect"),
    "nothing": ((nn.Linear(12, 4),), {}, "no low-bit layer that sums over neighbours"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_have_no_history(case):
    layers, config, message = REFUSED[case]
    low_bit = lowbit.quantize(Layers(*layers), lowbit.QuantConfig(2, **config))
    with pytest.raises(ValueError, match=message):
        MessageHistory(low_bit, graph_and_features()[0])
    assert all(kept_messages(layer) is None for layer in low_bit.modules())


def test_layers_that_sum_twice_are_named():
    graph, feat = graph_and_features()
    shared = lowbit.quantize(dgl.nn.GraphConv(12, 12), lowbit.QuantConfig(2))
    twice = Layers(shared, shared)
    lowbit.calibrate(twice, [graph] * 2, feat)
    history = MessageHistory(twice, graph)
    with pytest.raises(ValueError, match="'layers.0' sums over all nodes 2 times in a pass"):
        history.fill([graph] * 2, feat)
    history.detach()


def test_weights_of_edges_and_unknown_nodes_are_refused():
    low_bit, graph, feat = made()
    history, layer = MessageHistory(low_bit, graph), low_bit.layers[0]
    sources, _, (block,) = dgl.dataloading.NeighborSampler([2]).sample_blocks(history.graph, torch.arange(5))
    with pytest.raises(DGLError, match="no weights of edges outside a block"):
        layer(block, feat[sources], edge_weight=torch.ones(block.num_edges()))
    unknown = dgl.create_block(block.edges(), block.num_src_nodes(), block.num_dst_nodes())
    with pytest.raises(DGLError, match="blocks that know the ids of their nodes"):
        layer(unknown, feat[sources])
    history.detach()


@pytest.mark.parametrize("function", [lowbit.train, lowbit.fit])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history": True}, "history=True is for blocks"),
        ({"history": 1, "sampler": SAMPLER}, "history must be True or False, got 1"),
        ({"history": True, "sampler": SAMPLER, "transform": dgl.DropEdge(0.3)}, "neighbourhoods of one graph"),
    ],
)
def test_options_are_checked_before_any_work(function, options, message, planted):
    with pytest.raises(ValueError, match=message):
        function(build(), planted, progress=False, **options)


@pytest.mark.slow
def test_training_resumes_and_leaves_nothing(planted, tmp_path, monkeypatch):
    def run(**options):
        options = {"sampler": SAMPLER, "batch_size": 70, "epochs": 3, "progress": False, **options}
        return lowbit.fit(build(), planted, lowbit.QuantConfig(2), history=True, **options)

    monkeypatch.setattr(resume, "_SHARE", float("inf"))
    expected, original = run(), stage.Run.epoch
    assert [row["layer"] for row in expected.history.messages] == ["layers.0", "layers.1"]
    assert all(kept_messages(layer) is None for layer in expected.model.modules())
    assert set(build().state_dict()) == set(expected.teacher.state_dict())

    def interrupted(self, number):
        if number == 1 and self.teacher_log_probs is not None:
            raise Interrupt
        return original(self, number)

    path = tmp_path / "run.pt"
    with monkeypatch.context() as patch:
        patch.setattr(stage.Run, "epoch", interrupted)
        with pytest.raises(Interrupt):
            run(checkpoint=path)
    again = run(checkpoint=path, resume=True)
    assert again.history == expected.history and again.teacher_history == expected.teacher_history
    with pytest.raises(ValueError, match="belongs to another run: history was True, is False"):
        lowbit.fit(
            build(), planted, lowbit.QuantConfig(2), sampler=SAMPLER, batch_size=70, epochs=3, checkpoint=path,
            resume=True, progress=False,
        )  # fmt: skip
