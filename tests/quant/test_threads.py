"""Work shared among torch's threads."""

import os
import threading
import time

import pytest
import torch

from dgl_lowbit.quant import threads
from dgl_lowbit.quant.threads import shared


@pytest.fixture(params=["openmp", "pool"])
def several(request, monkeypatch):
    """Three threads, of torch's OpenMP or of a pool."""
    if request.param == "pool":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    elif threads._openmp() is None:
        pytest.skip("no OpenMP that tells how work is started on its threads")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_all_of_it_is_done_on_several_threads(several):
    together = threading.Barrier(3, timeout=30)

    def work(number):
        if number < 3:
            together.wait()  # or it would never end on fewer
        return number, threading.get_ident()

    results = shared(10, work)
    assert [number for number, _ in results] == [*range(10)]
    assert len({ident for _, ident in results}) == 3
    assert shared(0, work) == []


@pytest.mark.parametrize("takes", [False, True])
def test_gradients_are_taken_as_by_the_caller(several, takes):
    with torch.set_grad_enabled(takes):
        assert shared(6, lambda _: torch.is_grad_enabled()) == [takes] * 6


def test_what_is_shared_within_stays_on_its_thread(several):
    def work(_):
        return {threading.get_ident(), *shared(4, lambda _: threading.get_ident())}

    assert all(len(idents) == 1 for idents in shared(6, work))
    assert shared(3, lambda number: number) == [0, 1, 2]  # and outside of it, as before


def test_what_is_raised_is_raised_when_all_have_ended(several):
    begun, ended = [], []

    def work(number):
        begun.append(number)
        if number == 1:
            raise RuntimeError("one of them")
        time.sleep(0.01)
        ended.append(number)

    with pytest.raises(RuntimeError, match="one of them"):
        shared(5, work)
    assert sorted(ended) == sorted({*begun} - {1}) and shared(2, lambda number: number) == [0, 1]


def test_a_forked_process_has_threads_of_its_own(several):
    shared(4, lambda _: torch.ones(3).sum())
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, bytes(shared(4, lambda number: number)))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == bytes([0, 1, 2, 3])


def test_one_thread_is_the_callers():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert set(shared(3, lambda _: threading.get_ident())) == {threading.get_ident()}
    finally:
        torch.set_num_threads(before)
