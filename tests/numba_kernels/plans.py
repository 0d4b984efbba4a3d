"""Random graphs and plans, and their comparison with the NumPy twin."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
from hypothesis import strategies as st

from numba_kernels import Graph, PackedModel, Plan, pack, reference
from numba_kernels.layout import PACKED_BITS

JIT_OFF = numba.config.DISABLE_JIT
# Random tests are small unless `-m "slow or random"` asks for all: each width of codes is compiled.
DRAWS_FROM_ALL = "DRAW_FROM_ALL" in os.environ
EXAMPLES = 5 if JIT_OFF else 40 if DRAWS_FROM_ALL else 12
WIDTHS = PACKED_BITS if DRAWS_FROM_ALL else (2, 8)


def draw_graph(rng, num_src, num_dst, edges, hub=False, **options):
    target = np.sort(rng.integers(num_dst, size=edges)) if edges else np.empty(0, np.int64)
    if hub:
        target[:] = num_dst - 1
    indptr = np.concatenate([[0], np.cumsum(np.bincount(target, minlength=num_dst))])
    return Graph(indptr, rng.integers(num_src, size=edges), num_src=num_src, **options)


def normal(rng, rows, columns):
    return rng.normal(size=(rows, columns)).astype(np.float32)


def static(bits, columns, rng, per_channel):
    size = columns if per_channel else 1
    return {
        "bits": bits,
        "granularity": "channel" if per_channel else "tensor",
        "scale": rng.uniform(0.01, 0.3, size).astype(np.float32),
        "zero_point": (rng.integers(0, 2**bits, size) + rng.choice([0, 0.5])).astype(np.float32),
        "offset": rng.uniform(0, 2**bits, size).astype(np.float32),
    }


def per_row(bits, rng):
    return {
        "bits": bits,
        "granularity": "row",
        "alpha": float(np.float32(rng.uniform(0.3, 1))),
        "half_grid": bool(rng.integers(2)),
        "range_qmax": 2**bits - 1,
        "divisor": 1.0,
        "shift": 0.0,
    }


def integer(bits, columns, rng, per_channel=False, is_half=True):
    """Scales that are coded with integer arithmetic."""
    size = columns if per_channel else 1
    zero = rng.integers(0, 2**bits - 1, size) + 0.5 * is_half
    numbers = {"scale": rng.uniform(0.01, 0.3, size), "zero_point": zero, "offset": zero}
    numbers = {name: array.astype(np.float32) for name, array in numbers.items()}
    return {"bits": bits, "granularity": "channel" if per_channel else "tensor", **numbers, "arithmetic": "integer"}


SIGNS = {"bits": 1, "granularity": "sign"}


def grouped(rng, widths=(1, 2, 3, 4, 8)):
    """Groups of rows with bits of these widths."""
    count = int(rng.integers(2, 6))
    bits = [int(rng.choice(widths)) for _ in range(count)]
    return {
        "bits": max(bits),
        "granularity": "group",
        "widths": bits,
        "alpha": rng.uniform(0.3, 1, count).astype(np.float32),
        "half_grid": bool(rng.integers(2)),
        "limits": np.sort(rng.uniform(0, 3, count - 1)).astype(np.float32),
    }


def levels(bits, rng):
    """Whole numbers for codes of some bits."""
    return sorted(map(int, rng.choice(256, int(rng.integers(2, 2**bits + 1)), replace=False)))


class PlanBuilder:
    """Names a plan's arrays as they come."""

    def __init__(self):
        self.arrays, self.ops = {}, []

    def store(self, array):
        name = f"a{len(self.arrays)}"
        self.arrays[name] = array
        return name

    def add(self, op, *inputs, **attributes):
        self.ops.append({"op": op, "in": list(inputs), "out": 100 + len(self.ops), **attributes})
        return self.ops[-1]["out"]

    def quantize(self, value, quantizer, columns, op="quantize", **more):
        spec = {k: self.store(v) if isinstance(v, np.ndarray) else v for k, v in quantizer.items()}
        inputs = [value, more.pop("before")] if "before" in more else [value]
        return self.add(op, *inputs, quantizer=spec, columns=columns, **more)

    def linear(self, codes, rng, K, M, bits, levels=None):
        count = 2**bits if levels is None else len(levels)
        weight = pack(rng.integers(0, count, (M, K)).astype(np.uint8), bits, -(-K * bits // 8))
        return self.add(
            "linear",
            codes,
            weight={
                "bits": bits,
                "shape": [K, M],
                "codes": self.store(weight),
                "scale": self.store(rng.uniform(0.01, 0.3, M).astype(np.float32)),
                "zero_point": (2**bits - 1) / 2,
                **({} if levels is None else {"levels": levels}),
            },
        )

    def model(self, kinds, *outputs, **options):
        inputs = [{"name": f"x{v}", "kind": k, "value": v, "optional": False} for v, k in enumerate(kinds)]
        return PackedModel(Plan(inputs, self.ops, list(outputs), self.arrays, returns="tuple"), **options)


def assert_equals_twin(model, *arguments):
    expected = reference.run(model.plan, dict(enumerate(arguments)))
    got = model(*arguments)
    for value, output in zip(model.plan.outputs, got):
        np.testing.assert_array_equal(output, expected[value])
    return got


def operations(model):
    """What the stages of the program used last are made of."""
    (*_, assembled) = model._executor._programs.values()
    return {name for stage in assembled.program.names for name in stage}


sizes = st.tuples(st.integers(1, 70), st.integers(1, 30), st.integers(0, 400))


def shifted(bits, rng):
    """One scale, halved for rows of smaller range."""
    return {**static(bits, 1, rng, False), "granularity": "shift", "reach": float(np.float32(rng.uniform(0.5, 8)))}


def run_tests_of_kernels(chosen: str, *options: str, **environment: str) -> str:
    """What the tests print, run in another process, that another processor, or no compiler, makes a difference to.

    ``chosen`` are those of them to run, as ``-k`` takes it, ``options`` more of pytest's.
    AssertionError if one fails.
    """
    names = (
        "attention fixed_point functional graph grids instructions kernels operations packing products selected simd "
        "sums arrays_edge_space arrays_edges"
    )
    files = [str(Path(__file__).with_name(f"test_{name}.py")) for name in names.split()]
    few = {key: value for key, value in os.environ.items() if key != "DRAW_FROM_ALL"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", "-k", chosen, *options, *files],
        env={**few, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout
