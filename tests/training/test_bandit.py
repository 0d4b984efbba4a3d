"""A sampler that learns which neighbours stand for a node's sum."""

import dgl
import numpy as np
import pytest
import torch
from dgl import DGLError

import dgl_lowbit as lowbit
from dgl_lowbit.training import BanditSampler, resume, stage

from .models import build


class Interrupt(BaseException):
    pass


def graph_of(edges, nodes):
    return dgl.graph(tuple(torch.tensor(edges).t()), num_nodes=nodes)


def sent_by(blocks, rows):
    return [rows[block.srcdata[dgl.NID]] for block in blocks]


def expected_weights(graph, rows, nodes, met, eta):
    """Weights after one update from 1, in NumPy, node by node; ``met`` are the sources at hand."""
    weights = np.ones(graph.num_edges())
    source, target = (part.numpy() for part in graph.edges(order="eid"))
    rows, at_hand = rows.numpy().astype(np.float64), np.isin(source, met)
    scale = (rows[met] ** 2).sum(1).mean()
    for node in nodes:
        mine = np.flatnonzero((target == node) & at_hand)
        worth = np.zeros(len(mine))
        for number, edge in enumerate(mine):
            others = [rows[source[e]] for e in mine if e != edge]
            mean = np.mean(others, 0) if others else 0
            worth[number] = 2 * rows[source[edge]] @ mean if others else 0
            worth[number] -= (rows[source[edge]] ** 2).sum()
        worth = np.clip(worth / scale, -1, 1)
        weights[mine] *= np.exp(np.clip(eta * (worth - worth.mean()), -1, 1))
        everything = target == node
        weights[everything] /= weights[everything].mean()
    return weights


def test_weights_are_those_of_the_formula():
    torch.manual_seed(0)
    graph = dgl.rand_graph(30, 200)
    graph = dgl.graph(graph.edges()[::-1], num_nodes=30)  # ids that are not in the order of targets
    rows, eta = torch.randn(30, 5), 0.7
    sampler = BanditSampler([2], gamma=0.3, eta=eta)
    nodes = torch.arange(0, 30, 3)
    _, _, blocks = sampler.sample_blocks(graph, nodes)
    sampler.update(blocks, sent_by(blocks, rows))
    met = blocks[0].srcdata[dgl.NID].numpy()
    weights = expected_weights(graph, rows, nodes.numpy(), met, eta)
    np.testing.assert_allclose(sampler.state_dict()["weights"][0], weights, rtol=1e-4)
    degrees = graph.in_degrees()[graph.edges(order="eid")[1]].numpy()
    chances = sampler.probabilities(graph, 0).numpy()
    np.testing.assert_allclose(chances, (0.7 * weights + 0.3) / degrees, rtol=1e-4)
    sums = np.bincount(graph.edges(order="eid")[1].numpy(), chances, minlength=30)
    np.testing.assert_allclose(sums[graph.in_degrees().numpy() > 0], 1, rtol=1e-5)


def test_no_weight_is_lost_for_good():
    torch.manual_seed(0)
    graph, rows = dgl.rand_graph(30, 200), torch.randn(30, 5)
    sampler = BanditSampler([2], gamma=0.3, eta=1.0, reset=None)
    for _ in range(150):
        _, _, blocks = sampler.sample_blocks(graph, torch.arange(30))
        sampler.update(blocks, sent_by(blocks, rows))
    weights = sampler.state_dict()["weights"]
    assert weights.max() > 2 and weights.min() > 0


def homophilous(nodes=600, degree=20, informative=4, classes=20):
    """Nodes whose in-neighbours are of their class in one case of five, and of other classes else."""
    torch.manual_seed(0)
    label = torch.arange(nodes) % classes
    target = torch.arange(nodes).repeat_interleave(degree)
    own = torch.arange(nodes * degree) % degree < informative
    shift = torch.where(own, 0, torch.randint(1, classes, (nodes * degree,)))
    source = (torch.randint(0, nodes // classes, (nodes * degree,)) * classes + label[target] + shift) % nodes
    directions = torch.nn.functional.normalize(torch.randn(classes, 32), dim=1)
    return dgl.graph((source, target), num_nodes=nodes), own, directions[label]


@pytest.mark.slow
def test_neighbours_that_agree_are_found():
    graph, own, rows = homophilous()
    dgl.seed(0)
    sampler, shares = BanditSampler([3, 3]), []
    for _ in range(20):
        drawn = []
        for nodes in torch.randperm(graph.num_nodes()).split(200):
            _, _, blocks = sampler.sample_blocks(graph, nodes)
            drawn.append(own[blocks[-1].edata[dgl.EID]])
            sampler.update(blocks, sent_by(blocks, rows))
        shares.append(torch.cat(drawn).float().mean().item())
    assert shares[0] < 0.3 and shares[-1] >= 2 * own.float().mean().item()


def test_blocks_are_as_those_of_dgl():
    graph, _, _ = homophilous(nodes=60)
    graph.ndata["h"], graph.edata["w"] = torch.rand(60, 2), torch.rand(graph.num_edges())
    loader = dgl.dataloading.DataLoader(
        graph, torch.arange(60), BanditSampler([3, 30], prefetch_node_feats=["h"]), batch_size=20
    )
    for inputs, outputs, blocks in loader:
        assert torch.equal(blocks[0].srcdata["h"], graph.ndata["h"][inputs])
        assert torch.equal(blocks[1].dstdata[dgl.NID], outputs)
        for block, fanout in zip(blocks, (3, 30)):
            source, target = block.edges(order="eid")
            ends = graph.find_edges(block.edata[dgl.EID])
            assert torch.equal(block.srcdata[dgl.NID][source], ends[0])
            assert torch.equal(block.dstdata[dgl.NID][target], ends[1])
            assert torch.equal(block.edata["w"], graph.edata["w"][block.edata[dgl.EID]])
            assert (block.in_degrees() == graph.in_degrees(block.dstdata[dgl.NID]).clamp(max=fanout)).all()
            assert len(block.edata[dgl.EID].unique()) == block.num_edges()


def test_weights_are_1_again_after_resets():
    graph, _, rows = homophilous(nodes=60)
    sampler = BanditSampler([3], reset=2)
    for changed in (True, False, True):
        _, _, blocks = sampler.sample_blocks(graph, torch.arange(60))
        sampler.update(blocks, sent_by(blocks, rows))
        assert bool((sampler.state_dict()["weights"] != 1).any()) == changed


def test_a_state_goes_on():
    graph, _, rows = homophilous(nodes=60)

    def steps(sampler, count):
        for seed in range(count):
            dgl.seed(seed)
            _, _, blocks = sampler.sample_blocks(graph, torch.arange(60))
            sampler.update(blocks, sent_by(blocks, rows))
        return sampler.state_dict()["weights"].clone()

    first = BanditSampler([3, 3], reset=3)
    steps(first, 2)
    state = {name: value.clone() if name == "weights" else value for name, value in first.state_dict().items()}
    second = BanditSampler([3, 3], reset=3)
    second.load_state_dict(state)
    assert torch.equal(steps(second, 2), steps(first, 2))
    with pytest.raises(ValueError, match="expected weights of 1 layers"):
        BanditSampler([3]).load_state_dict(state)
    with pytest.raises(ValueError, match="learns on a graph of 1200 edges, got one of 3 nodes and 1 edges"):
        second.sample_blocks(graph_of([[0, 1]], 3), torch.tensor([1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fanouts": []}, "fanouts are whole numbers"),
        ({"fanouts": [3, 0]}, "fanouts are whole numbers"),
        ({"fanouts": [2.5]}, "fanouts are whole numbers"),
        ({"gamma": 0}, "gamma is a part"),
        ({"gamma": 1.1}, "gamma is a part"),
        ({"eta": 0}, "eta, the rate"),
        ({"eta": float("nan")}, "eta, the rate"),
        ({"reset": 0}, "reset is a number"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        BanditSampler(**{"fanouts": [3], **options})


def test_updates_are_checked_before_anything_changes():
    graph, _, rows = homophilous(nodes=60)
    sampler = BanditSampler([3])
    with pytest.raises(ValueError, match="nothing was sampled yet"):
        sampler.update([graph], [rows])
    _, _, (block,) = sampler.sample_blocks(graph, torch.arange(9))
    sent = rows[block.srcdata[dgl.NID]]
    with pytest.raises(ValueError, match="expected 1 blocks and messages, got 2 and 1"):
        sampler.update([block, block], [sent])
    with pytest.raises(ValueError, match="source nodes, got 3 rows"):
        sampler.update([block], [sent[:3]])
    with pytest.raises(ValueError, match="must be finite"):
        sampler.update([block], [torch.full_like(sent, torch.nan)])
    with pytest.raises(DGLError, match="ids of their nodes"):
        sampler.update([dgl.create_block((torch.tensor([0]), torch.tensor([0])))], [rows[:1]])
    assert (sampler.state_dict()["weights"] == 1).all()


@pytest.mark.slow
def test_training_learns_and_resumes(planted, tmp_path, monkeypatch):
    def run(**options):
        sampler = BanditSampler([2, 2], reset=5)
        options = {"sampler": sampler, "batch_size": 70, "epochs": 3, "progress": False, **options}
        return lowbit.fit(build(), planted, lowbit.QuantConfig(2), **options), sampler

    monkeypatch.setattr(resume, "_SHARE", float("inf"))
    (expected, sampler), original = run(), stage.Run.epoch
    assert (sampler.state_dict()["weights"] != 1).any()

    def interrupted(self, number):
        if number == 1 and self.teacher_log_probs is not None:
            raise Interrupt
        return original(self, number)

    path = tmp_path / "run.pt"
    with monkeypatch.context() as patch:
        patch.setattr(stage.Run, "epoch", interrupted)
        with pytest.raises(Interrupt):
            run(checkpoint=path)
    again, resumed = run(checkpoint=path, resume=True)
    assert again.history == expected.history and again.teacher_history == expected.teacher_history
    assert torch.equal(resumed.state_dict()["weights"], sampler.state_dict()["weights"])


def test_models_without_codes_are_told(planted):
    with pytest.raises(ValueError, match=r"learns from one sum of codes over each block, got \[0, 0\]"):
        lowbit.train(build(), planted, sampler=BanditSampler([2, 2]), epochs=1, progress=False)
