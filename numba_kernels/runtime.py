"""How kernels are compiled, cached and launched."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import sys
import threading
import time
from pathlib import Path

import numba

# One launch at a time: of Numba's threading layers, the always-available one aborts on concurrent launches.
_LAUNCH = threading.RLock()
_SECONDS_BEFORE_TELLING = 2.0


@functools.cache
def source_digest() -> str:
    """Digest of this package's sources."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def kernel(function=None, *, parallel=False, inline=False):
    """Compile ``function`` on first use and cache the machine code on disk; ``inline`` it where it is called.

    Numba renews a cached function when its own file changes, not when a helper in another file does. The cache
    is therefore stamped with the digest of all sources of the package.
    """
    if function is None:
        return functools.partial(kernel, parallel=parallel, inline=inline)
    compiled = numba.njit(
        cache=True, parallel=parallel, boundscheck=False, nogil=True, error_model="numpy", forceinline=inline
    )(function)
    with contextlib.suppress(AttributeError):  # no cache: the JIT is off
        compiled._cache._cache_file._source_stamp = source_digest()
    return compiled


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


@contextlib.contextmanager
def launching(threads: int | None = None):
    """Hold the right to launch kernels, on ``threads`` threads; the thread count is restored on leaving.

    Raises
    ------
    ValueError
        For a count Numba was not started with.
    """
    limit = numba.config.NUMBA_NUM_THREADS
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= limit):
        raise ValueError(f"threads must be between 1 and {limit} (NUMBA_NUM_THREADS), got {threads!r}.")
    with _LAUNCH:
        before = get_num_threads()
        if threads is not None:
            numba.set_num_threads(threads)
        try:
            yield
        finally:
            numba.set_num_threads(before)


@contextlib.contextmanager
def telling_when_slow(what: str):
    """Print one line to stderr if the block takes long, as it does when kernels are compiled the first time."""
    done = threading.Event()

    def tell():
        if not done.wait(_SECONDS_BEFORE_TELLING):
            print(f"numba_kernels: {what} (once per machine, kept on disk) …", file=sys.stderr, flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    start = time.perf_counter()
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
        elapsed = time.perf_counter() - start
        if elapsed > _SECONDS_BEFORE_TELLING:
            print(f"numba_kernels: ready after {elapsed:.0f} s.", file=sys.stderr, flush=True)
