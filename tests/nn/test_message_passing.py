"""Message passing of a user's own modules, low-bit."""

import copy
import functools
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import dgl
import dgl.function as fn
import dgl.ops
import pytest
import torch
import torch.nn.functional as F
from dgl.nn.functional import edge_softmax
from dgl.ops import copy_u_sum, gspmm, segment_reduce, u_mul_e_sum
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.nn.message_passing import FakeQuantise, Hooked, handling, patched
from dgl_lowbit.nn.message_passing.hook import _NAMES
from dgl_lowbit.quant import NotCalibratedError, Quantizer

from ..conftest import features

pytestmark = pytest.mark.filterwarnings("ignore::dgl_lowbit.FloatModuleWarning")


class OwnGCN(nn.Module):
    """Sums of projected neighbours, through ``passes(graph, rows)``."""

    def __init__(self, width, out, passes):
        super().__init__()
        self.linear, self.passes = nn.Linear(width, out), passes

    def forward(self, graph, feat):
        return self.passes(graph, self.linear(feat))


class OwnGAT(nn.Module):
    """Attention over two heads, written with apply_edges, edge_softmax and update_all."""

    def __init__(self, width, out, heads=2):
        super().__init__()
        self.linear, self.heads = nn.Linear(width, heads * out), heads
        self.left, self.right = (nn.Parameter(torch.randn(heads, out)) for _ in range(2))
        self.dropout = nn.Dropout(0.3)

    def forward(self, graph, feat):
        with graph.local_scope():
            h = self.linear(feat).view(len(feat), self.heads, -1)
            graph.ndata["h"] = h
            graph.ndata["l"], graph.ndata["r"] = ((h * x).sum(-1, keepdim=True) for x in (self.left, self.right))
            graph.apply_edges(fn.u_add_v("l", "r", "e"))
            graph.edata["a"] = self.dropout(edge_softmax(graph, F.leaky_relu(graph.edata["e"])))
            graph.update_all(fn.u_mul_e("h", "a", "m"), fn.sum("m", "h"))
            return graph.ndata["h"].flatten(1)


class OwnNet(nn.Module):
    def __init__(self, width=12, classes=3):
        super().__init__()
        self.attention, self.conv = OwnGAT(width, 4), OwnGCN(8, classes, updated)

    def forward(self, graph, feat):
        return self.conv(graph, F.relu(self.attention(graph, feat)))


# -- ways to write a sum over neighbours ------------------------------------------------------------------
def updated(graph, rows):
    with graph.local_scope():
        graph.srcdata["h"] = rows
        graph.update_all(fn.copy_u("h", "m"), fn.sum("m", "h"))
        return graph.dstdata["h"]


def pulled(graph, rows):
    with graph.local_scope():
        graph.srcdata["h"] = rows
        graph.pull(graph.dstnodes(), fn.copy_u("h", "m"), fn.sum("m", "h"))
        return graph.dstdata["h"]


def by_own_message(graph, rows):
    with graph.local_scope():
        graph.srcdata["h"] = rows
        graph.update_all(lambda edges: {"m": edges.src["h"]}, fn.sum("m", "h"))
        return graph.dstdata["h"]


def weighted(graph, rows):
    return u_mul_e_sum(graph, rows, torch.ones(graph.num_edges(), 1))


WAYS = {
    "update_all": updated,
    "pull": pulled,
    "message function": by_own_message,
    "dgl.ops attribute": lambda graph, rows: dgl.ops.copy_u_sum(graph, rows),
    "from dgl.ops import copy_u_sum": lambda graph, rows: copy_u_sum(graph, rows),
    "from dgl.ops import u_mul_e_sum": weighted,
    "from dgl.ops import gspmm": lambda graph, rows: gspmm(graph, "copy_lhs", "sum", rows, None),
    "dgl.backend": lambda graph, rows: dgl.backend.gspmm(graph._graph, "copy_lhs", "sum", rows, None),
}


def low_bit(model, graph, feat, bits=2, **options):
    torch.manual_seed(0)
    return lowbit.calibrate(
        lowbit.quantize(model, lowbit.QuantConfig(bits, **options), graph, feat), graph, feat
    ).eval()


@pytest.mark.parametrize("way", WAYS)
def test_sums_are_of_codes_however_they_are_written(way, graph):
    feat = features(graph, 12)
    model = low_bit(OwnGCN(12, 5, WAYS[way]), graph, feat)
    rows, quantizer = model.linear(feat), model.update_all_0["messages"]
    codes = quantizer.codes(rows).double() - quantizer.qparams(rows).zero_point
    adjacency = torch.zeros(graph.num_dst_nodes(), graph.num_src_nodes(), dtype=torch.double)
    source, target = graph.edges()
    adjacency.index_put_((target.long(), source.long()), torch.ones(len(source)).double(), accumulate=True)
    expected = (adjacency @ codes).float() * quantizer.qparams(rows).scale
    assert torch.equal(model(graph, feat), expected)
    assert not torch.equal(expected, OwnGCN.forward(model, graph, feat))  # outside a forward nothing is coded


# -- what is coded ----------------------------------------------------------------------------------------
class Calls(nn.Module):
    """A forward that is one call."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, *args):
        return self.call(*args)


def operand(rows, *shape, seed=0):
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed))


SITES = {
    "sum": (lambda g, u, v, e: dgl.ops.copy_u_sum(g, u), "update_all_0.messages u"),
    "mean": (lambda g, u, v, e: dgl.ops.copy_u_mean(g, u), "update_all_0.messages u"),
    "max": (lambda g, u, v, e: dgl.ops.copy_u_max(g, u), "update_all_0.messages u"),
    "of edges": (lambda g, u, v, e: dgl.ops.copy_e_sum(g, e), "update_all_0.messages e"),
    "weighted": (lambda g, u, v, e: dgl.ops.u_mul_e_sum(g, u, e[..., :1]), "update_all_0.messages u"),
    "divided": (lambda g, u, v, e: dgl.ops.u_div_e_sum(g, u, 1 + e[..., :1].abs()), "update_all_0.messages u"),
    "plus edges": (lambda g, u, v, e: dgl.ops.u_add_e_sum(g, u, e), "update_all_0.messages ue"),
    "minus edges": (lambda g, u, v, e: dgl.ops.u_sub_e_max(g, u, e), "update_all_0.messages ue"),
    "plus narrow edges": (lambda g, u, v, e: dgl.ops.u_add_e_sum(g, u, e[..., :1]), "update_all_0.messages ue"),
    "u add v": (lambda g, u, v, e: dgl.ops.u_add_v(g, u, v), "apply_edges_0.scores uv"),
    "v sub u": (lambda g, u, v, e: dgl.ops.v_sub_u(g, v, u), "apply_edges_0.scores uv"),
    "u mul v": (lambda g, u, v, e: dgl.ops.u_mul_v(g, u, v), "apply_edges_0.scores uv"),
    "u dot v": (lambda g, u, v, e: dgl.ops.u_dot_v(g, u, v), "apply_edges_0.scores uv"),
    "u div v": (lambda g, u, v, e: dgl.ops.u_div_v(g, u, 1 + v.abs()), "apply_edges_0.scores u"),
    "e add u": (lambda g, u, v, e: dgl.ops.e_add_u(g, e, u), "apply_edges_0.scores ue"),
    "e mul u": (lambda g, u, v, e: dgl.ops.e_mul_u(g, e, u), ""),
    "copy": (lambda g, u, v, e: dgl.ops.copy_u(g, u), ""),
    "softmax": (lambda g, u, v, e: edge_softmax(g, e), ""),
    "segments": (lambda g, u, v, e: segment_reduce(torch.tensor([30, 0, 10]), u, "sum"), "segment_reduce_0.messages u"),
    "largest of segments": (
        lambda g, u, v, e: segment_reduce(torch.tensor([30, 0, 10]), u, "max"), "segment_reduce_0.messages u",
    ),
    "softmax of segments": (lambda g, u, v, e: dgl.ops.segment_softmax(torch.tensor([30, 10]), u), ""),
}  # fmt: skip


@pytest.mark.parametrize("shape", [(5,), (3, 4)])
@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("name", SITES)
def test_a_call_is_dgls_function_of_the_coded_values(name, bits, shape, graph):
    call, place = SITES[name]
    values = {"u": operand(40, *shape), "v": operand(40, *shape, seed=1), "e": operand(graph.num_edges(), *shape)}
    model = (
        lowbit.quantize(Calls(call), lowbit.QuantConfig(bits, scores=bits), graph, *values.values()) if place else None
    )
    if model is None:
        with pytest.raises(ValueError, match="holds no layer"):
            lowbit.quantize(Calls(call), lowbit.QuantConfig(bits), graph, *values.values())
        return
    lowbit.calibrate(model, graph, *values.values())
    site, coded = place.split()
    (quantizer,) = (q for q in model.modules() if isinstance(q, Quantizer))
    assert dict(model.named_modules())[site] is quantizer
    narrow = {"e": values["e"][..., :1]} if name == "plus narrow edges" else {}
    together = [{**values, **narrow}[key] for key in coded]
    by_channel = quantizer.granularity == "channel"
    rows = torch.cat([x.flatten(1) if by_channel else x.reshape(-1, 1) for x in together])
    rounded = quantizer.fake_quantize(rows).split([len(x) if by_channel else x.numel() for x in together])
    known = {key: part.view(x.shape) for key, part, x in zip(coded, rounded, together)}
    assert any(not torch.equal(known[key], x) for key, x in zip(coded, together))
    torch.testing.assert_close(model(graph, *values.values()), call(graph, *{**values, **known}.values()))


def test_attention_is_coded_where_it_meets_a_sum(graph):
    feat = features(graph, 12)
    model = low_bit(OwnGAT(12, 4), graph, feat, bits=4)
    names = [row["quantizer"] for row in lowbit.diagnose(model, graph, feat)]
    assert names[2:] == ["apply_edges_0.scores", "update_all_2.messages", "update_all_2.attention"]
    attention = model.update_all_2["attention"]
    assert attention.format.bits == 8 and not attention.half_grid and attention.granularity == "tensor"
    assert model.update_all_2["messages"].log_alpha.shape == (8,)
    assert model.apply_edges_0["scores"].log_alpha.shape == (2,)


def test_products_by_type_are_of_codes():
    feat, types = operand(50, 12), torch.arange(50) % 4
    for width in (9, 6):  # beyond 8 columns DGL sorts rows by type and multiplies segments
        model = low_bit(dgl.nn.TypedLinear(width, width, 4), feat[:, :width], types, bits=4)
        site, weight = model.segment_mm_0, model.get_weight()
        codes = site["weights"].fake_quantize(weight.transpose(0, 1).reshape(width, -1)).view(width, 4, width)
        expected = torch.einsum("ni,ino->no", site["inputs"].fake_quantize(feat[:, :width]), codes[:, types])
        torch.testing.assert_close(model(feat[:, :width], types), expected)
        assert not torch.allclose(expected, torch.einsum("ni,nio->no", feat[:, :width], weight[types]), atol=1e-3)


def test_shifts_serve_plain_sums_alone(graph):
    feat = features(graph, 12)
    for way, granularity in ((updated, "shift"), (weighted, "channel")):
        model = low_bit(OwnGCN(12, 5, way), graph, feat, messages_granularity="shift")
        assert model.update_all_0["messages"].granularity == granularity


# -- graphs ------------------------------------------------------------------------------------------------
def two_types():
    generator = torch.Generator().manual_seed(0)
    edges = {("a", name, "a"): tuple(torch.randint(20, (2, 60), generator=generator)) for name in ("x", "y")}
    edges["b", "z", "a"] = tuple(torch.randint(20, (2, 40), generator=generator))
    return dgl.heterograph(edges, num_nodes_dict={"a": 20, "b": 20})


def over_all_types(graph, rows):
    with graph.local_scope():
        graph.ndata["h"] = rows
        graph.update_all(fn.copy_u("h", "m"), fn.sum("m", "n"))
        return graph.nodes["a"].data["n"]


def type_by_type(graph, rows):
    with graph.local_scope():
        graph.ndata["h"] = rows
        passes = fn.copy_u("h", "m"), fn.sum("m", "n")
        graph.multi_update_all(dict.fromkeys(("x", "y", "z"), passes), "sum")
        return graph.nodes["a"].data["n"]


def test_types_of_a_heterograph():
    graph = two_types()
    rows = {"a": operand(20, 6), "b": operand(20, 6, seed=1)}
    together = low_bit(Calls(over_all_types), graph, rows)
    apart = low_bit(Calls(type_by_type), graph, rows)
    assert [name for name, _ in together.named_children()] == ["update_all_0"]
    assert [name for name, _ in apart.named_children()] == ["update_all_0", "update_all_1", "update_all_2"]
    rounded = together.update_all_0["messages"].fake_quantize(torch.cat([rows["a"], rows["b"]]))
    known = dict(zip("ab", rounded.split(20)))
    torch.testing.assert_close(together(graph, rows), over_all_types(graph, known))
    sites = [apart.get_submodule(f"update_all_{number}")["messages"] for number in range(3)]
    expected = sum(
        updated(graph[etype], rows[etype[0]] if site is None else site.fake_quantize(rows[etype[0]]))
        for etype, site in zip(graph.canonical_etypes, sites)
    )
    torch.testing.assert_close(apart(graph, rows), expected)


def test_blocks_and_batches(graph):
    feat = features(graph, 12)
    model = low_bit(OwnGCN(12, 5, WAYS["from dgl.ops import copy_u_sum"]), graph, feat)
    both = model(dgl.batch([graph, graph]), torch.cat([feat, feat]))
    assert torch.equal(both, model(graph, feat).repeat(2, 1))
    sampler = dgl.dataloading.MultiLayerFullNeighborSampler(1)
    sources, seeds, blocks = sampler.sample_blocks(graph, torch.arange(0, 40, 3))
    torch.testing.assert_close(model(blocks[0], feat[sources]), model(graph, feat)[seeds])


# -- sites -------------------------------------------------------------------------------------------------
def test_names_bits_and_order_of_sites(graph):
    feat = features(graph, 12)
    config = lowbit.QuantConfig(2, overrides={"conv.update_all_0": 8, "attention.*.messages": 4}, ends=8)
    model = lowbit.quantize(OwnNet(), config, graph, feat)
    bits = {name: q.format.bits for name, q in model.named_modules() if isinstance(q, Quantizer)}
    assert bits["conv.update_all_0.messages"] == 8 and bits["attention.update_all_2.messages"] == 4
    assert bits["attention.apply_edges_0.scores"] == bits["attention.update_all_2.attention"] == 8
    assert bits["attention.linear.quantizers.weights"] == bits["conv.linear.quantizers.weights"] == 8
    with pytest.raises(ValueError, match=r"'conv.update_all_0' names no .*quantize\(model, config, \*example\)"):
        lowbit.quantize(OwnNet(), config)
    rows = lowbit.sensitivity(OwnNet().eval(), graph, feat)
    assert {row["layer"] for row in rows} >= {"attention.apply_edges_0", "conv.update_all_0", "conv.linear"}
    assert all(0 < row["snr"] < 80 for row in rows)


def test_calibration_makes_the_sites_that_no_example_has(graph):
    feat = features(graph, 12)
    with_example = low_bit(OwnNet(), graph, feat)
    without = lowbit.quantize(OwnNet(), lowbit.QuantConfig(2))
    assert not any("update_all" in name for name in without.state_dict())
    without.load_state_dict({k: v for k, v in with_example.state_dict().items() if "update_all" not in k}, strict=False)
    lowbit.calibrate(without, graph, feat)
    assert without.state_dict().keys() == with_example.state_dict().keys()
    assert torch.equal(without.eval()(graph, feat), with_example(graph, feat))
    kept = without.conv.update_all_0["messages"]
    lowbit.calibrate(without, graph, feat)
    assert without.conv.update_all_0["messages"] is kept


class MoreInTraining(OwnGCN):
    def forward(self, graph, feat):
        h = super().forward(graph, feat)
        return copy_u_sum(graph, h) if self.training else h


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_call_without_quantisers_says_so(mode, graph):
    feat = features(graph, 12)
    message = r"update_all_0 \(Calls\) has no quantisers.*before the optimiser is made"
    with pytest.raises(NotCalibratedError, match=message):
        getattr(lowbit.quantize(Calls(copy_u_sum)), mode)()(graph, feat)
    model = low_bit(MoreInTraining(12, 5, copy_u_sum), graph, feat)
    model(graph, feat)
    with pytest.raises(NotCalibratedError, match=r"update_all_1 \(MoreInTraining\) has no quantisers"):
        model.train()(graph, feat)


def test_faults_in_operands_are_named(graph):
    feat = features(graph, 12)
    model = low_bit(Calls(copy_u_sum), graph, feat)
    with pytest.raises(dgl.DGLError, match=r"update_all_0 \(Calls\) was made for messages of 12 channels, got .*40, 5"):
        model(graph, feat[:, :5])
    feat[3, 2] = float("nan")
    with pytest.raises(dgl.DGLError, match=r"update_all_0 \(Calls\) got NaN or infinity in its messages"):
        model(graph, feat)
    with pytest.raises(ValueError, match="the model is low-bit already"):
        lowbit.quantize(model)


def test_a_state_makes_the_sites_of_a_fresh_copy(graph):
    feat = features(graph, 12)
    model = low_bit(OwnNet(), graph, feat)
    fresh = lowbit.quantize(OwnNet(), lowbit.QuantConfig(2)).eval()
    missing, unexpected = fresh.load_state_dict(model.state_dict())
    assert not missing and not unexpected
    assert torch.equal(fresh(graph, feat), model(graph, feat))


def test_copies_and_pickles_in_a_fresh_process(graph, tmp_path):
    feat = features(graph, 12)
    model = low_bit(OwnNet(), graph, feat)
    expected = model(graph, feat).detach()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(graph, feat), expected)
        assert isinstance(other, OwnNet) and isinstance(other, Hooked) and type(other).__name__ == "OwnNet"
    torch.save((model, feat, graph.edges(), expected), tmp_path / "model.pt")
    code = """
import sys, torch, dgl
model, feat, edges, expected = torch.load(sys.argv[1], weights_only=False)
assert torch.equal(model(dgl.graph(edges, num_nodes=len(feat)), feat), expected)
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.pt")], check=True, cwd=root)


# -- what stays in float32 is named ------------------------------------------------------------------------
def by_own_reducer(graph, rows):
    def total(nodes):
        return {"h": nodes.mailbox["m"].sum(1)}

    with graph.local_scope():
        graph.srcdata["h"] = rows
        graph.update_all(fn.copy_u("h", "m"), total)
        return graph.dstdata["h"]


def by_sparse_matrix(graph, rows):
    return torch.sparse.mm(torch.sparse_coo_tensor(torch.stack(graph.edges()), torch.ones(graph.num_edges())), rows)


@pytest.mark.filterwarnings("default::dgl_lowbit.FloatModuleWarning")
@pytest.mark.parametrize(("way", "what"), [(by_own_reducer, "sums of total"), (by_sparse_matrix, "sparse products")])
def test_sums_in_float_are_named(way, what, graph):
    feat = features(graph, 12)
    with pytest.warns(lowbit.FloatModuleWarning, match=rf"over edges in float32: the model \(OwnGCN\): {what}"):
        model = lowbit.quantize(OwnGCN(12, 5, way), lowbit.QuantConfig(2), graph, feat)
    lowbit.calibrate(model, graph, feat)
    torch.testing.assert_close(model.eval()(graph, feat), way(graph, model.linear(feat)))


# -- the hook ----------------------------------------------------------------------------------------------
def standing():
    return [getattr(sys.modules[path], name) for path, name, _ in _NAMES]


def test_nothing_stays_patched(graph):
    feat, before = features(graph, 12), standing()
    within = []

    def watched(graph, rows):
        within.append(standing())
        return copy_u_sum(graph, rows)

    def failing(graph, rows):
        raise KeyError("a fault in a forward")

    model = low_bit(OwnGCN(12, 5, watched), graph, feat)
    assert standing() == before
    model(graph, feat)
    assert standing() == before and all(x is not y for x, y in zip(within[-1], before))
    model.passes = failing
    with pytest.raises(KeyError):
        model(graph, feat)
    assert standing() == before


def test_what_another_puts_in_between_is_left(graph, monkeypatch):
    spmm = sys.modules["dgl.ops.spmm"]
    monkeypatch.setattr(spmm, "gspmm_internal", spmm.gspmm_internal)
    with patched():
        theirs = functools.partial(spmm.gspmm_internal)
        spmm.gspmm_internal = theirs
    assert spmm.gspmm_internal is theirs
    assert torch.equal(copy_u_sum(graph, torch.ones(40, 1)).flatten(), graph.in_degrees().float())


def test_threads_do_not_meet(graph):
    feat = features(graph, 12)
    inside, done = threading.Barrier(3, timeout=30), threading.Barrier(3, timeout=30)

    def waiting(graph, rows):
        inside.wait()  # every thread is in a forward now
        result = copy_u_sum(graph, rows)
        done.wait()
        return result

    torch.manual_seed(1)
    net = OwnGCN(12, 5, copy_u_sum)
    models = [low_bit(net, graph, feat, bits=2), low_bit(net, graph, feat, bits=8), net]
    expected = [model(graph, feat) for model in models]
    results = {}

    def run(number):
        with torch.no_grad():
            results[number] = models[number](graph, feat)

    for model in models:
        model.passes = waiting
    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(results[number], expected[number]) for number in range(3))
    assert not torch.allclose(expected[0], expected[2], atol=1e-3)


class Recording:
    """A handler that notes calls and hands them on."""

    def __init__(self):
        self.calls, self.default = [], FakeQuantise()

    def __getattr__(self, kind):
        def handle(call):
            self.calls.append(call)
            return getattr(self.default, kind)(call)

        return handle


def test_a_handler_receives_the_calls_of_its_thread(graph):
    feat = features(graph, 12)
    net = OwnNet().eval()
    model = low_bit(net, graph, feat)
    for run, low in ((model, True), (net, False)):
        handler, expected = Recording(), run(graph, feat)
        with handling(handler):
            assert torch.equal(run(graph, feat), expected)
        assert [call.kind for call in handler.calls] == ["sddmm", "edge_softmax", "spmm", "spmm"]
        assert all(call.graph.num_edges(0) == graph.num_edges() for call in handler.calls)
        if low:
            assert [call.name for call in handler.calls[:3]] == ["apply_edges_0", "edge_softmax_1", "update_all_2"]
            assert handler.calls[2].module is model.attention and handler.calls[2].site is model.attention.update_all_2
        else:
            assert all(call.module is None and call.site is None for call in handler.calls)


def test_layers_of_ours_keep_their_calls_to_themselves(graph):
    feat = features(graph, 12)

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = dgl.nn.GraphConv(12, 5)

        def forward(self, graph, feat):
            return copy_u_sum(graph, self.conv.forward(graph, feat))

    model = low_bit(Around(), graph, feat)
    assert [name for name, _ in model.named_children()] == ["conv", "update_all_0"]
    inner = lowbit.nn.GraphConv(12, 5, config=lowbit.QuantConfig(2))
    inner.load_state_dict(model.conv.state_dict())
    rows = inner.eval()(graph, feat)
    torch.testing.assert_close(
        model(graph, feat), copy_u_sum(graph, model.update_all_0["messages"].fake_quantize(rows))
    )


# -- training ----------------------------------------------------------------------------------------------
def gradients(model, loss):
    model.zero_grad()
    loss.square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_everything_trains_and_a_recomputed_forward_finds_its_sites(graph):
    feat = features(graph, 12)
    net = OwnNet()
    net.attention.dropout.p = 0.0
    model = low_bit(net, graph, feat).train()
    plain = gradients(model, model(graph, feat))
    assert {name for name in plain if "log_alpha" in name} == {
        f"{name}.log_alpha" for name, q in model.named_modules() if isinstance(q, Quantizer) and not q.format.is_float
    }
    for reentrant in (False, True):
        rows = feat.clone().requires_grad_()
        checkpoint = torch.utils.checkpoint.checkpoint
        h = checkpoint(model.attention, graph, rows, use_reentrant=reentrant)
        again = gradients(model, checkpoint(model.conv, graph, F.relu(h), use_reentrant=reentrant))
        assert again.keys() == plain.keys()
        for name, value in plain.items():
            torch.testing.assert_close(again[name], value)


def test_under_distributed_data_parallel(graph, tmp_path):
    feat = features(graph, 12)
    model = low_bit(OwnGCN(12, 5, updated), graph, feat).train()
    expected = gradients(model, model(graph, feat))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        got = gradients(model, parallel(graph, feat))
    finally:
        torch.distributed.destroy_process_group()
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value)


def test_fit_trains_a_model_of_own_message_passing(graph):
    graph.ndata["feat"], graph.ndata["label"] = features(graph, 12), torch.arange(40) % 3
    for mask in ("train_mask", "val_mask", "test_mask"):
        graph.ndata[mask] = torch.ones(40, dtype=torch.bool)
    fitted = lowbit.fit(OwnNet(), graph, lowbit.QuantConfig(4), epochs=3, progress=False)
    before = {name: q.log_alpha.clone() for name, q in fitted.model.named_modules() if isinstance(q, Quantizer)}
    lowbit.train(fitted.model, graph, epochs=2, progress=False)
    after = {name: q.log_alpha for name, q in fitted.model.named_modules() if isinstance(q, Quantizer)}
    changed = {name.rpartition(".")[2] for name in before if not torch.equal(before[name], after[name])}
    assert {"messages", "scores", "attention"} <= changed
