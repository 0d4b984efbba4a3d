"""What is built from the sources: a wheel and a source distribution, installed where nothing else of ours is."""

import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import dgl_lowbit
import numba_kernels

ROOT = Path(__file__).parents[1]
PACKAGES = ("dgl_lowbit", "numba_kernels")
OTHERS = ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg", "setup.py")
# Nothing is found but what is installed.
ALONE = {"PYTHONPATH": ""}


def run(*arguments, cwd, **environment):
    done = subprocess.run(
        list(map(str, arguments)), cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel, made of the source distribution, and that."""
    pytest.importorskip("build")
    sources, folder = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("dist")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in OTHERS:
        shutil.copy(ROOT / name, sources)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, sources, cwd=folder)
    [wheel], [source] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, source


def test_one_version_everywhere():
    cited, latest = (
        re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)[1]
        for file, pattern in (("CITATION.cff", r"^version: (\S+)$"), ("CHANGELOG.md", r"^## (\S+)$"))
    )
    assert dgl_lowbit.__version__ == numba_kernels.__version__ == cited
    assert latest in (cited, "Unreleased")


@pytest.mark.slow
def test_distributions_hold_the_packages_and_nothing_else(built):
    wheel, source = built
    files = (path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file())
    listed = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert held == listed
        [metadata] = (name for name in archive.namelist() if name.endswith("/METADATA"))
        assert "Provides-Extra: completion" in archive.read(metadata).decode()
    with tarfile.open(source) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
        assert {*listed, *OTHERS} <= held


@pytest.mark.slow
def test_the_wheel_runs_where_it_is_installed(built, tmp_path):
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv/bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", built[0], cwd=tmp_path, **ALONE)
    # What it depends on is taken from here; .pth files of ours are not read there.
    [packages] = (tmp_path / "venv/lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    assert str(packages) in run(python, "-c", "import dgl_lowbit; print(dgl_lowbit.__file__)", cwd=tmp_path, **ALONE)
    command = tmp_path / "venv/bin/dgl-lowbit"
    assert "demo" in run(command, "--help", cwd=tmp_path, **ALONE)
    assert "| float32 | " in run(command, "demo", "--bits", "2", "--epochs", "1", cwd=tmp_path, **ALONE)
