"""How far optimisers move ranges, and ranges of states that know their logarithm alone."""

import copy

import pytest
import torch

from dgl_lowbit.quant import QLRQuantizer, Quantizer, make_quantizer, reconstruction
from dgl_lowbit.training import parameter_groups

KINDS = {
    "channel": ("qlr", {"granularity": "channel", "channels": 2}),
    "row": ("qlr", {"granularity": "row"}),
    "shift": ("qlr", {"granularity": "shift"}),
    "levels": ("qlr", {"grid": "levels"}),
    "learned bits": ("hgq", {}),
    "truncated": ("bt", {}),
}
X = torch.tensor([[-2.0, 0.5], [0.75, -1.25], [1.5, 3.0]])
# Range, state and values of earlier versions, in which log α was the parameter.
STATES = {
    "channel": (
        {"log_alpha": [-0.25, -0.25], "calibrated": True, "width": 2, "low": [-2.0, -1.25], "high": [1.5, 3.0],
         "half_grid": True},
        [[-1.168201208114624, 0.584100604057312], [0.3894003927707672, -1.752301812171936],
         [1.168201208114624, 1.752301812171936]],
    ),
    "learned bits": (
        {"bits": 2.0, "log_alpha": [-0.25] * 5, "calibrated": True, "width": 2, "low": -2.0, "high": 3.0,
         "half_grid": True},
        [[-1.752301812171936, 0.584100604057312], [0.584100604057312, -1.752301812171936],
         [1.752301812171936, 1.752301812171936]],
    ),
    "levels": (
        {"log_alpha": -0.36145544052124023, "calibrated": True, "width": 2, "low": -2.0, "high": 3.0, "half_grid": True,
         "level_values": [0.0, 3.0, 10.0, 17.0], "zero": 7.0},
        [[-1.6255438327789307, 0.696661651134491], [0.696661651134491, -0.9288821816444397],
         [0.696661651134491, 2.3222055435180664]],
    ),
}  # fmt: skip


def made(kind):
    name, options = KINDS[kind]
    return make_quantizer(name, 2, **options)


def calibrated(kind):
    quantizer = made(kind)
    quantizer.observe(X)
    return quantizer.train()


def step_of(quantizer, optimizer):
    """How much of their logarithm a step changes ranges by that get a gradient."""
    before = quantizer.log_alpha.detach()
    (quantizer(X) - X).square().sum().backward()
    optimizer.step()
    change = (quantizer.log_alpha.detach() - before).abs()
    return change[change > 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_adam_moves_ranges_by_less_than_weights(kind):
    quantizer = calibrated(kind)
    change = step_of(quantizer, torch.optim.Adam(quantizer.parameters(), lr=0.01))
    assert len(change) and quantizer.range_rate < 0.5
    torch.testing.assert_close(change, torch.full_like(change, 0.01 * quantizer.range_rate), rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_of_groups_is_that_of_ranges(kind):
    quantizer = calibrated(kind)
    change = step_of(quantizer, torch.optim.Adam(parameter_groups(quantizer, quantizer_lr=0.02, bits_lr=0.0)))
    torch.testing.assert_close(change, torch.full_like(change, 0.02), rtol=1e-3, atol=0)


def test_quantisers_of_ones_own_have_the_rate_that_they_say():
    class Direct(QLRQuantizer):
        range_rate = 1.0

    model = torch.nn.ModuleList([calibrated("row"), Direct(2), torch.nn.Linear(2, 2)])
    rates = [group["lr"] for group in parameter_groups(model, lr=0.1, quantizer_lr=0.02)]
    assert rates == [0.1, 0.02, 0.02 / QLRQuantizer.range_rate]
    assert Quantizer.range_rate == 1


def test_reconstruction_moves_ranges_at_its_own_rate():
    quantizer = calibrated("channel")
    (group,) = reconstruction._groups(quantizer, [quantizer.drift])
    change = step_of(quantizer, torch.optim.Adam([group]))
    torch.testing.assert_close(change, torch.full_like(change, reconstruction._RANGE_RATE), rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_decay_draws_ranges_to_where_they_were_taken(kind):
    quantizer = calibrated(kind)
    start = quantizer.log_alpha.detach().clone()
    optimizer = torch.optim.SGD([quantizer.drift], lr=0.5, weight_decay=1.0)
    for drift in (0.0, 1.0):
        quantizer.drift.data.fill_(drift)
        quantizer.drift.grad = torch.zeros_like(quantizer.drift)
        optimizer.step()
        assert torch.equal(quantizer.drift, torch.full_like(start, drift / 2))
    assert (quantizer.log_alpha > start).all()
    quantizer.observe(X)
    assert torch.equal(quantizer.log_alpha, start) and not quantizer.drift.any()


@pytest.mark.parametrize("kind", STATES)
def test_states_of_earlier_versions_keep_their_ranges(kind):
    state, values = STATES[kind]
    state, values = {name: torch.tensor(value) for name, value in state.items()}, torch.tensor(values)
    model = torch.nn.Sequential(calibrated(kind))
    model[0].drift.data.fill_(1.0)
    given = {f"0.{name}": value for name, value in state.items()}
    assert not any(model.load_state_dict(given, strict=True)) and "0.log_alpha" in given
    assert torch.equal(model[0].log_alpha, state["log_alpha"])
    torch.testing.assert_close(model.eval()(X), values, rtol=1e-6, atol=0)


def test_pickles_of_earlier_versions_keep_their_ranges():
    quantizer = calibrated("channel")
    quantizer.drift.data.fill_(0.5)
    expected, attributes = quantizer(X), copy.deepcopy(vars(quantizer))
    parameters, buffers = attributes["_parameters"], attributes["_buffers"]
    del parameters["drift"], buffers["log_start"]
    parameters["log_alpha"] = torch.nn.Parameter(quantizer.log_alpha.detach())
    older = QLRQuantizer.__new__(QLRQuantizer)
    older.__setstate__(attributes)
    assert torch.equal(older(X), expected)
    assert [name for name, _ in older.named_parameters()] == ["drift"] and older.drift.requires_grad
