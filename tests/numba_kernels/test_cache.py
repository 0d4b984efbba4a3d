"""Where compiled kernels are kept."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import numba_kernels
from numba_kernels.cache import source_digest

from .plans import JIT_OFF

pytestmark = pytest.mark.skipif(JIT_OFF, reason="nothing is compiled")
SOURCES = Path(numba_kernels.__file__).parent
CODE = """
import numpy as np
import numba_kernels as nk
from numba_kernels.kernels.instruction import Instruction
callback = Instruction.callback
loaded = []
Instruction.callback = lambda self, *variant: loaded.append(callback(self, *variant)) or loaded[-1]
codes = nk.quantize(np.ones((2, 8), np.float32), nk.Grid(8, 2, scale=1.0))
print(codes.unpacked().sum(), sum(code.cache_hits for code in loaded), len(loaded))
"""


def run(before="", **environment):
    environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    done = subprocess.run([sys.executable, "-c", before + CODE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    total, hits, compiled = map(int, done.stdout.split())
    assert total == 16
    return hits == compiled, done.stderr


def files(folder):
    return sorted(folder.rglob("*.nbc"))


@pytest.mark.parametrize("part", ["kernels/gather.py", "plan/ops/linear.py", "simd/ops.py", "graph.py"])
def test_an_edit_in_any_folder_changes_the_digest(tmp_path, part):
    copy = shutil.copytree(SOURCES, tmp_path / "numba_kernels", ignore=shutil.ignore_patterns("__pycache__"))
    before = source_digest.__wrapped__(copy)
    assert before == source_digest.__wrapped__(SOURCES)
    (copy / part).write_text((copy / part).read_text() + "\n")
    assert source_digest.__wrapped__(copy) != before


@pytest.mark.slow
def test_what_one_process_compiled_the_next_one_loads(tmp_path):
    was_loaded, _ = run(NUMBA_CACHE_DIR=tmp_path)
    assert not was_loaded
    (folder,) = (tmp_path / "numba_kernels").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    was_loaded, errors = run(NUMBA_CACHE_DIR=tmp_path)
    assert was_loaded and "compiling" not in errors


@pytest.mark.slow
def test_damaged_files_are_compiled_anew_and_mended(tmp_path):
    run(NUMBA_CACHE_DIR=tmp_path)
    damages = [lambda data: b"", lambda data: data[:99], lambda data: data[:60] + b"x"]
    sound = {path: path.read_bytes() for path in files(tmp_path)}
    assert len(sound) >= len(damages)
    for damage, path in zip(itertools.cycle(damages), sound):
        path.write_bytes(damage(sound[path]))
    assert not run(NUMBA_CACHE_DIR=tmp_path)[0]
    assert run(NUMBA_CACHE_DIR=tmp_path)[0]


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_only_warns(tmp_path):
    (tmp_path / "file").write_text("")
    was_loaded, errors = run(NUMBA_CACHE_DIR=tmp_path / "file")
    assert not was_loaded and errors.count("compiled kernels cannot be kept") == 1
    assert "NUMBA_CACHE_DIR to a folder of yours" in errors


READ_ONLY = """
import errno, os, tempfile
def refuse(*args, **kwargs):
    raise OSError(errno.EROFS, "Read-only file system")
os.utime = tempfile.mkstemp = refuse
"""
FULL = """
import errno, pathlib
def refuse(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")
pathlib.Path.replace = refuse
"""


@pytest.mark.slow
def test_kernels_are_read_from_a_folder_that_cannot_be_written(tmp_path):
    run(NUMBA_CACHE_DIR=tmp_path)
    was_loaded, errors = run(READ_ONLY, NUMBA_CACHE_DIR=tmp_path)
    assert was_loaded and "cannot be kept" not in errors
    for path in files(tmp_path):
        path.unlink()
    was_loaded, errors = run(READ_ONLY, NUMBA_CACHE_DIR=tmp_path)
    assert not was_loaded and errors.count("cannot be kept (Read-only file system)") == 1


@pytest.mark.slow
def test_a_full_disk_only_warns_and_keeps_nothing(tmp_path):
    was_loaded, errors = run(FULL, NUMBA_CACHE_DIR=tmp_path)
    assert not was_loaded and errors.count("cannot be kept (No space left on device)") == 1
    (folder,) = (tmp_path / "numba_kernels").iterdir()
    assert not list(folder.iterdir())


@pytest.mark.slow
def test_a_folder_open_to_others_is_not_used(tmp_path):
    run(NUMBA_CACHE_DIR=tmp_path)
    (folder,) = (tmp_path / "numba_kernels").iterdir()
    folder.chmod(0o777)
    was_loaded, errors = run(NUMBA_CACHE_DIR=tmp_path)
    assert not was_loaded and "open to others" in errors


@pytest.mark.slow
def test_folders_of_other_versions_are_pruned(tmp_path):
    for n in range(9):
        (tmp_path / "numba_kernels" / f"old{n}").mkdir(parents=True)
        os.utime(tmp_path / "numba_kernels" / f"old{n}", (n, n))
    run(NUMBA_CACHE_DIR=tmp_path)
    kept = {path.name for path in (tmp_path / "numba_kernels").iterdir()}
    assert len(kept) == 4 and {"old8", "old7", "old6"} < kept


@pytest.mark.slow
def test_home_is_used_where_nothing_else_is_said(tmp_path):
    environment = {"HOME": tmp_path, "XDG_CACHE_HOME": "", "NUMBA_CACHE_DIR": ""}
    run(**environment)
    assert files(tmp_path / ".cache" / "numba_kernels") or files(tmp_path / "Library")


@pytest.mark.slow
def test_warming_up_a_file_leaves_nothing_to_compile(tmp_path):
    import numpy as np

    from .plans import PlanBuilder, per_row, static

    rng = np.random.default_rng(0)
    b = PlanBuilder()
    h = b.linear(b.quantize(1, per_row(4, rng), 30), rng, 30, 20, 2)
    h = b.add("aggregate", 0, b.quantize(h, static(2, 20, rng, False), 20), 2, None)
    path = b.model(["graph", "features", "edge_weight"], h).save(tmp_path / "model.safetensors")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "numba_kernels", "warm-up"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stdout.startswith(str(tmp_path / "cache")), done.stderr
    before = files(tmp_path / "cache")
    code = f"""
import numpy as np, numba_kernels as nk
model, ring = nk.load({str(path)!r}), ([0, 1, 2, 3], [1, 2, 0])
for weight in (np.ones(3, np.int8), np.ones(3)):
    model(ring, np.random.rand(3, 30), weight)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert files(tmp_path / "cache") == before and len(before) > 5
    done = subprocess.run([*command, "missing"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "no model file at missing" in done.stderr
