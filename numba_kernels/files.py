"""Files that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # no POSIX: what a killed process leaves stays
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS = fcntl is not None
# Short, so that a name may be as long as the system lets it be.
_PREFIX, _SUFFIX = ".lowbit-", ".tmp"
_COPIED = 1 << 22  # bytes at a time


def replace_file(path, data: bytes) -> Path:
    """Write ``data`` beside ``path``, bring it to disk and rename it into place.

    Whatever happens, ``path`` is the old file or the new one, whole. A file keeps its mode and its owner; one that is
    read-only is left alone. A link is followed, and stays. What killed processes left beside the file is removed.
    Where ``path`` is no regular file, as a pipe, it is written to.

    Parameters
    ----------
    path : path-like
    data : bytes

    Returns
    -------
    pathlib.Path
        ``path``.

    Raises
    ------
    FileNotFoundError
        When the folder does not exist.
    OSError
        When it cannot be written, as for a read-only file.
    """
    path = Path(path)
    if _is_special(path):
        path.write_bytes(data)
        return path
    with replacing(path) as file:
        file.write(data)
    return path


@contextlib.contextmanager
def replacing(path) -> Iterator[BinaryIO]:
    """A new file, to be written and read, that takes the place of ``path`` as :func:`replace_file` says.

    It does where the ``with`` block ends; where it fails the new file is removed. Where ``path`` is no regular file,
    as a pipe, the file is a temporary one, copied there.

    Raises
    ------
    FileNotFoundError, OSError
        As :func:`replace_file`; before the block begins.
    """
    if _is_special(Path(path)):
        with tempfile.TemporaryFile() as file, Path(path).open("wb") as special:
            yield file
            file.seek(0)
            shutil.copyfileobj(file, special, _COPIED)
        return
    place, before = checked_place(path)
    _remove_leftovers(place.parent)
    beside, handle = _new_file(place.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            if before is not None:
                _make_alike(handle, before)  # first: what only its owner may read must never be read by others
            yield file
            file.flush()
            os.fsync(handle)
            beside.replace(place)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(place.parent)


def move_into_place(kept: Path, path) -> None:
    """Bring the file ``kept`` to disk and let it take the place of ``path``, also on another disk."""
    place, before = checked_place(path)
    with kept.open("r+b") as file:
        os.fsync(file.fileno())
        if kept.stat().st_dev == place.parent.stat().st_dev:
            if before is not None:
                _make_alike(file.fileno(), before)
            elif hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), 0o666 & ~_umask())
            kept.replace(place)
            sync_folder(place.parent)
            return
        with replacing(path) as copy:
            shutil.copyfileobj(file, copy, _COPIED)
    kept.unlink()


def checked_place(path) -> tuple[Path, os.stat_result | None]:
    """Where a file that replaces ``path`` is put, links followed, and what stands there now.

    Raises
    ------
    FileNotFoundError, OSError
        As :func:`replace_file`, and where ``path`` is no regular file.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it.")
    if _is_special(path):
        raise OSError(errno.EINVAL, f"{path} is no regular file, which is written in parts; name one.")
    before = path.stat() if path.exists() else None
    try:
        place = path.resolve()
    except RuntimeError as error:  # as Python before 3.13 says that links lead in a circle
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error
    if not place.parent.is_dir():
        raise FileNotFoundError(f"no folder {place.parent} to write {place.name} to.")
    if before is not None and not (before.st_mode & 0o222 and os.access(place, os.W_OK)):
        raise PermissionError(f"{place} is read-only; make it writeable, or write to another file.")
    return place, before


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _new_file(folder: Path) -> tuple[Path, int]:
    """A new file of the process's own in a folder, open and locked as long as it is written."""
    while True:
        beside = folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
        lock_file(handle)
        if beside.exists():  # another process may have taken it for a left-over before it was locked
            return beside, handle
        os.close(handle)


def lock_file(handle: int) -> bool:
    """Whether the file is locked now, where the file system can."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (AttributeError, OSError):
        return False
    return True


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes were writing that are no more: nobody holds its lock."""
    with contextlib.suppress(OSError):
        for beside in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                handle = os.open(beside, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
                try:
                    if lock_file(handle):
                        beside.unlink()
                finally:
                    os.close(handle)


def _make_alike(handle: int, before: os.stat_result) -> None:
    """Give a file the owner and the mode of another."""
    now = os.fstat(handle)
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        os.chown(handle, before.st_uid, before.st_gid)
    if hasattr(os, "fchmod"):
        os.fchmod(handle, stat.S_IMODE(before.st_mode))


def sync_folder(folder: Path) -> None:
    """Bring the new name to disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
