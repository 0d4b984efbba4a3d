"""On which threads kernels are launched: how many a run may have, several runs side by side, and forked processes.

A run belongs to the thread that begins it, and what it writes to is its own, so that runs of several threads go side by
side. Only loops in parallel are launched on Numba's threads; a run that is not alone gets a share of the CPUs, and one
that cannot have more than one thread runs on its own. A forked process has none of its parent's threads: there every
run does.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
import weakref

import numba
from numba.core.compiler_lock import global_compiler_lock

from ..given import whole_number
from .cpus import available_cpus


class _Process:
    """What is known of the threads of this process.

    Attributes
    ----------
    is_forked : bool
        Whether it is a copy of a process that had loaded the kernels.
    first_thread : int or None
        The thread that was copied with it.
    inside : set of int
        Threads that are in a run.
    launching : threading.Lock
        Held while Numba's threads are in use, where they serve one launch at a time.
    """

    def __init__(self, is_forked: bool):
        self.is_forked, self.first_thread = is_forked, threading.get_ident() if is_forked else None
        self.inside: set[int] = set()
        self.launching = threading.Lock()


_process = _Process(is_forked=False)
_renewed: weakref.WeakSet = weakref.WeakSet()


def renew_after_fork(held) -> None:
    """Let ``held.renew()`` be called in forked processes, as long as ``held`` lives: a lock may be taken there."""
    _renewed.add(held)


def _after_fork():
    global _process
    _process = _Process(is_forked=True)
    for held in list(_renewed):
        held.renew()
    global_compiler_lock.release()


if hasattr(os, "register_at_fork"):
    # A process that is forked while another thread compiles would find the compiler locked, in the midst of something.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=_after_fork,
    )


def get_num_threads() -> int:
    """Threads kernels run on.

    Returns
    -------
    int
        Numba's number for this thread, and unless it was set, no more than available CPUs.
    """
    if _process.is_forked:
        return 1
    most, default = numba.config.NUMBA_NUM_THREADS, numba.config.NUMBA_DEFAULT_NUM_THREADS
    threads = numba.get_num_threads() if _has_started() else most
    is_set = threads != default or "NUMBA_NUM_THREADS" in os.environ
    return threads if is_set else min(threads, available_cpus())


def _has_started():
    """Whether Numba's threads have; asking for their number starts them."""
    try:
        return bool(numba.threading_layer())
    except ValueError:
        return False


def start_threads() -> bool:
    """Start Numba's threads, before anything parallel is compiled or loaded; not in a forked process: False.

    They are started from a thread of its own: Numba's OpenMP layer sets the OpenMP thread count of the thread that
    starts it; torch and DGL would take that for theirs.
    """
    if not _process.is_forked and not _has_started():
        starter = threading.Thread(target=numba.get_num_threads)
        starter.start()
        starter.join()
    return not _process.is_forked


def checked(threads: int | None) -> int:
    """A number of threads to run on, by default :func:`get_num_threads`; 1 in a forked process.

    Raises
    ------
    ValueError
        For what is no whole number of threads, or more than Numba was started with.
    """
    if threads is not None:
        most = numba.config.NUMBA_NUM_THREADS
        threads = whole_number(threads, "threads, of which there are NUMBA_NUM_THREADS,", 1, most)
    return get_num_threads() if threads is None or _process.is_forked else threads


@contextlib.contextmanager
def running():
    """Be in a run, which belongs to this thread.

    Raises
    ------
    RuntimeError
        When this thread is in one already.
    """
    inside, thread = _process.inside, threading.get_ident()
    if thread in inside:
        raise RuntimeError(
            "this thread is in the midst of a run: a signal handler, or features that are computed as they are read, "
            "cannot begin another; note what is to be done and run it afterwards, or run it in another thread."
        )
    inside.add(thread)
    try:
        yield
    finally:
        inside.discard(thread)


def share(threads: int) -> int:
    """Of as many threads as a run asks for those that it gets: all if it is alone, else its part of the CPUs."""
    runs = len(_process.inside)
    return threads if runs < 2 else min(threads, max(available_cpus() // runs, 1))


@contextlib.contextmanager
def sharing(threads: int):
    """Have the :func:`share` of a run for launches in parallel; yields how many threads that is.

    It is 1, and nothing may be launched in parallel, where Numba's threads serve one launch at a time and are taken.
    """
    threads, process = share(threads), _process
    if threads == 1:
        yield 1
        return
    start_threads()
    is_alone = numba.threading_layer() == "workqueue"  # aborts on launches of several threads
    if is_alone and not process.launching.acquire(blocking=False):
        yield 1
        return
    try:
        with launching(threads):
            yield threads
    finally:
        if is_alone:
            process.launching.release()


@contextlib.contextmanager
def launching(threads: int | None = None):
    """Let kernels that this thread launches run on as many threads; Numba's number for it is restored on leaving.

    Parameters
    ----------
    threads : int, optional
        Default: :func:`get_num_threads`.

    Raises
    ------
    ValueError
        For a count Numba was not started with.
    """
    threads = checked(threads)
    if not start_threads():
        yield
        return
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def with_whole_openmp(function, *args, **kwargs):
    """``function(*args, **kwargs)``, on another thread where this one's OpenMP threads did not survive a fork.

    GNU OpenMP, which torch and DGL compute with, waits for them for ever; on a new thread it starts new ones.
    """
    if threading.get_ident() != _process.first_thread:
        return function(*args, **kwargs)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args, **kwargs).result()
