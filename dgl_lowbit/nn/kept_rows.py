"""Rows of codes of a few bits, one a node, that are written and read some at a time."""

from __future__ import annotations

import torch

from numba_kernels.layout import dense_bytes

# Parts of a doubling that factors of rows are told apart by.
_PARTS = 4
# The exponent of rows of zeros.
_NOTHING = -128
_TINY = torch.finfo(torch.float32).tiny


class KeptRows:
    """Codes of ``bits`` each, ``columns`` a row, and a factor of each row, 2^(n/4) with n of 8 bits, 0 for the least.

    Parameters
    ----------
    rows, columns : int
    bits : int
        1, 2, 4 or 8.
    device : torch.device
    """

    def __init__(self, rows: int, columns: int, bits: int, device):
        self.columns, self.bits = columns, bits
        self.packed = torch.zeros(rows, dense_bytes(columns, bits), dtype=torch.uint8, device=device)
        self.exponents = torch.zeros(rows, dtype=torch.int8, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return self.packed.numel() + self.exponents.numel()

    def write(self, rows: torch.Tensor | slice, codes: torch.Tensor, exponents: torch.Tensor | None = None) -> None:
        """Keep ``codes``, (rows, columns), whole numbers; ``exponents`` are n of each row, (rows,), by default 0."""
        planes, width = 8 // self.bits, self.packed.shape[1]
        spread = codes.new_zeros(len(codes), planes * width, dtype=torch.uint8)
        spread[:, : self.columns] = codes.to(torch.uint8)
        packed = torch.zeros_like(spread[:, :width])
        for plane in range(planes):
            packed |= spread[:, plane * width : (plane + 1) * width] << (plane * self.bits)
        self.packed[rows] = packed
        self.exponents[rows] = 0 if exponents is None else exponents.to(torch.int8)

    def read(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes, (rows, columns), and factors, (rows, 1), float32."""
        packed, mask = self.packed[rows], (1 << self.bits) - 1
        planes = [packed >> (plane * self.bits) & mask for plane in range(8 // self.bits)]
        codes = torch.cat(planes, 1)[:, : self.columns].float()
        return codes, exponential(self.exponents[rows]).unsqueeze(1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors they consist of."""
        return {"packed": self.packed, "exponents": self.exponents}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.packed.copy_(state["packed"])
        self.exponents.copy_(state["exponents"])


def exponential(exponents: torch.Tensor) -> torch.Tensor:
    """2^(n/4), float32, of whole powers exact; 0 for the least n."""
    doublings = exponents.div(_PARTS, rounding_mode="floor")
    part = torch.exp2((exponents - doublings * _PARTS).float() / _PARTS)
    return torch.ldexp(part, doublings.int()).masked_fill_(exponents == _NOTHING, 0.0)


def exponents_of(factors: torch.Tensor) -> torch.Tensor:
    """The smallest n of each of ``factors``, from 0 on, for which 2^(n/4) is no less, as far as 8 bits go, int8."""
    return (_PARTS * factors.log2()).sub_(1e-3).ceil_().clamp_(_NOTHING, 127).to(torch.int8)


class KeptGradients(KeptRows):
    """Rows of small numbers on the grid without zero, by chance rounded up or down so that their mean is kept.

    A row's step is the smallest 2^(n/4) whose outermost code its largest magnitude does not exceed. Rows start at 0.
    """

    def __init__(self, rows, columns, bits, device):
        super().__init__(rows, columns, bits, device)
        self.exponents.fill_(_NOTHING)

    def put(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Keep ``values``, (rows, columns)."""
        half = ((1 << self.bits) - 1) / 2
        largest = values.abs().amax(1)
        exponents = exponents_of(largest / half)
        place = values / exponential(exponents).unsqueeze(1).clamp_min_(_TINY) + half
        codes = (place + torch.rand_like(place)).floor_().clamp_(0, 2 * half)
        self.write(rows, codes, exponents)

    def values(self, rows: torch.Tensor) -> torch.Tensor:
        """What is kept of ``rows``, (rows, columns)."""
        codes, factors = self.read(rows)
        return (codes - ((1 << self.bits) - 1) / 2) * factors
