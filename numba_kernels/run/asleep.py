"""Stages of propagation in which nodes may sleep: where nothing arrived and nothing was sent, nothing changes.

Step after step, delta-coded propagation adds what is received to what was, makes a value of that and of what stays, and
sends the value's change. Where none of a node's in-neighbours, nor the node itself, sent anything in the step before,
what it has received is what it was, so that its value and the value's change are what they were: below the thresholds.
This holds to the bit where both steps make the value by the same operations of the same numbers.
"""

from __future__ import annotations

from typing import NamedTuple

from ..plan.resolve import whole


class Asleep(NamedTuple):
    """What a stage's rows may sleep by."""

    graph: int
    arrived: object  # changes that are summed here
    sent: object  # changes that are made here
    continued: dict  # value → the one that it continues, in the same memory


def sleeping(schedule) -> dict:
    """Stages in which rows may sleep, by number."""
    makers = {value: op for stage in schedule.stages for op in stage.ops for value in op.writes}
    found = {number: _sleeps(schedule, number, stage, makers) for number, stage in enumerate(schedule.stages)}
    return {number: asleep for number, asleep in found.items() if asleep is not None}


def _sleeps(schedule, number, stage, makers):
    deltas = [op for op in stage.ops if op.name == "delta"]
    if len(deltas) != 1:
        return None
    (delta,), before = deltas, makers.get(deltas[0].reads[1])
    if before is None or not _are_alike(delta, before):
        return None
    arrived = before.writes[0]
    sums = [op for op in stage.ops if op.name == "aggregate"]
    if len(sums) != 1 or sums[0].reads[0] != arrived or sums[0].rows != before.rows:
        return None
    received = [op for op in stage.ops if op.name == "combine" and sums[0].writes[0] in op.reads]
    if len(received) != 1 or not _adds(received[0], sums[0].writes[0]):
        return None
    was = received[0].reads[0]
    continued = {received[0].writes[0]: was, delta.writes[1]: delta.reads[1]}
    makes = {value for op in stage.ops for value in op.writes if not schedule.stays(value)}
    alone = all(_continues(schedule, number, new, old) for new, old in continued.items())
    if not makes <= {*continued, delta.writes[0]} or not alone or schedule.made_in[was] != schedule.made_in[arrived]:
        return None
    here = _expression(delta.reads[0], received[0].writes[0], makers)
    if here != _expression(before.reads[0], was, makers) or _norms(delta) != _norms(before):
        return None
    return Asleep(sums[0].spec["in"][0], arrived, delta.writes[0], continued)


def _continues(schedule, number, new, old):
    """Whether ``new`` can stand where ``old`` does, which one operation of the stage reads, and no later one."""
    here = [op for op in schedule.readers[old] if op in schedule.stages[number].ops]
    is_last = schedule.read_in[old] <= {schedule.made_in[old], number}
    return len(here) == 1 and is_last and schedule.kept.isdisjoint((new, old))


def _are_alike(delta, before):
    """Whether both leave the same changes unsent."""
    zones = delta.spec.get("dead_zone"), before.spec.get("dead_zone")
    return before.name == "delta" and None not in zones and zones[0] == zones[1] and delta.rows == before.rows


def _adds(op, total):
    return len(op.reads) == 2 and op.reads[1] == total and op.factors == [None, None] and all(
        coefficient == 1 for coefficient in op.spec["coefficients"]
    )  # fmt: skip


def _expression(value, received, makers):
    """What makes ``value`` of ``received`` and of others, which are known by their numbers."""
    maker = makers.get(whole(value))
    if value == received:
        return "received"
    if maker is None or maker.operation.gathers or value != whole(value) or len(maker.writes) != 1:
        return value
    reads = [_expression(read, received, makers) for read in maker.reads]
    if "received" not in str(reads):
        return value
    return maker.name, str(_bare(maker.spec)), reads, _norms(maker)


def _norms(op):
    """The degree norms of what an operation reads."""
    return [factor and str(_bare(factor.spec)) for factor in op.factors]


def _bare(spec):
    """What is said of an operation beside the values that it reads and writes; of a degree norm also its graph."""
    if not isinstance(spec, dict):
        return spec
    graph = {"graph": spec["in"][1:]} if spec.get("op") == "degree" else {}
    return {**{key: _bare(part) for key, part in spec.items() if key not in ("in", "out")}, **graph}
