"""Who may import whom, what an import costs, and that it is quiet."""

import ast
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import dgl_lowbit
import numba_kernels
from dgl_lowbit._environment import check_versions

PACKAGE, KERNELS = Path(dgl_lowbit.__file__).parent, Path(numba_kernels.__file__).parent
# What each part of dgl_lowbit may import of it; a folder is a part. What is not named may import all.
ALLOWED = {
    "quant": {"quant"},
    "graphs": {"graphs", "quant"},
    "smoothness": {"smoothness", "graphs", "quant"},
    "pruning": {"pruning", "quant", "trees"},
    "config": {"quant"},
    "nn": {"nn", "graphs", "quant", "config", "smoothness", "trees"},
    "convert": {"nn", "quant", "config"},
    "calibration": {"convert", "nn", "progress", "quant"},
    "diagnose": {"calibration", "config", "convert", "figures", "nn", "quant", "report", "verdicts"},
    "report": set(),
    "trees": set(),
    "verdicts": set(),
    "progress": set(),
    "figures": {"deploy", "verdicts"},
    "allocation": {"allocation", "calibration", "config", "convert", "nn", "progress", "quant"},
    "training": {"training", "allocation", "calibration", "config", "convert", "deploy", "figures"}
    | {"graphs", "nn", "quant"}
    | {"progress", "pruning", "smoothness"},
    "deploy": {"deploy", "graphs", "nn", "quant", "config", "convert", "_version"},
    "distributed": {"distributed", "deploy", "training", "trees"},
}
# The same of numba_kernels, whose folders build on each other in this order.
KERNELS_ORDER = (
    "errors", "once", "given", "layout", "fixed_point", "grid_base", "row_grids", "spec", "cache", "jit", "packing",
    "codebook", "fitting", "compressed", "graph", "subgraph", "partition", "arrays", "simd", "kernels", "training",
    "plan", "run", "arguments", "model", "calling",
)  # fmt: skip
# What runs the kernels, and what times them. The number contract, numba_kernels.spec and fixed_point, where codes stand
# in memory, the root of errors, the release and what command lines share are everyone's; the passes of training,
# numba_kernels.training, are quant's, which loads them, and with them Numba, when they are first needed.
MAY_IMPORT_KERNELS = {"deploy", "distributed", "experiments", "commands"}
ALL_MAY_IMPORT = {"spec", "fixed_point", "layout", "errors", "commands", "_version"}
QUANT_MAY_IMPORT = {*ALL_MAY_IMPORT, "training"}


def imports(path, root=PACKAGE):
    """Absolute names of the modules a file imports, relative ones resolved."""
    package = path.relative_to(root.parent).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part_of(path, root=PACKAGE):
    first = path.relative_to(root).parts[0]
    return first.removesuffix(".py")


def passes(part):
    return QUANT_MAY_IMPORT if part == "quant" else ALL_MAY_IMPORT


def breaches(allowed):
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")}
    for path in sorted(PACKAGE.rglob("*.py")):
        part = part_of(path)
        for name in imports(path):
            root, *rest = name.split(".")
            if root == "numba_kernels" and part not in MAY_IMPORT_KERNELS and not passes(part) & set(rest[:1]):
                yield f"{path.name} imports {name}"
            if root == "dgl_lowbit" and rest and rest[0] in parts - allowed.get(part, parts):
                yield f"{path.name} imports {name}"


def test_import_rule():
    assert list(breaches(ALLOWED)) == []


def test_the_rule_can_be_broken():
    assert list(breaches({**ALLOWED, "nn": {"nn"}}))


def arrows_up(order):
    for path in sorted(KERNELS.rglob("*.py")):
        part = part_of(path, KERNELS)
        for name in imports(path, KERNELS):
            root, *rest = name.split(".")
            known = root == "numba_kernels" and rest and {part, rest[0]} <= set(order)
            if known and order.index(rest[0]) > order.index(part):
                yield f"{path.name} imports {name}"


def test_folders_of_the_kernels_build_on_each_other():
    assert list(arrows_up(KERNELS_ORDER)) == []
    assert list(arrows_up(KERNELS_ORDER[::-1]))


def test_old_names_of_modules_are_the_same_modules():
    import dgl_lowbit.data
    from dgl_lowbit.experiments import data
    from dgl_lowbit.study import task

    assert dgl_lowbit.data is data and task.__name__ == "dgl_lowbit.experiments.study.task"


def test_kernels_import_neither_torch_nor_dgl():
    for path in KERNELS.rglob("*.py"):
        roots = {name.split(".")[0] for name in imports_of_kernels(path)}
        assert not roots & {"torch", "dgl", "dgl_lowbit", "scipy", "networkx", "tqdm"}, path


def imports_of_kernels(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "default", "-c", code],
        env={**{k: v for k, v in os.environ.items() if k != "DGLBACKEND"}, **environment},
        capture_output=True,
        text=True,
    )


def test_import_is_quiet_and_light(tmp_path):
    needs_torchdata = metadata.version("dgl") >= "2"
    code = (
        f"import sys; {'' if needs_torchdata else 'sys.modules.update(torchdata=None)'}\n"
        "import dgl_lowbit\n"
        "print(sorted(m for m in ('numba', 'matplotlib') if m in sys.modules))"
    )
    done = run(code, DGLDEFAULTDIR=str(tmp_path))
    assert done.returncode == 0 and done.stdout == "[]\n"
    assert "dgl_lowbit" not in done.stderr and "backend" not in done.stderr


def test_kernels_run_where_torch_and_dgl_are_missing(tmp_path):
    code = (
        "import sys; sys.modules.update(torch=None, dgl=None)\n"
        "import numba_kernels; print(sorted(m for m in ('scipy', 'networkx') if m in sys.modules))"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert "networkx" not in done.stdout


@pytest.mark.parametrize(
    ("dgl", "torch", "works"),
    [
        ("1.1.3", "2.13.0+cpu", True),
        ("2.1.0", "2.2.1", True),
        ("2.1.0", "2.2.2", False),
        ("2.4.0+cu118", "2.4.0", True),
    ],
)
def test_pairs_of_dgl_and_torch(dgl, torch, works):
    if works:
        check_versions(dgl, torch)
    else:
        with pytest.raises(ImportError, match="DGL 2.1.0 cannot be imported beside torch 2.2.2.*pip install"):
            check_versions(dgl, torch)
