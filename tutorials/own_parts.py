"""
Own message passing, own layer, own quantiser
=============================================

What has no class in this package becomes low-bit too. Message passing needs nothing; a layer of one's own places its
quantisers itself; a quantiser of one's own makes its own scales. All three train, are diagnosed and frozen like what is
built in.

``python tutorials/own_parts.py --graph cora`` runs it on Cora.
"""

import dgl
import dgl.function as fn
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.diagnose import format_diagnosis
from dgl_lowbit.experiments.data import load_graph, num_classes
from dgl_lowbit.experiments.settings import settings
from dgl_lowbit.nn import LowBitLayer, Operand, Role, roles
from dgl_lowbit.nn.checks import check_sources
from dgl_lowbit.quant import QLRQuantizer, register_quantizer
from dgl_lowbit.report import table
from dgl_lowbit.training import accuracy, predict

options = settings(__doc__, graph="planted", bits=2, epochs=40)
graph = dgl.add_self_loop(load_graph(options.graph))
feat, classes = graph.ndata["feat"], num_classes(graph)
rows = []


def low_bit(name, model, config):
    """Train in float32 and low-bit, freeze, and note accuracies."""
    fitted = lowbit.fit(model, graph, config, epochs=options.epochs, quantizer_lr=0.003, progress=False)
    packed = lowbit.freeze(fitted.model, graph, feat)
    logits = predict(fitted.teacher, graph), predict(fitted.model, graph), packed(graph, feat)
    rows.append([name, *(f"{100 * accuracy(part, graph):.1f} %" for part in logits)])
    return fitted.model, packed


# %%
# Message passing
# ---------------
# A layer that knows nothing of this package: the mean of neighbours, and the mean of theirs.


class TwoHops(nn.Module):
    def __init__(self, in_feats, out_feats):
        super().__init__()
        self.linear = nn.Linear(in_feats, out_feats)

    def forward(self, graph, feat):
        with graph.local_scope():
            graph.srcdata["h"] = self.linear(feat)
            graph.update_all(fn.copy_u("h", "m"), fn.mean("m", "once"))
            graph.update_all(fn.copy_u("once", "m"), fn.mean("m", "twice"))
            return graph.dstdata["once"] + graph.dstdata["twice"]


class Net(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer1, self.layer2 = layer(feat.shape[1], 32), layer(32, classes)

    def forward(self, graph, feat):
        h = F.relu(self.layer1(graph, F.dropout(feat, 0.5, self.training)))
        return self.layer2(graph, F.dropout(h, 0.5, self.training))


# %%
# ``quantize`` is shown an example, sees both calls, and gives each quantisers of its own. Their sums run on codes.

torch.manual_seed(0)
model, packed = low_bit("message passing", Net(TwoHops), lowbit.QuantConfig(options.bits))
print(format_diagnosis(lowbit.diagnose(model, graph, feat)))
print(f"\nIn float32 run: {packed.info.get('float32') or 'nothing'}")

# %%
# A layer
# -------
# A class decides where quantisers are. This layer adds to the mean of its neighbours what a node was itself, through a
# second product of the same codes.


class Residual(nn.Module):
    def __init__(self, in_feats, out_feats):
        super().__init__()
        self.sent, self.kept = nn.Linear(in_feats, out_feats), nn.Linear(in_feats, out_feats, bias=False)

    def forward(self, graph, feat):
        with graph.local_scope():
            graph.srcdata["h"] = self.sent(feat)
            graph.update_all(fn.copy_u("h", "m"), fn.mean("m", "h"))
            return graph.dstdata["h"] + self.kept(feat)


# %%
# Its low-bit class names the arguments of ``forward`` and its operands, checks what comes, and states its computation
# once, over the operations of :class:`~dgl_lowbit.nn.Ops`: training runs it, and freezing records it.


@lowbit.register_layer
class LowBitResidual(LowBitLayer, Residual):
    """:class:`Residual` with quantised inputs, weights and messages."""

    float_class = Residual
    arguments = roles(graph=Role.GRAPH, feat=Role.FEATURES)

    def operands(self):
        in_feats, out_feats = self.sent.in_features, self.sent.out_features
        return {
            "inputs": Operand("inputs", in_feats),
            "sent": Operand("weights", out_feats, axis=1),
            "kept": Operand("weights", out_feats, axis=1),
            "messages": Operand("messages", out_feats),
        }

    def validate(self, graph, feat):
        check_sources(self, graph, feat, self.sent.in_features)

    def compute(self, ops, graph, feat):
        """Shapes: feat (N, in_feats), output (N, out_feats)."""
        q = self.quantizers
        codes = ops.quantize(q["inputs"], feat)
        h = ops.bias(ops.product(codes, q["sent"], self.sent.weight.t()), self.sent.bias)
        sums = ops.aggregate(graph, ops.source(ops.quantize(q["messages"], h)))
        kept = ops.product(codes, q["kept"], self.kept.weight.t())
        return ops.combine((1, ops.scale_by_degree(sums, graph, "in", -1)), (1, kept))


torch.manual_seed(0)
model, _ = low_bit("layer", Net(Residual), lowbit.QuantConfig(options.bits))
assert type(model.layer1) is LowBitResidual

# %%
# A quantiser
# -----------
# The scales of this one are powers of two, so that a machine without multipliers could apply them by shifts. It changes
# one method of the quantiser with a learned range, the one that makes scales of ranges; the rounding of the scale
# passes gradients straight through.


class PowerOfTwoQuantizer(QLRQuantizer):
    """A learned range whose scale is rounded to a power of two."""

    def qparams(self, x=None):
        params = super().qparams(x)
        exponent = params.scale.log2()
        rounded = exponent + (exponent.round() - exponent).detach()
        return params._replace(scale=rounded.exp2())


register_quantizer("power-of-two", PowerOfTwoQuantizer)
config = lowbit.QuantConfig(options.bits, quantizer="power-of-two", inputs_granularity="tensor")
torch.manual_seed(0)
model, _ = low_bit("layer and quantiser", Net(Residual), config)
print(table(["own", "float32", f"INT{options.bits}", "packed"], rows))

# %%
# What it costs is a scale that is off by up to a factor of √2. How much of normally distributed numbers that loses
# hangs on how wide they are:

torch.manual_seed(0)
normal, deviations = torch.randn(10_000), torch.linspace(1, 4, 31)
figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for kind in (QLRQuantizer, PowerOfTwoQuantizer):
    ratios = []
    for deviation in deviations:
        x = deviation * normal
        rounded = kind(options.bits).train()(x).detach()
        ratios.append(10 * (x.square().sum() / (x - rounded).square().sum()).log10().item())
    ax.plot(deviations.numpy(), ratios, label=kind.__name__)
ax.set(xlabel="standard deviation", ylabel="SNR in dB")
ax.legend()
plt.show()

# %%
# :doc:`/guides/own_parts` says what else a layer and a quantiser can state.
