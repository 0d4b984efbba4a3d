"""Predictions in other processes, as servers and data loaders make them.

Run as a program, ``python -m tests.deploy.workers WAY``: it uses the threads of torch, DGL and the kernels, and ends
with status 0 if all predictions that its workers make equal its own.
"""

import multiprocessing
import socketserver
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import dgl
import torch

import dgl_lowbit as lowbit
import numba_kernels

NODES, WIDTH, SEEDS = 20_000, 16, range(4)
packed = None


def arguments(seed):
    """A graph whose compressed rows DGL has not made yet, and features."""
    generator = torch.Generator().manual_seed(seed)
    source, target = torch.randint(NODES, (2, 10 * NODES), generator=generator)
    return dgl.graph((source, target), num_nodes=NODES), torch.randn(NODES, WIDTH, generator=generator)


def make():
    """A packed model, and all threads used."""
    global packed
    torch.manual_seed(0)
    threads = numba_kernels.get_num_threads()
    torch.set_num_threads(max(threads, 2))
    dgl.utils.set_num_threads(max(threads, 2))
    graph, feat = arguments(0)
    layer = lowbit.nn.GraphConv(WIDTH, 8, allow_zero_in_degree=True, config=lowbit.QuantConfig(2))
    layer(graph, feat)  # DGL's threads, and torch's
    packed = lowbit.freeze(layer.eval(), graph, feat)
    packed(graph, feat)


def predict(seed) -> float:
    """A number that says what was predicted, in float64 without torch's threads."""
    return float((packed(*arguments(seed)).numpy().astype("float64") ** 2).sum())


def predict_loaded(path, seed):
    """In a process that was not forked: from a file."""
    global packed
    packed = lowbit.load(path)
    return predict(seed)


def by_loader():
    loader = torch.utils.data.DataLoader(
        list(SEEDS), batch_size=None, num_workers=2, collate_fn=predict, multiprocessing_context="fork"
    )
    return list(loader)


def by_pool():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(predict, SEEDS)


def by_spawning():
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(2) as pool:
        path = packed.save(f"{folder}/model.safetensors")
        return pool.starmap(predict_loaded, [(path, seed) for seed in SEEDS])


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        answer = repr(predict(int(self.path[1:]))).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


def by_server():
    """One that has loaded the model and forks for each request."""
    with socketserver.ForkingTCPServer(("127.0.0.1", 0), _Handler) as server, ThreadPoolExecutor(1) as client:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        answers = client.map(lambda seed: float(urllib.request.urlopen(f"{address}{seed}").read()), SEEDS)
        for _ in SEEDS:
            server.handle_request()
        return list(answers)


WAYS = {"loader": by_loader, "pool": by_pool, "spawn": by_spawning, "server": by_server}


def application():
    """Of WSGI, for servers that load it before they fork: says for a path that is a seed whether workers agree."""
    make()
    expected = [predict(seed) for seed in SEEDS]

    def answer(environ, start_response):
        seed = int(environ["PATH_INFO"][1:])
        start_response("200 OK", [])
        return [b"equal" if predict(seed) == expected[seed] else b"different"]

    return answer


if __name__ == "__main__":
    make()
    expected = [predict(seed) for seed in SEEDS]
    sys.exit(WAYS[sys.argv[1]]() != expected)
