"""Message passing of modules that are no layers of ours, made low-bit where DGL runs it.

Everything that DGL's Python does over edges ends in a few functions: ``update_all``, ``apply_edges``, ``dgl.ops``,
readouts, layers of ``dgl.nn``, however a user imported them. While a low-bit model runs, these go through a *handler*
(:mod:`.hook`), which receives each as a :class:`Call`. :class:`FakeQuantise`, the handler unless another is installed
by :func:`handling`, codes their operands with the quantisers of their :class:`Site`.
"""

from .calls import Call, coded
from .discover import Found, discover
from .fake_quantise import FakeQuantise
from .hook import handling, patched
from .hooked import Hooked, hook, own_class
from .site import Site

__all__ = [
    "Call",
    "FakeQuantise",
    "Found",
    "Hooked",
    "Site",
    "coded",
    "discover",
    "handling",
    "hook",
    "own_class",
    "patched",
]
