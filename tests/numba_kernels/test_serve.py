"""A model behind HTTP, on a real socket."""

import asyncio
import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from numba_kernels import Graph, load
from numba_kernels.__main__ import main
from numba_kernels.calling import Call
from numba_kernels.serve import Limits

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from numba_kernels.serve.app import application, to_json
from numba_kernels.serve.server import server

DATA = Path(__file__).parents[1] / "data"
EXAMPLE = dict(np.load(DATA / "version2.npz"))
DEFAULT = Limits()
GRAPH, EXPECTED = Graph(EXAMPLE["indptr"], EXAMPLE["indices"]), EXAMPLE["expected"]


class Held:
    """A call that answers with numbers of nodes, once it may; counts its runs."""

    graph, check_nodes = GRAPH, Call.check_nodes

    def __init__(self, fails=-1):
        self.fails = fails
        self.may, self.began, self.asked = threading.Event(), threading.Event(), []

    def run(self, nodes=None):
        self.asked.append(nodes)
        self.began.set()
        assert self.may.wait(20)
        nodes = np.arange(12) if nodes is None else nodes
        if self.fails in nodes:
            raise MemoryError
        return nodes[:, None].astype(np.float32)


@contextlib.contextmanager
def serving(call, limits=DEFAULT):
    """The port of a server, and the server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = server(application(call, limits), limits)
        thread = threading.Thread(target=running.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()[1], running
        finally:
            running.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def post(port, body, **headers):
    """Status, and the answer: what the JSON says, or the array."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", "/predict", content, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    is_array = response.headers["content-type"] == "application/x-npy"
    return response.status, np.load(io.BytesIO(content)) if is_array else json.loads(content)


def get(port, path="/health"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    response = connection.getresponse()
    content = json.loads(response.read())
    connection.close()
    return response.status, content


def wait_until(condition):
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to that")


@pytest.fixture(scope="module")
def port():
    call = Call(load(DATA / "version2.safetensors"), GRAPH, EXAMPLE["feat"])
    call.run()  # compiles
    with serving(call, Limits(max_nodes=20, max_bytes=4000)) as (port, _):
        yield port


def test_answers_are_those_of_the_model(port):
    for nodes in ([3], [3, 1, 1], [], list(range(12))):
        rows = EXPECTED[np.array(nodes, int)]
        status, answer = post(port, {"nodes": nodes})
        assert status == 200 and np.array_equal(np.array(answer["logits"], np.float32).reshape(-1, 3), rows)
        status, answer = post(port, {"nodes": nodes}, accept="application/x-npy")
        assert status == 200 and answer.dtype == np.float32 and np.array_equal(answer, rows)
    for body in (b"", {}, {"nodes": None}):
        assert np.array_equal(post(port, body, accept="application/x-npy")[1], EXPECTED)


def test_a_request_may_bring_its_own_graph_and_features(port):
    feat = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    model, pair = load(DATA / "version2.safetensors"), {"indptr": [0, 1, 3], "indices": [1, 0, 1]}
    ask = {"features": feat.tolist(), "nodes": [5, 2]}
    assert np.array_equal(np.float32(post(port, ask)[1]["logits"]), model(GRAPH, feat)[[5, 2]])
    assert np.array_equal(np.float32(post(port, {**ask, "features": {"feat": ask["features"]}})[1]["logits"]),
                          model(GRAPH, feat)[[5, 2]])  # fmt: skip
    ask = {"graph": pair, "features": feat[:2].tolist()}
    expected = model((pair["indptr"], pair["indices"]), feat[:2])
    assert np.array_equal(np.float32(post(port, ask)[1]["logits"]), expected)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "the body must be JSON: "),
        (b"[" * 3000, 400, "the body must be JSON: "),
        (b"\xff", 400, "the body must be JSON: "),
        ([1], 400, "the body must be a JSON object"),
        ({"node": [1]}, 422, "a request is of nodes, graph, features, got 'node'"),
        ({"nodes": [12]}, 422, "nodes must be from 0 to 11, got 12 to 12"),
        ({"nodes": [-1]}, 422, "nodes must be from 0 to 11"),
        ({"nodes": [2**80]}, 422, "nodes must be a list of whole numbers"),
        ({"nodes": [1.5]}, 422, "nodes must be a list of whole numbers"),
        ({"nodes": [True]}, 422, "nodes must be a list of whole numbers"),
        ({"nodes": [[1], [1, 2]]}, 422, "nodes must be a list of whole numbers"),
        ({"nodes": [[1]]}, 422, "nodes must be node numbers, integers in one dimension"),
        ({"nodes": {"0": 1}}, 422, "nodes must be a list of whole numbers"),
        ({"nodes": [0] * 21}, 413, "the request has 21 nodes, more than 20; ask for fewer"),
        ({"graph": []}, 422, "graph must be an object of indptr and indices, got list"),
        ({"graph": {"indptr": [0]}}, 422, "a sparse matrix of scipy's; indices is missing."),
        ({"graph": {"indptr": [0, 1], "indices": [7]}}, 422, "indices must name one of 1 source nodes"),
        ({"graph": {"indptr": [0] * 22, "indices": []}}, 413, "the graph has 21 nodes"),
        ({"graph": {"indptr": [0], "indices": [], "num_src": 10**9}}, 413, "the graph has 1,000,000,000 nodes"),
        ({"graph": {"indptr": [0, 0], "indices": []}}, 422, "There are 0-in-degree nodes"),
        ({"features": [[1]]}, 422, "expected a row for each of 12 source nodes, got 1"),
        ({"features": [["a"]]}, 422, "feat must be a list of numbers"),
        (b'{"features": [[NaN, 0, 0, 0, 0, 0]], "graph": {"indptr": [0, 1], "indices": [0]}}', 422, "holds NaN"),
        ({"features": {"x": [[1]]}}, 422, "the model takes feat"),
        (b" " * 4001, 413, "the request is longer than 4,000 bytes"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_said_in_a_sentence(port, body, status, message):
    got, answer = post(port, body)
    assert (got, list(answer)) == (status, ["error"])
    assert message in answer["error"] and "\n" not in answer["error"]


def test_bytes_are_counted_where_no_length_is_said(port):
    chunks = b"3e8\r\n" + b" " * 1000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + chunks * 8)
        assert connection.recv(4000).startswith(b"HTTP/1.1 413 ")


def test_other_paths_and_methods(port):
    assert get(port, "/")[0] == 404
    refused = "GET /predict is not served; there are POST /predict and GET /health."
    assert get(port, "/predict") == (405, {"error": refused})
    assert get(port)[1]["nodes"] == 12 and "POST /predict and GET /health" in get(port, "/x")[1]["error"]


def test_requests_that_wait_are_answered_by_one_run():
    held = Held()
    with serving(held, Limits(max_batch=5)) as (port, _), ThreadPoolExecutor(8) as threads:
        first = threads.submit(post, port, {"nodes": [1]})
        assert held.began.wait(20)
        others = [threads.submit(post, port, {"nodes": [n, 3, n]}) for n in range(4, 11)]
        wait_until(lambda: get(port)[1]["waiting"] == 7)
        held.may.set()
        assert first.result()[1] == {"logits": [[1]]}
        for n, other in enumerate(others, 4):
            assert other.result() == (200, {"logits": [[n], [3], [n]]})
        assert [len(nodes) for nodes in held.asked] == [1, 6, 3]  # 3 and each n once, five and two requests
        assert get(port)[1] == {"status": "ok", "nodes": 12, "waiting": 0, "answered": 8, "runs": 3}


def test_the_whole_graph_is_run_once_for_all_who_wait():
    held = Held()
    with serving(held) as (port, _), ThreadPoolExecutor(8) as threads:
        first = threads.submit(post, port, {"nodes": [1]})
        assert held.began.wait(20)
        wholes = [threads.submit(post, port, {}) for _ in range(3)]
        wait_until(lambda: get(port)[1]["waiting"] == 3)
        held.may.set()
        assert [whole.result() for whole in wholes] == [(200, {"logits": [[n] for n in range(12)]})] * 3
        assert first.result()[0] == 200 and [nodes is None for nodes in held.asked] == [False, True]


def test_a_request_that_fails_fails_alone():
    held = Held(fails=11)
    with serving(held) as (port, _), ThreadPoolExecutor(8) as threads:
        first = threads.submit(post, port, {"nodes": [1]})
        assert held.began.wait(20)
        others = [threads.submit(post, port, {"nodes": [n]}) for n in (2, 11, 3)]
        wait_until(lambda: get(port)[1]["waiting"] == 3)
        held.may.set()
        status, answer = others.pop(1).result()
        assert status == 503 and "not enough memory" in answer["error"]
        for n, request in zip((1, 2, 3), (first, *others)):
            assert request.result() == (200, {"logits": [[n]]})


def test_a_full_queue_and_a_late_answer_are_refused():
    held = Held()
    with serving(held, Limits(max_waiting=1, timeout=0.5)) as (port, _), ThreadPoolExecutor(2) as threads:
        late = threads.submit(post, port, {"nodes": [1]})
        assert held.began.wait(20)
        waiting = threads.submit(post, port, {"nodes": [2]})
        wait_until(lambda: get(port)[1]["waiting"] == 1)
        assert post(port, {"nodes": [3]}) == (503, {"error": "1 requests wait already; try again later."})
        for request in (late, waiting):
            assert request.result() == (503, {"error": "no answer within 0.5 s; try again later."})
        held.may.set()
        wait_until(lambda: post(port, {"nodes": [3]}) == (200, {"logits": [[3]]}))
        assert [2] not in [nodes.tolist() for nodes in held.asked]  # nobody waited for it any more


def test_a_request_that_does_not_arrive_in_time_is_refused():
    with serving(Held(), Limits(timeout=0.2)) as (port, _):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
            answer, part = b"", b"."
            while part and b"in time" not in answer:
                part = slow.recv(4000)
                answer += part
        assert b" 408 " in answer and b"did not arrive in time" in answer


def test_what_was_accepted_is_answered_before_the_server_ends():
    held = Held()
    with ThreadPoolExecutor(2) as threads, serving(held) as (port, running):
        accepted = [threads.submit(post, port, {"nodes": [1]})]
        assert held.began.wait(20)
        accepted.append(threads.submit(post, port, {"nodes": [2]}))
        wait_until(lambda: get(port)[1]["waiting"] == 1)
        running.should_exit = True
        wait_until(lambda: not accepts(port))
        held.may.set()
        assert [request.result() for request in accepted] == [(200, {"logits": [[n]]}) for n in (1, 2)]


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_numbers_that_json_has_not_are_null():
    async def written(result):
        return [part async for part in to_json(result)]

    for result, expected in (
        (np.array([[1, np.nan], [-np.inf, 0.5]], np.float32), '{"logits":[[1.0,null],[null,0.5]]}'),
        (np.float32(2).reshape(()), '{"logits":2.0}'),
        (np.empty((0, 3), np.float32), '{"logits":[]}'),
    ):
        assert "".join(asyncio.run(written(result))) == expected
    large = np.arange(30_000, dtype=np.float32).reshape(3000, 2, 5)
    parts = asyncio.run(written(large))
    assert json.loads("".join(parts)) == {"logits": large.tolist()} and len(parts) == 8


@pytest.fixture
def arguments(tmp_path):
    np.savez(tmp_path / "graph.npz", indptr=EXAMPLE["indptr"], indices=EXAMPLE["indices"])
    np.save(tmp_path / "feat.npy", EXAMPLE["feat"])
    return [str(DATA / "version2.safetensors"), str(tmp_path / "graph.npz"), str(tmp_path / "feat.npy")]


def test_what_keeps_a_server_from_starting_is_one_line(arguments, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", *arguments, "--port", port]) == 2
        assert re.fullmatch("numba_kernels serve: error: .*in use.*\n", capsys.readouterr().err)
    assert main(["serve", *arguments, "--host", "256.1.1.1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "numba_kernels.serve.server")
    assert main(["serve", *arguments]) == 2
    assert "serve needs uvicorn, which is not installed: pip install" in capsys.readouterr().err


@contextlib.contextmanager
def process(arguments):
    """A server in a process of its own, and its port."""
    command = [sys.executable, "-m", "numba_kernels", "serve", *arguments, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running, int(running.stdout.readline().rsplit(":", 1)[1])
        finally:
            running.kill()


@pytest.mark.slow
def test_a_server_ends_on_sigterm_and_starts_again_after_being_killed(arguments, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for stop in (signal.SIGKILL, signal.SIGTERM):
        with process(arguments) as (running, port):
            assert post(port, {"nodes": [3]})[1]["logits"] == EXPECTED[[3]].tolist()
            os.kill(running.pid, stop)
            assert running.wait(20) == (0 if stop == signal.SIGTERM else -stop)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
