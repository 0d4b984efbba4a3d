"""What an instruction is: a function on a tile of rows, its fields, and its address.

A program is memory: instruction after instruction, each the address of its function, its length in bytes, and its
fields, 8 bytes each. The function gets the address of the fields and what it is to work on::

    function(at, start, count, base, stride)

``count`` rows from row ``start`` on; ``base`` is the address of the scratch, which holds the slots, float32 rows that
are ``stride`` floats apart. A function never raises and never allocates: it runs as a C callback.

An instruction is written once and compiled for what it is asked for, its *variant*: a width of codes, a kind of
weights::

    class Term(NamedTuple):            # its fields: int (also addresses), float, or tuples of such
        src: int
        factor: float

    read = reader(Term)

    @instruction(Term)
    def term(is_first):                # the variant
        def run(at, start, count, base, stride):
            f = read(at)
            …
        return run

``term.address(True)`` compiles that variant, unless this process or the disk cache has it.
"""

from __future__ import annotations

import functools
import struct
import typing

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .. import simd
from ..jit import Callback

HEADER_BYTES = 16
_python_functions: list = []


def leaves(fields: type) -> list[type]:
    """The types, int or float, of all fields of a named tuple class, those of tuples in it one after another."""
    found = []
    for kind in typing.get_type_hints(fields).values():
        found += [kind] if kind in (int, float) else leaves(kind)
    return found


def flatten(fields: typing.NamedTuple) -> list:
    """The numbers of a named tuple of fields, in the order of :func:`leaves`."""
    numbers = []
    for value in fields:
        numbers += flatten(value) if isinstance(value, tuple) and hasattr(value, "_fields") else [value]
    return numbers


def to_bits(kind: type, number) -> int:
    """A field as an int64: floats by their bits, whatever type the number has."""
    return struct.unpack("<q", struct.pack("<d", number))[0] if kind is float else int(number)


def reader(fields: type):
    """A function of kernels that reads ``fields`` from an address."""
    if numba.config.DISABLE_JIT:
        return lambda at: _read_python(fields, simd.i64_at(at), simd.f64_at(at))[0]
    result = _numba_type(fields)

    @intrinsic
    def read(typing_context, at):
        def generate(context, builder, signature, arguments):
            return _read_llvm(context, builder, result, arguments[0], 0)[0]

        return result(at), generate

    return read


def _numba_type(fields):
    parts = [
        types.int64 if kind is int else types.float64 if kind is float else _numba_type(kind)
        for kind in typing.get_type_hints(fields).values()
    ]
    alike = len(set(parts)) == 1
    return types.NamedUniTuple(parts[0], len(parts), fields) if alike else types.NamedTuple(parts, fields)


def _read_llvm(context, builder, kind, at, offset):
    """A value of ``kind`` at ``offset`` bytes from an address, and the offset of what follows."""
    if not isinstance(kind, types.BaseTuple):
        pointer = context.get_value_type(kind).as_pointer()
        place = builder.inttoptr(builder.add(at, ir.Constant(at.type, offset)), pointer)
        return builder.load(place), offset + 8
    values = []
    for part in kind:
        value, offset = _read_llvm(context, builder, part, at, offset)
        values.append(value)
    return context.make_tuple(builder, kind, values), offset


def _read_python(fields, integers, floats, n=0):
    values = []
    for kind in typing.get_type_hints(fields).values():
        if kind in (int, float):
            value, n = int(integers[n]) if kind is int else float(floats[n]), n + 1
        else:
            value, n = _read_python(kind, integers, floats, n)
        values.append(value)
    return fields(*values), n


class Instruction:
    """An instruction: ``fields`` it reads, and, for each variant, a function and its address.

    ``variants`` are those that models commonly need.
    """

    def __init__(self, fields: type, variants, make):
        self.fields, self.name, self.variants, self._make = fields, make.__name__, list(variants), make
        self.leaves = leaves(fields)
        self.address = functools.cache(self._address)

    def callback(self, *variant) -> Callback:
        """The compiled function of a variant."""
        name = ".".join([self.name, *map(str, variant)])
        function = self._make(*variant)
        function.__name__ = function.__qualname__ = name
        return Callback(function, 5, name)

    def _address(self, *variant) -> int:
        if numba.config.DISABLE_JIT:  # a number that stands for a Python function
            _python_functions.append(self._make(*variant))
            return len(_python_functions) - 1
        compiled = self.callback(*variant)
        _kept.append(compiled)  # the address is good as long as it lives
        return compiled.address

    def __repr__(self):
        return f"<instruction {self.name}>"


_kept: list[Callback] = []
INSTRUCTIONS: dict[str, Instruction] = {}


def instruction(fields: type, variants=((),)):
    """Decorator of a function of a variant that returns the instruction's function; registers it by its name."""

    def register(make):
        INSTRUCTIONS[make.__name__] = Instruction(fields, variants, make)
        return INSTRUCTIONS[make.__name__]

    return register


@intrinsic
def _call(typing_context, address, at, start, count, base, stride):
    signature = types.void(*[types.int64] * 6)

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments[1:]])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return signature, generate


def _call_python(address, *arguments):
    _python_functions[address](*map(int, arguments))


call = _call_python if numba.config.DISABLE_JIT else _call
