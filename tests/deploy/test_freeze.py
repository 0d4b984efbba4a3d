"""Freezing, and running packed models on what users hand in."""

import threading

import dgl
import dgl.nn
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dgl import DGLError

import dgl_lowbit as lowbit
import numba_kernels
from dgl_lowbit.nn.message_passing import last_call
from tests.conftest import GRAPHS, features, homogeneous
from tests.deploy.conftest import TwoLayers


def test_arguments_are_those_of_forward(packed, model, graph, feat):
    weight = torch.rand(graph.num_edges())
    expected = model(graph, feat, weight).detach()
    for got in (packed(graph, feat, weight), packed(g=graph, x=feat, edge_weight=weight)):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(packed(graph, feat), packed(graph, feat, None))
    with pytest.raises(TypeError, match=r"takes \(g, x, edge_weight\), and x is missing"):
        packed(graph)
    with pytest.raises(TypeError, match=r"takes \(g, x, edge_weight\), got 1 positional and \['feat'\]"):
        packed(graph, feat=feat)


def test_any_form_of_graph_and_features(packed, graph, feat):
    expected = packed(graph, feat)
    indptr, indices, _ = (part.numpy() for part in graph.adj_tensors("csc"))
    for form in (graph.adj_external(scipy_fmt="coo"), (indptr, indices), numba_kernels.Graph(indptr, indices)):
        got = packed(form, feat.numpy())
        assert isinstance(got, np.ndarray) and np.array_equal(got, expected.numpy())
    assert torch.equal(packed(graph.int(), feat.double()), expected)
    readonly = np.array(feat.numpy())
    readonly.flags.writeable = False
    assert np.array_equal(packed(graph, readonly), expected.numpy())


def test_a_changed_graph_is_seen(packed, model, graph, feat):
    packed(graph, feat)
    graph.add_edges([0, 1], [2, 3])
    torch.testing.assert_close(packed(graph, feat), model(graph, feat).detach(), rtol=1e-5, atol=1e-6)
    graph.remove_edges([4, 5, 6])
    torch.testing.assert_close(packed(graph, feat), model(graph, feat).detach(), rtol=1e-5, atol=1e-6)


def test_freezing_leaves_the_model_as_it_is(model, graph, feat):
    model.train()
    model.conv1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lowbit.freeze(model)
    assert model.training and not model.conv1.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_threads_may_share_a_model(packed, graph, feat):
    expected, results = packed(graph, feat), []
    workers = [threading.Thread(target=lambda: results.append(packed(graph, feat))) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 6 and all(torch.equal(result, expected) for result in results)


# -- what cannot be frozen -----------------------------------------------------------------------------


def test_hooks_are_refused(model):
    model.conv1.register_forward_hook(lambda module, inputs, output: 3 * output)
    with pytest.raises(lowbit.FreezeError, match=r"conv1 \(GraphConv\) has forward hooks"):
        lowbit.freeze(model)


def test_restricted_formats_and_other_tensors_are_read(packed, graph, feat):
    expected = packed(graph, feat)
    assert torch.equal(packed(graph.formats("coo"), feat), expected)
    with pytest.raises(DGLError, match="dense tensor"):
        packed(graph, feat.to_sparse())
    assert packed(graph, feat.bfloat16()).shape == expected.shape
    for wrong in ([feat, feat], None, graph):
        with pytest.raises(DGLError, match="array or a tuple of two"):
            packed(graph, wrong)
    with pytest.raises(DGLError, match="empty list"):
        packed([], feat)


def test_freezing_before_calibration_names_the_quantisers(graph, feat):
    for example in ((), (graph, feat)):
        with pytest.raises(
            lowbit.FreezeError, match=r"conv1.quantizers.inputs, .* and \d more cannot be frozen: .*calibrate"
        ):
            lowbit.freeze(lowbit.quantize(TwoLayers()), *example)


def test_what_a_model_was_last_called_with_is_its_example(graph, feat):
    model = lowbit.quantize(TwoLayers(), lowbit.QuantConfig(4))
    for _ in range(3):  # a loop of one's own, which sets the ranges
        model(graph, feat).sum().backward()
    packed = lowbit.freeze(model)
    torch.testing.assert_close(packed(graph, feat), model.eval()(graph, feat).detach(), rtol=1e-5, atol=1e-5)


def test_an_example_too_large_to_be_kept_is_what_calibration_was_given(graph, feat, monkeypatch):
    monkeypatch.setattr(last_call, "_MOST_BYTES", 0)
    model = lowbit.calibrate(lowbit.quantize(TwoLayers(), lowbit.QuantConfig(4)), graph, feat)
    packed = lowbit.freeze(model)
    torch.testing.assert_close(packed(graph, feat), model.eval()(graph, feat), rtol=1e-5, atol=1e-5)


def test_an_example_is_needed_once(model, graph, feat):
    fresh = lowbit.quantize(TwoLayers(), lowbit.QuantConfig(2))
    fresh.load_state_dict(model.state_dict())
    with pytest.raises(
        lowbit.FreezeError, match=r"needs an example of what TwoLayers is called with.*freeze\(model, graph"
    ):
        lowbit.freeze(fresh)
    assert torch.equal(lowbit.freeze(fresh, graph, feat)(graph, feat), lowbit.freeze(model)(graph, feat))
    with pytest.raises(lowbit.FreezeError, match=r"does not fit TwoLayers.forward\(g, x, edge_weight=None\): missing"):
        lowbit.freeze(fresh, feat=feat)


def test_only_low_bit_models_are_frozen():
    with pytest.raises(ValueError, match="no low-bit layer; call dgl_lowbit.quantize"):
        lowbit.freeze(TwoLayers())
    with pytest.raises(ValueError, match="expects a torch.nn.Module or a list of them, got str"):
        lowbit.freeze("model")


# -- bad input to packed models ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.rand(40, 13), "width 12, got 13"),
        (lambda: torch.rand(39, 12), "row for each of 40 source nodes, got 39"),
        (lambda: torch.ones(40, 12).long(), "floating point, got int64"),
        (lambda: torch.full((40, 12), float("nan")), "NaN or infinity"),
        (lambda: torch.full((40, 12), float("inf")), "NaN or infinity"),
        (lambda: torch.rand(40), r"shape \(nodes, width\), got \(40,\)"),
        (lambda: (torch.rand(40, 12),) * 3, "a pair"),
    ],
)
def test_bad_features_are_refused(packed, graph, make, message):
    with pytest.raises(DGLError, match=message):
        packed(graph, make())


def test_bad_graphs_are_refused(packed, feat):
    with pytest.raises(DGLError, match="0-in-degree nodes"):
        packed(GRAPHS["isolated"](), torch.rand(9, 12))
    with pytest.raises(DGLError, match="each of 10 source nodes, got 40 rows"):
        packed(dgl.add_self_loop(dgl.rand_graph(10, 20)), feat)
    with pytest.raises(DGLError, match="scipy.sparse matrix"):
        packed("cora", feat)
    hetero = dgl.heterograph({("u", "a", "u"): ([0], [0]), ("u", "b", "u"): ([0], [0])})
    with pytest.raises(DGLError, match="reads one graph here, got one of several edge types"):
        packed(hetero, feat)


def test_bad_edge_weights_are_refused(packed, graph, feat):
    with pytest.raises(DGLError, match=r"edge_weight must have shape \(235,\), got \(3,\)"):
        packed(graph, feat, torch.rand(3))


def test_a_degree_that_overflows_is_refused(packed, graph, feat):
    prepared = numba_kernels.Graph(*(part.numpy() for part in graph.adj_tensors("csc")[:2]))
    prepared.max_in_degree = 2**30
    with pytest.raises(DGLError, match="in-degree 1073741824 overflows"):
        packed(prepared, feat)


@pytest.mark.parametrize("messages", ["delta", "direct"])
def test_propagation_checks_its_features(messages, graph):
    layer = lowbit.nn.SMPConv(7, k=2, messages=messages, config=lowbit.QuantConfig(2))
    packed = lowbit.freeze(lowbit.calibrate(layer, graph, torch.rand(40, 7)))
    for width in (6, 8, 700):
        with pytest.raises(DGLError, match=f"width 7, got {width}"):
            packed(graph, torch.rand(40, width))
    with pytest.raises(DGLError, match="each of 40 source nodes, got 41 rows"):
        packed(graph, torch.rand(41, 7))
    with pytest.raises(DGLError, match="got a pair"):
        packed(graph, (torch.rand(40, 7), torch.rand(40, 7)))


def test_both_parts_of_a_pair_are_checked():
    graph = GRAPHS["bipartite"]()
    layer = lowbit.nn.SAGEConv(12, 4, "gcn", config=lowbit.QuantConfig(4))
    packed = lowbit.freeze(lowbit.calibrate(layer, graph, features(graph, 12)))
    with pytest.raises(DGLError, match="width 12, got 900"):
        packed(graph, (torch.rand(13, 12), torch.rand(21, 900)))
    with pytest.raises(DGLError, match="each of 21 destination nodes, got 20 rows"):
        packed(graph, (torch.rand(13, 12), torch.rand(20, 12)))


def test_blocks_are_counted():
    class Blocks(TwoLayers):
        def forward(self, blocks, x):
            return self.conv2(blocks[1], F.relu(self.conv1(blocks[0], x)))

    graph = homogeneous()
    model = lowbit.quantize(Blocks())
    lowbit.calibrate(model, [graph, graph], features(graph, 12))
    packed = lowbit.freeze(model)
    with pytest.raises(DGLError, match="list of blocks"):
        packed(graph, features(graph, 12))
    with pytest.raises(DGLError, match="reads graph 1 of a list"):
        packed([graph], features(graph, 12))


class TakesFromFrames(torch.nn.Module):
    """Takes its features out of the graph, as DGL's examples do, and a number for each graph of a batch."""

    def __init__(self):
        super().__init__()
        self.conv = dgl.nn.ChebConv(12, 3, 2)

    def forward(self, g):
        return self.conv(g, g.ndata.pop("x"), [2.0] * g.batch_size)


def test_the_last_call_is_known_with_the_frames_it_had(graph, feat):
    def batch(count):
        graphs = [graph.clone() for _ in range(count)]
        for one in graphs:
            one.ndata["x"] = feat
        return dgl.batch(graphs)

    model = lowbit.quantize(TakesFromFrames(), lowbit.QuantConfig(8), batch(2))
    lowbit.calibrate(model, batch(2)).eval()
    expected = [model(batch(count)) for count in (3, 2)]
    packed = lowbit.freeze(model)
    for count, result in zip((3, 2), expected):
        torch.testing.assert_close(packed(batch(count)), result.detach(), rtol=1e-4, atol=1e-5)
