"""A result written to an .npy file as it is computed."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .array_files import ArrayFileError
from .files import checked_place, move_into_place, replacing
from .mapped import opened, reserve

_HEADER_BYTES = 256


class ResultFile:
    """An ``.npy`` file that is not whole yet, open as ``file``."""

    def __init__(self, file):
        self._file, self._array = file, None

    def array(self, shape: tuple, dtype=np.float32) -> np.ndarray:
        """The array of the file, mapped into memory; what it holds if it is as large already, else of zeros."""
        size = _HEADER_BYTES + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        reserve(self._file.fileno(), size, "the disk of the result")
        self._mapped = mmap.mmap(self._file.fileno(), size)
        self._array = np.frombuffer(self._mapped, dtype, offset=_HEADER_BYTES).reshape(shape)
        return self._array

    def describe(self, shape: tuple) -> None:
        """Write the header, which says that the array is of ``shape``."""
        dtype = np.lib.format.dtype_to_descr(self._array.dtype)
        text = repr({"descr": dtype, "fortran_order": False, "shape": tuple(map(int, shape))})
        start = b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little")
        self._mapped[:_HEADER_BYTES] = start + text.encode().ljust(_HEADER_BYTES - len(start) - 1) + b"\n"


@contextlib.contextmanager
def result_file(path, kept: Path | None = None) -> Iterator[ResultFile]:
    """A file for a result, which becomes ``path`` when the ``with`` block ends, whole or not at all.

    Parameters
    ----------
    path : path-like
        An ``.npy`` file.
    kept : pathlib.Path, optional
        Where it stands until then, also when the block fails, to be gone on with. Default: beside ``path``, and it is
        removed when the block fails.

    Raises
    ------
    ArrayFileError
        For another name than ``.npy``.
    OSError
        When it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise ArrayFileError(f"the result must go to a file named .npy, got {path}.")
    checked_place(path)
    if kept is None:
        with replacing(path) as file:
            yield ResultFile(file)
        return
    with opened(kept) as file:
        yield ResultFile(file)
    move_into_place(kept, path)
