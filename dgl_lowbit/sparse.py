"""Features of which most are 0, trained on as their non-zeros."""

from __future__ import annotations

import copy

import dgl
import torch
import torch.nn.functional as F


class SparseFeatures:
    r"""A matrix of features kept as its non-zeros, to stand where models take dense features.

    Dropout acts on the non-zeros, and a product with a dense matrix, :math:`X W`, is a sum over the edges of the
    bipartite graph from columns to rows whose edges are the non-zeros. ``torch.nn.Dropout``, ``torch.nn.Linear``,
    ``torch.matmul`` and with them DGL's layers that multiply first take it as it is; any other torch function or
    method works on the dense matrix.

    Parameters
    ----------
    graph : DGLGraph
        Bipartite, from M columns to N rows, one edge a non-zero, edges ordered by row.
    values : torch.Tensor
        Shape (nnz,), float.

    Examples
    --------
    >>> x = SparseFeatures.from_dense(torch.tensor([[0.0, 2.0], [0.0, 0.0], [1.0, 3.0]]))
    >>> (x @ torch.tensor([[1.0], [10.0]])).flatten().tolist()
    [20.0, 0.0, 31.0]
    """

    def __init__(self, graph: dgl.DGLGraph, values: torch.Tensor):
        self.graph, self.values = graph, values
        self._columns, self._rows = (ends.long() for ends in graph.edges(order="eid"))

    @classmethod
    def from_dense(cls, x: torch.Tensor) -> SparseFeatures:
        """The non-zeros of ``x``, shape (N, M)."""
        rows, columns = x.nonzero(as_tuple=True)
        return cls._build(rows, columns, x[rows, columns], x.shape)

    @classmethod
    def _build(cls, rows, columns, values, shape):
        nodes = {"column": shape[1], "row": shape[0]}
        graph = dgl.heterograph({("column", "in", "row"): (columns, rows)}, num_nodes_dict=nodes, device=values.device)
        return cls(graph.int() if graph.num_edges() < 2**31 else graph, values)

    # -- what callers ask of a tensor -------------------------------------------------------------------
    @property
    def shape(self):
        return torch.Size((self.graph.num_dst_nodes(), self.graph.num_src_nodes()))

    @property
    def dtype(self):
        return self.values.dtype

    @property
    def device(self):
        return self.values.device

    @property
    def requires_grad(self):
        return self.values.requires_grad

    def __len__(self):
        return self.shape[0]

    def size(self, dim=None):
        return self.shape if dim is None else self.shape[dim]

    def dim(self):
        return 2

    def numel(self):
        return self.shape.numel()

    def is_floating_point(self):
        return self.values.is_floating_point()

    def detach(self):
        return self.with_values(self.values.detach())

    def with_values(self, values: torch.Tensor) -> SparseFeatures:
        """The same places, other values."""
        other = copy.copy(self)
        other.values = values
        return other

    def to_dense(self) -> torch.Tensor:
        """The whole matrix, (N, M), differentiable."""
        return self.values.new_zeros(self.shape).index_put((self._rows, self._columns), self.values)

    def per_value(self, per_row: torch.Tensor) -> torch.Tensor:
        """The entry of ``per_row``, (N, 1), that goes with each non-zero, (nnz,)."""
        return per_row.flatten()[self._rows]

    def _reduced(self, name):
        zeros = self.values.new_zeros(len(self))
        return zeros.scatter_reduce(0, self._rows, self.values, name).unsqueeze(-1)

    def amin(self, dim=-1, keepdim=True):
        """Smallest of each row, (N, 1); zeros count."""
        return self._reduced("amin")

    def amax(self, dim=-1, keepdim=True):
        """Largest of each row, (N, 1); zeros count."""
        return self._reduced("amax")

    def __getitem__(self, index):
        """Some rows: a slice, or a tensor of row numbers or a mask."""
        chosen = torch.arange(len(self), device=self.device)[index]
        starts = torch.zeros(len(self) + 1, dtype=torch.long, device=self.device)
        starts[1:] = self.graph.in_degrees().long().cumsum(0)
        counts = starts[chosen + 1] - starts[chosen]
        rows = torch.repeat_interleave(torch.arange(len(chosen), device=self.device), counts)
        within = torch.arange(len(rows), device=self.device) - (counts.cumsum(0) - counts)[rows]
        entries = starts[chosen][rows] + within
        return self._build(rows, self._columns[entries], self.values[entries], (len(chosen), self.shape[1]))

    def __getattr__(self, name):
        """Other attributes of a tensor: the dense matrix's."""
        if name.startswith("_") or name in ("graph", "values"):
            raise AttributeError(name)
        return getattr(self.to_dense(), name)

    # -- arithmetic -------------------------------------------------------------------------------------
    def __matmul__(self, weight: torch.Tensor) -> torch.Tensor:
        """Product with a dense matrix, (M, D) to (N, D), differentiable in both."""
        if len(self.values) == 0:
            return weight.new_zeros(len(self), weight.shape[1])
        return dgl.ops.u_mul_e_sum(self.graph, weight.contiguous(), self.values.unsqueeze(-1))

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        x = args[0] if args else kwargs.get("input")
        if isinstance(x, cls):
            if func in _DROPOUT:
                return x.with_values(func(x.values, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"}))
            if func is F.linear:
                return _linear(*args, **kwargs) if not isinstance(args[1], cls) else NotImplemented
            if func in _PRODUCTS and not isinstance(args[1], cls):
                return x @ args[1]
        return func(*map(_dense, args), **{k: _dense(v) for k, v in kwargs.items()})

    def __repr__(self):
        return f"SparseFeatures(shape={tuple(self.shape)}, non_zeros={len(self.values)})"


_DROPOUT = (F.dropout, torch.dropout)
_PRODUCTS = (torch.matmul, torch.mm, torch.Tensor.matmul, torch.Tensor.mm)


def _linear(input, weight, bias=None):
    product = input @ weight.t()
    return product if bias is None else product + bias


def _dense(argument):
    if isinstance(argument, (list, tuple)):
        return type(argument)(map(_dense, argument))
    return argument.to_dense() if isinstance(argument, SparseFeatures) else argument
