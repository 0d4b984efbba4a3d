"""What a model is called with is checked before functions on models begin."""

import dgl.nn
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.nn.example import check_example
from tests.conftest import features

_CONFIG = lowbit.QuantConfig(4)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = dgl.nn.GraphConv(8, 4, allow_zero_in_degree=True)

    def forward(self, graph, feat, *, scale=1.0):
        return self.conv(graph, feat) * scale


FUNCTIONS = {
    "quantize": lambda *args, **kwargs: lowbit.quantize(Net(), _CONFIG, *args, **kwargs),
    "calibrate": lambda *args, **kwargs: lowbit.calibrate(lowbit.quantize(Net(), _CONFIG), *args, **kwargs),
    "diagnose": lambda *args, **kwargs: lowbit.diagnose(lowbit.quantize(Net(), _CONFIG), *args, **kwargs),
    "sensitivity": lambda *args, **kwargs: lowbit.sensitivity(Net(), *args, **kwargs),
    "allocate": lambda *args, **kwargs: lowbit.allocate(Net(), *args, budget={"bits": 2}, **kwargs),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_missing_argument_is_named_before_any_work(graph, function):
    with pytest.raises(
        TypeError, match=rf"^{function} calls Net.forward\(graph, feat.*\): missing .* argument: 'feat'.$"
    ):
        FUNCTIONS[function](graph)


@pytest.mark.parametrize(
    ("function", "keyword", "near"),
    [
        ("quantize", "scal", ""),
        ("calibrate", "roundin", ", or did you mean rounding"),
        ("sensitivity", "metrc", ", or did you mean metric"),
        ("allocate", "metod", ", or did you mean method"),
    ],
)
def test_a_misspelt_keyword_is_no_argument_of_the_model(graph, function, keyword, near):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{keyword}'{near}.$"):
        FUNCTIONS[function](graph, features(graph, 8), **{keyword: 2})


def test_a_keyword_that_nothing_takes_is_said_before_what_is_missing():
    with pytest.raises(TypeError, match="quantize calls Net.forward.*: got an unexpected keyword argument 'bits'.$"):
        lowbit.quantize(Net(), bits=2)


def test_fit_knows_its_options(graph):
    with pytest.raises(
        TypeError, match=r"^fit\(\) got an unexpected keyword argument 'epoch', or did you mean epochs.$"
    ):
        lowbit.fit(Net(), graph, _CONFIG, epoch=2)


def test_a_teacher_is_called_as_its_model(graph):
    feat = features(graph, 8)
    model = lowbit.calibrate(lowbit.quantize(Net(), _CONFIG), graph, feat)
    with pytest.raises(TypeError, match=r"^teacher_loss calls Net.forward\(.*: missing .* argument: 'feat'.$"):
        lowbit.teacher_loss(model, graph, feat)


def test_keywords_of_the_model_reach_it(graph):
    feat = features(graph, 8)
    model = lowbit.calibrate(lowbit.quantize(Net(), _CONFIG), graph, feat, scale=2.0)
    assert torch.equal(lowbit.freeze(model, graph, feat=feat, scale=2.0)(graph, feat), model(graph, feat, scale=2.0))


def test_what_hooks_make_of_arguments_is_their_affair():
    model = nn.Linear(3, 2)
    model.register_forward_pre_hook(lambda module, args: (torch.ones(1, 3),))
    check_example(model, lowbit.calibrate, (), {})
