"""Table files and their pictures."""

import pytest

from dgl_lowbit import __version__, cli
from dgl_lowbit.experiments.study.tables import format_by_bits
from dgl_lowbit.experiments.tables import first_rows, read_table, write_table
from dgl_lowbit.report import table

ACCURACY = table(["graph", "model", "float32", "INT2"], [["cora", "gcn", "82.8 ± 0.5", "82.5 ± 0.7"]])
SPEED = table(["work", "graph", "DGL float32", "INT8", "INT2"], [["GCN", "20k", "8.0 ms", "-", "4.0x"]])


@pytest.fixture
def files(tmp_path):
    texts = {"accuracy": ACCURACY, "speed": SPEED, "other": table(["a", "b"], [["1", "2"]]), "words": "no table"}
    return {name: write_table(tmp_path / f"{name}.md", text, ["made", "by hand"]) for name, text in texts.items()}


def test_files_say_what_wrote_them(files):
    command, version, processor, text = read_table(files["speed"])
    assert (command, version, text) == ("made 'by hand'", __version__, SPEED) and processor
    assert first_rows(text) == [{"work": "GCN", "graph": "20k", "DGL float32": "8.0 ms", "INT8": "-", "INT2": "4.0x"}]


def test_accuracies_have_a_column_a_width():
    def group(setting, label, *tests):
        return {"graph": "cora", "setting": setting, "label": label, "runs": [{"test": test} for test in tests]}

    groups = [
        group("gcn", "float32", 0.5), group("gcn", "float32, second phase", 0.82, 0.80), group("gcn", "INT4", 0.8),
        group("sage", "float32, second phase", 0.7), group("sage", "INT2", 0.6),
    ]  # fmt: skip
    assert first_rows(format_by_bits({"groups": groups})) == [
        {"graph": "cora", "model": "gcn", "float32": "81.0 ± 1.0", "INT4": "80.0", "INT2": "-"},
        {"graph": "cora", "model": "sage", "float32": "70.0", "INT4": "-", "INT2": "60.0"},
    ]


@pytest.mark.parametrize("name", ["accuracy", "speed"])
def test_pictures_are_the_same_each_time(files, name, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    for picture in (first, second):
        assert cli.main(["plot", str(files[name]), "--output", str(picture)]) == 0
    assert first.read_bytes() == second.read_bytes() and capsys.readouterr().out == f"{first}\n{second}\n"
    drawn = first.read_text(encoding="utf-8")
    said = {"accuracy": ("test accuracy in %", "gcn", "cora"), "speed": ("times faster than DGL float32", "GCN, 20k")}
    assert all(words in drawn for words in said[name])


def test_other_files_are_refused_in_one_line(files, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "plain.md").write_text(ACCURACY)
    for tables, message in (
        ([files["accuracy"], files["speed"]], "accuracies or of speeds, not both"),
        ([files["other"]], "lacks columns graph, model or work"),
        ([files["words"]], "there is no table"),
        ([tmp_path / "plain.md"], "is no table file"),
        ([tmp_path / "none.md"], "No such file"),
    ):
        assert cli.main(["plot", *map(str, tables), "--output", str(tmp_path / "x.svg")]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    with pytest.raises(SystemExit):
        cli.main(["plot", str(files["speed"]), "--output", str(tmp_path / "no" / "x.svg")])
    assert "argument --output: there is no folder" in capsys.readouterr().err
    assert not (tmp_path / "x.svg").exists()
