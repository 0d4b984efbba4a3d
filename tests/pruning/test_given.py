"""Models and graphs that a pruner takes, and what it refuses of them."""

import copy

import dgl
import dgl.nn
import pytest
import torch

from dgl_lowbit.pruning import Pruner

from .models import CLASSES, FEATS, HIDDEN, STEPS, Kept, Normed, Plain, Weighted, alive, graph, pruned


def test_layers_may_be_called_with_weights_of_edges():
    g, model = graph(), Weighted().eval()
    pruner = pruned(model, g, features=0.5, channels=0.5)
    assert torch.allclose(pruner.squeeze()(g, g.ndata["feat"]), model(g, g.ndata["feat"]), atol=1e-6)


def test_weights_of_edges_that_follow_from_channels_keep_these():
    class Following(Weighted):
        def forward(self, graph, feat):
            h = self.first(graph, feat)
            return self.second(graph, h, edge_weight=dgl.ops.u_dot_v(graph, h, h).flatten())

    with pytest.raises(ValueError, match="no channels can leave: of first they are read by second, beside its"):
        Pruner(Following(), graph(), channels=0.5, **STEPS)


@pytest.mark.parametrize("nodes", [40, 300])
def test_what_layers_keep_is_of_what_the_user_gave(nodes):
    g, model = graph(nodes=nodes), Kept().eval()
    expected = copy.deepcopy(model)(g, g.ndata["feat"])
    Pruner(model, g, channels=0.5, **STEPS)
    assert torch.equal(model(g, g.ndata["feat"]), expected)
    Pruner(Kept(), g, channels=0.5, **STEPS).squeeze()(g, g.ndata["feat"])


def test_features_may_come_in_any_order_of_memory():
    class Twice(Normed):
        def forward(self, graph, feat):
            h = self.norm(self.first(graph, feat))
            return self.second(graph, torch.stack([h, 2 * h]).transpose(0, 1)).mean(1)

    assert alive(pruned(Twice(), graph(), channels=0.5)) == {"first": (4, 8)}


def test_one_logit_tells_nothing_of_classes():
    class One(Normed):
        def forward(self, graph, feat):
            return super().forward(graph, feat)[:, :1]

    pruner = Pruner(One(), graph(), features=0.5, **STEPS)
    with pytest.raises(ValueError, match="of two classes or more; or use criterion='random'"):
        pruner.advance(0)


def test_a_model_may_return_a_number_beside_its_logits():
    class Two(Normed):
        def forward(self, graph, feat):
            logits = super().forward(graph, feat)
            return logits, logits.sum()

    assert alive(pruned(Two(), graph(), channels=0.5, criterion="random")) == {"first": (4, 8)}


@pytest.mark.parametrize("what", ["features", "channels", "edges"])
def test_graphs_of_int32_are_pruned(what):
    g, model = graph().int(), Plain().eval()
    pruner = pruned(model, g, **{what: 0.5})
    small = pruner.squeeze()
    assert torch.allclose(small(pruner.graph, g.ndata["feat"]), model(g, g.ndata["feat"]), atol=1e-6)


def test_a_container_that_would_call_gates_as_layers_is_refused():
    model = dgl.nn.Sequential(dgl.nn.GraphConv(FEATS, HIDDEN), dgl.nn.GraphConv(HIDDEN, CLASSES))
    with pytest.raises(ValueError, match="calls whatever it holds as a layer"):
        Pruner(model, graph(), edges=0.5, **STEPS)
    assert alive(pruned(model, graph(), channels=0.5)) == {"0": (4, 8)}
