"""How kernels are compiled, and their machine code kept."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import sys
import threading
import time
from pathlib import Path

import numba

_SECONDS_BEFORE_TELLING = 2.0


@functools.cache
def source_digest() -> str:
    """Digest of this package's sources."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
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
