"""Runs of several threads, within each other, and in forked processes."""

import copy
import os
import signal
import sys
import threading

import numba
import numpy as np
import pytest
from numba.core.compiler_lock import global_compiler_lock

import numba_kernels as nk
from numba_kernels.run import cpus, runtime
from tests.processes import SECONDS, forked, in_threads

from .plans import JIT_OFF, PlanBuilder, draw_graph, normal, per_row, static

WIDTH = 20
CAN_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")


@pytest.fixture
def model():
    """Sums over neighbours, coded anew and multiplied."""
    rng, b = np.random.default_rng(0), PlanBuilder()
    sums = b.add("aggregate", 0, b.quantize(1, static(2, WIDTH, rng, False), WIDTH), None, None)
    h = b.linear(b.quantize(sums, per_row(8, rng), WIDTH), rng, WIDTH, WIDTH, 8)
    return b.model(["graph", "features"], b.add("degree", h, 0, side="in", power=-0.5, plus=0))


def request(rows, seed=0):
    """A new graph, and features for it."""
    rng = np.random.default_rng(seed)
    return draw_graph(rng, rows, rows, 6 * rows), normal(rng, rows, WIDTH)


class Rows:
    """Features that are computed as they are read: ``before()`` is called first."""

    dtype = np.dtype(np.float32)

    def __init__(self, array, before):
        self.array, self.before, self.shape = array, before, array.shape

    def __getitem__(self, rows):
        self.before()
        return self.array[rows]


def test_threads_run_models_side_by_side_to_the_same_results(model):
    rows = (1, 30, 300) if JIT_OFF else (1, 300, 20_000)  # of which the last are shared among threads
    models, before = [model, copy.deepcopy(model)], numba.get_num_threads()
    shared = [request(n, n) for n in rows]
    expected = [model(*arguments)[0] for arguments in shared]

    def work(seed):
        different = 0
        for n in np.random.default_rng(seed).integers(len(rows), size=4 if JIT_OFF else 30):
            arguments = request(rows[n], rows[n]) if n % 2 else shared[n]
            (result,) = models[seed % 2](*arguments)
            different += not np.array_equal(result, expected[n])
        return different, numba.get_num_threads()

    assert in_threads(*(lambda seed=seed: work(seed) for seed in range(4))) == [(0, before)] * 4
    assert not runtime._process.inside


def test_threads_that_update_a_result_and_release_it_do_not_meet(model):
    graph, feat = request(300)
    (expected,), before = model(graph, feat), sys.getswitchinterval()

    def work(seed):
        wrong = 0
        for node in np.random.default_rng(seed).integers(300, size=5 if JIT_OFF else 40):
            wrong += not np.array_equal(model.update(graph, feat, changed=[node])[0], expected)
            if node % 4 == 0:
                model.release()
        return wrong

    sys.setswitchinterval(1e-5)
    try:
        assert in_threads(*(lambda seed=seed: work(seed) for seed in range(3))) == [0] * 3
    finally:
        sys.setswitchinterval(before)


def test_no_run_waits_for_another(model):
    """Two that read their features in the midst of each other."""
    graph, feat = request(30)
    meeting = threading.Barrier(2, timeout=SECONDS)
    runs = [
        lambda m=m: m.inference(graph, Rows(feat, meeting.wait))[0].tobytes() for m in (model, copy.deepcopy(model))
    ]
    assert set(in_threads(*runs)) == {model(graph, feat)[0].tobytes()}


@pytest.mark.parametrize("inner", ["the same model", "another", "an operation"])
def test_a_run_within_a_run_is_refused(model, inner):
    graph, feat = request(30)
    grid = nk.Grid(WIDTH, 2, scale=1.0)
    again = {
        "the same model": lambda: model(graph, feat),
        "another": lambda: copy.deepcopy(model)(graph, feat),
        "an operation": lambda: nk.quantize(feat, grid),
    }[inner]
    before = signal.signal(signal.SIGUSR1, lambda number, frame: again())
    try:
        with pytest.raises(RuntimeError, match="in the midst of a run: a signal handler"):
            model.inference(graph, Rows(feat, lambda: signal.raise_signal(signal.SIGUSR1)))
    finally:
        signal.signal(signal.SIGUSR1, before)
    again()  # afterwards it runs


def test_runs_that_are_not_alone_share_the_cpus(monkeypatch):
    monkeypatch.setattr(runtime, "available_cpus", lambda: 8)
    monkeypatch.setattr(runtime._process, "inside", {1})
    assert [runtime.share(threads) for threads in (1, 8, 16)] == [1, 8, 16]
    runtime._process.inside.update({2, 3})
    assert [runtime.share(threads) for threads in (1, 2, 8, 16)] == [1, 2, 2, 2]
    runtime._process.inside.update(range(20))
    assert runtime.share(8) == 1


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread on this machine")
@pytest.mark.parametrize("layer, granted", [("workqueue", 1), ("omp", 2)])
def test_threads_that_serve_one_launch_at_a_time_are_not_waited_for(layer, granted, monkeypatch):
    runtime.start_threads()
    monkeypatch.setattr(numba, "threading_layer", lambda: layer)
    with runtime._process.launching, runtime.sharing(2) as threads:
        assert threads == granted
    with runtime.sharing(2) as threads:
        assert threads == 2 == numba.get_num_threads()
    assert not runtime._process.launching.locked()


def test_threads_are_as_many_as_cpus_unless_they_are_set(monkeypatch):
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr(runtime, "available_cpus", lambda: 1)
    assert nk.get_num_threads() == 1
    monkeypatch.setenv("NUMBA_NUM_THREADS", str(numba.config.NUMBA_NUM_THREADS))
    assert nk.get_num_threads() == numba.get_num_threads()


GROUPS = {
    "none": ({}, float("inf")),
    "of version 2": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
    "without a limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, float("inf")),
    "around another": (
        {
            "proc/self/cgroup": "0::/outer/inner\n",
            "sys/fs/cgroup/outer/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/outer/inner/cpu.max": "800000 100000\n",
        },
        3,
    ),
    "of version 1": (
        {
            "proc/self/cgroup": "5:memory:/m\n4:cpu,cpuacct:/seen/from/outside\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        1,
    ),
    "of version 1, without a limit": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        float("inf"),
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_quotas_of_containers_are_read(name, tmp_path):
    files, expected = GROUPS[name]
    for place, content in files.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(content)
    assert cpus.quota(tmp_path) == expected


@CAN_FORK
def test_a_forked_process_runs_on_its_own_thread(model):
    small, large = request(30), request(300 if JIT_OFF else 20_000)
    expected = [model(*arguments)[0].tobytes() for arguments in (small, large)]
    with runtime.launching(numba.config.NUMBA_NUM_THREADS):
        model(*large)

    def child():
        with runtime.launching(numba.config.NUMBA_NUM_THREADS):
            model.threads = numba.config.NUMBA_NUM_THREADS
            results = [
                m(*arguments)[0].tobytes() for m in (model, copy.deepcopy(model)) for arguments in (small, large)
            ]
        again = forked(lambda: model(*small)[0].tobytes())
        if not JIT_OFF:  # a graph of very many edges
            nk.warm_up(model)
        return nk.get_num_threads(), results, again

    assert forked(child) == (1, 2 * expected, expected[0])
    assert model(*large)[0].tobytes() == expected[1]


@CAN_FORK
def test_a_fork_in_the_midst_of_runs(model):
    """All of a model's memory is in use, by threads that the child does not have, and by the one that forks."""
    graph, feat = request(30)
    (expected,), results = model(graph, feat), []
    arrived, leave = threading.Semaphore(0), threading.Event()

    def wait():
        arrived.release()
        assert leave.wait(SECONDS)

    busy = [
        threading.Thread(target=model.inference, args=(graph, Rows(feat, wait)), daemon=True)
        for _ in range(cpus.available_cpus())
    ]
    for thread in busy:
        thread.start()
    for _ in busy:
        assert arrived.acquire(timeout=SECONDS)
    twin = copy.deepcopy(model)
    twin.inference(graph, Rows(feat, lambda: results.append(forked(lambda: model(graph, feat)[0]))))
    leave.set()
    for thread in busy:
        thread.join(SECONDS)
    assert len(results) == 1 and np.array_equal(results[0], expected)


@CAN_FORK
def test_a_fork_waits_until_nothing_compiles(model):
    graph, feat = request(30)
    (expected,), held, done = model(graph, feat), threading.Event(), []

    def compile_for_long():
        with global_compiler_lock:
            held.set()
            threading.Event().wait(0.2)
            done.append(True)

    thread = threading.Thread(target=compile_for_long)
    thread.start()
    assert held.wait(SECONDS)
    result, finished = forked(lambda: (copy.deepcopy(model)(graph, feat)[0], len(done)))
    thread.join()
    assert finished == 1 and np.array_equal(result, expected)
