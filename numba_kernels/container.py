"""safetensors files of NumPy arrays: a length, a header in JSON, the bytes of the arrays.

Written so that the same arrays give the same bytes, and sealed: the header holds a SHA-256 of itself. Read without
copying, and without trust.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

DTYPES = {"I64": np.dtype("<i8"), "F32": np.dtype("<f4"), "U8": np.dtype("u1"), "BOOL": np.dtype("?")}
MOST_HEADER_BYTES = 100_000_000
_UNSEALED = "0" * 64
_METADATA, _SEAL = "__metadata__", "sha256"


class Header(NamedTuple):
    """What a file says of its arrays."""

    metadata: dict[str, str]
    entries: dict
    is_sealed: bool  # and the seal is whole
    size: int  # bytes before the arrays


def sha256(array: np.ndarray) -> str:
    """The digest of an array's bytes, in hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def sha256_of_each(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """The digests of arrays by name."""
    return {name: sha256(array) for name, array in arrays.items()}


def sha256_of_all(arrays: dict[str, np.ndarray]) -> str:
    """The digest of the digests of arrays, one after another in the order of their names."""
    return hashlib.sha256("".join(digest for _, digest in sorted(sha256_of_each(arrays).items())).encode()).hexdigest()


def check_whole(header: Header, arrays: dict[str, np.ndarray], digests) -> None:
    """Raise ValueError unless the header is sealed and holds the digest of each array, or that of all."""
    if not header.is_sealed:
        raise ValueError("the header has no SHA-256")
    check_digests(arrays, digests)


def check_digests(arrays: dict[str, np.ndarray], digests) -> None:
    """Raise ValueError unless ``digests`` holds that of each array, or is that of all."""
    if isinstance(digests, str):
        if digests != sha256_of_all(arrays):
            raise ValueError("an array is damaged, the SHA-256 of all differs")
        return
    if not isinstance(digests, dict) or set(digests) != set(arrays):
        raise ValueError("there must be a SHA-256 of each array")
    for name, array in arrays.items():
        if sha256(array) != digests[name]:
            raise ValueError(f"array {name!r:.80} is damaged, its SHA-256 differs")


def write(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """The file of ``arrays``, of the widest dtype first and then by name, and of ``metadata``, sealed."""
    start, places = begin(arrays, metadata)
    return b"".join([start, *(np.ascontiguousarray(arrays[name]).tobytes() for name in places)])


def begin(arrays: Mapping, metadata: dict[str, str]) -> tuple[bytes, dict[str, int]]:
    """The bytes of a file before its arrays, and at which byte of it each of them begins, in their order.

    ``arrays`` may be anything with a ``dtype`` and a ``shape``. The length does not depend on what metadata say, but on
    how long they are.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, dict] = {_METADATA: {**metadata, _SEAL: _UNSEALED}}
    places, end = {}, 0
    for name, array in sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        places[name], shape = end, [*array.shape]
        end += math.prod(shape) * array.dtype.itemsize
        header[name] = {"dtype": names[array.dtype], "shape": shape, "data_offsets": [places[name], end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    text = text.replace(_seal(_UNSEALED), _seal(hashlib.sha256(text).hexdigest()))
    start = len(text).to_bytes(8, "little") + text
    return start, {name: len(start) + place for name, place in places.items()}


def read(buffer) -> tuple[Header, dict[str, np.ndarray]]:
    """The header and the arrays of a file's bytes, read-only views of them where they are aligned.

    Raises
    ------
    ValueError, RecursionError, MemoryError
        When they are no such file, or not a whole one.
    """
    header = read_header(buffer)
    return header, _arrays(header.entries, memoryview(buffer)[header.size :])


def read_header(buffer) -> Header:
    """The header of a file's bytes, whose seal, if it has one, is checked.

    Raises
    ------
    ValueError, RecursionError, MemoryError
        When they are no such file, or not a whole one.
    """
    view = memoryview(buffer)
    length = int.from_bytes(view[:8], "little")
    if len(view) < 8 or not 0 < length <= min(len(view) - 8, MOST_HEADER_BYTES):
        raise ValueError(f"a header of {length} bytes in a file of {len(view)}")
    text = bytes(view[8 : 8 + length])
    header = parse_json(text.decode())
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata must be strings")
    seal = metadata.pop(_SEAL, None)
    if seal is not None and (text.count(_seal(seal)) != 1 or _unsealed_digest(text, seal) != seal):
        raise ValueError("the header is damaged, its SHA-256 differs")
    return Header(metadata, header, seal is not None, 8 + length)


def parse_json(text: str) -> dict:
    """A JSON object; ValueError for anything else, and where a key stands twice."""
    content = json.loads(text, object_pairs_hook=_without_repeats)
    if not isinstance(content, dict):
        raise ValueError("expected a JSON object")
    return content


def _without_repeats(pairs):
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands twice")
    return content


def _seal(digest: str) -> bytes:
    return f'"{_SEAL}":"{digest}"'.encode()


def _unsealed_digest(text: bytes, seal: str) -> str:
    return hashlib.sha256(text.replace(_seal(seal), _seal(_UNSEALED))).hexdigest()


def _arrays(header, data):
    """The arrays that a header describes, whose bytes must follow each other and be all there is."""
    arrays, places = {}, []
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"array {name!r:.80} has no dtype, shape and offsets")
        dtype, shape, offsets = DTYPES.get(str(entry["dtype"])), entry["shape"], entry["data_offsets"]
        if dtype is None:
            raise ValueError(f"array {name!r:.80} has dtype {entry['dtype']!r:.80}; known are {', '.join(DTYPES)}")
        if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or len(shape) > 32:
            raise ValueError(f"array {name!r:.80} has shape {shape!r:.80} at {offsets!r:.80}")
        (start, stop), count = offsets, math.prod(shape)
        if stop - start != count * dtype.itemsize or stop > len(data):
            raise ValueError(f"array {name!r:.80} of shape {shape!r:.80} stands in bytes {start} to {stop}")
        places.append((start, stop))
        array = np.frombuffer(data[start:stop], dtype).reshape(shape)
        if dtype == np.bool_ and (array.view(np.uint8) > 1).any():
            raise ValueError(f"array {name!r:.80} holds what is no bool")
        arrays[name] = array if array.flags.aligned else np.array(array)
    ends = [0, *(stop for _, stop in sorted(places))]
    if ends[:-1] != sorted(start for start, _ in places) or ends[-1] != len(data):
        raise ValueError(f"arrays do not fill the {len(data)} bytes after the header")
    return arrays


def _are_sizes(numbers) -> bool:
    return isinstance(numbers, list) and all(type(number) is int and 0 <= number < 2**60 for number in numbers)
