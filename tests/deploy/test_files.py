"""Files of packed models: round trips, and what is refused."""

import json

import numpy as np
import pytest
import safetensors.numpy
import torch

import dgl_lowbit as lowbit
import numba_kernels
from numba_kernels import ModelFileError, PlanError


def test_files_round_trip_and_are_deterministic(packed, graph, feat, tmp_path):
    path = packed.save(tmp_path / "model.safetensors")
    again = lowbit.load(path)
    assert torch.equal(again(graph, feat), packed(graph, feat))
    assert again.info == packed.info and again.info["layers"]["conv1"] == {"bits": 2}
    assert again.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.safetensors", "model.safetensors"]
    assert isinstance(numba_kernels.load(path)((graph.adj_external(scipy_fmt="coo")), feat.numpy()), np.ndarray)


def test_a_failed_save_leaves_the_old_file(packed, tmp_path, monkeypatch):
    path = packed.save(tmp_path / "model.safetensors")
    content = path.read_bytes()

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        packed.save(path)
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_missing_folders_and_files_are_named(packed, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere to write m.safetensors"):
        packed.save(tmp_path / "nowhere" / "m.safetensors")
    with pytest.raises(FileNotFoundError, match="no model file at"):
        lowbit.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files_are_refused(packed, tmp_path, share):
    path = packed.save(tmp_path / "model.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelFileError, match="not a whole dgl-lowbit model"):
        lowbit.load(path)


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"PK\x03\x04 not a model at all" * 10)
    with pytest.raises(ModelFileError, match="not a whole dgl-lowbit model"):
        lowbit.load(path)
    path.write_bytes(safetensors.numpy.save({"x": np.zeros(3, np.float32)}))
    with pytest.raises(ModelFileError, match="not a whole dgl-lowbit model"):
        lowbit.load(path)


def edited(packed, tmp_path, edit):
    path = packed.save(tmp_path / "model.safetensors")
    with safetensors.safe_open(path, framework="numpy") as file:
        content = json.loads(file.metadata()["dgl-lowbit"])
    arrays = {name: np.array(array) for name, array in packed.plan.arrays.items()}
    edit(content, arrays)
    path.write_bytes(safetensors.numpy.save(arrays, {"dgl-lowbit": json.dumps(content)}))
    return path


def first(content, kind):
    return next(op for op in content["ops"] if op["op"] == kind)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content, arrays: first(content, "linear")["weight"].update(shape=[4000, 8]),
        lambda content, arrays: first(content, "linear")["weight"].update(codes="nothing"),
        lambda content, arrays: first(content, "quantize").update(columns=400),
        lambda content, arrays: first(content, "quantize")["quantizer"].update(bits=16),
        lambda content, arrays: first(content, "aggregate").update(**{"in": [0, 0, None, None]}),
        lambda content, arrays: first(content, "relu").update(op="exec"),
        lambda content, arrays: first(content, "relu").update(**{"in": [999]}),
        lambda content, arrays: first(content, "degree").update(power=3),
        lambda content, arrays: first(content, "quantize")["quantizer"].update(shift=10**400),
        lambda content, arrays: content["inputs"][0].update(name={}),
        lambda content, arrays: content.update(outputs=[]),
        lambda content, arrays: content.update(ops=[{"in": []}]),
        lambda content, arrays: arrays.update({n: a.astype(np.float64) for n, a in arrays.items() if a.ndim == 1}),
    ],
)
def test_files_with_a_plan_that_cannot_run_are_refused(packed, tmp_path, edit):
    with pytest.raises(ModelFileError, match="holds no runnable model"):
        lowbit.load(edited(packed, tmp_path, edit))


def test_newer_versions_are_refused(packed, tmp_path):
    path = edited(packed, tmp_path, lambda content, arrays: content.update(version=99))
    with pytest.raises(ModelFileError, match="format version 99, this release reads 2 to 3"):
        lowbit.load(path)


def test_plan_error_is_a_value_error():
    with pytest.raises(PlanError, match="no outputs"):
        numba_kernels.Plan([], [], [], {})
