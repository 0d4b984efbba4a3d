"""Features as codes: in memory or in a file, decoded by rows where DGL's loaders ask for them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from dgl import DGLGraph
from dgl.storages import FeatureStorage

from numba_kernels import Codes, GraphError
from numba_kernels.codebook import Codewords
from numba_kernels.run.code_file import load_codes, save_codes
from numba_kernels.run.coded import of_rows, slice_of

from .errors import ArgumentsError

_ROWS = 1 << 14  # that are decoded at a time


class FeatureStore(FeatureStorage):
    """Rows of features, kept as codes; made by :func:`dgl_lowbit.compress` or :meth:`load`.

    ``store[rows]`` is a float32 tensor. :func:`dgl_lowbit.fit` and :func:`dgl_lowbit.train` take it as ``feat=``. As a
    ``dgl.storages.FeatureStorage`` it serves DGL's loaders, see :meth:`attach`. A packed model takes it, or
    :meth:`codes`, in the place of features, and where its first quantiser's grid is the store's nothing is decoded.

    Parameters
    ----------
    coded : numba_kernels.Codes or Codewords

    Raises
    ------
    TypeError
        For anything else.

    Attributes
    ----------
    coded
    bytes_fetched : int
        Bytes of codes that were read by rows so far.
    """

    def __init__(self, coded):
        if not isinstance(coded, (Codes, Codewords)):
            raise TypeError(
                f"a store holds Codes or Codewords, got {type(coded).__name__}; compress makes one of features."
            )
        self.coded, self.bytes_fetched = coded, 0

    @property
    def shape(self) -> torch.Size:
        """(N, D)."""
        return torch.Size(self.coded.shape)

    dtype, device = torch.float32, torch.device("cpu")

    def __len__(self):
        return self.coded.shape[0]

    @property
    def row_bytes(self) -> int:
        """Bytes that a row takes, with a scale of its own."""
        return self.coded.row_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, without what they share."""
        return len(self) * self.row_bytes

    def codes(self, rows=None):
        """Codes of some rows, by number, as a mask or a slice; default: all. Slices are not copied, nor are all.

        Returns
        -------
        numba_kernels.Codes or Codewords

        Raises
        ------
        DGLError
            For rows that there are not.
        """
        if rows is None:
            return self.coded
        try:
            rows = rows.cpu() if isinstance(rows, torch.Tensor) else rows
            taken = slice_of(self.coded, rows) if isinstance(rows, slice) else self.coded.rows(rows)
        except GraphError as error:
            raise ArgumentsError(str(error)) from error
        self.bytes_fetched += taken.shape[0] * self.row_bytes
        return taken

    def __getitem__(self, rows) -> torch.Tensor:
        """(n, D) float32 features of rows: numbers, a mask, or a slice."""
        taken = self.codes(rows)
        values = np.empty(taken.shape, np.float32)
        for start in range(0, len(values), _ROWS):  # what is between codes and values takes little
            part = slice(start, start + _ROWS)
            values[part] = slice_of(taken, part).values()
        return torch.from_numpy(values)

    def fetch(self, indices, device, pin_memory=False, **kwargs) -> torch.Tensor:
        """What DGL's loaders call: rows of features, on ``device``."""
        found = self[indices]
        return (found.pin_memory() if pin_memory else found).to(device, **kwargs)

    def attach(self, graph: DGLGraph, key: str = "feat", ntype: str | None = None) -> DGLGraph:
        """A graph that is ``graph`` but for node features ``key``, which loaders fetch from here.

        Give it to ``dgl.dataloading.DataLoader`` with a sampler that has ``prefetch_node_feats=[key]``: input nodes of
        blocks then have decoded features. Frames are shared with ``graph``, which stays as it is.

        Raises
        ------
        DGLError
            When the store has not a row for each node.
        """
        if graph.num_nodes(ntype) != len(self):
            raise ArgumentsError(f"the store has {len(self)} rows for {graph.num_nodes(ntype)} nodes.")
        attached, kept = graph.local_var(), graph.get_node_storage
        own = graph.get_ntype_id(ntype)

        def storage(name, node_type=None):
            is_here = name == key and graph.get_ntype_id(node_type) == own
            return self if is_here else kept(name, node_type)

        attached.get_node_storage = storage
        return attached

    def digest(self) -> str:
        """A digest of all rows and of what they share, in hexadecimal digits: what tells a store from others."""
        coded = self.coded
        of_all = [coded.book] if isinstance(coded, Codewords) else [coded.scale, coded.zero]
        digest = hashlib.blake2b(repr(self).encode(), digest_size=6)
        for part in (*of_rows(coded).values(), *of_all):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    # -- records ----------------------------------------------------------------------------------------
    def records(self, rows=None) -> torch.Tensor:
        """Codes of rows with what each has of its own behind them, (n, :attr:`row_bytes`) uint8.

        They are what a ``dgl.distributed.DistTensor`` holds: bytes, one tensor, fetched by rows and read by
        :meth:`decode`.
        """
        taken = self.codes(rows)
        return torch.from_numpy(np.concatenate([_bytes_of(part) for part in of_rows(taken).values()], axis=1))

    def decode(self, records: torch.Tensor) -> torch.Tensor:
        """(n, D) float32 features of :meth:`records`, wherever they were kept.

        Raises
        ------
        DGLError
            For other bytes than a row of this store has.
        GraphError
            For a row that names a word which the book of codewords has not.
        """
        if records.dtype != torch.uint8 or records.dim() != 2 or records.shape[1] != self.row_bytes:
            raise ArgumentsError(f"records are (n, {self.row_bytes}) uint8, got {records.dtype} {(*records.shape,)}.")
        given, coded, start, parts = records.cpu().numpy(), self.coded, 0, []
        for part in of_rows(coded).values():
            width = part.itemsize * (part.shape[1] if part.ndim == 2 else 1)
            taken = np.ascontiguousarray(given[:, start : start + width]).view(part.dtype)
            parts.append(taken if part.ndim == 2 else taken[:, 0])
            start += width
        if isinstance(coded, Codewords):
            return torch.from_numpy(Codewords(parts[0], coded.book, coded.columns).values())
        shared = () if coded.grid.per_row else (coded.scale, coded.zero)
        packed, *own = parts
        return torch.from_numpy(Codes(packed, coded.grid, *(own or shared)).values())

    # -- files ------------------------------------------------------------------------------------------
    def save(self, path) -> Path:
        """Write the store to ``path``, a safetensors file, whole or not at all."""
        return save_codes(self.coded, path)

    @classmethod
    def load(cls, path, check: bool = False) -> FeatureStore:
        """The store in a file, mapped: rows are read from disk when they are asked for.

        Parameters
        ----------
        path : path-like
        check : bool
            Whether all rows are read and their SHA-256 compared; everything else of the file always is.

        Raises
        ------
        FileNotFoundError, numba_kernels.ModelFileError
            When there is no such file, or it is not a whole one.
        """
        return cls(load_codes(path, check))

    def __repr__(self):
        kind = "words" if isinstance(self.coded, Codewords) else f"{self.coded.grid.spec.bits} bits"
        return f"FeatureStore({len(self):,} × {self.shape[1]} of {kind}, {self.nbytes:,} bytes)"


def _bytes_of(array):
    return np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)
