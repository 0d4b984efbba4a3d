"""Functions that are recorded as what they are made of: they equal torch's, and models with them freeze."""

import dgl
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dgl_lowbit as lowbit
from dgl_lowbit.deploy.capture import composed
from tests.conftest import features, homogeneous

WIDTH = 8


def attention(**options):
    torch.manual_seed(0)
    return nn.MultiheadAttention(WIDTH, 2, **options).eval()


def mask(rows, columns):
    return torch.arange(rows * columns).reshape(rows, columns) % 3 == 1


@pytest.mark.parametrize(
    ("options", "called_with"),
    [
        ({}, {}),
        ({"bias": False}, {"average_attn_weights": False}),
        ({"kdim": 5, "vdim": 6}, {"attn_mask": mask(4, 7)}),
        ({"batch_first": True}, {"key_padding_mask": mask(3, 7)}),
    ],
)
def test_attention_is_that_of_torch(options, called_with, monkeypatch):
    module = attention(**options)
    shapes = [(4, 3, WIDTH), (7, 3, options.get("kdim", WIDTH)), (7, 3, options.get("vdim", WIDTH))]
    given = [torch.randn(shape) for shape in shapes]
    given = [x.transpose(0, 1) for x in given] if options.get("batch_first") else given
    expected = module(*given, **called_with)
    monkeypatch.setattr(F, "multi_head_attention_forward", composed.multi_head_attention)
    for got, other in zip(module(*given, **called_with), expected):
        torch.testing.assert_close(got, other)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": mask(5, 5)}])
def test_scaled_dot_products_are_those_of_torch(options):
    q, k, v = torch.randn(3, 2, 4, 5, WIDTH)
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(composed.scaled_dot_product_attention(q, k, v, **options), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_are_those_of_torch(reduction):
    scores, labels, targets = torch.randn(9, 4), torch.arange(9) % 4, torch.rand(9, 4)
    labels[2] = -100
    for name, given in {
        "cross_entropy": (scores, labels),
        "nll_loss": (scores.log_softmax(1), labels),
        "mse_loss": (scores, targets),
        "l1_loss": (scores, targets),
        "binary_cross_entropy_with_logits": (scores, targets),
    }.items():
        expected = getattr(F, name)(*given, reduction=reduction)
        torch.testing.assert_close(composed.COMPOSED[name](*given, reduction=reduction), expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cross_entropy", {"label_smoothing": 0.1}),
        ("nll_loss", {"weight": torch.ones(4)}),
        ("binary_cross_entropy_with_logits", {"pos_weight": torch.ones(4)}),
    ],
)
def test_losses_with_weights_are_refused(name, options):
    with pytest.raises(
        lowbit.FreezeError, match="has no packed form at .*test_composed.*compute it outside of forward"
    ):
        composed.COMPOSED[name](torch.randn(9, 4), torch.arange(9) % 4, **options)


@pytest.mark.filterwarnings("ignore::dgl_lowbit.convert.FloatModuleWarning")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"add_bias_kv": True}, "multi_head_attention_forward with these arguments"),
        ({"add_zero_attn": True}, "multi_head_attention_forward with these arguments"),
        ({"dropout_p": 0.5}, "scaled_dot_product_attention with these arguments"),
        ({"enable_gqa": True}, "scaled_dot_product_attention, called so that .*enable_gqa"),
    ],
)
def test_arguments_that_would_be_left_out_are_refused(options, message):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            of_module = {} if message.startswith("scaled") else options
            self.first, self.attention = nn.Linear(WIDTH, WIDTH), nn.MultiheadAttention(WIDTH, 2, **of_module)

        def forward(self, graph, feat):
            h = self.first(feat).unsqueeze(1)
            if message.startswith("scaled"):
                return F.scaled_dot_product_attention(h, h, h, **options).squeeze(1)
            return self.attention(h, h, h)[0].squeeze(1)

    if "enable_gqa" in options and "enable_gqa" not in F.scaled_dot_product_attention.__doc__:
        pytest.skip("this torch has no such argument")
    graph = dgl.add_self_loop(homogeneous())
    given = graph, features(graph, WIDTH)
    torch.manual_seed(0)
    model = lowbit.calibrate(lowbit.quantize(Attends().eval(), lowbit.QuantConfig(8), *given), *given)
    with pytest.raises(lowbit.FreezeError, match=message):
        lowbit.freeze(model, *given)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = dgl.nn.GraphConv(WIDTH, WIDTH)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)

    def forward(self, graph, feat, labels):
        h = self.layer(self.conv(graph, feat).unsqueeze(0)).squeeze(0)
        return h, F.cross_entropy(h, labels)


@pytest.mark.filterwarnings("ignore::dgl_lowbit.convert.FloatModuleWarning")  # its attention stays float32
def test_a_transformer_is_low_bit_in_evaluation_and_freezes():
    """Torch's own fast path in evaluation would read the weights of its linear layers past these."""
    graph = dgl.add_self_loop(homogeneous())
    given = graph, features(graph, WIDTH), torch.arange(graph.num_nodes()) % WIDTH
    torch.manual_seed(0)
    model = lowbit.quantize(Transformer().eval(), lowbit.QuantConfig(2), *given)
    lowbit.calibrate(model, *given)
    with torch.no_grad():
        expected = model(*given)
    assert model.layer.linear1.quantizers["inputs"].calibrated
    for got, other in zip(lowbit.freeze(model, *given)(*given), expected):
        torch.testing.assert_close(got, other, rtol=1e-4, atol=1e-4)
