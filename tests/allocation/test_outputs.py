"""What of a model's output is compared, and what cannot be."""

from collections import namedtuple

import dgl
import dgl.nn
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.allocation.allocate import METHODS
from dgl_lowbit.allocation.outputs import log_probabilities, rows_of
from dgl_lowbit.allocation.trials import Trials


class Shaped(nn.Module):
    """A layer and what is made of its output."""

    def __init__(self, shape):
        super().__init__()
        torch.manual_seed(0)
        self.conv = dgl.nn.GraphConv(8, 3)
        self.shape = shape

    def forward(self, graph, feat):
        return self.shape(self.conv(graph, feat))


def case():
    torch.manual_seed(0)
    graph = dgl.add_self_loop(dgl.graph(tuple(torch.randint(12, (2, 40))), num_nodes=12))
    return graph, torch.randn(12, 8)


def trials(shape, nodes=None, widths=(2, 8)):
    return Trials(Shaped(shape), lowbit.QuantConfig(), widths, nodes, case(), {})


def without_last_class(output):
    return torch.cat([output[:, :2], torch.full_like(output[:, 2:], -torch.inf)], 1)


def without_last_row(output):
    return torch.cat([output[:-1], torch.full_like(output[-1:], torch.nan)])


@pytest.mark.parametrize("method", ["greedy", "tree"])
def test_classes_that_are_masked_count_nothing(method):
    masked, left = (trials(shape) for shape in (without_last_class, lambda output: output[:, :2]))
    found = METHODS[method](masked, {"bits": 5})
    assert 0 < masked.loss(found) == pytest.approx(left.loss(found), rel=1e-12)


def test_rows_without_numbers_are_refused():
    with pytest.raises(ValueError, match="holds NaN or infinity; name rows without by nodes="):
        trials(without_last_row)
    assert 0 < trials(without_last_row, torch.arange(11)).loss((2, 2, 2)) < 10


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (torch.zeros(12, dtype=torch.bool), "chooses no row"),
        (torch.ones(11, dtype=torch.bool), "a mask, or integers, of the 12 rows"),
        ([12], "a mask, or integers, of the 12 rows"),
        ({"a": [1]}, "keys that the output has not: 'a'"),
    ],
)
def test_nodes_that_do_not_fit_are_refused(nodes, message):
    with pytest.raises(ValueError, match=f"nodes.*{message}"):
        rows_of(torch.randn(12, 3), nodes, ())


def test_validation_nodes_of_any_graph_given():
    graph, mask = case()[0], torch.arange(12) < 3
    graph.ndata["val_mask"] = mask
    assert rows_of(torch.randn(12, 3), None, (graph,))[None] is mask
    assert rows_of(torch.randn(11, 3), None, (graph,)) == {None: slice(None)}
    typed = dgl.heterograph({("a", "to", "b"): ([0, 1], [0, 1]), ("b", "to", "a"): ([0], [0])}, {"a": 3, "b": 2})
    block = dgl.to_block(typed, {"a": torch.arange(3), "b": torch.arange(2)})
    assert rows_of({"a": torch.randn(3, 2)}, None, (block,)) == {"a": slice(None)}
    typed.nodes["a"].data["val_mask"] = torch.tensor([False, True, False])
    found = log_probabilities(
        output := {"a": torch.randn(3, 2), "b": torch.randn(2, 2)}, rows_of(output, None, (typed,))
    )
    assert [len(part) for part in found] == [1, 0]


def test_validation_nodes_of_a_graph_given_by_name():
    graph, feat = case()
    graph.ndata["val_mask"] = torch.arange(12) < 3
    model = Shaped(lambda output: output)
    by_name = Trials(model, lowbit.QuantConfig(), (2, 8), None, (), {"graph": graph, "feat": feat})
    by_place = Trials(model, lowbit.QuantConfig(), (2, 8), None, (graph, feat), {})
    assert by_name.loss((2, 2, 2)) == by_place.loss((2, 2, 2))


Named = namedtuple("Named", "scores")


@pytest.mark.parametrize("shape", [lambda output: [output], Named, lambda output: {"a": output}])
def test_outputs_of_any_kind_are_compared(shape):
    assert trials(shape).loss((2, 2, 2)) == trials(lambda output: output).loss((2, 2, 2))


def checked(feat):
    assert isinstance(feat, torch.Tensor)
    return feat


@pytest.mark.parametrize("ask", [lambda feat: feat[:, :8], lambda feat: feat[:, None].flatten(1), checked])
def test_models_that_take_no_sparse_features_are_run_on_dense_ones(ask):
    class Asking(Shaped):
        def forward(self, graph, feat):
            return super().forward(graph, ask(feat))

    graph, feat = case()
    few = feat * (torch.rand_like(feat) < 0.1)
    dense = Trials(Asking(lambda output: output), lowbit.QuantConfig(), (2, 8), None, (graph, few), {})
    assert 0 < dense.loss((2, 2, 2)) < 10
