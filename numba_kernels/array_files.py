"""Graphs and arrays in files that other programs write: read without pickle, whatever the bytes."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np

from .errors import LowBitError
from .files import replace_file
from .graph import Graph, GraphError

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": None}
_ORIENTED = {"csr", "csc", "coo"}


class ArrayFileError(LowBitError, ValueError):
    """A file that holds no arrays, or not the expected ones."""


def read_arrays(path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an ``.npy`` file, or those of an ``.npz`` file by name.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ArrayFileError
        When the file is damaged, of another kind, or holds Python objects.
    """
    path = _existing(path)
    if path.suffix not in (".npy", ".npz"):
        raise ArrayFileError(f"{path} must be an .npy or .npz file; write it with numpy.save or numpy.savez.")
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            return {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise ArrayFileError(f"{path} cannot be read: {error}.") from error
    except Exception as error:  # zipfile and NumPy raise of ten kinds for damaged files
        raise ArrayFileError(f"{path} is no whole file of arrays ({type(error).__name__}: {error}).") from error


def read_mapped(path) -> np.ndarray | dict[str, np.ndarray]:
    """As :func:`read_arrays`, but the array of an ``.npy`` file is mapped into memory, to be read as it is used."""
    path = _existing(path)
    if path.suffix != ".npy":
        return read_arrays(path)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise ArrayFileError(f"{path} cannot be read: {error}.") from error
    except Exception as error:
        raise ArrayFileError(f"{path} is no whole file of an array ({type(error).__name__}: {error}).") from error


def read_graph(path, num_nodes: int | None = None, folder=None) -> Graph:
    """A graph of one set of nodes.

    Parameters
    ----------
    path : path-like
        ``.npz`` as ``scipy.sparse.save_npz`` writes it, whose entry (u, v) is an edge u → v; or with ``indptr`` and
        ``indices``, the in-neighbours of each node, and what else :class:`Graph` takes, by name; or lines ``u v`` of
        whole numbers in a ``.txt``, ``.tsv`` or ``.csv`` file, each an edge u → v. Or a folder with ``indptr.npy``,
        ``indices.npy`` and the like, which are read some at a time.
    num_nodes : int, optional
        Of a graph that is given by lines. Default: as many as they name.
    folder : path-like, optional
        Of a disk where what is kept of a graph of arrays stands, see :class:`Graph`. Default: in memory.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ArrayFileError
        When the file is damaged or of another kind.
    GraphError
        When it describes no graph.
    """
    path = _existing(path)
    if path.is_dir():
        return _named(path, {part.stem: read_mapped(part) for part in sorted(path.glob("*.npy"))}, folder)
    if path.suffix in _DELIMITERS:
        edges = _whole_numbers(path, columns=2)
        count = int(edges.max(initial=-1)) + 1 if num_nodes is None else num_nodes
        return Graph.from_edges(edges[:, 0], edges[:, 1], count)
    if path.suffix != ".npz":
        known = ", ".join((".npz", *_DELIMITERS))
        raise ArrayFileError(f"the graph {path} must be a file of one of the kinds {known}, or a folder of .npy files.")
    arrays = read_arrays(path)
    if not isinstance(arrays, dict):
        raise ArrayFileError(f"{path} holds one array; a graph is of several, by name.")
    return _named(path, arrays, folder)


def _named(path, arrays, folder):
    try:
        return graph_of(arrays, folder)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from error


def graph_of(arrays: dict, folder=None) -> Graph:
    """The graph that arrays by name describe, as in the ``.npz`` files of :func:`read_graph`, kept in ``folder``.

    Raises
    ------
    GraphError
        When they describe none.
    """
    if "format" in arrays:
        return _of_scipy(arrays)
    known = {"indptr", "indices", "num_src", "edge_ids", "batch_sizes"}
    missing, unknown = {"indptr", "indices"} - set(arrays), set(arrays) - known
    if missing or unknown:
        wrong = [f"{name} is missing" for name in sorted(missing)]
        wrong += [f"{name!r:.80} is none of these" for name in unknown]
        raise GraphError(
            "a graph is indptr and indices, with num_src, edge_ids and batch_sizes if needed, or a sparse matrix of "
            f"scipy's; {', '.join(wrong)}."
        )
    if "num_src" in arrays:
        arrays = {**arrays, "num_src": _sizes(arrays, "num_src", 1)[0]}
    return Graph(**arrays, folder=folder)


def _of_scipy(arrays):
    kind = np.asarray(arrays["format"]).reshape(-1).tolist()[:1]
    kind = kind[0].decode("latin-1") if kind and isinstance(kind[0], bytes) else (kind or [""])[0]
    parts = {"coo": ("row", "col", "shape")}.get(kind, ("indptr", "indices", "shape"))
    if kind not in _ORIENTED or not set(parts) <= set(arrays):
        raise GraphError(f"a sparse matrix is of the kind csr, csc or coo, whole, got {kind!r} of {', '.join(arrays)}.")
    rows, columns = _sizes(arrays, "shape", 2)
    first, second = arrays[parts[0]], arrays[parts[1]]
    if kind == "coo":
        return Graph.from_edges(first, second, rows, columns)
    count = rows if kind == "csr" else columns
    if first.shape != (count + 1,):
        raise GraphError(f"indptr must have shape ({count + 1},) in a {kind} matrix, got {first.shape}.")
    if kind == "csc":
        return Graph(first, second, rows)
    to, of = Graph(first, second, columns).edges  # rows list columns: in-neighbours the other way round
    return Graph.from_edges(of, to, rows, columns)


def _sizes(arrays, name, count):
    sizes = np.asarray(arrays[name])
    if sizes.size != count or sizes.dtype.kind not in "iu" or (sizes < 0).any() or (sizes >= 2**31).any():
        raise GraphError(f"{name} must be {count} whole number(s) from 0 to 2^31 − 1, got {sizes.tolist()!r:.80}.")
    return sizes.reshape(-1).tolist()


def read_nodes(path) -> np.ndarray:
    """Numbers of nodes, (n,) int64, from an ``.npy`` file or a text file of one a line.

    Raises
    ------
    FileNotFoundError, ArrayFileError
        As :func:`read_arrays`.
    """
    path = _existing(path)
    nodes = read_arrays(path) if path.suffix == ".npy" else _whole_numbers(path, columns=1)[:, 0]
    if not isinstance(nodes, np.ndarray) or nodes.ndim != 1 or nodes.dtype.kind not in "iu":
        raise ArrayFileError(f"{path} must hold whole numbers of one dimension, one a node.")
    return nodes.astype(np.int64)


def refuse_result(path, returns) -> None:
    """Raise ArrayFileError where a file of this name cannot hold what a model ``returns``, as its plan says."""
    suffix = Path(path).suffix
    if suffix not in (".npy", ".npz") or (suffix == ".npy" and returns != "value"):
        kinds = ".npy or .npz" if returns == "value" else ".npz, as it is several arrays"
        raise ArrayFileError(f"the result must go to a file named {kinds}, got {path}.")


def write_arrays(path, result) -> Path:
    """Write what a model returned: an array, or several by name or number; the file is replaced whole.

    In an ``.npz`` file the one array is called ``result``.

    Raises
    ------
    OSError
        When it cannot be written.
    """
    if not isinstance(result, (dict, tuple)):
        result = {"result": result}
    arrays = result if isinstance(result, dict) else {str(number): array for number, array in enumerate(result)}
    if Path(path).suffix == ".npy":
        return replace_file(path, to_npy(*arrays.values()))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, array in arrays.items():
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), to_npy(array))  # without a date: the same bytes each time
    return replace_file(path, buffer.getvalue())


def to_npy(array: np.ndarray) -> bytes:
    """The content of an ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _whole_numbers(path, columns):
    """Lines of so many whole numbers, (lines, columns) int64; what follows a # is left out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # a fraction that older NumPy would cut
            warnings.simplefilter("ignore", UserWarning)  # no lines: no edges
            numbers = np.loadtxt(path, np.int64, delimiter=_DELIMITERS.get(path.suffix), ndmin=2, encoding="utf-8")
    except (ValueError, DeprecationWarning, OverflowError) as error:
        raise ArrayFileError(f"{path} must hold lines of {columns} whole number(s): {error}") from error
    if numbers.size and numbers.shape[1] != columns:
        raise ArrayFileError(f"{path} must hold lines of {columns} whole number(s), got {numbers.shape[1]}.")
    return numbers.reshape(-1, columns)


def _existing(path):
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file at {path}.")
    return path
