"""From resolved operations to stages: which of them run together, tile by tile, in one launch.

A sum over neighbours needs its codes complete and so begins a new stage; everything else works row by row and joins the
stage of what it reads, as long as rows are those of the same nodes. Codes are made as soon as possible; floats as late,
in the stage that needs them, so that what crosses from stage to stage are codes wherever the model allows.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from ..arrays import CHECKS
from ..layout import row_bytes, storage_bits
from .resolve import Op, whole


@dataclass(eq=False)
class Stage:
    """Operations of one launch, in order, on ``rows`` rows; of none, and between launches, where ``rows`` is None."""

    rows: int | None
    ops: list = field(default_factory=list)


@dataclass
class Schedule:
    """Stages, and what is known of the values between them."""

    stages: list
    outputs: list
    kept: set  # values that outputs are, or the first rows of
    columns: dict
    rows: dict
    made_in: dict  # value → number of the stage, −1 for arguments
    read_in: dict  # value → numbers of the stages
    readers: dict  # value → operations

    def stays(self, value) -> bool:
        """Whether ``value`` is needed in its own stage only."""
        return value not in self.kept and self.read_in[value] <= {self.made_in[value]}

    def rows_beyond(self, value) -> int:
        """How many rows of ``value`` other stages read: all, or the first ones, those of a block's destinations."""
        own = self.stages[self.made_in[value]].ops
        read = {name for op in self.readers[value] if op not in own for name in op.reads if whole(name) == value}
        return self.rows[read.pop() if len(read) == 1 and value not in self.kept else value]


def _readers(ops):
    """Operations by what they read, the first rows of a value also by what they are part of."""
    readers = defaultdict(list)
    for op in ops:
        for value in op.reads:
            if value is not None:
                for name in {value, whole(value)}:
                    readers[name].append(op)
    return readers


def _takes_factor(op, value):
    """Whether ``op`` can apply a degree norm itself that ``value`` is the result of, wherever it reads it."""
    if op.name == "combine":
        return all(whole(read) != value or read == value for read in op.reads)
    takes_floats = op.name in _CODED and op.spec["quantizer"].get("arithmetic") != "integer"
    return takes_floats and op.reads[0] == value


def _fold_degrees(ops, kept_values):
    """Degree norms that only feed quantisations or sums become factors of those."""
    readers, folded, kept = _readers(ops), {}, []
    for op in ops:
        out = op.writes[0]
        foldable = op.name == "degree" and out not in kept_values and readers[out]
        if foldable and all(_takes_factor(reader, out) for reader in readers[out]):
            folded[out] = op
            continue
        op.factors = [folded.get(value) for value in op.reads]
        op.reads = [value if factor is None else factor.reads[0] for value, factor in zip(op.reads, op.factors)]
        kept.append(op)
    return kept


_CODED = ("quantize", "delta")
_FINISH = ("degree", "scale", "bias", "relu")


def _merge_finishes(ops, kept_values):
    """Neighbouring degree norm, scale, bias and ReLU become one operation, ``finish``, in this order."""
    readers, merged, kept = _readers(ops), {}, []
    for op in ops:
        if op.name not in _FINISH:
            kept.append(op)
            continue
        before = merged.get(op.reads[0])
        alone = before is not None and len(readers[op.reads[0]]) == 1 and op.reads[0] not in kept_values
        if alone and _FINISH.index(op.name) > _FINISH.index(before.spec["last"]):
            before.spec.update({op.name: op.spec, "last": op.name})
            del merged[op.reads[0]]
            before.writes, merged[op.writes[0]] = op.writes, before
        else:
            spec = {op.name: op.spec, "last": op.name}
            op = Op("finish", op.reads, op.writes, op.rows, op.columns, spec, [op if op.name == "degree" else None])
            merged[op.writes[0]] = op
            kept.append(op)
    return kept


def _finish_products(ops, kept_values):
    """What finishes a product and nothing else joins it, so that its numbers are written once."""
    readers, products, kept = _readers(ops), {}, []
    for op in ops:
        product = products.get(op.reads[0]) if op.name == "finish" else None
        if product is not None and len(readers[op.reads[0]]) == 1 and op.reads[0] not in kept_values:
            product.spec, product.factors = {**product.spec, "finish": op.spec}, op.factors
            product.writes = op.writes
            continue
        if op.name == "linear" and "unit" not in op.spec:
            products[op.writes[0]] = op
        kept.append(op)
    return kept


def schedule(ops: list[Op], outputs: list, columns: dict, rows: dict) -> Schedule:
    """Group resolved operations into stages."""
    kept = set(map(whole, outputs))
    ops = _finish_products(_merge_finishes(_fold_degrees(ops, kept), kept), kept)
    return _Scheduler(ops, outputs, columns, rows).result()


class _Scheduler:
    def __init__(self, ops, outputs, columns, rows):
        self.ops, self.outputs, self.kept, self.columns = ops, outputs, set(map(whole, outputs)), columns
        self.rows = rows
        self.maker = {value: op for op in ops for value in op.writes}
        self.stages, self.stage_of = [], {}

    def result(self):
        for op in self.ops:
            is_check = op.spec.get("function") in CHECKS  # called for what it refuses, its result is not read
            if op.name in _CODED or is_check or not self.kept.isdisjoint(op.writes) or self._narrows(op):
                self._place(op, self._earliest(op, {}))
        order = {id(op): n for n, op in enumerate(self.ops)}
        for stage in self.stages:
            stage.ops.sort(key=lambda op: order[id(op)])
        made_in, read_in, readers = defaultdict(lambda: -1), defaultdict(set), defaultdict(list)
        for number, stage in enumerate(self.stages):
            for op in stage.ops:
                made_in.update(dict.fromkeys(op.writes, number))
                for value in map(whole, op.reads):
                    if value is not None:
                        read_in[value].add(number)
                        readers[value].append(op)
        return Schedule(self.stages, self.outputs, self.kept, self.columns, self.rows, made_in, read_in, readers)

    def _narrows(self, op):
        """Whether a product's floats are smaller than the codes they are made of, so that to wait does not pay."""
        if op.name != "linear":
            return False
        maker = self.maker.get(whole(op.reads[0]))
        if maker is None:
            return False
        K, M = op.spec["weight"]["shape"]
        return row_bytes(K, storage_bits(maker.spec["quantizer"]["bits"])) > 4 * M

    def _earliest(self, op, known):
        """A number that the stage of ``op`` cannot be below; ``known`` of operations by identity.

        What must be complete before is placed in doing so.
        """
        if id(op) in self.stage_of:
            return self.stage_of[id(op)]
        if id(op) not in known:
            earliest = 0
            for position, value in enumerate(op.reads):
                maker = self.maker.get(whole(value))
                if maker is None:
                    continue
                if self._must_be_complete(op, position, maker):
                    self._place(maker, self._earliest(maker, known))
                    earliest = max(earliest, self.stage_of[id(maker)] + 1)
                else:
                    earliest = max(earliest, self._earliest(maker, known))
            known[id(op)] = earliest
        return known[id(op)]

    @staticmethod
    def _must_be_complete(op, position, maker):
        """Whether ``op`` reads rows that other tiles make: of neighbours, or of another set of nodes."""
        value = op.reads[position]
        return position in op.gathers or maker.rows != op.rows or value != whole(value)

    def _place(self, op, earliest):
        """Put ``op``, and what it needs that is in no stage yet, into the first stage of as many rows, or a new one."""
        if id(op) in self.stage_of:
            return
        number = earliest
        while number < len(self.stages) and self.stages[number].rows != op.rows:
            number += 1
        if number >= len(self.stages):
            number = len(self.stages)
            self.stages.append(Stage(op.rows))
        self.stage_of[id(op)] = number
        self.stages[number].ops.append(op)
        for value in op.reads:
            maker = self.maker.get(value)
            if maker is not None:
                self._place(maker, number)
