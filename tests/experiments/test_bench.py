"""The benchmark: what it runs, reports, prints and draws; never how fast."""

import json

import pytest
import torch

from dgl_lowbit import cli
from dgl_lowbit.experiments import bench
from dgl_lowbit.experiments.bench import WORKS, work
from dgl_lowbit.experiments.tables import read_table

pytestmark = pytest.mark.slow  # runs whole commands


@pytest.fixture(scope="module", params=[("spmm", "gcn", "smp"), pytest.param(WORKS, marks=pytest.mark.slow)])
def report(request, small_planted):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(work.SYNTHETIC, "tiny", (60, 300))
        threads = torch.get_num_threads()
        done = bench.run_bench(("tiny", "planted"), request.param, bits=(2, 8), threads=(1,), rounds=1)
        assert torch.get_num_threads() == threads
    return done


@pytest.mark.slow
def test_everything_is_timed_against_float32(report):
    works = {(row["work"], row["graph"]) for row in report["results"]}
    few = {
        ("SpMM → packed", "tiny"), ("SpMM → float32", "tiny"), ("3-layer GCN", "tiny"),
        ("2-layer GCN", "planted"), ("SMP K=10", "planted"),
    }  # fmt: skip
    more = {
        ("GEMM", "20,000 × 256 × 256"), ("3-layer SAGE", "tiny"), ("2-layer SAGE", "planted"),
        ("2-layer GAT 8×16", "tiny"), ("2-layer GATv2 8×16", "tiny"),
        *((f"SAGE, new blocks of {seeds}", "tiny") for seeds in (1, 100, 1000)),
        *((f"GIN, {graphs}", "25 nodes") for graphs in ("1 new graph", "32 new graphs", "256 new graphs")),
    }  # fmt: skip
    assert works in (few, few | more)
    for name in works:
        rows = [row for row in report["results"] if (row["work"], row["graph"]) == name]
        assert rows[0]["variant"].endswith("float32") and rows[0]["ratio"] == 1
        assert {"INT2", "INT8"} <= {row["variant"] for row in rows}
        for row in rows:
            assert row["ms"] > 0 and row["ratio"] == pytest.approx(rows[0]["ms"] / row["ms"])
    spmm = {row["variant"]: row for row in report["results"] if row["work"] == "SpMM → packed"}
    assert spmm["INT2"]["bytes"] == 300 * (64 + 4) + 60 * (64 + 8) < spmm["INT8"]["bytes"]
    assert json.loads(json.dumps(report)) == report


def test_tables(report):
    text = bench.format_bench(report)
    assert "| SMP K=10" in text and "bytes an edge" in text
    assert ("| GEMM" in text) == ("GOP/s, " in text) == any(row["operations"] for row in report["results"])
    assert "1 thread read" in text and "nan" not in text


def test_picture(report, tmp_path):
    pytest.importorskip("matplotlib")
    from dgl_lowbit.experiments.plots import plot_bench

    first, second = (plot_bench(report, tmp_path / f"{n}.svg").read_bytes() for n in range(2))
    assert b"SMP K=10" in first
    assert plot_bench(report, tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert first == second


@pytest.mark.slow
def test_training_is_timed_against_float32(monkeypatch):
    monkeypatch.setitem(work.SYNTHETIC, "tiny", (60, 300))
    threads = torch.get_num_threads()
    report = bench.run_training_bench(("tiny", "planted"), ("gcn", "blocks"), bits=(2,), threads=(1,), rounds=1)
    assert torch.get_num_threads() == threads
    keys = [(row["work"], row["graph"], row["variant"]) for row in report["results"]]
    works = [("2-layer GCN", "tiny"), ("2-layer SAGE, sampled", "tiny"), ("2-layer GCN", "planted")]
    assert keys == [(*name, variant) for name in works for variant in ("float32", "INT2")]
    for row in report["results"]:
        assert row["ms"] > 0 and row["cpu_ms"] > 0 and row["peak_bytes"] > 0
        assert sum(row["shares"].values()) == pytest.approx(1) and row["shares"]["products"] > 0
        assert (row["shares"]["quantisers"] > 0) == (row["variant"] == "INT2")
        assert (row["ratio"] == row["cpu_ratio"] == 1) or row["variant"] == "INT2"
    gcn = [row for row in report["results"] if row["graph"] == "planted"]
    assert gcn[0]["peak_bytes"] >= 2700 * 64 * 4  # what its first layer returns
    assert json.loads(json.dumps(report)) == report
    text = bench.format_training_bench(report)
    assert "| 2-layer SAGE, sampled |    tiny |" in text and "nan" not in text
    with pytest.raises(ValueError, match="unknown work 'spmm'; there are gcn"):
        bench.run_training_bench(("tiny",), ("spmm",))


def test_works_compute_the_same(monkeypatch):
    monkeypatch.setitem(work.SYNTHETIC, "tiny", (60, 300))
    packed, to_float = work.spmm_works("tiny", (8,))
    exact = packed.functions["DGL float32"]()
    torch.testing.assert_close(packed.functions["torch CSR"](), exact)
    torch.testing.assert_close(torch.from_numpy(to_float.functions["INT8"]()), exact, rtol=0, atol=30 * 0.5 / 255)
    (gcn,) = work.model_works("tiny", (8,), ("gcn",))
    with torch.no_grad():
        expected = gcn.functions["DGL float32"]()
    assert (gcn.functions["INT8"]() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--graphs", "20k,nowhere"], "unknown graph 'nowhere'"),
        (["--works", "spmv"], "unknown work 'spmv'"),
        (["--training", "--plot", "x.svg"], "--plot draws predictions only"),
        (["--threads", "4096"], "threads must be between 1 and"),
        (["--threads", "0"], "at least 1"),
    ],
)
def test_command_refuses_in_one_line(arguments, message, capsys):
    try:
        status = cli.main(["bench", *arguments])
    except SystemExit as error:
        status = error.code
    error = capsys.readouterr().err
    assert status == 2 and message in error and error.count("\n") == 1


def test_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(work.SYNTHETIC, "tiny", (60, 300))
    arguments = ["--graphs", "tiny", "--works", "spmm", "--bits", "2", "--threads", "1", "--rounds", "1"]
    table = tmp_path / "speed.md"
    assert cli.main(["bench", *arguments, "--output", str(tmp_path / "speed.json"), "--table", str(table)]) == 0
    captured = capsys.readouterr()
    assert read_table(table).text in captured.out
    assert read_table(table).command.startswith("dgl-lowbit bench --graphs tiny") and table.name in table.read_text()
    assert "| SpMM → packed" in captured.out and "1 thread …" in captured.err
    assert json.loads((tmp_path / "speed.json").read_text())["results"][0]["variant"] == "DGL float32"
    assert cli.main(["bench", *arguments, "--quiet", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["machine"]["dgl"] and not captured.err
