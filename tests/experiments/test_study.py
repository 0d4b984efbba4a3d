import inspect
import json

import pytest

from dgl_lowbit.cli import main
from dgl_lowbit.experiments.study import METHODS, STUDIES, format_study, relatives, run_study, studies
from dgl_lowbit.experiments.study import run as study_run
from dgl_lowbit.experiments.study.tables import violations
from dgl_lowbit.experiments.study.task import run_task
from dgl_lowbit.experiments.tables import first_rows, read_table
from dgl_lowbit.training import train

pytestmark = pytest.mark.usefixtures("small_planted")

SLOW = ("ablation", "schedules", "relatives")
SMALL = {
    "accuracy": ["--models", "smp", "--bits", "2", "--every-stage"], "depth": ["--depths", "4"],
    "schedules": ["--models", "gcn", "--bits", "2"],
    "allocate": ["--models", "gcn", "--bits", "8", "--budgets", "0.5", "--methods", "greedy,hgq"],
}  # fmt: skip

SOME = {
    "bounds": ("free, 0.03", "projection, 0.03"),
    "depth": ("multiplier", "plain", "bad start: fixed step 0.5"),
}


def run(name, folder, *more):
    arguments = ["study", name, "--graphs", "planted", "--seeds", "1", "--epochs", "2", "--output", str(folder)]
    return main([*arguments, *SMALL.get(name, []), "--quiet", *more])


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in STUDIES],
)
def test_studies_run_and_draw(name, tmp_path, capsys, monkeypatch):
    if name in SOME:
        make = STUDIES[name]
        monkeypatch.setitem(STUDIES, name, lambda **settings: [t for t in make(**settings) if t.label in SOME[name]])
    (tmp_path / "tables").mkdir()
    table, by_bits = tmp_path / "tables/all.md", tmp_path / "tables/bits.md"
    more = ["--by-bits", str(by_bits)] if name == "accuracy" else []
    assert run(name, tmp_path, "--plot", "--table", str(table), *more) == 0
    out = capsys.readouterr().out
    assert read_table(table).text == out.strip()
    assert not more or list(first_rows(read_table(by_bits).text)[0]) == ["graph", "model", "float32", "INT2"]
    report = json.loads((tmp_path / f"{name}.json").read_text())
    assert out.strip() == (tmp_path / f"{name}.md").read_text().strip() == format_study(report)
    results = out.split("\n\n| layer ")[0]  # of depth, a table of layers follows
    assert results.count("\n| ") == len(report["groups"]) + 1
    assert {path.suffix for path in tmp_path.iterdir()} == {"", ".json", ".md", ".png"}
    for group in report["groups"]:
        for entry in group["runs"]:
            assert 0 <= entry["test"] <= 1
            assert "equal" not in entry or entry["equal"] == 1


def test_what_is_done_is_not_done_again(tmp_path, capsys, monkeypatch):
    settings = {"graphs": ["planted"], "models": ["gcn"], "seeds": 2, "epochs": 1, "bits": (2,)}
    first = run_study("accuracy", tmp_path, progress=False, **settings)
    files = sorted((tmp_path / "runs").iterdir())
    assert len(files) == 2
    files[1].write_text(files[1].read_text()[:100])  # as if cut off
    done = []
    original = study_run._work

    def work(spec, path):
        done.append(path)
        original(spec, path)

    monkeypatch.setattr(study_run, "_work", work)
    assert run_study("accuracy", tmp_path, progress=False, **settings) == first
    assert done == [files[1]]
    run_study("accuracy", tmp_path, progress=False, **{**settings, "epochs": 2})
    assert len(done) == 3


@pytest.mark.slow
def test_processes_give_the_same_result(tmp_path):
    settings = {"graphs": ["planted"], "models": ["gcn"], "seeds": 2, "epochs": 1, "bits": (2,)}
    alone = run_study("accuracy", tmp_path / "one", progress=False, **settings)
    both = run_study("accuracy", tmp_path / "two", jobs=2, progress=False, **settings)
    assert [g["label"] for g in both["groups"]] == [g["label"] for g in alone["groups"]]
    assert [len(g["runs"]) for g in both["groups"]] == [2] * len(both["groups"])


def test_violations_are_those_of_the_last_epochs():
    run = {"violation": [[50.0, 50.0]] * 5 + [[0.1, -0.5]] * 9 + [[0.2, -0.5]]}
    mean, largest = violations(run)
    assert largest == pytest.approx(0.11) and mean == pytest.approx(0.055)


def test_every_task_of_the_studies_can_be_made():
    given, tasks = {"graphs": ["cora"], "models": ["smp", "gcn"], "seeds": 1, "epochs": 1}, []
    for make in STUDIES.values():
        taken = inspect.signature(make).parameters
        settings = {name: value for name, value in given.items() if name in taken}
        for method in METHODS if "method" in taken else [None]:
            tasks += make(**settings, **({"method": method} if method else {}))
    assert len({json.dumps(task.spec()) for task in tasks}) == len(tasks) > 20


@pytest.mark.slow
def test_signs_run():
    plain, normed = (run_task(task.spec()) for task in relatives.sign_tasks(1, 2, graphs=("planted",), widths=(16,)))
    labels = [entry["label"] for entry in (*plain["results"], *normed["results"])]
    assert labels == ["float32", "INT1, messages INT2", "INT2", "float32", "signs, messages INT2"]
    assert all(entry["equal"] == 1 for entry in (*plain["results"], *normed["results"]) if "equal" in entry)


def test_settings_of_accuracy_reach_its_tasks(tmp_path, monkeypatch):
    made = []
    monkeypatch.setitem(STUDIES, "accuracy", lambda **settings: made.extend(studies.accuracy_tasks(**settings)) or [])
    monkeypatch.setattr("dgl_lowbit.experiments.study.format_study", lambda report: "")
    run("accuracy", tmp_path, "--models", "smp,gcn", "--dropout", "0.4", "--messages", "shift")
    tasks = {task.label: task for task in made}
    assert {label: task.options for label, task in tasks.items()} == {
        label: {"dropout": 0.4} for label in ("smp", "smp, every stage as codes", "gcn")
    }
    assert tasks["gcn"].variants[1].config == {"bits": 2, "messages_granularity": "shift"}
    assert tasks["smp"].variants[1].config == {"bits": 2}


def test_bad_settings_are_refused(tmp_path, capsys):
    for arguments, message in (
        (["study", "accuracy", "--graphs", "kora"], "unknown graph kora"),
        (["study", "accuracy", "--models", "gat"], "unknown model gat"),
        (["study", "depth", "--depths", "2"], "at least 3 layers"),
        (["study", "depth", "--by-bits", "x.md"], "--by-bits is of the study of accuracy; leave it out of depth"),
        (["study", "relatives", "--method", "best"], "unknown method best; known are degree-quant"),
    ):
        assert main([*arguments, "--output", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
    for option, value in (("--dropout", "2"), ("--dropout", "much"), ("--messages", "row")):
        with pytest.raises(SystemExit):
            main(["study", "accuracy", option, value, "--output", str(tmp_path)])
        assert f"argument {option}: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rates_and_distillation_of_a_variant_reach_its_training(monkeypatch):
    seen = []

    def watched(model, graph, **options):
        seen.append(([group["lr"] for group in options["parameters"](model)], options.get("distillation")))
        return train(model, graph, **options)

    monkeypatch.setattr("dgl_lowbit.experiments.study.task.train", watched)
    variants = [
        studies.Variant("INT4", {"bits": 4}),
        studies.Variant("INT2", {"bits": 2}, distill=0.9, quantizer_lr=0.003),
    ]
    run_task(studies.Task("gcn", "planted", "gcn", seed=0, epochs=1, variants=variants).spec())
    assert seen[1:] == [([0.01, 0.01], 0.5), ([0.01, 0.003], 0.9)]
