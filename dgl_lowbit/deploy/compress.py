"""Features to codes."""

from __future__ import annotations

import warnings

from numba_kernels.codebook import coded_parts, learned_book
from numba_kernels.fitting import fitted_grid
from numba_kernels.functional import encoded_parts
from numba_kernels.run.code_file import save_parts
from numba_kernels.run.coded import are_read_once, joined
from numba_kernels.spec import GridSpec

from .errors import ArgumentsError
from .packed import PackedModel, _plain, _run_plain
from .store import FeatureStore


def compress(
    feat,
    bits: int | None = None,
    *,
    codebook: int | None = None,
    granularity: str = "row",
    like=None,
    path=None,
    seed=0,
) -> FeatureStore:
    """Features as codes of some bits, or as words of a codebook.

    Exactly one of ``bits``, ``codebook`` and ``like`` says how. Features are read some thousand rows at a time, and
    codes that go to a ``path`` are written as they are made: neither is in memory as a whole.

    Parameters
    ----------
    feat : (N, D) float tensor or array
        Also a ``numpy.memmap``.
    bits : {1, 2, 3, 4, 8}, optional
        Codes on a grid whose range has the least squared error of those tried; rows of 3 bits are kept as of 4.
    codebook : int, optional
        Product quantisation: a byte for as many columns, the number of one of 256 words, learned by k-means. 4 columns
        are 2 bits a number.
    granularity : {"row", "channel", "tensor"}
        With ``bits``: a scale a row, 8 bytes beside it; one a column, or one.
    like : PackedModel or grid, optional
        The grid that a packed model codes its first features on, so that it takes the store's codes as they are.
    path : path-like, optional
        Where the store is written; it is then mapped from there. Default: it stays in memory.
    seed : int
        Of the codebook.

    Returns
    -------
    FeatureStore

    Raises
    ------
    ValueError
        When not exactly one way is asked for, for one that there is not, and for a model without such a grid.
    DGLError
        For features that are no matrix of finite floats.
    """
    if sum(way is not None for way in (bits, codebook, like)) != 1:
        raise ValueError("say how features are compressed by one of bits=, codebook= and like=.")
    feat = _plain(feat, "feat")
    if getattr(getattr(feat, "dtype", None), "kind", None) != "f" or feat.ndim != 2 or not feat.size:
        raise ArgumentsError("feat must be a matrix of floats, (nodes, width), with at least a row and a column.")
    return _run_plain(_stored, (feat, bits, codebook, granularity, like, seed, path), {})


def _stored(feat, bits, codebook, granularity, like, seed, path):
    if codebook is not None:
        parts = coded_parts(feat, learned_book(feat, codebook, seed=seed))
    else:
        grid = fitted_grid(feat, bits, granularity) if like is None else _grid_of(like, feat.shape[1])
        parts = encoded_parts(feat, grid)
    if path is None:
        return FeatureStore(joined(list(parts)))
    return FeatureStore.load(save_parts(parts, len(feat), path))


def _grid_of(like, width):
    """The grid of a model, or that is given, which must fit features of a ``width``."""
    spec = like if isinstance(like, GridSpec) else _first_grid(like)
    columns = getattr(spec, "columns", 1)
    if columns not in (1, width):
        raise ValueError(f"the grid has {columns} columns, features have {width}.")
    return spec


def _first_grid(like):
    if not isinstance(like, PackedModel):
        raise ValueError(f"like must be a packed model or a grid, got {type(like).__name__}.")
    grids = like.feature_grids()
    if len(grids) != 1:
        raise ValueError(f"the model codes features on {len(grids)} grids; pass one of its feature_grids().")
    if not are_read_once(like.plan):
        warnings.warn(
            "the model reads its features on several grids, or as they are; codes on one of them are decoded for the "
            "others, so that results are not those of the features to the bit.", stacklevel=4,
        )  # fmt: skip
    return next(iter(grids.values()))
