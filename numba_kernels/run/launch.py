"""The loops that execute a program: stage by stage, over blocks of rows, tile by tile, instruction by instruction."""

from __future__ import annotations

import numba

from .. import simd
from ..jit import kernel, launcher
from ..kernels.instruction import HEADER_BYTES, call
from .program import STAGE_NUMBERS
from .runtime import start_threads


@kernel
def run_block(stage, block, low, high, base):
    """The rows of one block of a stage that are from ``low`` to below ``high``; ``stage`` points to its numbers."""
    first, last, bounds, rows, stride = stage[0], stage[1], simd.i64_at(stage[2]), stage[4], stage[5]
    wake, awake = stage[8], simd.i64_at(base + stage[9])
    stop = min(bounds[block + 1], high)
    for tile in range(max(bounds[block], low), stop, rows):
        start, end = tile, min(tile + rows, stop)
        while start < end:
            count, at = end - start, first
            if wake != 0:
                call(simd.i64_at(wake)[0], wake + HEADER_BYTES, start, count, base, stride)
                start, count = awake[0], awake[1]
                if count == 0:
                    break
            while at < last:
                header = simd.i64_at(at)
                call(header[0], at + HEADER_BYTES, start, count, base, stride)
                at += header[1]
            start += count


@launcher
def run_serial(stages_at, first, last, low, high, scratch):
    """Stages ``first`` to below ``last`` of a program, on this thread.

    ``stages_at`` is the address of the stages' numbers, see :class:`numba_kernels.run.program.Program`, ``scratch`` one
    of as much memory as the largest of them asks for.
    """
    for number in range(first, last):
        stage = simd.i64_at(stages_at + 8 * STAGE_NUMBERS * number)
        for block in range(stage[3]):
            run_block(stage, block, low, high, scratch)


@launcher(parallel=True)
def run_parallel(stages_at, number, blocks, low, high, scratch, scratch_size):
    """One stage, its ``blocks`` shared among threads; each thread has ``scratch_size`` bytes from ``scratch`` on."""
    for block in numba.prange(blocks):
        stage = simd.i64_at(stages_at + 8 * STAGE_NUMBERS * number)
        run_block(stage, block, low, high, scratch + numba.get_thread_id() * scratch_size)


def compile_loops() -> None:
    """Compile, or load, the loops over stages that this process may use."""
    run_serial(0, 0, 0, 0, 0, 0)
    if start_threads():
        run_parallel(0, 0, 0, 0, 0, 0, 0)
