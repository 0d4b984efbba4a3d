"""Fuzzing outside the suite: plans, files and drawn models, and what became of each.

    python benchmarks/fuzz.py plans --count 20000        # plans of a grammar, beside pages that may not be touched
    python benchmarks/fuzz.py files --minutes 20         # damaged and changed files of all versions
    python benchmarks/fuzz.py draws --count 2000         # random models, packed against trained

Anything but a refusal in words or the right numbers is printed with its seed, and ends the command with status 1.
Workers run under a limit of their address space, so that a file that asks for too much memory is found too.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Bytes that a worker may map: what torch, DGL and Numba map, and the 256 MiB that a run may take of small arguments.
ADDRESS_SPACE = 12 << 30


def in_worker(*command, seconds=None):
    """Run ``command`` of this file in a process of its own: counts of outcomes, or how it ended."""
    done = subprocess.run(
        [sys.executable, __file__, "--worker", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    if done.returncode == 0:
        return collections.Counter(json.loads(done.stdout.splitlines()[-1]))
    last = [line for line in done.stderr.splitlines() if line.startswith("seed ")][-1:]
    print(f"{command}: exit status {done.returncode} at {last}\n{done.stderr[-1500:]}", flush=True)
    return collections.Counter({"failed": 1})


def seeds(first, count):
    """Seeds, each told before it is used, so that the last one told is that of a process that died."""
    for seed in range(first, first + count):
        print(f"seed {seed}", file=sys.stderr, flush=True)
        yield seed


# -- plans ----------------------------------------------------------------------------------------------------
def plans(first, count, side):
    """Plans of the grammar under guard."""
    from tests.numba_kernels.grammar import Grammar, outcome
    from tests.numba_kernels.guard import Guard

    counts = collections.Counter()
    with Guard(side).installed():
        for seed in seeds(first, count):
            counts[outcome(Grammar(seed).draw())] += 1
    return counts


# -- files ----------------------------------------------------------------------------------------------------
def files(first, count, side):
    """Files with other bytes, shorter ones, and such whose model was changed and that were sealed again."""
    import numpy as np

    import numba_kernels
    from numba_kernels import GraphError, ModelFileError, container, reference
    from numba_kernels.model_file import FORMAT
    from tests.numba_kernels.guard import Guard
    from tests.numba_kernels.test_unchecked import at, places

    data, counts = ROOT / "tests" / "data", collections.Counter()
    kept = {version: (data / f"version{version}.safetensors").read_bytes() for version in (2, 3)}
    kept[4] = numba_kernels.PackedModel.from_bytes(kept[2]).to_bytes()
    numbers = np.load(data / "version2.npz")
    graph = numba_kernels.Graph(numbers["indptr"], numbers["indices"])

    def changed(rng, content):
        """Another number, text or tree somewhere in the model, in a file that is whole."""
        header, arrays = container.read(content)
        held = json.loads(header.metadata[FORMAT])
        for _ in range(rng.integers(1, 4)):
            paths = [path for path in places(held) if path]
            path = paths[rng.integers(len(paths))]
            other = at(held, paths[rng.integers(len(paths))])
            atoms = (None, True, 0, 1, -1, 2**40, 0.5, 1e300, "max", "shift", [], {}, [[[]]], other)
            at(held, path[:-1])[path[-1]] = json.loads(json.dumps(atoms[rng.integers(len(atoms))]))
        return container.write({name: np.array(array) for name, array in arrays.items()}, {FORMAT: json.dumps(held)})

    with Guard(side).installed():
        for seed in seeds(first, count):
            rng = np.random.default_rng(seed)
            version = int(rng.choice([2, 3, 4]))
            content, kind = bytearray(kept[version]), rng.choice(["bytes", "shorter", "header", "model"])
            if kind == "model":
                content = changed(rng, bytes(content))
            elif kind == "shorter":
                content = content[: rng.integers(len(content))]
            else:
                end = len(content) if kind == "bytes" else 8 + int.from_bytes(content[:8], "little")
                for place in rng.integers(end, size=rng.integers(1, 9)):
                    content[place] = rng.integers(256)
            try:
                model = numba_kernels.PackedModel.from_bytes(bytes(content))
                got = model(graph, numbers["feat"])
            except (ModelFileError, GraphError, TypeError) as error:
                if isinstance(error, TypeError) and "the model takes" not in str(error):
                    raise
                counts[f"{kind}: {'file' if isinstance(error, ModelFileError) else 'arguments'} refused"] += 1
                continue
            with np.errstate(all="ignore"):
                given = {entry["value"]: None for entry in model.plan.inputs}
                given.update(zip(given, (graph, numbers["feat"].astype(np.float32))))
                values = reference.run(model.plan, given)
            outputs = got.values() if isinstance(got, dict) else got if isinstance(got, tuple) else (got,)
            for value, array in zip(model.plan.outputs, outputs):
                np.testing.assert_array_equal(array.reshape(np.shape(values[value])), values[value])
            counts[f"{kind}: ran, equal to the twin"] += 1
    return counts


# -- models ---------------------------------------------------------------------------------------------------
def drawn_model(seed):
    """A model, calibrated, in evaluation mode, and two sets of arguments for it."""
    import dgl
    import numpy as np
    import torch
    from torch import nn

    import dgl_lowbit as lowbit

    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)

    def pick(*values):
        return values[rng.integers(len(values))]

    def graph_of(nodes, edges):
        ends = torch.randint(nodes, (2, edges))
        if pick(True, False):
            ends[1, : edges // 2] = 0
        return dgl.add_self_loop(dgl.graph((ends[0], ends[1]), num_nodes=nodes))

    width, hidden, out = int(rng.integers(1, 80)), int(rng.integers(1, 40)), int(rng.integers(1, 20))
    kind = pick("gcn", "sage", "gat", "gatv2", "gin", "smp", "tag")
    granularity = pick("channel", "tensor") if kind in ("gat", "gatv2") else pick("channel", "tensor", "shift")
    aggregators = ("mean", "gcn") if granularity == "shift" else ("mean", "gcn", "pool")  # of plain sums alone
    layers = {
        "gcn": lambda i, o: dgl.nn.GraphConv(i, o, norm=pick("both", "right", "none")),
        "sage": lambda i, o: dgl.nn.SAGEConv(i, o, pick(*aggregators)),
        "gat": lambda i, o: dgl.nn.GATConv(i, o, 1),
        "gatv2": lambda i, o: dgl.nn.GATv2Conv(i, o, 1),
        "gin": lambda i, o: dgl.nn.GINConv(nn.Linear(i, o), "sum"),
        "smp": lambda i, o: nn.ModuleList([nn.Linear(i, o), lowbit.nn.SMPConv(o, k=int(rng.integers(1, 4)))]),
        "tag": lambda i, o: dgl.nn.TAGConv(i, o, 2),
    }[kind]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([layers(width, hidden), layers(hidden, out)])

        def forward(self, graph, x):
            for number, layer in enumerate(self.layers):
                x = layer[1](graph, layer[0](x)) if isinstance(layer, nn.ModuleList) else layer(graph, x).flatten(1)
                x = torch.relu(x) if number == 0 else x
            return x

    more = {"messages": int(pick(2, 4, 8))} if pick(True, False) else {}
    more.update({"states": int(pick(2, 8))} if kind == "smp" and pick(True, False) else {})
    config = lowbit.QuantConfig(int(pick(2, 4, 8)), messages_granularity=granularity, **more)
    calls = []
    for _ in range(2):
        graph = graph_of(int(rng.integers(2, 200)), int(rng.integers(0, 800)))
        x = torch.randn(graph.num_nodes(), width) * float(pick(0.01, 1, 30))
        calls.append((graph, x * (torch.rand_like(x) < pick(0.05, 1))))
    model = lowbit.quantize(Model(), config, *calls[0])
    return lowbit.calibrate(model, *calls[0]).eval(), calls, int(pick(1, 2))


def draws(first, count, folder):
    """Packed models against the trained ones; with a ``folder`` their files, arguments and results are kept there."""
    import numba
    import numpy as np
    import pytest

    import dgl_lowbit as lowbit
    from tests.contract.test_every_layer_packed import coded, twin
    from tests.contract.test_trained_equals_packed import count_equal, recorded_codes

    counts = collections.Counter()
    for seed in seeds(first, count):
        model, calls, threads = drawn_model(seed)
        packed = lowbit.freeze(model, *calls[0])
        packed.threads = min(threads, numba.config.NUMBA_NUM_THREADS)
        for number, call in enumerate(calls):
            with pytest.MonkeyPatch.context() as patch:
                expected, codes = recorded_codes(model, patch, *call)
            got, ours = packed(*call).numpy(), coded(packed, twin(packed, call, {}))
            assert len(ours) == len(codes) > 0
            equal, total = count_equal(ours, codes)
            counts["codes"] += total
            counts["codes that differ"] += total - equal
            attends = any(op["op"] == "attend" for op in packed.plan.ops)
            counts[_compared(expected.numpy(), got, equal, total, attends)] += 1
            if folder != "-":
                place = Path(folder) / f"{seed}_{number}"
                indptr, indices, _ = call[0].adj_tensors("csc")
                packed.save(place.with_suffix(".safetensors"))
                np.savez(place, indptr=indptr, indices=indices, x=call[1], expected=got)
    return counts


def _compared(expected, got, equal, total, attends):
    """How packed results stand to trained ones; AssertionError outside the contract.

    Codes of attention are not among those that were compared: of a model that ``attends`` a few rows may differ.
    """
    import numpy as np

    assert equal >= 0.999 * total or equal == total - 1, f"{total - equal} of {total} codes differ"
    assert expected.shape == got.shape
    best, ours, rows = expected.argmax(1), got.argmax(1), np.arange(len(got))
    gap = np.abs(expected[rows, best] - expected[rows, ours])
    near = np.isclose(got, expected, rtol=1e-4, atol=1e-5 * max(np.abs(expected).max(initial=0), 1)).all(1)
    if attends and equal == total and not near.all():
        assert near.mean() >= 0.95, f"{(~near).sum()} of {len(near)} rows differ"
        return "models on graphs: attention on the other side of a boundary"
    if equal == total:
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * max(np.abs(expected).max(initial=0), 1))
        assert (gap <= 1e-5 * np.abs(expected).max(axis=1, initial=0)).all(), "another class, and no tie"
        return "models on graphs: all codes equal"
    return "models on graphs: a code on the other side of a boundary"


def alone(first, count, folder):
    """The kept files, where neither torch nor DGL can be imported."""
    import numpy as np

    sys.modules["torch"] = sys.modules["dgl"] = None  # importing them raises ImportError
    import numba_kernels

    counts = collections.Counter()
    for seed in seeds(first, count):
        for path in sorted(Path(folder).glob(f"{seed}_*.npz")):
            held = np.load(path)
            model = numba_kernels.load(path.with_suffix(".safetensors"))
            np.testing.assert_array_equal(model((held["indptr"], held["indices"]), held["x"]), held["expected"])
            counts["equal without torch and DGL"] += 1
    assert not any(name.partition(".")[0] in ("torch", "dgl") for name, found in sys.modules.items() if found)
    return counts


# -- the command ----------------------------------------------------------------------------------------------
def main() -> int:
    """Read the command line, run workers one after another, print counts; 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("plans", "files", "draws"))
    parser.add_argument("--count", type=int, help="default: as many as the minutes allow")
    parser.add_argument("--minutes", type=float, help="stop after as many, default: at the count")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--alone", type=int, default=0, help="draws: of the models, how many also run without torch")
    parser.add_argument("--folder", type=Path, default=Path("fuzz-models"), help="draws: where those files are kept")
    options = parser.parse_args()
    options.count = options.count or (1000 if options.minutes is None else sys.maxsize)
    counts, start, seed = collections.Counter(), time.monotonic(), options.first
    batch = {"plans": 250, "files": 500, "draws": 20}[options.what]
    while seed < options.first + options.count:
        if options.minutes is not None and time.monotonic() - start > 60 * options.minutes:
            break
        size = min(batch, options.first + options.count - seed)
        counts += _run_batch(options, seed, size)
        seed += size
        print(f"{seed - options.first:,} in {time.monotonic() - start:,.0f} s: {json.dumps(counts)}", flush=True)
    return int(counts["failed"] > 0)


def _run_batch(options, seed, size):
    if options.what != "draws":
        return in_worker(options.what, seed, size, ("end", "begin")[seed % 2])
    kept = seed - options.first < options.alone
    options.folder.mkdir(exist_ok=True)
    counts = in_worker("draws", seed, size, options.folder if kept else "-")
    if kept:
        counts += in_worker("alone", seed, size, options.folder)
        for path in options.folder.iterdir():
            path.unlink()
    return counts


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        command, first, count, last = sys.argv[2:]
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        print(json.dumps(globals()[command](int(first), int(count), last)))
    else:
        sys.exit(main())
