"""The embedded graph: a contextual stochastic block model with bag-of-words features."""

from __future__ import annotations

import dgl
import networkx as nx
import numpy as np
import torch

NODES = 2708
CLASSES = 7
WORDS = 1433
# Mean number of neighbours within a class and outside it, and of words a node; with the share of words drawn from
# the class's own vocabulary, these leave features alone weak and the graph strong.
NEIGHBOURS_WITHIN, NEIGHBOURS_ACROSS = 3.0, 1.4
WORDS_A_NODE, SHARE_OF_TOPIC = 18, 0.25
WORDS_A_TOPIC = 120


def planted_graph(seed: int = 0, num_nodes: int = NODES) -> dgl.DGLGraph:
    """A graph of Cora's size with planted communities, made on the spot from ``seed``.

    Nodes of a class link to each other more often than to others (stochastic block model of networkx), and share
    some vocabulary. Rows of the features sum to 1.

    Returns
    -------
    DGLGraph
        ``num_nodes``, 2,708, nodes, about 12,000 directed edges; ``ndata["feat"]`` (N, 1433) float32 and
        ``ndata["label"]`` (N,) int64.
    """
    rng = np.random.default_rng(seed)
    sizes = [num_nodes // CLASSES + (c < num_nodes % CLASSES) for c in range(CLASSES)]
    within, across = NEIGHBOURS_WITHIN * CLASSES / num_nodes, NEIGHBOURS_ACROSS * CLASSES / num_nodes / (CLASSES - 1)
    probabilities = np.full((CLASSES, CLASSES), across) + np.eye(CLASSES) * (within - across)
    network = nx.stochastic_block_model(sizes, probabilities.tolist(), seed=seed)
    edges = np.array(network.edges)

    labels = np.repeat(np.arange(CLASSES), sizes)
    words = _words(labels, rng)
    order = rng.permutation(num_nodes)
    place = np.argsort(order)
    source, target = place[edges[:, 0]], place[edges[:, 1]]
    graph = dgl.graph((np.concatenate([source, target]), np.concatenate([target, source])), num_nodes=num_nodes)
    graph.ndata["feat"] = torch.from_numpy(words[order] / words[order].sum(1, keepdims=True))
    graph.ndata["label"] = torch.from_numpy(labels[order])
    return graph


def _words(labels, rng):
    """0/1 rows of (N, WORDS): each node draws words from its class's vocabulary or, mostly, from all."""
    popularity = 1 / np.arange(1, WORDS + 1) ** 0.7
    popularity = rng.permutation(popularity)
    topics = np.stack([rng.permutation(WORDS) < WORDS_A_TOPIC for _ in range(CLASSES)]) * popularity
    mixed = SHARE_OF_TOPIC * topics / topics.sum(1, keepdims=True)
    mixed += (1 - SHARE_OF_TOPIC) * popularity / popularity.sum()
    counts = np.maximum(rng.poisson(WORDS_A_NODE, len(labels)), 1)
    words = np.zeros((len(labels), WORDS), np.float32)
    for node, (label, count) in enumerate(zip(labels, counts)):
        words[node, rng.choice(WORDS, count, replace=False, p=mixed[label])] = 1
    return words
