"""Rows of codes of a few bits, one a node, that are written and read some at a time."""

from __future__ import annotations

import torch

from numba_kernels.layout import dense_bytes


class KeptRows:
    """Codes of ``bits`` each, ``columns`` a row, packed as :mod:`numba_kernels.layout` says, without padding.

    Parameters
    ----------
    rows, columns : int
    bits : int
        1, 2, 4 or 8.
    device : torch.device
    has_powers : bool
        Whether a row has a power of two, 1 or less, of its own: a byte more.
    """

    def __init__(self, rows: int, columns: int, bits: int, device, has_powers: bool = False):
        self.columns, self.bits = columns, bits
        self.packed = torch.zeros(rows, dense_bytes(columns, bits), dtype=torch.uint8, device=device)
        self.halvings = torch.zeros(rows if has_powers else 0, dtype=torch.uint8, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return self.packed.numel() + self.halvings.numel()

    def write(self, rows: torch.Tensor | slice, codes: torch.Tensor, powers: torch.Tensor | None = None) -> None:
        """Keep ``codes``, (rows, columns), whole numbers, and ``powers``, (rows, 1), where rows have them."""
        planes, width = 8 // self.bits, self.packed.shape[1]
        spread = codes.new_zeros(len(codes), planes * width, dtype=torch.uint8)
        spread[:, : self.columns] = codes.to(torch.uint8)
        packed = spread[:, :width].clone()
        for plane in range(1, planes):
            packed |= spread[:, plane * width : (plane + 1) * width] << (plane * self.bits)
        self.packed[rows] = packed
        if powers is not None:
            self.halvings[rows] = (-powers.flatten().log2()).round().to(torch.uint8)

    def read(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Codes, (rows, columns), and powers, (rows, 1), or None; float32."""
        packed, mask = self.packed[rows], (1 << self.bits) - 1
        planes = [packed >> (plane * self.bits) & mask for plane in range(8 // self.bits)]
        codes = torch.cat(planes, 1)[:, : self.columns].float()
        if not len(self.halvings):
            return codes, None
        halvings = self.halvings[rows].int()
        return codes, torch.ldexp(torch.ones_like(codes[:, 0]), -halvings).unsqueeze(1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors they consist of."""
        return {"packed": self.packed, "halvings": self.halvings}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what :meth:`state_dict` gave."""
        for name, own in self.state_dict().items():
            if state[name].shape != own.shape:
                raise ValueError(f"{name} has shape {tuple(state[name].shape)}, not {tuple(own.shape)}")
            own.copy_(state[name])
