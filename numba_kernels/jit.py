"""How kernels are compiled: helpers into their callers, instructions by themselves, each when it is first needed."""

from __future__ import annotations

import functools
import sys
import time
from typing import Any

import numba
from numba.core.ccallback import CFunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

from .cache import KernelCache

SECONDS_BEFORE_TELLING = 2.0
_OPTIONS = {"boundscheck": False, "error_model": "numpy"}
# Of what Python never calls: no reference counts, no wrappers.
_INNER = {"_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "no_rewrites": True}
_seconds_compiled = 0.0


class _Part(JITCodeLibrary):
    """The code of a function that is only inlined: neither optimised by itself nor made machine code.

    Both happen to what it is inlined into, and take a fifth of all compilation where they happen to the parts too.
    """

    @property
    def codegen(self):
        return self

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalized = True

    def get_pointer_to_function(self, name):
        return 0  # as of a function that Python cannot call

    def set_env(self, name, env):
        pass  # has no address, and serves what raises


class _Inlined(Compiler):
    def define_pipelines(self):
        self.state.library = _Part(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        return super().define_pipelines()


def kernel(function=None, *, reassociate: bool = False):
    """Decorator: compile ``function`` into the kernels that call it. Python cannot call it.

    With ``reassociate`` its sums may be taken in another order.
    """
    if function is None:
        return functools.partial(kernel, reassociate=reassociate)
    fastmath = {"reassoc"} if reassociate else False
    return numba.njit(forceinline=True, pipeline_class=_Inlined, fastmath=fastmath, **_INNER, **_OPTIONS)(function)


def launcher(function=None, *, parallel: bool = False):
    """Compile ``function``, which Python calls, on first use, and keep its machine code on disk."""
    if function is None:
        return functools.partial(launcher, parallel=parallel)
    compiled = numba.njit(nogil=True, parallel=parallel, **_OPTIONS)(function)
    if not numba.config.DISABLE_JIT:
        compiled._cache = KernelCache(f"{function.__module__.rpartition('.')[2]}.{function.__name__}")
        compiled._compiler.compile = _told(compiled._compiler.compile)
    return compiled


class Callback(CFunc):
    """A C function of int64 arguments that returns nothing, compiled at once or loaded from disk."""

    _compiler: Any
    _library: Any

    def __init__(self, function, arguments: int, name: str):
        signature = (numba.types.int64,) * arguments, numba.types.void
        super().__init__(
            function,
            signature,
            locals={},
            options={"forceinline": True, "_nrt": False, "no_rewrites": True, **_OPTIONS},
        )
        self._cache = KernelCache(name)
        self._compiler.compile = _told(self._compiler.compile)
        self.compile()

    def machine_code(self) -> str:
        """The assembly of a function that was compiled in this process."""
        return self._library.get_asm_str()


def _told(compile_function):
    """``compile_function``, which after some seconds of compilation in this process says what takes so long."""

    def compiling(*args):
        global _seconds_compiled
        start, before = time.perf_counter(), _seconds_compiled
        try:
            return compile_function(*args)
        finally:
            _seconds_compiled += time.perf_counter() - start
            if before < SECONDS_BEFORE_TELLING <= _seconds_compiled:
                print(
                    "numba_kernels: compiling kernels (once per machine, kept on disk) …", file=sys.stderr, flush=True
                )

    return compiling
