import copy
import math

import dgl
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.pruning import OtherGraphWarning, Pruner
from dgl_lowbit.pruning.importance import fisher_scores
from dgl_lowbit.pruning.pruner import _chosen
from dgl_lowbit.quant.sparse import SparseFeatures
from dgl_lowbit.training import train

from .models import CLASSES, FEATS, HIDDEN, STEPS, Normed, Plain, Residual, Scaled, Weighted, alive, graph, pruned


@pytest.mark.parametrize("sparse", [False, True])
def test_a_squeezed_model_computes_what_the_gated_one_does(sparse):
    g = graph()
    feat = g.ndata["feat"] * (torch.rand(g.num_nodes(), FEATS) < 0.3)
    model = Plain() if sparse else Residual()
    pruner = pruned(model, g, features=0.5, channels=0.5)
    small = pruner.squeeze().eval()
    counts = {"features": (6, 12), "first" if sparse else "first, second": (4, 8)}
    assert alive(pruner) == (counts if sparse else {**counts, "attention": (1, 3)})
    gated = model.eval()(g, feat)
    given = SparseFeatures.from_dense(feat) if sparse else feat
    assert torch.allclose(small(g, given), gated, atol=1e-6)
    assert torch.equal(small(g, feat[:, small.columns.index]), small(g, feat))
    assert small.first.weight.shape == (6, 4) and model.first.weight.shape == (FEATS, HIDDEN)


def test_scores_are_fisher_information():
    """Sums over nodes of (x ∂ log p(y) / ∂x)², taken by the features themselves and over more labels."""
    g = graph(nodes=2000)
    model = Plain().eval()
    pruner = Pruner(model, g, features=0.5, **STEPS)
    scores, _ = pruner._scores(0, (g, g.ndata["feat"]))
    feat = g.ndata["feat"].clone().requires_grad_()
    logits = model(g, feat)
    p, expected = logits.softmax(1).detach(), torch.zeros(FEATS)
    torch.manual_seed(0)
    for _ in range(40):
        labels = torch.multinomial(p, 1).flatten()
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, feat, retain_graph=True)
        expected += (feat.detach() * gradient).square().sum(0) / 40
    found = scores[pruner.ties.outs["features"]]
    assert torch.allclose(found, expected, rtol=0.15)


def test_shares_follow_the_cubic_schedule():
    g = graph()
    pruner = Pruner(Plain(), g, features=0.5, start=2, stop=6, every=2, regrow=0.0)
    counts = []
    for epoch in range(8):
        pruner.advance(epoch)
        counts.append(alive(pruner)["features"][0])
    expected = [FEATS - round(0.5 * (1 - (1 - part) ** 3) * FEATS) for part in (0, 0, 0, 0, 0.5, 0.5, 1, 1)]
    assert counts == expected and not pruner.is_done(5) and pruner.is_done(6)


def test_what_left_comes_back_only_by_regrowth():
    scores = torch.tensor([5.0, 4.0, 3.0, 9.0])
    was = torch.tensor([True, True, True, False])
    assert _chosen(scores, was, 2, 0.0).tolist() == [True, True, False, False]
    assert _chosen(scores, was, 2, 0.5).tolist() == [True, False, False, True]
    assert _chosen(scores, was, 8, 0.0).tolist() == was.tolist()


def test_weights_of_what_left_are_kept_and_the_rest_is_trained():
    g = graph()
    model = Plain()
    pruner = pruned(model, g, features=0.5, channels=0.5)
    before = copy.deepcopy(model.state_dict())
    dead_columns, dead = (model.first.gate.mask == 0), (model.last.gate.mask == 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1)
    loss = model(g, g.ndata["feat"]).square().sum() + pruner.loss()
    loss.backward()
    optimizer.step()
    pruner.step()
    changed = model.first.weight != before["first.weight"]
    assert not changed[dead_columns].any() and not changed[:, dead].any()
    assert changed[~dead_columns][:, ~dead].all()
    assert torch.equal(model.last.weight[dead], before["last.weight"][dead])


def test_edges_that_leave_are_seen_by_no_layer():
    g = graph()
    model = Plain().eval()
    pruner = pruned(model, g, edges=0.4)
    gated = model(g, g.ndata["feat"])
    kept = pruner.graph
    assert kept.num_edges() == g.num_edges() - round(0.4 * g.num_edges()) and alive(pruner)["edges"][1] == g.num_edges()
    source, destination = kept.edges()
    assert (source == destination).sum() == g.num_nodes() and set(kept.ndata) == set(g.ndata)
    small = pruner.squeeze()
    assert torch.equal(gated, small(kept, g.ndata["feat"])) and torch.equal(gated, model(g, g.ndata["feat"]))
    assert pruner.pruned(kept) is kept
    with pytest.warns(OtherGraphWarning, match="used whole"):
        other = pruner.pruned(graph(seed=1))
    assert other.num_edges() == graph(seed=1).num_edges()


def test_a_node_without_a_loop_keeps_an_edge():
    g = dgl.graph((torch.arange(30) % 10, torch.arange(30).flip(0) % 10))
    g.ndata["feat"] = torch.rand(10, FEATS)
    pruner = pruned(Plain(), g, edges=0.6)
    assert (pruner.graph.in_degrees() >= 1).all() and pruner.graph.num_edges() == 12
    with pytest.raises(ValueError, match="edges=0.8 of 30 cannot leave: .* 10; prune at most 0.67"):
        Pruner(Plain(), g, edges=0.8)


@pytest.mark.slow
def test_the_state_is_the_models():
    g = graph()
    pruner = pruned(Residual(), g, features=0.5, channels=0.5, edges=0.3)
    other = Pruner(Residual(), g, features=0.5, channels=0.5, edges=0.3)
    other.model.load_state_dict(pruner.model.state_dict())
    assert other.report() == pruner.report()
    models = pruner.squeeze().eval(), other.squeeze().eval()
    outputs = [model(pruner.graph, g.ndata["feat"]) for model in models]
    assert torch.equal(*outputs)


@pytest.mark.slow
def test_trained_in_one_run_and_resumed(tmp_path):
    g = graph()
    options = {"epochs": 8, "lr": 0.05, "progress": False, "checkpoint": tmp_path / "run.pt"}

    def run(**more):
        torch.manual_seed(0)
        model = Plain()
        pruner = Pruner(model, g, features=0.5, channels=0.5, start=1, stop=5, every=1)
        return pruner, train(model, g, pruner=pruner, **{**options, **more})

    pruner, history = run()
    assert history.best_epoch >= 5 and history.epochs[-1]["pruning"] == pruner.report()
    assert alive(pruner) == {"features": (6, 12), "first": (4, 8)}
    stopped = pytest.MonkeyPatch()
    with stopped.context() as patch:
        advance = Pruner.advance
        patch.setattr(Pruner, "advance", lambda self, epoch, *a: advance(self, epoch, *a) if epoch < 4 else 1 / 0)
        patch.setattr("dgl_lowbit.training.resume._SHARE", math.inf)
        with pytest.raises(ZeroDivisionError):
            run()
    again, resumed = run(resume=True)
    assert resumed == history
    assert all(torch.equal(a, b) for a, b in zip(again.squeeze().parameters(), pruner.squeeze().parameters()))


@pytest.mark.slow
def test_fitted_whole_pruned_low_bit_and_packed():
    g = graph()
    model = Residual()
    pruner = Pruner(model, g, features=0.5, channels=0.5, edges=0.3, **STEPS)
    config = lowbit.QuantConfig(8)
    fitted = lowbit.fit(model, g, config, epochs=4, pruner=pruner, progress=False)
    assert fitted.teacher.first.weight.shape == (FEATS, HIDDEN) and fitted.model.first.weight.shape == (6, 4)
    feat = g.ndata["feat"]
    packed = lowbit.freeze(fitted.model, pruner.graph, feat)
    trained = fitted.model.eval()(pruner.graph, feat)
    assert torch.allclose(packed(pruner.graph, feat), trained, atol=1e-4)


def test_random_pruning_is_the_same_for_a_seed_only():
    def left(**options):
        return pruned(Plain(), graph(), features=0.5, criterion="random", **options).model.first.gate.mask.tolist()

    assert left(seed=3) == left(seed=3) != left(seed=4)


def test_gates_leave_with_their_pruner():
    g = graph()
    model = Residual()
    names, pruner = set(model.state_dict()), pruned(model, g, channels=0.5, edges=0.3)
    assert set(model.state_dict()) > names
    pruner.detach()
    assert set(model.state_dict()) == names and not any(module._forward_pre_hooks for module in model.modules())


class Asserting(Plain):
    """A model that counts on its width."""

    def forward(self, graph, feat):
        assert self.first.weight.shape[-1] == HIDDEN or self.first.weight.shape[0] == HIDDEN
        return super().forward(graph, feat)


class Named(Plain):
    """A model that has children of the names of gates."""

    def __init__(self):
        super().__init__()
        self.edges = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: Plain(nn.LayerNorm(HIDDEN)), {"edges": 0.2, "channels": 0.5}, "no channels can leave"),
        (Asserting, {"edges": 0.2, "channels": 0.5}, "has widths built into .* it raises AssertionError"),
        (
            Named,
            {"channels": 0.5, "edges": 0.2},
            "Named has 'edges' already, as pruning calls its gate there; rename it",
        ),
    ],
)
def test_a_model_that_cannot_be_pruned_is_left_as_it_was(make, options, message):
    model = make()
    names = set(model.state_dict())
    with pytest.raises(ValueError, match=message):
        Pruner(model, graph(), **options)
    assert set(model.state_dict()) == names and not any(module._forward_pre_hooks for module in model.modules())


def test_all_that_is_to_leave_may_leave_at_once():
    pruner = Pruner(Plain(), graph(), features=0.5, start=3, stop=3)
    pruner.advance(3)
    ((left, total),) = alive(pruner).values()
    assert left == total - round(0.5 * total) and pruner.is_done(3)


def test_features_that_are_given_are_those_that_are_scored():
    g = graph()
    feat, expected = g.ndata.pop("feat"), pruned(Plain(), graph(), features=0.5)
    found = Pruner(copy.deepcopy(Plain()), g, feat=feat, features=0.5, **STEPS)
    for epoch in range(3):
        found.advance(epoch)
    assert alive(found) == alive(expected)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Plain, {}, "nothing is to be pruned; give features="),
        (Plain, {"features": 1.0}, "features is the share that leaves, above 0 and below 1, got 1.0"),
        (Plain, {"channels": math.nan}, "channels is the share"),
        (Plain, {"channels": True}, "channels is the share"),
        (Plain, {"channels": 0.5, "start": 5, "stop": 4}, "stop must be a whole number, at least 5, got 4"),
        (Plain, {"channels": 0.5, "every": 0}, "every must be a whole number, at least 1"),
        (Plain, {"channels": 0.5, "regrow": 1}, "regrow is a share"),
        (Plain, {"channels": 0.5, "criterion": "size"}, "criterion must be one of fisher, random"),
        (lambda: Plain(nn.LayerNorm(HIDDEN)), {"channels": 0.5}, "no channels can leave: of first they are read by"),
        (Scaled, {"channels": 0.5}, "Scaled has widths built into its own code or parameters"),
        (lambda: nn.Linear(FEATS, CLASSES), {"edges": 0.5}, "edges are judged by weights"),
        (lambda: "model", {"channels": 0.5}, "takes a torch.nn.Module, got str"),
    ],
)
def test_refused_before_any_work(make, options, message):
    with pytest.raises(ValueError, match=message):
        Pruner(make(), graph(), **options)


def test_refused_where_it_does_not_belong():
    g = graph()
    model = Plain()
    pruner = Pruner(model, g, channels=0.5)
    with pytest.raises(ValueError, match="has a pruner already"):
        Pruner(model, g, features=0.5)
    with pytest.raises(ValueError, match="pruning ends at epoch 100, which 20 epochs do not reach"):
        lowbit.fit(model, g, epochs=20, pruner=pruner)
    with pytest.raises(ValueError, match="a Pruner of the model that is trained"):
        train(Plain(), g, epochs=200, pruner=pruner)
    with pytest.raises(ValueError, match="low-bit already"):
        Pruner(lowbit.quantize(Plain(), lowbit.QuantConfig(2)), g, channels=0.5)
    with pytest.raises(ValueError, match="BanditSampler learns from codes, and pruning is of float models"):
        train(model, g, epochs=200, pruner=pruner, sampler=lowbit.BanditSampler([2, 2]))
    edges = Pruner(Plain(), g, edges=0.2)
    with pytest.raises(ValueError, match="edges are pruned of a graph that is trained on whole"):
        train(edges.model, g, epochs=200, pruner=edges, sampler=dgl.dataloading.NeighborSampler([2, 2]))


@pytest.mark.parametrize("criterion", ["fisher", pytest.param("random", marks=pytest.mark.slow)])
@pytest.mark.parametrize("regrow", [0.0, 0.1])
def test_no_node_ever_loses_its_last_in_edge(criterion, regrow):
    torch.manual_seed(0)
    source = torch.randint(60, (480,))
    target = torch.cat([torch.arange(60), torch.randint(60, (420,))])
    g = dgl.remove_self_loop(dgl.graph((source, target), num_nodes=60))
    g = dgl.add_edges(g, (torch.arange(60) + 1) % 60, torch.arange(60))
    g.ndata["feat"], g.ndata["label"] = torch.rand(60, FEATS), torch.randint(0, CLASSES, (60,))
    model = Weighted() if criterion == "random" else Plain()
    pruner = Pruner(model, g, edges=0.8, start=0, stop=10, every=1, regrow=regrow, criterion=criterion)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for epoch in range(11):
        pruner.advance(epoch)
        assert pruner.graph.in_degrees().min() > 0
        loss = F.cross_entropy(model(g, g.ndata["feat"]), g.ndata["label"])  # of scores that change
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert pruner.graph.num_edges() < 0.3 * g.num_edges()


def test_channels_are_judged_on_the_edges_that_are_alive():
    g, model = graph(), Plain().eval()
    pruner = pruned(model, g, channels=0.5, edges=0.5)
    scores, of_edges = pruner._scores(1, (g, g.ndata["feat"]))
    groups = {name: (gate, pruner.ties.ins[name]) for name, gate in pruner.gates.items()}
    drawn, kept = torch.Generator().manual_seed(1), (pruner.graph, g.ndata["feat"])
    expected, _ = fisher_scores(model, kept, groups, None, len(scores), drawn)
    assert torch.equal(scores, expected) and len(of_edges) == g.num_edges()


def test_norms_go_on_with_what_dead_channels_would_be():
    g, model = graph(nodes=200), Normed()
    pruner = pruned(model, g, channels=0.5)
    free = copy.deepcopy(model)
    free.second.gate.mask.fill_(1.0)
    for _ in range(20):
        model.train()(g, g.ndata["feat"])
        free.train()(g, g.ndata["feat"])
    assert torch.equal(model.norm.running_var, free.norm.running_var)
    scores, _ = pruner._scores(0, (g, g.ndata["feat"]))
    assert (scores[pruner._dead()] > 0).all()


def test_channels_that_a_loaded_state_brings_back_are_trained():
    g, model = graph(), Normed()
    pruner = Pruner(model, g, channels=0.5, **STEPS)
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)

    def step():
        loss = F.cross_entropy(model(g, g.ndata["feat"]), g.ndata["label"]) + pruner.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step()

    for epoch in range(3):
        pruner.advance(epoch)
        step()
    before = model.first.weight.detach().clone()
    model.load_state_dict(start)
    step()
    for weight in (before, start["first.weight"]):
        assert (model.first.weight != weight).any(0).all()
