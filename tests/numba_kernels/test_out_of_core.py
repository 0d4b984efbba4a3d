"""Graphs, features, states and results in files."""

import errno
import json
import os
import threading

import numpy as np
import pytest

from numba_kernels import Graph, GraphError, PackedModel, Plan, StatesError, compressed, mapped
from numba_kernels.__main__ import main
from numba_kernels.array_files import ArrayFileError, read_graph
from numba_kernels.compressed import Hubs, work_bounds
from numba_kernels.layout import AHEAD
from numba_kernels.run.cpus import available_memory
from numba_kernels.run.features import read_ahead

from .plans import PlanBuilder, draw_graph, normal, shifted

NODES, WIDTH = 60, 12
# Of which sums of a few neighbours take every code.
CENTRED = {"bits": 2, "granularity": "tensor", "scale": 0.8, "zero_point": 1.5, "offset": 1.5}
RNG = np.random.default_rng(0)
GRAPH, FEAT = draw_graph(RNG, NODES, NODES, 400), normal(RNG, NODES, WIDTH)


def two_sums(quantizer, **more):
    """Two sums over neighbours, of codes of features and of the first sum."""
    build, x = PlanBuilder(), 1
    for _ in range(2):
        x = build.add("aggregate", 0, build.quantize(x, quantizer, WIDTH), None, None, **more)
    return build.model(["graph", "features"], x)


def attention():
    """Two sums weighted with attention, of two heads."""
    build, x = PlanBuilder(), 1
    grid = {"bits": 8, "granularity": "tensor", "scale": 1 / 255, "zero_point": 0.0, "offset": 0.0}
    for _ in range(2):
        codes = build.quantize(x, CENTRED, WIDTH)
        x = build.add("attend", 0, codes, codes, codes, heads=2, slope=0.2, vector=1.0, quantizer=grid)
    return build.model(["graph", "features"], x)


def largest():
    """Two maxima over neighbours."""
    return two_sums(CENTRED, reduce="max")


def with_own():
    """Sums that take a row's own code along, then sums of what has a power of two each."""
    build = PlanBuilder()
    codes = build.quantize(1, CENTRED, WIDTH)
    sums = build.add("aggregate", 0, codes, None, codes)
    return build.model(
        ["graph", "features"], build.add("aggregate", 0, build.quantize(sums, shifted(2, RNG), WIDTH), None, None)
    )


@pytest.fixture
def model():
    return two_sums(CENTRED)


@pytest.fixture
def files(tmp_path):
    """A graph and features in files, and a folder for states."""
    (tmp_path / "graph").mkdir()
    (tmp_path / "states").mkdir()
    np.save(tmp_path / "graph" / "indptr.npy", GRAPH.indptr)
    np.save(tmp_path / "graph" / "indices.npy", GRAPH.indices)
    np.save(tmp_path / "feat.npy", FEAT)
    return tmp_path


def mapped_arguments(files):
    graph = tuple(np.load(files / "graph" / f"{name}.npy", mmap_mode="r") for name in ("indptr", "indices"))
    return graph, np.load(files / "feat.npy", mmap_mode="r")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def stop_at(share):
    def progress(done):
        if done >= share:
            raise KeyboardInterrupt

    return progress


# -- graphs ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.int32, np.uint64])
def test_graphs_are_read_some_edges_at_a_time(dtype, files, monkeypatch):
    monkeypatch.setattr(compressed, "CHUNK", 7)
    ids = RNG.permutation(GRAPH.num_edges)
    arrays = [
        np.lib.format.open_memmap(files / f"{n}.npy", "w+", dtype, (len(a),))
        for n, a in enumerate((GRAPH.indptr, GRAPH.indices, ids))
    ]
    for array, values in zip(arrays, (GRAPH.indptr, GRAPH.indices, ids)):
        array[:] = values
    for folder in (None, files):
        graph = Graph(arrays[0], arrays[1], edge_ids=arrays[2], folder=folder)
        assert np.array_equal(graph.indptr, GRAPH.indptr) and np.array_equal(graph.fetched, GRAPH.fetched)
        assert np.array_equal(graph.edge_ids, ids) and graph.max_in_degree == GRAPH.max_in_degree
        assert graph.in_degrees.dtype == graph.out_degrees.dtype == np.int32
        np.testing.assert_array_equal(graph.out_degrees, np.bincount(GRAPH.indices, minlength=NODES))
    assert names_in(files) == ["0.npy", "1.npy", "2.npy", "feat.npy", "graph", "states"]
    arrays[2][-1] = arrays[2][0]
    with pytest.raises(GraphError, match="each once"):
        Graph(arrays[0], arrays[1], edge_ids=arrays[2])
    arrays[1][-1] = NODES
    with pytest.raises(GraphError, match="indices must name one of 60"):
        Graph(arrays[0], arrays[1])
    arrays[0][-2] = arrays[0][-1] + 1
    with pytest.raises(GraphError, match="indptr must rise"):
        Graph(arrays[0], arrays[1])


def test_blocks_of_equal_work_are_those_that_a_table_of_work_gives():
    degrees = RNG.integers(0, 9, 500)
    degrees[[70, 300]] = compressed.HUB_EDGES + 1000, compressed.HUB_EDGES
    indptr = np.concatenate([[0], np.cumsum(degrees)])
    hubs = Hubs(np.array([70, 300]), *[np.empty(0, np.int64)] * 3)
    work = 4 * np.concatenate([[0], np.cumsum(np.minimum(degrees, compressed.HUB_EDGES))]) + 90 * np.arange(501)
    for first, last in ((0, 500), (60, 450), (3, 4)):
        goals = np.linspace(work[first], work[last], compressed.BLOCKS + 1)[1:-1]
        expected = np.unique([first, *np.clip(np.searchsorted(work, goals), first, last), last])
        np.testing.assert_array_equal(work_bounds(indptr, hubs, 4, 90, first, last), expected)


def test_edges_beyond_two_to_the_31st(model, tmp_path):
    beyond, few = 2**31 + 7, Graph([0, 2, 2, 6], [0, 1, 2, 2, 1, 0])
    expected = model(few, FEAT[:3])[0]
    many = Graph(few.indptr, few.indices)
    many.fetched = np.memmap(
        tmp_path / "indices", np.int32, "w+", shape=(beyond + 6 + AHEAD,)
    )  # of which little is there
    many.fetched[beyond : beyond + 6] = few.indices
    many.indptr, many.num_edges = many.indptr + beyond, beyond + 6
    assert many.in_degrees.dtype == np.int64
    np.testing.assert_array_equal(model(many, FEAT[:3])[0], expected)


# -- features -------------------------------------------------------------------------------------------
def test_the_next_batch_is_read_by_a_thread_while_one_is_used(files):
    readers, main_thread = set(), threading.get_ident()

    class Told(np.memmap):
        def __getitem__(self, rows):
            readers.add(threading.get_ident())
            return super().__getitem__(rows)

    on_disk = np.memmap(files / "rows", np.float64, "w+", shape=FEAT.shape)
    on_disk[:] = FEAT
    batches = [(0, 7), (7, 30), (30, NODES)]
    for array, is_ahead in ((on_disk.view(Told), True), (FEAT, False)):
        got = list(read_ahead({1: array}, batches))
        assert [batch[:2] for batch in got] == batches
        np.testing.assert_array_equal(np.concatenate([rows[1] for *_, rows in got]), FEAT)
        assert (main_thread not in readers) and bool(readers) is is_ahead
        readers.clear()
    on_disk[:] = np.nan
    assert all(np.isfinite(rows[1]).all() for *_, rows in got)  # copies
    with pytest.raises(GraphError, match="gave shape"):
        list(read_ahead({1: on_disk}, [(0, NODES + 1)]))


# -- states and results ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "make", [with_own, *(pytest.param(make, marks=pytest.mark.slow) for make in (attention, largest))]
)
def test_parts_give_the_same_results(make, files):
    model, (graph, feat) = make(), mapped_arguments(files)
    (expected,) = model(GRAPH, FEAT)
    assert len(np.unique(expected)) > 1
    for most_memory in (10**9, 3000, 1):
        out = model.inference(graph, feat, out=files / "out.npy", folder=files / "states", most_memory=most_memory)[0]
        np.testing.assert_array_equal(out, expected)
    assert not list((files / "states").iterdir())


def test_a_run_goes_on_at_a_stage_and_its_file_is_whole_or_not_there(model, files):
    (graph, feat), states, out = mapped_arguments(files), files / "states", files / "out.npy"
    out.write_bytes(b"before")
    for share, done in ((0.0, None), (0.5, 1), (1.0, 2)):
        with pytest.raises(KeyboardInterrupt):
            model.inference(graph, feat, out=out, folder=states, progress=stop_at(share))
        assert out.read_bytes() == b"before"
        record = states / "run.json"
        assert (json.loads(record.read_text())["stages"] if record.exists() else None) == done
    shares = []
    (got,) = model.inference(graph, feat, out=str(out), folder=str(states), progress=shares.append)
    np.testing.assert_array_equal(got, model(GRAPH, FEAT)[0])
    got[:] = 0  # of the array, not of the file
    assert isinstance(got, np.memmap) and np.load(out).any()
    assert len(shares) == 1 and not list(states.iterdir())  # only the last stage ran
    with pytest.raises(KeyboardInterrupt):
        model.inference(graph, feat, out=out, progress=stop_at(0.5))
    np.testing.assert_array_equal(np.load(out), model(GRAPH, FEAT)[0])
    assert names_in(files) == ["feat.npy", "graph", "out.npy", "states"]


def test_states_of_a_machine_that_was_started_again_are_not_trusted(model, files):
    (graph, feat), states = mapped_arguments(files), files / "states"
    with pytest.raises(KeyboardInterrupt):
        model.inference(graph, feat, out=files / "out.npy", folder=states, progress=stop_at(1.0))
    record = json.loads((states / "run.json").read_text())
    (states / "run.json").write_text(json.dumps({**record, "boot": "another"}))
    (states / "run.states").write_bytes(bytes((states / "run.states").stat().st_size))
    (got,) = model.inference(graph, feat, out=files / "out.npy", folder=states)
    np.testing.assert_array_equal(got, model(GRAPH, FEAT)[0])


@pytest.mark.parametrize("name", ["run.states", "run.result"])
@pytest.mark.parametrize("change", ["removed", "cut", "another"])
def test_files_that_are_not_those_of_the_run_are_not_trusted(model, files, name, change):
    (graph, feat), states = mapped_arguments(files), files / "states"
    with pytest.raises(KeyboardInterrupt):
        model.inference(graph, feat, out=files / "out.npy", folder=states, progress=stop_at(1.0))
    size = (states / name).stat().st_size
    if change == "cut":
        os.truncate(states / name, size // 2)
    else:
        (states / name).rename(files / "moved")
    if change == "another":
        (states / name).write_bytes(bytes(size))
    (got,) = model.inference(graph, feat, out=files / "out.npy", folder=states)
    np.testing.assert_array_equal(got, model(GRAPH, FEAT)[0])


@pytest.mark.parametrize("stages", [0, -1, 9, "1", 1.0, None])
def test_records_of_stages_that_there_are_not_are_refused(model, files, stages):
    (graph, feat), states = mapped_arguments(files), files / "states"
    with pytest.raises(KeyboardInterrupt):
        model.inference(graph, feat, out=files / "out.npy", folder=states, progress=stop_at(0.5))
    record = json.loads((states / "run.json").read_text())
    (states / "run.json").write_text(json.dumps({**record, "stages": stages}))
    with pytest.raises(StatesError, match="is damaged"):
        model.inference(graph, feat, out=files / "out.npy", folder=states)


def test_a_folder_serves_one_run_at_a_time_and_no_other(model, files):
    (graph, feat), states, out = mapped_arguments(files), files / "states", files / "out.npy"

    def on_a_thread(share):
        worker = threading.Thread(target=run_another_quietly)
        worker.start()
        worker.join()
        raise KeyboardInterrupt

    refused = []

    def run_another_quietly():
        try:
            model.inference(graph, feat, out=files / "other.npy", folder=states)
        except StatesError as error:
            refused.append(str(error))

    with pytest.raises(KeyboardInterrupt):
        model.inference(graph, feat, out=out, folder=states, progress=on_a_thread)
    assert "another process has a run in" in refused[0]
    with pytest.raises(KeyboardInterrupt):
        model.inference(graph, feat, out=out, folder=states, progress=stop_at(0.5))
    for other in ((graph, np.asarray(feat) * 2), ((GRAPH.indptr, np.roll(GRAPH.indices, 1)), feat)):
        with pytest.raises(StatesError, match="a run of another model, graph or features; name another folder"):
            model.inference(*other, out=out, folder=states)
    (states / "run.json").write_text("{")
    with pytest.raises(StatesError, match="is damaged"):
        model.inference(graph, feat, out=out, folder=states)


def test_what_cannot_be_is_refused_before_any_work_and_leaves_nothing(model, files, monkeypatch):
    (graph, feat), states, out = mapped_arguments(files), files / "states", files / "out.npy"
    for options, error, message in (
        ({"out": files / "out.txt"}, ArrayFileError, "must go to a file named .npy"),
        ({"out": files / "no" / "out.npy"}, FileNotFoundError, "no folder"),
        ({"out": files / "graph", "folder": states}, ArrayFileError, "named .npy"),
        ({"folder": files / "no"}, FileNotFoundError, "no folder .* make it"),
        ({"folder": files / "feat.npy"}, NotADirectoryError, "is no folder"),
        ({"folder": states, "most_memory": 0}, GraphError, "most_memory must be a whole number, at least 1"),
    ):
        with pytest.raises(error, match=message):
            model.inference(graph, feat, **options)
    bad = np.array(feat)
    bad[NODES - 1, 0] = np.nan
    with pytest.raises(GraphError, match="x1 holds NaN"):
        model.inference(graph, bad, out=out, folder=states)

    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(mapped.os, "posix_fallocate", full)
    for options in ({"out": out}, {"folder": states}):
        with pytest.raises(OSError, match="has no room for .* bytes; name a folder of another disk"):
            model.inference(graph, feat, **options)
    assert names_in(files) == ["feat.npy", "graph", "states"] and not any(states.iterdir())


# -- told before ----------------------------------------------------------------------------------------
def test_an_estimate_is_what_a_run_takes(model, files):
    (graph, feat), states = mapped_arguments(files), files / "states"
    sizes = []

    def look(share):
        sizes.append((states / "run.states").stat().st_size)

    (out,) = model.inference(graph, feat, out=files / "out.npy", folder=states, progress=look)
    told = model.estimate(graph)
    assert told.results == out.nbytes and told.features == FEAT.nbytes
    assert told.graph == GRAPH.indptr.nbytes + GRAPH.fetched.nbytes
    assert 0 <= max(sizes) - told.states < 64 * 4  # from a cache line on
    assert told.sources == 16 * NODES and told.disk == told.graph + told.states + told.results
    assert told.seconds > 0 and "GiB" in str(told)
    larger = model.estimate(nodes=10**8, edges=10**9, most_memory=10**8)
    assert larger.sources == 16 * 10**8 and larger.memory_with_folder < 10**9 < larger.memory
    assert model.estimate(nodes=1000, edges=10).seconds > 0  # nodes that have no in-edge are not made
    assert model.estimate([GRAPH, GRAPH])._replace(seconds=0) == model.estimate(GRAPH)._replace(seconds=0)
    for arguments, message in (({}, "nodes must be"), ({"graph": GRAPH, "nodes": 3}, "a graph, or nodes and edges")):
        with pytest.raises(GraphError, match=message):
            model.estimate(**arguments)


@pytest.mark.parametrize(("file", "text", "path"), [
    ("memory.max", "max\n", "0::/a/b"), ("memory.max", "1000\n", "0::/a/b"),
    ("memory.limit_in_bytes", "1000", "4:memory:/a/b"),
])  # fmt: skip
def test_memory_is_what_control_groups_leave(file, text, path, tmp_path):
    group = tmp_path / "sys/fs/cgroup" / ("memory" if "memory:" in path else "") / "a"
    (group / "b").mkdir(parents=True)
    (group / file).write_text(text)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(path + "\n")
    assert available_memory(tmp_path) == (2**63 - 1 if "max\n" in text else 1000)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  2 kB\n")
    assert available_memory(tmp_path) == (2048 if "max\n" in text else 1000)


# -- the command line -----------------------------------------------------------------------------------
def test_the_command_line_predicts_from_files_to_a_file(files, capsys):
    build = PlanBuilder()
    codes = build.quantize(1, CENTRED, WIDTH)
    inputs = [{"name": n, "kind": n, "value": v, "optional": False} for v, n in enumerate(("graph", "features"))]
    plan = Plan(inputs, build.ops, [build.add("aggregate", 0, codes, None, None)], build.arrays)
    PackedModel(plan).save(files / "model.safetensors")
    names = [str(files / name) for name in ("model.safetensors", "graph", "feat.npy", "out.npy")]
    assert read_graph(files / "graph").num_edges == GRAPH.num_edges
    assert main(["predict", *names[:3], str(files / "whole.npz")]) == 0
    assert (
        main(["predict", *names, "--folder", str(files / "states"), "--batch-size", "7", "--most-memory", "500"]) == 0
    )
    np.testing.assert_array_equal(np.load(files / "out.npy"), np.load(files / "whole.npz")["result"])
    for options, message in (
        (["--most-memory", "5"], "name a --folder"),
        (["--batch-size", "5", "--nodes", "nodes.txt"], "leave out --batch-size and --folder"),
        (["--folder", str(files / "none")], "no folder"),
    ):
        capsys.readouterr()
        assert main(["predict", *names, *options]) == 2 and message in capsys.readouterr().err
