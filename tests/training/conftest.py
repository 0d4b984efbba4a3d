import dgl
import pytest

from dgl_lowbit.data import load_graph


@pytest.fixture(scope="module")
def planted(small_planted):
    return dgl.add_self_loop(load_graph())
