"""On how many threads kernels are launched, one launch at a time."""

from __future__ import annotations

import contextlib
import functools
import threading

import numba

# Of Numba's threading layers, the always-available one aborts on concurrent launches.
_LAUNCH = threading.RLock()


def get_num_threads() -> int:
    """Threads kernels run on."""
    _start_threads()
    return numba.get_num_threads()


@functools.cache
def _start_threads():
    """Start Numba's threads from a thread of its own.

    Numba's OpenMP layer sets the OpenMP thread count of the thread that starts it; torch and DGL would take that for
    theirs.
    """
    starter = threading.Thread(target=numba.get_num_threads)
    starter.start()
    starter.join()


def checked(threads: int | None) -> int:
    """A number of threads to run on; by default as many as Numba uses.

    Raises
    ------
    ValueError
        For a count Numba was not started with.
    """
    limit = numba.config.NUMBA_NUM_THREADS
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= limit):
        raise ValueError(f"threads must be between 1 and {limit} (NUMBA_NUM_THREADS), got {threads!r}.")
    return get_num_threads() if threads is None else threads


@contextlib.contextmanager
def launching(threads: int | None = None):
    """Hold the right to launch kernels, on ``threads`` threads if given; as :func:`using_threads`."""
    with _LAUNCH, contextlib.nullcontext() if threads is None else using_threads(threads):
        yield


@contextlib.contextmanager
def using_threads(threads: int):
    """Let kernels run on as many threads; Numba's number is restored on leaving.

    Raises
    ------
    ValueError
        For a count Numba was not started with.
    """
    before = get_num_threads()
    numba.set_num_threads(checked(threads))
    try:
        yield
    finally:
        numba.set_num_threads(before)
