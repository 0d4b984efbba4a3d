"""Bits by component, by layer name and at the ends of a model, and what layers say of input they cannot take."""

import dgl
import dgl.nn
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from tests.conftest import features, homogeneous
from tests.nn.layers import GRAPHS, IN, OUT


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
    assert bits(ends=8, inputs=4)["head"] == {"inputs": 4, "weights": 8}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"head.weights": 4, "head": 8}, {"inputs": 8, "weights": 8}),
        ({"head": 8, "head.weights": 4}, {"inputs": 8, "weights": 4}),
        ({"*.weights": 4, "h*": 8, "head.inputs": 4}, {"inputs": 4, "weights": 8}),
    ],
)
@pytest.mark.parametrize("ends", [None, 3])
def test_of_several_overrides_the_last_counts(overrides, expected, ends):
    assert bits(overrides=overrides, ends=ends)["head"] == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"gin": 4}, {"gin": {"messages": 4}}),
        ({"gin.apply_func.*": 4}, {name: {"inputs": 4, "weights": 4} for name in NAMES[3:5]}),
        ({"*.2.weights": 8}, {"gin.apply_func.2": {"inputs": 2, "weights": 8}}),
        ({"first.message": 8}, {"first": {"inputs": 2, "weights": 2, "messages": 8}}),
        ({"head": 8, "head.inputs": 4}, {"head": {"inputs": 4, "weights": 8}}),
        ({"head.inputs": 4, "head": 8}, {"head": {"inputs": 8, "weights": 8}}),
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
