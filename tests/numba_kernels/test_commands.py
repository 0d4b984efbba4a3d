"""Models run from the command line, and the files that they read."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from numba_kernels import Graph, GraphError, LowBitError, PackedModel, Plan, load
from numba_kernels.__main__ import main
from numba_kernels.array_files import read_arrays, read_graph, read_nodes, write_arrays
from numba_kernels.calling import Call

DATA = Path(__file__).parents[1] / "data"
MODEL = str(DATA / "version2.safetensors")
EXAMPLE = dict(np.load(DATA / "version2.npz"))
GRAPH = Graph(EXAMPLE["indptr"], EXAMPLE["indices"])
SOURCES, DESTINATIONS = np.nonzero(np.random.default_rng(0).random((12, 12)) < 0.2)
MATRIX = scipy.sparse.coo_matrix((np.ones(len(SOURCES)), (SOURCES, DESTINATIONS)), shape=(12, 12))
SAME = Graph.from_edges(SOURCES, DESTINATIONS, 12)
ONES = np.ones(GRAPH.num_edges, np.float32)


@pytest.fixture
def files(tmp_path):
    """A graph and features, and where results may go."""
    np.savez(tmp_path / "graph.npz", indptr=EXAMPLE["indptr"], indices=EXAMPLE["indices"])
    np.save(tmp_path / "feat.npy", EXAMPLE["feat"])
    return tmp_path


def lines(path, delimiter, header=""):
    np.savetxt(path, np.stack([SOURCES, DESTINATIONS], 1), "%d", delimiter, header=header)


WRITERS = {
    "pair.npz": lambda path: np.savez(path, indptr=SAME.indptr, indices=SAME.indices, num_src=12),
    "csr.npz": lambda path: scipy.sparse.save_npz(path, MATRIX.tocsr()),
    "csc.npz": lambda path: scipy.sparse.save_npz(path, MATRIX.tocsc(), compressed=False),
    "coo.npz": lambda path: scipy.sparse.save_npz(path, MATRIX),
    "edges.txt": lambda path: lines(path, " ", header="source destination"),
    "edges.csv": lambda path: lines(path, ","),
    "edges.tsv": lambda path: lines(path, "\t"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_is_the_same_graph(name, tmp_path):
    WRITERS[name](tmp_path / name)
    graph = read_graph(tmp_path / name, 12)
    assert np.array_equal(graph.indptr, SAME.indptr) and np.array_equal(graph.indices, SAME.indices)


def test_a_matrix_that_is_not_square_points_from_rows_to_columns(tmp_path):
    matrix = scipy.sparse.coo_matrix((np.ones(3), ([0, 2, 2], [1, 0, 1])), shape=(3, 2))
    for kind in ("csr", "csc", "coo"):
        scipy.sparse.save_npz(tmp_path / "graph.npz", matrix.asformat(kind))
        graph = read_graph(tmp_path / "graph.npz")
        assert (graph.num_src, graph.indptr.tolist(), graph.indices.tolist()) == (3, [0, 1, 3], [2, 0, 2])


def test_lines_name_as_many_nodes_as_there_are_features(tmp_path):
    (tmp_path / "edges.txt").write_text("# from to\n0 1\n")
    assert read_graph(tmp_path / "edges.txt").num_dst == 2
    assert read_graph(tmp_path / "edges.txt", 5).num_dst == 5
    with pytest.raises(GraphError, match="destinations must name one of 1 nodes, got 1 … 1"):
        read_graph(tmp_path / "edges.txt", 1)
    (tmp_path / "edges.txt").write_text("")
    assert read_graph(tmp_path / "edges.txt", 5).num_edges == 0


def test_predict_writes_what_the_model_returns(files, capsys):
    arguments = ["predict", MODEL, str(files / "graph.npz"), str(files / "feat.npy")]
    assert main([*arguments, str(files / "out.npy"), "--threads", "1"]) == 0
    assert capsys.readouterr() == (f"{files / 'out.npy'}\n", "")
    assert np.array_equal(np.load(files / "out.npy"), EXAMPLE["expected"])
    (files / "nodes.txt").write_text("3\n1 # again\n1\n")
    np.save(files / "nodes.npy", [3, 1, 1])
    for nodes in ("nodes.txt", "nodes.npy"):
        assert main([*arguments, str(files / "out.npz"), "--nodes", str(files / nodes)]) == 0
        assert np.array_equal(np.load(files / "out.npz")["result"], EXAMPLE["expected"][[3, 1, 1]])


def test_what_is_wrong_is_said_in_one_line(files, capsys):
    model, graph, feat, out = MODEL, str(files / "graph.npz"), str(files / "feat.npy"), str(files / "out.npy")
    np.save(files / "wide.npy", EXAMPLE["feat"][:, :5])
    np.save(files / "ints.npy", EXAMPLE["feat"].astype(int))
    np.savez(files / "other.npz", x=EXAMPLE["feat"])
    np.savez(files / "square.npz", format=np.array(b"bsr"), shape=[2, 2])
    (files / "nodes.txt").write_text("12\n")
    (files / "words.csv").write_text("src,dst\n0,1\n")
    (files / "three.txt").write_text("0 1 2\n")
    (files / "fractions.txt").write_text("0 1.5\n")
    (files / "broken.npz").write_bytes((files / "graph.npz").read_bytes()[:-30])
    for arguments, message in [
        ((str(files / "none"), graph, feat, out), "no model file at"),
        ((feat, graph, feat, out), "not a whole dgl-lowbit model"),
        ((model, str(files / "no.npz"), feat, out), "no file at"),
        ((model, graph, str(files / "no.npy"), out), "no file at"),
        ((model, feat, feat, out), "must be a file of one of the kinds .npz, .csv, .tsv, .txt"),
        ((model, graph, graph, out), "the model takes feat, of which feat must be given; got indptr, indices"),
        ((model, str(files / "other.npz"), feat, out), "a graph is indptr.*indptr is missing, 'x' is none of these"),
        ((model, str(files / "square.npz"), feat, out), "of the kind csr, csc or coo, whole, got 'bsr'"),
        ((model, str(files / "broken.npz"), feat, out), "no whole file of arrays"),
        ((model, str(files / "words.csv"), feat, out), "must hold lines of 2 whole number.*src"),
        ((model, str(files / "three.txt"), feat, out), "must hold lines of 2 whole number.*got 3"),
        ((model, str(files / "fractions.txt"), feat, out), "must hold lines of 2 whole number"),
        ((model, graph, str(files / "other.npz"), out), "the model takes feat, of which feat must be given; got x"),
        ((model, graph, str(files / "wide.npy"), out), "expected features of width 6, got 5"),
        ((model, graph, str(files / "ints.npy"), out), "feat must be floating point, got int64"),
        ((model, graph, feat, str(files / "out.txt")), "must go to a file named .npy or .npz, got"),
        ((model, graph, feat, str(files / "no" / "out.npy")), "no folder"),
        ((model, graph, feat, out, "--nodes", str(files / "nodes.txt")), "nodes must be from 0 to 11, got 12 to 12"),
        ((model, graph, feat, out, "--nodes", feat), "must hold whole numbers"),
        ((model, graph, feat, out, "--threads", "100000"), "threads, of which there are NUMBA_NUM_THREADS, must"),
    ]:
        assert main(["predict", *arguments]) == 2, message
        output, error = capsys.readouterr()
        assert output == "" and error.count("\n") == 1 and error.startswith("numba_kernels predict: error: ")
        assert re.search(message, error), error
        assert not (files / "out.npy").exists()


@pytest.mark.parametrize("options", [["predict"], ["serve", "a", "b", "c", "--port", "70000"], ["fly"], ["info"]])
def test_wrong_options_are_one_line_too(options, capsys):
    with pytest.raises(SystemExit) as stop:
        main(options)
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path(tmp_path / "sprung").touch, ()

    np.save(tmp_path / "trap.npy", np.array([Trap()], object))
    np.savez(tmp_path / "trap.npz", indptr=np.array([Trap()], object), indices=[0])
    for read, name in [(read_arrays, "trap.npy"), (read_graph, "trap.npz"), (read_nodes, "trap.npy")]:
        with pytest.raises(LowBitError, match="Object arrays cannot be loaded"):
            read(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["pair.npz", "csr.npz", "coo.npz", "edges.txt"])
def test_damaged_files_are_refused_or_are_graphs(name, tmp_path):
    WRITERS[name](tmp_path / name)
    whole, rng, refused = (tmp_path / name).read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        content = bytearray(whole[: rng.integers(len(whole))] if rng.integers(2) else whole)
        for place in rng.integers(len(content), size=rng.integers(4)) if content else ():
            content[place] = rng.integers(256)
        (tmp_path / name).write_bytes(content)
        try:
            assert read_graph(tmp_path / name, 12).num_src >= 0
        except LowBitError:
            refused += 1
    assert refused > 50


def echo(*inputs):
    """A model of some inputs that returns its arguments."""

    class Echo(PackedModel):
        def __call__(self, **arguments):
            return arguments

    entries = [
        {"name": name, "kind": kind, "value": number, "optional": False, **more}
        for number, (name, kind, more) in enumerate(inputs)
    ]
    first = next(entry["value"] for entry in entries if entry["kind"] == "features")
    return Echo(Plan(entries, [{"op": "relu", "in": [first], "out": 99}], [99], {}))


def test_arguments_are_found_by_their_names():
    feat, weight, ones = np.zeros((12, 3)), np.ones(29), np.ones(3)
    model = echo(
        ("g", "graph", {}),
        ("x", "features", {}),
        ("w", "edge_weight", {"optional": True}),
        ("k", "constant", {"constant": 2}),
        ("h", "features", {"key": "user", "optional": True}),
        ("h", "features", {"key": "item", "optional": True}),
        ("u", "unused", {}),
    )
    assert Call(model, GRAPH, feat).run() == {"g": GRAPH, "k": 2, "u": None, "x": feat}
    got = Call(model, GRAPH, {"x": feat, "w": weight, "h/user": ones, "h/item": weight}).run()
    assert got["w"] is weight and got["h"] == {"user": ones, "item": weight}
    assert Call(model, GRAPH, {"x/1": weight, "x/0": ones}).run()["x"] == (ones, weight)
    for both in ({"x": feat, "x/0": ones}, {"x/0": ones, "x": feat}):
        with pytest.raises(GraphError, match="x is given whole and in parts"):
            Call(model, GRAPH, both)
    with pytest.raises(GraphError, match="the model takes h, w, x, of which x must be given; got w"):
        Call(model, GRAPH, {"w": weight})
    two = echo(("x", "features", {}), ("y", "features", {}))
    with pytest.raises(GraphError, match="the model takes x, y, got one array; name them, in an .npz file"):
        Call(two, GRAPH, feat)


def test_graphs_of_several_types_are_refused_and_blocks_are_the_graph():
    entries = [
        {"name": "g", "kind": "graph", "value": 0, "optional": False},
        {"name": "x", "kind": "features", "value": 1, "optional": False},
    ]
    readers = {
        "types": [{"op": "relation", "in": [0], "out": 2, "etype": ["a", "b", "c"]}],
        "blocks": [{"op": "item", "in": [0], "out": 2 + n, "index": n} for n in range(2)],
    }
    models = {kind: PackedModel(Plan(entries, [*ops, relu(1, 9)], [9], {})) for kind, ops in readers.items()}
    with pytest.raises(GraphError, match="g is of several types"):
        Call(models["types"], GRAPH, EXAMPLE["feat"])
    call = Call(models["blocks"], GRAPH, EXAMPLE["feat"])
    assert call.arguments["g"] == [GRAPH, GRAPH]


def relu(value, out):
    return {"op": "relu", "in": [value], "out": out}


def test_nodes_of_a_model_that_returns_other_rows_are_refused():
    entries = [
        {"name": "g", "kind": "graph", "value": 0, "optional": False},
        {"name": "x", "kind": "features", "value": 1, "optional": False},
    ]
    plan = Plan(entries, [{"op": "readout", "in": [0, 1], "out": 2, "reduce": "sum"}], [2], {})
    call = Call(PackedModel(plan), GRAPH, EXAMPLE["feat"])
    assert len(call.run()) == 1
    with pytest.raises(GraphError, match="a row for each of 12 nodes"):
        call.run(np.array([0]))


@pytest.mark.parametrize("result", [{"a/b": ONES, "file": ONES[:2]}, (ONES, ONES[:1])])
def test_several_results_are_named_in_one_file(result, tmp_path):
    write_arrays(tmp_path / "out.npz", result)
    got = read_arrays(tmp_path / "out.npz")
    expected = result if isinstance(result, dict) else {str(n): array for n, array in enumerate(result)}
    assert got.keys() == expected.keys() and all(np.array_equal(got[name], expected[name]) for name in got)
    first = (tmp_path / "out.npz").read_bytes()
    assert write_arrays(tmp_path / "out.npz", result).read_bytes() == first


def test_several_results_need_a_file_that_can_hold_them(files, capsys):
    entries = [{"name": "x", "kind": "features", "value": 0, "optional": False}]
    model = PackedModel(Plan(entries, [relu(0, 1), relu(1, 2)], [1, 2], {}, "tuple")).save(files / "two.safetensors")
    arguments = ["predict", str(model), str(files / "graph.npz"), str(files / "feat.npy")]
    assert main([*arguments, str(files / "out.npy")]) == 2
    assert "must go to a file named .npz, as it is several arrays" in capsys.readouterr().err
    assert main([*arguments, str(files / "out.npz")]) == 0
    assert np.array_equal(np.load(files / "out.npz")["1"], np.maximum(EXAMPLE["feat"], 0))


def test_info_describes_a_model_without_steering_the_terminal(tmp_path, capsys):
    assert main(["info", MODEL]) == 0
    out = capsys.readouterr().out
    assert out.startswith("GCN(graph: graph, feat: features), 19 operations, 2,900 bytes\n") and "6×8" in out
    assert main(["info", MODEL, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "GCN"
    model = load(MODEL)
    red = "\x1b[31m\x07\u202e\nx"
    model.info.update(graph=red, model=red, layers={red: {red: 2}}, trained_on={"nodes": red, "edges": 1, "digest": 2})
    assert main(["info", str(model.save(tmp_path / "red.safetensors"))]) == 0
    assert all(c.isprintable() or c == "\n" for c in capsys.readouterr().out)


def test_predict_needs_neither_torch_nor_scipy(files):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'dgl', 'dgl_lowbit', 'scipy', 'safetensors']))\n"
        "from numba_kernels.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    scipy.sparse.save_npz(files / "coo.npz", scipy.sparse.coo_matrix((ONES, GRAPH.edges), (12, 12)))
    arguments = ["predict", MODEL, str(files / "coo.npz"), str(files / "feat.npy"), str(files / "out.npy")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(files / "out.npy"), EXAMPLE["expected"])
