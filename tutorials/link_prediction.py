"""
Link prediction, and search among packed codes
==============================================

An encoder learns to tell pairs of nodes that are linked from pairs that are not, by the product of their embeddings. At
2 bits an embedding of 64 numbers is 16 bytes, and its neighbours are found among those bytes as they are.

``python tutorials/link_prediction.py --graph cora`` runs it on Cora, ``--large 1000000`` ends with a search
among a million nodes.
"""

import time

import dgl
import dgl.nn
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.data import load_graph
from dgl_lowbit.experiments.settings import settings
from dgl_lowbit.report import table

options = settings(__doc__, graph="planted", bits=2, epochs=80, large=20_000)

# %%
# Pairs
# -----
# A tenth of the links is taken out of the graph to test on, beside as many pairs drawn at random.

torch.manual_seed(0)
whole = load_graph(options.graph)
feat, label = whole.ndata["feat"], whole.ndata["label"]
source, target = (ends[whole.edges()[0] < whole.edges()[1]] for ends in whole.edges())
order = torch.randperm(len(source))
test, kept = order[: len(order) // 10], order[len(order) // 10 :]
graph = dgl.add_self_loop(dgl.to_bidirected(dgl.graph((source[kept], target[kept]), num_nodes=whole.num_nodes())))


def with_random(source, target, nodes):
    """Links, as many pairs of which mostly none is one, and which are."""
    is_link = torch.arange(2 * len(source)) < len(source)
    return torch.cat([source, source]), torch.cat([target, torch.randint(nodes, (len(source),))]), is_link


test_pairs = with_random(source[test], target[test], whole.num_nodes())

# %%
# An encoder
# ----------


class Encoder(nn.Module):
    def __init__(self, in_feats, hidden):
        super().__init__()
        self.conv1 = dgl.nn.GraphConv(in_feats, hidden, activation=F.relu)
        self.conv2 = dgl.nn.GraphConv(hidden, hidden)

    def forward(self, graph, feat):
        return self.conv2(graph, self.conv1(graph, feat))


def scores(embeddings, source, target):
    return (embeddings[source] * embeddings[target]).sum(1)


def train(model, graph, feat, links, also=lambda embeddings: 0.0):
    optimizer = torch.optim.Adam(lowbit.training.parameter_groups(model, weight_decay=0.0, quantizer_lr=0.003))
    for _ in range(options.epochs):
        embeddings = model.train()(graph, feat)
        *pairs, is_link = with_random(*links, graph.num_nodes())
        loss = F.binary_cross_entropy_with_logits(scores(embeddings, *pairs), is_link.float()) + also(embeddings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def area_under_curve(embeddings):
    """The chance that a link scores higher than a pair drawn at random."""
    *pairs, is_link = test_pairs
    found = scores(embeddings, *pairs)
    higher = found[is_link][:, None] > found[~is_link]
    equal = found[is_link][:, None] == found[~is_link]
    return (higher.float() + 0.5 * equal.float()).mean().item()


# %%
# Two bits, embeddings included
# -----------------------------
# Layers leave their outputs in float32, as the next one codes its inputs. The last has none: here its outputs are coded
# too. Embeddings are not scores of classes, so the float model teaches by squared differences.


def low_bit(float_model, graph, feat, links):
    """A copy of ``float_model`` whose embeddings are codes too, trained on."""
    config = lowbit.QuantConfig(options.bits, overrides={"conv2.outputs": options.bits})
    model = lowbit.calibrate(lowbit.quantize(float_model, config, graph, feat), graph, feat)
    return train(model, graph, feat, links, lambda h: lowbit.teacher_loss(model, h, graph, feat, loss="squared"))


links = source[kept], target[kept]
float_model = train(Encoder(feat.shape[1], 64), graph, feat, links)
model = low_bit(float_model, graph, feat, links)
packed = lowbit.freeze(model, graph, feat)

with torch.no_grad():
    embeddings = {
        "float32": float_model(graph, feat),
        f"INT{options.bits}": model(graph, feat),
        f"INT{options.bits}, packed": packed(graph, feat),
    }

# %%
# Scores of links and of other pairs:

figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True, layout="constrained")
for ax, (name, h) in zip(axes, list(embeddings.items())[::2]):
    *pairs, is_link = test_pairs
    for kind, chosen in (("links", is_link), ("other pairs", ~is_link)):
        ax.hist(scores(h, *pairs)[chosen].numpy(), bins=40, alpha=0.6, label=kind)
    ax.set(title=name, xlabel="score")
axes[0].legend()
plt.show()

# %%
# Search
# ------
# ``embed`` returns what the model returns as codes, here those that its embeddings were coded to in training. Search
# goes through the codes as they are, and is exact: it finds what a search through all their values would.

codes = packed.embed(graph, feat)
dense = codes.values()
np.testing.assert_array_equal(dense, embeddings[f"INT{options.bits}, packed"].numpy())

queries = np.arange(0, len(dense), 9)
found, by_codes = codes.search(codes.rows(queries), k=11)
np.testing.assert_allclose(found, -np.sort(-dense[queries] @ dense.T)[:, :11], rtol=1e-4, atol=1e-4)

# %%
# How many of the ten nearest nodes are of the query's class, and what a node's embedding takes:

float_dense, classes = embeddings["float32"].numpy(), label.numpy()


def same_class(found, queries, classes):
    """Of the nearest nodes but the query itself, the share that has its class."""
    return np.mean([(classes[near[near != q]] == classes[q]).mean() for q, near in zip(queries, found)])


by_float = np.argsort(-float_dense[queries] @ float_dense.T, axis=1)[:, :11]
rows = [
    [
        name,
        f"{area_under_curve(h):.3f}",
        "-" if near is None else f"{100 * same_class(near, queries, classes):.1f} %",
        size,
    ]
    for (name, h), near, size in zip(embeddings.items(), (by_float, None, by_codes), (4 * 64, "-", codes.row_bytes))
]
print(table(["embeddings", "area under the curve", "ten nearest of the class", "bytes a node"], rows))

# %%
# A larger graph
# --------------
# Groups of a thousand nodes, most of whose links are within the group, with noisy features. The encoder is trained on
# some of the groups, and then embeds all nodes; features and embeddings are codes.

draw = np.random.default_rng(0)
nodes, size = options.large, 1000
group = np.arange(nodes) // size
source, target = draw.integers(nodes, size=(2, 8 * nodes))
is_within = draw.random(8 * nodes) < 0.8
target = np.where(is_within, np.minimum(group[source] * size + target % size, nodes - 1), target)
large = dgl.add_self_loop(dgl.to_bidirected(dgl.graph((source, target), num_nodes=nodes)))
centres = draw.standard_normal((group[-1] + 1, 128), np.float32)
large_feat = centres[group] + 3 * draw.standard_normal((nodes, 128), np.float32)

some = torch.arange(min(10_000, nodes))
part, part_feat = dgl.node_subgraph(large, some), torch.from_numpy(large_feat[: len(some)])
links = part.edges()
encoder = low_bit(train(Encoder(128, 64), part, part_feat, links), part, part_feat, links)
packed = lowbit.freeze(encoder, part, part_feat)
store = lowbit.compress(large_feat, like=packed)  # on the grid of its first quantiser: taken without being decoded

start = time.perf_counter()
codes = packed.embed(large, store)
embedded = time.perf_counter()
queries = draw.choice(nodes, min(1000, nodes), replace=False)
_, nearest = codes.search(codes.rows(queries), k=11)
searched = time.perf_counter()

rows = [
    ["bytes of features", f"{large_feat.nbytes:,}", f"{store.nbytes:,}"],
    ["bytes of embeddings", f"{4 * 64 * nodes:,}", f"{codes.packed.nbytes:,}"],
    [f"embedding {nodes:,} nodes", "-", f"{embedded - start:.2f} s"],
    [f"ten nearest of {len(queries):,}", "-", f"{searched - embedded:.2f} s"],
    ["of the query's group", "-", f"{100 * same_class(nearest, queries, group):.1f} %"],
]
print(table(["larger graph", "float32", f"INT{options.bits}"], rows))

# %%
# :doc:`/guides/link_prediction` freezes encoder and scores as one model, :doc:`/guides/stores` has more on codes.
