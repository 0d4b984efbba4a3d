"""Ranges in several processes."""

import os

import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.quant import NotCalibratedError, make_quantizer, quantizer_names
from dgl_lowbit.quant.observer import gathered

GRANULARITIES = ("tensor", "channel", "row", "shift")
ROWS = (5, 0, 9)  # of each process


def world(function, folder, size):
    """What ``function(rank)`` gives in each of ``size`` processes."""
    torch.multiprocessing.spawn(_process, (function, str(folder), size), nprocs=size)
    return [torch.load(f"{folder}/rank{rank}", weights_only=False) for rank in range(size)]


def _process(rank, function, folder, size):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    try:
        torch.save(function(rank), f"{folder}/rank{rank}")
    finally:
        torch.distributed.destroy_process_group()


def model():
    torch.manual_seed(0)
    return lowbit.quantize(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), lowbit.QuantConfig(4))


def refused(rank):
    parallel = nn.parallel.DistributedDataParallel(model().train())
    try:
        parallel(torch.randn(4, 6) * (rank + 1))
    except NotCalibratedError as error:
        return str(error)


def trained(rank):
    """Ranges set together after a model was wrapped, and steps of training on data of each process."""
    parallel = nn.parallel.DistributedDataParallel(model().train(), find_unused_parameters=False)
    data = torch.randn(ROWS[2 * rank], 6, generator=torch.Generator().manual_seed(rank))
    lowbit.calibrate(parallel.module, data, process_group=torch.distributed.group.WORLD)
    optimiser = torch.optim.SGD(parallel.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        parallel(data).square().mean().backward()
        optimiser.step()
    return parallel.module.state_dict()


def data(rank):
    return (rank + 1) * torch.randn(ROWS[rank], 6, generator=torch.Generator().manual_seed(rank))


def calibrated(rank):
    """States of quantisers of every kind, and the rows that a process gathers."""
    group, states = torch.distributed.group.WORLD, {}
    for name in quantizer_names():
        for granularity in GRANULARITIES:
            for observer in ("error", "minmax", "percentile"):
                quantizer = make_quantizer(name, 4, granularity=granularity, channels=6)
                lowbit.calibrate(quantizer, data(rank), observer=observer, process_group=group)
                states[name, granularity, observer] = quantizer.state_dict()
    return states, gathered(data(rank), 0, group), gathered(data(rank).t(), 1, group)


@pytest.mark.slow
def test_a_range_from_data_is_refused_in_a_step_of_several_processes(tmp_path):
    for message in world(refused, tmp_path, 2):
        assert message.startswith("a quantiser without a range would take another one in each of 2 processes")
        assert "calibrate(model, graph, feat, process_group=torch.distributed.group.WORLD)" in message


@pytest.mark.slow
def test_processes_calibrated_together_train_together(tmp_path):
    first, second = world(trained, tmp_path, 2)
    assert first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.slow
def test_ranges_taken_together_are_those_of_all_data(tmp_path):
    together = torch.cat([data(rank) for rank in range(3)])
    for states, rows, columns in world(calibrated, tmp_path, 3):
        assert torch.equal(rows, together) and torch.equal(columns, together.t())
        for (name, granularity, observer), state in states.items():
            alone = make_quantizer(name, 4, granularity=granularity, channels=6)
            lowbit.calibrate(alone, together, observer=observer)
            for key, value in alone.state_dict().items():
                assert torch.equal(state[key], value), (name, granularity, observer, key)


WRAPPERS = {
    "DataParallel": (nn.DataParallel, "pass model.module"),
    "AveragedModel": (torch.optim.swa_utils.AveragedModel, "pass model.module"),
    "OptimizedModule": (torch.compile, "pass model._orig_mod"),
    "RecursiveScriptModule": (torch.jit.script, "pass the one that was scripted"),
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_wrapped_models_are_sent_back(name):
    wrap, advice = WRAPPERS[name]
    wrapped = wrap(nn.Linear(2, 2))
    for function in (lowbit.quantize, lambda m: lowbit.calibrate(m, torch.ones(1, 2))):
        with pytest.raises(ValueError, match=f"(quantize|calibrate) expects .*, got (a )?{name}.*{advice}"):
            function(wrapped)


def test_lists_of_modules_are_sent_back():
    with pytest.raises(ValueError, match=r"got a list of them; pass torch.nn.ModuleList\(model\)"):
        lowbit.quantize([nn.Linear(2, 2)])


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process has all cores")
def test_tests_side_by_side_have_a_core_each():
    assert torch.get_num_threads() == 1


def rounded(rank):
    """A net whose weights were rounded on the inputs of two processes, or of one that has those of both."""
    size = torch.distributed.get_world_size()
    both = [torch.randn(20, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    own = both[rank] if size == 2 else torch.cat(both)
    group = torch.distributed.group.WORLD
    return lowbit.calibrate(model(), own, rounding="gptq", progress=False, process_group=group).state_dict()


@pytest.mark.slow
def test_weights_are_rounded_on_the_inputs_of_all_processes(tmp_path):
    (tmp_path / "one").mkdir()
    alone, ours, theirs = *world(rounded, tmp_path / "one", 1), *world(rounded, tmp_path, 2)
    nearest = lowbit.calibrate(model(), torch.randn(20, 6)).state_dict()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name])
        torch.testing.assert_close(value, alone[name])
    assert not torch.equal(nearest["0.weight"], ours["0.weight"])
