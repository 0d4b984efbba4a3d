import inspect
import json

import dgl
import pytest

import dgl_lowbit as lowbit
from dgl_lowbit.cli import main
from dgl_lowbit.experiments import data
from dgl_lowbit.experiments.recipes import build
from dgl_lowbit.experiments.study import METHODS, STUDIES, figures, format_study, relatives, run_study, studies, tables
from dgl_lowbit.experiments.study import run as study_run
from dgl_lowbit.experiments.study.tables import violations
from dgl_lowbit.experiments.study.task import run_task
from dgl_lowbit.experiments.tables import first_rows, read_table
from dgl_lowbit.quant import QLRQuantizer
from dgl_lowbit.training import train

pytestmark = [pytest.mark.usefixtures("small_planted"), pytest.mark.slow]

SLOW = ("ablation", "accuracy", "allocate", "depth", "schedules", "relatives")
SMALL = {
    "accuracy": ["--models", "smp", "--bits", "2", "--every-stage"], "depth": ["--depths", "4"],
    "schedules": ["--models", "gcn", "--bits", "2"],
    "allocate": ["--models", "gcn", "--bits", "8", "--budgets", "0.5", "--methods", "greedy,hgq"],
    "relatives": ["--method", "levels"],
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
    out, stem = capsys.readouterr().out, "relatives-levels" if name == "relatives" else name
    assert read_table(table).text == out.strip()
    assert not more or list(first_rows(read_table(by_bits).text)[0]) == ["graph", "model", "float32", "INT2"]
    report = json.loads((tmp_path / f"{stem}.json").read_text())
    assert out.strip() == (tmp_path / f"{stem}.md").read_text().strip() == format_study(report)
    results = out.split("\n\n| layer ")[0]  # of depth, a table of layers follows
    shown = [g for g in report["groups"] if name != "relatives" or "packed" in g["runs"][0]]
    assert results.count("\n| ") == len(shown) + 1
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
            own = {"method": method, "graphs": METHODS[method].graphs} if method else {}
            tasks += make(**{**settings, **own})
    assert len({json.dumps(task.spec()) for task in tasks}) == len(tasks) > 20


@pytest.mark.slow
def test_signs_run():
    plain, normed = (run_task(task.spec()) for task in relatives.sign_tasks("planted", 1, 2, widths=(16,)))
    labels = [entry["label"] for entry in (*plain["results"], *normed["results"])]
    assert labels == ["float32", "INT1, messages INT2", "INT2", "float32", "signs, messages INT2"]
    assert all(entry["equal"] == 1 for entry in (*plain["results"], *normed["results"]) if "equal" in entry)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["gptq", "integer", "degree-quant", "a2q", "silent", "boost", "history", "bandit", "prune"]
)
def test_methods_of_relatives_run(method):
    first, *_ = METHODS[method].tasks("mini-gc" if method == "degree-quant" else "planted", 1, 1)
    _, *entries = run_task(first.spec())["results"]
    assert [entry["label"] for entry in entries] == [variant.label for variant in first.variants]
    labels, low_bit = [entry["label"] for entry in entries], [entry for entry in entries if "packed" in entry]
    assert {entry["beside"] for entry in low_bit} - {None} and {entry["beside"] for entry in low_bit} <= {None, *labels}
    for entry in low_bit:
        assert entry["equal"] == 1 and (entry["epochs"] == 0) == (method == "gptq")
        assert set(first.figures) <= entry.keys()
    if method in ("history", "bandit"):
        errors = {entry["label"]: entry.get("sum_error") for entry in low_bit}
        assert errors[f"INT2, {method}"] < 3 * errors["INT2, sampled"] and errors.get("INT2, whole") is None
        assert method == "bandit" or 0 < low_bit[-1]["memory"] < 0.1
        assert all(entry["inputs"] > 0 for entry in low_bit if "sum_error" in entry)
    if method == "integer":
        assert all(entry["identical"] == 1 for entry in low_bit if entry["beside"]) and low_bit[0]["ms"] > 0


def relatives_report(method, graph, setting, *runs):
    spec = {"graph": graph, "label": setting, "options": {}}
    made = [{"spec": {**spec, "seed": seed}, "results": list(results)} for seed, results in enumerate(runs)]
    return tables.summarise("relatives", {"method": method}, made)


def row_of(report, label):
    header, *rows = [line for line in format_study(report).splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, *rows)]
    return next(dict(zip(cells[0], row)) for row in cells[1:] if row[1] == label)


def test_rows_of_relatives_say_what_is_ours_float_and_the_papers():
    def results(packed, best, own):
        shared = {"test": 0.0, "equal": 1.0, "bytes": 1000, "epochs": 0}
        return (
            {"label": "float32", "test": 0.8, "epochs": 5},
            {"label": "float32, second phase", "test": 0.82, "epochs": 5},
            {**shared, "label": "base", "packed": packed, "weight_error": best, "beside": None},
            {**shared, "label": "own", "packed": packed + 0.01, "weight_error": own, "beside": "base"},
        )

    report = relatives_report("levels", "cora", "gcn", results(0.7, 0.1, 0.05), results(0.72, 0.4, 0.1))
    assert row_of(report, "own") == {
        "setting": "gcn", "variant": "own", "packed": "72.0 ± 1.0", "float32": "80.0 ± 0.0", "to float32": "-8.0",
        "beside": "+1.0 to base", "weight error": "0.0750, 0.38x", "equal": "100.00 %", "bytes": "1,000", "paper": "-",
    }  # fmt: skip
    assert row_of(report, "base")["beside"] == "-" and row_of(report, "base")["weight error"] == "0.2500"
    for group in report["groups"]:
        for run in group["runs"]:
            run["epochs"] = 5  # trained, they are held against the float model of a second phase
    assert row_of(report, "own")["float32"] == "82.0 ± 0.0"
    text = format_study(report)
    assert text.startswith("levels, [arXiv:2007.03903](https://arxiv.org/abs/2007.03903): ") and "cora, 2 seeds" in text


def test_numbers_of_papers_stand_in_the_rows_they_are_for():
    entry = {"test": 0.0, "packed": 0.8, "equal": 1.0, "bytes": 1, "epochs": 1, "beside": None}
    for relative in METHODS.values():
        for graph, numbers in relative.numbers.items():
            tasks = relative.tasks(graph, 1, 1)
            made = {f"{task.label}, {variant.label}" for task in tasks for variant in task.variants}
            assert numbers.keys() <= made
    results = [{"label": "float32", "test": 0.8, "epochs": 1}, {**entry, "label": "signs, messages INT2"}]
    report = relatives_report("sign", "cora", "with norm, width 64", results)
    assert row_of(report, "signs, messages INT2")["paper"] == "81.2"


def test_figures_are_what_they_say():
    graph = dgl.add_self_loop(data.load_graph("planted"))
    feat, model = graph.ndata["feat"], build("gcn", graph, seed=0)
    low_bit = lowbit.calibrate(lowbit.quantize(model, lowbit.QuantConfig(8, weights=2)), graph, feat)
    made = {"it": figures.Made(low_bit, lowbit.freeze(low_bit, graph, feat), graph)}
    errors = []
    for layer in low_bit.layers:
        coded = layer.quantizers["weights"](layer.weight).detach()
        errors.append(((coded - layer.weight) ** 2).sum().item() / (layer.weight**2).sum().item())
    assert figures.weight_error(made)["it"] == pytest.approx(sum(errors) / 2, rel=1e-4)
    assert 0 < figures.identical(made)["it"] <= 1 and figures.milliseconds(made)["it"] > 0


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
        (["study", "relatives", "--method", "best"], "unknown method best; known are gptq, reconstruct, "),
        (["study", "relatives", "--method", "gptq", "--graphs", "mini-gc"], "unknown graph mini-gc; known are planted"),
        (["study", "relatives", "--graphs", "cora"], "unknown graph cora; known are mini-gc"),
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
    rate = QLRQuantizer.range_rate
    assert seen[1:] == [([0.01, 0.01 / rate], 0.5), ([0.01, 0.003 / rate], 0.9)]
