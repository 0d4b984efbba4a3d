"""Call sites: how they come about, what they are called, where they are kept; and what has none is named."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import dgl
import dgl.function as fn
import pytest
import torch
from dgl.ops import copy_u_sum

import dgl_lowbit as lowbit
from dgl_lowbit.nn.message_passing import Hooked
from dgl_lowbit.quant import NotCalibratedError, Quantizer

from ..conftest import features
from .own_modules import Calls, OwnGCN, OwnNet, low_bit

pytestmark = pytest.mark.filterwarnings("ignore::dgl_lowbit.FloatModuleWarning")


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


@pytest.mark.slow
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


def by_matrix_of_dgl(graph, rows):
    return dgl.sparse.spmatrix(torch.stack(graph.edges()).flip(0)) @ rows


FLOAT_SUMS = {
    by_own_reducer: "sums of total",
    by_sparse_matrix: "sparse products",
    by_matrix_of_dgl: "sparse products",
}


@pytest.mark.filterwarnings("default::dgl_lowbit.FloatModuleWarning", "ignore:Sparse invariant")
@pytest.mark.parametrize("way", FLOAT_SUMS)
def test_sums_in_float_are_named(way, graph):
    if way is by_matrix_of_dgl:
        pytest.importorskip("dgl.sparse", exc_type=Exception)  # no DGL has it for every torch
    feat, what = features(graph, 12), FLOAT_SUMS[way]
    with pytest.warns(lowbit.FloatModuleWarning, match=rf"over edges in float32: the model \(OwnGCN\): {what}"):
        model = lowbit.quantize(OwnGCN(12, 5, way), lowbit.QuantConfig(2), graph, feat)
    lowbit.calibrate(model, graph, feat)
    torch.testing.assert_close(model.eval()(graph, feat), way(graph, model.linear(feat)))
