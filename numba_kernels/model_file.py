"""The file of a packed model: plan, arrays, and what is known of its making; ``docs/format.md`` describes it."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

from . import container
from .errors import ModelFileError
from .plan import Plan, PlanError

FORMAT, VERSION, OLDEST_VERSION = "dgl-lowbit", 5, 2
_SEALED_SINCE, _ONE_DIGEST_SINCE = 4, 5
_ZIP = b"PK\x03\x04"
_PLAN = ("inputs", "ops", "outputs", "returns", "heads")


def version_of(plan: Plan) -> int:
    """The oldest version of the format that has all that a plan says."""
    is_new = any("columns" in entry for entry in plan.inputs) or any("dead_zone" in op for op in plan.ops)
    return VERSION if is_new else _SEALED_SINCE


def encode(plan: Plan, info: dict) -> bytes:
    """The file's content; the same model always gives the same bytes."""
    version, arrays = version_of(plan), plan.arrays
    is_of_all = version >= _ONE_DIGEST_SINCE
    content = {
        "format": FORMAT,
        "version": version,
        **{part: getattr(plan, part) for part in _PLAN},
        "info": info,
        "sha256": container.sha256_of_all(arrays) if is_of_all else container.sha256_of_each(arrays),
    }
    return container.write(plan.arrays, {FORMAT: json.dumps(content, sort_keys=True, separators=(",", ":"))})


def read(path) -> tuple[Plan, dict]:
    """Plan and info of a file, whose arrays are mapped into memory.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ModelFileError
        When the file is truncated, damaged, of another kind, or of a newer version.
    """
    return decode(contents(path), path)


def contents(path):
    """The bytes of a file, mapped into memory.

    Raises
    ------
    FileNotFoundError, ModelFileError
        When there is no such file, or it cannot be read.
    """
    try:
        if Path(path).is_dir():
            raise ModelFileError(f"{path} is a folder; name a file in it.")
        if not Path(path).is_file():
            raise FileNotFoundError(f"no model file at {path}.")
        with Path(path).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, ModelFileError):
        raise
    except (OSError, ValueError) as error:  # an empty file is a ValueError
        raise ModelFileError(f"{path} is not a whole dgl-lowbit model: {error}.") from error


def decode(buffer, name="the file") -> tuple[Plan, dict]:
    """Plan and info of a file's bytes; ``name`` is what messages call it.

    Raises
    ------
    ModelFileError
        As :func:`read`.
    """
    try:
        header, arrays = container.read(buffer)
        content = _content(header, arrays, name)
        if not isinstance(content["info"], dict):
            raise ValueError(f"info must be an object, got {content['info']!r:.80}")
        inputs, ops, outputs, returns, heads = (content[part] for part in _PLAN)
        return Plan(inputs, ops, outputs, arrays, returns, heads), content["info"]
    except ModelFileError:
        raise
    except PlanError as error:
        raise ModelFileError(f"{name} holds no runnable model: {error}") from error
    except (ValueError, LookupError, RecursionError, MemoryError) as error:
        reason, instead = f"{type(error).__name__}: {error}", "save it again"
        if bytes(buffer[:4]) == _ZIP:
            reason, instead = "a ZIP archive, as torch.save writes", "freeze the model, and save what that gives"
        elif bytes(buffer[8:9]) != b"{":
            reason, instead = "no safetensors file", "load the file that a packed model's save wrote"
        raise ModelFileError(f"{name} is not a whole dgl-lowbit model ({reason}); {instead}.") from error


def _content(header: container.Header, arrays, name) -> dict:
    """What the metadata say, after the digests of the arrays are checked."""
    content = container.parse_json(header.metadata[FORMAT])
    version = content["version"]
    if type(version) is not int or not OLDEST_VERSION <= version <= VERSION:
        raise ModelFileError(
            f"{name} has format version {version!r:.80}, this release reads {OLDEST_VERSION} to {VERSION}; freeze the "
            "model again with it, or use the release that wrote the file."
        )
    digests = content.pop("sha256", None)
    if version >= _SEALED_SINCE:
        container.check_whole(header, arrays, digests)
    elif digests is not None:
        container.check_digests(arrays, digests)
    unknown = set(content) - {"format", "version", "info", *_PLAN}
    if unknown:
        raise ValueError(f"unknown {', '.join(sorted(unknown))!r:.80}")
    return content
