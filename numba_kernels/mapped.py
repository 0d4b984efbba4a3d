"""Memory in files: arrays that may be larger than what the machine has."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np


def mapped_bytes(folder, size: int, name: str | None = None) -> np.ndarray:
    """``size`` bytes of a file in ``folder``, mapped into memory, (size,) uint8.

    Without a name the file has none either: nobody else can open it, and it is gone with the array, however the process
    ends. With one it is made, or, where there is one of this size, mapped as it is.

    Parameters
    ----------
    folder : path-like
        On a disk: memory that stands there is written back and taken away when there is too little.
    size : int
    name : str, optional

    Raises
    ------
    FileNotFoundError
        When there is no such folder.
    OSError
        When the disk has no room for it; all of it is reserved at once, as a full disk would end the process later.
    """
    folder = existing_folder(folder)
    with tempfile.TemporaryFile(dir=folder, prefix=".lowbit-") if name is None else opened(folder / name) as file:
        reserve(file.fileno(), max(size, 1), folder)
        return np.frombuffer(mmap.mmap(file.fileno(), max(size, 1)), np.uint8)[:size]


def opened(path: Path) -> BinaryIO:
    """A file, to be read and written, made where there is none, that only its owner may read."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600), "r+b")


def mapped_array(folder, shape, dtype) -> np.ndarray:
    """An array in an unnamed file of ``folder``, or in memory where that is None, of undefined content."""
    if folder is None:
        return np.empty(shape, dtype)
    count = int(np.prod(shape, dtype=np.int64))
    return mapped_bytes(folder, count * np.dtype(dtype).itemsize).view(dtype).reshape(shape)


def existing_folder(folder) -> Path:
    """``folder``, which must be one: FileNotFoundError or NotADirectoryError."""
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no folder {folder}; make it, on a disk with room.")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder.")
    return folder


def reserve(file: int, size: int, folder) -> None:
    """Give a file a size, with room on disk for all of it."""
    try:
        if os.fstat(file).st_size != size:
            os.ftruncate(file, size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(
                error.errno, f"{folder} has no room for {size:,} bytes; name a folder of another disk"
            ) from error
        raise
