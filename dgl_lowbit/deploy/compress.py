"""Features to codes."""

from __future__ import annotations

from numba_kernels.codebook import learned_codewords
from numba_kernels.fitting import fitted_grid
from numba_kernels.functional import encoded
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

    Exactly one of ``bits``, ``codebook`` and ``like`` says how. Features are read some thousand rows at a time.

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
    store = FeatureStore(_run_plain(_coded, (feat, bits, codebook, granularity, like, seed), {}))
    return store if path is None else FeatureStore.load(store.save(path))


def _coded(feat, bits, codebook, granularity, like, seed):
    if codebook is not None:
        return learned_codewords(feat, codebook, seed=seed)
    if like is None:
        return encoded(feat, fitted_grid(feat, bits, granularity))
    spec, width = _grid_of(like), feat.shape[1]
    columns = getattr(spec, "columns", 1)
    if columns not in (1, width):
        raise ValueError(f"the grid has {columns} columns, features have {width}.")
    return encoded(feat, spec)


def _grid_of(like):
    if isinstance(like, GridSpec):
        return like
    if not isinstance(like, PackedModel):
        raise ValueError(f"like must be a packed model or a grid, got {type(like).__name__}.")
    grids = like.feature_grids()
    if len(grids) != 1:
        raise ValueError(f"the model codes features on {len(grids)} grids; pass one of its feature_grids().")
    return next(iter(grids.values()))
