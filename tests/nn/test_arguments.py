"""Arguments of another kind than layers take: one error that says what to write instead."""

import re
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from dgl import DGLError

import dgl_lowbit as lowbit
from tests.nn.layers import IN, LAYERS, OUT, arguments, graph_for, make

ALONE = [name for name, entry in LAYERS.items() if entry.row is not None]
WITH_GRAPH = [name for name in ALONE if LAYERS[name].takes_graph]
WEIGHTED = [name for name in WITH_GRAPH if LAYERS[name].weight]
DENSE = torch.eye(3)


def csr(x):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return x.to_sparse_csr()


GRAPHS = {
    "scipy": (scipy.sparse.identity(3, format="csr"), r"write dgl\.from_scipy\(adj\)"),
    "scipy coo": (scipy.sparse.identity(3, format="coo"), r"write dgl\.from_scipy\(adj\)"),
    "sparse": (DENSE.to_sparse(), r"a sparse Tensor; write dgl\.graph\("),
    "csr": (csr(DENSE), r"a sparse Tensor; write dgl\.graph\("),
    "dense": (DENSE, r"a dense Tensor; write dgl\.graph\("),
    "list": ([], r"list; pass one of them, or dgl\.batch\(graphs\)"),
    "none": (None, r"NoneType; pass a DGLGraph"),
}


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("name", WITH_GRAPH)
def test_what_is_no_graph_is_refused(name, kind, keyword):
    layer, (_, *args) = make(name, bits=4), arguments(name, graph_for(name))[0]
    given, message = GRAPHS[kind]
    expected = f"^{type(layer).__name__} expects a DGLGraph, got .*{message}"
    with pytest.raises(DGLError, match=expected):
        if keyword:
            names = list(layer.arguments)
            layer(**dict(zip(names, (given, *args))))
        else:
            layer(given, *args)


FEATURES = {
    "list": (lambda x: x.tolist(), r"torch\.as_tensor\(\w+, dtype=torch\.float32\)"),
    "numpy": (lambda x: x.numpy(), r"torch\.as_tensor\(\w+, dtype=torch\.float32\)"),
    "scipy": (lambda x: scipy.sparse.csr_matrix(x.numpy()), r"torch\.from_numpy\(\w+\.toarray\(\)\)\.float\(\)"),
    "torch.sparse": (lambda x: x.to_sparse(), r"\w+\.to_dense\(\)"),
    "whole": (lambda x: x.long(), r"\w+\.float\(\)"),
}


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("name", [name for name in ALONE if not name.endswith("_pair")])
def test_features_of_another_kind_are_refused(name, kind):
    layer, (args, _) = make(name, bits=4), arguments(name, graph_for(name))
    place = int(LAYERS[name].takes_graph)
    convert, instead = FEATURES[kind]
    with pytest.raises(DGLError, match=f"^{type(layer).__name__} expects \\w+ .*; pass {instead}"):
        layer(*args[:place], convert(args[place]), *args[place + 1 :])


@pytest.mark.parametrize("name", WEIGHTED)
def test_edge_weights_of_another_kind_are_refused(name):
    layer, graph = make(name, bits=4), graph_for(name)
    args, _ = arguments(name, graph)
    for given in ([1.0] * graph.num_edges(), np.ones(graph.num_edges(), np.float32)):
        with pytest.raises(DGLError, match="expects edge_weight as a torch.Tensor, got .*; pass torch.as_tensor"):
            layer(*args, **{LAYERS[name].weight: given})


def test_what_is_said_to_be_written_is_taken():
    layer, x = lowbit.nn.Linear(IN, OUT, config=lowbit.QuantConfig(4)), torch.randn(3, IN)
    expected = layer(x)
    for kind in ("list", "numpy", "scipy", "torch.sparse"):
        given = FEATURES[kind][0](x)
        with pytest.raises(DGLError) as error:
            layer(given)
        code = re.search(r"; pass (.*)\.$", str(error.value))[1]
        assert torch.equal(layer(eval(code, {"input": given, "torch": torch})), expected)
