"""The atom-wise layer: a dense layer applied to every atom."""

# T copies, A atoms

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpsearch.kernels.products import stacked_linear


class AtomWise(nn.Module):
    """F'_u = Σ_u' F_u' W_u'u / sqrt(fan_in) + b_u, for each of T copies (section 2).

    Stored weights are unit-normal and are scaled when they are used. So the size of Adam's steps
    relative to the stored weights is the same in every layer. Biases start at zero.

    Args:
        copies: T, independent layers.
        fan_in: input features.
        fan_out: output features.
        bias: whether there is a bias.
        gain: factor on the output before the bias is added.
    """

    def __init__(
        self, copies: int, fan_in: int, fan_out: int, *, bias: bool, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(copies, fan_out, fan_in))
        self.bias = nn.Parameter(torch.zeros(copies, 1, fan_out)) if bias else None
        self.scale = gain * max(fan_in, 1) ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        """``[T or 1, A, fan_in]`` to ``[T, A, fan_out]``."""
        return stacked_linear(x, self.weight, self.scale, self.bias)
