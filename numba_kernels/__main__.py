"""``python -m numba_kernels``: packed models without torch or DGL."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ._version import __version__
from .commands import OneLineParser, add_command, count, one_line
from .errors import LowBitError

_GRAPH = (
    "scipy's .npz of a sparse matrix, whose entry (u, v) is an edge u -> v; an .npz of indptr and indices, each node's "
    "in-neighbours, or a folder of them as .npy files; or lines 'u v' in a .txt, .tsv or .csv file"
)
_DAY = 24 * 60 * 60
_FEATURES = "the model's array, an .npy file, or its arrays by the names of its arguments, an .npz file"


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0, or 2 after one line on stderr."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except (LowBitError, ValueError, RuntimeError, OSError, ImportError, MemoryError) as error:
        print(f"numba_kernels {options.command}: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"numba_kernels {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def parser() -> OneLineParser:
    """The parser of all commands."""
    made = OneLineParser(prog="python -m numba_kernels", description="Packed models without torch or DGL.")
    version = f"numba_kernels {__version__}"
    made.add_argument("--version", action="version", version=version, help="print the version")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")

    predict = add_command(
        commands, "predict", [
            "python -m numba_kernels predict model.safetensors graph.npz feat.npy logits.npy",
            "python -m numba_kernels predict model.safetensors edges.tsv feat.npy logits.npy --nodes nodes.txt",
            "python -m numba_kernels predict model.safetensors graph_folder feat.npy logits.npy --folder scratch",
        ],
        "run a packed model on a graph and features, and keep the result",
    )  # fmt: skip
    _add_call(predict)
    predict.add_argument("output", metavar="OUT", help="the result: an .npy file, or .npz, which may hold several")
    predict.add_argument("--nodes", metavar="FILE", help="of these nodes, in a text file of one a line or an .npy file")
    predict.add_argument("--batch-size", type=count, metavar="ROWS", help="layer by layer, as many rows at a time")
    predict.add_argument(
        "--folder", metavar="DIR", help="keep what is larger than memory in files there, and go on from what is there"
    )
    predict.add_argument(
        "--most-memory", type=count, metavar="BYTES",
        help="of states that are read at random, with --folder; default: half of what is available",
    )  # fmt: skip
    predict.set_defaults(run=_predict)

    info = add_command(
        commands, "info", ["python -m numba_kernels info model.safetensors --json"], "print what a packed model is"
    )
    info.add_argument("model", metavar="MODEL", help="a .safetensors file")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)

    warm = add_command(
        commands, "warm-up",
        ["python -m numba_kernels warm-up", "python -m numba_kernels warm-up model.safetensors"],
        "compile what models need, or every common kernel, and keep it",
    )  # fmt: skip
    warm.add_argument("files", nargs="*", metavar="FILE", help="packed models; default: every common kernel")
    warm.set_defaults(run=_warm_up)

    serve = add_command(
        commands, "serve",
        ["python -m numba_kernels serve model.safetensors graph.npz feat.npy --port 8000 --threads 2"],
        "answer requests over HTTP with a packed model (needs the extra serve)",
    )  # fmt: skip
    _add_call(serve)
    serve.add_argument("--host", default="127.0.0.1", type=_host, help="address to listen on")
    serve.add_argument("--port", default=8000, type=_port, help="0 for any that is free")
    serve.add_argument("--max-nodes", default=100_000, type=count, help="nodes of a request, or of its own graph")
    serve.add_argument("--max-bytes", default=16 * 2**20, type=count, help="bytes of a request")
    serve.add_argument("--max-waiting", default=1024, type=count, help="requests that may wait; others are refused")
    serve.add_argument("--max-batch", default=64, type=count, help="requests that one run of the model may answer")
    serve.add_argument(
        "--timeout", default=30, type=_seconds, help="seconds for a request to arrive, and for its answer"
    )
    serve.set_defaults(run=_serve)
    return made


def _add_call(command):
    command.add_argument("model", metavar="MODEL", help="a .safetensors file")
    command.add_argument("graph", metavar="GRAPH", help=_GRAPH)
    command.add_argument("features", metavar="FEATURES", help=_FEATURES)
    command.add_argument("--threads", type=count, help="threads to run on; default: Numba's number")


def _port(text):
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**16:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**16 - 1}, got {text!r}")
    return int(text)


def _host(text):
    try:
        text.encode("idna")
    except UnicodeError:
        text = ""
    if not text:
        raise argparse.ArgumentTypeError("expected an address or a name of this machine, as 127.0.0.1")
    return text


def _seconds(text):
    seconds = count(text)
    if seconds > _DAY:
        raise argparse.ArgumentTypeError(f"expected at most {_DAY}, a day, got {text!r:.40}")
    return seconds


def _call(options, in_batches=False, folder=None):
    """What MODEL, GRAPH and FEATURES stand for; the latter may be read as they are used."""
    from .array_files import read_arrays, read_graph, read_mapped
    from .calling import Call, num_nodes
    from .model import load
    from .run.runtime import checked

    checked(options.threads)
    model, given = load(options.model, options.threads), (read_mapped if in_batches else read_arrays)(options.features)
    return Call(model, read_graph(options.graph, num_nodes(given), folder), given)


def _predict(options):
    from .array_files import read_nodes, refuse_result, write_arrays
    from .mapped import existing_folder

    in_batches = options.folder is not None or options.batch_size is not None
    if options.most_memory is not None and options.folder is None:
        raise ValueError("--most-memory is of states in files; name a --folder for them.")
    if in_batches and options.nodes is not None:
        raise ValueError("--nodes are of a run as a whole; leave out --batch-size and --folder.")
    call = _call(options, in_batches, options.folder and existing_folder(options.folder))
    refuse_result(options.output, call.model.plan.returns)
    if in_batches:
        call.run_to(options.output, options.batch_size or 4096, options.folder, options.most_memory)
        print(Path(options.output))
        return
    result = call.run(None if options.nodes is None else read_nodes(options.nodes))
    print(write_arrays(options.output, result))


def _info(options):
    from .description import describe
    from .model import load

    print(describe(load(options.model), Path(options.model).stat().st_size, options.json))


def _warm_up(options):
    from .cache import folder
    from .warming import warm_up

    warm_up(*options.files)
    print(folder() or "compiled, but nothing could be kept")


def _serve(options):
    from .serve import Limits, serve

    limits = Limits(options.max_nodes, options.max_bytes, options.max_waiting, options.max_batch, options.timeout)
    serve(_call(options), options.host, options.port, limits)


if __name__ == "__main__":
    sys.exit(main())
