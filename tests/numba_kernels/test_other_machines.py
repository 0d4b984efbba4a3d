"""Products written for other machines: run under emulation where that is at hand, else their code is read."""

import functools
import re
import shutil
import subprocess

import numpy as np
import pytest
from llvmlite import binding, ir

from numba_kernels.kernels.product import tile_weight
from numba_kernels.simd.products import write_product
from numba_kernels.simd.vectors import I8, I32, I64

from .plans import JIT_OFF

COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
MACHINES = {
    "i8mm": ("aarch64-linux-gnu", "+neon,+dotprod,+i8mm"),
    "dotprod": ("aarch64-linux-gnu", "+neon,+dotprod"),
    "generic": ("aarch64-linux-gnu", "+neon"),
    "avxvnni": ("x86_64-linux-gnu", "+avx2,+avxvnni"),
    "avx512vnni": ("x86_64-linux-gnu", "+avx512f,+avx512bw,+avx512vnni"),
}
ROWS, GROUPS = 4, 9
# Multiplies what comes on standard input, of the sizes in its head.
PROGRAM = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
void multiply(uint8_t *, int64_t, int8_t *, int64_t, int64_t, int32_t *, int64_t);
int main(void) {
    int64_t sizes[4];
    fread(sizes, 8, 4, stdin);
    int64_t room = sizes[1] * 4, weights = sizes[1] * 64 * sizes[2];
    uint8_t *x = malloc(sizes[0] * room);
    int8_t *w = malloc(weights);
    int32_t *totals = malloc(sizes[0] * sizes[2] * 64);
    fread(x, 1, sizes[0] * room, stdin);
    fread(w, 1, weights, stdin);
    multiply(x, room, w, sizes[1], sizes[3], totals, sizes[2] * 16);
    fwrite(totals, 4, sizes[0] * sizes[2] * 16, stdout);
    return 0;
}
"""


@functools.cache
def machine(dot):
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    triple, features = MACHINES[dot]
    return binding.Target.from_triple(triple).create_target_machine(features=features, opt=3, reloc="pic")


def module_of(dot, blocks, words):
    """The product as a C function, for one machine."""
    module = ir.Module()
    module.triple = MACHINES[dot][0]
    byte, number = I8.as_pointer(), I32.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, I64, byte, I64, I64, number, I64])
    function = ir.Function(module, kind, "multiply")
    builder = ir.IRBuilder(function.append_basic_block())
    write_product(builder, ROWS, blocks, words, dot, function.args)
    builder.ret_void()
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    options = binding.create_pipeline_tuning_options(speed_level=3)
    passes = binding.create_pass_builder(machine(dot), options)
    passes.getModulePassManager().run(parsed, passes)
    return parsed


def extreme_operands(dot, words):
    rng = np.random.default_rng(0)
    most = 127 if dot == "dotprod" and not words else 255
    x = rng.choice([0, 1, most // 2, most], (ROWS, 36)).astype(np.uint8)
    w = rng.choice([-128, -1, 0, 127], (36, 32)).astype(np.int8)
    x[0], w[:, 0], w[:, 1], w[:, 17] = most, -128, 127, -128
    return x, w


@pytest.mark.skipif(JIT_OFF, reason="there is no machine code")
@pytest.mark.skipif(not (COMPILER and EMULATOR), reason="needs aarch64-linux-gnu-gcc and qemu-aarch64")
@pytest.mark.parametrize(("dot", "words"), [("i8mm", False), ("dotprod", False), ("dotprod", True), ("generic", True)])
def test_products_are_exact_on_an_emulated_arm(dot, words, tmp_path):
    (tmp_path / "main.c").write_text(PROGRAM)
    (tmp_path / "multiply.o").write_bytes(machine(dot).emit_object(module_of(dot, 2, words)))
    command = [COMPILER, "-O1", "-static", "-w", "main.c", "multiply.o", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    x, w = extreme_operands(dot, words)
    tiles = tile_weight(w, "words" if words else "bytes")
    sizes = np.array([ROWS, tiles.shape[1], 2, 1], np.int64)
    given = b"".join(part.tobytes() for part in (sizes, x.astype(np.uint16) if words else x, tiles))
    done = subprocess.run([EMULATOR, "-cpu", "max", "main"], cwd=tmp_path, input=given, capture_output=True, check=True)
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.int32).reshape(ROWS, 32), x.astype(np.int32) @ w)


@pytest.mark.skipif(JIT_OFF, reason="there is no machine code")
@pytest.mark.parametrize(
    ("dot", "words", "instruction", "registers"),
    [
        ("i8mm", False, r"usdot\s+v\d+\.4s, v\d+\.16b, v\d+\.16b", 16),
        ("dotprod", False, r"\bsdot\s+v\d+\.4s, v\d+\.16b, v\d+\.16b", 16),
        ("avxvnni", False, r"\{vex\}\s+vpdpbusd\s.*%ymm", 8),
        ("avx512vnni", False, r"vpdpbusd\s.*%zmm", 4),
    ],
)
def test_a_step_is_as_many_instructions_as_registers(dot, words, instruction, registers):
    """For a block of sixteen columns."""
    assembly = machine(dot).emit_assembly(module_of(dot, 1, words))
    found = re.findall(instruction, assembly)
    assert found and len(found) % registers == 0, assembly
