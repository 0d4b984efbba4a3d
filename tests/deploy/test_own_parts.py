"""A quantiser and a layer written by a user, as documented: trained, calibrated, bounded, diagnosed, frozen and run."""

import dgl
import dgl.function as fn
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.nn import LowBitLayer, Operand, Role, roles
from dgl_lowbit.nn.checks import check_sources
from dgl_lowbit.quant import QParams, Quantizer, register_quantizer
from tests.conftest import features


class Fixed(Quantizer):
    """Codes around zero, of three standard deviations."""

    def __init__(self, bits, *, grid="auto", **options):
        super().__init__(bits, **options)
        self.register_buffer("scale", torch.ones((self.channels,) if self.granularity == "channel" else ()))

    def _search(self, x):
        kept = {self.axis % x.dim()} if self.granularity == "channel" else set()
        dims = [dim for dim in range(x.dim()) if dim not in kept]
        spread = x.square().mean(dims).sqrt() if dims else x.abs()
        self.scale.copy_((6 * spread / self.format.levels).clamp_min(1e-6))

    def qparams(self, x=None):
        scale = self.scale
        if self.granularity == "channel":
            shape = [1] * x.dim()
            shape[self.axis] = -1
            scale = scale.view(shape)
        zero = torch.full_like(scale, self.format.levels // 2)
        return QParams(scale, zero, zero)


class MeanAndMax(nn.Module):
    """Sum of the mean of neighbours and of their maximum, each times a matrix."""

    def __init__(self, in_feats, out_feats):
        super().__init__()
        self.linear = nn.Linear(in_feats, out_feats)

    def forward(self, nodes, graph):
        with graph.local_scope():
            graph.srcdata["h"] = self.linear(nodes)
            graph.update_all(fn.copy_u("h", "m"), fn.mean("m", "mean"))
            graph.update_all(fn.copy_u("h", "m"), fn.max("m", "max"))
            return graph.dstdata["mean"] + graph.dstdata["max"]


class LowBitMeanAndMax(LowBitLayer, MeanAndMax):
    """:class:`MeanAndMax` with names of its own, its graph last, and no operand called outputs."""

    float_class = MeanAndMax
    arguments = roles(nodes=Role.FEATURES, graph="graph")

    def operands(self):
        return {
            "x": Operand("inputs", self.linear.in_features),
            "w": Operand("weights", self.linear.out_features, axis=1),
            "sent": Operand("messages", self.linear.out_features),
        }

    def validate(self, nodes, graph):
        check_sources(self, graph, nodes, self.linear.in_features)

    def compute(self, ops, nodes, graph):
        """Shapes: nodes (N, in_feats), output (N, out_feats)."""
        h = ops.product(ops.quantize(self.quantizers["x"], nodes), self.quantizers["w"], self.linear.weight.t())
        sent = ops.source(ops.quantize(self.quantizers["sent"], ops.bias(h, self.linear.bias)))
        mean = ops.scale_by_degree(ops.aggregate(graph, sent), graph, "in", -1)
        return ops.combine((1, mean), (1, ops.maximum(graph, sent)))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = MeanAndMax(12, 12), MeanAndMax(12, 3)

    def forward(self, graph, feat):
        return self.second(torch.relu(self.first(feat, graph)), graph)


@pytest.fixture
def _registered(monkeypatch):
    from dgl_lowbit import quant
    from dgl_lowbit.nn import base

    monkeypatch.setattr(quant, "_QUANTIZERS", dict(quant._QUANTIZERS))
    monkeypatch.setitem(base.LAYERS, MeanAndMax, LowBitMeanAndMax)
    register_quantizer("fixed", Fixed)


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("states", [32, 8])
@pytest.mark.parametrize("quantizer", ["fixed", "qlr"])
def test_own_parts_go_all_the_way(quantizer, states, graph):
    torch.manual_seed(0)
    float_model, feat = Model(), features(graph, 12)
    lowbit.SmoothnessRegularizer(float_model, threshold=1e-3, layers=["first"])
    tensor = {"inputs_granularity": "tensor", "states_granularity": "tensor"}
    model = lowbit.quantize(float_model, lowbit.QuantConfig(8, quantizer=quantizer, states=states, **tensor))
    assert type(model.first) is LowBitMeanAndMax
    torch.testing.assert_close(
        lowbit.calibrate(model, graph, feat).eval()(graph, feat), float_model.eval()(graph, feat), atol=0.3, rtol=0.3
    )
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(4):
        loss = model.train()(graph, feat).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    names = {row["quantizer"].rpartition(".")[2] for row in lowbit.diagnose(model, graph, feat)}
    assert names == {"x", "w", "sent"} | ({"states"} if states == 8 else set())
    packed = lowbit.freeze(model)
    expected = model.eval()(graph, feat).detach()
    torch.testing.assert_close(packed(graph, feat), expected, rtol=1e-4, atol=1e-4)
    assert model.first.smoothness.step_size < 1


@pytest.mark.usefixtures("_registered")
def test_what_cannot_be_exported_is_named(graph):
    model = lowbit.quantize(Model(), lowbit.QuantConfig(8, quantizer="fixed"))
    for quantizer in (q for q in model.modules() if isinstance(q, Fixed)):
        quantizer.observe(torch.rand(4, quantizer.channels or 1))
    with pytest.raises(lowbit.FreezeError, match="Fixed does not export granularity 'row'; use 'tensor' or 'channel'"):
        lowbit.freeze(model, graph, features(graph, 12))


def test_every_argument_needs_a_role():
    with pytest.raises(TypeError, match=r"Forgotten.arguments must give a Role .* missing are \['w'\]"):

        class Forgotten(LowBitLayer):
            arguments = roles(graph=Role.GRAPH, feat=Role.FEATURES)

            def compute(self, ops, graph, feat, w=None):
                return feat

    with pytest.raises(ValueError, match="'node' is not a valid Role"):
        roles(graph="node")


class FourTimes(nn.Module):
    """One layer, called again and again."""

    def __init__(self, times):
        super().__init__()
        self.conv, self.times = dgl.nn.GraphConv(12, 12), times

    def forward(self, graph, feat):
        for _ in range(self.times):
            feat = self.conv(graph, feat)
        return feat


def test_a_layer_that_is_called_again_is_stored_once(graph):
    sizes = []
    for times in (1, 4):
        model = lowbit.calibrate(lowbit.quantize(FourTimes(times)), graph, features(graph, 12)).eval()
        sizes.append(sum(array.nbytes for array in lowbit.freeze(model).plan.arrays.values()))
    assert sizes[0] == sizes[1] > 144


class ByKeyword(nn.Module):
    """Calls its layer by the name of its argument."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 5)

    def forward(self, x):
        return self.linear(input=x)


@pytest.mark.parametrize("shape", [(7, 12), (7, 3, 12)])
def test_linear_layers_may_be_called_by_keyword(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    model = lowbit.calibrate(lowbit.quantize(ByKeyword(), lowbit.QuantConfig(8)), x).eval()
    torch.testing.assert_close(lowbit.freeze(model, x)(x), model(x))
