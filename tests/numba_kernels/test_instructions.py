"""Instructions: their fields, their machine code, their variants, their registry."""

import re
from typing import NamedTuple

import numpy as np
import pytest

from numba_kernels import Graph, PlanError, simd
from numba_kernels.cache import KernelCache
from numba_kernels.jit import launcher
from numba_kernels.kernels.fields import Matrix
from numba_kernels.kernels.instruction import INSTRUCTIONS, flatten, leaves, reader, to_bits
from numba_kernels.kernels.term import Term
from numba_kernels.plan.ops import OPERATIONS, Operation

from .plans import JIT_OFF, PlanBuilder, draw_graph, operations, static


class Fields(NamedTuple):
    number: float
    matrix: Matrix
    last: int
    half: float


read = reader(Fields)


@launcher
def sum_fields(at):
    f = read(at)
    return f.number + f.matrix.address + 10 * f.matrix.stride + 100 * f.matrix.flag + 1000 * f.last + f.half


def test_fields_are_laid_out_and_read_by_their_types_whatever_numbers_come():
    fields = Fields(1, Matrix(np.int32(2), True, 3, 0), np.float64(4.0), np.float32(0.5))
    memory = np.array([to_bits(kind, number) for kind, number in zip(leaves(Fields), flatten(fields))], np.int64)
    assert memory[1:6].tolist() == [2, 1, 3, 0, 4] and memory.view(np.float64)[[0, 6]].tolist() == [1, 0.5]
    assert sum_fields(memory.ctypes.data) == 1 + 2 + 10 + 300 + 4000 + 0.5


def test_a_whole_number_in_a_field_of_floats_is_that_number():
    memory = [to_bits(kind, number) for kind, number in zip(leaves(Term), Term(0, 0, 1, 1, 0, 1))]
    assert np.array(memory).view(np.float64)[3] == 1.0


def some_variants():
    for name, instruction in sorted(INSTRUCTIONS.items()):
        chosen = instruction.variants[:: max(len(instruction.variants) // 3, 1)][:3]
        for n, variant in enumerate(chosen):
            yield pytest.param(instruction, variant, id=f"{name}{variant}", marks=[pytest.mark.slow] * (n > 0))


def calls(assembly):
    """Names of the functions that machine code calls or jumps to."""
    found = re.findall(r"\b(?:callq?|jmpq?|bl)\s+\*?([A-Za-z_]\w*)", assembly)
    return set(found) | set(re.findall(r"movabsq\s+\$([A-Za-z_]\w*)", assembly))


@pytest.fixture
def compiling(monkeypatch):
    """Nothing is loaded from the cache, which holds no assembly."""
    monkeypatch.setattr(KernelCache, "load_overload", lambda self, signature, context: None)


@pytest.mark.skipif(JIT_OFF, reason="there is no machine code")
@pytest.mark.parametrize(("instruction", "variant"), list(some_variants()))
def test_machine_code_neither_raises_nor_counts_references_nor_allocates(instruction, variant, compiling):
    code = instruction.callback(*variant)
    assert "ret" in code.machine_code()
    assert not {name for name in calls(code.machine_code()) if re.match(r"_?(NRT|Py|numba|malloc|free)", name)}


@pytest.mark.skipif(JIT_OFF, reason="there is no machine code")
def test_what_raises_would_be_found(compiling):
    from numba_kernels.kernels.instruction import Instruction

    def raising():
        def run(at, start, count, base, stride):
            for row in range(start, count, stride):  # a step of 0 raises
                simd.i64_at(at)[row] = row

        return run

    code = Instruction(Term, [()], raising).callback()
    assert {name for name in calls(code.machine_code()) if re.match(r"_?(NRT|Py|numba)", name)}


@pytest.mark.skipif(JIT_OFF, reason="nothing is compiled")
def test_a_plan_compiles_only_the_variants_it_needs():
    known, compiled = INSTRUCTIONS["gather"], []
    original = known.callback
    known.callback = lambda *variant: compiled.append(variant) or original(*variant)
    known.address.cache_clear()
    try:
        rng = np.random.default_rng(0)
        b = PlanBuilder()
        model = b.model(
            ["graph", "features"], b.add("aggregate", 0, b.quantize(1, static(2, 70, rng, False), 70), None, None)
        )
        model(draw_graph(rng, 9, 9, 30), np.ones((9, 70), np.float32))
    finally:
        known.callback = original
    assert compiled == [(2, 32, False, False)] and "gather" in operations(model)


def test_every_operation_states_its_check_and_its_reference():
    for name, operation in OPERATIONS.items():
        assert operation.name == name and operation.__doc__
        for part in ("check", "reference"):
            assert getattr(type(operation), part) is not getattr(Operation, part), (name, part)


def test_an_operation_that_is_not_registered_is_refused():
    b = PlanBuilder()
    h = b.add("relu", 0)
    b.ops[0]["op"] = "unheard of"
    with pytest.raises(PlanError, match="unknown operation 'unheard of'"):
        b.model(["features"], h)


def aggregating(weighted=False):
    rng = np.random.default_rng(0)
    b = PlanBuilder()
    codes = b.quantize(1, static(2, 20, rng, False), 20)
    h = b.add("aggregate", 0, codes, 2 if weighted else None, None)
    return b.model(["graph", "features", *["edge_weight"] * weighted], h)


def test_graphs_alternate_on_one_program():
    rng = np.random.default_rng(0)
    model = aggregating()
    for rows in (9, 30, 9, 200, 30):
        model(draw_graph(rng, rows, rows, 5 * rows), rng.standard_normal((rows, 20)).astype(np.float32))
    assert len(model._executor._programs) == 1
    model(draw_graph(rng, 40, 12, 50), rng.standard_normal((40, 20)).astype(np.float32))  # two sets of nodes
    assert len(model._executor._programs) == 2


def test_edge_weights_make_no_new_program():
    rng = np.random.default_rng(0)
    model = aggregating(weighted=True)
    graph, feat = draw_graph(rng, 30, 30, 90), rng.standard_normal((30, 20)).astype(np.float32)
    outputs = [model(graph, feat, rng.integers(-9, 9, 90).astype(np.int8))[0] for _ in range(3)]
    assert len(model._executor._programs) == 1 and not np.array_equal(*outputs[:2])
    model(graph, feat, rng.random(90))
    assert len(model._executor._programs) == 2


def test_programs_kept_are_bounded():
    rng = np.random.default_rng(0)
    b = PlanBuilder()
    model = b.model(["graph", "graph", "features"], b.add("degree", b.add("relu", 2), 0, side="in", power=-1, plus=0))
    feat = np.ones((30, 4), np.float32)
    for num_src in range(40, 70):
        for edges in (num_src, num_src + 1, 30, 31):
            model(draw_graph(rng, num_src, 30, edges), Graph([0, 1], [0]), feat)
    assert len(model._executor._programs) <= 16
