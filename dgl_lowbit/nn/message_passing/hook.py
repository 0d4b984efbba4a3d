"""The hook: DGL's functions over edges are replaced while a low-bit model runs, and ask the thread what to do."""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ...quant.evaluation import is_aside
from .calls import SITE_NAMES, Call, read
from .fake_quantise import FakeQuantise
from .site import Site

# What everything calls in the end, where it is looked up: module, name, kind. Other names, such as a user's
# ``from dgl.ops import gspmm``, are bound to functions that look up one of these.
_NAMES = (
    ("dgl.ops.spmm", "gspmm_internal", "spmm"),
    ("dgl.ops.spmm", "gspmm_internal_hetero", "spmm_hetero"),
    ("dgl.ops.sddmm", "gsddmm_internal", "sddmm"),
    ("dgl.ops.sddmm", "gsddmm_internal_hetero", "sddmm_hetero"),
    ("dgl.ops.edge_softmax", "edge_softmax_internal", "edge_softmax"),
    ("dgl.ops.edge_softmax", "edge_softmax_hetero_internal", "edge_softmax_hetero"),
    ("dgl.backend", "gspmm", "spmm"),
    ("dgl.backend", "gspmm_hetero", "spmm_hetero"),
    ("dgl.backend", "gsddmm", "sddmm"),
    ("dgl.backend", "gsddmm_hetero", "sddmm_hetero"),
    ("dgl.backend", "edge_softmax", "edge_softmax"),
    ("dgl.backend", "edge_softmax_hetero", "edge_softmax_hetero"),
    ("dgl.backend", "segment_reduce", "segment_reduce"),
    ("dgl.backend", "segment_mm", "segment_mm"),
    ("dgl.backend", "gather_mm", "gather_mm"),
    ("dgl.core", "invoke_udf_reduce", "udf_reduce"),
)
_DEFAULT = FakeQuantise()


class _Frame:
    """A forward being run: its module, and how many calls it has made."""

    def __init__(self, module: nn.Module):
        self.module, self.calls = module, 0


class _Thread(threading.local):
    """What a thread runs: forwards and handlers, innermost last."""

    def __init__(self):
        self.frames: list[_Frame] = []
        self.handlers: list[Any] = []


_thread = _Thread()
_lock = threading.Lock()
_installed: list[tuple[Any, str, Any, Any]] = []  # module, name, what stood there, what stands there
_users = 0


@contextmanager
def patched() -> Iterator[None]:
    """DGL's functions replaced by dispatchers, for as long as anyone, in any thread, is within.

    A dispatcher runs what it replaces in a thread without forward or handler of ours.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _install()
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _uninstall()


def _install():
    for path, name, kind in _NAMES:
        module = importlib.import_module(path)
        original = getattr(module, name)
        dispatcher = _dispatcher(kind, original)
        setattr(module, name, dispatcher)
        _installed.append((module, name, original, dispatcher))


def _uninstall():
    for module, name, original, dispatcher in _installed:
        if getattr(module, name) is dispatcher:  # else someone wrapped it, and it falls through
            setattr(module, name, original)
    _installed.clear()


@functools.lru_cache(maxsize=64)
def _dispatcher(kind, original):
    @functools.wraps(original)
    def dispatch(*args, **kwargs):
        if is_aside() or not (_thread.frames or _thread.handlers):
            return original(*args, **kwargs)
        handler = _thread.handlers[-1] if _thread.handlers else _DEFAULT
        return getattr(handler, kind)(Call(**read(kind, original, *args, **kwargs), **_place(kind)))

    return dispatch


def _place(kind):
    """Where the thread is: module, name and site of the call it makes now."""
    if not _thread.frames:
        return {}
    frame = _thread.frames[-1]
    name = f"{SITE_NAMES[kind]}_{frame.calls}"
    frame.calls += 1
    site = frame.module._modules.get(name)
    return {"module": frame.module, "name": name, "site": site if isinstance(site, Site) else None}


def current_module() -> nn.Module | None:
    """The innermost module whose forward this thread runs, of those that enter :func:`scope`."""
    return _thread.frames[-1].module if _thread.frames else None


@contextmanager
def scope(module: nn.Module) -> Iterator[None]:
    """The forward of ``module``: calls within are its own, counted from 0."""
    _thread.frames.append(_Frame(module))
    try:
        yield
    finally:
        _thread.frames.pop()


@contextmanager
def handling(handler) -> Iterator[None]:
    """``handler`` receives the calls of this thread, those of float modules too.

    It has a method for each kind of :data:`SITE_NAMES`, which is given the :class:`Call` and returns what DGL's
    function would. It may hand calls on to a :class:`FakeQuantise`.
    """
    _thread.handlers.append(handler)
    try:
        with patched():
            yield
    finally:
        _thread.handlers.pop()
