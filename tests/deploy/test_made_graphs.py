"""Graphs that a forward makes of graphs or of tensors, edge weights that it computes, rows that it chooses by data."""

import dgl
import dgl.function as fn
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dgl_lowbit as lowbit
from numba_kernels.run.ahead import Ahead

WIDTH, CLASSES = 8, 3


class Model(nn.Module):
    """Layers for a forward that is given."""

    def __init__(self, forward):
        super().__init__()
        self.conv1 = dgl.nn.GraphConv(WIDTH, WIDTH, allow_zero_in_degree=True)
        self.conv2 = dgl.nn.GATConv(WIDTH, CLASSES, 1, allow_zero_in_degree=True)
        self.score, self.own_forward = nn.Linear(WIDTH, 1), forward

    def forward(self, g, x):
        return self.own_forward(self, g, x)


def two_layers(model, first, second, x, **weights):
    return model.conv2(second, F.relu(model.conv1(first, x, **weights))).squeeze(1)


def self_loops(model, g, x):
    looped = dgl.add_self_loop(dgl.remove_self_loop(g))
    return two_layers(model, looped, g, x) + looped.in_degrees().unsqueeze(1)


def both_ways(model, g, x):
    u, v = g.edges()
    return two_layers(model, dgl.graph((torch.cat([u, v]), torch.cat([v, u])), num_nodes=g.num_nodes()), g.reverse(), x)


def in_formats(model, g, x):
    assert g.formats()
    return two_layers(model, g, g.formats(["coo", "csc"]), x)


def by_type(model, g, x):
    parts = [dgl.edge_subgraph(g, g.edata["type"] == number, relabel_nodes=False) for number in range(2)]
    return two_layers(model, *parts, x)


def relabelled(model, g, x):
    part = g.edge_subgraph(torch.nonzero(g.edata["type"]).squeeze(1))
    return two_layers(model, part, part, x[part.ndata[dgl.NID]]) + part.edata["type"].sum()


def best_nodes(model, g, x):
    """Nodes of a high score, the best first, as pooling layers choose them."""
    score = model.score(x).squeeze(1)
    kept = torch.argsort(score, descending=True)[: (score > 0).nonzero().shape[0]]
    part = dgl.node_subgraph(g, kept)
    return two_layers(model, part, part, x[kept] * torch.tanh(score[kept]).unsqueeze(1))


def top_nodes(model, g, x):
    """As many of each graph; nodes of one score would leave it open which."""
    part = dgl.node_subgraph(g, torch.topk(model.score(x).squeeze(1), 9)[1])
    return two_layers(model, part, part, x[part.ndata[dgl.NID]])


def neighbours(model, g, x):
    near = dgl.knn_graph(x, 3, exclude_self=True)
    return two_layers(model, near, near, x)


def weighted(model, g, x):
    u, v = g.edges()
    weight = torch.sigmoid(model.score(x[u] - x[v]))
    with g.local_scope():
        g.ndata["h"], g.edata["w"] = x, weight
        g.update_all(fn.u_mul_e("h", "w", "m"), fn.max("m", "h"))
        h = two_layers(model, g, g, g.ndata["h"], edge_weight=weight.squeeze(1))
    return h + model.conv2(g, x, edge_weight=weight[:, 0]).squeeze(1)


def chosen_rows(model, g, x):
    h = model.score(x)
    positive = h.squeeze(1) > 0
    result = torch.zeros(g.num_nodes(), WIDTH)
    result[positive] = torch.tanh(x[positive])
    return two_layers(model, g, g, result) + model.score(x[~positive]).sum()


def part_of_edges(model, g, x):
    """Edges by type, as GatedGraphConv takes them."""
    with g.local_scope():
        g.ndata["h"] = x
        for number in range(2):
            chosen = torch.nonzero(g.edata["type"] == number).squeeze(1)
            g.apply_edges(lambda edges, number=number: {"m": (1 - 2 * number) * edges.src["h"]}, chosen)
        g.update_all(fn.copy_e("m", "m"), fn.sum("m", "h"))
        return two_layers(model, g, g, g.ndata["h"])


def arguments(count, edges, seed):
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randint(count, (2, edges), generator=generator)
    g = dgl.graph((torch.cat([ends[0], torch.arange(4)]), torch.cat([ends[1], torch.arange(4)])), num_nodes=count)
    g.edata["type"] = torch.randint(2, (g.num_edges(),), generator=generator)
    return g, torch.randn(count, WIDTH, generator=generator)


FORWARDS = [
    *(self_loops, both_ways, in_formats, by_type, relabelled, best_nodes, top_nodes),
    *(neighbours, weighted, chosen_rows, part_of_edges),
]


def frozen(forward, path, table=None):
    torch.manual_seed(0)
    given, model = arguments(30, 90, 0), Model(forward)
    model.table = table
    model = lowbit.quantize(model, lowbit.QuantConfig(8), *given)
    model = lowbit.calibrate(model, *given).eval()
    return model, lowbit.load(lowbit.freeze(model, *given).save(path / "model.safetensors"))


@pytest.mark.parametrize("forward", FORWARDS)
def test_what_a_forward_makes_it_makes_of_other_graphs_too(forward, tmp_path):
    model, packed = frozen(forward, tmp_path)
    for given in (arguments(30, 90, 0), arguments(47, 130, 1), arguments(12, 5, 2)):
        with torch.no_grad():
            expected = model(*given)
        torch.testing.assert_close(packed(*given), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keeps", [False, True])
def test_numbers_that_no_size_explains(keeps, tmp_path):
    """They are not taken for multiples of one graph; a model that keeps numbers of its nodes is bound to these."""

    def half(model, g, x):
        x = x + model.table if keeps else x
        return two_layers(model, g, g, x)[: g.num_nodes() // 2]

    if not keeps:
        with pytest.raises(lowbit.FreezeError, match="getitem.* is given 15, on a larger graph 30, which no size"):
            frozen(half, tmp_path)
        return
    _, packed = frozen(half, tmp_path, torch.randn(30, WIDTH))
    assert packed(*arguments(30, 70, 1)).shape == (15, CLASSES)
    with pytest.raises(dgl.DGLError, match="frozen for 30 nodes of type _N, here there are 47"):
        packed(*arguments(47, 130, 1))


def test_as_many_rows_as_data_says_are_so_by_chance(tmp_path):
    """A model of as many nodes as it keeps numbers of chooses as many of them in both runs on the example."""
    model, packed = frozen(lambda model, g, x: chosen_rows(model, g, x + model.table), tmp_path, torch.randn(30, WIDTH))
    for seed in (0, 1):
        given = arguments(30, 90, seed)
        with torch.no_grad():
            torch.testing.assert_close(packed(*given), model(*given), rtol=1e-4, atol=1e-4)


def test_graphs_of_graphs_are_made_once(tmp_path, monkeypatch):
    """What follows from a graph alone is kept with it; what features decide is made each time."""
    made = []
    for forward, times in ((self_loops, 1), (best_nodes, 3)):
        _, packed = frozen(forward, tmp_path)
        (*_, ahead) = packed._executor._ahead
        monkeypatch.setattr(ahead, "make", lambda *arrays, make=ahead.make: made.append(arrays) or make(*arrays))
        given = arguments(30, 90, 0)
        results = [packed(*given) for _ in range(3)]
        assert len(made) == times and all(torch.equal(results[0], other) for other in results)
        assert isinstance(ahead, Ahead)
        made.clear()


def reached(model, data, x):
    ways = [["follows"], ["likes", "liked"], ["follows", "likes", "liked"]]
    return sum(two_layers(model, *[dgl.metapath_reachable_graph(data["graph"], way)] * 2, x) for way in ways)


def users_and_items(count, seed):
    generator = torch.Generator().manual_seed(seed)

    def ends(one, other):
        return tuple(torch.randint(n, (2 * count,), generator=generator) for n in (one, other))

    edges = {
        ("user", "follows", "user"): ends(count, count),
        ("user", "likes", "item"): ends(count, count + 3),
        ("item", "liked", "user"): ends(count + 3, count),
    }
    counts = {"user": count, "item": count + 3}
    return {"graph": dgl.heterograph(edges, counts)}, torch.randn(count, WIDTH, generator=generator)


def test_paths_of_edge_types_lead_to_graphs():
    """The graph may stand in a dict."""
    torch.manual_seed(0)
    given = users_and_items(14, 0)
    model = lowbit.calibrate(lowbit.quantize(Model(reached), lowbit.QuantConfig(8), *given), *given).eval()
    packed = lowbit.freeze(model, *given)
    for call in (given, users_and_items(23, 1), users_and_items(6, 2)):
        with torch.no_grad():
            expected = model(*call)
        torch.testing.assert_close(packed(*call), expected, rtol=1e-4, atol=1e-4)
