"""Training over DGL's distributed engine: shares of a graph, replicas, and a run that loses a process."""

import sys
import time
from pathlib import Path

import dgl
import numpy as np
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.distributed import OneHost, initialize
from dgl_lowbit.experiments.data import load_graph
from dgl_lowbit.graphs.degrees import times_drawn
from dgl_lowbit.quant import QLRQuantizer
from dgl_lowbit.smoothness import SmoothnessControl
from dgl_lowbit.training import LostProcessError, synchronize
from dgl_lowbit.training.distributed import Shares
from dgl_lowbit.training.processes import Processes
from numba_kernels import Codewords
from tests.test_processes import world
from tests.training.models import build

TRAINER = Path(__file__).with_name("trainer.py")
WORDS = lowbit.FeatureStore(Codewords(np.zeros((3, 1), np.uint8), np.zeros((1, 1, 2), np.float32), 2))
SECONDS = 240  # on a machine that others use too


def partitioned(graph, folder, parts, method="metis"):
    dgl.distributed.partition_graph(graph, "graph", parts, str(folder), part_method=method)
    return folder / "graph.json"


@pytest.fixture(scope="module")
def planted(small_planted):
    return load_graph("planted")


@pytest.fixture(scope="module")
def dist_graph(planted, tmp_path_factory):
    """A graph of one part, served by this process."""
    config = partitioned(planted, tmp_path_factory.mktemp("parts"), 1, "random")
    initialize()
    return dgl.distributed.DistGraph("graph", part_config=str(config))


@pytest.mark.slow
def test_one_process_on_a_dist_graph_trains_as_on_the_graph(dist_graph, planted):
    """With all neighbours nothing is drawn; a step has all labelled nodes."""
    options = {"sampler": dgl.dataloading.NeighborSampler([-1, -1]), "batch_size": 1000, "epochs": 3}
    config, histories = lowbit.QuantConfig(4), []
    for graph in (planted, dist_graph):
        torch.manual_seed(0)
        fitted = lowbit.fit(build("sage", dropout=0.0), graph, config, progress=False, distillation=0.0, **options)
        histories.append([fitted.teacher_history, fitted.history])
    for whole, shares in zip(*histories):
        for key in ("loss", "val_loss", "val_accuracy"):
            assert [e[key] for e in shares.epochs] == pytest.approx([e[key] for e in whole.epochs], rel=0.02), key
        assert shares.best["test_accuracy"] == pytest.approx(whole.best["test_accuracy"], abs=0.01)


def test_a_dist_graph_is_trained_on_from_records_of_a_store(dist_graph, planted, monkeypatch):
    """As the graph is from what the store holds: with all neighbours nothing is drawn."""
    draw, histories = np.random.default_rng(0), []
    packed, book = draw.integers(4, size=(560, 359), dtype=np.uint8), draw.standard_normal((359, 4, 4), np.float32)
    store = lowbit.FeatureStore(Codewords(packed, book, 1433))
    held = dgl.distributed.DistTensor((len(store), store.row_bytes), torch.uint8, "kept", lambda *_: store.records())
    monkeypatch.setitem(dist_graph.ndata, "feat", held)
    options = {"sampler": dgl.dataloading.NeighborSampler([-1, -1]), "batch_size": 1000, "epochs": 2}
    for graph, feat in ((planted, store[:]), (dist_graph, store)):
        history = lowbit.train(build("sage", dropout=0.0), graph, feat=feat, progress=False, **options)
        histories.append(history.epochs)
    for whole, shares in zip(*histories):
        for key in ("loss", "val_loss", "val_accuracy"):
            assert shares[key] == pytest.approx(whole[key], rel=1e-3), key


def test_blocks_of_a_dist_graph_know_its_degrees_where_sums_count(dist_graph, planted):
    shares, (nodes,) = [], [torch.arange(40)]
    for degrees in (True, False):
        sampler = dgl.dataloading.NeighborSampler([2])
        ((_, (block,), _),) = Shares(dist_graph, sampler, 1000, degrees=degrees).loaded([nodes], sampler)
        shares.append(times_drawn(torch.ones(()), block))
    assert shares[1] is None
    assert torch.equal(shares[0], planted.in_degrees(nodes) / planted.in_degrees(nodes).clamp(1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"by blocks; pass sampler="),
        ({"transform": dgl.DropEdge(0.1)}, "transform= cannot be had on a DistGraph"),
        ({"num_workers": 2}, "num_workers= cannot be had on a DistGraph.*DGL_NUM_SAMPLER"),
        ({"budget": {"model": 1000}}, "budget= cannot be had"),
        ({"history": True}, "history= cannot be had"),
        ({"config": lowbit.QuantConfig(2, protect=(0.0, 0.2))}, "protect= cannot be had"),
        ({"sampler": lowbit.BanditSampler([2, 2])}, "BanditSampler keeps a number for each edge"),
        ({"feat": torch.ones(3, 2)}, "feat of a DistGraph is the FeatureStore whose records.*got Tensor beside"),
        ({"feat": WORDS}, r"must be records of the store, \(N, 1\) uint8, got torch.float32"),
    ],
)
def test_what_cannot_be_trained_is_said_before(dist_graph, options, message):
    sampler = {"sampler": dgl.dataloading.NeighborSampler([2, 2])} if options else {}
    with pytest.raises(ValueError, match=message):
        lowbit.fit(build("sage"), dist_graph, **{**sampler, **options})


def test_starting_needs_what_launchers_set(monkeypatch):
    monkeypatch.setenv("DGL_DIST_MODE", "distributed")
    monkeypatch.delenv("DGL_IP_CONFIG", raising=False)
    with pytest.raises(ValueError, match=r"the environment lacks DGL_IP_CONFIG, .*launch.py"):
        initialize()
    with pytest.raises(ValueError, match="timeout must be a number of seconds above 0, got 0"):
        initialize(timeout=0)


@pytest.mark.parametrize("wrong", [{"machines": 0}, {"trainers": True}])
def test_hosts_are_not_started_with_what_they_cannot_be(wrong, tmp_path):
    config = tmp_path / "graph.json"
    with pytest.raises(ValueError, match="part_config is to be a file"):
        OneHost(["true"], config, tmp_path)
    config.touch()
    with pytest.raises(ValueError, match="must be a whole number above 0"):
        OneHost(["true"], config, tmp_path, **wrong)


def test_a_host_ends_what_does_not_end(tmp_path):
    (tmp_path / "graph.json").touch()
    with OneHost(["sleep", "100"], tmp_path / "graph.json", tmp_path) as host, pytest.raises(TimeoutError):
        host.wait(timeout=0.2)
    assert all(process.poll() for process in [*host.servers, *host.trainers])
    with OneHost(["false"], tmp_path / "graph.json", tmp_path) as host:
        assert host.wait(SECONDS) == [1, 1]


def unlike(rank):
    """What a process has of modules whose buffers it changed on data of its own."""
    first, second = SmoothnessControl(0.1), SmoothnessControl(0.1, acts="projection")
    shift, norm = QLRQuantizer(4, granularity="shift"), nn.BatchNorm1d(3)
    for control in (first, second):
        control.multiplier.multiplier.fill_(1.0 + rank)
    shift.low.fill_(-1.0 - rank)
    shift.high.fill_(3.0 - rank)
    norm.running_mean.fill_(float(rank))
    norm.num_batches_tracked.fill_(rank)
    still = QLRQuantizer(4)
    still.high.fill_(float(rank))
    model = nn.ModuleList([first, second, shift, norm, still])
    synchronize(model)
    return model.state_dict(), agreed(rank, Processes(torch.distributed.group.WORLD))


def agreed(rank, processes):
    """Mean gradients; what the first process says, or raises; and whether models that differ are told."""
    model = nn.ParameterDict({name: nn.Parameter(torch.ones(2)) for name in ("all", "some", "none")})
    model["all"].grad = torch.tensor([1.0, rank])
    model["some"].grad = torch.ones(2) if rank == 1 else None
    processes.average_gradients(model)
    messages = []
    processes.check_equal(model)
    with torch.no_grad():
        model["all"] += torch.finfo(torch.float32).eps * (rank == 2)
    for work in (lambda: processes.of_first(lambda: int(f"wrong {rank}")), lambda: processes.check_equal(model)):
        try:
            work()
        except (ValueError, LostProcessError) as error:
            messages.append(str(error))
    processes.share(model)
    processes.check_equal(model)
    return {name: value.grad for name, value in model.items()}, processes.of_first(lambda: rank), messages


@pytest.mark.slow
def test_processes_agree(tmp_path):
    given = world(unlike, tmp_path, 3)
    states = [state for state, _ in given]
    for state, (gradients, said, messages) in given:
        assert gradients["none"] is None and gradients["all"].tolist() == [1.0, 1.0]
        assert gradients["some"].tolist() == pytest.approx([1 / 3] * 2)
        assert said == 0 and "'wrong 0'" in messages[0] and "the model of process 2 is no longer" in messages[1]
        assert state["0.multiplier.multiplier"].tolist() == [2.0]  # the mean
        assert state["1.multiplier.multiplier"].tolist() == [3.0]  # what holds every bound
        assert (state["2.low"].item(), state["2.high"].item()) == (-3.0, 3.0)
        assert state["3.running_mean"].tolist() == [1.0] * 3 and state["3.num_batches_tracked"] == 2
    assert [state["4.high"].item() for state in states] == [0.0, 1.0, 2.0]  # that forwards do not change


@pytest.mark.parametrize(
    "kind", [pytest.param("trainer", marks=pytest.mark.slow), pytest.param("server", marks=pytest.mark.exhaustive)]
)
def test_replicas_are_equal_and_none_waits_for_one_that_is_killed(planted, tmp_path, kind):
    config = partitioned(planted, tmp_path, 2)
    timeout = 20 if kind == "server" else 100
    with OneHost([sys.executable, TRAINER, tmp_path, timeout], config, tmp_path) as host:
        _wait_for([tmp_path / f"ready{rank}" for rank in range(2)], host)
        states = [torch.load(tmp_path / f"{name}{rank}.pt") for name in ("state", "again") for rank in range(2)]
        for state in states:  # of both processes, and of both again as they were taken up from the checkpoint
            assert state.keys() == states[0].keys()
            assert all(torch.equal(value, states[0][key]) for key, value in state.items())
        assert states[0]["layers.1.smoothness.multiplier.multiplier"] != 1e-3
        time.sleep(1)
        start = time.monotonic()
        (host.servers if kind == "server" else host.trainers)[1].kill()
        codes = host.wait(SECONDS)
        assert time.monotonic() - start < 60
        printed = host.printed("trainer", 0)
    assert codes[0] == 1
    assert host.servers[0].returncode in (0, 1)  # it ended by itself, not by force
    assert printed.count("LostProcessError: ") == 1, printed
    assert torch.load(tmp_path / "run.pt", weights_only=True)["stages"]
    left = [
        path.name
        for path in tmp_path.iterdir()
        if path.name.startswith(("run.pt", ".run.pt")) and path.name != "run.pt"
    ]
    assert not left
    assert not list(Path("/dev/shm").glob(f"*{host._run}*"))


def _wait_for(files, host):
    end = time.monotonic() + SECONDS
    while not all(file.exists() for file in files):
        ended = [process.poll() for process in [*host.servers, *host.trainers]]
        assert time.monotonic() < end and ended == [None] * 4, "\n".join(
            host.printed(kind, number)[-3000:] for kind in ("trainer", "server") for number in range(2)
        )
        time.sleep(0.1)
