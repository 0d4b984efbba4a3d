"""Blocks sampled ahead of the step that trains on them, here and by worker processes."""

import multiprocessing
import threading
import time
import warnings

import dgl
import pytest
import torch
from tqdm import TMonitor

import dgl_lowbit as lowbit
from dgl_lowbit.data import load_graph
from dgl_lowbit.experiments.models import MODELS
from dgl_lowbit.graphs.degrees import times_drawn
from dgl_lowbit.training import batches, options, stage, train
from dgl_lowbit.training.resume import CheckpointError
from dgl_lowbit.training.sampling import fetched_ahead

SECONDS = 10


@pytest.fixture(scope="module")
def planted(small_planted):
    return dgl.add_self_loop(load_graph())


def threads():
    """Those that run, but for the one that watches over progress bars."""
    return {thread for thread in threading.enumerate() if not isinstance(thread, TMonitor)}


@pytest.fixture
def nothing_left():
    before = threads()
    yield
    end = time.monotonic() + SECONDS
    while threads() - before and time.monotonic() < end:
        time.sleep(0.01)  # a queue's thread ends shortly after it is closed
    assert not threads() - before and not multiprocessing.active_children()


class Blocks(dgl.dataloading.NeighborSampler):
    """Five neighbours; the second batch that a sampler, or its copy in a worker, is given raises ``error``."""

    def __init__(self, error=None):
        super().__init__([5, 5])
        self.error, self.count = error, 0

    def sample_blocks(self, *args, **kwargs):
        self.count += 1
        if self.error is not None and self.count == 2:
            raise self.error
        return super().sample_blocks(*args, **kwargs)


class NeverRun(torch.nn.Module):
    """A model that must not be run."""

    def forward(self, *args):
        raise AssertionError("work came before the check")


def run(graph, sampler=None, **options):
    """Five steps an epoch, two epochs, with dropout."""
    torch.manual_seed(0)
    model = MODELS["sage"](1433, 7, hidden=8)
    options = {"epochs": 2, "batch_size": 30, "progress": False, "sampler": sampler or Blocks(), **options}
    return train(model, graph, **options)


def test_the_next_is_fetched_while_one_is_used(nothing_left):
    fetched, drawn = [threading.Event() for _ in range(4)], []

    def fetch(number):
        fetched[number].set()
        return number, threading.current_thread()

    def numbers():
        for number in range(4):
            drawn.append(threading.current_thread())
            yield number

    for step, (number, thread) in enumerate(fetched_ahead(fetch, numbers())):
        assert number == step and thread is not threading.current_thread()
        assert step == 3 or fetched[step + 1].wait(SECONDS)
        assert len(drawn) == min(step + 2, 4)
    assert step == 3 and set(drawn) == {threading.current_thread()}
    assert list(fetched_ahead(fetch, [])) == [] and len(list(fetched_ahead(fetch, [2]))) == 1


@pytest.mark.parametrize("sparse", [True, False])
def test_losses_are_those_of_fetching_between_steps(sparse, planted, monkeypatch, nothing_left):
    ahead = run(planted, sparse=sparse)
    monkeypatch.setattr(batches, "fetched_ahead", map)
    assert run(planted, sparse=sparse) == ahead


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than this one has cores
def test_any_number_of_workers_gives_the_same(planted, nothing_left):
    with warnings.catch_warnings():
        warnings.simplefilter("error", dgl.base.DGLWarning)
        one = run(planted, num_workers=1)
    assert run(planted, num_workers=2) == one != run(planted)
    assert one.epochs[1]["loss"] < one.epochs[0]["loss"]


@pytest.mark.slow
def test_runs_with_workers_resume(planted, tmp_path, nothing_left):
    path, original = tmp_path / "run.pt", stage.Run.epoch

    def interrupted(self, number):
        if number == 10:
            raise KeyboardInterrupt
        return original(self, number)

    options = {"epochs": 11, "batch_size": 140, "num_workers": 1, "checkpoint": path}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.Run, "epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(planted, **options)
    with pytest.raises(ValueError, match="belongs to another run: num_workers was 1, is 0"):
        run(planted, **{**options, "num_workers": 0}, resume=True)
    assert run(planted, **options, resume=True) == run(planted, **{**options, "checkpoint": None})


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_the_sampler_reaches_the_caller(num_workers, planted, nothing_left):
    with pytest.raises(ZeroDivisionError, match="no blocks") as kept:
        run(planted, Blocks(ZeroDivisionError("no blocks")), num_workers=num_workers)
    assert not multiprocessing.active_children() and kept.tb


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_step_left_early_leaves_nothing(num_workers, error, planted, monkeypatch, nothing_left):
    before = threads()

    def fails(self, batch, epoch):
        assert threads() - before
        raise error

    monkeypatch.setattr(stage.Run, "_step", fails)
    with pytest.raises(error) as kept:
        run(planted, num_workers=num_workers)
    assert not multiprocessing.active_children() and kept.tb


def test_features_that_cannot_be_fetched_reach_the_caller(nothing_left):
    def fetch(number):
        return 1 / number

    seen = []
    with pytest.raises(ZeroDivisionError):
        seen.extend(fetched_ahead(fetch, [2, 0, 1]))


@pytest.mark.parametrize("function", [train, lowbit.fit])
@pytest.mark.parametrize("num_workers", [-1, 1.0, True, "2", None])
def test_numbers_of_workers(num_workers, function, planted):
    with pytest.raises(ValueError, match="num_workers must be a whole number from 0 on, got"):
        function(NeverRun(), planted, sampler=Blocks(), num_workers=num_workers)


@pytest.mark.parametrize("function", [train, lowbit.fit])
def test_workers_without_a_sampler(function, planted):
    with pytest.raises(ValueError, match="num_workers=2 sample blocks; pass a sampler="):
        function(NeverRun(), planted, num_workers=2)


@pytest.mark.parametrize("frame", ["ndata", "edata"])
def test_columns_that_require_a_gradient_are_named(frame, planted):
    graph = planted.clone()
    count = graph.num_nodes() if frame == "ndata" else graph.num_edges()
    getattr(graph, frame)["w"] = torch.rand(count, requires_grad=True)
    with pytest.raises(ValueError, match="the graph's 'w' requires a gradient"):
        train(NeverRun(), graph, sampler=Blocks(), num_workers=1, progress=False)


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_sampler_with_a_seed_of_its_own_draws_anew_each_epoch_and_repeats(num_workers, planted, nothing_left):
    def losses():
        model = MODELS["sage"](1433, 7, hidden=4, dropout=0)
        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        options = {
            "sampler": dgl.dataloading.LaborSampler([2, 2]),
            "batch_size": 200,
            "num_workers": num_workers,
            "lr": 0.0,
            "progress": False,
        }
        return [epoch["loss"] for epoch in train(model, planted, epochs=3, **options).epochs]

    seen = losses()
    assert len(set(seen)) == 3 and losses() == seen


@pytest.mark.parametrize(("model", "counts"), [("gcn", True), ("sage", False)])
def test_both_stages_know_degrees_where_sums_count(model, counts, planted):
    seen = []

    class Watched(dgl.dataloading.NeighborSampler):
        def sample_blocks(self, graph, *args, **kwargs):
            drawn = super().sample_blocks(graph, *args, **kwargs)
            seen.append([times_drawn(torch.ones(()), block) is not None for block in drawn[2]])
            return drawn

    torch.manual_seed(0)
    net = MODELS[model](planted.ndata["feat"].shape[1], 7)
    before = [name for name, _ in net.named_parameters()]
    fitted = lowbit.fit(
        net, planted, lowbit.QuantConfig(2), sampler=Watched([2, 2]), batch_size=60, epochs=2, progress=False
    )
    drawn = [known for known in seen if known == [counts, counts]]
    assert len(drawn) >= 2 * 2 * -(-int(planted.ndata["train_mask"].sum()) // 60)
    assert [name for name, _ in fitted.teacher.named_parameters()] == before
    assert not any(name.startswith("_lowbit") for name in planted.ndata)


def test_degrees_are_of_the_edges_that_an_epoch_has(planted):
    lonely, seen = dgl.remove_self_loop(planted), []
    lonely.remove_edges(torch.arange(0, lonely.num_edges(), 2))

    class Watched(dgl.dataloading.NeighborSampler):
        def sample_blocks(self, graph, *args, **kwargs):
            drawn = super().sample_blocks(graph, *args, **kwargs)
            seen.extend(times_drawn(torch.ones(()), block).min() for block in drawn[2] if block.num_edges() > 1)
            return drawn

    model = lowbit.quantize(MODELS["gcn"](planted.ndata["feat"].shape[1], 7), lowbit.QuantConfig(4))
    for layer in model.layers:
        layer.set_allow_zero_in_degree(True)
    train(model, lonely, sampler=Watched([2, 2]), transform=dgl.AddSelfLoop(), epochs=1, progress=False)
    assert len(seen) >= 2 and min(seen) >= 1


def test_runs_whose_sums_were_of_blocks_do_not_go_on(planted, tmp_path, monkeypatch):
    more = {"sampler": dgl.dataloading.NeighborSampler([2, 2]), "checkpoint": tmp_path / "run.pt", "progress": False}
    model = lowbit.quantize(MODELS["gcn"](planted.ndata["feat"].shape[1], 7), lowbit.QuantConfig(4))
    with monkeypatch.context() as patch:
        patch.setattr(options, "counts_neighbours", lambda model: False)
        train(model, planted, epochs=1, **more)
    with pytest.raises(CheckpointError, match="blocks was .*, is .*sums stand for whole neighbourhoods"):
        train(model, planted, epochs=1, resume=True, **more)
