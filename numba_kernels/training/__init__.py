"""What training computes in compiled passes: codes, straight-through gradients, sums over neighbours.

A call works on the rows from ``first`` to below ``last`` of (rows, columns) arrays, on one thread and without Python's
lock: who calls shares rows among threads.
"""

from .coding import *  # noqa: F403
from .few import *  # noqa: F403
from .gradients import *  # noqa: F403
from .products import *  # noqa: F403
from .sparse import *  # noqa: F403
from .sums import *  # noqa: F403
