"""Layers with equalised learning rate (Karras et al. 2018): the stored weight is scaled at run time."""

import math

import torch
from torch import Tensor, nn

from hyperinverter.ops.activation import leaky_relu


class EqualLinear(nn.Module):
    """Linear layer whose stored weight is multiplied by ``lr_multiplier / sqrt(in)`` when used.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        activate: Finish with leaky ReLU (0.2) times sqrt(2).
        lr_multiplier: Scales the learning speed of weight and bias.
        bias_init: Starting value of the effective bias.
        gain: Times the output, before an activation.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activate: bool = False,
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))
        self.activate = activate
        self.weight_gain = gain * lr_multiplier / math.sqrt(in_features)
        self.bias_gain = gain * lr_multiplier

    def forward(self, x: Tensor, residual: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Map ``(B, in)`` to ``(B, out)``.

        ``residual`` ``(B, out, in)`` is added to the stored weight, ``shift`` ``(B, out)`` to the stored bias.
        """
        bias = self.bias if shift is None else self.bias + shift
        # weight and bias are read once, not scaled first
        out = torch.addmm(bias, x, self.weight.T, beta=self.bias_gain, alpha=self.weight_gain)
        if residual is not None:
            out = out + torch.bmm(residual, x[:, :, None])[:, :, 0] * self.weight_gain
        return leaky_relu(out) if self.activate else out
