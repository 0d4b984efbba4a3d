"""Codes in files, and out of them, mapped; ``docs/format.md`` describes it."""

from __future__ import annotations

import json

import numpy as np

from .. import container
from ..codebook import Codewords
from ..errors import ModelFileError
from ..files import replace_file
from ..model_file import contents
from ..spec import from_json
from .codes import Codes
from .matrices import Grid

FORMAT, VERSION = "dgl-lowbit-codes", 1
_KEYS = {"format", "version", "columns", "grid", "sha256"}


def save_codes(codes: Codes | Codewords, path):
    """Write codes to a file, whole or not at all; returns ``path``."""
    arrays = {"packed": codes.packed}
    if isinstance(codes, Codewords):
        grid, columns, arrays["book"] = None, codes.columns, codes.book
    else:
        columns, per_row = codes.grid.columns, codes.grid.per_row
        arrays.update({"scale": codes.scale, "zero": codes.zero} if per_row else {})
        arrays.update({} if codes.powers is None else {"powers": codes.powers.view(np.uint8)})
        named = {}

        def numbers(array):
            if len(array) == 1:
                return float(array[0])
            named[name := f"grid.{len(named)}"] = np.ascontiguousarray(array, np.float32)
            return name

        grid = codes.grid.spec.to_json(numbers)
        arrays.update(named)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "columns": columns,
        "grid": grid,
        "sha256": container.sha256_of_each(arrays),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return replace_file(path, container.write(arrays, {FORMAT: text}))


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
