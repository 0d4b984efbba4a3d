"""Work shared among the threads that torch computes with.

These wait for their next work busily, for milliseconds: threads of our own beside them would have half a CPU each.
Where torch's OpenMP has a function that starts work on its threads, as GNU's and LLVM's do, they take ours too.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

_FIRST_PROCESS, _working = os.getpid(), threading.local()
_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def shared(count: int, function: Callable[[int], Any]) -> list:
    """``[function(0), …, function(count − 1)]``, on as many threads as torch has.

    Each takes the next number when it is done with one. Where such work calls torch, or this, that runs on its thread
    alone. What is raised is raised here, when all threads have ended.
    """
    threads = min(count, torch.get_num_threads())
    if threads <= 1 or getattr(_working, "is_so", False):
        return [function(number) for number in range(count)]
    numbers, results, failures = iter(range(count)), [None] * count, []
    takes_gradients = torch.is_grad_enabled()

    def work(_=None):
        _working.is_so = True
        try:
            with torch.set_grad_enabled(takes_gradients):
                for number in numbers:
                    results[number] = function(number)
        except BaseException as error:
            failures.append(error)
        finally:
            _working.is_so = False

    start = _openmp() if os.getpid() == _FIRST_PROCESS else None  # a forked process has none of its parent's threads
    if start is not None:
        start(_Callback(work), None, threads, 0)
    else:
        others = [_pool(os.getpid(), threads - 1).submit(work) for _ in range(threads - 1)]
        work()
        for other in others:
            other.result()
    if failures:
        raise failures[0]
    return results


@functools.cache
def _openmp() -> Any:
    """What starts work on the threads of torch's OpenMP; None where there is no such function."""
    try:
        start = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError, TypeError):
        return None
    start.argtypes, start.restype = [_Callback, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return start


@functools.lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process."""
    return ThreadPoolExecutor(threads, "dgl_lowbit")
