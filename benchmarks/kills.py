"""Kills at random moments, full disks and limits of file sizes: is anything ever lost?

    python benchmarks/kills.py [save fit train limits] --kills 50

``save`` kills processes (SIGKILL) that save one packed model over another: the file must be one of them, whole. ``fit``
and ``train`` kill runs of ``lowbit.fit(checkpoint=)`` and of ``dgl-lowbit train``, and resume them until they end: no
epoch that was kept may be lost, and results must equal those of a run that was never interrupted. ``limits`` saves
beyond RLIMIT_FSIZE and, where it may mount one, onto a full file system: one error, and the old file is left. Exit
status 1 if any of that fails.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dgl
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.cli import main as command
from dgl_lowbit.experiments.data import load_graph

EPOCHS = 40


class GCN(nn.Module):
    """Two layers."""

    def __init__(self, width, hidden, classes):
        super().__init__()
        self.first, self.second = dgl.nn.GraphConv(width, hidden), dgl.nn.GraphConv(hidden, classes)

    def forward(self, graph, feat):
        return self.second(graph, self.first(graph, feat).relu())


def start(function) -> int:
    """A forked process that calls ``function``; its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        status = int(function() or 0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(status)


def finished(child: int) -> None:
    """Wait for a process, which must end well."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    expect(status == 0, f"a process ended with status {status}")


def was_killed(function, seconds: float) -> bool:
    """Whether a process that calls ``function`` was still at it after ``seconds``, and was killed."""
    child, end = start(function), time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            finished(child)
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    expect(status in (0, -signal.SIGKILL), f"a process ended with status {status}")
    return status != 0


def expect(holds: bool, what: str) -> None:
    """Fail unless something holds."""
    if not holds:
        raise AssertionError(what)


def names(folder: Path) -> list:
    """What stands in a folder."""
    return sorted(path.name for path in folder.iterdir())


def expect_alone(path: Path) -> None:
    """Fail if anything is left beside a file."""
    expect(names(path.parent) == [path.name], f"left over: {names(path.parent)}")


def packed_models() -> list:
    """A small packed model and a large one."""
    graph = planted()
    models = []
    for hidden in (4, 512):
        torch.manual_seed(0)
        model = GCN(graph.ndata["feat"].shape[1], hidden, 7)
        model = lowbit.calibrate(lowbit.quantize(model, lowbit.QuantConfig(8)), graph, graph.ndata["feat"])
        models.append(lowbit.freeze(model, graph, graph.ndata["feat"]))
    return models


def planted():
    """The graph that is trained on."""
    return dgl.add_self_loop(load_graph("planted"))


def kills_of_save(folder: Path, kills: int) -> str:
    """Save one model over another for ever."""
    models, path = packed_models(), folder / "model.safetensors"
    contents = {model.to_bytes() for model in models}
    models[0].save(path)

    def save_for_ever():
        while True:
            for model in models[::-1]:
                model.save(path)

    for _ in range(kills):
        expect(was_killed(save_for_ever, random.uniform(0, 0.1)), "a process that saves was not killed")
        expect(lowbit.load(path).to_bytes() in contents, "the file is neither model")
    models[0].save(path)
    expect_alone(path)
    return f"{kills} kills: the file was whole each time, and nothing was left beside it"


def kills_of_runs(folder: Path, kills: int, run, result, kept) -> str:
    """Kill ``run(folder)`` and resume it until it ends, over and over, until it was killed often enough."""
    whole, start_time = folder / "whole", time.monotonic()
    whole.mkdir()
    finished(start(lambda: run(whole)))
    longest, expected, done, runs = time.monotonic() - start_time, result(whole), 0, 0
    while done < kills:
        here, epochs = folder / f"run{runs}", 0
        here.mkdir()
        while was_killed(lambda here=here: run(here), random.uniform(0, longest)):
            done += 1
            expect(kept(here) >= epochs, f"of {epochs} epochs {kept(here)} were left")
            epochs = kept(here)
        expect(result(here) == expected, "a resumed run came to another result")
        runs += 1
    return f"{done} kills of {runs} runs, which were resumed to the result of one that was never interrupted"


def epochs_kept(path: Path) -> int:
    """Epochs in a checkpoint of training, of all stages."""
    if not path.exists():
        return 0
    stages = torch.load(path, weights_only=True)["stages"]
    return sum(len(stage["epochs"]) for stage in stages.values())


def kills_of_fit(folder: Path, kills: int) -> str:
    """Training with a checkpoint."""
    graph = planted()

    def run(here):
        torch.manual_seed(0)
        model = GCN(graph.ndata["feat"].shape[1], 16, 7)
        config = lowbit.QuantConfig(2)
        fitted = lowbit.fit(
            model, graph, config, epochs=EPOCHS, checkpoint=here / "state.pt", resume=True, progress=False
        )
        lowbit.freeze(fitted.model).save(here / "result")

    return kills_of_runs(
        folder, kills, run, lambda here: (here / "result").read_bytes(), lambda here: epochs_kept(here / "state.pt")
    )


def kills_of_train(folder: Path, kills: int) -> str:
    """The command, at the size of Cora."""
    options = ["--epochs", str(EPOCHS), "--quiet", "--resume"]

    def run(here):
        with contextlib.redirect_stdout(io.StringIO()):
            return command(["train", *options, "--output", str(here)])

    def result(here):
        (packed,) = here.glob("*.safetensors")
        (state,) = set(here.glob("*.pt")) - set(here.glob("*-training.pt"))
        return packed.read_bytes(), state.read_bytes(), names(here)

    return kills_of_runs(
        folder, kills, run, result, lambda here: max(map(epochs_kept, here.glob("*-training.pt")), default=0)
    )


def limits(folder: Path, kills: int) -> str:
    """No room for what is saved."""
    old, new = packed_models()
    content = old.to_bytes()

    def refused(path, nbytes=None):
        """In a process of its own: whether saving raises OSError."""

        def save():
            if nbytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, nbytes))
            try:
                new.save(path)
            except OSError:
                return 0
            return 2

        finished(start(save))
        expect(path.read_bytes() == content, "the old file is not intact")
        expect_alone(path)

    path = folder / "model.safetensors"
    old.save(path)
    sizes = sorted({0, 1, len(new.to_bytes()) - 1, *(random.randrange(len(new.to_bytes())) for _ in range(kills - 3))})
    for nbytes in sizes:
        refused(path, nbytes)
    said = f"{len(sizes)} limits of the file's size were refused, and the old file was left"
    disk = folder.with_name(f"{folder.name}-disk")
    disk.mkdir()
    room = (len(content) + 4095) // 4096 * 4096 + len(new.to_bytes()) // 2
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", disk]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        return f"{said}; no file system could be mounted"
    try:
        old.save(disk / "model.safetensors")
        refused(disk / "model.safetensors")
    finally:
        subprocess.run(["umount", disk], check=True)
    return f"{said}; a full disk likewise"


PARTS = {"save": kills_of_save, "fit": kills_of_fit, "train": kills_of_train, "limits": limits}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="of " + ", ".join(PARTS) + "; default: all")
    parser.add_argument("--kills", type=int, default=50, help="of each part; limits that are tried")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    for name in args.parts:
        if name not in PARTS:
            parser.error(f"there is no part {name!r}; there are {', '.join(PARTS)}")
    # A forked process has none of OpenMP's threads.
    torch.set_num_threads(1)
    dgl.utils.set_num_threads(1)
    failed = 0
    for name in args.parts or PARTS:
        random.seed(args.seed)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).mkdir()
            try:
                said = PARTS[name](Path(folder) / name, args.kills)
            except AssertionError as error:
                said, failed = f"FAILED: {error}", 1
        print(f"{name}: {said}.", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
