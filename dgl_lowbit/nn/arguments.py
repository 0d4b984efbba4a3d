"""What the arguments of a layer's forward are."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType


class Role(str, enum.Enum):
    """What an argument of a layer's ``forward`` is, as freezing needs to know; a layer declares one for each."""

    GRAPH = "graph"
    #: Rows of numbers: of nodes (of a pair where a tuple is given), or of edges.
    FEATURES = "features"
    #: A number for each edge, (E,) or (E, 1), or None.
    EDGE_WEIGHT = "edge_weight"
    #: A whole number for each edge, (E,).
    EDGE_TYPES = "edge_types"
    #: Chooses what forward computes: a layer frozen by itself has its default.
    CHOICE = "choice"


def roles(**by_name: Role | str) -> Mapping[str, Role]:
    """The roles of the arguments of a ``forward``, by name.

    Parameters
    ----------
    **by_name : Role or str
        The role of each argument, or its value.

    Returns
    -------
    mapping of str to Role
        It cannot be changed.

    Raises
    ------
    ValueError
        For a role that is none of :class:`Role`.

    Examples
    --------
    >>> roles(graph="graph", feat=Role.FEATURES)["graph"]
    <Role.GRAPH: 'graph'>
    """
    return MappingProxyType({name: Role(role) for name, role in by_name.items()})
