"""What stands between the stages of a run in files: more than memory holds, and there to go on from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .._version import __version__
from ..errors import GraphError, LowBitError
from ..files import HAS_LOCKS, lock_file, replace_file
from ..graph import Graph
from ..mapped import existing_folder, mapped_bytes
from .features import rows_of
from .memory import Arena

_RECORD, _STATES, _RESULT = "run.json", "run.states", "run.result"
# Rows of features that a run is known again by.
_SAMPLED = 1024


class StatesError(LowBitError, ValueError):
    """A folder that holds the states of another run, or is in use."""


class States(Arena):
    """The memory between stages as a file of a folder, and a record of how many stages are complete.

    Attributes
    ----------
    folder : Path
    most_memory : int
        Bytes of states that may be read at random at a time.
    is_kept : bool
        Whether another process can go on from the files alone.
    """

    def __init__(self, folder: Path, identity: str, most_memory: int):
        self.folder, self.most_memory, self._identity, self._done = folder, most_memory, identity, 0
        self.is_kept = False
        super().__init__()
        with contextlib.suppress(FileNotFoundError):
            self._read_record()

    @property
    def result(self) -> Path:
        """Where a result stands until it is whole."""
        return self.folder / _RESULT

    def new(self, size: int) -> np.ndarray:
        return mapped_bytes(self.folder, size, _STATES)

    @property
    def done(self) -> int:
        """Stages that are complete already and need not run."""
        return self._done if self.is_kept else 0

    def after_stage(self, run, number: int) -> None:
        """Record that the first stages up to ``number`` are complete."""
        if self.is_kept:
            stages = {"stages": number + 1, "of": len(run.assembled.costs)}
            record = {"run": self._identity, "boot": _boot(), "files": self._files(), **stages}
            replace_file(self.folder / _RECORD, json.dumps(record).encode())

    def remove(self) -> None:
        """Remove all files of the run."""
        self.release()
        for name in (_RECORD, _STATES, _RESULT):
            (self.folder / name).unlink(missing_ok=True)

    def _read_record(self):
        try:
            record = json.loads((self.folder / _RECORD).read_text())
            identity, boot, files = record["run"], record["boot"], record["files"]
            stages, total = record["stages"], record["of"]
            if type(stages) is not int or type(total) is not int or not 1 <= stages <= total:
                raise ValueError(f"{stages} stages of {total}")
        except (ValueError, KeyError, TypeError) as error:
            raise StatesError(f"{self.folder / _RECORD} is damaged ({error}); {self._advice()}") from error
        if identity != self._identity:
            raise StatesError(
                f"{self.folder} holds the states of a run of another model, graph or features; {self._advice()}"
            )
        # Of another start of the machine, what was written last may not have come to disk.
        if boot == _boot() and boot and files == self._files():
            self._done = stages

    def _files(self):
        """Which files the states and the result stand in, so that others in their place are not taken for them."""
        places = (self.folder / name for name in (_STATES, _RESULT))
        found = (place.stat() for place in places if place.exists())
        return [[status.st_ino, status.st_size] for status in found]

    def _advice(self):
        return f"name another folder, or remove {_RECORD}, {_STATES} and {_RESULT} from it."


@contextlib.contextmanager
def states_in(folder, identity: str, most_memory: int) -> Iterator[States]:
    """The states of a run in ``folder``, one at a time; its files are removed when the ``with`` block ends.

    Where the block fails they stay, to go on from, but for faults of what was given.

    Raises
    ------
    StatesError
        Where another process has a run in the folder, or there are the states of another run.
    FileNotFoundError, OSError
        When there is no such folder, or no file can be made there.
    """
    place = existing_folder(folder)
    handle = os.open(place, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)) if HAS_LOCKS else None
    try:
        if handle is not None and not lock_file(handle):
            raise StatesError(f"another process has a run in {place}; name another folder.")
        states = States(place, identity, most_memory)
        try:
            yield states
        except GraphError:
            states.remove()
            raise
        except BaseException:
            states.release()
            raise
        states.remove()
    finally:
        if handle is not None:
            os.close(handle)


def identity_of(model: bytes, inputs: dict) -> str:
    """What a run is known by: the file of its model, and its inputs by value; of features some rows."""
    digest = hashlib.sha256(f"{__version__}\0".encode())
    digest.update(model)
    for value, given in inputs.items():
        digest.update(f"\0{value}\0".encode())
        _add(digest, given)
    return digest.hexdigest()


def _add(digest, given):
    if isinstance(given, dict):
        for key, part in given.items():
            digest.update(repr(key).encode())
            _add(digest, part)
    elif isinstance(given, (list, tuple)):
        for part in given:
            _add(digest, part)
    elif isinstance(given, Graph):
        digest.update(repr((given.num_src, given.num_dst, given.num_edges, given.is_block)).encode())
        for array in (given.indptr, given.fetched, given.edge_ids, given.batch_starts):
            _add(digest, array)
    elif isinstance(given, np.ndarray):
        digest.update(repr((given.dtype, given.shape)).encode())
        digest.update(np.ascontiguousarray(given).reshape(-1).view(np.uint8))
    elif hasattr(given, "shape"):  # features, of which as much is read as there is
        digest.update(repr((tuple(given.shape), getattr(given, "written", None))).encode())
        for row in np.unique(np.linspace(0, max(len(given) - 1, 0), _SAMPLED).astype(np.int64)[: len(given)]).tolist():
            digest.update(rows_of(given, row, row + 1))
    elif given is not None:
        digest.update(repr(given).encode())


def _boot() -> str:
    """Which start of the machine this is; empty where that is not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
