"""Boosting over scales: votes and weights by their formulas, scales by hand, packed models."""

import math

import dgl
import pytest
import torch

import dgl_lowbit as lowbit
from dgl_lowbit.nn import BoostedMLP
from dgl_lowbit.nn.ops import TorchOps
from dgl_lowbit.training.boost import _norms, aligned


@pytest.fixture(scope="module")
def graph():
    """Three groups of nodes that link among themselves, with noisy features."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(90) % 3
    near = torch.rand(90, 90, generator=generator) < torch.where(label[:, None] == label, 0.15, 0.01)
    g = dgl.add_self_loop(dgl.remove_self_loop(dgl.graph(near.nonzero(as_tuple=True), num_nodes=90)))
    g.ndata["label"] = label
    g.ndata["feat"] = torch.eye(3)[label].repeat(1, 4) * 0.5 + torch.rand(90, 12, generator=generator)
    part = torch.arange(90) // 30
    for index, mask in enumerate(("train_mask", "val_mask", "test_mask")):
        g.ndata[mask] = part == index
    return g


def boost(graph, **options):
    options = {"rounds": 3, "hidden": 8, "epochs": 8, "finetune": 8, "progress": False, **options}
    return lowbit.boost(graph, **options)


def test_scales_are_powers_of_the_adjacency(graph):
    feat, ops = graph.ndata["feat"], TorchOps()
    source, target = graph.edges()
    a = torch.zeros(90, 90).index_put((target, source), torch.ones(()), accumulate=True)
    a = a * a.sum(1)[:, None].rsqrt() * a.sum(0).rsqrt()
    powers = [torch.linalg.matrix_power(a, n) @ feat for n in range(9)]
    adj = BoostedMLP(12, 3, rounds=3).scales(ops, graph, feat)
    ii = BoostedMLP(12, 3, rounds=2, propagate="ii", share=0.7).scales(ops, graph, feat)
    kta = BoostedMLP(12, 3, rounds=2, propagate="kta")
    kta.mixing[0] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    expected = 0.1 * powers[1] + 0.2 * powers[2] + 0.3 * powers[4] + 0.4 * powers[8]
    torch.testing.assert_close(adj, powers[:3])
    torch.testing.assert_close(ii[1], 0.7 * powers[1] + 0.3 * feat)
    torch.testing.assert_close(kta.scales(ops, graph, feat)[1], expected)


def test_votes_are_those_of_weighted_errors(graph):
    boosted = boost(graph, bits=32, finetune=0, epochs=2)
    model, scales = boosted.model, boosted.model.scales(TorchOps(), graph, graph.ndata["feat"])
    train, label = graph.ndata["train_mask"], graph.ndata["label"]
    weights = torch.full((30,), 1 / 30)
    for t, learner in enumerate(boosted.learners):
        wrong = model.logits(TorchOps(), scales[t], t)[train].argmax(1) != label[train]
        error = min(max(weights[wrong].sum().item(), 1 / 60), 2 / 3)
        vote = math.log((1 - error) / error) + math.log(2)
        assert learner["error"] == pytest.approx(error) and learner["vote"] == pytest.approx(vote, abs=1e-5)
        assert model.votes[t].item() == pytest.approx(vote, abs=1e-5)
        weights = weights * torch.where(wrong, math.exp(vote), 1.0)
        weights /= weights.sum()


def test_alignment_finds_the_kernel_of_the_labels():
    torch.manual_seed(0)
    labels = torch.arange(20) % 2
    good = torch.nn.functional.one_hot(labels).float() + 0.1 * torch.randn(20, 2)
    theta = aligned([torch.randn(20, 2), good, torch.randn(20, 2)], labels)
    assert theta.argmax() == 1 and theta[1] > 0.8 and theta.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("shape", [(20, 5), (5, 20)])
def test_alignment_is_that_of_the_kernels(shape):
    torch.manual_seed(0)
    spread, weights = [torch.randn(shape) for _ in range(3)], torch.tensor([0.5, 0.2, 0.3]).double()
    centered = [(z - z.mean(0)).double() for z in spread]
    kernel = sum(weights[i] * weights[j] * a @ b.T for i, a in enumerate(centered) for j, b in enumerate(centered))
    norms = torch.einsum("i,j,k,l,ijkl->", *[weights] * 4, _norms(centered))
    assert norms.item() == pytest.approx(kernel.square().sum().item())


def test_the_range_of_what_is_returned_is_trained(graph):
    config = lowbit.QuantConfig(2, outputs=8)
    boosted = boost(graph, config=config, finetune=40, lr=0.05)
    assert boosted.model.quantizers["outputs"].drift.item() != 0


@pytest.mark.parametrize(
    ("propagate", "bits"),
    [("adj", 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("ii", 1), ("kta", 2)))],
)
def test_a_boosted_model_is_frozen_whole(graph, propagate, bits):
    boosted = boost(graph, propagate=propagate, bits=bits, rounds=2)
    feat = graph.ndata["feat"]
    packed = lowbit.freeze(boosted.model, graph, feat)
    assert {op["op"] for op in packed.plan.ops} >= {"delta", "aggregate", "linear"}
    torch.testing.assert_close(packed(graph, feat), boosted.model(graph, feat).detach(), rtol=1e-4, atol=1e-4)
    assert bits == 1 or boosted.test_accuracy > 0.5


@pytest.mark.slow
def test_the_same_seed_gives_the_same_and_leaves_torchs_state(graph):
    state = torch.random.get_rng_state()
    first, second = boost(graph), boost(graph)
    assert torch.equal(torch.random.get_rng_state(), state)
    for one, other in zip(first.model.state_dict().values(), second.model.state_dict().values()):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_many_scales_do_not_collapse(graph):
    few, many = boost(graph, bits=32, rounds=2), boost(graph, bits=32, rounds=20)
    assert many.test_accuracy >= few.test_accuracy - 0.1


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"rounds": 0}, "rounds must be"),
        ({"hidden": 2.5}, "hidden must be"),
        ({"propagate": "far"}, "adj, ii, kta"),
        ({"propagate": "ii", "share": 0}, "share must be"),
        ({"epochs": 0}, "epochs must be"),
        ({"finetune": -1}, "finetune must be"),
        ({"distillation": 2}, "distillation is a part"),
        ({"bits": 5}, "bits"),
        ({"config": lowbit.QuantConfig(2, quantizer="hgq")}, "need a price"),
    ],
)
def test_what_does_not_fit_is_refused(graph, options, fault):
    with pytest.raises(ValueError, match=fault):
        boost(graph, **options)


def test_one_class_is_none_to_vote_for(graph):
    graph = graph.local_var()
    graph.ndata["label"] = torch.zeros(90, dtype=torch.long)
    with pytest.raises(ValueError, match="has one; give labels of at least two"):
        boost(graph)
    with pytest.raises(ValueError, match="num_classes must be a whole number, at least 1, got 0"):
        BoostedMLP(12, 0)


def test_nodes_without_in_edges_are_refused(graph):
    with pytest.raises(dgl.DGLError, match="in-degree"):
        boost(_with_a_lonely_node(graph))


def _with_a_lonely_node(graph):
    lonely = dgl.remove_edges(graph, graph.in_edges(0, form="eid"))
    for name, column in graph.ndata.items():
        lonely.ndata[name] = column
    return lonely
