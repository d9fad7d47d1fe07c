"""Bicubic upscaling as a network without weights, the baseline in tables."""

from __future__ import annotations

import torch
from torch import nn

from sr_train.resampling import Arithmetic, check_arithmetic, imresize, imresize_torch


class Bicubic(nn.Module):
    """MATLAB's bicubic ``imresize``: [B, C, h, w] in [0, 1] -> [B, C, scale * h, scale * w] in [0, 1].

    Args:
        scale: HR pixels per LR pixel along a side.
        arithmetic: name of the rounding rules, see :mod:`sr_train.resampling`. ``uint8`` and ``uint8_replicate``
            reproduce MATLAB's results for uint8 images.
        image_channels: number of channels C of the images that commands give to this baseline. Each channel is upscaled
            on its own.
    """

    multiple_of = 1

    def __init__(self, *, scale: int, arithmetic: Arithmetic = "float", image_channels: int = 3) -> None:
        super().__init__()
        check_arithmetic(arithmetic)
        self.scale, self.image_channels = scale, image_channels
        self.arithmetic: Arithmetic = arithmetic

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Upscale; see the class for shapes."""
        if self.arithmetic == "float":
            return imresize_torch(lr.double(), self.scale).clamp(0, 1)
        pixels = torch.floor(lr.double() * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        large = [torch.as_tensor(imresize(p, self.scale, arithmetic=self.arithmetic)) for p in pixels]
        return torch.stack(large).permute(0, 3, 1, 2).to(lr.device).double() / 255
