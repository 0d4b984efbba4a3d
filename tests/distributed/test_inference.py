"""Packed models on partitions, against one process on the whole graph, to the bit; workers that stop."""

import json
import os
import subprocess
import sys

import dgl
import numpy as np
import pytest
import torch
import torch.distributed

import dgl_lowbit as lowbit
from dgl_lowbit.distributed import OneHost, Partition
from dgl_lowbit.training import LostProcessError
from tests.distributed import packed as models
from tests.distributed import threads

FAST = ("gcn", 4), ("smp", 2), ("pruned", 2), ("rgcn", 2)
CASES = [(name, count) for name in models.MODELS for count in (2, 4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def same_rows(whole, part, nodes):
    whole, part = (x if isinstance(x, dict) else {"_N": x} for x in (whole, part))
    assert set(whole) == set(part)
    return all(torch.equal(part[ntype], whole[ntype][nodes[ntype]]) for ntype in whole)


@pytest.mark.parametrize(
    ("name", "count"), [pytest.param(*case, marks=[pytest.mark.slow] * (case not in FAST)) for case in CASES]
)
def test_parts_are_rows_of_one_process(name, count, folder, monkeypatch):
    whole = models.save(folder, name)

    def work(rank, _):
        return models.run(folder, name, rank, count)

    for result, part in threads.run(monkeypatch, count, work):
        assert same_rows(whole, result, part.nodes)
        assert all(sent.nbytes < sent.float_nbytes / 3 for sent in part.sent)


def test_bytes_are_those_of_codes_without_padding(folder, monkeypatch):
    models.save(folder, "sage")
    results = threads.run(monkeypatch, 2, lambda rank, _: models.run(folder, "sage", rank, 2))
    graph, _ = models.arguments("sage")
    owner = models.parts_of(graph, 2)["_N"]
    source, target = graph.edges()
    for rank, (_, part) in enumerate(results):
        read = torch.unique(source[(owner[source] == rank) & (owner[target] != rank)])  # by the other one
        assert [sent[1:] for sent in part.sent] == [(16, 2, len(read), 4 * len(read)), (5, 2, len(read), 2 * len(read))]


def test_what_one_worker_refuses_all_are_told(folder, monkeypatch):
    models.save(folder, "gcn")
    packed = lowbit.load(folder / "gcn.safetensors")

    def work(rank, inference, change=lambda feat: feat):
        graph, feat = models.arguments("gcn")
        part = Partition.split(graph, models.parts_of(graph, 2)["_N"], rank, 2)
        feat = feat[part.nodes["_N"]]
        return inference(
            packed if rank else lowbit.load(folder / "gcn.safetensors"), part, change(feat) if rank else feat
        )

    told, own = threads.run(monkeypatch, 2, lambda *given: work(*given, change=lambda feat: feat * torch.nan))
    assert isinstance(own, dgl.DGLError) and str(own).startswith("feat holds NaN")
    assert isinstance(told, LostProcessError) and "worker 1 of 2 stopped: ArgumentsError: feat holds NaN" in str(told)
    told, own = threads.run(monkeypatch, 2, lambda *given: work(*given, change=lambda feat: feat[1:]))
    assert isinstance(own, dgl.DGLError) and "rows of feat are others than its inner nodes" in str(own)
    assert isinstance(told, LostProcessError)


def test_workers_with_other_models_or_parts_are_refused(folder, monkeypatch):
    models.save(folder, "gcn"), models.save(folder, "sage")
    names = "gcn", "sage"
    for error in threads.run(monkeypatch, 2, lambda rank, _: models.run(folder, names[rank], rank, 2)):
        assert isinstance(error, LostProcessError) and "runs another model" in str(error)
    for error in threads.run(monkeypatch, 2, lambda rank, _: models.run(folder, "gcn", rank, 3)):
        assert isinstance(error, dgl.DGLError) and "is the part of worker" in str(error)


def test_a_part_has_the_degrees_of_the_whole_graph(folder, monkeypatch):
    """A node without in-edges, on one worker, is refused on all of them."""
    models.save(folder, "gcn")

    def work(rank, inference):
        graph, feat = models.arguments("gcn")
        graph = dgl.remove_edges(graph, graph.in_edges(0, form="eid"))
        part = Partition.split(graph, models.parts_of(graph, 2)["_N"], rank, 2)
        return inference(lowbit.load(folder / "gcn.safetensors"), part, feat[part.nodes["_N"]])

    for error in threads.run(monkeypatch, 2, work):
        assert isinstance(error, dgl.DGLError) and "0-in-degree nodes" in str(error)


def test_partitions_are_checked():
    graph, _ = models.homogeneous()
    with pytest.raises(dgl.DGLError, match="which worker computes each of 60 nodes of type '_N', got shape"):
        Partition.split(graph, torch.zeros(59, dtype=torch.int64), 0, 1)
    for number in (2, -1):
        with pytest.raises(dgl.DGLError, match=f"parts of '_N' must be workers from 0 to 1, got {number}"):
            Partition.split(graph, torch.zeros(60).index_fill(0, torch.tensor([7]), number), 0, 2)
    ids, ends = np.arange(60), tuple(part.numpy() for part in graph.edges(form="all"))
    with pytest.raises(dgl.DGLError, match="have no owner among the 2 workers"):
        Partition(
            {"_N": ids[:20]},
            {graph.canonical_etypes[0]: tuple(part[ends[1] < 20] for part in ends)},
            lambda ntype, nodes: np.full(len(nodes), 2),
            0,
            2,
        )
    with pytest.raises(dgl.DGLError, match="worker 2 is none of 2"):
        Partition.split(graph, torch.zeros(60), 2, 2)
    ids = np.array([0, 1])
    with pytest.raises(dgl.DGLError, match="no inner nodes"):
        Partition({"_N": ids}, {("_N", "_E", "_N"): (ids, ids + 1, ids)}, lambda ntype, nodes: nodes, 0, 1)
    with pytest.raises(dgl.DGLError, match="ascending"):
        Partition({"_N": ids[::-1]}, {}, lambda ntype, nodes: nodes, 0, 1)


def test_without_processes_the_error_says_how_to_have_them():
    graph, feat = models.homogeneous()
    part = Partition.split(graph, torch.zeros(60), 0, 1)
    with pytest.raises(LostProcessError, match="init_process_group"):
        lowbit.distributed.inference(None, part, feat)


def test_readouts_are_refused(monkeypatch):
    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = dgl.nn.GraphConv(models.WIDTH, 3), dgl.nn.SumPooling()

        def forward(self, graph, feat):
            return self.pool(graph, self.conv(graph, feat))

    graph, feat = models.homogeneous()
    model = lowbit.calibrate(lowbit.quantize(Pooled(), lowbit.QuantConfig(2)), graph, feat).eval()
    packed, part = lowbit.freeze(model, graph, feat), Partition.split(graph, torch.zeros(60), 0, 1)
    (error,) = threads.run(monkeypatch, 1, lambda rank, inference: inference(packed, part, feat))
    assert isinstance(error, dgl.DGLError) and "'readout' in a way that may read rows of all nodes" in str(error)


def test_partitions_of_dgl_are_loaded(tmp_path, folder, monkeypatch):
    whole, (graph, feat) = models.save(folder, "sage"), models.arguments("sage")
    maps = dgl.distributed.partition_graph(graph, "g", 2, str(tmp_path), part_method="random", return_mapping=True)
    packed = [lowbit.load(folder / "sage.safetensors") for _ in range(2)]

    def work(rank, inference):
        part = Partition.load(tmp_path / "g.json", rank)
        mine = maps[0][part.nodes["_N"]]
        return inference(packed[rank], part, feat[mine]), mine

    for result, mine in threads.run(monkeypatch, 2, work):
        assert torch.equal(result, whole[mine])


def statuses(*args):
    """Exit statuses of the workers that ``tests.distributed.packed`` starts."""
    command = [sys.executable, "-m", "tests.distributed.packed", *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])  # DGL prints, too


@pytest.mark.slow
def test_processes_give_the_rows_of_one_process(folder):
    wholes = {name: models.save(folder, name) for name in ("sage", "rgcn")}
    assert statuses(2, folder, ",".join(wholes), "run") == [0, 0]
    for name, whole in wholes.items():
        for rank in range(2):
            result, nodes = torch.load(folder / f"{name}-2-{rank}.pt")
            assert same_rows(whole, result, nodes)


@pytest.mark.parametrize(
    "way",
    [
        pytest.param("kill", marks=pytest.mark.slow),
        pytest.param("raise", marks=pytest.mark.slow),
        pytest.param("sleep", marks=pytest.mark.exhaustive),
    ],
)
def test_when_a_worker_stops_the_others_end_with_one_error(way, folder):
    models.save(folder, "sage")
    assert statuses(3, folder, "sage", way) == [-9 if way == "kill" else 0, 0, 0]
    for rank in (0, 2):
        name, message, seconds = json.loads((folder / f"{way}-{rank}.json").read_text())
        said = {"raise": "worker 1 of 3 stopped: MemoryError: no room left", "sleep": "did not answer within 4 s"}
        assert name == "LostProcessError" and said.get(way, "a worker is gone") in message and seconds < 60
    assert not list(folder.glob("sage-3-*"))


@pytest.mark.slow
@pytest.mark.parametrize(("machines", "trainers"), [(1, 2), (2, 1)])
def test_workers_of_dgl_compute_the_rows_of_one_process_and_write_one_tensor(machines, trainers, folder, tmp_path):
    """Of two machines each has a server, and a part of METIS's, with the ids that DGL gave its nodes."""
    whole, (graph, feat) = models.save(folder, "sage"), models.arguments("sage")
    graph.ndata["feat"] = feat
    ids, _ = dgl.distributed.partition_graph(graph, "g", machines, str(tmp_path), return_mapping=True)
    command = [sys.executable, "-m", "tests.distributed.served", folder]
    with OneHost(command, tmp_path / "g.json", tmp_path, machines, trainers) as host:
        assert host.wait(240) == [0, 0], "\n".join(host.printed("trainer", rank)[-3000:] for rank in range(2))
    rows, written = zip(*(torch.load(folder / f"served{rank}.pt") for rank in range(2)))
    assert torch.equal(torch.cat(rows), whole[ids]) and all(torch.equal(out, whole[ids]) for out in written)
    assert min(map(len, rows)) > 0
    assert machines == 1 or not torch.equal(ids, torch.arange(len(ids)))
