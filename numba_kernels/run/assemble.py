"""From a schedule to a program: every operation adds its instructions to the stage it is in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from ..plan.reach import NODES
from ..plan.resolve import whole
from ..plan.schedule import Schedule
from .asleep import sleeping
from .assembly import Assembly
from .calls import steps_of
from .places import Floats, given_codes
from .program import Program, build
from .stage import Costs, StageAssembler


@dataclass
class Assembled:
    """A program and what a run needs to know of it."""

    program: Program
    costs: list[Costs]  # a stage
    buffers: list  # (size as of Costs, bytes a row)
    checks: list[Callable]  # of a run's graphs
    outputs: dict  # value → (size, columns)
    results: list  # of outputs of the plan: value, and size where it is the first rows of it
    reads: list[set]  # a stage: values of features that it reads row by row
    read_out: list[set]  # a stage: those that it reads out
    gathers: list[dict]  # a stage: numbers of the buffers that it reads as the sources of a graph say, by graph
    checked: list  # features, and matrices that array functions make: of these runs say whether numbers are finite
    calls: dict  # number of a stage → steps of array functions that must come before it
    called_with: set  # features that array functions read
    read_by_others: list  # a stage: codes it makes of which sums read rows of in-neighbours: value, CodesAt, graph

    @property
    def floats_read(self) -> set:
        """Features that are read as numbers, not by codes that are given."""
        return set().union(self.called_with, *self.reads, *self.read_out, (value for value, _ in self.results))

    def segments(self):
        """Stages of kernels between those of array functions, as ranges; the calls that come before each."""
        starts = sorted({0, *self.calls})
        return [(self.calls.get(start, ()), start, stop) for start, stop in zip(starts, [*starts[1:], len(self.costs)])]


def assemble(schedule: Schedule, plan, kept: dict, run, needs: dict | None = None) -> Assembled:
    """The program of ``schedule`` for runs like ``run``.

    ``kept`` holds what is laid out of the plan's constants, ``needs`` how far outputs reach values of the plan.
    """
    assembly = Assembly(schedule, plan, kept, run)
    values: dict = {value: given_codes(value, codes, assembly) for value, codes in run.codes.items()}
    features = set(run.arrays)
    made = [op.writes[0] for stage in schedule.stages for op in stage.ops if op.name == "matrix"]
    checked = [*run.arrays, *made]
    assembly.fault = assembly.fault_of(len(checked))
    programs, costs, reads, read_out, gathers, calls, between = [], [], [], [], [], {}, []
    read_by_others: list[list] = []
    at_sources = _at_sources(schedule)
    for n, value in enumerate(checked):
        columns = run.arrays[value].shape[1] if value in features else schedule.columns[value]
        address = assembly.reference(("in", value), lambda run, value=value: run.address(value))
        values[value] = Floats(address, columns, assembly.fault_of(n), run.read.get(value))
    asleep = sleeping(schedule)
    for number, stage in enumerate(schedule.stages):
        if stage.rows is None:
            between.append(number)
            continue
        if between:
            calls[len(programs)], between = steps_of(schedule, between, values, assembly), []
        assembler = StageAssembler(assembly, stage, values, run.sparse)
        assembler.assemble(asleep.get(number))
        writes = {value[0] if isinstance(value, tuple) else value for op in stage.ops for value in op.writes}
        needed = tuple((needs or {}).get(value, (NODES, 0)) for value in writes)
        for program, cost in (*assembler.before, (assembler.program, assembler.costs)):
            cost.needs = needed
            programs.append(program)
            gathers.append(assembler.gathers if program is assembler.program else {})
            costs.append(cost)
            reads.append({value for op in stage.ops for value in map(whole, op.reads)} & features)
            read_out.append({op.reads[n] for op in stage.ops for n in op.gathers} & features)
            read_by_others.append([])
        made_here = [op.writes[0] for op in stage.ops if op.writes[0] in at_sources]
        read_by_others[-1] += [(value, values[value], at_sources[value]) for value in made_here]
        for value in [value for value in values if max(schedule.read_in[value], default=-1) <= number]:
            if value not in checked:
                assembly.give_back(value)
                del values[value]
    if between:
        calls[len(programs)] = steps_of(schedule, between, values, assembly)
    program = build(programs, assembly.references, assembly.alive)
    results = [(whole(value), None if whole(value) == value else assembly.size_of(schedule.rows[value]))
               for value in schedule.outputs]  # fmt: skip
    shared = assembly.buffers, assembly.checks, assembly.outputs
    called_with = {value for stage in schedule.stages if stage.rows is None
                   for op in stage.ops for value in map(whole, op.reads)} & features  # fmt: skip
    of_stages = reads, read_out, gathers
    return Assembled(program, costs, *shared, results, *of_stages, checked, calls, called_with, read_by_others)


def _at_sources(schedule: Schedule) -> dict:
    """Codes of which rows of in-neighbours are read, and in what graph of the plan; of stacks the parts they are."""
    ops = [op for stage in schedule.stages for op in stage.ops]
    found = {value: op.spec["in"][0] for op in ops for value in op.read_at_sources}
    for op in ops:
        if op.name == "stack" and op.writes[0] in found:
            found.update(dict.fromkeys(op.reads, found.pop(op.writes[0])))
    return found
