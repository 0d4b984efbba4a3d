"""Codes in files, and out of them, mapped; ``docs/format.md`` describes it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import container
from ..codebook import Codewords
from ..errors import ModelFileError
from ..files import replacing
from ..model_file import contents
from ..spec import from_json
from .coded import of_rows
from .codes import Codes
from .matrices import Grid

FORMAT, VERSION = "dgl-lowbit-codes", 1
_KEYS = {"format", "version", "columns", "grid", "sha256"}


def save_codes(codes: Codes | Codewords, path) -> Path:
    """Write codes to a file, whole or not at all; returns ``path``."""
    return save_parts([codes], len(codes.packed), path)


def save_parts(parts: Iterable[Codes | Codewords], rows: int, path) -> Path:
    """Write ``rows`` rows of codes, of one grid or book, that come in parts, of which one is in memory at a time.

    The file is the same, to the byte, whatever the parts are; it is written whole or not at all.
    """
    parts = iter(parts)
    first = next(parts)
    grid, shared = _of_all(first)
    arrays = {**shared, **{name: _Rows(part.dtype, (rows, *part.shape[1:])) for name, part in _in_file(first).items()}}
    digests = {name: hashlib.sha256() for name in arrays}

    def beginning():
        content = {
            "format": FORMAT,
            "version": VERSION,
            "columns": first.shape[1],
            "grid": grid,
            "sha256": {name: digest.hexdigest() for name, digest in digests.items()},
        }
        return container.begin(arrays, {FORMAT: json.dumps(content, sort_keys=True, separators=(",", ":"))})

    with replacing(path) as file:
        _, places = beginning()  # as long as the one that has the digests of all rows
        sizes = {name: math.prod(array.shape) * array.dtype.itemsize for name, array in arrays.items()}
        ends = {name: place + sizes[name] for name, place in places.items()}
        for written in itertools.chain([shared], map(_in_file, itertools.chain([first], parts))):
            for name, array in written.items():
                data = np.ascontiguousarray(array).data
                digests[name].update(data)
                file.seek(places[name])
                file.write(data)
                places[name] += data.nbytes
        if places != ends:
            raise ValueError(f"the parts have not {rows} rows of one width.")
        file.seek(0)
        file.write(beginning()[0])
    return Path(path)


class _Rows(NamedTuple):
    """An array of all rows, which is never in memory."""

    dtype: np.dtype
    shape: tuple


def _in_file(part):
    """What rows have of their own, by name, in dtypes that files have."""
    return {name: array.view(np.uint8) if array.dtype == np.int8 else array for name, array in of_rows(part).items()}


def _of_all(codes):
    """The grid of codes, in JSON, and the arrays that all rows share, by name."""
    if isinstance(codes, Codewords):
        return None, {"book": codes.book}
    named: dict[str, np.ndarray] = {}

    def numbers(array):
        if len(array) == 1:
            return float(array[0])
        named[name := f"grid.{len(named)}"] = np.ascontiguousarray(array, np.float32)
        return name

    return codes.grid.spec.to_json(numbers), named


def load_codes(path, check: bool = False) -> Codes | Codewords:
    """The codes in a file, mapped into memory: rows are read from disk when they are first used.

    All but the packed rows is checked; with ``check`` these are read whole and checked too.
    """
    buffer = contents(path)
    try:
        header, arrays = container.read(buffer)
        if FORMAT not in header.metadata:
            raise ModelFileError(f"{path} holds no codes; a packed model is read by load().")
        content = container.parse_json(header.metadata[FORMAT])
        if content.get("version") != VERSION or set(content) != _KEYS or content["format"] != FORMAT:
            raise ModelFileError(
                f"{path} has version {content.get('version')!r:.80} of codes, this release reads {VERSION}; write it "
                "again, or use the release that wrote it."
            )
        digests, packed = content["sha256"], arrays["packed"]
        if not isinstance(digests, dict) or not isinstance(digests.get("packed"), str):
            raise ValueError("there must be a SHA-256 of each array")
        left_out = set() if check else {"packed"}
        known = ({name: part[name] for name in part if name not in left_out} for part in (arrays, digests))
        container.check_whole(header, *known)
        return _codes(content, arrays, packed)
    except ModelFileError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ModelFileError(f"{path} is no whole file of codes ({reason}); save it again.") from error


def _codes(content, arrays, packed):
    columns, grid = content["columns"], content["grid"]
    if type(columns) is not int or columns < 1:
        raise ValueError(f"{columns!r:.80} columns")
    if grid is None:
        return Codewords(packed, arrays["book"], columns)
    grid = Grid.of(from_json(grid, columns, arrays.__getitem__), columns)
    if not grid.per_row:
        return Codes(packed, grid, grid.scale, grid.zero)
    scale, zero, powers = arrays["scale"], arrays["zero"], arrays.get("powers")
    if not (np.isfinite(scale).all() and np.isfinite(zero).all()):
        raise ValueError("scales and zero points of rows must be finite")
    return Codes(packed, grid, scale, zero, None if powers is None else powers.view(np.int8))
