"""Files of packed models from bytes that atheris draws, led by which lines of ``numba_kernels`` they reach.

    pip install atheris && python benchmarks/guided_fuzz.py -max_total_time=1200 [other options of libFuzzer]

The bytes are the JSON of a file; sealed again with the arrays of ``tests/data`` it is loaded. Anything else than a
model or a ModelFileError ends the program with the bytes that led to it. What loads, ``fuzz.py plans`` runs.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

with atheris.instrument_imports(include=["numba_kernels"]):
    import numba_kernels
    from numba_kernels import container, model_file

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
MODELS = [numba_kernels.load(DATA / f"version{version}.safetensors") for version in (2, 3)]
ARRAYS = {name: array for model in MODELS for name, array in model.plan.arrays.items()}
DIGESTS = {name: container.sha256(array) for name, array in ARRAYS.items()}


def text_of(model) -> bytes:
    header, _ = container.read(model.to_bytes())
    content = json.loads(header.metadata[model_file.FORMAT])
    content.pop("sha256")
    return json.dumps(content).encode()


def one(data: bytes) -> None:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(content, dict):
        return
    text = json.dumps({**content, "sha256": DIGESTS})
    with contextlib.suppress(numba_kernels.ModelFileError):
        numba_kernels.PackedModel.from_bytes(container.write(ARRAYS, {model_file.FORMAT: text}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as corpus:
        for number, model in enumerate(MODELS):
            Path(corpus, str(number)).write_bytes(text_of(model))
        atheris.Setup([*sys.argv, "-max_len=20000", corpus], one)
        atheris.Fuzz()
