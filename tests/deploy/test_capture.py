"""Models of users' own, captured from an example: equal on a graph of another size, and from a file."""

import dgl
import dgl.function as fn
import dgl.nn
import pytest
import torch
import torch.nn.functional as F
from dgl.nn.functional import edge_softmax
from torch import nn

import dgl_lowbit as lowbit

pytestmark = pytest.mark.filterwarnings("ignore::dgl_lowbit.FloatModuleWarning")


def graph_of(nodes, edges):
    return dgl.add_self_loop(dgl.rand_graph(nodes, edges))


class Model(nn.Module):
    """A model whose forward the test gives, with the parts that it uses."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.body = forward

    def forward(self, *args):
        return self.body(self, *args)


def normed_mean(self, g, x):
    with g.local_scope():
        norm = g.in_degrees().float().clamp(min=1).pow(-0.5).unsqueeze(1)
        g.ndata["h"] = self.fc(x) * norm
        g.update_all(fn.copy_u("h", "m"), fn.mean("m", "o"))
        return F.relu(g.ndata["o"] * norm)


def attention(self, g, x):
    with g.local_scope():
        h = self.fc(x).view(-1, 3, 2)
        left, right = (h * self.left).sum(-1, keepdim=True), (h * self.right).sum(-1).unsqueeze(-1)
        g.ndata.update({"h": h, "l": left, "r": right})
        g.apply_edges(fn.u_add_v("l", "r", "e"))
        scores = F.leaky_relu(g.edata.pop("e"), 0.2)
        g.edata["a"] = F.dropout(edge_softmax(g, scores), 0.5, self.training)
        g.update_all(fn.u_mul_e("h", "a", "m"), fn.sum("m", "o"))
        return g.ndata["o"].mean(1)


def scores_by_hand(self, g, x):
    g.ndata["h"] = self.fc(x)
    g.apply_edges(fn.u_add_v("h", "h", "e"))
    g.edata["a"] = edge_softmax(g, torch.tanh(g.edata.pop("e")).sum(1, keepdim=True))
    g.update_all(fn.u_mul_e("h", "a", "m"), fn.sum("m", "o"))
    return g.ndata["o"]


def user_functions(self, g, x):
    def message(edges):
        return {"m": torch.sigmoid(self.gate(torch.cat([edges.src["x"], edges.dst["x"]], 1))) * edges.data["w"]}

    g.ndata["x"], g.edata["w"] = x, torch.ones(g.num_edges(), 1)
    g.update_all(message, fn.max("m", "o"))
    g.apply_nodes(lambda nodes: {"o": self.fc(torch.cat([nodes.data["o"], nodes.data["x"]], 1)[:, :8])})
    return g.ndata["o"]


def readouts(self, g, x):
    with g.local_scope():
        g.ndata["h"] = self.fc(x)
        mean, largest = dgl.mean_nodes(g, "h"), dgl.max_nodes(g, "h")
        spread = dgl.broadcast_nodes(g, mean)
        return torch.cat([mean, largest], 1), (g.ndata["h"] - spread).abs()


def a_check(self, g, x):
    if (g.in_degrees() == 0).any():
        raise ValueError("nodes without in-edges")
    return self.conv(g, x)


def more_dimensions(self, g, x):
    return self.fc(torch.stack([x, 2 * x], 1)).flatten(1)


def recurrent(self, g, x):
    return self.conv(g, x)


def frames_only(self, g, x):
    return self.conv(g, g.ndata["feat"])


def no_graph(self, g, x):
    return F.silu(self.fc(F.silu(x)))


WHOLE = {
    "normed_mean": (normed_mean, lambda: {"fc": nn.Linear(8, 6)}),
    "attention": (
        attention,
        lambda: {
            "fc": nn.Linear(8, 6, bias=False),
            "left": nn.Parameter(torch.randn(1, 3, 2)),
            "right": nn.Parameter(torch.randn(1, 3, 2)),
        },
    ),
    "scores_by_hand": (scores_by_hand, lambda: {"fc": nn.Linear(8, 5)}),
    "user_functions": (user_functions, lambda: {"gate": nn.Linear(16, 8), "fc": nn.Linear(8, 3)}),
    "readouts": (readouts, lambda: {"fc": nn.Linear(8, 4)}),
    "a_check": (a_check, lambda: {"conv": dgl.nn.GraphConv(8, 3, allow_zero_in_degree=True)}),
    "more_dimensions": (more_dimensions, lambda: {"fc": nn.Linear(8, 3)}),
    "recurrent": (recurrent, lambda: {"conv": dgl.nn.GatedGraphConv(8, 8, 2, 1)}),
    "frames_only": (frames_only, lambda: {"conv": dgl.nn.SAGEConv(8, 3, "mean")}),
    "no_graph": (no_graph, lambda: {"fc": nn.Linear(8, 8)}),
}


def example(nodes, edges):
    g, x = graph_of(nodes, edges), torch.randn(nodes, 8)
    g.ndata["feat"] = x + 1
    return g, x


def low_bit(model, *args, bits=8):
    model = lowbit.quantize(model, lowbit.QuantConfig(bits), *args)
    return lowbit.calibrate(model, *args).eval()


def parts(result):
    return result if isinstance(result, tuple) else (result,)


def assert_same(packed, model, *args):
    with torch.no_grad():
        for got, expected in zip(parts(packed(*args)), parts(model(*args))):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WHOLE)
def test_own_models_are_captured_whole(name, tmp_path):
    torch.manual_seed(0)
    forward, make = WHOLE[name]
    args = example(20, 60)
    model = low_bit(Model(forward, **make()), *args)
    packed = lowbit.freeze(model, *args)
    loaded = lowbit.load(packed.save(tmp_path / "model.safetensors"))
    for other in (args, example(33, 150)):
        assert_same(packed, model, *other)
        assert_same(loaded, model, *other)


def test_message_passing_of_ones_own_is_packed_as_the_layers_are():
    args = example(20, 60)
    torch.manual_seed(0)
    forward, make = WHOLE["attention"]
    ops = [op["op"] for op in lowbit.freeze(low_bit(Model(forward, **make()), *args), *args).plan.ops]
    assert "attend" in ops and "call" not in ops
    forward, make = WHOLE["normed_mean"]
    ops = [op["op"] for op in lowbit.freeze(low_bit(Model(forward, **make()), *args), *args).plan.ops]
    assert ops.count("aggregate") == 1 and "call" not in ops


def test_what_a_forward_asks_of_a_graph_must_hold_on_others():
    forward, make = WHOLE["a_check"]
    args = example(20, 60)
    packed = lowbit.freeze(low_bit(Model(forward, **make()), *args), *args)
    lonely = dgl.rand_graph(9, 3)
    with pytest.raises(dgl.DGLError, match=r"frozen for graphs where .*in_degrees.* meets False, here it meets True"):
        packed(lonely, torch.randn(9, 8))


def test_a_table_with_a_row_for_each_node_fixes_their_number():
    def forward(self, g):
        return self.conv(g, self.table)

    model = Model(forward, conv=dgl.nn.GraphConv(8, 4), table=nn.Parameter(torch.randn(20, 8)))
    graph, other = graph_of(20, 60), graph_of(20, 99)
    model = low_bit(model, graph)
    packed = lowbit.freeze(model, graph)
    assert_same(packed, model, other)
    with pytest.raises(
        dgl.DGLError, match="frozen for 20 nodes of type _N, here there are 9|a row for each of 9 source nodes"
    ):
        packed(graph_of(9, 30))


def test_graphs_that_modules_keep_are_arguments_with_a_default():
    def forward(self, x):
        return self.conv(self.g, x)

    graph, x = example(20, 60)
    model = Model(forward, conv=dgl.nn.SAGEConv(8, 4, "mean"), g=graph)
    model = low_bit(model, x)
    packed = lowbit.freeze(model, x)
    assert_same(packed, model, x)
    model.g, other = example(33, 150)
    with torch.no_grad():
        torch.testing.assert_close(packed(other, g=model.g), model(other), rtol=1e-4, atol=1e-5)


def test_indices_blocks_and_frames_in_lists():
    def links(self, g, x, source, target):
        h = self.conv(g, x)
        return (h[source] * h[target]).sum(1)

    args = (*example(20, 60), torch.randint(20, (11,)), torch.randint(20, (11,)))
    model = low_bit(Model(links, conv=dgl.nn.SAGEConv(8, 4, "mean")), *args)
    packed = lowbit.freeze(model, *args)
    assert_same(packed, model, *example(33, 150), torch.randint(33, (5,)), torch.randint(33, (5,)))

    def embedded(self, blocks):
        return self.conv(blocks[0], self.table(blocks[0].srcdata[dgl.NID]))

    def blocks(nodes, edges):
        return [dgl.to_block(dgl.in_subgraph(graph_of(nodes, edges), torch.arange(6)), torch.arange(6))]

    model = low_bit(Model(embedded, table=nn.Embedding(50, 8), conv=dgl.nn.SAGEConv(8, 4, "mean")), blocks(20, 60))
    packed = lowbit.freeze(model, blocks(20, 60))
    assert_same(packed, model, blocks(33, 150))


def test_the_caller_s_frames_are_left_alone():
    args = example(20, 60)
    before = {name: column.clone() for name, column in args[0].ndata.items()}
    forward, make = WHOLE["scores_by_hand"]
    model = low_bit(Model(forward, **make()), *args)
    with args[0].local_scope():
        model(*args)
    graph = args[0].local_var()
    names = set(graph.ndata)
    lowbit.freeze(model, graph, args[1])
    assert set(graph.ndata) == names and set(before) <= names
    assert all(torch.equal(graph.ndata[name], column) for name, column in before.items())


def test_degrees_that_are_made_whole_numbers_are_rounded():
    def forward(self, g, x):
        return self.fc(x) * (g.in_degrees().float().clamp(min=1).pow(-0.5).long()).unsqueeze(1)

    args = example(20, 60)
    model = low_bit(Model(forward, fc=nn.Linear(8, 4)), *args)
    assert_same(lowbit.freeze(model, *args), model, *example(33, 150))


def test_an_edge_softmax_over_chosen_edges_is_refused():
    def forward(self, g, x):
        g.ndata["h"] = self.fc(x)
        g.apply_edges(fn.u_add_v("h", "h", "e"))
        g.edata["a"] = edge_softmax(g, g.edata.pop("e"), eids=torch.arange(g.num_edges()).flip(0))
        g.update_all(fn.u_mul_e("h", "a", "m"), fn.sum("m", "o"))
        return g.ndata["o"]

    args = example(20, 60)
    with pytest.raises(lowbit.FreezeError, match="an edge softmax over some of the edges"):
        lowbit.freeze(low_bit(Model(forward, fc=nn.Linear(8, 3)), *args), *args)


def test_nothing_stays_patched():
    forward, make = WHOLE["attention"]
    args = example(20, 60)
    functions = dgl.DGLGraph.__getitem__, dgl.DGLGraph.in_degrees, lowbit.nn.LowBitLayer.__call__, dgl.backend.gspmm
    model = low_bit(Model(forward, **make()), *args)
    lowbit.freeze(model, *args)
    with pytest.raises(TypeError):
        lowbit.freeze(model, *args, "more")
    now = dgl.DGLGraph.__getitem__, dgl.DGLGraph.in_degrees, lowbit.nn.LowBitLayer.__call__, dgl.backend.gspmm
    assert functions == now
