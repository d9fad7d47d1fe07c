"""Loss in the frequency domain."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn


class FocalFrequencyLoss(nn.Module):
    """Focal frequency loss (Jiang et al. 2021, eqs. 8 and 9): sr and hr, [B, C, H, W] each in [0, 1] -> scalar.

    With F the orthonormal 2D Fourier transform of each channel and d = |F(sr) - F(hr)|, the loss is the mean over
    frequencies, channels and batch of w d^2. The weight w = d^alpha, divided by its largest value in the channel, is large
    for frequencies that are still wrong. It gets no gradient. Everything is computed in float32, also under autocast.

    Args:
        alpha: exponent of the weight; 1 in the paper. With 0, all frequencies have the weight 1, and the loss is the mean
            squared error of the pixels.
    """

    def __init__(self, *, alpha: float = 1.0) -> None:
        super().__init__()
        if not alpha >= 0:
            raise ValueError(f"alpha={alpha}: expected a number of at least 0")
        self.alpha = alpha

    def forward(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Return the loss; see the class."""
        with torch.autocast(sr.device.type, enabled=False):
            difference: torch.Tensor = cast("Any", torch.fft).fft2(sr.float() - hr.float(), norm="ortho")
            square = difference.real**2 + difference.imag**2
            with torch.no_grad():
                weight = square.sqrt() ** self.alpha
                weight = weight / weight.amax((-2, -1), keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
            return (weight * square).mean()
