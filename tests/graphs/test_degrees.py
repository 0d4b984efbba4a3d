"""What layers keep of the degrees of graphs."""

import dgl
import pytest
import torch

from dgl_lowbit.graphs.degrees import leaves_out_nodes, most_messages, power_of_degrees, with_degrees

ONE = torch.ones(())


def test_a_graph_that_changes_has_other_degrees():
    graph = dgl.graph(([0, 1, 2], [1, 3, 3]))
    assert (most_messages(graph), leaves_out_nodes(graph)) == (2, True)
    assert power_of_degrees(ONE, graph, "in", -1).tolist() == [1, 1, 1, 0.5]
    assert power_of_degrees(ONE.double(), graph, "out", 0.5, 3).tolist() == [2, 2, 2, 3**0.5]
    graph.add_edges([0, 0, 0], [0, 2, 3])
    assert (most_messages(graph), leaves_out_nodes(graph)) == (3, False)
    assert power_of_degrees(ONE, graph, "out", -0.5).tolist() == [0.5, 1, 1, 1]
    empty = dgl.graph(([], []), num_nodes=0)
    assert (most_messages(empty), leaves_out_nodes(empty)) == (0, False)


def test_degrees_met_in_inference_serve_training():
    graph, x = dgl.graph(([0, 1], [1, 0])), torch.ones(2, requires_grad=True)
    with torch.inference_mode():
        power_of_degrees(ONE, graph, "in", -0.5)
    (x * power_of_degrees(ONE, graph, "in", -0.5)).sum().backward()
    assert x.grad.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("graph", "got"),
    [(dgl.heterograph({("a", "to", "b"): ([0], [0])}), r"\['a', 'b'\] and \['to'\]"), (torch.ones(2, 2), "Tensor")],
)
def test_graphs_whose_degrees_blocks_cannot_know_are_named(graph, got):
    with pytest.raises(ValueError, match=f"with_degrees takes a DGLGraph of one type.*got {got}"):
        with_degrees(graph)


def test_a_block_is_sampled_already():
    block = dgl.to_block(dgl.graph(([0, 1], [1, 0])))
    with pytest.raises(ValueError, match="with_degrees takes the graph that blocks are sampled from, got a block"):
        with_degrees(block)
