"""The format of a quantiser is part of its state."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.quant import make_quantizer

FORMATS = {
    "2 bits": ("qlr", 2, {}),
    "4 bits": ("qlr", 4, {}),
    "off": ("qlr", 32, {}),
    "row": ("qlr", 4, {"granularity": "row"}),
    "shift": ("qlr", 4, {"granularity": "shift"}),
    "half": ("qlr", 4, {"grid": "half"}),
    "affine": ("qlr", 4, {"grid": "affine"}),
    "truncated": ("bt", 4, {}),
    "truncated with skewness": ("bt*", 4, {}),
}


def of_format(name):
    quantizer, bits, options = FORMATS[name]
    return make_quantizer(quantizer, bits, **options)


@pytest.mark.parametrize(("own", "held"), list(itertools.permutations(FORMATS, 2)))
def test_a_state_of_another_format_is_refused_by_name(own, held):
    x = torch.randn(20, 3)
    mine, other = nn.ModuleDict({"messages": of_format(own)}), nn.ModuleDict({"messages": of_format(held)})
    mine["messages"].observe(x)
    other["messages"].observe(3 * x)
    before = copy.deepcopy(mine.state_dict())
    for strict in (True, False):
        with pytest.raises(RuntimeError, match="messages has .*, the state holds .*; quantize the model with"):
            mine.load_state_dict(other.state_dict(), strict=strict)
    assert all(torch.equal(value, before[key]) for key, value in mine.state_dict().items())
    same = nn.ModuleDict({"messages": of_format(held)})
    assert not any(same.load_state_dict(other.state_dict()))
    assert torch.equal(same["messages"](x), other["messages"](x))


def test_the_error_says_what_differs():
    model = lowbit.quantize(nn.Sequential(nn.Linear(3, 2)), lowbit.QuantConfig(2, inputs_granularity="tensor"))
    state = lowbit.quantize(nn.Sequential(nn.Linear(3, 2)), lowbit.QuantConfig(4)).state_dict()
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(state)
    assert (
        "0.quantizers.inputs has bits 2, granularity tensor, the state holds bits 4, granularity row; quantize the "
        "model with the config that the state was made with." in str(error.value)
    )


def without_formats(state):
    """A state as versions without formats wrote it."""
    return {key: value for key, value in state.items() if not key.endswith("_extra_state")}


@pytest.mark.parametrize("name", FORMATS)
def test_states_without_a_format_load_as_before(name):
    x, quantizer = torch.randn(20, 3), of_format(name).train()
    quantizer(x)
    old = without_formats(quantizer.state_dict())
    fresh = of_format(name).train()
    fresh(5 * x)  # begins to follow its range, which the loaded one is not to be
    assert not any(fresh.load_state_dict(old)) and fresh.progress() is None
    assert torch.equal(fresh.eval()(x), quantizer.eval()(x))


def through_a_file(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, **options)


def loaded(quantizer):
    other = make_quantizer("qlr", 4)
    other.load_state_dict(through_a_file(quantizer.state_dict(), weights_only=True))
    return other


COPIES = {
    "state_dict": loaded,
    "deepcopy": copy.deepcopy,
    "pickle": lambda quantizer: pickle.loads(pickle.dumps(quantizer)),
    "file": lambda quantizer: through_a_file(quantizer, weights_only=False),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("taken", [1, 3, 7, 31, 32, 40])
def test_a_range_is_followed_on_from_where_it_was_saved(taken, way):
    tensors = [step * torch.randn(20, 3) for step in range(1, 60)]
    quantizer = make_quantizer("qlr", 4).train()
    for x in tensors[:taken]:
        quantizer(x)
    other = COPIES[way](quantizer).train()
    for x in tensors[taken:]:
        assert torch.equal(other(x), quantizer(x)) and other.progress() == quantizer.progress()


def test_states_hold_tensors_only():
    model = lowbit.quantize(nn.Sequential(nn.Linear(3, 2)), lowbit.QuantConfig(2))
    assert all(isinstance(value, torch.Tensor) for value in model.state_dict().values())
