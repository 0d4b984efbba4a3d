"""
A graph of several types
========================

Documents cite each other and have words: two types of nodes, three of edges. A model with a convolution for each type
of edge classifies the documents. ``HeteroGraphConv`` and everything in it becomes low-bit.

``python tutorials/heterograph.py --graph cora`` makes such a graph of Cora.
"""

import dgl
import dgl.nn
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.data import load_graph, num_classes
from dgl_lowbit.experiments.settings import settings
from dgl_lowbit.report import table
from dgl_lowbit.training import accuracy

options = settings(__doc__, graph="planted", bits=2, epochs=80)

# %%
# The graph
# ---------
# A bag of words is an edge from a document to each of its words.

citations = dgl.add_self_loop(load_graph(options.graph))
document, word = citations.ndata["feat"].nonzero(as_tuple=True)
graph = dgl.heterograph(
    {
        ("document", "cites", "document"): citations.edges(),
        ("document", "has", "word"): (document, word),
        ("word", "in", "document"): (word, document),
    },
    num_nodes_dict={"document": citations.num_nodes(), "word": citations.ndata["feat"].shape[1]},
)
label, classes = citations.ndata["label"], num_classes(citations)
print(table(["edges", "number"], [[" ".join(kind), f"{graph.num_edges(kind):,}"] for kind in graph.canonical_etypes]))

# %%
# Words are one-hot, so that the first weight holds a row for each. Documents all have the number 1: what one is about
# only its edges say.

feat = {
    "word": torch.eye(graph.num_nodes("word")),
    "document": torch.ones(graph.num_nodes("document"), 1),
}

# %%
# The model
# ---------


class RGCN(nn.Module):
    def __init__(self, in_feats, hidden, classes):
        super().__init__()
        self.conv1 = self.layer(in_feats, hidden)
        self.conv2 = self.layer({"word": hidden, "document": hidden}, hidden)
        self.classifier = nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(0.5)

    @staticmethod
    def layer(i, o):
        sources = {"cites": "document", "has": "document", "in": "word"}
        convolutions = {
            kind: dgl.nn.GraphConv(i[source], o, "right", allow_zero_in_degree=True) for kind, source in sources.items()
        }
        return dgl.nn.HeteroGraphConv(convolutions, aggregate="sum")

    def forward(self, graph, feat):
        h = feat
        for conv in (self.conv1, self.conv2):
            h = {kind: self.dropout(F.relu(x)) for kind, x in conv(graph, h).items()}
        return self.classifier(h["document"])


# %%
# Training
# --------
# The loop of the project, and its two lines. The model's features are a dict by type of node, as in DGL.


def train(model, also=lambda logits: 0.0):
    mask = citations.ndata["train_mask"]
    optimizer = torch.optim.Adam(lowbit.training.parameter_groups(model, lr=0.02, quantizer_lr=0.003))
    for _ in range(options.epochs):
        logits = model.train()(graph, feat)
        loss = F.cross_entropy(logits[mask], label[mask]) + also(logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


torch.manual_seed(0)
float_model = train(RGCN({kind: x.shape[1] for kind, x in feat.items()}, 64, classes))
model = lowbit.quantize(float_model, lowbit.QuantConfig(options.bits), graph, feat)
lowbit.calibrate(model, graph, feat)
model = train(model, also=lambda logits: lowbit.teacher_loss(model, logits, graph, feat))
packed = lowbit.freeze(model, graph, feat)

with torch.no_grad():
    outputs = {
        "float32": float_model(graph, feat),
        f"INT{options.bits}": model(graph, feat),
        f"INT{options.bits}, packed": packed(graph, feat),
    }
print(
    table(["RGCN", "test accuracy"], [[name, f"{100 * accuracy(o, citations):.1f} %"] for name, o in outputs.items()])
)

# %%
# Each relation has its own codes
# -------------------------------
# Shares of the codes of what is sent over each type of edge. Bits can be set by relation too, as in
# ``QuantConfig(2, overrides={"conv2.mods.cites.messages": 4})``.

sent = [row for row in lowbit.diagnose(model, graph, feat) if row["quantizer"].endswith("messages")]
names = [row["quantizer"].replace(".quantizers", "").replace("mods.", "") for row in sent]
figure, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
left = [0.0] * len(sent)
for code in range(max(len(row["shares"]) for row in sent)):
    shares = [row["shares"][code] for row in sent]
    ax.barh(names, shares, left=left, label=f"code {code}")
    left = [a + b for a, b in zip(left, shares)]
ax.set(xlabel="share", xlim=(0, 1))
ax.invert_yaxis()
if options.bits <= 3:
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %%
# :doc:`/guides/heterographs` has typed edges on one type of node, ``multi_update_all``, and bounds a relation.
