"""The hook that message passing goes through: when it stands, for whom, and training through it."""

import functools
import sys
import threading

import dgl.nn
import pytest
import torch
import torch.nn.functional as F
from dgl.ops import copy_u_sum
from torch import nn
from torch.utils.checkpoint import checkpoint

import dgl_lowbit as lowbit
from dgl_lowbit.nn.message_passing import FakeQuantise, handling, patched
from dgl_lowbit.nn.message_passing.hook import _NAMES
from dgl_lowbit.quant import Quantizer
from dgl_lowbit.smoothness import dirichlet_energy

from ..conftest import features
from .own_modules import Calls, OwnGCN, OwnNet, low_bit, updated

pytestmark = pytest.mark.filterwarnings("ignore::dgl_lowbit.FloatModuleWarning")


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


def test_what_is_measured_within_a_forward_is_no_call_of_it(graph):
    feat = features(graph, 12)
    model = low_bit(Calls(lambda graph, rows: (dirichlet_energy(graph, rows), copy_u_sum(graph, rows))), graph, feat)
    assert [name for name, _ in model.named_children()] == ["update_all_0"]
    assert torch.equal(model(graph, feat)[0], dirichlet_energy(graph, feat))


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
    assert {name for name in plain if "drift" in name} == {
        f"{name}.drift" for name, q in model.named_modules() if isinstance(q, Quantizer) and not q.format.is_float
    }
    for reentrant in (False, True):
        rows = feat.clone().requires_grad_()
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
