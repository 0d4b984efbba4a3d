"""Low-bit linear layer."""

from __future__ import annotations

from torch import nn

from .arguments import Role, roles
from .base import LowBitLayer, register_layer
from .checks import check_features
from .operands import Operand


@register_layer
class Linear(LowBitLayer, nn.Linear):
    r"""``torch.nn.Linear`` with quantised inputs and weights.

    .. math:: y = s_x s_w \sum_k (q_x - z_x)(q_w - z_w) + b

    Parameters
    ----------
    in_features, out_features, bias, device, dtype
        As in ``torch.nn.Linear``.
    config : QuantConfig, optional
        Components used: inputs, weights, outputs. Default: None, exactly ``torch.nn.Linear``.

    Examples
    --------
    >>> import torch
    >>> from dgl_lowbit import QuantConfig
    >>> Linear(8, 3, config=QuantConfig(4))(torch.ones(5, 8)).shape
    torch.Size([5, 3])
    """

    float_class = nn.Linear
    arguments = roles(input=Role.FEATURES)

    @property
    def has_integers(self) -> bool:
        return True

    def operands(self):
        return {
            "inputs": Operand("inputs", self.in_features),
            "weights": Operand("weights", self.out_features, axis=1),
            "outputs": Operand("outputs", self.out_features),
        }

    def validate(self, input):
        check_features(self, input, self.in_features, None, what="input")

    def compute(self, ops, input):
        """Shapes: input (N, …, in_features) float, output (N, …, out_features).

        Raises
        ------
        DGLError
            When low-bit and ``input`` has another width, is not floating point, or holds NaN or infinity.
        """
        q = self.quantizers
        y = ops.product(ops.quantize(q["inputs"], input), q["weights"], self.weight.t())
        return ops.requantize(q["outputs"], ops.bias(y, self.bias))
