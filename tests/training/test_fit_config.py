"""What fit is given as a config is one."""

import dgl
import pytest

import dgl_lowbit as lowbit


def test_a_number_is_no_config():
    graph = dgl.add_self_loop(dgl.graph(([0], [1])))
    with pytest.raises(ValueError, match=r"config must be a QuantConfig, got int; try QuantConfig\(bits=2\)"):
        lowbit.fit(dgl.nn.GraphConv(4, 2), graph, 4)
