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
from dgl_lowbit.quant import Quantizer
from tests.conftest import features, homogeneous
from tests.nn.layers import (
    GRAPHS,
    HEADS,
    IN,
    LAYERS,
    OUT,
    TYPES,
    arguments,
    frames_are_empty,
    linear,
    make,
    parts,
    permuted,
    same,
)

every_layer = pytest.mark.parametrize("name", LAYERS)
ORDERLESS = [name for name in LAYERS if name not in ("sage_lstm", "linear")]
WEIGHTED = [name for name in ORDERLESS if LAYERS[name].weight]


def graph_for(name):
    return GRAPHS[LAYERS[name].graphs[0]]()


def ready(name, bits, weighted=False):
    """A layer with ranges, in evaluation mode, and a call's arguments."""
    layer = make(name, bits)
    args, keywords = arguments(name, graph_for(name), weighted)
    lowbit.calibrate(layer, *args, **keywords)
    return layer.eval(), args, keywords


def silent_quantizers(layer):
    """Names of the parameters of quantisers of 32 bits, which stand aside."""
    quantizers = [(n, m) for n, m in layer.named_modules() if isinstance(m, Quantizer)]
    return {f"{n}.log_alpha" for n, m in quantizers if m.format.is_float}


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
    mine = {tensor.data_ptr() for tensor in layer.state_dict().values() if tensor.numel()}
    for other in others:
        assert not mine & {tensor.data_ptr() for tensor in other.state_dict().values() if tensor.numel()}


@every_layer
def test_modes_devices_and_dtypes_reach_the_quantizers(name):
    layer = make(name, bits=2).eval()
    quantizers = [m for m in layer.modules() if isinstance(m, Quantizer)]
    assert quantizers and not any(m.training for m in quantizers)
    assert all(m.training for m in layer.train().modules())
    assert all(p.device.type == "meta" for p in copy.deepcopy(layer).to("meta").parameters())
    assert "quantizers" in str(layer) and "bits=2" in repr(layer)


# -- dense twins ------------------------------------------------------------------------------------------------------
# The layers' formulas over dense matrices in float64, with what the layers' own quantisers make of operands.


class Twin:
    """A calibrated layer, its arguments, the dense matrices of its graph, and its quantisers as functions."""

    def __init__(self, name, bits, weighted=False):
        self.layer, self.args, self.keywords = ready(name, bits, weighted)
        graph = self.graph = self.args[0]
        self.source, self.target = graph.edges(order="eid")
        size = graph.num_edges()
        self.starts = torch.zeros(size, graph.num_src_nodes()).double()
        self.starts[torch.arange(size), self.source] = 1
        self.ends = torch.zeros(size, graph.num_dst_nodes()).double()
        self.ends[torch.arange(size), self.target] = 1
        weights = list(self.keywords.values())
        self.weight = weights[0].double().view(-1) if weights else torch.ones(size).double()
        self.adjacency = self.ends.T @ (self.weight[:, None] * self.starts)
        self.in_degrees = self.ends.sum(0)[:, None].clamp(min=1)
        self.out_degrees = self.starts.sum(0)[:, None].clamp(min=1)

    def q(self, name, x):
        return self.layer.quantizers[name](x.detach().float()).double()

    def own(self, x):
        """Rows of the destination nodes."""
        return x[: self.graph.num_dst_nodes()]

    def apply(self, module, x):
        """A module's result on float32, where its own layers are low-bit."""
        return module(x.float()).double()

    def steps(self, h, count, side=None):
        """Direct messages: h, Ã h, Ã² h, …"""
        powers = [h.double()]
        for step in range(count):
            powers.append(self.received(self.q(f"messages_{step}", self.sent(powers[-1], side))))
        return powers

    def sent(self, h, side=None):
        degrees = self.out_degrees if side == "out" else self.in_degrees
        return h if self.keywords else h * degrees**-0.5

    def received(self, messages):
        if not self.keywords:
            return self.in_degrees**-0.5 * (self.adjacency @ messages)
        norm = (self.adjacency.sum(0)[self.source] * self.adjacency.sum(1)[self.target]) ** -0.5
        return self.ends.T @ ((self.weight * norm)[:, None] * (self.starts @ messages))

    def check(self, expected):
        got = self.layer(*self.args, **self.keywords)
        torch.testing.assert_close(got.double(), expected.detach().view_as(got), rtol=1e-4, atol=1e-4)


BITS = pytest.mark.parametrize("bits", [2, 4, 8])
WITH_WEIGHTS = pytest.mark.parametrize("weighted", [False, True])


def softmax_by_target(twin, score):
    """Softmax over the edges of each target, (E, heads)."""
    exp = (score - score.max()).exp()
    return exp / (twin.ends @ (twin.ends.T @ exp))


def attended(twin, attention, messages, heads):
    """Σ over edges of attention times message, (N, heads · D)."""
    by_head = (twin.starts @ messages).view(len(attention), heads, -1)
    return twin.ends.T @ (attention[:, :, None] * by_head).flatten(1)


@BITS
@WITH_WEIGHTS
@pytest.mark.parametrize("name", ["gat", "gat_residual", "gat_identity", "gat_pair"])
def test_gatconv_against_dense_algebra(name, bits, weighted):
    twin = Twin(name, bits, weighted)
    layer, feat = twin.layer, twin.args[1]
    heads = layer._num_heads
    if isinstance(feat, tuple):
        inputs, own = twin.q("inputs", feat[0]), twin.q("inputs_dst", feat[1])
        source = inputs @ twin.q("weights", layer.fc_src.weight.t())
        target = own @ twin.q("weights_dst", layer.fc_dst.weight.t())
    else:
        inputs = twin.q("inputs", feat)
        source, own = inputs @ twin.q("weights", layer.fc.weight.t()), twin.own(inputs)
        target = twin.own(source)
    left = twin.q("scores_src", (source.view(-1, heads, layer._out_feats) * layer.attn_l).sum(-1))
    right = twin.q("scores_dst", (target.view(-1, heads, layer._out_feats) * layer.attn_r).sum(-1))
    score = F.leaky_relu(twin.starts @ left + twin.ends @ right, 0.2)
    attention = twin.q("attention", (softmax_by_target(twin, score) * twin.weight[:, None])[:, :, None])[:, :, 0]
    expected = attended(twin, attention, twin.q("messages", source), heads)
    if isinstance(layer.res_fc, nn.Linear):
        expected = expected + own @ twin.q("weights_res", layer.res_fc.weight.t()) + layer.res_fc.bias
    elif layer.res_fc is not None:
        expected = expected + twin.own(feat)
    if layer.bias is not None:
        expected = expected + layer.bias
    twin.check(expected if layer.activation is None else layer.activation(expected))


@BITS
@pytest.mark.parametrize("name", ["gatv2", "gatv2_shared", "gatv2_pair"])
def test_gatv2conv_against_dense_algebra(name, bits):
    twin = Twin(name, bits)
    layer, feat = twin.layer, twin.args[1]
    if isinstance(feat, tuple):
        inputs, own = twin.q("inputs", feat[0]), twin.q("inputs_dst", feat[1])
    else:
        inputs = twin.q("inputs", feat)
        own = twin.own(inputs)
    bias = (0, 0) if layer.fc_src.bias is None else (layer.fc_src.bias, layer.fc_dst.bias)
    source = inputs @ twin.q("weights", layer.fc_src.weight.t()) + bias[0]
    own_weights = "weights" if layer.share_weights else "weights_dst"
    target = own @ twin.q(own_weights, layer.fc_dst.weight.t()) + bias[1]
    sums = twin.starts @ twin.q("scores_src", source) + twin.ends @ twin.q("scores_dst", target)
    score = (F.leaky_relu(sums, 0.2).view(-1, HEADS, OUT) * layer.attn).sum(-1)
    attention = twin.q("attention", softmax_by_target(twin, score)[:, :, None])[:, :, 0]
    expected = attended(twin, attention, twin.q("messages", source), HEADS)
    if layer.res_fc is not None:
        residual = own @ twin.q("weights_res", layer.res_fc.weight.t())
        expected = expected + residual + (0 if layer.res_fc.bias is None else layer.res_fc.bias)
    twin.check(expected)


@BITS
@WITH_WEIGHTS
@pytest.mark.parametrize("how", ["sum", "mean", "max"])
def test_ginconv_against_dense_algebra(how, bits, weighted):
    twin = Twin(f"gin_{how}", bits, weighted)
    layer, feat = twin.layer, twin.args[1]
    messages = twin.q("messages", feat)
    if how == "max":
        each = twin.weight[:, None] * (twin.starts @ messages)
        total = torch.stack([each[column > 0].amax(0) for column in twin.ends.T])
    else:
        total = twin.adjacency @ messages / (twin.in_degrees if how == "mean" else 1)
    twin.check(torch.tanh(twin.apply(layer.apply_func, (1 + layer.eps) * feat + total)))


@BITS
def test_gineconv_against_dense_algebra(bits):
    twin = Twin("gine", bits)
    layer, (_, feat, edge) = twin.layer, twin.args
    both = twin.q("messages", torch.cat([feat, edge]))
    nodes, edges = both[: len(feat)], both[len(feat) :]
    total = twin.ends.T @ (twin.starts @ nodes + edges).relu()
    twin.check(twin.apply(layer.apply_func, (1 + layer.eps) * feat + total))


@BITS
@WITH_WEIGHTS
def test_appnpconv_against_dense_algebra(bits, weighted):
    twin = Twin("appnp_direct", bits, weighted)
    h = feat = twin.args[1].double()
    for step in range(3):
        received = twin.received(twin.q(f"messages_{step}", twin.sent(h, "out")))
        h = 0.8 * received + 0.2 * feat
    twin.check(h)


@BITS
@WITH_WEIGHTS
def test_appnpconv_with_changes_as_messages_against_dense_algebra(bits, weighted):
    twin = Twin("appnp", bits, weighted)
    h = feat = twin.args[1].double()
    known = received = torch.zeros_like(h)
    for step in range(3):
        change = twin.q(f"messages_{step}", twin.sent(h, "out") - known)
        known, received = known + change, received + twin.received(change)
        h = 0.8 * received + 0.2 * feat
    twin.check(h)


@BITS
@WITH_WEIGHTS
def test_sgconv_against_dense_algebra(bits, weighted):
    twin = Twin("sg", bits, weighted)
    layer, last = twin.layer, twin.steps(twin.args[1], 2)[-1]
    twin.check(twin.q("inputs", last) @ twin.q("weights", layer.fc.weight.t()) + layer.fc.bias)


@BITS
@WITH_WEIGHTS
def test_tagconv_against_dense_algebra(bits, weighted):
    twin = Twin("tag", bits, weighted)
    layer, powers = twin.layer, twin.steps(twin.args[1], 2)
    product = twin.q("inputs", torch.cat(powers, 1)) @ twin.q("weights", layer.lin.weight.t())
    twin.check((product + layer.lin.bias).relu())


@BITS
def test_chebconv_against_dense_algebra(bits):
    twin = Twin("cheb", bits)
    layer, (_, feat, (largest,)) = twin.layer, twin.args
    terms = [feat.double()]
    for step in range(2):
        h = terms[-1]
        received = twin.received(twin.q(f"messages_{step}", twin.sent(h)))
        scaled = 2 / largest * (h - received) - h  # L̂ h
        terms.append(scaled if step == 0 else 2 * scaled - terms[-2])
    product = twin.q("inputs", torch.cat(terms, 1)) @ twin.q("weights", layer.linear.weight.t())
    twin.check((product + layer.linear.bias).relu())


@BITS
@WITH_WEIGHTS
@pytest.mark.parametrize("name", ["gcn2", "gcn2_two"])
def test_gcn2conv_against_dense_algebra(name, bits, weighted):
    twin = Twin(name, bits, weighted)
    layer, (_, feat, initial) = twin.layer, twin.args
    alpha, beta = 0.2, torch.log(torch.tensor(1.5)).double()
    received = twin.received(twin.q("messages_0", twin.sent(feat.double())))
    smoothed = (1 - alpha) * received + alpha * initial
    weight = twin.q("weights", layer.weight1)
    if name == "gcn2":
        twin.check((1 - beta) * smoothed + beta * twin.q("aggregates", smoothed) @ weight + layer.bias)
    else:
        product = (1 - alpha) * twin.q("aggregates", received) @ weight
        product = product + alpha * twin.q("inputs", initial) @ twin.q("weights_initial", layer.weight2)
        twin.check(((1 - beta) * smoothed + beta * product).relu())


@BITS
@WITH_WEIGHTS
@pytest.mark.parametrize("name", ["rel", "rel_basis", "rel_bdd"])
def test_relgraphconv_against_dense_algebra(name, bits, weighted):
    twin = Twin(name, bits, weighted)
    layer, (_, feat, types) = twin.layer, twin.args
    if name == "rel":
        weights = layer.linear_r.W
    elif name == "rel_basis":
        weights = torch.einsum("rb,bio->rio", layer.linear_r.coeff, layer.linear_r.W)
    else:
        weights = torch.zeros(TYPES, IN, 6)
        blocks = layer.linear_r.W.detach().view(TYPES, 3, 4, 2)
        for relation in range(TYPES):
            for block in range(3):
                rows, columns = slice(4 * block, 4 * block + 4), slice(2 * block, 2 * block + 2)
                weights[relation, rows, columns] = blocks[relation, block]
    side_by_side = torch.cat(list(weights), 1)
    inputs = twin.q("inputs", feat)
    products = (inputs @ twin.q("weights", side_by_side)).view(len(feat), TYPES, 6)
    messages = twin.q("messages", products.transpose(0, 1)).transpose(0, 1)
    expected = twin.ends.T @ (twin.weight[:, None] * messages[twin.source, types])
    if layer.layer_norm:
        expected = twin.apply(layer.layer_norm_weight, expected)
    if layer.bias:
        expected = expected + layer.h_bias
    if layer.self_loop:
        expected = expected + twin.own(inputs) @ twin.q("weights_loop", layer.loop_weight)
    twin.check(expected if layer.activation is None else layer.activation(expected))


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


# -- bits by name -----------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = dgl.nn.GraphConv(IN, 8)
        self.attention = dgl.nn.GATConv(8, 4, 2)
        self.gin = dgl.nn.GINConv(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)))
        self.head = nn.Linear(8, OUT)

    def forward(self, graph, feat):
        return self.head(self.gin(graph, self.attention(graph, self.first(graph, feat)).flatten(1)))


NAMES = ["first", "attention", "gin", "gin.apply_func.0", "gin.apply_func.2", "head"]


def bits(**options):
    """Bits of every quantiser of :class:`Mixed`, by layer."""
    model = lowbit.quantize(Mixed(), lowbit.QuantConfig(2, **options))
    graph = homogeneous()
    lowbit.calibrate(model, graph, features(graph, IN))
    assert model.eval()(graph, features(graph, IN)).isfinite().all()
    return {
        name: {part: q.format.bits for part, q in model.get_submodule(name).quantizers.items() if part != "outputs"}
        for name in NAMES
    }


def test_bits_are_the_same_everywhere_but_for_attention():
    found = bits()
    assert found["first"] == {"inputs": 2, "weights": 2, "messages": 2}
    fine = {"scores_src": 8, "scores_dst": 8, "attention": 8}
    assert found["attention"] == {"inputs": 2, "weights": 2, "messages": 2, **fine}
    assert found["gin"] == {"messages": 2} and found["head"] == found["gin.apply_func.0"] == {"inputs": 2, "weights": 2}


def test_ends_are_the_first_and_the_last_layer():
    plain, found = bits(), bits(ends=8)
    assert set(found["first"].values()) == set(found["head"].values()) == {8}
    assert all(found[name] == plain[name] for name in NAMES[1:-1])
    assert set(bits(ends=8, overrides={"head": 4})["head"].values()) == {4}
    assert bits(ends=8, overrides={"head.weights": 4})["head"] == {"inputs": 8, "weights": 4}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"gin": 4}, {"gin": {"messages": 4}}),
        ({"gin.apply_func.*": 4}, {name: {"inputs": 4, "weights": 4} for name in NAMES[3:5]}),
        ({"*.2.weights": 8}, {"gin.apply_func.2": {"inputs": 2, "weights": 8}}),
        ({"first.message": 8}, {"first": {"inputs": 2, "weights": 2, "messages": 8}}),
        ({"head": 8, "head.inputs": 4}, {"head": {"inputs": 4, "weights": 8}}),
        ({"head.inputs": 4, "head": 8}, {"head": {"inputs": 4, "weights": 8}}),
        ({"head": 8, "h*d": 1}, {"head": {"inputs": 1, "weights": 1}}),
    ],
)
def test_overrides_fit_the_layers_they_name(overrides, expected):
    assert bits(overrides=overrides) == {**bits(), **expected}


def test_an_override_of_a_component_reaches_every_layer_that_has_it():
    found = bits(overrides={"*.messages": 8, "attention.scores": 4})
    assert [found[name].get("messages") for name in NAMES] == [8, 8, 8, None, None, None]
    assert found["attention"]["scores_src"] == found["attention"]["scores_dst"] == 4


def test_layers_of_32_bits_by_name_stay_float():
    model = lowbit.quantize(Mixed(), lowbit.QuantConfig(2, overrides={"head": 32}))
    assert not model.head.is_low_bit and model.first.is_low_bit
    assert type(model.head) is lowbit.nn.Linear


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"heed": 8}, r"'heed' names no low-bit layer .* near: head"),
        ({"gin.apply_func.1": 8}, r"near: gin\.apply_func\.\d, gin\.apply_func\.\d"),
        ({"attentoin.weights": 8}, r"near: attention\.weights"),
        ({"head.messages": 8}, r"'head\.messages' names no low-bit layer and no component of one"),
        ({"zzz": 8}, "near: first, attention, gin"),
    ],
)
def test_overrides_that_fit_nothing_list_near_names(overrides, message):
    with pytest.raises(ValueError, match=message):
        lowbit.quantize(Mixed(), lowbit.QuantConfig(2, overrides=overrides))


@pytest.mark.parametrize(
    "build",
    [
        lambda **kw: lowbit.nn.GraphConv(4, 2, allow_zero_in_degree=True, **kw),
        lambda **kw: lowbit.nn.SAGEConv(4, 2, "mean", **kw),
    ],
)
def test_a_first_batch_may_lack_nodes(build):
    """Ranges are taken from the first tensor that holds something."""
    empty = dgl.heterograph({("a", "e", "b"): ([], [])}, {"a": 0, "b": 3})
    layer = build(config=lowbit.QuantConfig(8))
    assert layer(empty, (torch.rand(0, 4), torch.rand(3, 4))).shape == (3, 2)
    graph = GRAPHS["bipartite"]()
    layer(graph, features(graph, 4))
    assert all(q.calibrated for q in layer.quantizers.values() if not q.format.is_float)


def test_relgraphconv_names_what_it_cannot_add():
    graph = dgl.heterograph({("u", "e", "v"): (torch.arange(5), torch.tensor([0, 1, 2, 0, 1]))}, {"u": 5, "v": 3})
    layer = lowbit.nn.RelGraphConv(4, 2, 2, config=lowbit.QuantConfig(8))
    with pytest.raises(dgl.DGLError, match="pass a homogeneous graph or a block"):
        layer(graph, torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 0]))


@pytest.mark.parametrize("layer", [lowbit.nn.GATConv, lowbit.nn.GATv2Conv])
def test_attention_names_features_that_are_no_tensor(layer):
    with pytest.raises(dgl.DGLError, match="expects feat as a torch.Tensor, got list"):
        layer(4, 2, 2, config=lowbit.QuantConfig(8))(GRAPHS["homogeneous"](), [[1.0]])


def test_heterographconv_configures_layers_of_ours_alone():
    inner = lowbit.nn.GINConv(lowbit.nn.Linear(4, 2))
    conv = lowbit.nn.HeteroGraphConv({"e": inner}, config=lowbit.QuantConfig(2))
    assert inner.is_low_bit and inner.apply_func.is_low_bit and conv.mods["e"] is inner
    with pytest.raises(ValueError, match=r"mods\['e'\] is a GraphConv without a layer of dgl_lowbit.nn"):
        lowbit.nn.HeteroGraphConv({"e": dgl.nn.GraphConv(4, 2)}, config=lowbit.QuantConfig(2))
