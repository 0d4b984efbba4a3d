"""A packed model where code expects the model it was frozen from."""

import copy
import pickle

import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit


def evaluate(model, graph, feat, device):
    """As it stands in many scripts."""
    model = model.to(device)
    model.eval()
    with torch.no_grad():
        logits = model(graph, feat)
    model.train()
    return logits


def test_evaluation_code_runs_unchanged(packed, graph, feat):
    expected = packed(graph, feat)
    assert isinstance(packed, nn.Module) and list(packed.parameters()) == []
    assert torch.equal(evaluate(packed, graph, feat, "cpu"), expected) and not packed.training
    assert packed.cpu() is packed.float() is packed
    assert {value.dtype for value in packed.state_dict().values()} <= {torch.uint8, torch.float32}

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = packed

        def forward(self, graph, feat):
            return self.inner(graph, feat)

    assert torch.equal(Holder().eval()(graph, feat), expected)


def test_copies_and_pickles_run(packed, graph, feat):
    expected = packed(graph, feat)
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(other(graph, feat), expected)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda model: model.half(), "returns float32, got torch.float16"),
        (lambda model: model.double(), "returns float32, got torch.float64"),
        (lambda model: model.to("meta"), "runs on the CPU and returns float32, got meta"),
        (lambda model: model.load_state_dict({}), "a packed model takes no state; dgl_lowbit.load reads"),
    ],
)
def test_what_it_cannot_do_is_said(ask, message, packed):
    with pytest.raises(ValueError, match=message):
        ask(packed)


def test_wrapped_models_are_named():
    model = lowbit.quantize(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="pass model.module"):
        lowbit.freeze(torch.optim.swa_utils.AveragedModel(model), torch.rand(4, 3))
