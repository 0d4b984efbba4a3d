"""
Link prediction, and search among packed codes
==============================================

An encoder learns to tell pairs of nodes that are linked from pairs that are not, by the product of their embeddings. At
2 bits an embedding of 64 numbers is 16 bytes, and its neighbours are found among those bytes as they are.

``python tutorials/link_prediction.py --graph cora`` runs it on Cora.
"""

import dgl
import dgl.nn
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
import numba_kernels
from dgl_lowbit.experiments.data import load_graph
from dgl_lowbit.experiments.settings import settings
from dgl_lowbit.report import table

options = settings(__doc__, graph="planted", bits=2, epochs=80)

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


def with_random(chosen):
    """Links, as many pairs of which mostly none is one, and which are."""
    drawn = torch.randint(whole.num_nodes(), (len(chosen),))
    is_link = torch.arange(2 * len(chosen)) < len(chosen)
    return torch.cat([source[chosen], source[chosen]]), torch.cat([target[chosen], drawn]), is_link


test_pairs = with_random(test)

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


def train(model, also=lambda embeddings: 0.0):
    optimizer = torch.optim.Adam(lowbit.training.parameter_groups(model, weight_decay=0.0, quantizer_lr=0.003))
    for _ in range(options.epochs):
        embeddings = model.train()(graph, feat)
        *pairs, is_link = with_random(kept)
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

float_model = train(Encoder(feat.shape[1], 64))
config = lowbit.QuantConfig(options.bits, overrides={"conv2.outputs": options.bits})
model = lowbit.calibrate(lowbit.quantize(float_model, config, graph, feat), graph, feat)
model = train(model, also=lambda h: lowbit.teacher_loss(model, h, graph, feat, loss="squared"))
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
# The package packs embeddings, and has no index for search: what follows is plain NumPy. The codes of a node are bytes
# of several codes each. For a query, a table holds what each of the 256 bytes adds to the score in each place; a node's
# score is then a look-up for each of its bytes, and nothing is unpacked.

grid = numba_kernels.Grid.of(model.conv2.quantizers["outputs"].export(), 64)
codes = numba_kernels.quantize(embeddings[f"INT{options.bits}, packed"].numpy(), grid)
width = codes.packed.shape[1]
every_byte = numba_kernels.unpack(np.arange(256, dtype=np.uint8)[:, None], options.bits, 8 // options.bits)
values = np.float32(codes.scale[0]) * (every_byte - codes.zero[0])


def search(query, count):
    """The nodes whose embeddings have the largest products with ``query``, best first, and all scores."""
    in_places = np.zeros((values.shape[1], width), np.float32)
    in_places.reshape(-1)[: len(query)] = query
    found = (values @ in_places)[codes.packed, np.arange(width)].sum(1)
    best = np.argpartition(-found, count)[:count]
    return best[np.argsort(-found[best])], found


dense = numba_kernels.dequantize(codes)
for query in dense[:5]:
    np.testing.assert_allclose(search(query, 10)[1], dense @ query, rtol=1e-4, atol=1e-4)

# %%
# How many of the ten nearest nodes are of the query's class, and what a node's embedding takes:

queries = np.arange(0, len(dense), 9)
float_dense, classes = embeddings["float32"].numpy(), label.numpy()


def same_class(found):
    """Of the nearest nodes but the query itself, the share that has its class."""
    return np.mean([(classes[near[near != q]] == classes[q]).mean() for q, near in zip(queries, found)])


by_float = [np.argsort(-(float_dense @ float_dense[q]))[:11] for q in queries]
by_codes = [search(dense[q], 11)[0] for q in queries]
rows = [
    [name, f"{area_under_curve(h):.3f}", f"{100 * same_class(near):.1f} %" if near else "-", size]
    for (name, h), near, size in zip(embeddings.items(), (by_float, None, by_codes), (4 * 64, "-", width))
]
print(table(["embeddings", "area under the curve", "ten nearest of the class", "bytes a node"], rows))

# %%
# :doc:`/guides/link_prediction` freezes encoder and scores as one model.
