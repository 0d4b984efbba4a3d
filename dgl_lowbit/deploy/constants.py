"""The arrays of a plan: packed weights, and numbers of quantisers, biases and norms."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch

from numba_kernels import pack
from numba_kernels.layout import dense_bytes
from numba_kernels.spec import GridSpec

from ..quant import Quantizer


class Constants:
    """Arrays by name, each stored once however often it is asked for.

    Parameters
    ----------
    grid_of : callable
        Gives the grid of a quantiser of activations. Default: what it exports.

    Attributes
    ----------
    arrays : dict of str to numpy.ndarray
    """

    def __init__(self, grid_of: Callable[[Quantizer], GridSpec] = lambda own: own.export()):
        self.arrays, self._names, self._quantizers = {}, {}, {}
        self._grid_of = grid_of

    def numbers(self, values):
        """A float32 array as a number if it holds only one, else by name."""
        array = np.array(values, np.float32).reshape(-1)
        if (array == array[0]).all():
            return float(array[0])
        return self.store(array)

    def store(self, array):
        """The name of an array; one of the same content keeps its name."""
        content = hashlib.sha256(np.ascontiguousarray(array)).digest()
        name = self._names.setdefault((array.dtype.str, array.shape, content), f"a{len(self.arrays)}")
        self.arrays.setdefault(name, array)
        return name

    def array(self, tensor):
        """The name of a tensor that array functions read."""
        kind = np.float32 if tensor.is_floating_point() else np.bool_ if tensor.dtype == torch.bool else np.int64
        return self.store(tensor.detach().cpu().numpy().astype(kind))

    def quantizer(self, quantizer):
        """The plan's entry for a quantiser of activations."""
        if quantizer not in self._quantizers:
            self._quantizers[quantizer] = self._grid_of(quantizer).to_json(self.numbers)
        return self._quantizers[quantizer]

    def weight(self, quantizer, weight, columns=slice(None)):
        """The plan's entry for some columns of a quantised weight, (in, out)."""
        weight = weight.detach()
        codes, bits = quantizer.codes(weight)[:, columns].t().cpu().numpy(), quantizer.format.storage_bits
        M, K = codes.shape
        scale, zero_point, _ = (part.detach().flatten().cpu().numpy() for part in quantizer.qparams(weight))
        numbers = {"scale": scale, "zero_point": zero_point}
        numbers = {key: array[columns] if len(array) > 1 else array for key, array in numbers.items()}
        levels = {} if quantizer.levels is None else {"levels": quantizer.levels}
        return {
            "bits": bits,
            "shape": [K, M],
            "codes": self.store(pack(np.ascontiguousarray(codes), bits, dense_bytes(K, bits))),
            **{key: self.numbers(value) for key, value in numbers.items()},
            **levels,
        }
