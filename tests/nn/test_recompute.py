"""Forwards that checkpointing computes again: their ranges, counters, multipliers and gradients are the first's."""

import copy

import dgl.nn
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import dgl_lowbit as lowbit
from dgl_lowbit.quant import make_quantizer, quantizer_names
from tests.conftest import features
from tests.nn.layers import IN, LAYERS, arguments, graph_for, make, parts
from tests.nn.test_torch_contract import leaves

# Gradients do not reach tensors in pairs there, and torch's LSTM rounds otherwise where it needs none.
NOT_REENTRANT = ("gat_pair", "gatv2_pair", "sage_lstm")
BOTH = pytest.mark.parametrize("reentrant", [True, False])


def recomputed(module, reentrant):
    """Calls of ``module`` under checkpointing."""
    return lambda *args: checkpoint(module, *args, use_reentrant=reentrant)


def steps(model, call, number, lr=0.1):
    """Outputs and gradients of steps of training, and the state after them; ``call()`` gives tensors."""
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    seen = []
    for _ in range(number):
        outputs = call()
        optimiser.zero_grad()
        sum(part.square().mean() for part in outputs).backward()
        seen += [part.detach() for part in outputs]
        seen += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimiser.step()
    return seen + [value.clone() for value in model.state_dict().values()]


def trained(model, call, reentrant, *options):
    """What :func:`steps` gives of a copy; ``call(model, run)`` calls layers through ``run``, None: no checkpointing."""
    other = copy.deepcopy(model).train()
    run = (lambda module: module) if reentrant is None else (lambda module: recomputed(module, reentrant))
    return steps(other, lambda: call(other, run), *options)


def agree(model, call, number=5, kinds=(True, False)):
    """Whether training gives the same to the last bit with checkpointing, reentrant or not, and without."""
    expected = trained(model, call, None, number)
    others = [trained(model, call, reentrant, number) for reentrant in kinds]
    return all(len(got) == len(expected) and all(map(torch.equal, got, expected)) for got in others)


@pytest.mark.parametrize("bits", [pytest.param(2, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize("name", [name for name, entry in LAYERS.items() if entry.row is not None])
def test_every_layer_trains_as_without_checkpointing(name, bits):
    args, _ = arguments(name, graph_for(name))
    for part in (leaf for arg in args for leaf in leaves(arg)):
        part.requires_grad_()
    kinds = (False,) if name in NOT_REENTRANT else (True, False)
    assert agree(make(name, bits), lambda layer, run: parts(run(layer)(*args)), kinds=kinds)


class Twice(nn.Module):
    """A layer that a forward calls on several tensors."""

    def __init__(self, granularity, quantizer):
        super().__init__()
        config = lowbit.QuantConfig(4, quantizer=quantizer, messages_granularity=granularity)
        self.shared = lowbit.nn.GraphConv(IN, IN, config=config)

    def forward(self, run, graph, feat):
        first = run(self.shared)(graph, feat)
        second = run(self.shared)(graph, 3 * first)  # its rows outgrow those of the first call
        return [second, run(self.shared)(graph, 10 * feat)]


@pytest.mark.parametrize("quantizer", quantizer_names())
@pytest.mark.parametrize("granularity", ["tensor", "channel", "shift"])
def test_a_layer_called_several_times_has_the_range_of_each_call(granularity, quantizer, graph):
    torch.manual_seed(0)
    model, feat = Twice(granularity, quantizer), features(graph, IN).requires_grad_()
    expected, *others = (
        # Parts of a gradient are added in another order: with steps of 0 that does not grow.
        trained(model, lambda model, run: model(run, graph, feat), reentrant, 5, 0.0)
        for reentrant in (None, True, False)
    )
    for got in others:
        for ours, theirs in zip(got, expected):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("acts", ["step", "projection", "gradient"])
def test_multipliers_ascend_once_a_step(acts, graph):
    feat = features(graph, IN).requires_grad_()
    layer = lowbit.nn.SMPConv(IN, 3, threshold=0.01, acts=acts, config=lowbit.QuantConfig(4, states=8))
    assert agree(layer, lambda layer, run: [run(layer)(graph, feat)])


@pytest.mark.parametrize("acts", ["step", "projection"])
def test_bounds_on_layers_of_dgl_ascend_once_a_step(acts, graph):
    torch.manual_seed(0)
    model = nn.ModuleList([dgl.nn.GraphConv(IN, IN), dgl.nn.GraphConv(IN, IN)])
    lowbit.SmoothnessRegularizer(model, threshold=0.01, acts=acts)
    low_bit, feat = lowbit.quantize(model, lowbit.QuantConfig(4)), features(graph, IN).requires_grad_()
    assert agree(low_bit, lambda model, run: [run(model[1])(graph, run(model[0])(graph, feat))])


@BOTH
def test_recomputing_counts_no_step_and_takes_no_range(reentrant):
    quantizer, x = make_quantizer("qlr", 4).train(), torch.randn(9, 3).requires_grad_()
    for step in range(1, 40):
        loss = recomputed(quantizer, reentrant)(x * step).sum()
        before = copy.deepcopy(quantizer.state_dict())
        loss.backward()
        assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())
        assert quantizer.progress() == (step if step < 32 else None)


def test_what_is_remembered_is_neither_copied_nor_kept_beyond_the_steps_that_need_it():
    quantizer, x = make_quantizer("qlr", 4).train(), torch.randn(9, 3)
    for step in range(1, 6):
        quantizer(x / step)
    x = x / 5
    assert quantizer._remembered.of(x) is not None and copy.deepcopy(quantizer)._remembered.of(x) is None
    for step in range(1, 41):
        quantizer(x * step)
    assert quantizer._remembered.of(x) is None
