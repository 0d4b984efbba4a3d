"""Nodes that training leaves unrounded: who they are, and that nothing else changes."""

from dataclasses import replace

import dgl
import dgl.nn
import pytest
import torch

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.data import load_graph
from dgl_lowbit.experiments.models import GCN
from dgl_lowbit.nn.protection import Protection, degree_ranks, protected_rows, with_degree_ranks
from tests.conftest import features, homogeneous
from tests.nn.layers import IN, LAYERS, OUT, arguments, hetero
from tests.nn.own_modules import OwnGCN, updated
from tests.nn.protected import PROTECT, Deep, low_bit


# -- who is protected -------------------------------------------------------------------------------------------------
def test_ranks_are_shares_of_nodes_of_at_most_the_degree():
    graphs = [homogeneous(seed) for seed in range(3)]
    ranks = degree_ranks(dgl.batch(graphs))["_N"]
    expected = [(g.in_degrees().view(1, -1) <= g.in_degrees().view(-1, 1)).float().mean(1) for g in graphs]
    torch.testing.assert_close(ranks, torch.cat(expected))


def test_ranks_are_those_of_each_node_type():
    graph = hetero()
    received = graph.in_degrees(etype="writes") + graph.in_degrees(etype="prints")
    expected = (received.view(1, -1) <= received.view(-1, 1)).float().mean(1)
    ranks = degree_ranks(graph)
    torch.testing.assert_close(ranks["paper"], expected)
    assert ranks["venue"].tolist() == [1.0] * 4


def draws(graph, protect, number):
    """Whom as many forwards protect of the nodes of ``graph``, of a block of its sources, (number, nodes)."""
    masks = []
    for seed in range(number):
        protection = Protection(protect, torch.tensor(7919 * seed + 1))
        protection.meet(graph)
        masks.append(protection.masks[graph.num_src_nodes()])
    return torch.stack(masks).double()


def deviations(chosen, p):
    """How far shares are from probabilities, in standard deviations."""
    return (chosen.mean(0) - p).abs() / (p * (1 - p) / len(chosen)).sqrt()


def test_nodes_are_protected_as_often_as_their_degrees_say(graph):
    chosen = draws(graph, PROTECT, 1000)
    p = PROTECT[0] + (PROTECT[1] - PROTECT[0]) * degree_ranks(graph)["_N"].double()
    assert p.max() - p.min() > 0.3 and deviations(chosen, p).max() < 4.5
    correlation = torch.corrcoef(chosen.T) - torch.eye(len(p))  # nodes are drawn one by one
    assert correlation.abs().max() < 5.5 / len(chosen) ** 0.5


def test_one_mask_serves_all_layers_and_the_next_forward_has_another(masks, graph):
    model = low_bit(Deep(), graph, features(graph, IN))
    model(graph, features(graph, IN))
    assert len(masks) == 5 and all(torch.equal(mask, masks[0]) for mask in masks)
    first = masks[0]
    model(graph, features(graph, IN))
    assert not torch.equal(masks[-1], first) and protected_rows(graph.num_nodes()) is None


def test_rows_of_a_readout_are_no_nodes(masks):
    batch = dgl.batch([homogeneous(seed) for seed in range(3)])
    model = low_bit(Deep(readout=True), batch, features(batch, IN))
    model(batch, features(batch, IN))
    assert {len(mask) for mask in masks} == {batch.num_nodes()}


def test_masks_are_drawn_from_torchs_generator(graph):
    def loss():
        torch.manual_seed(3)
        model = low_bit(Deep(), graph, features(graph, IN))
        return [model(graph, features(graph, IN)).sum().item() for _ in range(3)]

    assert loss() == loss()
    model = low_bit(Deep(), graph, features(graph, IN))
    torch.manual_seed(1)
    model(graph, features(graph, IN))
    after = torch.rand(1)
    torch.manual_seed(1)
    torch.randint(1 << 32, ())
    assert torch.equal(torch.rand(1), after)  # 32 bits a forward and no more


# -- blocks and graphs of several types -------------------------------------------------------------------------------
def blocks_of(graph, seeds):
    dgl.seed(0)
    torch.manual_seed(0)
    return dgl.dataloading.NeighborSampler([3, 3]).sample_blocks(graph, seeds)


def test_blocks_have_the_degrees_of_their_parent(masks, graph):
    sources, _, blocks = blocks_of(with_degree_ranks(graph), torch.arange(0, 40, 5))
    assert "degree_rank" not in graph.ndata
    whole = degree_ranks(graph)["_N"]
    for block in blocks:
        ranks = whole[block.srcdata[dgl.NID]].double()
        assert torch.equal(block.srcdata["degree_rank"].double(), ranks)
        assert deviations(draws(block, (0.2, 0.8), 500), 0.2 + 0.6 * ranks).max() < 4.5
    model = low_bit(Deep(), blocks, features(graph, IN)[sources])
    model(blocks, features(graph, IN)[sources])
    longest = max(masks, key=len)
    assert len({len(mask) for mask in masks}) == 2
    assert all(torch.equal(mask, longest[: len(mask)]) for mask in masks)


def test_blocks_of_a_graph_without_ranks_have_their_own_degrees(masks, graph):
    sources, _, blocks = blocks_of(graph, torch.arange(0, 40, 5))
    model = low_bit(Deep(), blocks, features(graph, IN)[sources])
    model(blocks, features(graph, IN)[sources])
    longest = max(masks, key=len)
    assert longest.any() and all(torch.equal(mask, longest[: len(mask)]) for mask in masks)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_fit_gives_blocks_the_degrees_of_the_graph(workers, monkeypatch, small_planted):
    graph, seen, meet = dgl.add_self_loop(load_graph()), [], Protection.meet

    def spy(self, met):
        seen.append("degree_rank" in met.srcdata)
        meet(self, met)

    monkeypatch.setattr(Protection, "meet", spy)
    sampler = dgl.dataloading.NeighborSampler([3, 3])
    model = GCN(graph.ndata["feat"].shape[1], int(graph.ndata["label"].max()) + 1, 8)
    config = lowbit.QuantConfig(4, protect=PROTECT)
    lowbit.fit(model, graph, config, float_epochs=0, epochs=1, sampler=sampler, num_workers=workers, progress=False)
    assert seen and all(seen) and "degree_rank" not in graph.ndata


def test_nodes_of_each_type_have_a_mask(masks):
    graph, (feat,) = hetero(), arguments("hetero", hetero())[0][1:]
    model = low_bit(LAYERS["hetero"].build(dgl.nn), graph, feat)
    model(graph, feat)
    found = {len(mask): mask for mask in masks}
    assert found.keys() == {11, 8, 4}
    assert all(torch.equal(mask, found[len(mask)]) for mask in masks)


# -- what does not change ---------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("make", [Deep, lambda: OwnGCN(IN, OUT, updated)])
def test_evaluation_calibration_and_plans_are_as_without(make, graph):
    call, plain = (graph, features(graph, IN)), make()
    models = [lowbit.calibrate(low_bit(plain, *call, protect=protect), *call) for protect in (None, PROTECT)]
    states = [list(model.state_dict().values()) for model in models]
    assert all(map(torch.equal, *states))
    outputs = [model.eval()(*call) for model in models]
    assert torch.equal(*outputs)
    files = [lowbit.freeze(model, *call) for model in models]
    assert files[0].plan.ops == files[1].plan.ops
    assert torch.equal(files[1](*call).argmax(1), outputs[0].argmax(1))


@pytest.mark.slow
def test_what_is_trained_with_protection_is_what_is_packed(graph):
    call = graph, features(graph, IN)
    torch.manual_seed(0)
    model = low_bit(Deep(), *call)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(5):
        optimiser.zero_grad()
        model(*call).square().mean().backward()
        optimiser.step()
    expected = model.eval()(*call)
    torch.testing.assert_close(lowbit.freeze(model, *call)(*call), expected, rtol=1e-4, atol=1e-5)


def test_parts_in_evaluation_mode_round_every_row(masks, graph):
    model = low_bit(Deep(), graph, features(graph, IN))
    model.first.eval()
    lowbit.calibrate(model, graph, features(graph, IN))
    model(graph, features(graph, IN))
    assert len(masks) > 0
    assert not any(q._protected._latest for q in model.first.quantizers.values())
    model.eval()(graph, features(graph, IN))


# -- what is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "protect",
    [0.1, (0.1,), (0, 0.1, 0.2), (0.2, 0.1), (-0.1, 0.1), (0, 1.1), (0, float("nan")), ("0", "1"), (False, 1)],
)
def test_what_is_no_pair_of_probabilities_is_refused(protect):
    with pytest.raises(ValueError, match=r"protect must be \(p_min, p_max\)"):
        lowbit.QuantConfig(4, protect=protect)


def test_configs_come_back_from_their_fields():
    config = lowbit.QuantConfig(4, protect=[0, 0.1], observer="percentile", percentile=99)
    assert config.protect == (0.0, 0.1) and lowbit.QuantConfig(**config.to_dict()) == config
    with pytest.raises(ValueError, match="observer must be"):
        lowbit.QuantConfig(4, observer="mean")


@pytest.mark.parametrize(("observer", "percentile"), [("minmax", 99.9), ("percentile", 90)])
def test_the_config_says_how_ranges_are_taken(observer, percentile):
    x = torch.randn(200, IN)
    given = {"observer": observer, "percentile": percentile}
    plain = lowbit.QuantConfig(4, inputs_granularity="tensor")
    models = [lowbit.nn.Linear(IN, OUT, config=replace(plain, **given)) for _ in range(3)]
    models[0].train()(x)
    lowbit.calibrate(models[1], x)
    lowbit.calibrate(models[2], x, **given)
    reach = [model.quantizers["inputs"].alpha * model.quantizers["inputs"].high for model in models]
    assert reach[0] == reach[1] == reach[2]
    default = lowbit.calibrate(lowbit.nn.Linear(IN, OUT, config=plain), x).quantizers["inputs"]
    assert default.alpha * default.high != reach[0]
