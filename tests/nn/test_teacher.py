"""The float model that a low-bit one learns from in a loop of one's own."""

import copy
import io

import dgl
import dgl.nn
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = dgl.nn.GraphConv(6, 16), dgl.nn.GraphConv(16, 4)

    def forward(self, graphs, feat):
        first, second = graphs if isinstance(graphs, list) else (graphs, graphs)
        h = F.dropout(F.relu(self.conv1(first, feat)), 0.5, self.training)
        return self.conv2(second, h)


@pytest.fixture
def graph():
    torch.manual_seed(0)
    graph = dgl.add_self_loop(dgl.rand_graph(40, 160))
    graph.ndata["feat"] = torch.randn(40, 6)
    return graph


@pytest.fixture
def float_model(graph):
    return Model()


def low_bit(float_model, graph, bits=2):
    return lowbit.calibrate(lowbit.quantize(float_model, lowbit.QuantConfig(bits)), graph, graph.ndata["feat"])


def test_it_is_the_divergence_from_the_float_model_in_evaluation(float_model, graph):
    feat = graph.ndata["feat"]
    model = low_bit(float_model, graph)
    logits = model(graph, feat)
    loss = lowbit.teacher_loss(model, logits, graph, feat)
    wanted = float_model.eval()(graph, feat).log_softmax(-1)
    torch.testing.assert_close(loss, F.kl_div(logits.log_softmax(-1), wanted, reduction="batchmean", log_target=True))
    squared = lowbit.teacher_loss(model, logits, graph, feat, loss="squared")
    expected = float_model(graph, feat)
    torch.testing.assert_close(
        squared, (logits - expected).square().sum() / (expected - expected.mean(0)).square().sum()
    )


def test_a_model_that_is_not_rounded_has_nothing_to_learn(float_model, graph):
    feat = graph.ndata["feat"]
    model = lowbit.quantize(float_model, lowbit.QuantConfig(32)).eval()
    assert lowbit.teacher_loss(model, model(graph, feat), graph, feat).item() == pytest.approx(0, abs=1e-6)


def test_only_the_low_bit_model_learns_and_modes_are_kept(float_model, graph):
    feat = graph.ndata["feat"]
    model = low_bit(float_model, graph).train()
    lowbit.teacher_loss(model, model(graph, feat), graph, feat).backward()
    learned = model.conv1.weight, model.conv2.bias, model.conv1.quantizers["messages"].drift
    assert all(parameter.grad.abs().sum() > 0 for parameter in learned)
    assert all(parameter.grad is None for parameter in float_model.parameters())
    assert float_model.training and model.training


def test_a_loop_without_labels_comes_nearer(float_model, graph):
    feat, model = graph.ndata["feat"], low_bit(float_model, graph)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = lowbit.teacher_loss(model, model.eval()(graph, feat), graph, feat)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_blocks_and_results_in_dicts_are_learned_from(float_model, graph):
    model = low_bit(float_model, graph)
    sampler = dgl.dataloading.MultiLayerFullNeighborSampler(2)
    sources, _, blocks = sampler.sample_blocks(graph, torch.arange(7))
    feat = graph.ndata["feat"][sources]
    assert lowbit.teacher_loss(model, model(blocks, feat), blocks, feat) > 0

    typed = dgl.heterograph({("a", "up", "b"): ([0, 1], [0, 1]), ("b", "down", "a"): ([0, 1], [1, 0])})
    convs = dgl.nn.HeteroGraphConv({"up": dgl.nn.GraphConv(6, 4), "down": dgl.nn.GraphConv(6, 4)})
    inputs = {"a": torch.randn(2, 6), "b": torch.randn(2, 6)}
    typed_model = lowbit.calibrate(lowbit.quantize(convs, lowbit.QuantConfig(2)), typed, inputs)
    assert lowbit.teacher_loss(typed_model, typed_model(typed, inputs), typed, inputs) > 0


def test_copies_share_it_and_files_are_without_it(float_model, graph):
    feat, model = graph.ndata["feat"], low_bit(float_model, graph)
    again = copy.deepcopy(model)
    assert lowbit.teacher_loss(again, again(graph, feat), graph, feat) > 0
    assert not [name for name in model.state_dict() if "teacher" in name]
    assert len(list(model.modules())) == len(list(again.modules()))

    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    with pytest.raises(ValueError, match="no float model is known"):
        lowbit.teacher_loss(loaded, loaded(graph, feat), graph, feat)


@pytest.mark.parametrize(
    ("outputs", "options", "message"),
    [
        (lambda logits: logits[:5], {}, r"shapes \[\(5, 4\)\], the float model of \[\(40, 4\)\]"),
        (lambda logits: None, {}, r"shapes \[\], the float model of \[\(40, 4\)\]"),
        (lambda logits: logits, {"loss": "mse"}, "loss must be one of kl, squared, got 'mse'"),
    ],
)
def test_what_cannot_be_compared_is_named(float_model, graph, outputs, options, message):
    feat, model = graph.ndata["feat"], low_bit(float_model, graph)
    with pytest.raises(ValueError, match=message):
        lowbit.teacher_loss(model, outputs(model(graph, feat)), graph, feat, **options)


def test_models_that_quantize_did_not_return_have_none(float_model, graph):
    feat = graph.ndata["feat"]
    with pytest.raises(ValueError, match="pass the model that quantize returned"):
        lowbit.teacher_loss(float_model, float_model(graph, feat), graph, feat)


def test_a_row_or_equal_rows_have_a_finite_distance():
    torch.manual_seed(0)
    float_model = nn.Linear(4, 3)
    model = lowbit.calibrate(lowbit.quantize(float_model, lowbit.QuantConfig(2)), torch.randn(20, 4))
    for feat in (torch.randn(1, 4), torch.ones(9, 4)):
        assert 0 <= lowbit.teacher_loss(model, model(feat), feat, loss="squared").item() < 1e3
    empty = torch.empty(0, 4)
    assert lowbit.teacher_loss(model, model(empty), empty).item() == 0


class Writing(nn.Module):
    """Leaves its hidden features in the frames of the caller's graph."""

    def __init__(self):
        super().__init__()
        self.conv = dgl.nn.GraphConv(6, 4)

    def forward(self, graph, feat):
        graph.ndata["h"] = self.conv(graph, feat)
        return graph.ndata["h"]


def test_frames_keep_what_the_low_bit_model_wrote(graph):
    feat, model = graph.ndata["feat"], low_bit(Writing(), graph)
    logits = model(graph, feat)
    lowbit.teacher_loss(model, logits, graph, feat)
    assert graph.ndata["h"] is logits and logits.requires_grad


def test_a_float_model_on_another_device_is_named(float_model, graph):
    model = low_bit(float_model, graph)
    logits = model(graph, graph.ndata["feat"])
    float_model.to("meta")
    with pytest.raises(ValueError, match="the float model is on meta, the low-bit one on cpu; move the float"):
        lowbit.teacher_loss(model, logits, graph, graph.ndata["feat"])
