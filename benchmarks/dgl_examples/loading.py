"""Modules of DGL's examples, imported for their classes: nothing else that the scripts do is run."""

import ast
import builtins
import importlib
import importlib.machinery
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from torch import nn

# Third-party packages that only the training scripts need
STUBBED = {
    *("catboost", "category_encoders", "click", "cv2", "dask", "faiss", "gensim", "gnnlens", "graph_tool", "joblib"),
    *("lapjv", "logzero", "ogb", "ordered_set", "pandas", "pretrainedmodels", "pycocoevalcap", "pytorch_lightning"),
    *("rdflib", "rdkit", "ruamel", "seaborn", "six", "sklearn", "tensorboardX", "tensorflow", "torchmetrics"),
    *("torchtext", "torchvision"),
}
# Modules whose functions may be called where a script assigns a constant
_HARMLESS = ("fn", "function", "nn", "th", "torch")


def load(checkout, file, constants):
    """The module of ``file``, a path below ``checkout``, whose script's ``constants`` are given; one file a process."""
    checkout, path = Path(checkout).resolve(), (Path(checkout) / file).resolve()
    root = path.parent
    while (root / "__init__.py").exists():
        root = root.parent
    if _Stubs not in sys.meta_path:
        sys.meta_path.append(_Stubs)
        sys.path_hooks.insert(0, lambda folder: _finder(folder, checkout, constants))
        sys.path[:0] = [str(root), str(root.parent)]
    return importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts))


def _finder(folder, checkout, constants):
    if checkout not in [Path(folder), *Path(folder).parents]:
        raise ImportError(f"{folder} is not below {checkout}")

    class Loader(_Loader):
        given = constants

    return importlib.machinery.FileFinder(folder, (Loader, [".py"]))


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a file's imports, classes, functions and constants."""

    given: Mapping = MappingProxyType({})

    def path_stats(self, path):
        raise OSError("no compiled file is read or written")

    def exec_module(self, module):
        vars(module).update(self.given)
        super().exec_module(module)

    def source_to_code(self, data, path, *, _optimize=-1):
        tree = ast.parse(data, path)
        known = {*dir(builtins), *self.given, "__file__"}
        tree.body = [statement for statement in tree.body if _kept(statement, known)]
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)


def _kept(statement, known):
    """Whether a statement only defines something; adds the names it defines to ``known``."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        known.update((alias.asname or alias.name).partition(".")[0] for alias in statement.names)
        return True
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
        known.add(statement.name)
        return True
    if isinstance(statement, ast.Try):
        kept = [_kept(inner, known) for inner in statement.body]
        return all(kept)
    if not isinstance(statement, ast.Assign):
        return False
    names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
    read = {name.id for name in names if isinstance(name.ctx, ast.Load)}
    written = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    if not read <= known or not written or any(_calls(node) for node in ast.walk(statement)):
        return False
    known.update(written)
    return True


def _calls(node):
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    while isinstance(function, ast.Attribute):
        function = function.value
    return not (isinstance(function, ast.Name) and function.id in _HARMLESS)


class _Stub:
    """Stands for anything of a package that is not there."""

    def __init__(self, *args, **kwargs):
        pass


class _LightningModule(nn.Module):
    def save_hyperparameters(self, *args, **kwargs):
        pass


class _Encoder(nn.Module):
    """As OGB's encoders of atoms and bonds: a sum of embeddings of columns."""

    def __init__(self, emb_dim):
        super().__init__()
        self.columns = nn.ModuleList([nn.Embedding(5, emb_dim) for _ in range(3)])

    def forward(self, x):
        total = 0
        for i in range(x.shape[1]):
            total += self.columns[i](x[:, i])
        return total


class _StubModule(types.ModuleType):
    __path__ = ()
    LightningModule = _LightningModule
    AtomEncoder = BondEncoder = _Encoder

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Stub,), {})


class _Stubs:
    """Finds the stubbed packages where no real one is installed."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, cls, is_package=True) if name.split(".")[0] in STUBBED else None

    @staticmethod
    def create_module(spec):
        return _StubModule(spec.name)

    @staticmethod
    def exec_module(module):
        pass
