"""Where compiled kernels are kept: a folder a user, shared by all environments that compile the same code.

``$NUMBA_CACHE_DIR`` or ``~/.cache``, then ``numba_kernels/<key>``, where the key is a digest of everything that machine
code depends on: the sources of this package, the versions of Numba, llvmlite and Python, Numba's settings, the name and
features of the processor. A file holds one function: a checksum, then what Numba needs to load it. It is pickle, so the
folder must be the user's own and closed to others.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import llvmlite
import numba
from numba.core import compiler
from numba.core.caching import _Cache
from numba.core.registry import cpu_target

_KEPT_FOLDERS = 4
_DIGEST_BYTES = hashlib.sha256().digest_size


@functools.cache
def source_digest(folder: Path = Path(__file__).parent) -> str:
    """Digest of all sources below ``folder``, with their places: an edit in any file of any folder changes it."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def machine_key() -> str:
    """Name of the folder of kernels for this code, these versions and this processor."""
    names = "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "THREADING_LAYER", "BOUNDSCHECK", "DEBUGINFO_DEFAULT"
    settings = tuple(getattr(numba.config, name) for name in names)
    facts = (
        source_digest(), numba.__version__, llvmlite.__version__, platform.python_implementation(),
        sys.version_info[:3], settings, cpu_target.target_context.codegen().magic_tuple(),
    )  # fmt: skip
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def parent_folder() -> Path:
    """Where folders of kernels stand."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return Path(os.environ["NUMBA_CACHE_DIR"]) / "numba_kernels"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "numba_kernels"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "numba_kernels"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba_kernels"


@functools.cache
def folder() -> Path | None:
    """The folder of this process, made if need be; None, after a warning, where there can be none.

    Kernels are read from one that cannot be written, as in an image that was warmed up.
    """
    try:
        path = parent_folder() / machine_key()
        is_new = not path.is_dir()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_others(path)
        if is_new:
            _prune(path.parent, path)
        with contextlib.suppress(OSError):
            os.utime(path)
        return path
    except (OSError, RuntimeError) as error:
        _warn_once(str(error))
        return None


@functools.cache
def _warn_once(error: str):
    warnings.warn(
        f"numba_kernels: compiled kernels cannot be kept ({error}), so every process compiles them anew; set "
        "NUMBA_CACHE_DIR to a folder of yours that can be written.",
        RuntimeWarning,
        stacklevel=3,
    )


def _refuse_others(path: Path):
    if not hasattr(os, "geteuid"):
        return
    status = path.lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(f"{path} belongs to another user or is open to others; it holds code, so make it 0700")


def _prune(parent: Path, current: Path):
    """Remove folders of other versions but those used last."""
    others = [path for path in parent.iterdir() if path.is_dir() and path != current]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT_FOLDERS - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


class KernelCache(_Cache):
    """One function's compiled overloads, a file each, in the form Numba's dispatchers and callbacks ask for.

    A file that is damaged counts as absent and is replaced.
    """

    def __init__(self, name: str):
        self._name = name

    @property
    def cache_path(self):
        return str(folder())

    def enable(self):
        """Numba's interface; always on."""

    def disable(self):
        """Numba's interface; always on."""

    def flush(self):
        """Remove the files of this function."""
        for path in folder().glob(f"{self._name}-*.nbc") if folder() else ():
            path.unlink(missing_ok=True)

    def _path(self, signature):
        digest = hashlib.sha256(repr(signature).encode()).hexdigest()[:16]
        return None if folder() is None else folder() / f"{self._name}-{digest}.nbc"

    def load_overload(self, sig, target_context):
        path = self._path(sig)
        if path is None or not path.is_file():
            return None
        target_context.refresh()
        try:
            content = path.read_bytes()
            if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
                return None
            return compiler.CompileResult._rebuild(target_context, *pickle.loads(content[_DIGEST_BYTES:]))
        except Exception:  # whatever is wrong with a file of the cache, compiling mends it
            return None

    def save_overload(self, sig, data):
        path = self._path(sig)
        if path is None:
            return
        content = pickle.dumps(data._reduce())
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            beside = Path(name)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(content).digest() + content)
                beside.replace(path)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise
        except OSError as error:  # a full disk, a folder that is gone or read-only: compiled it is all the same
            _warn_once(error.strerror)
