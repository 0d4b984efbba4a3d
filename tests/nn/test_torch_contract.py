"""What torch asks of a module, for every layer in its low-bit form, and dense algebra beside it."""

import copy
import io
import pickle

import dgl
import dgl.nn
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.models import MODELS
from dgl_lowbit.quant import Quantizer
from tests.conftest import features, homogeneous
from tests.nn.layers import (
    GRAPHS,
    IN,
    LAYERS,
    OUT,
    arguments,
    frames_are_empty,
    graph_for,
    linear,
    make,
    parts,
    permuted,
    ready,
    same,
)

every_layer = pytest.mark.parametrize("name", LAYERS)
ORDERLESS = [name for name in LAYERS if name not in ("sage_lstm", "linear")]
WEIGHTED = [name for name in ORDERLESS if LAYERS[name].weight]


def silent_quantizers(layer):
    """Names of the parameters of quantisers of 32 bits, which stand aside."""
    quantizers = [(n, m) for n, m in layer.named_modules() if isinstance(m, Quantizer)]
    return {f"{n}.drift" for n, m in quantizers if m.format.is_float}


# -- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4, 8])
@every_layer
def test_gradients_reach_every_parameter_and_input(name, bits):
    layer, graph = make(name, bits), graph_for(name)
    args, _ = arguments(name, graph)
    inputs = [part for arg in args for part in leaves(arg)]
    for part in inputs:
        part.requires_grad_()
    outputs = parts(layer(*args))
    generator = torch.Generator().manual_seed(1)
    sum((torch.randn(part.shape, generator=generator) * part).sum() for part in outputs).backward()
    gradients = {n: p.grad for n, p in layer.named_parameters()}
    assert {n for n, grad in gradients.items() if grad is None} == silent_quantizers(layer)
    gradients = {n: grad for n, grad in gradients.items() if grad is not None}
    assert all(grad.isfinite().all() for grad in gradients.values())
    assert [n for n, grad in gradients.items() if not grad.any()] == []
    assert all(part.grad.isfinite().all() and part.grad.any() for part in inputs)
    assert frames_are_empty(graph)


def leaves(argument):
    """Float tensors in an argument of a call."""
    if isinstance(argument, torch.Tensor):
        return [argument] if argument.is_floating_point() else []
    if isinstance(argument, dict):
        argument = tuple(argument.values())
    return [part for item in argument for part in leaves(item)] if isinstance(argument, tuple) else []


@every_layer
def test_a_step_of_an_optimiser_moves_every_parameter(name):
    layer = make(name, bits=4)
    args, _ = arguments(name, graph_for(name))
    layer(*args)  # sets the ranges
    before = {n: p.detach().clone() for n, p in layer.named_parameters()}
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
    sum(part.square().sum() for part in parts(layer(*args))).backward()
    optimiser.step()
    still = {n for n, p in layer.named_parameters() if torch.equal(p, before[n])}
    assert still == silent_quantizers(layer)
    assert all(part.isfinite().all() for part in parts(layer.eval()(*args)))


# -- order of the edges -----------------------------------------------------------------------------------------------


def permuted_call(name, args, keywords):
    """The same call on a graph with its edges in another order."""
    other, order = permuted(args[0])
    per_edge = {1 + place for place in LAYERS[name].per_edge}
    args = [arg[order] if place in per_edge else arg for place, arg in enumerate(args)]
    return (other, *args[1:]), {key: value[order] for key, value in keywords.items()}


def homogeneous_or_bipartite(name):
    """On a block the order of nodes follows that of edges: take another graph."""
    return next(where for where in LAYERS[name].graphs if where != "block")


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize(("name", "weighted"), [*((n, False) for n in ORDERLESS), *((n, True) for n in WEIGHTED)])
def test_permuting_edges_changes_nothing(name, bits, weighted):
    graph = GRAPHS[homogeneous_or_bipartite(name)]()
    args, keywords = arguments(name, graph, weighted)
    layer = make(name, bits)
    lowbit.calibrate(layer, *args, **keywords)
    layer.eval()
    other_args, other_keywords = permuted_call(name, args, keywords)
    got, expected = layer(*other_args, **other_keywords), layer(*args, **keywords)
    for ours, theirs in zip(parts(got), parts(expected)):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert frames_are_empty(graph)


# -- checkpoints and copies -------------------------------------------------------------------------------------------


@every_layer
def test_a_float_checkpoint_fits_and_leaves_the_ranges(name):
    layer, args, _ = ready(name, bits=4)
    before = {n: m.log_alpha.clone() for n, m in layer.named_modules() if isinstance(m, Quantizer)}
    torch.manual_seed(5)
    float_layer = LAYERS[name].build(dgl.nn)
    missing, unexpected = layer.load_state_dict(float_layer.state_dict(), strict=True)
    assert not missing and not unexpected
    for key, value in float_layer.state_dict().items():
        assert torch.equal(layer.state_dict()[key], value)
    for n, module in layer.named_modules():
        if isinstance(module, Quantizer):
            assert torch.equal(module.log_alpha, before[n]) and bool(module.calibrated) != module.format.is_float
    assert all(part.isfinite().all() for part in parts(layer(*args)))


def through_a_file(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, **options)


@pytest.mark.parametrize("bits", [2, 8])
@every_layer
def test_copies_pickles_and_checkpoints_give_the_same(name, bits):
    layer, args, _ = ready(name, bits)
    expected = layer(*args)
    torch.manual_seed(5)
    fresh = LAYERS[name].build(lowbit.nn, config=lowbit.QuantConfig(bits)).eval()
    fresh.load_state_dict(through_a_file(layer.state_dict(), weights_only=True), strict=True)
    others = [
        fresh,
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        through_a_file(layer, weights_only=False),
    ]
    for other in others:
        assert same(other(*args), expected) and not other.training
        assert type(other) is type(layer) and other.state_dict().keys() == layer.state_dict().keys()
    mine = addresses(layer)
    for other in others:
        assert not mine & addresses(other)


def addresses(layer):
    """Where the parameters and buffers of a layer lie."""
    return {tensor.data_ptr() for tensor in (*layer.parameters(), *layer.buffers()) if tensor.numel()}


@every_layer
def test_modes_devices_and_dtypes_reach_the_quantizers(name):
    layer = make(name, bits=2).eval()
    quantizers = [m for m in layer.modules() if isinstance(m, Quantizer)]
    assert quantizers and not any(m.training for m in quantizers)
    assert all(m.training for m in layer.train().modules())
    assert all(p.device.type == "meta" for p in copy.deepcopy(layer).to("meta").parameters())
    assert "quantizers" in str(layer) and "bits=2" in repr(layer)


# -- several processes ------------------------------------------------------------------------------------------------


class AttentionAndSums(nn.Module):
    def __init__(self, namespace=dgl.nn):
        super().__init__()
        self.attention = namespace.GATConv(IN, 4, 2, allow_zero_in_degree=True)
        self.sums = namespace.GINConv(linear(namespace, 8, OUT), "mean")

    def forward(self, graph, feat):
        return self.sums(graph, F.elu(self.attention(graph, feat).flatten(1)))


def train_a_step(rank, folder):
    """One of two processes: a step on data of its own; leaves its parameters and gradients in ``folder``."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        torch.manual_seed(rank)
        graph = homogeneous(seed=rank)
        feat = features(graph, IN, seed=rank)
        model = lowbit.quantize(AttentionAndSums(), lowbit.QuantConfig(4)).train()
        lowbit.calibrate(model, graph, feat)
        # What is kept in 32 bits has a quantiser that is not used.
        parallel = nn.parallel.DistributedDataParallel(model, find_unused_parameters=False)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        loss = F.cross_entropy(parallel(graph, feat), torch.arange(40) % OUT)
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters()}
        optimiser.step()
        state = model.state_dict()
        torch.save((before, gradients, state, loss.item()), f"{folder}/rank{rank}")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_keep_the_same_parameters(tmp_path):
    torch.multiprocessing.spawn(train_a_step, (str(tmp_path),), nprocs=2)
    (before, gradients, state, loss), (other_before, other_gradients, other_state, other_loss) = (
        torch.load(tmp_path / f"rank{rank}", weights_only=True) for rank in range(2)
    )
    assert loss != other_loss
    silent = silent_quantizers(lowbit.quantize(AttentionAndSums(), lowbit.QuantConfig(4)))
    assert {n for n, grad in gradients.items() if grad is None} == silent
    for name, value in state.items():
        assert torch.equal(value, other_state[name]), name
    for name in before.keys() - silent:
        assert torch.equal(before[name], other_before[name]) and torch.equal(gradients[name], other_gradients[name])
        assert not torch.equal(state[name], before[name])


@pytest.mark.parametrize("kind", ["gcn", "sage"])
def test_inference_mode_gives_what_no_grad_gives(kind):
    graph, feat = dgl.add_self_loop(dgl.rand_graph(2500, 30_000)), torch.randn(2500, 64)
    model = lowbit.quantize(MODELS[kind](64, 5), lowbit.QuantConfig(2), graph, feat)
    model = lowbit.calibrate(model, graph, feat).eval()
    with torch.no_grad():
        expected = model(graph, feat)
    with torch.inference_mode():
        assert torch.equal(model(graph, feat), expected) and torch.equal(model(graph, feat * 1), expected)
