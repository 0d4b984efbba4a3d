"""Graphs and settings shared by all tests."""

import functools
import itertools
import os
import tempfile
from collections import defaultdict

# Machine code of an earlier run must not stand in for the sources under test.
os.environ.setdefault("NUMBA_CACHE_DIR", tempfile.mkdtemp(prefix="numba-cache-"))
os.environ.setdefault("DGLBACKEND", "pytorch")
# Processes that run tests side by side, and those they start, leave each other a core: threads that wait for one spin.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import dgl
import pytest
import torch

from dgl_lowbit.experiments import data

# Grids of more cases than the first run under `-m "slow or random"`; of more than the second only so many that each two
# values of two parameters meet, the rest under `-m exhaustive`.
SMALL_GRID, LARGE_GRID = 8, 48
# Widths of codes that random tests leave to the full run.
RARE_BITS = (1, 4)


def pytest_configure(config):
    """Make warnings of ours errors, and let random tests draw from everything where they are asked for by name."""
    # Named in setup.cfg, the warning would import the package before the environment above is set.
    config.addinivalue_line("filterwarnings", "error::dgl_lowbit.FloatModuleWarning")
    if "or random" in config.option.markexpr:
        os.environ["DRAW_FROM_ALL"] = "1"


def pytest_collection_modifyitems(items):
    """Mark cases of grids as slow, but for some in which every value occurs; of large ones the rest as exhaustive."""
    grids = defaultdict(list)
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.random)
            if hasattr(item, "callspec") and item.callspec.params.get("bits") in RARE_BITS:
                item.add_marker(pytest.mark.slow)
        if hasattr(item, "callspec"):
            grids[item.parent.nodeid, item.originalname].append(item)
    for cases in grids.values():
        seen, met = set(), set()
        for item in cases if len(cases) > SMALL_GRID else ():
            values = item.callspec.id.split("-")
            names, pairs = set(values) - seen, set(itertools.combinations(enumerate(values), 2)) - met
            seen |= names
            met |= pairs
            if not names:
                is_extra = len(cases) > LARGE_GRID and not pairs
                item.add_marker(pytest.mark.exhaustive if is_extra else pytest.mark.slow)


def homogeneous(seed=0):
    """40 nodes with self-loops, a node visited twice over the same edge, and a hub."""
    generator = torch.Generator().manual_seed(seed)
    source, target = torch.randint(40, (2, 160), generator=generator)
    source = torch.cat([source, source[:5], torch.arange(30)])
    target = torch.cat([target, target[:5], torch.full((30,), 7)])
    return dgl.add_self_loop(dgl.graph((source, target), num_nodes=40))


def block():
    sampler = dgl.dataloading.NeighborSampler([4])
    dgl.seed(0)
    torch.manual_seed(0)
    return sampler.sample_blocks(homogeneous(), torch.arange(0, 40, 3))[2][0]


def bipartite():
    generator = torch.Generator().manual_seed(1)
    source, target = torch.randint(13, (60,), generator=generator), torch.randint(21, (60,), generator=generator)
    source, target = (
        torch.cat([source, torch.arange(13), torch.zeros(21).long()]),
        torch.cat([target, torch.arange(13), torch.arange(21)]),
    )
    return dgl.heterograph({("u", "e", "v"): (source, target)}, num_nodes_dict={"u": 13, "v": 21})


def isolated():
    return dgl.graph(([0, 1, 1, 5], [1, 0, 2, 0]), num_nodes=9)


GRAPHS = {
    "homogeneous": homogeneous,
    "block": block,
    "bipartite": bipartite,
    "isolated": isolated,
    "one_node": lambda: dgl.graph(([0], [0])),
    "zero_edges": lambda: dgl.graph(([], []), num_nodes=5),
}


@pytest.fixture(params=GRAPHS)
def any_graph(request):
    return GRAPHS[request.param]()


@pytest.fixture
def graph():
    return homogeneous()


@pytest.fixture(scope="module")
def small_planted():
    """Within a module of tests, the embedded graph of a fraction of its size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "planted_graph", functools.partial(data.planted_graph, num_nodes=560))
        yield


def features(graph, width, seed=0):
    """Features of mixed sign for the source nodes, and a pair on bipartite graphs."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(graph.num_src_nodes(), width, generator=generator)
    if graph.is_homogeneous or graph.is_block:
        return source
    return source, torch.randn(graph.num_dst_nodes(), width, generator=generator)
