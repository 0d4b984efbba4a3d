"""Features of which most are 0, trained on as their non-zeros."""

from __future__ import annotations

import copy
import functools
import warnings
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F

from . import passes, sparse_products

# Share of non-zeros up to which a product over them is faster than a dense one.
_SPARSE_UP_TO = 0.4


def mostly_zero(feat: torch.Tensor) -> bool:
    """Whether so few of the features are not 0 that products over those are faster; judged by some rows."""
    if not (feat.is_cuda or torch.backends.mkl.is_available()):  # torch multiplies sparse matrices through MKL
        return False
    sample = feat[:: max(len(feat) // 1000, 1)]
    return feat.dim() == 2 and int(sample.count_nonzero()) <= _SPARSE_UP_TO * sample.numel()


class _Pattern:
    """Where the non-zeros of an (N, M) matrix stand, in compressed rows, and in columns for its transpose."""

    def __init__(self, rows, columns, shape):
        self.shape, self.rows, self.columns = torch.Size(shape), rows, columns
        self.starts = _starts(rows, shape[0])
        self.by_row = self.starts.int(), columns.int()

    def to(self, device):
        """The same places, on ``device``."""
        if device == self.rows.device:
            return self
        other = copy.copy(self)
        vars(other).pop("by_column", None)
        other.rows, other.columns, other.starts = (part.to(device) for part in (self.rows, self.columns, self.starts))
        other.by_row = tuple(part.to(device) for part in self.by_row)
        return other

    @functools.cached_property
    def by_column(self):
        """Starts, rows and places of the non-zeros in the order of columns."""
        order = torch.argsort(self.columns, stable=True)
        return _starts(self.columns, self.shape[1]).int(), self.rows[order].int(), order

    def per_column(self, numbers: torch.Tensor) -> torch.Tensor:
        """The entry of ``numbers``, (M,), that goes with each non-zero, (nnz,)."""
        return numbers.index_select(0, self.columns)

    def of_columns(self, index: torch.Tensor):
        """The places in the columns ``index``, ascending, counted anew, and which non-zeros they are of all."""
        new = torch.full((self.shape[1],), -1, dtype=torch.long, device=index.device)
        new[index] = torch.arange(len(index), device=index.device)
        columns = new[self.columns]
        places = (columns >= 0).nonzero().flatten()
        return _Pattern(self.rows[places], columns[places], (self.shape[0], len(index))), places

    def matrix(self, values):
        return _csr(*self.by_row, values, self.shape)

    def transposed(self, values):
        starts, rows, order = self.by_column
        return _csr(starts, rows, values.index_select(0, order), (self.shape[1], self.shape[0]))


def _starts(sorted_or_not, count):
    starts = torch.zeros(count + 1, dtype=torch.long, device=sorted_or_not.device)
    starts[1:] = torch.bincount(sorted_or_not, minlength=count).cumsum(0)
    return starts


def _csr(starts, indices, values, shape):
    with _not_told_of_beta():
        return torch.sparse_csr_tensor(starts, indices, values, shape, check_invariants=False)


def compressed(x: torch.Tensor) -> torch.Tensor:
    """The matrix ``x`` in compressed rows, as torch has them."""
    with _not_told_of_beta():
        return x.to_sparse_csr()


@contextmanager
def _not_told_of_beta():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        yield


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, weight, pattern):
        ctx.save_for_backward(values, weight)
        ctx.pattern = pattern
        if sparse_products.are_compiled(values, weight, pattern.shape[1]):
            return sparse_products.product(pattern, values, weight)
        return pattern.matrix(values) @ weight

    @staticmethod
    def backward(ctx, grad):
        values, weight = ctx.saved_tensors
        pattern, grad = ctx.pattern, grad.contiguous()
        grad_values = grad_weight = None
        if sparse_products.are_compiled(values, grad, pattern.shape[0]) and not torch.is_grad_enabled():
            if ctx.needs_input_grad[0]:
                grad_values = sparse_products.gradient_of_values(pattern, grad, weight)
            if ctx.needs_input_grad[1]:
                grad_weight = sparse_products.gradient_of_weight(pattern, values, grad)
            return grad_values, grad_weight, None
        if ctx.needs_input_grad[0]:
            places = pattern.matrix(torch.zeros_like(values))
            grad_values = torch.sparse.sampled_addmm(places, grad, weight.t()).values()
        if ctx.needs_input_grad[1]:
            grad_weight = pattern.transposed(values) @ grad
        return grad_values, grad_weight, None


class SparseFeatures:
    r"""A matrix of features kept as its non-zeros, to stand where models take dense features.

    Dropout acts on the non-zeros, and a product with a dense matrix, :math:`X W`, runs over them alone.
    ``torch.nn.Dropout``, ``torch.nn.Linear``, ``torch.matmul`` and with them DGL's layers that multiply first take it
    as it is; any other torch function or method works on the dense matrix.

    Examples
    --------
    >>> x = SparseFeatures.from_dense(torch.tensor([[0.0, 2.0], [0.0, 0.0], [1.0, 3.0]]))
    >>> (x @ torch.tensor([[1.0], [10.0]])).flatten().tolist()
    [20.0, 0.0, 31.0]
    """

    def __init__(self, pattern: _Pattern, values: torch.Tensor):
        self._pattern, self.values = pattern, values

    @classmethod
    def from_dense(cls, x: torch.Tensor) -> SparseFeatures:
        """The non-zeros of ``x``, shape (N, M)."""
        rows, columns = x.nonzero(as_tuple=True)
        return cls(_Pattern(rows, columns, x.shape), x[rows, columns])

    @property
    def pattern(self) -> _Pattern:
        """Where the non-zeros stand."""
        return self._pattern

    # -- what callers ask of a tensor -------------------------------------------------------------------
    @property
    def shape(self):
        return self._pattern.shape

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

    def to(self, *args, **kwargs) -> SparseFeatures:
        """The same matrix with its values in another floating dtype, or all of it on another device.

        Takes what ``torch.Tensor.to`` takes.
        """
        values = self.values.to(*map(_values, args), **{name: _values(part) for name, part in kwargs.items()})
        if values is self.values:
            return self
        return SparseFeatures(self._pattern.to(values.device), values)

    def float(self):
        return self.to(torch.float32)

    def double(self):
        return self.to(torch.float64)

    def cpu(self):
        return self.to("cpu")

    def cuda(self, device=None):
        return self.to("cuda" if device is None else device)

    def with_values(self, values: torch.Tensor) -> SparseFeatures:
        """The same places, other values."""
        other = copy.copy(self)
        other.values = values
        return other

    def to_dense(self) -> torch.Tensor:
        """The whole matrix, (N, M), differentiable."""
        return self.values.new_zeros(self.shape).index_put((self._pattern.rows, self._pattern.columns), self.values)

    def per_value(self, per_row: torch.Tensor) -> torch.Tensor:
        """The entry of ``per_row``, (N, 1), that goes with each non-zero, (nnz,)."""
        return per_row.flatten().index_select(0, self._pattern.rows)

    def _reduced(self, name):
        zeros = self.values.new_zeros(len(self))
        return zeros.scatter_reduce(0, self._pattern.rows, self.values, name).unsqueeze(-1)

    def amin(self, dim=-1, keepdim=True):
        """Smallest of each row, (N, 1); zeros count."""
        return self._reduced("amin")

    def amax(self, dim=-1, keepdim=True):
        """Largest of each row, (N, 1); zeros count."""
        return self._reduced("amax")

    def __getitem__(self, index):
        """Some rows: a slice, or a tensor of row numbers or a mask."""
        chosen = torch.arange(len(self), device=self.device)[index]
        starts = self._pattern.starts
        counts = starts[chosen + 1] - starts[chosen]
        rows = torch.repeat_interleave(torch.arange(len(chosen), device=self.device), counts)
        within = torch.arange(len(rows), device=self.device) - (counts.cumsum(0) - counts)[rows]
        entries = starts[chosen][rows] + within
        pattern = _Pattern(rows, self._pattern.columns[entries], (len(chosen), self.shape[1]))
        return SparseFeatures(pattern, self.values[entries])

    def __getattr__(self, name):
        """Other attributes of a tensor: the dense matrix's."""
        if name.startswith("_") or name == "values":
            raise AttributeError(name)
        return getattr(self.to_dense(), name)

    # -- arithmetic -------------------------------------------------------------------------------------
    def __matmul__(self, weight: torch.Tensor) -> torch.Tensor:
        """Product with a dense matrix, (M, D) to (N, D), differentiable in both."""
        return _Product.apply(self.values, weight, self._pattern)

    def __mul__(self, other):
        """Product with a number or with one for each row, (N, 1), sparse; with others it is dense."""
        if isinstance(other, (int, float)):
            return self.with_values(self.values * other)
        if isinstance(other, torch.Tensor) and other.shape == (len(self), 1):
            return self.with_values(self.values * self.per_value(other))
        return self.to_dense() * other

    __rmul__ = __mul__

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        args, kwargs = _operands_first(func, args, kwargs or {})
        x, other = (*args, None, None)[:2]
        if isinstance(x, cls) and func in _DROPOUT:
            return x.with_values(_dropout(x.values, *args[1:], **kwargs))
        if isinstance(x, cls) and not isinstance(other, cls):
            if func is F.linear:
                return _linear(*args, **kwargs)
            if func in _SCALINGS and not kwargs:
                return x * other
            if func in _PRODUCTS and not kwargs:
                return x @ other
        if func is torch.Tensor.to and isinstance(other, cls):  # another tensor, to the dtype and device of this one
            return func(x, other.values, *args[2:], **kwargs)
        if func in _SCALINGS and isinstance(other, cls) and not isinstance(x, cls):
            return other * x
        return func(*map(_dense, args), **{k: _dense(v) for k, v in kwargs.items()})

    def __repr__(self):
        return f"SparseFeatures(shape={tuple(self.shape)}, non_zeros={len(self.values)})"


# What the first operands are called where they are given by keyword.
_OPERANDS = (("input", "self"), ("weight", "other", "mat2", "tensor2"))
_DROPOUT = (F.dropout, torch.dropout)
_SCALINGS = (torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__)
_PRODUCTS = (torch.matmul, torch.mm, torch.Tensor.matmul, torch.Tensor.mm)


def _operands_first(func, args, kwargs):
    """The same call with its first operands by place."""
    args, kwargs = list(args), dict(kwargs)
    for names in _OPERANDS[len(args) :] if func in (*_DROPOUT, *_SCALINGS, *_PRODUCTS, F.linear) else ():
        name = next((name for name in names if name in kwargs), None)
        if name is None:
            break
        args.append(kwargs.pop(name))
    return args, kwargs


def _dropout(values, p=0.5, training=True, inplace=False, *, train=True):
    """What ``torch.dropout`` and ``torch.nn.functional.dropout`` do, of numbers that are drawn faster from a seed."""
    is_on = training and train
    if not is_on or not 0 < p < 1 or values.is_cuda or passes.is_traced():
        return torch.dropout(values, p, is_on)
    seed = int(torch.randint(1 << 62, ()))
    drawn = np.random.Generator(np.random.SFC64(seed)).random(len(values), dtype=np.float32)
    return values * torch.from_numpy((drawn >= p) / np.float32(1 - p)).to(values)


def _linear(input, weight, bias=None):
    product = input @ weight.t()
    return product if bias is None else product + bias


def _values(argument):
    return argument.values if isinstance(argument, SparseFeatures) else argument


def _dense(argument):
    if isinstance(argument, (list, tuple)):
        return type(argument)(map(_dense, argument))
    return argument.to_dense() if isinstance(argument, SparseFeatures) else argument
