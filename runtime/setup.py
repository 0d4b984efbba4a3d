"""The folder ``numba_kernels`` by itself: from beside this folder, in a source distribution from within."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.sdist import sdist

NAME = "numba_kernels"
SOURCE = next(path for path in (Path("..", NAME), Path(NAME)) if path.is_dir())


class SelfContained(sdist):
    """A source distribution that holds the folder itself, not a path out of it."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, [name for name in files if ".." not in Path(name).parts])
        shutil.copytree(SOURCE, Path(base_dir, NAME), ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


setup(
    version=re.search(r'__version__ = "(.+)"', Path(SOURCE, "_version.py").read_text()).group(1),
    packages=[NAME, *(f"{NAME}.{package}" for package in find_packages(str(SOURCE)))],
    package_dir={NAME: SOURCE.as_posix()},
    cmdclass={"sdist": SelfContained},
)
