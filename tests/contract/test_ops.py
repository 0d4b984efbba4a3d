"""What runs a layer's computation and what records it offer the same operations."""

import inspect

import pytest

from dgl_lowbit.deploy.recorder import Recorder
from dgl_lowbit.nn import Ops
from dgl_lowbit.nn.ops import TorchOps

NAMES = sorted(name for name in vars(Ops) if not name.startswith("_"))


def call(method):
    """Names, kinds and defaults of the arguments of a bound method."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]


@pytest.mark.parametrize("made", [TorchOps(), Recorder()], ids=["TorchOps", "Recorder"])
def test_both_are_ops(made):
    assert isinstance(made, Ops) and len(NAMES) > 20
    for name in NAMES:
        assert call(getattr(made, name))[:] == call(getattr(Ops, name).__get__(made)), name


def test_torch_offers_nothing_that_cannot_be_recorded():
    assert sorted(name for name in vars(TorchOps) if not name.startswith("_")) == NAMES
