"""What of a model's output is compared, and what cannot be."""

import dgl
import dgl.nn
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.allocation.allocate import METHODS
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


@pytest.mark.parametrize("method", METHODS)
def test_classes_that_are_masked_count_nothing(method):
    masked, left = (trials(shape) for shape in (without_last_class, lambda output: output[:, :2]))
    found = METHODS[method](masked, {"bits": 5})
    assert found == METHODS[method](left, {"bits": 5})
    assert 0 < masked.loss(found) == pytest.approx(left.loss(found), rel=1e-12)


def test_rows_without_numbers_are_refused():
    with pytest.raises(ValueError, match="holds NaN or infinity; name rows without by nodes="):
        trials(without_last_row)
    assert 0 < trials(without_last_row, torch.arange(11)).loss((2, 2, 2)) < 10
