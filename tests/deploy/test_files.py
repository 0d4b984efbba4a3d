"""Files of packed models: round trips, and what is refused."""

import json
import mmap
from pathlib import Path

import dgl
import numpy as np
import pytest
import safetensors.numpy
import torch

import dgl_lowbit as lowbit
import numba_kernels
from numba_kernels import ModelFileError, PlanError, container
from numba_kernels.model_file import FORMAT, version_of


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


def test_folders_and_other_files_are_told_from_models(packed, tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        packed.save(tmp_path)
    with pytest.raises(ModelFileError, match="is a folder; name a file in it"):
        lowbit.load(tmp_path)
    (tmp_path / "model.py").write_text("import dgl_lowbit\n")
    with pytest.raises(ModelFileError, match=r"no safetensors file\); load the file that a packed model's save wrote"):
        lowbit.load(tmp_path / "model.py")
    assert not list(tmp_path.glob(".lowbit*"))


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(ModelFileError, match=r"not a whole dgl-lowbit model \(a ZIP archive, as torch.save"):
        lowbit.load(path)
    path.write_bytes(safetensors.numpy.save({"x": np.zeros(3, np.float32)}))
    with pytest.raises(ModelFileError, match="not a whole dgl-lowbit model"):
        lowbit.load(path)


def edited(packed, tmp_path, edit, version=3):
    """A file of a version without digests, with other content."""
    content, arrays = parts_of(packed.to_bytes())
    content.update(version=version)
    del content["sha256"]
    edit(content, arrays)
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors.numpy.save(arrays, {"dgl-lowbit": json.dumps(content)}))
    return path


def parts_of(content):
    header, arrays = container.read(content)
    return json.loads(header.metadata["dgl-lowbit"]), {name: np.array(array) for name, array in arrays.items()}


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
        lambda content, arrays: arrays.update({n: a.astype(np.int64) for n, a in arrays.items() if a.ndim == 1}),
    ],
)
def test_files_with_a_plan_that_cannot_run_are_refused(packed, tmp_path, edit):
    with pytest.raises(ModelFileError, match="holds no runnable model"):
        lowbit.load(edited(packed, tmp_path, edit))


def test_newer_versions_are_refused(packed, tmp_path):
    path = edited(packed, tmp_path, lambda content, arrays: content.update(version=99))
    with pytest.raises(ModelFileError, match="format version 99, this release reads 2 to 5"):
        lowbit.load(path)


DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("version", [2, 3])
def test_files_of_older_versions_load(version):
    numbers = np.load(DATA / f"version{version}.npz")
    model = numba_kernels.load(DATA / f"version{version}.safetensors")
    result = model((numbers["indptr"], numbers["indices"]), numbers["feat"])
    np.testing.assert_allclose(result, numbers["expected"], rtol=1e-5, atol=1e-6)
    again = numba_kernels.PackedModel.from_bytes(model.to_bytes())
    assert again.plan.ops == model.plan.ops and again.info == model.info


@pytest.fixture(scope="module")
def small():
    """A small model and its file."""
    model = numba_kernels.load(DATA / "version2.safetensors")
    return model, model.to_bytes()


def outcome(content):
    try:
        numba_kernels.PackedModel.from_bytes(content)
    except ModelFileError:
        return "refused"
    return "loaded"


def test_every_damaged_byte_is_noticed(small):
    _, content = small
    assert outcome(content) == "loaded"
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        assert outcome(damaged) == "refused", place
    for length in range(0, len(content), 97):
        assert outcome(content[:length]) == "refused", length
    assert outcome(content + b"\0") == "refused"


def test_a_seal_cannot_be_left_out(small):
    held, arrays = parts_of(small[1])
    for change in ({}, {"version": 3}):
        text = json.dumps({**held, **change})
        assert outcome(safetensors.numpy.save(arrays, {FORMAT: text})) == ("loaded" if change else "refused")
    held["sha256"].popitem()
    assert outcome(container.write(arrays, {FORMAT: json.dumps(held)})) == "refused"


def test_the_container_is_a_safetensors_file(small, tmp_path):
    model, content = small
    for name, array in safetensors.numpy.load(content).items():
        np.testing.assert_array_equal(array, model.plan.arrays[name])
    (tmp_path / "m.safetensors").write_bytes(content)
    with safetensors.safe_open(tmp_path / "m.safetensors", framework="numpy") as file:
        assert json.loads(file.metadata()[FORMAT])["version"] == version_of(model.plan)


def test_arrays_are_mapped_not_read(small, tmp_path):
    (tmp_path / "m.safetensors").write_bytes(small[1])
    for array in numba_kernels.load(tmp_path / "m.safetensors").plan.arrays.values():
        base = array
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base.obj, mmap.mmap) and not array.flags.writeable


def sealed(change):
    """A file of the present version, sealed, with other content."""

    def content_of(small):
        held, arrays = parts_of(small[1])
        change(held)
        return container.write(arrays, {FORMAT: json.dumps(held)})

    return content_of


def header_of(text):
    return lambda small: len(text).to_bytes(8, "little") + text.encode()


@pytest.mark.parametrize(
    "make",
    [
        sealed(lambda held: held.pop("info")),
        sealed(lambda held: held.update(info=[])),
        sealed(lambda held: held.update(version=2.0)),
        sealed(lambda held: held.update(version="4")),
        sealed(lambda held: held.update(sha256=[])),
        sealed(lambda held: held.update(more=1)),
        sealed(lambda held: held.update(inputs={})),
        sealed(lambda held: held.update(ops=[1])),
        sealed(lambda held: held.update(heads=[0.0])),
        sealed(lambda held: held.update(returns=7)),
        sealed(lambda held: held["inputs"][0].update(value=True)),
        header_of("[" * 100_000),
        header_of('{"__metadata__":{"dgl-lowbit":"' + "[" * 100_000 + '"}}'),
        header_of('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":1}'),
        header_of('{"a":{"dtype":"BF16","shape":[0],"data_offsets":[0,0]}}'),
        header_of('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,-4]}}'),
        header_of('{"a":{"dtype":[],"shape":[],"data_offsets":[]}}'),
        header_of('{"a":{"dtype":"F32","shape":[1e9],"data_offsets":[0,4]}}'),
        header_of('{"a":{"dtype":"F32","shape":[1152921504606846975],"data_offsets":[0,4]}}'),
        header_of('{"__metadata__":{"sha256":7}}'),
        header_of("1" * 5000),
        header_of("NaN"),
        lambda small: b"",
        lambda small: b"\xff" * 100,
    ],
)
def test_whatever_the_bytes_are_model_file_error_is_raised(make, small, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(make(small))
    for load in (numba_kernels.load, lowbit.load):
        with pytest.raises(ModelFileError, match=r"m\.safetensors"):
            load(path)


def test_what_is_no_file_is_told(tmp_path):
    for path in (tmp_path, tmp_path / "none", tmp_path / ("n" * 300)):
        with pytest.raises((FileNotFoundError, ModelFileError)):
            numba_kernels.load(path)


def test_errors_have_one_root(packed, graph):
    from dgl_lowbit.experiments.checkpoint import CheckpointError

    for error in (ModelFileError, PlanError, numba_kernels.GraphError, lowbit.FreezeError, CheckpointError):
        assert issubclass(error, lowbit.LowBitError) and issubclass(error, ValueError)
    with pytest.raises(lowbit.LowBitError, match="x: expected features of width 12, got 5") as caught:
        packed(graph, torch.zeros(graph.num_nodes(), 5))
    assert isinstance(caught.value, dgl.DGLError)


def test_plan_error_is_a_value_error():
    with pytest.raises(PlanError, match="no outputs"):
        numba_kernels.Plan([], [], [], {})
