"""Products of coded rows with a matrix for each of several types, computed where they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..quant.scaled import scaled

if TYPE_CHECKING:
    from .ops import Quantized

# Values that a range is taken from; of more, rows in even strides and those with the extremes.
_MOST_OBSERVED = 1 << 22


class TypedProducts:
    """Products of each row of ``codes``, (rows, in), with each of ``weights``, (types, in, out), quantised together.

    All of them would be rows · types vectors; a graph sends as many as there are pairs of source node and edge type.
    """

    def __init__(self, codes: Quantized, quantizer, weights: torch.Tensor):
        self.codes, (self.types, width, self.out) = codes, weights.shape
        self.rows = len(codes.centered)
        centered, scale = quantizer.split(weights.transpose(0, 1).reshape(width, self.types * self.out))
        self.matrices = centered.view(width, self.types, self.out).unbind(1)
        self.scales = scale.expand(1, self.types * self.out).view(self.types, self.out).unbind(0)

    def of(self, number: int, chosen: slice | torch.Tensor) -> torch.Tensor:
        """Products of some of the rows with the matrix of one type, (chosen, out)."""
        part = self.codes.rows(chosen)
        return scaled(torch.matmul(part.centered, self.matrices[number]), part.scale, self.scales[number])

    def at(self, places: torch.Tensor) -> torch.Tensor:
        """Products by place, type · rows + row, in ascending order: (places, out)."""
        counts = torch.bincount(places // max(self.rows, 1), minlength=self.types).tolist()
        rows = (places % max(self.rows, 1)).split(counts)
        return torch.cat([self.of(number, chosen) for number, chosen in enumerate(rows)])

    @torch.no_grad()
    def sample(self) -> torch.Tensor:
        """Products that show the range of all: all of them while these are few, else some of them and the extremes.

        So a range does not hang on which edges a graph has.
        """
        total = self.rows * self.types
        if total * self.out <= _MOST_OBSERVED:
            return torch.cat([self.of(number, slice(None)) for number in range(self.types)])
        stride = -(-2 * total * self.out // _MOST_OBSERVED)
        device = self.codes.centered.device
        parts = [self.at(torch.arange(0, total, stride, device=device))]
        for sign in (1, -1):
            most = torch.full((self.out,), -torch.inf, device=device)
            rows = torch.zeros(self.out, self.out, device=device)
            for number in range(self.types):
                products = self.of(number, slice(None))
                largest, row = (sign * products).max(0)
                better = largest > most
                most, rows[better] = torch.where(better, largest, most), products[row[better]]
            parts.append(rows)
        return torch.cat(parts)


def meet_by_type(quantizer, weights: torch.Tensor, codes: Quantized, types: torch.Tensor, rows=None) -> None:
    """Say which rows of ``codes`` are about to be multiplied by each of ``weights``, (types, in, out).

    ``types`` are those of all rows, or of ``rows``.
    """
    if quantizer.watch_product is None:
        return
    out = weights.shape[2]
    for number, weight in enumerate(weights):
        chosen = (types == number).nonzero().flatten()
        inputs = codes.rows(chosen if rows is None else rows[chosen])
        quantizer.meets(weight, [inputs], slice(number * out, (number + 1) * out))
