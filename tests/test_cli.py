import functools
import json
import math
import shlex
from pathlib import Path

import pytest

import numba_kernels
from dgl_lowbit.cli import main
from dgl_lowbit.experiments import data
from dgl_lowbit.experiments.tables import read_table
from dgl_lowbit.quant import Quantizer
from dgl_lowbit.training import resume
from dgl_lowbit.training.stage import Run

DATA = Path(__file__).parent / "data"

pytestmark = pytest.mark.usefixtures("small_planted", "folder_of_its_own")


@pytest.fixture
def folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def made(small_planted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    assert main(["demo", "--epochs", "1", "--bits", "2", "--model", "smp", "--quiet", "--output", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_demo_prints_a_table(capsys, tmp_path):
    kept = tmp_path / "demo.md"
    assert main(["demo", "--epochs", "1", "--bits", "4,2", "--quiet", "--seeds", "2", "--table", str(kept)]) == 0
    out = capsys.readouterr().out
    assert read_table(kept).text == out.strip()
    assert "gcn on planted, 2 seed(s)" in out
    rows = [line for line in out.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["float32", "INT4", "INT2"] and "±" in rows[2]
    assert Path("demo/planted-gcn-int4.safetensors").is_file()


def epochs_of(monkeypatch, stop_at=None):
    """Stages whose epochs are run from here on; training is interrupted before an epoch of ``stop_at``."""
    run, ran = Run.epoch, []

    def epoch(self, number):
        bits = next((m.format.bits for m in self.model.modules() if isinstance(m, Quantizer)), 32)
        if bits == stop_at and number == 11:
            raise KeyboardInterrupt
        ran.append((bits, number))
        return run(self, number)

    monkeypatch.setattr(Run, "epoch", epoch)
    return ran


@pytest.mark.slow
def test_an_interrupted_demo_goes_on_where_it_was(capsys, monkeypatch):
    arguments = ["demo", "--epochs", "12", "--bits", "2", "--quiet"]
    monkeypatch.setattr(resume, "_SHARE", math.inf)  # states are written after each epoch
    assert main(arguments) == 0
    whole, _ = capsys.readouterr()
    with monkeypatch.context() as patched:
        epochs_of(patched, stop_at=2)
        assert main([*arguments, "--overwrite"]) == 130
    out, error = capsys.readouterr()
    assert error == f"dgl-lowbit demo: interrupted; to go on: dgl-lowbit {' '.join(arguments)}\n"
    assert out.count("| float32") == 1 and "INT" not in out
    ran = epochs_of(monkeypatch)
    assert main(shlex.split(error.partition("to go on: dgl-lowbit ")[2])) == 0
    again = capsys.readouterr().out
    assert ran == [(2, 11)]
    accuracies = [[line.split("|")[1:6] for line in text.splitlines() if "INT" in line] for text in (whole, again)]
    assert accuracies[0] == accuracies[1]
    assert main([*arguments, "--epochs", "5"]) == 2
    assert "belongs to another run: epochs" in (error := capsys.readouterr().err) and "Pass --overwrite" in error


def test_demo_prints_json(capsys):
    assert main(["demo", "--epochs", "1", "--bits", "8", "--quiet", "--model", "sage", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == "sage" and set(report["results"]) == {"32", "8"}
    assert report["results"]["8"]["equal"][0] >= 0.999 and report["results"]["8"]["seconds"][0] > 0


def test_saved_models_are_described_predicted_with_and_exported_again(made, capsys, tmp_path):
    file, checkpoint = made / "planted-smp-int2.safetensors", made / "planted-smp-int2.pt"
    assert main(["info", str(file)]) == 0
    out = capsys.readouterr().out
    assert "SMP(graph: graph, feat: features)" in out and "linear1" in out and '{"bits": 2}' in out
    assert main(["info", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["graph"] == "planted"
    assert main(["predict", str(file), "--output", str(tmp_path / "classes.txt")]) == 0
    assert "planted: 560 nodes with self-loops, test accuracy" in capsys.readouterr().out
    assert len((tmp_path / "classes.txt").read_text().split()) == 560
    assert main(["export", str(checkpoint), "--output", str(tmp_path / "again.safetensors"), "--json"]) == 0
    again = tmp_path / "again.safetensors"
    assert json.loads(capsys.readouterr().out) == {"file": str(again), "bytes": again.stat().st_size}
    assert again.read_bytes() == file.read_bytes()


def test_predict_says_where_a_model_runs_on_another_graph(made, capsys, monkeypatch):
    file = str(made / "planted-smp-int2.safetensors")
    assert main(["info", file]) == 0 and "graph: planted, 560 nodes, " in capsys.readouterr().out
    assert main(["predict", file, "--json"]) == 0
    out, error = capsys.readouterr()
    assert json.loads(out)["trained_on_it"] is json.loads(out)["self_loops"] is True and error == ""
    assert main(["predict", file, "--no-self-loops"]) == 2
    error = capsys.readouterr().err
    assert "trained on another graph" in error and "does not fit planted: There are 0-in-degree nodes" in error
    monkeypatch.setattr(data, "planted_graph", functools.partial(data.planted_graph, seed=1))
    assert main(["predict", file, "--json"]) == 0
    out, error = capsys.readouterr()
    assert json.loads(out)["trained_on_it"] is False
    assert error.startswith("dgl-lowbit predict: note: the model was trained on another graph, planted, 560 nodes")


@pytest.mark.parametrize("line", ["demo --bit 2", "demo --over", "predict x --out y"])
def test_options_are_written_out(line, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(line.split())
    assert f"unrecognized arguments: {line[line.index('--') :]}" in capsys.readouterr().err


def test_what_files_say_cannot_steer_the_terminal(made, capsys, tmp_path):
    model = numba_kernels.load(made / "planted-smp-int2.safetensors")
    red = "\x1b[31m\x07\u202e\nx"
    model.info.update(graph=red, model=red, layers={red: {red: 2}}, trained_on={"nodes": red, "edges": 1, "digest": 2})
    path = str(model.save(tmp_path / "red.safetensors"))
    assert main(["info", path]) == 0 and main(["predict", path]) == 2
    assert all(c.isprintable() or c == "\n" for stream in capsys.readouterr() for c in stream)
    for wrong in ({"graph": []}, {"seed": "x"}, {"layers": [1]}, {"trained_on": {"nodes": 1}}, {"self_loops": 3}):
        model.info.clear()
        model.info.update(wrong)
        assert main(["info", str(model.save(tmp_path / "wrong.safetensors"))]) == 0


@pytest.mark.slow
def test_train_keeps_what_it_made_and_resumes(capsys, tmp_path):
    arguments = ["train", "--epochs", "1", "--bits", "2", "--output", str(tmp_path), "--quiet", "--plot"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "INT2, packed" in out and "layers.1.quantizers.messages" in out
    stem = "planted-gcn-int2"
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{stem}.pt", f"{stem}.safetensors", f"{stem}.png", f"{stem}-training.pt",
    }  # fmt: skip
    packed = (tmp_path / f"{stem}.safetensors").read_bytes()
    (tmp_path / f"{stem}.safetensors").unlink()
    assert main([*arguments, "--resume"]) == 0 and capsys.readouterr().out == out
    assert (tmp_path / f"{stem}.safetensors").read_bytes() == packed
    for other in (["--seed", "1"], ["--states", "8"]):
        assert main([*arguments, "--resume", *other]) == 2
        assert "belongs to another run" in capsys.readouterr().err
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f"holds a run already ({stem}-training.pt, {stem}.pt, {stem}.safetensors); pass --resume to go on" in error
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(SystemExit):
        main([*arguments, "--resume", "--overwrite"])
    assert "not allowed with" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0 and capsys.readouterr().out == out
    (tmp_path / f"{stem}.safetensors").unlink()
    assert main(["export", str(tmp_path / f"{stem}.pt")]) == 0
    assert (tmp_path / f"{stem}.safetensors").read_bytes() == packed
    assert main(["export", str(tmp_path / f"{stem}-training.pt")]) == 2
    assert "is the state of a run" in capsys.readouterr().err


def test_train_prints_json_and_says_how_to_go_on(capsys, monkeypatch):
    assert main(["train", "--epochs", "1", "--output", "a", "--quiet", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in report["results"]] == [
        None,
        "a/planted-gcn-int2.pt",
        "a/planted-gcn-int2.safetensors",
    ]
    assert report["epochs"] == 1 and report["quantizers"][0]["bits"] == 2
    epochs_of(monkeypatch, stop_at=32)
    for arguments in (["--output", "a b"], ["--output", "a b", "--resume"]):
        assert main(["train", "--quiet", *arguments]) == 130
        assert capsys.readouterr().err.endswith("to go on: dgl-lowbit train --quiet --output 'a b' --resume\n")


def test_errors_are_one_line_and_status_2(made, capsys, tmp_path):
    (tmp_path / "broken.safetensors").write_bytes((made / "planted-smp-int2.safetensors").read_bytes()[:500])
    (tmp_path / "broken.pt").write_bytes((made / "planted-smp-int2.pt").read_bytes()[:5000])
    scaled = numba_kernels.Plan(
        [{"name": "x", "kind": "features", "value": 0, "optional": False}],
        [{"op": "relu", "in": [0], "out": 1}], [1], {},
    )  # fmt: skip
    numba_kernels.PackedModel(scaled).save(tmp_path / "scaled.safetensors")
    for arguments, message in (
        (["info", str(tmp_path / "none.safetensors")], "no model file at"),
        (["info", str(tmp_path / "broken.safetensors")], "not a whole dgl-lowbit model"),
        (["export", str(tmp_path / "broken.pt")], "not a whole dgl-lowbit checkpoint"),
        (["export", str(tmp_path / "none.pt")], "no checkpoint at"),
        (["predict", str(made / "planted-smp-int2.safetensors"), "--output", str(tmp_path / "no" / "x")], "no folder"),
        (["predict", str(DATA / "version2.safetensors"), "--graph", "planted"], "does not fit planted"),
        (["predict", str(DATA / "version2.safetensors")], "does not say what graph"),
        (["predict", str(tmp_path / "scaled.safetensors"), "--graph", "planted"], "does not fit planted"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and error.startswith(f"dgl-lowbit {arguments[0]}: error: ")


@pytest.mark.parametrize(
    "arguments",
    [["demo", "--bits", "5"], ["demo", "--bits", "2,2"], ["demo", "--seeds", "0"], ["demo", "--graph", "x"], []],
)
def test_bad_options_have_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "error: " in error and error.count("\n") == 1
