"""Checks made before DGL is imported, so that what fails says why in one line."""

from __future__ import annotations

import os
import re
from importlib import metadata

from ._version import __version__


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"\d+(\.\d+)*", version).group().split("."))


def check_versions(dgl: str, torch: str) -> None:
    """Raise ImportError for a DGL that cannot be imported beside the given torch.

    Parameters
    ----------
    dgl, torch : str
        Version strings as ``importlib.metadata`` reports them.

    >>> check_versions("1.1.3", "2.13.0+cpu")
    >>> check_versions("2.1.0", "2.2.1")
    """
    if (2, 0) <= _release(dgl) < (2, 2) and _release(torch) >= (2, 2, 2):
        raise ImportError(
            f"DGL {dgl} cannot be imported beside torch {torch}: its graphbolt library and "
            "torchdata.datapipes are missing there. Install a pair that works: "
            "pip install 'dgl==1.1.3', or keep DGL 2.1.0 with 'torch<2.2.2'."
        )


def check_kernels() -> None:
    """Raise ImportError where ``numba_kernels`` is not of this release.

    dgl-lowbit-runtime installs the same folder: the later installation replaces it, and uninstalling either removes it.
    """
    try:
        from numba_kernels._version import __version__ as found
    except ModuleNotFoundError:
        found = "none"
    if found != __version__:
        raise ImportError(
            f"dgl_lowbit {__version__} needs the numba_kernels of the same release, found {found}; dgl-lowbit-runtime "
            "installs, and removes, the same folder: install dgl-lowbit again, with pip's --force-reinstall --no-deps."
        )


def prepare() -> None:
    """Check what is installed and choose DGL's PyTorch backend where the user chose none."""
    try:
        versions = metadata.version("dgl"), metadata.version("torch")
    except metadata.PackageNotFoundError as missing:
        raise ImportError(
            f"dgl_lowbit needs {missing.name}, which is not installed: pip install 'dgl>=1.1.3' torch."
        ) from None
    check_versions(*versions)
    check_kernels()
    os.environ.setdefault("DGLBACKEND", "pytorch")
