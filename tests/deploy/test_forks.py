"""Predictions in processes that are forked from one that has used the threads of torch, DGL and the kernels."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import dgl
import pytest
import torch

import dgl_lowbit as lowbit
from tests.processes import forked

from . import workers

ROOT, SECONDS = Path(__file__).parents[2], 300


@pytest.fixture
def layer():
    """A model, and two threads for torch and DGL."""
    before = torch.get_num_threads(), dgl.utils.get_num_threads()
    torch.set_num_threads(2)
    dgl.utils.set_num_threads(2)
    torch.manual_seed(0)
    yield lowbit.nn.GraphConv(workers.WIDTH, 8, allow_zero_in_degree=True, config=lowbit.QuantConfig(2))
    torch.set_num_threads(before[0])
    dgl.utils.set_num_threads(before[1])


@pytest.mark.slow
def test_graphs_and_features_are_converted_in_a_forked_process(layer):
    graph, feat = workers.arguments(0)
    layer(graph, feat)
    packed, feat = lowbit.freeze(layer.eval(), graph, feat), feat.bfloat16()
    expected = packed(graph, feat)
    new, _ = workers.arguments(0)
    assert torch.equal(torch.from_numpy(forked(lambda: packed(new, feat).numpy())), expected)
    with pytest.raises(RuntimeError, match=r"ArgumentsError\('feat must have shape"):
        forked(lambda: packed(new, feat[0]))


@pytest.mark.slow
@pytest.mark.parametrize("way", workers.WAYS)
def test_workers_predict_what_their_parent_does(way):
    command = [sys.executable, "-m", "tests.deploy.workers", way]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_gunicorn_predicts_in_workers_of_an_application_it_has_loaded():
    pytest.importorskip("gunicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = ["--preload", "--workers", "2", "--bind", address, "--timeout", str(SECONDS)]
    command = [sys.executable, "-m", "gunicorn", *options, "tests.deploy.workers:application()"]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        assert {_answer(f"http://{address}/{seed}") for seed in (*workers.SEEDS, *workers.SEEDS)} == {b"equal"}
    finally:
        server.terminate()
        server.wait(SECONDS)


def _answer(url):
    """What a server answers, once it has started."""
    for _ in range(10 * SECONDS):
        try:
            return urllib.request.urlopen(url, timeout=SECONDS).read()
        except urllib.error.URLError:
            time.sleep(0.1)
    raise TimeoutError(url)
