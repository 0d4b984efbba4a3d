"""Graphs by name, with features, labels and splits."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request

import dgl
import dgl.data
import torch
import torch.nn.functional as F

from numba_kernels.errors import LowBitError

from .planted import planted_graph

_DATASETS = {
    "cora": dgl.data.CoraGraphDataset,
    "citeseer": dgl.data.CiteseerGraphDataset,
    "pubmed": dgl.data.PubmedGraphDataset,
    "coauthor-cs": dgl.data.CoauthorCSDataset,
    "coauthor-physics": dgl.data.CoauthorPhysicsDataset,
    "amazon-computer": dgl.data.AmazonCoBuyComputerDataset,
    "amazon-photo": dgl.data.AmazonCoBuyPhotoDataset,
    "reddit": dgl.data.RedditDataset,
}
GRAPH_NAMES = ("planted", *_DATASETS, "ogbn-arxiv")
_UNIT_ROWS = ("amazon-computer", "amazon-photo")  # DGL scales rows of citation graphs, not of these
_TRAIN_A_CLASS, _VAL_A_CLASS = 20, 30
_SECONDS_TO_ANSWER = 3


class DatasetUnavailableError(LowBitError, RuntimeError):
    """A dataset is neither in DGL's cache nor can it be downloaded."""


def load_graph(name: str = "planted", seed: int = 0) -> dgl.DGLGraph:
    """A node classification graph with its split.

    Parameters
    ----------
    name : str
        "planted" (made on the spot; "planted:1", "planted:2", … are others of its kind), "cora", "citeseer", "pubmed",
        "coauthor-cs", "coauthor-physics", "amazon-computer", "amazon-photo", "reddit" (DGL's datasets, cached where
        ``DGL_DOWNLOAD_DIR`` says), or "ogbn-arxiv" (package ``ogb``).
    seed : int
        Draws the split of graphs that carry none: 20 nodes a class for training, 30 for validation, the rest for
        testing (arXiv:1811.05868). The planted graph itself is always the same.

    Returns
    -------
    DGLGraph
        ``ndata``: ``feat`` (N, D) float32, ``label`` (N,) int64, ``train_mask``, ``val_mask``, ``test_mask`` (N,)
        bool. Without self-loops of our adding. Features are DGL's, but for the Amazon graphs, whose bags of words are
        scaled to rows of length 1.

    Raises
    ------
    ValueError
        For an unknown name.
    DatasetUnavailableError
        When the data are not cached and cannot be downloaded.
    """
    kind, _, number = name.partition(":")
    if name not in GRAPH_NAMES and not (kind == "planted" and number.isdecimal()):
        raise ValueError(f"graph must be one of {', '.join(GRAPH_NAMES)}, got {name!r}.")
    if name == "ogbn-arxiv":
        return _arxiv()
    if kind == "planted":
        graph = planted_graph(seed=int(number)) if number else planted_graph()
    else:
        graph = _load(_DATASETS[name])
    if name in _UNIT_ROWS:
        graph.ndata["feat"] = F.normalize(graph.ndata["feat"].float())
    if "train_mask" not in graph.ndata:
        _draw_split(graph, seed)
    for mask in ("train_mask", "val_mask", "test_mask"):
        graph.ndata[mask] = graph.ndata[mask].bool()
    return graph


def num_classes(graph: dgl.DGLGraph) -> int:
    """Number of classes among ``graph.ndata["label"]``."""
    return int(graph.ndata["label"].max()) + 1


def shape_of(graph: dgl.DGLGraph) -> tuple[int, int]:
    """Numbers of features and of classes, which reference models are built with."""
    return graph.ndata["feat"].shape[1], num_classes(graph)


def _load(dataset):
    def download(self):
        # DGL tries five times with long pauses; ask once whether the server answers.
        if not _answers(self.url):
            raise DatasetUnavailableError(
                f"{dataset.__name__} is not in {self.raw_dir} and its server cannot be reached; set the environment "
                "variable DGL_DOWNLOAD_DIR to a folder that holds DGL's download cache."
            )
        dataset.download(self)

    return type(dataset.__name__, (dataset,), {"download": download})(verbose=False)[0]


def _answers(url):
    """Whether the server of ``url`` answers anything within seconds; name look-up, which may hang, included."""
    answered = threading.Event()

    def ask():
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_SECONDS_TO_ANSWER).close()
        except urllib.error.HTTPError:
            pass  # an answer too
        except OSError:
            return
        answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(2 * _SECONDS_TO_ANSWER)
    return answered.is_set()


def _draw_split(graph, seed):
    labels = graph.ndata["label"]
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    part = torch.full_like(labels, 2)
    for c in range(num_classes(graph)):
        members = order[labels[order] == c]
        part[members[:_TRAIN_A_CLASS]] = 0
        part[members[_TRAIN_A_CLASS : _TRAIN_A_CLASS + _VAL_A_CLASS]] = 1
    for index, mask in enumerate(("train_mask", "val_mask", "test_mask")):
        graph.ndata[mask] = part == index


def _arxiv():
    try:
        from ogb.nodeproppred import DglNodePropPredDataset
    except ImportError:
        raise DatasetUnavailableError("ogbn-arxiv is loaded by the package ogb: pip install ogb.") from None
    dataset = DglNodePropPredDataset("ogbn-arxiv")
    graph, labels = dataset[0]
    graph = dgl.to_bidirected(graph, copy_ndata=True)
    graph.ndata["label"] = labels.flatten()
    for mask, part in (("train_mask", "train"), ("val_mask", "valid"), ("test_mask", "test")):
        graph.ndata[mask] = torch.zeros(graph.num_nodes(), dtype=torch.bool)
        graph.ndata[mask][dataset.get_idx_split()[part]] = True
    return graph


def __getattr__(name):
    if name == "compress":  # loads Numba
        from ..deploy import compress

        return compress
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
