import dgl.nn
import pytest
import torch
from torch import nn

from dgl_lowbit.pruning.ties import FEATURES, Ties

from .models import CLASSES, FEATS, HIDDEN, Plain, Residual, graph


def ties(model, width=FEATS):
    g = graph()
    return Ties(model, g, torch.rand(g.num_nodes(), width))


def test_channels_that_are_added_are_one_group():
    found = ties(Residual())
    assert {name: len(groups) for name, groups in found.spaces.items()} == {
        FEATURES: FEATS, "first, second": HIDDEN, "attention": 3,
    }  # fmt: skip
    assert found.outs["first"].equal(found.outs["second"]) and found.outs["norm"].equal(found.outs["first"])
    # Side by side: the columns of the last layer are those of the sum, then heads of four channels.
    assert found.ins["last"][:HIDDEN].equal(found.outs["first"])
    assert found.ins["last"][HIDDEN:].equal(found.outs["attention"].repeat_interleave(4))
    assert found.ins["first"].equal(found.outs[FEATURES])
    assert found.reasons == {"last": "they are read by what the model returns"}


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (nn.LayerNorm(HIDDEN), "they are read by between, whose channels are as they are"),
        (nn.Softmax(-1), "they come mixed to last"),
        (nn.GRUCell(HIDDEN, HIDDEN), "they are read by between, whose channels are as they are"),
    ],
)
def test_channels_that_mix_stay(between, reason):
    found = ties(Plain(between))
    assert set(found.spaces) == {FEATURES} and found.reasons["first"] == reason


def test_a_layer_that_hands_its_input_on_stays_as_it_is():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = dgl.nn.GATConv(FEATS, 4, 3, residual=True), nn.Linear(FEATS, CLASSES)

        def forward(self, graph, feat):
            return self.last(self.first(graph, feat).flatten(1))

    found = ties(Net())
    assert found.spaces == {} and "first" in found.reasons[FEATURES]


def test_permuted_columns_are_followed():
    class Flip(nn.Module):
        def forward(self, x):
            return x.flip(-1)

    found = ties(Plain(Flip()))
    assert found.ins["last"].equal(found.outs["first"].flip(0))


def test_the_model_is_left_as_it_was():
    model = Residual()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ties(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and not any(module._forward_hooks for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())
